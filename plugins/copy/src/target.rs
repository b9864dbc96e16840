//! The tree that is written: every system call that a network file system turns into trips is made and counted here.

use crate::aside::Aside;
use crate::error::CopyError;
use crate::options::Options;
use crate::progress::BATCH_MILLIS;
use crate::source::open_root;
use crate::watch::Watch;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timestamps, XattrFlags};
use rustix::io::{Errno, Result};
use std::cell::Cell;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What a write of a network file system carries at most.
const WRITE_BYTES: u64 = 1 << 20;

/// Operations at the target, counted the way an NFS client turns them into trips: a create needs no look-up before it,
/// written data goes out when attributes are set or the file is closed, names and attributes just seen are not asked for again.
#[derive(Debug, Default)]
pub struct Trips {
    /// Files opened or made.
    pub opens: AtomicU64,
    /// Batches of written data.
    pub writes: AtomicU64,
    /// Owner, mode, times or size set.
    pub attributes: AtomicU64,
    /// Extended attributes and ACLs.
    pub xattrs: AtomicU64,
    /// Folders, links, fifos and the like made.
    pub makes: AtomicU64,
    /// Names given or changed.
    pub renames: AtomicU64,
    /// Names removed.
    pub removes: AtomicU64,
    /// Folders looked up or listed, entries looked at.
    pub looks: AtomicU64,
    /// Explicit synchronisations.
    pub syncs: AtomicU64,
    /// Batches of data read (verification, copying back).
    pub reads: AtomicU64,
}

impl Trips {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        [
            &self.opens,
            &self.writes,
            &self.attributes,
            &self.xattrs,
            &self.makes,
            &self.renames,
            &self.removes,
            &self.looks,
            &self.syncs,
            &self.reads,
        ]
        .iter()
        .map(|count| count.load(Relaxed))
        .sum()
    }

    /// Counts a look at something.
    pub(crate) fn look(trips: &Trips) {
        Trips::add(&trips.looks);
    }

    /// Counts an opening.
    pub(crate) fn open(trips: &Trips) {
        Trips::add(&trips.opens);
    }

    /// Counts a reading.
    pub(crate) fn read(trips: &Trips) {
        Trips::add(&trips.reads);
    }

    fn add(count: &AtomicU64) {
        count.fetch_add(1, Relaxed);
    }
}

thread_local! {
    static ACTING_AS: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

fn act_as(uid: u32, gid: u32) {
    ACTING_AS.with(|acting| {
        if acting.get() == (uid, gid) {
            return;
        }
        // As root first: only root may take another id.
        setfsuid(Uid::from_raw(0));
        setfsgid(Gid::from_raw(gid));
        if uid != 0 {
            setfsuid(Uid::from_raw(uid));
        }
        acting.set((uid, gid));
    });
}

/// The target, and what has been done there.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) root: OwnedFd,
    /// New entries are made under their owner's ids.
    pub(crate) as_owner: bool,
    /// They get the group of the folder that they are in, whoever makes them; known from the first where it makes a difference.
    pub(crate) gives_folders_group: OnceLock<bool>,
    /// Keeps what is replaced or removed.
    pub(crate) aside: Option<Aside>,
    pub(crate) trips: Trips,
    /// For tests.
    pub(crate) death: Option<Death>,
    watch: Watch,
}

/// The end of the process at a chosen operation, as by a kill from outside.
#[derive(Debug)]
pub(crate) struct Death {
    operations: AtomicU64,
    at: u64,
    late: bool,
}

impl Death {
    pub(crate) fn new(options: &Options) -> Option<Self> {
        let at = options.dies_at_operation?;
        Some(Death { operations: AtomicU64::new(0), at, late: options.dies_late })
    }

    fn count(&self) {
        if self.operations.fetch_add(1, Relaxed) + 1 != self.at {
            return;
        }
        if self.late {
            std::thread::sleep(Duration::from_millis(BATCH_MILLIS * 2));
        }
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL); // nothing comes after it
    }
}

/// Magic numbers of file systems behind a network or a daemon, as in statfs(2).
const REMOTE: [i64; 8] =
    [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x5346_414f, 0x00c3_6400, 0x0bd0_0bd0];

/// Whether the file system of an open directory is behind a network (or a FUSE daemon).
pub(crate) fn is_remote(dir: impl AsFd) -> Result<bool> {
    let kind = rustix::fs::fstatfs(dir)?.f_type;
    Ok(REMOTE.contains(&(kind & 0xffff_ffff)))
}

