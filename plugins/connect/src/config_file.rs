//! Configuration files, written in one act: a reader, or a power cut, meets the old bytes or the new ones, never something between.

use connect_migrator_sdk::StepError;
use rustix::fs::XattrFlags;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The mode of a configuration file that is made new: everyone reads, the owner writes.
const CONFIGURATION_MODE: u32 = 0o644;
/// The mode of what is kept for rollback.
const KEPT_MODE: u32 = 0o600;
/// An extended attribute of a file is never larger (`XATTR_SIZE_MAX`), nor is the list of their names.
const XATTR_MAX_BYTES: usize = 65_536;
/// A configuration file is not larger; what is larger is not read into memory.
const CONFIGURATION_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// Reading or writing failed.
    #[error("could not {what} {}: {why}", path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// Somebody else has changed it in between.
    #[error("{} was changed by somebody else in this very moment; try again", path.display())]
    ChangedMeanwhile {
        /// The file.
        path: PathBuf,
    },
}

impl From<ReplaceError> for StepError {
    fn from(error: ReplaceError) -> Self {
        let (tried, why, remedy) = match &error {
            ReplaceError::Io { what, path, why } => (
                format!("{what} {}", path.display()),
                why.to_string(),
                "see that the file system is writable and has space",
            ),
            ReplaceError::ChangedMeanwhile { path } => (
                format!("change {}", path.display()),
                "somebody else has changed it in this very moment".to_owned(),
                "keep configuration management away from it until the migration is over",
            ),
        };
        StepError::new(tried).because(why).remedy(remedy)
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReplaceError {
    let path = path.to_owned();
    move |why| ReplaceError::Io { what, path, why }
}

/// The bytes of a file.
///
/// # Errors
/// When it cannot be read or is larger than 64 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>, ReplaceError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed("open", path))?;
    file.take(CONFIGURATION_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() as u64 > CONFIGURATION_MAX_BYTES {
        let why = io::Error::other(format!("it is larger than {CONFIGURATION_MAX_BYTES} bytes"));
        return Err(failed("read", path)(why));
    }
    Ok(bytes)
}

/// The bytes of a file, or `None` when there is none.
///
/// # Errors
/// When it exists and cannot be read.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, ReplaceError> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ReplaceError::Io { why, .. }) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces the bytes of an existing file, which must be `expected` until then. Owner, mode and extended attributes (access lists,
/// labels) stay, and so does a symbolic link that leads to it. Returns once the change is on disk.
///
/// # Errors
/// When it cannot be written; the file then has its old bytes.
pub fn replace(path: &Path, expected: &[u8], bytes: &[u8]) -> Result<(), ReplaceError> {
    let path = &followed(path)?;
    let beside = beside(path);
    let result = write_like(path, &beside, bytes).and_then(|()| {
        if read(path)? != expected {
            return Err(ReplaceError::ChangedMeanwhile { path: path.to_owned() });
        }
        std::fs::rename(&beside, path).map_err(failed("replace", path))
    });
    if result.is_err() {
        std::fs::remove_file(&beside).ok();
    }
    result.and_then(|()| sync_folder(path))
}

/// Tries everything that [`replace`] does, except for the last act: finds out whether it would work.
///
/// # Errors
/// As [`replace`].
pub fn rehearse(path: &Path, bytes: &[u8]) -> Result<(), ReplaceError> {
    let path = &followed(path)?;
    let beside = beside(path);
    let result = write_like(path, &beside, bytes);
    std::fs::remove_file(&beside).ok();
    result
}

/// Writes a configuration file of our own, in place of an older one.
///
/// # Errors
/// When it cannot be written.
pub fn create(path: &Path, bytes: &[u8]) -> Result<(), ReplaceError> {
    write_new(path, bytes, CONFIGURATION_MODE)
}

/// Keeps bytes for rollback, readable by root alone.
///
/// # Errors
/// When they cannot be written.
pub fn keep(path: &Path, bytes: &[u8]) -> Result<(), ReplaceError> {
    write_new(path, bytes, KEPT_MODE)
}

/// Removes a file; that it is not there is fine. Answers whether it was.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove(path: &Path) -> Result<bool, ReplaceError> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_folder(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), ReplaceError> {
    let beside = beside(path);
    let written = make(&beside).and_then(|mut file| {
        file.set_permissions(Permissions::from_mode(mode)).map_err(failed("set the mode of", &beside))?;
        finish(&mut file, &beside, bytes)?;
        std::fs::rename(&beside, path).map_err(failed("write", path))
    });
    if written.is_err() {
        std::fs::remove_file(&beside).ok();
    }
    written.and_then(|()| sync_folder(path))
}

/// The file itself, where a symbolic link leads to it.
fn followed(path: &Path) -> Result<PathBuf, ReplaceError> {
    std::fs::canonicalize(path).map_err(failed("find", path))
}

/// The name starts with a dot: patterns of includes do not take it, should a crash leave it behind.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".connect-migrator");
    path.with_file_name(name)
}

