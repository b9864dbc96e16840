//! What can go wrong, and the few calls in which it does.

use std::path::Path;
use std::process::Command;

/// What was tried, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("could not {0}")]
pub struct Failure(pub String);

/// Tried.
pub type Tried<T = ()> = Result<T, Failure>;

/// Writes a file, and makes its folder.
pub fn write(path: &Path, bytes: &[u8]) -> Tried {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(path, bytes))
        .map_err(|error| Failure(format!("write {}: {error}", path.display())))
}

/// Reads a file.
pub fn read(path: &Path) -> Tried<String> {
    std::fs::read_to_string(path).map_err(|error| Failure(format!("read {}: {error}", path.display())))
}

/// Runs a program and answers what it printed.
pub fn output(what: &str, command: &mut Command) -> Tried<String> {
    let out =
        command.output().map_err(|error| Failure(format!("{what}: {command:?} does not start: {error}")))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    // A linter tells on its standard output.
    let told = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Err(Failure(format!("{what} ({command:?}: {}):\n{told}", out.status)))
}
