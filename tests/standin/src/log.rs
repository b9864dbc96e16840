//! The service log and the access log.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::failure::Failure;
use crate::live::now;
use crate::settings::LogTarget;

/// Writes lines to standard output or a file. Clones write to the same place.
#[derive(Debug, Clone)]
pub struct Log(Option<Arc<Mutex<Target>>>);

#[derive(Debug)]
enum Target {
    Stdout,
    File(File),
}

impl Log {
    /// Opens the target; a file is made with mode 0600, its directory as needed.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(target: &LogTarget) -> Result<Self, Failure> {
        let target = match target {
            LogTarget::Stdout => Target::Stdout,
            LogTarget::File(path) => {
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(Failure::file("create", parent))?;
                }
                let file = File::options()
                    .append(true)
                    .create(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(Failure::file("open", path))?;
                Target::File(file)
            }
        };
        Ok(Log(Some(Arc::new(Mutex::new(target)))))
    }

    /// Writes nowhere.
    #[must_use]
    pub fn silent() -> Self {
        Log(None)
    }

    /// A message of level info.
    pub fn info(&self, message: &str) {
        self.line(&format!("time=\"{}\" level=info msg={message:?}", now()));
    }

    /// A message of level error.
    pub fn error(&self, message: &str) {
        self.line(&format!("time=\"{}\" level=error msg={message:?}", now()));
    }

    /// A line as it is. A log that cannot be written stops nothing.
    pub fn line(&self, line: &str) {
        let Some(target) = &self.0 else { return };
        let mut target = target.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = match &mut *target {
            Target::Stdout => writeln!(std::io::stdout(), "{line}"),
            Target::File(file) => writeln!(file, "{line}"),
        };
    }
}