impl Target {
    pub(crate) fn open(path: &Path, threads: usize) -> std::result::Result<Self, CopyError> {
        Ok(Target {
            root: open_root(path)?,
            as_owner: false,
            gives_folders_group: OnceLock::new(),
            aside: None,
            trips: Trips::default(),
            death: None,
            watch: Watch::new(threads),
        })
    }

    /// How long the longest running operation has been waiting.
    pub(crate) fn waiting_millis(&self) -> u64 {
        self.watch.waiting_millis()
    }

    /// Runs one operation under the watch for stalls.
    pub(crate) fn watched<T>(&self, operation: impl FnOnce() -> T) -> T {
        if let Some(death) = &self.death {
            death.count();
        }
        self.watch.over(operation)
    }

    /// Makes an entry, under the owner's ids when that is chosen and can work. Answers whether the owner is right.
    fn make<T>(&self, owner: Option<(u32, u32)>, operation: impl Fn() -> Result<T>) -> Result<(T, bool)> {
        self.watched(|| {
            let Some((uid, gid)) = owner.filter(|_| self.as_owner).filter(|owner| *owner != (0, 0)) else {
                return operation().map(|made| (made, false));
            };
            act_as(uid, gid);
            let made = operation();
            act_as(0, 0);
            match made {
                Err(Errno::ACCESS | Errno::PERM) => operation().map(|made| (made, false)),
                made => made.map(|made| (made, true)),
            }
        })
    }

    pub(crate) fn create_file(
        &self,
        dir: impl AsFd,
        name: &CStr,
        mode: u32,
        exclusive: bool,
        owner: Option<(u32, u32)>,
    ) -> Result<(OwnedFd, bool)> {
        Trips::add(&self.trips.opens);
        let how = if exclusive { OFlags::EXCL } else { OFlags::TRUNC };
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | how;
        let mode = Mode::from_raw_mode(mode & 0o777);
        self.make(owner, || rustix::fs::openat(dir.as_fd(), name, flags, mode))
    }

    pub(crate) fn make_dir(
        &self,
        dir: impl AsFd,
        name: &CStr,
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> Result<bool> {
        Trips::add(&self.trips.makes);
        let mode = Mode::from_raw_mode(mode & 0o777);
        self.make(owner, || rustix::fs::mkdirat(dir.as_fd(), name, mode)).map(|((), owned)| owned)
    }

    pub(crate) fn make_symlink(
        &self,
        dir: impl AsFd,
        name: &CStr,
        leads_to: &CStr,
        owner: Option<(u32, u32)>,
    ) -> Result<bool> {
        Trips::add(&self.trips.makes);
        self.make(owner, || rustix::fs::symlinkat(leads_to, dir.as_fd(), name)).map(|((), owned)| owned)
    }

    pub(crate) fn make_node(&self, dir: impl AsFd, name: &CStr, mode: u32, device: u64) -> Result<()> {
        Trips::add(&self.trips.makes);
        let kind = FileType::from_raw_mode(mode);
        self.watched(|| rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(mode & 0o777), device))
    }

    /// Opens a folder; never through a symbolic link, never into another mount.
    pub(crate) fn open_dir(&self, dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
        self.watched(|| crate::source::open_dir(dir, name, false))
    }

    /// Opens the folder at `path`.
    pub(crate) fn open_below(&self, path: &[u8]) -> Result<OwnedFd> {
        Trips::add(&self.trips.looks);
        self.watched(|| crate::source::open_below(&self.root, path, false))
    }

    pub(crate) fn write(&self, file: impl AsFd, bytes: &[u8], at: u64) -> Result<()> {
        let mut done = 0_usize;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match self.watched(|| rustix::io::pwrite(file.as_fd(), rest, at + done as u64)) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Counts the trips in which `bytes` written to one file go out.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.trips.writes.fetch_add(bytes.div_ceil(WRITE_BYTES), Relaxed);
    }

    pub(crate) fn truncate(&self, file: impl AsFd, size: u64) -> Result<()> {
        Trips::add(&self.trips.attributes);
        self.watched(|| rustix::fs::ftruncate(file, size))
    }

    pub(crate) fn chown_open(&self, file: impl AsFd, uid: u32, gid: u32) -> Result<()> {
        Trips::add(&self.trips.attributes);
        self.watched(|| rustix::fs::fchown(file, Some(owner(uid)), Some(group(gid))))
    }

