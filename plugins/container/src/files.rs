//! Files of ours, written so that a crash leaves either the old or the new one.

use connect_migrator_sdk::StepError;
use nix::fcntl::OFlag;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

fn failed(what: &str, path: &Path, error: &std::io::Error) -> StepError {
    StepError::new(format!("{what} {}", path.display()))
        .because(error)
        .remedy("see that this runs as root and that the disk is neither full nor read-only")
}

/// Makes a folder for root only, and those above it that are missing.
///
/// # Errors
/// When it cannot be made.
pub fn folder(path: &Path) -> Result<(), StepError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| failed("make the folder", path, &error))
}

/// Writes a file as a whole. Answers whether it was different before.
///
/// # Errors
/// When it cannot be written; the old one stands then.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, StepError> {
    if is_same(path, bytes, mode).unwrap_or(false) {
        return Ok(false);
    }
    let new = beside(path);
    let write = || {
        remove_if_there(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        // The mode at creation is cut by the umask.
        file.set_permissions(PermissionsExt::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_folder(path)
    };
    write().map_err(|error| failed("write", path, &error))?;
    Ok(true)
}

/// Whether the file is there already. In a folder that others write to, its name may be a pipe, or a link to what never ends.
fn is_same(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<bool> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() || about.len() != bytes.len() as u64 || about.permissions().mode() & 0o7777 != mode {
        return Ok(false);
    }
    let mut have = Vec::new();
    file.take(bytes.len() as u64 + 1).read_to_end(&mut have)?;
    Ok(have == bytes)
}

/// Makes a symbolic link, or lets an existing one lead elsewhere, in one step.
///
/// # Errors
/// When it cannot be made.
pub fn link(path: &Path, to: &Path) -> Result<(), StepError> {
    let new = beside(path);
    let make = || {
        remove_if_there(&new)?;
        std::os::unix::fs::symlink(to, &new)?;
        fs::rename(&new, path)?;
        sync_folder(path)
    };
    make().map_err(|error| failed("make the link", path, &error))
}

/// Removes a file or link. Answers whether there was one.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(path: &Path) -> Result<bool, StepError> {
    remove_if_there(path).map_err(|error| failed("remove", path, &error))
}

/// Removes a folder of ours with what is in it. Answers whether there was one.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_folder(path: &Path) -> Result<bool, StepError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove the folder", path, &error)),
    }
}

/// Removes the folder above, which we may have made, if nothing else is in it.
pub fn remove_empty_parent(path: &Path) {
    if let Some(parent) = path.parent() {
        // Somebody else's files keep it, which is right.
        let _ = fs::remove_dir(parent);
    }
}

fn remove_if_there(path: &Path) -> std::io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once_with_its_mode_and_a_leftover_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/x");
        folder(path.parent().unwrap()).unwrap();
        fs::write(dir.path().join("a/b/x.new"), "left over").unwrap();
        assert!(write(&path, b"one", 0o600).unwrap());
        assert!(!write(&path, b"one", 0o600).unwrap());
        assert!(write(&path, b"one", 0o640).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o700);
        link(&path.with_file_name("l"), Path::new("/dev/null")).unwrap();
        link(&path.with_file_name("l"), Path::new("/nowhere")).unwrap();
        assert_eq!(fs::read_link(path.with_file_name("l")).unwrap(), Path::new("/nowhere"));
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
        assert!(
            remove_folder(&dir.path().join("a")).unwrap() && !remove_folder(&dir.path().join("a")).unwrap()
        );
    }

    #[test]
    fn a_pipe_or_a_link_that_others_put_there_is_replaced_and_never_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guard");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(write(&path, b"ours", 0o600).unwrap());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(write(&path, b"ours", 0o600).unwrap());
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read(&path).unwrap(), b"ours");
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let error = write(Path::new("/proc/nowhere/x"), b"", 0o600).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere/x"), "{error}");
    }
}