fn make(path: &Path) -> Result<File, ReplaceError> {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed("replace", path)(error));
    }
    OpenOptions::new().write(true).create_new(true).mode(KEPT_MODE).open(path).map_err(failed("create", path))
}

fn finish(file: &mut File, path: &Path, bytes: &[u8]) -> Result<(), ReplaceError> {
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", path))
}

fn write_like(model: &Path, path: &Path, bytes: &[u8]) -> Result<(), ReplaceError> {
    let old = File::open(model).map_err(failed("open", model))?;
    let metadata = old.metadata().map_err(failed("read the owner of", model))?;
    let mut file = make(path)?;
    std::os::unix::fs::fchown(&file, Some(metadata.uid()), Some(metadata.gid()))
        .map_err(failed("set the owner of", path))?;
    file.set_permissions(Permissions::from_mode(metadata.mode() & 0o7777))
        .map_err(failed("set the mode of", path))?;
    copy_attributes(&old, &file).map_err(failed("set the extended attributes of", path))?;
    finish(&mut file, path, bytes)
}

fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    let mut names = vec![0_u8; XATTR_MAX_BYTES];
    let length = match rustix::fs::flistxattr(from, names.as_mut_slice()) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    names.truncate(length);
    let mut value = vec![0_u8; XATTR_MAX_BYTES];
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // These are digests of the content; the kernel makes them anew.
        if matches!(name, b"security.ima" | b"security.evm") {
            continue;
        }
        let length = rustix::fs::fgetxattr(from, name, value.as_mut_slice())?;
        rustix::fs::fsetxattr(to, name, value.get(..length).unwrap_or_default(), XattrFlags::empty())?;
    }
    Ok(())
}

fn sync_folder(path: &Path) -> Result<(), ReplaceError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("write", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_keeps_mode_attributes_and_the_link_that_leads_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("real.gcfg"), dir.path().join("link.gcfg"));
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real.gcfg", &link).unwrap();
        let labelled = rustix::fs::setxattr(&path, "user.label", b"kept", XattrFlags::empty());
        replace(&link, b"old", b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        if labelled.is_ok() {
            let mut value = [0_u8; 16];
            let length = rustix::fs::getxattr(&path, "user.label", value.as_mut_slice()).unwrap();
            assert_eq!(&value[..length], b"kept");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_somebody_else_changes_meanwhile_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site");
        std::fs::write(&path, "theirs").unwrap();
        let error = replace(&path, b"old", b"new").unwrap_err();
        assert!(matches!(error, ReplaceError::ChangedMeanwhile { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_beside_a_file_does_not_hinder_the_next_try() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site");
        std::fs::write(&path, "old").unwrap();
        std::fs::write(beside(&path), "half").unwrap();
        rehearse(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        std::fs::write(beside(&path), "half").unwrap();
        replace(&path, b"old", b"new").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own.conf");
        assert!(!remove(&path).unwrap());
        create(&path, b"x").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        assert!(remove(&path).unwrap());
        assert_eq!(read_if_there(&path).unwrap(), None);
    }
}
