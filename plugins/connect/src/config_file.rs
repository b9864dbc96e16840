//! Replacing the configuration file in one act: a reader, or a power cut, meets the old bytes or the new ones.

use rustix::fs::XattrFlags;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// An extended attribute of a file is never larger (`XATTR_SIZE_MAX`), nor is the list of their names.
const XATTR_MAX_BYTES: usize = 65_536;
/// No configuration file is larger.
const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Until owner and mode are those of the old file, only root reads the new one.
const MODE_MEANWHILE: u32 = 0o600;

/// Why the file was not replaced. It has its old bytes then.
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

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReplaceError {
    let path = path.to_owned();
    move |why| ReplaceError::Io { what, path, why }
}

/// The bytes of a file of at most 4 MiB.
///
/// # Errors
/// When it cannot be read, or is larger.
pub fn read(path: &Path) -> Result<Vec<u8>, ReplaceError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed("open", path))?;
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        let why = io::Error::other(format!("it is larger than {FILE_MAX_BYTES} bytes"));
        return Err(failed("read", path)(why));
    }
    Ok(bytes)
}

/// Replaces the bytes of an existing file, which must be `expected` until then. Owner, mode and extended attributes (access lists,
/// labels) stay, and so does a symbolic link that leads to it. Returns once the change is on disk.
///
/// # Errors
/// When it cannot be written; the file then has its old bytes.
pub fn replace(path: &Path, expected: &[u8], bytes: &[u8]) -> Result<(), ReplaceError> {
    let path = &fs::canonicalize(path).map_err(failed("find", path))?;
    let beside = beside(path);
    let result = write_like(path, &beside, bytes).and_then(|()| {
        if read(path)? != expected {
            return Err(ReplaceError::ChangedMeanwhile { path: path.to_owned() });
        }
        fs::rename(&beside, path).map_err(failed("replace", path))
    });
    if result.is_err() {
        fs::remove_file(&beside).ok();
    }
    result?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("write", folder))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".connect-migrator");
    path.with_file_name(name)
}

fn write_like(model: &Path, path: &Path, bytes: &[u8]) -> Result<(), ReplaceError> {
    let old = File::open(model).map_err(failed("open", model))?;
    let metadata = old.metadata().map_err(failed("read the owner of", model))?;
    // What a crash left behind.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", path)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE_MEANWHILE)
        .open(path)
        .map_err(failed("create", path))?;
    std::os::unix::fs::fchown(&file, Some(metadata.uid()), Some(metadata.gid()))
        .map_err(failed("set the owner of", path))?;
    file.set_permissions(Permissions::from_mode(metadata.mode() & 0o7777))
        .map_err(failed("set the mode of", path))?;
    copy_attributes(&old, &file).map_err(failed("set the extended attributes of", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", path))
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
        // Digests of the content, which the kernel makes anew.
        if matches!(name, b"security.ima" | b"security.evm") {
            continue;
        }
        let length = rustix::fs::fgetxattr(from, name, value.as_mut_slice())?;
        rustix::fs::fsetxattr(to, name, value.get(..length).unwrap_or_default(), XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_keeps_mode_attributes_and_the_link_that_leads_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("real.gcfg"), dir.path().join("link.gcfg"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real.gcfg", &link).unwrap();
        let labelled = rustix::fs::setxattr(&path, "user.label", b"kept", XattrFlags::empty());
        replace(&link, b"old", b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        if labelled.is_ok() {
            let mut value = [0_u8; 16];
            let length = rustix::fs::getxattr(&path, "user.label", value.as_mut_slice()).unwrap();
            assert_eq!(&value[..length], b"kept");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_somebody_else_changes_meanwhile_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gcfg");
        fs::write(&path, "theirs").unwrap();
        let error = replace(&path, b"old", b"new").unwrap_err();
        assert!(matches!(error, ReplaceError::ChangedMeanwhile { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
