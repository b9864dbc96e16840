//! Reading a runbook's file.

use super::diagnostics::{Diagnostic, Diagnostics, nearest};
use super::{MAX_RUNBOOK_BYTES, Runbook};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why there is no runbook.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunbookError {
    /// No such file.
    #[error("there is no runbook {path}{}", did_you_mean(.nearest.as_deref(), path))]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// A runbook beside it whose name is near.
        nearest: Option<String>,
    },
    /// A folder, a device, a pipe.
    #[error("could not read the runbook {path}: it is {found}, not a file; give the path of a `.toml` file")]
    NotAFile {
        /// What was looked at.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// It cannot be read.
    #[error("could not read the runbook {path}: {why}; run `namei -l {path}` to see who may read it")]
    Unreadable {
        /// What was looked at.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// Larger than [`MAX_RUNBOOK_BYTES`].
    #[error(
        "could not read the runbook {path}: it is larger than {MAX_RUNBOOK_BYTES} bytes; is this the right file?"
    )]
    TooLarge {
        /// What was looked at.
        path: PathBuf,
    },
    /// Not text.
    #[error("could not read the runbook {path}: line {line} is not UTF-8; save the file as UTF-8")]
    NotUtf8 {
        /// What was looked at.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// It has mistakes.
    #[error("{0}")]
    Invalid(Diagnostics),
}

fn did_you_mean(nearest: Option<&str>, path: &Path) -> String {
    match nearest {
        Some(name) => format!("; did you mean `{name}`?"),
        None => {
            let name = path.file_stem().map(|name| name.to_string_lossy()).unwrap_or_default();
            format!("; `connect-migrator init {name}` looks at this host and writes it")
        }
    }
}

impl Runbook {
    /// Reads and parses a runbook.
    ///
    /// # Errors
    /// When the file is missing, no file, unreadable, larger than [`MAX_RUNBOOK_BYTES`], not UTF-8, or has mistakes.
    pub fn load(path: &Path) -> Result<Runbook, RunbookError> {
        let text = Runbook::read(path)?;
        Runbook::parse(&path.display().to_string(), &text).map_err(RunbookError::Invalid)
    }

    /// Reads the text, whatever its mistakes.
    ///
    /// # Errors
    /// As [`Runbook::load`], but for mistakes.
    pub fn read(path: &Path) -> Result<String, RunbookError> {
        read_text(path)
    }
}

fn read_text(path: &Path) -> Result<String, RunbookError> {
    let unreadable = |why| RunbookError::Unreadable { path: path.into(), why };
    // O_NONBLOCK: opening a pipe must not wait for somebody to write into it.
    let opened = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|why| match why.kind() {
        io::ErrorKind::NotFound => RunbookError::Missing { path: path.into(), nearest: nearest_beside(path) },
        _ => unreadable(why),
    })?;
    let kind = file.metadata().map_err(unreadable)?.file_type();
    if !kind.is_file() {
        let found = if kind.is_dir() {
            "a folder"
        } else if kind.is_fifo() {
            "a pipe"
        } else {
            "a device"
        };
        return Err(RunbookError::NotAFile { path: path.into(), found });
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_RUNBOOK_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > MAX_RUNBOOK_BYTES {
        return Err(RunbookError::TooLarge { path: path.into() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..valid).unwrap_or_default();
        RunbookError::NotUtf8 { path: path.into(), line: before.iter().filter(|b| **b == b'\n').count() + 1 }
    })
}

/// The runbook in the same folder whose name is nearest.
fn nearest_beside(path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let mut names: Vec<String> = std::fs::read_dir(path.parent()?)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort();
    nearest(wanted, names.iter().map(String::as_str)).map(str::to_owned)
}

/// For texts that did not come from a file.
pub(super) fn too_large(file: &str, text: &str) -> Diagnostics {
    let mistake = Diagnostic::new(0..0, format!("the runbook is larger than {MAX_RUNBOOK_BYTES} bytes"));
    Diagnostics::new(file, text, vec![mistake])
}
