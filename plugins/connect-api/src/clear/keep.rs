//! Keeps the runtime caches of the source while the new server's are cleared: both are the same folders of the data directory.
//!
//! Below the data directory a hidden folder of root's own holds a copy made of hard links, which costs no space and survives
//! the deletion of the originals:
//!
//! ```text
//! .connect-migrator-<instance>/
//!     migration         whose it is
//!     kept/packrat …    the copies
//!     frozen            written, durably, before the first deletion: from now on the copies are all there is
//!     aside/packrat …   what stood in their place when they were put back, until it is removed
//!     restored          all were put back
//! ```
//!
//! A file that the new server changes in place, instead of replacing it, changes in the copy too; caches are not written that
//! way. Extended attributes of folders are not copied.

use super::tree::{self, Mirrored, TreeError};
use connect_migrator_sdk::Migration;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FileStat, Mode, fstat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, fsync, geteuid, linkat, unlinkat};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The folders directly below the data directory that hold runtime caches, and the language of each.
/// <https://docs.posit.co/connect/admin/server-management/runtime-caches/>
pub const CACHE_FOLDERS: [(&str, &str); 3] =
    [("packrat", "r"), ("python-environments", "python"), ("R", "r")];

const MARKER_MAX_BYTES: u64 = 64 * 1024;

/// Why caches could not be kept or put back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// One step failed.
    #[error("{what} {}: {why}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// The hidden folder is not one of this migration.
    #[error("{} belongs to {to}", path.display())]
    Foreign {
        /// The hidden folder.
        path: PathBuf,
        /// Whose it is.
        to: String,
    },
    /// Something in a tree.
    #[error("in {}: {error}", below.display())]
    Tree {
        /// The folder.
        below: PathBuf,
        /// What happened.
        error: TreeError,
    },
}

/// What stands in `frozen`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Frozen {
    /// Cache folders of which there is a copy.
    pub kept: Vec<String>,
    /// Cache folders that could not be copied, and why.
    pub not_kept: Vec<(String, String)>,
}

/// The hidden folder of one migration.
#[derive(Debug, Clone)]
pub struct Keep {
    data_dir: PathBuf,
    name: String,
    migration: String,
}

