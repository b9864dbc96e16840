//! A folder while it is filled, and what is set on it last.

use crate::attributes::{Onto, XattrKind, Xattrs, is_refused, kind_of, set_all, without_acl_of};
use crate::exclude::Exclude;
use crate::manifest::{FolderDone, ROOT, Record};
use crate::pass::Pass;
use crate::source::{is_gone, join};
use crate::stamp::{Moment, Seen, Stamp, look, look_open};
use crate::target::Target;
use rustix::io::{Errno, Result};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// What is known of a folder at the target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    /// As the source's folder was when it was opened.
    pub(crate) seen: Seen,
    /// The file clock before that.
    pub(crate) read_from: Moment,
    /// Owner at the target now.
    pub(crate) owner: (u32, u32),
    /// Permissions at the target now.
    pub(crate) mode: u32,
    /// The target's folder may carry attributes that the source's does not.
    pub(crate) may_have_xattrs: bool,
    /// What is made in it may get an ACL from it.
    pub(crate) gives_acl: bool,
}

impl Meta {
    /// Of a folder whose state at the target is known from the manifest.
    pub(crate) fn recorded(seen: Seen, read_from: Moment, done: &FolderDone) -> Self {
        Meta {
            seen,
            read_from,
            owner: (done.stamp.uid, done.stamp.gid),
            mode: done.stamp.permissions(),
            may_have_xattrs: done.has_xattrs,
            gives_acl: done.has_xattrs,
        }
    }

    /// Of a folder that stands at the target in an unknown state.
    fn looked_at(seen: Seen, read_from: Moment, there: BorrowedFd<'_>) -> Result<Self> {
        let stamp = look_open(there)?.stamp;
        let xattrs = Xattrs::of_open(there)?;
        Ok(Meta {
            seen,
            read_from,
            owner: (stamp.uid, stamp.gid),
            mode: stamp.permissions(),
            may_have_xattrs: !xattrs.is_empty(),
            gives_acl: xattrs.has_default_acl(),
        })
    }

    fn has_setgid(&self) -> bool {
        self.mode & 0o2000 != 0
    }
}

/// A folder that is being filled.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) number: u32,
    pub(crate) path: Arc<[u8]>,
    /// `None` for a mount point, which is copied as an empty folder.
    pub(crate) source: Option<OwnedFd>,
    pub(crate) target: OwnedFd,
    pub(crate) meta: Meta,
    pub(crate) exclude: Option<Arc<Exclude>>,
    /// Names are made with care: others may have put something here.
    pub(crate) exclusive: bool,
    /// Jobs that still fill it.
    pub(crate) left: AtomicUsize,
    /// Hard links will be made in it later.
    pub(crate) late: AtomicBool,
    /// Something in it failed: it must be looked at again.
    pub(crate) failed: AtomicBool,
}

/// A folder whose attributes are set after the hard links.
#[derive(Debug)]
pub(crate) struct Late {
    pub(crate) number: u32,
    pub(crate) path: Arc<[u8]>,
    pub(crate) is_mount: bool,
    pub(crate) meta: Meta,
    pub(crate) exclude_failed: bool,
}

impl Open {
    /// As whom to make an entry here, so that its owner is right from the start; `None` where that cannot work.
    pub(crate) fn maker(&self, stamp: &Stamp) -> Option<(u32, u32)> {
        let (uid, gid) = (stamp.uid, stamp.gid);
        let mode = self.meta.mode;
        let may = uid == self.meta.owner.0 && mode & 0o300 == 0o300
            || uid != self.meta.owner.0
                && (gid == self.meta.owner.1 && mode & 0o030 == 0o030
                    || gid != self.meta.owner.1 && mode & 0o003 == 0o003);
        may.then_some((uid, gid))
    }

