//! Folder trees below a folder that unprivileged processes can write to. Everything is reached by file descriptor from the
//! folder above it and no link is followed, so whatever is swapped meanwhile, nothing outside is touched.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, linkat, unlinkat};
use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How deep a tree may be. Two descriptors are open for every level.
pub const DEPTH_MAX: usize = 200;

/// What could not be done with a tree, where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {}: {why}", path.display())]
pub struct TreeError {
    /// `link`, `open`, …
    pub what: &'static str,
    /// The entry, below the folder that was given.
    pub path: PathBuf,
    /// The cause.
    pub why: String,
}

/// What [`mirror`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mirrored {
    /// Entries that were linked or made now.
    pub added: u64,
    /// Entries that were there already.
    pub same: u64,
    /// Entries that are gone from the original, and so from the copy.
    pub removed: u64,
}

/// Opens a folder by its path; the last part may not be a link.
///
/// # Errors
/// When it is not there, not a folder, or a link.
pub fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    openat(AT_FDCWD, path, FOLDER, Mode::empty())
}

/// Opens the folder `name` in `parent`; it may not be a link.
///
/// # Errors
/// When it is not there, not a folder, or a link.
pub fn open_in(parent: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, FOLDER, Mode::empty())
}

const FOLDER: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NONBLOCK);