impl Keep {
    /// The hidden folder of `migration` below `data_dir`. Touches nothing.
    #[must_use]
    pub fn new(data_dir: &Path, migration: &Migration) -> Keep {
        let name = format!(".connect-migrator-{}", migration.instance);
        Keep { data_dir: data_dir.into(), name, migration: migration.id.clone() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.data_dir.join(&self.name)
    }

    fn fail(&self, what: &'static str, below: &str) -> impl Fn(Errno) -> KeepError + use<> {
        let path = if below.is_empty() { self.path() } else { self.path().join(below) };
        move |why| KeepError::Io { what, path: path.clone(), why: why.desc().into() }
    }

    fn data(&self) -> Result<OwnedFd, KeepError> {
        // The data directory itself may be a link of the administrator's.
        let path = self.data_dir.canonicalize().unwrap_or_else(|_| self.data_dir.clone());
        let fail = |why: Errno| KeepError::Io { what: "open", path: path.clone(), why: why.desc().into() };
        tree::open_folder(&path).map_err(fail)
    }

    fn c(&self, name: &str) -> Result<CString, KeepError> {
        tree::c_name(name).map_err(self.fail("name", name))
    }

    /// The cache folders that are there now, and those that are there but are no folders of their own.
    ///
    /// # Errors
    /// When the data directory cannot be read.
    pub fn present(&self) -> Result<(Vec<&'static str>, Vec<&'static str>), KeepError> {
        let data = self.data()?;
        let (mut folders, mut others) = (Vec::new(), Vec::new());
        for (name, _) in CACHE_FOLDERS {
            match tree::state_of(&data, &self.c(name)?).map_err(self.fail("look at", ""))? {
                Some(state) if tree::is_folder(&state) => folders.push(name),
                Some(_) => others.push(name),
                None => {}
            }
        }
        Ok((folders, others))
    }

    /// Really tries, with two empty files that are gone again afterwards, whether hard links can be made in the data
    /// directory, and whether each cache folder is on its file system. Puts back the directory's times.
    ///
    /// # Errors
    /// When they cannot be made, with the cause.
    pub fn try_links(&self) -> Result<(), KeepError> {
        let data = self.data()?;
        let before = fstat(&data).map_err(self.fail("look at the folder above", ""))?;
        for name in self.present()?.0 {
            let state = tree::state_of(&data, &self.c(name)?).map_err(self.fail("look at", ""))?;
            if state.is_some_and(|state| state.st_dev != before.st_dev) {
                let path = self.data_dir.join(name);
                let why = "it is on another file system than the data directory".into();
                return Err(KeepError::Io { what: "link the files of", path, why });
            }
        }
        let [one, two] = [1, 2].map(|n| format!("{}.try-{}-{n}", self.name, std::process::id()));
        let (one, two) = (self.c(&one)?, self.c(&two)?);
        let clean = || {
            let _ = unlinkat(&data, &*one, UnlinkatFlags::NoRemoveDir);
            let _ = unlinkat(&data, &*two, UnlinkatFlags::NoRemoveDir);
        };
        clean();
        let result = openat(&data, &*one, CREATE, Mode::S_IRUSR).and_then(|file| {
            linkat(&data, &*one, &data, &*two, AtFlags::empty())?;
            // A share that takes root for nobody would not let the copies keep their owners.
            if fstat(&file)?.st_uid == geteuid().as_raw() { Ok(()) } else { Err(Errno::EPERM) }
        });
        clean();
        let _ = put_back_times(&data, &before);
        result.map_err(|why| KeepError::Io {
            what: "make a hard link in",
            path: self.data_dir.clone(),
            why: why.desc().into(),
        })
    }

    /// Makes the hidden folder, or takes it over if it is this migration's.
    ///
    /// # Errors
    /// [`KeepError::Foreign`] when it is another migration's.
    pub fn make(&self) -> Result<(), KeepError> {
        let data = self.data()?;
        match mkdirat(&data, &*self.c(&self.name)?, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(self.fail("make", "")(error)),
        }
        let hidden = self.opened()?;
        if self.read(&hidden, MARKER)?.is_none() {
            self.write(&hidden, MARKER, self.migration.as_bytes())?;
        }
        match mkdirat(&hidden, KEPT, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(self.fail("make", KEPT)(error)),
        }
    }

    /// The hidden folder, `None` when it is not there. Only one of our own user's: nobody else can have put anything into it.
    ///
    /// # Errors
    /// [`KeepError::Foreign`] when it is another migration's or user's.
    pub fn open(&self) -> Result<Option<OwnedFd>, KeepError> {
        let hidden = match tree::open_in(&self.data()?, &self.c(&self.name)?) {
            Ok(hidden) => hidden,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(self.fail("open", "")(error)),
        };
        let foreign = |to: String| Err(KeepError::Foreign { path: self.path(), to });
        let state = fstat(&hidden).map_err(self.fail("look at", ""))?;
        if state.st_uid != geteuid().as_raw() || state.st_mode & 0o077 != 0 {
            return foreign(format!("the user {}, with mode {:o}", state.st_uid, state.st_mode & 0o7777));
        }
        match self.read(&hidden, MARKER)? {
            Some(owner) if owner == self.migration.as_bytes() => Ok(Some(hidden)),
            Some(owner) => foreign(format!("migration {}", String::from_utf8_lossy(&owner))),
            None => {
                // Being made, or almost removed: all that may be in it is the marker on its way.
                let (_, names) = tree::names_in(hidden).map_err(self.fail("read", ""))?;
                if names.iter().any(|name| !name.to_bytes().starts_with(MARKER.as_bytes())) {
                    return foreign("nobody: it does not say which migration made it".into());
                }
                let hidden = tree::open_in(&self.data()?, &self.c(&self.name)?);
                hidden.map(Some).map_err(self.fail("open", ""))
            }
        }
    }

    fn opened(&self) -> Result<OwnedFd, KeepError> {
        self.open()?.ok_or_else(|| self.fail("open", "")(Errno::ENOENT))
    }

    /// Brings the copies up to date with the caches. Not after [`freeze`](Keep::freeze).
    ///
    /// # Errors
    /// When nothing at all can be kept, or `stop` says so; a single folder that cannot is told in the answer.
    pub fn update(&self, stop: &dyn Fn() -> bool) -> Result<(Frozen, Mirrored), KeepError> {
        let (data, hidden) = (self.data()?, self.opened()?);
        let kept = tree::open_in(&hidden, &self.c(KEPT)?).map_err(self.fail("open", KEPT))?;
        let (folders, others) = self.present()?;
        let mut all = Mirrored::default();
        let mut frozen = Frozen::default();
        for name in others {
            frozen.not_kept.push((name.into(), "it is a link or file, not a folder".into()));
        }
        for (name, _) in CACHE_FOLDERS {
            let c_name = self.c(name)?;
            if folders.contains(&name) {
                match tree::mirror(&data, &kept, &c_name, stop) {
                    Ok(done) => {
                        all.added += done.added;
                        all.same += done.same;
                        all.removed += done.removed;
                        frozen.kept.push(name.into());
                        continue;
                    }
                    Err(error) if stop() => return Err(self.in_tree()(error)),
                    Err(error) => frozen.not_kept.push((name.into(), error.to_string())),
                }
            }
            tree::remove_if_there(&kept, &c_name, Path::new(KEPT)).map_err(self.in_tree())?;
        }
        Ok((frozen, all))
    }

    fn in_tree(&self) -> impl Fn(TreeError) -> KeepError + use<> {
        let below = self.path();
        move |error| KeepError::Tree { below: below.clone(), error }
    }

    /// Declares the copies final. Returns once that, and they, are durable.
    ///
    /// # Errors
    /// When it cannot be made durable; then nothing may be deleted.
    pub fn freeze(&self, frozen: &Frozen) -> Result<(), KeepError> {
        let text = serde_json::to_vec(frozen).map_err(|error| KeepError::Io {
            what: "write",
            path: self.path().join(FROZEN),
            why: error.to_string(),
        })?;
        // Making this file durable makes all that was done before on its file system durable too.
        self.write(self.opened()?, FROZEN, &text)
    }

    /// What was frozen, `None` when nothing was.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn frozen(&self) -> Result<Option<Frozen>, KeepError> {
        let Some(hidden) = self.open()? else { return Ok(None) };
        let Some(text) = self.read(&hidden, FROZEN)? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| KeepError::Io {
            what: "read",
            path: self.path().join(FROZEN),
            why: error.to_string(),
        })
    }

    /// Puts the kept folders back in place of what stands there now, which is removed, as is every cache folder that was not
    /// there at all when they were frozen. Answers the names put back and the names removed. Doing it twice is doing it once.
    ///
    /// # Errors
    /// When one cannot be put back; calling it again goes on there.
    pub fn put_back(&self, frozen: &Frozen) -> Result<(Vec<String>, Vec<String>), KeepError> {
        let (data, hidden) = (self.data()?, self.opened()?);
        if self.read(&hidden, RESTORED)?.is_some() {
            return Ok((frozen.kept.clone(), Vec::new()));
        }
        match mkdirat(&hidden, ASIDE, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(self.fail("make", ASIDE)(error)),
        }
        let kept = tree::open_in(&hidden, &self.c(KEPT)?).map_err(self.fail("open", KEPT))?;
        let aside = tree::open_in(&hidden, &self.c(ASIDE)?).map_err(self.fail("open", ASIDE))?;
        let (mut back, mut removed) = (Vec::new(), Vec::new());
        for (name, _) in CACHE_FOLDERS {
            if frozen.not_kept.iter().any(|(other, _)| other == name) {
                continue;
            }
            let c_name = self.c(name)?;
            let have = tree::state_of(&kept, &c_name).map_err(self.fail("look at", name))?.is_some();
            if frozen.kept.iter().any(|other| other == name) && !have {
                back.push(name.to_owned()); // put back by an earlier call
                continue;
            }
            if tree::state_of(&data, &c_name).map_err(self.fail("look at", name))?.is_some() {
                let free = tree::free_name(&aside, name).map_err(self.fail("name", name))?;
                renameat2(&data, &*c_name, &aside, &*free, RenameFlags::RENAME_NOREPLACE)
                    .or_else(|error| plain_rename(error, &data, &c_name, &aside, &free))
                    .map_err(self.fail("move aside", name))?;
                if !have {
                    removed.push(name.to_owned());
                }
            }
            if have {
                renameat2(&kept, &*c_name, &data, &*c_name, RenameFlags::RENAME_NOREPLACE)
                    .or_else(|error| plain_rename(error, &kept, &c_name, &data, &c_name))
                    .map_err(self.fail("put back", name))?;
                back.push(name.to_owned());
            }
        }
        fsync(&data).map_err(self.fail("make durable", ""))?;
        self.write(&hidden, RESTORED, b"")?;
        tree::remove_if_there(&hidden, &self.c(ASIDE)?, Path::new("")).map_err(self.in_tree())?;
        Ok((back, removed))
    }

    /// Removes the hidden folder with all in it, if it is there. Answers whether it was.
    ///
    /// # Errors
    /// When it is another migration's, or cannot be removed.
    pub fn remove(&self) -> Result<bool, KeepError> {
        let Some(hidden) = self.open()? else { return Ok(false) };
        // The marker goes last, so that a removal that is cut off can be taken up again.
        let (hidden, names) = tree::names_in(hidden).map_err(self.fail("read", ""))?;
        for name in names.iter().filter(|name| name.to_bytes() != MARKER.as_bytes()) {
            tree::remove_if_there(&hidden, name, Path::new("")).map_err(self.in_tree())?;
        }
        let (data, name) = (self.data()?, self.c(&self.name)?);
        tree::remove_if_there(&data, &name, &self.data_dir).map_err(self.in_tree())?;
        Ok(true)
    }

    fn read(&self, hidden: impl AsFd, name: &str) -> Result<Option<Vec<u8>>, KeepError> {
        let file = match openat(hidden, &*self.c(name)?, READ, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(self.fail("open", name)(error)),
        };
        let mut bytes = Vec::new();
        let read = File::from(file).take(MARKER_MAX_BYTES).read_to_end(&mut bytes);
        read.map_err(|error| self.fail("read", name)(errno(&error)))?;
        Ok(Some(bytes))
    }

    /// Writes a whole file at once, durably.
    fn write(&self, hidden: impl AsFd, name: &str, bytes: &[u8]) -> Result<(), KeepError> {
        let (final_name, new_name) = (self.c(name)?, self.c(&format!("{name}.new"))?);
        let _ = unlinkat(&hidden, &*new_name, UnlinkatFlags::NoRemoveDir);
        let file = openat(&hidden, &*new_name, CREATE, Mode::S_IRUSR).map_err(self.fail("make", name))?;
        let mut file = File::from(file);
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        written.map_err(|error| self.fail("write", name)(errno(&error)))?;
        nix::fcntl::renameat(&hidden, &*new_name, &hidden, &*final_name).map_err(self.fail("write", name))?;
        fsync(&hidden).map_err(self.fail("make durable", name))
    }
}

const MARKER: &str = "migration";
const KEPT: &str = "kept";
const FROZEN: &str = "frozen";
const RESTORED: &str = "restored";
const ASIDE: &str = "aside";
const CREATE: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);
const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);

/// File systems without `RENAME_NOREPLACE` (NFS) take the plain call: the new name was just seen to be free, and replacing a
/// folder that is not empty fails by itself.
fn plain_rename(
    error: Errno,
    from: impl AsFd,
    old: &CString,
    to: impl AsFd,
    new: &CString,
) -> Result<(), Errno> {
    match error {
        Errno::EINVAL | Errno::ENOSYS => nix::fcntl::renameat(from, &**old, to, &**new),
        other => Err(other),
    }
}

fn put_back_times(folder: impl AsFd, as_of: &FileStat) -> Result<(), Errno> {
    let accessed = TimeSpec::new(as_of.st_atime, as_of.st_atime_nsec);
    let modified = TimeSpec::new(as_of.st_mtime, as_of.st_mtime_nsec);
    futimens(folder, &accessed, &modified)
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}