    /// Whether an entry made as `made_as_owner` says has the right owner and group. `look` looks at it, when that cannot be known.
    pub(crate) fn is_owner_right(
        &self,
        target: &Target,
        stamp: &Stamp,
        made_as_owner: bool,
        look: impl FnOnce() -> Result<Seen>,
    ) -> Result<bool> {
        let (user, maker) = if made_as_owner { (stamp.uid, stamp.gid) } else { (0, 0) };
        let group = self.group_of_new(target, maker, look)?;
        Ok((user, group) == (stamp.uid, stamp.gid))
    }

    /// The group of an entry that was made in it by a process of the group `maker`: some file systems give all entries that of the
    /// folder (`grpid`, `bsdgroups`), and the first entry shows it.
    fn group_of_new(&self, target: &Target, maker: u32, look: impl FnOnce() -> Result<Seen>) -> Result<u32> {
        let folders = self.meta.owner.1;
        if self.meta.has_setgid() || folders == maker {
            return Ok(folders);
        }
        match target.gives_folders_group.get() {
            Some(true) => Ok(folders),
            Some(false) => Ok(maker),
            None => {
                let group = target.watched(look)?.stamp.gid;
                if group == folders || group == maker {
                    target.gives_folders_group.get_or_init(|| group == folders);
                }
                Ok(group)
            }
        }
    }

    /// Owner and group of a folder that was made in it by root and not given away yet.
    pub(crate) fn owner_of_roots(&self, target: &Target) -> (u32, u32) {
        let is_folders = self.meta.has_setgid() || target.gives_folders_group.get() == Some(&true);
        (0, if is_folders { self.meta.owner.1 } else { 0 })
    }

    /// Permissions of a new folder in it right after mkdir.
    pub(crate) fn mode_of_new(&self, stamp: &Stamp) -> u32 {
        (stamp.mode & 0o777) | 0o700 | (self.meta.mode & 0o2000)
    }
}

