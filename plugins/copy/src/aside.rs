//! Keeps what a pass would otherwise remove: it is moved to a folder beside, with a list of where it was.

use crate::error::{CopyError, failed};
use crate::folder::is_temporary;
use crate::source::{open_dir, open_root};
use crate::stamp::look_open;
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::{Errno, Result};
use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

/// The list of what is kept: a number, a tab, the path it had.
const LIST: &str = "list";

/// Whether a folder is a file system or a mount of its own: nothing can be renamed from it to a folder beside it.
///
/// # Errors
/// When it, or the folder that it is in, cannot be looked at.
pub fn is_mount_of_its_own(folder: &Path) -> std::result::Result<bool, CopyError> {
    let real = std::fs::canonicalize(folder).map_err(|error| failed("find the folder", folder, error))?;
    let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else { return Ok(true) };
    let parent = open_root(parent)?;
    let look = |errno| failed("look at", folder, errno);
    let name = CString::new(name.as_bytes()).map_err(|_| look(Errno::INVAL))?;
    // A bind mount has the device of what it shows, and a part of btrfs is no mount: only both together tell.
    match open_dir(&parent, &name, false) {
        Err(Errno::XDEV) => Ok(true),
        opened => {
            let device = |dir: &OwnedFd| look_open(dir).map(|seen| seen.device).map_err(look);
            Ok(device(&opened.map_err(look)?)? != device(&parent)?)
        }
    }
}

/// A folder that keeps what was replaced or removed.
#[derive(Debug)]
pub(crate) struct Aside {
    folder: OwnedFd,
    list: Mutex<File>,
    next: AtomicU64,
    /// Names that are ours and not worth keeping begin like this.
    prefix: String,
}

impl Aside {
    pub(crate) fn open(path: &Path, prefix: &str) -> std::result::Result<Self, CopyError> {
        let mut builder = std::fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| failed("make the folder", path, error))?;
        let list = path.join(LIST);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&list)
            .map_err(|error| failed("open", &list, error))?;
        let kept = std::fs::read_dir(path).map_err(|error| failed("list", path, error))?;
        let next = kept
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok())
            .max()
            .map_or(0, |last| last + 1);
        Ok(Aside {
            folder: open_root(path)?,
            list: Mutex::new(file),
            next: AtomicU64::new(next),
            prefix: prefix.into(),
        })
    }

    /// Writes down what will be kept under which number.
    fn announce(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<CString> {
        let number = self.next.fetch_add(1, SeqCst);
        // For people: where a folder stands, as the system tells it.
        let dir = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd())).unwrap_or_default();
        let path = dir.join(OsStr::from_bytes(name.to_bytes()));
        let line = format!("{number}\t{}\n", path.to_string_lossy().escape_debug());
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.write_all(line.as_bytes()).map_err(|_| Errno::IO)?;
        CString::new(number.to_string()).map_err(|_| Errno::INVAL)
    }

    /// Gives what stands under the name a second name here, before something else takes its place.
    pub(crate) fn keep_name(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let kept = self.announce(dir, name)?;
        match rustix::fs::linkat(dir, name, &self.folder, &kept, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            done => done,
        }
    }

    /// Moves what stands under the name here. What is not there counts as moved.
    pub(crate) fn take(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        if is_temporary(name, &self.prefix) {
            return match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Err(Errno::NOENT) => Ok(()),
                done => done,
            };
        }
        let seen = match crate::stamp::look(dir, name) {
            Err(Errno::NOENT) => return Ok(()),
            seen => seen?,
        };
        if seen.kind() == crate::stamp::Kind::Directory {
            return Err(Errno::ISDIR);
        }
        let kept = self.announce(dir, name)?;
        rustix::fs::renameat_with(dir, name, &self.folder, &kept, RenameFlags::NOREPLACE)
    }
}