    pub(crate) fn chown(&self, dir: impl AsFd, name: &CStr, uid: u32, gid: u32) -> Result<()> {
        Trips::add(&self.trips.attributes);
        self.watched(|| {
            rustix::fs::chownat(dir, name, Some(owner(uid)), Some(group(gid)), AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    pub(crate) fn chmod_open(&self, file: impl AsFd, mode: u32) -> Result<()> {
        Trips::add(&self.trips.attributes);
        self.watched(|| rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777)))
    }

    /// Only for what is no symbolic link and is not reachable by others: chmod by name follows links.
    pub(crate) fn chmod(&self, dir: impl AsFd, name: &CStr, mode: u32) -> Result<()> {
        Trips::add(&self.trips.attributes);
        self.watched(|| rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty()))
    }

    pub(crate) fn set_times_open(&self, file: impl AsFd, times: &Timestamps) -> Result<()> {
        Trips::add(&self.trips.attributes);
        self.watched(|| rustix::fs::futimens(file, times))
    }

    pub(crate) fn set_times(&self, dir: impl AsFd, name: &CStr, times: &Timestamps) -> Result<()> {
        Trips::add(&self.trips.attributes);
        self.watched(|| rustix::fs::utimensat(dir, name, times, AtFlags::SYMLINK_NOFOLLOW))
    }

    pub(crate) fn set_xattr_open(&self, file: impl AsFd, key: &CStr, value: &[u8]) -> Result<()> {
        Trips::add(&self.trips.xattrs);
        self.watched(|| rustix::fs::fsetxattr(file, key, value, XattrFlags::empty()))
    }

    pub(crate) fn set_xattr_link(&self, path: &Path, key: &CStr, value: &[u8]) -> Result<()> {
        Trips::add(&self.trips.xattrs);
        self.watched(|| rustix::fs::lsetxattr(path, key, value, XattrFlags::empty()))
    }

    pub(crate) fn remove_xattr_open(&self, file: impl AsFd, key: &CStr) -> Result<()> {
        Trips::add(&self.trips.xattrs);
        self.watched(|| rustix::fs::fremovexattr(file, key))
    }

    pub(crate) fn link(&self, from: impl AsFd, name: &CStr, to: impl AsFd, as_name: &CStr) -> Result<()> {
        Trips::add(&self.trips.makes);
        self.watched(|| rustix::fs::linkat(from, name, to, as_name, AtFlags::empty()))
    }

    /// Renames within a folder, over what is there.
    pub(crate) fn rename(&self, dir: impl AsFd, from: &CStr, to: &CStr) -> Result<()> {
        Trips::add(&self.trips.renames);
        if let Some(aside) = &self.aside {
            aside.keep_name(dir.as_fd(), to)?;
        }
        self.watched(|| rustix::fs::renameat(dir.as_fd(), from, dir.as_fd(), to))
    }

    /// Removes what is no folder. What is not there counts as removed.
    pub(crate) fn remove(&self, dir: impl AsFd, name: &CStr) -> Result<()> {
        Trips::add(&self.trips.removes);
        if let Some(aside) = &self.aside {
            return aside.take(dir.as_fd(), name);
        }
        match self.watched(|| rustix::fs::unlinkat(dir, name, AtFlags::empty())) {
            Err(Errno::NOENT) => Ok(()),
            done => done,
        }
    }

    /// Removes an empty folder. What is not there counts as removed.
    pub(crate) fn remove_dir(&self, dir: impl AsFd, name: &CStr) -> Result<()> {
        Trips::add(&self.trips.removes);
        match self.watched(|| rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)) {
            Err(Errno::NOENT) => Ok(()),
            done => done,
        }
    }

    pub(crate) fn list(&self, dir: impl AsFd) -> Result<Vec<std::ffi::CString>> {
        Trips::add(&self.trips.looks);
        self.watched(|| {
            let dir = dir.as_fd();
            rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
            crate::source::list(dir)
        })
    }

    pub(crate) fn sync_file(&self, file: impl AsFd) -> Result<()> {
        Trips::add(&self.trips.syncs);
        self.watched(|| rustix::fs::fsync(file))
    }

    /// Makes everything written so far last.
    pub(crate) fn sync_all(&self) -> Result<()> {
        self.watched(|| rustix::fs::syncfs(&self.root))
    }

    /// Closes a written file: where a network file system tells that data did not arrive.
    pub(crate) fn close(&self, file: OwnedFd) -> Result<()> {
        self.watched(|| nix::unistd::close(file)).map_err(|errno| Errno::from_raw_os_error(errno as i32))
    }
}

fn owner(uid: u32) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(uid)
}

fn group(gid: u32) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(gid)
}