/// The state of an entry itself, not of what it points to; `None` when it is not there.
///
/// # Errors
/// When it cannot be told.
pub fn state_of(parent: impl AsFd, name: &CStr) -> Result<Option<FileStat>, Errno> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(state) => Ok(Some(state)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an entry is a folder.
#[must_use]
pub fn is_folder(state: &FileStat) -> bool {
    SFlag::from_bits_truncate(state.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

/// Makes `copy/name` the same tree as `from/name`: folders made anew with owner, mode and time of the originals, everything
/// else as further hard links to the same files. Takes what is there already, takes out what the original no longer has.
/// The original may change meanwhile.
///
/// # Errors
/// At the first entry that cannot be mirrored, or as soon as `stop` says so; the copy is then incomplete.
pub fn mirror(
    from: impl AsFd,
    copy: impl AsFd,
    name: &CStr,
    stop: &dyn Fn() -> bool,
) -> Result<Mirrored, TreeError> {
    let mut work = Mirror { path: PathBuf::new(), done: Mirrored::default(), device: None, stop };
    work.entry(from, copy, name)?;
    Ok(work.done)
}

struct Mirror<'a> {
    path: PathBuf,
    done: Mirrored,
    device: Option<u64>,
    stop: &'a dyn Fn() -> bool,
}

impl Mirror<'_> {
    fn fail(&self, what: &'static str) -> impl Fn(Errno) -> TreeError + use<> {
        let path = self.path.clone();
        move |why| TreeError { what, path: path.clone(), why: why.desc().into() }
    }

    fn entry(&mut self, from: impl AsFd, copy: impl AsFd, name: &CStr) -> Result<(), TreeError> {
        self.path.push(OsStr::from_bytes(name.to_bytes()));
        let result = self.entry_itself(from.as_fd(), copy.as_fd(), name);
        self.path.pop();
        result
    }

    fn entry_itself(&mut self, from: impl AsFd, copy: impl AsFd, name: &CStr) -> Result<(), TreeError> {
        let Some(original) = state_of(&from, name).map_err(self.fail("look at"))? else {
            // Gone since its folder was read.
            return remove_if_there(&copy, name, &self.path).map(|removed| self.done.removed += removed);
        };
        let kept = state_of(&copy, name).map_err(self.fail("look at the copy of"))?;
        if is_folder(&original) {
            if kept.is_some_and(|kept| !is_folder(&kept)) {
                self.done.removed += remove_if_there(&copy, name, &self.path)?;
            }
            return self.folder(from, copy, name);
        }
        match kept {
            Some(kept) if (kept.st_dev, kept.st_ino) == (original.st_dev, original.st_ino) => {
                self.done.same += 1;
                return Ok(());
            }
            Some(_) => self.done.removed += remove_if_there(&copy, name, &self.path)?,
            None => {}
        }
        match linkat(&from, name, &copy, name, AtFlags::empty()) {
            Ok(()) => self.done.added += 1,
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(self.fail("link")(error)),
        }
        Ok(())
    }

    fn folder(&mut self, from: impl AsFd, copy: impl AsFd, name: &CStr) -> Result<(), TreeError> {
        if self.path.components().count() > DEPTH_MAX {
            return Err(self.fail("go into")(Errno::ELOOP));
        }
        if (self.stop)() {
            return Err(self.fail("copy")(Errno::ECANCELED));
        }
        let original = match open_in(&from, name) {
            Ok(original) => original,
            // Swapped or gone since it was looked at: what is there now is seen by the next pass.
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => return Ok(()),
            Err(error) => return Err(self.fail("open")(error)),
        };
        let state = fstat(&original).map_err(self.fail("look at"))?;
        if *self.device.get_or_insert(state.st_dev) != state.st_dev {
            return Err(self.fail("link into another file system")(Errno::EXDEV));
        }
        match mkdirat(&copy, name, Mode::S_IRWXU) {
            Ok(()) => self.done.added += 1,
            Err(Errno::EEXIST) => self.done.same += 1,
            Err(error) => return Err(self.fail("make the copy of")(error)),
        }
        let kept = open_in(&copy, name).map_err(self.fail("open the copy of"))?;
        let (original, names) = names_in(original).map_err(self.fail("read"))?;
        let (kept, kept_names) = names_in(kept).map_err(self.fail("read the copy of"))?;
        let present: HashSet<&CString> = names.iter().collect();
        for gone in kept_names.iter().filter(|name| !present.contains(name)) {
            self.done.removed += remove_if_there(&kept, gone, &self.path)?;
        }
        for name in &names {
            self.entry(&original, &kept, name)?;
        }
        dress(&kept, &state).map_err(self.fail("set owner, mode and time of the copy of"))
    }
}

/// Gives an open folder the owner, mode and times of another.
///
/// # Errors
/// When they cannot be set.
pub fn dress(folder: impl AsFd, as_of: &FileStat) -> Result<(), Errno> {
    fchown(&folder, Some(Uid::from_raw(as_of.st_uid)), Some(Gid::from_raw(as_of.st_gid)))?;
    fchmod(&folder, Mode::from_bits_truncate(as_of.st_mode))?;
    let accessed = TimeSpec::new(as_of.st_atime, as_of.st_atime_nsec);
    let modified = TimeSpec::new(as_of.st_mtime, as_of.st_mtime_nsec);
    futimens(&folder, &accessed, &modified)
}

/// The names in a folder, `.` and `..` left out, and the folder again.
///
/// # Errors
/// When it cannot be read.
pub fn names_in(folder: OwnedFd) -> Result<(Dir, Vec<CString>), Errno> {
    let mut folder = Dir::from_fd(folder)?;
    let mut names = Vec::new();
    for entry in folder.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok((folder, names))
}

/// Removes a tree, if it is there. Answers how many entries that were.
///
/// # Errors
/// At the first entry that cannot be removed.
pub fn remove_if_there(parent: impl AsFd, name: &CStr, shown: &Path) -> Result<u64, TreeError> {
    remove_below(parent, name, &shown.join(OsStr::from_bytes(name.to_bytes())), 0)
}

fn remove_below(parent: impl AsFd, name: &CStr, shown: &Path, depth: usize) -> Result<u64, TreeError> {
    let fail = |what, why: Errno| TreeError { what, path: shown.into(), why: why.desc().into() };
    match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => return Ok(1),
        Err(Errno::ENOENT) => return Ok(0),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(error) => return Err(fail("remove", error)),
    }
    if depth > DEPTH_MAX {
        return Err(fail("go into", Errno::ELOOP));
    }
    let folder = match open_in(&parent, name) {
        Ok(folder) => folder,
        Err(Errno::ENOENT) => return Ok(0),
        Err(error) => return Err(fail("open", error)),
    };
    let (folder, names) = names_in(folder).map_err(|why| fail("read", why))?;
    let mut removed = 1;
    for name in &names {
        let below = shown.join(OsStr::from_bytes(name.to_bytes()));
        removed += remove_below(&folder, name, &below, depth + 1)?;
    }
    match unlinkat(&parent, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(removed),
        Err(error) => Err(fail("remove", error)),
    }
}

/// Text as a name for a system call.
///
/// # Errors
/// When it holds a NUL.
pub fn c_name(name: &str) -> Result<CString, Errno> {
    CString::new(name).map_err(|_| Errno::EINVAL)
}

/// A name that is not taken in `parent`: `name`, `name.1`, `name.2`, …
///
/// # Errors
/// When that cannot be told.
pub fn free_name(parent: impl AsFd, name: &str) -> Result<CString, Errno> {
    let mut tried = name.to_owned();
    for number in 1.. {
        let candidate = c_name(&tried)?;
        if state_of(&parent, &candidate)?.is_none() {
            return Ok(candidate);
        }
        tried.truncate(name.len());
        let _ = write!(tried, ".{number}");
    }
    Err(Errno::EEXIST)
}