impl Pass<'_> {
    /// [`Meta::looked_at`], watched: the target may not answer.
    pub(crate) fn looked_at(&self, seen: Seen, read_from: Moment, there: BorrowedFd<'_>) -> Result<Meta> {
        self.target()?.watched(|| Meta::looked_at(seen, read_from, there))
    }

    /// One job of the folder has ended; the last one sets its attributes.
    pub(crate) fn job_ended(&self, open: &Arc<Open>) {
        if open.left.fetch_sub(1, SeqCst) != 1 || self.stopped() {
            return;
        }
        let is_root = open.number == ROOT;
        if open.late.load(SeqCst) || is_root {
            self.push_late(Late {
                number: open.number,
                path: Arc::clone(&open.path),
                is_mount: open.source.is_none(),
                meta: open.meta,
                exclude_failed: open.failed.load(SeqCst),
            });
        } else if !open.failed.load(SeqCst) {
            let source = open.source.as_ref().map(AsFd::as_fd);
            self.finish(open.number, &open.path, source, open.target.as_fd(), &open.meta);
        }
    }

    /// Sets the attributes of a folder that waited for its hard links.
    pub(crate) fn finish_late(&self, late: &Late) {
        if late.exclude_failed || self.stopped() {
            return;
        }
        let source = match self.open_again(&late.path, late.is_mount) {
            Ok(source) => source,
            // It stays unfinished, and the next pass sees that it is gone.
            Err(errno) if is_gone(errno) && late.number != ROOT => return self.note_unsettled(),
            Err(errno) => return self.fail("open again the folder", &late.path, errno),
        };
        match self.target().and_then(|target| target.open_below(&late.path)) {
            Ok(target) => {
                let source = source.as_ref().map(AsFd::as_fd);
                self.finish(late.number, &late.path, source, target.as_fd(), &late.meta);
            }
            Err(errno) => self.fail("open again at the target the folder", &late.path, errno),
        }
    }

    fn finish(
        &self,
        number: u32,
        path: &[u8],
        source: Option<BorrowedFd<'_>>,
        target: BorrowedFd<'_>,
        meta: &Meta,
    ) {
        let read = |source| self.at_source(|| Xattrs::of_open(source));
        let xattrs = match source.map_or_else(|| Ok(Xattrs::default()), read) {
            Ok(xattrs) => xattrs,
            Err(errno) if is_gone(errno) && number != ROOT => return self.note_unsettled(),
            Err(errno) => return self.fail("read the attributes of the folder", path, errno),
        };
        match self.set_folder(path, &xattrs, target, meta) {
            Ok(has_xattrs) => {
                let suspect = meta.seen.stamp.is_racy(meta.read_from, self.granule_millis);
                let done = FolderDone { stamp: meta.seen.stamp, has_xattrs, suspect, unsure: false };
                self.journal.add(&[Record::FolderDone { folder: number, done: Some(done) }]);
            }
            Err(errno) => self.fail("set the attributes of the folder", path, errno),
        }
    }

    fn set_folder(&self, path: &[u8], xattrs: &Xattrs, to: BorrowedFd<'_>, meta: &Meta) -> Result<bool> {
        let target = self.target()?;
        let stamp = &meta.seen.stamp;
        if meta.owner != (stamp.uid, stamp.gid) {
            target.chown_open(to, stamp.uid, stamp.gid)?;
        }
        if meta.may_have_xattrs {
            self.remove_other_xattrs(to, xattrs)?;
        }
        let mode = set_all(target, Onto::Open(to), xattrs, stamp.permissions(), &self.refusals, path)?;
        // Whether a new folder takes setgid from the one that it is in, is the file system's choice.
        if meta.mode != mode || mode & 0o2000 != 0 || meta.may_have_xattrs {
            target.chmod_open(to, mode)?;
        }
        target.set_times_open(to, &meta.seen.times())?;
        Ok(!xattrs.is_empty())
    }

    /// On the way back: what stands under `name` has attributes that the other side could not hold, and so its successor `made` lacks them
    /// though nobody took them away. It gets them, unless its permissions were set anew over there. Not capabilities: they went with
    /// the content that they were given to.
    pub(crate) fn keep_refused(&self, open: &Open, name: &CStr, made: &CStr, stamp: &Stamp) -> Result<()> {
        let target = self.target()?;
        let stands = match target.watched(|| look(&open.target, name)) {
            Ok(stands) => stands.stamp,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        if stands.kind() != stamp.kind() {
            return Ok(());
        }
        let mut had = target.watched(|| Xattrs::of_entry(open.target.as_fd(), name))?;
        let mut mode = stands.permissions();
        for (key, value) in &had.0 {
            mode = without_acl_of(key, value, mode).unwrap_or(mode);
        }
        let is_mode_kept = mode == stamp.permissions();
        let refused = |key: &CStr| self.at_source(|| is_refused(&self.source_root, key));
        had.0.retain(|key, _| match kind_of(key) {
            XattrKind::Acl => is_mode_kept && refused(key),
            XattrKind::User => refused(key),
            _ => false,
        });
        let path = join(&open.path, name.to_bytes());
        let onto = Onto::Entry(open.target.as_fd(), made);
        set_all(target, onto, &had, stands.permissions(), &self.refusals, &path).map(drop)
    }

    /// Removes what the target's entry has inherited or had before and the source's has not.
    pub(crate) fn remove_other_xattrs(&self, to: BorrowedFd<'_>, wanted: &Xattrs) -> Result<()> {
        let target = self.target()?;
        crate::target::Trips::look(&target.trips);
        let have = target.watched(|| Xattrs::of_open(to))?;
        for key in have.0.keys().filter(|key| !wanted.0.contains_key(*key)) {
            // On the way back: what the other side cannot hold was not taken away there.
            if self.options.keep_aside.is_some() && is_refused(&self.source_root, key) {
                continue;
            }
            match target.remove_xattr_open(to, key) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// A name as system calls take it.
pub(crate) fn c_name(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| Errno::INVAL)
}

/// The name of a temporary entry.
pub(crate) fn temporary_name(prefix: &str, number: u32) -> CString {
    CString::new(format!("{prefix}{number}")).unwrap_or_default()
}

/// The last name of a path, and the folder it is in.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

pub(crate) fn is_temporary(name: &CStr, prefix: &str) -> bool {
    name.to_bytes().starts_with(prefix.as_bytes())
}
