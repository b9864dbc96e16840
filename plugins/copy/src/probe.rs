//! What a target can hold, found by trying it in a folder of its own that is removed again.

use crate::error::{CopyError, failed};
use crate::source::open_root;
use crate::stamp::{Moment, file_clock, look, look_open};
use crate::target::is_remote;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::{Errno, Result};
use serde::Serialize;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A file at the target's root by which its clock is asked, for the moment of a call: nobody's business.
pub(crate) const CLOCK: &str = ".connect-migrator-clock";
const NAME_BYTES: usize = 255;
/// An access ACL with one more user: version 2, and owner, user 1, group, mask, others.
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 1, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16,
    0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
];
/// cap_net_bind_service, as the kernel stores it (version 2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Something a target must or may be able to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ability {
    /// root may make entries.
    Write,
    /// root may give entries to any owner and group.
    Owners,
    /// Modes with setgid, setuid and sticky.
    Modes,
    /// Symbolic links.
    Symlinks,
    /// Hard links.
    HardLinks,
    /// Fifos and sockets.
    SpecialFiles,
    /// Times to the nanosecond.
    Nanoseconds,
    /// Times before 1970 and after 2038.
    FarTimes,
    /// A rename puts a file in the place of another at once.
    Rename,
    /// Written data can be made to last.
    Fsync,
    /// Locks.
    Locks,
    /// Names that differ in case only, and names that are not UTF-8.
    Names,
    /// `user.*` attributes.
    UserXattrs,
    /// POSIX ACLs.
    Acls,
    /// File capabilities.
    Capabilities,
}

/// What was found about one ability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Which.
    pub ability: Ability,
    /// Whether the target has it.
    pub has: bool,
    /// If not: what was tried and what the system said.
    pub why: String,
}

/// What a target can hold.
#[derive(Debug, Clone, Serialize)]
pub struct Probed {
    /// It is behind a network (or a daemon).
    pub remote: bool,
    /// Each ability.
    pub found: Vec<Found>,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Entries that can still be made; `None` where the file system does not count them.
    pub free_entries: Option<u64>,
    /// How far the target's clock is ahead of ours, in milliseconds.
    pub clock_ahead_millis: i64,
}

impl Probed {
    /// Whether the target has an ability.
    #[must_use]
    pub fn has(&self, ability: Ability) -> bool {
        self.found.iter().any(|found| found.ability == ability && found.has)
    }

    /// Why it has not; empty if it has.
    #[must_use]
    pub fn why(&self, ability: Ability) -> &str {
        let found = self.found.iter().find(|found| found.ability == ability && !found.has);
        found.map_or("", |found| &found.why)
    }
}

/// The target's own clock, by making a file and looking at it. For the moment of a cutover.
///
/// # Errors
/// When no file can be made there.
pub fn clock_of(target: &Path) -> std::result::Result<Moment, CopyError> {
    let root = open_root(target)?;
    let name = CString::new(CLOCK).unwrap_or_default();
    let asked = (|| {
        let before = look_open(&root)?;
        // Of a call that was killed.
        let _ = rustix::fs::unlinkat(&root, &name, AtFlags::empty());
        let file = make(&root, &name)?;
        let seen = look_open(&file);
        // An NFS client keeps what is open under another name, and removes it when it is closed: after the times are set.
        drop(file);
        rustix::fs::unlinkat(&root, &name, AtFlags::empty())?;
        // The folder's times are part of the copy.
        rustix::fs::futimens(&root, &before.times())?;
        Ok::<_, Errno>(seen?.stamp.changed)
    })();
    asked.map_err(|errno| failed("ask the clock of", target, errno))
}

fn own_name(what: &str) -> std::result::Result<CString, CopyError> {
    let mut bytes = [0_u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| failed("get random numbers for", Path::new("a probe"), errno))?;
    let name = format!(".connect-migrator-{what}-{:016x}", u64::from_le_bytes(bytes));
    Ok(CString::new(name).unwrap_or_default())
}

fn make(dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))
}

/// Tries what a folder can hold: in a folder of its own below it, which is removed again. `owners` are ids that must be given to
/// entries; needs root.
///
/// # Errors
/// When the folder cannot be opened.
pub fn probe(target: &Path, owners: &[(u32, u32)]) -> std::result::Result<Probed, CopyError> {
    let root = open_root(target)?;
    let remote = is_remote(&root).map_err(|errno| failed("look at", target, errno))?;
    let room = rustix::fs::fstatvfs(&root).map_err(|errno| failed("ask for the room of", target, errno))?;
    let name = own_name("probe")?;
    let mut found = Vec::new();
    let mut ahead = 0;
    let tried = (|| {
        rustix::fs::mkdirat(&root, &name, Mode::from_raw_mode(0o700))?;
        let dir = crate::source::open_dir(&root, &name, false)?;
        let before = file_clock().millis();
        let file = make(&dir, c"clock")?;
        let there = look_open(&file)?.stamp.changed.millis();
        let after = file_clock().millis();
        // What lies between our two looks is no skew.
        ahead = if there < before { there - before } else { (there - after).max(0) };
        Ok::<_, Errno>(dir)
    })();
    match tried {
        Ok(dir) => {
            found.push(Found { ability: Ability::Write, has: true, why: String::new() });
            for (ability, tried) in attempts(&dir, owners) {
                let has = tried.is_ok();
                found.push(Found { ability, has, why: tried.err().unwrap_or_default() });
            }
            drop(dir);
            remove(&root, &name);
        }
        Err(errno) => {
            let why = format!("could not make a folder and a file: {errno}");
            found.push(Found { ability: Ability::Write, has: false, why });
            remove(&root, &name);
        }
    }
    Ok(Probed {
        remote,
        found,
        free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
        free_entries: (room.f_files != 0).then_some(room.f_favail),
        clock_ahead_millis: ahead,
    })
}

fn remove(root: &OwnedFd, name: &CStr) {
    if let Ok(dir) = crate::source::open_dir(root, name, false) {
        for entry in crate::source::list(&dir).unwrap_or_default() {
            // A folder of ours in it is empty; what stays makes the last line fail, and is seen.
            let removed = rustix::fs::unlinkat(&dir, &entry, AtFlags::empty());
            if removed.is_err() {
                let _ = rustix::fs::unlinkat(&dir, &entry, AtFlags::REMOVEDIR);
            }
        }
    }
    let _ = rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR);
}

type Tried = std::result::Result<(), String>;

fn said(what: &str) -> impl Fn(Errno) -> String + '_ {
    move |errno| format!("{what}: {errno}")
}

fn wrong(what: impl Into<String>) -> Tried {
    Err(what.into())
}

fn attempts(dir: &OwnedFd, owners: &[(u32, u32)]) -> Vec<(Ability, Tried)> {
    vec![
        (Ability::Owners, try_owners(dir, owners)),
        (Ability::Modes, try_modes(dir)),
        (Ability::Symlinks, try_symlinks(dir)),
        (Ability::HardLinks, try_hard_links(dir)),
        (Ability::SpecialFiles, try_special(dir)),
        (Ability::Nanoseconds, try_time(dir, c"nanos", 1_700_000_000, 123_456_789)),
        (
            Ability::FarTimes,
            try_time(dir, c"old", -86_400, 0).and_then(|()| try_time(dir, c"new", 4_200_000_000, 0)),
        ),
        (Ability::Rename, try_rename(dir)),
        (Ability::Fsync, try_fsync(dir)),
        (Ability::Locks, try_locks(dir)),
        (Ability::Names, try_names(dir)),
        (Ability::UserXattrs, try_xattr(dir, c"xattr", c"user.connect-migrator", b"x")),
        (Ability::Acls, try_xattr(dir, c"acl", c"system.posix_acl_access", &ACL)),
        (Ability::Capabilities, try_xattr(dir, c"capable", c"security.capability", &CAPABILITY)),
    ]
}

fn try_owners(dir: &OwnedFd, owners: &[(u32, u32)]) -> Tried {
    let file = make(dir, c"owned").map_err(said("make a file"))?;
    for (uid, gid) in owners {
        let (user, group) = (rustix::fs::Uid::from_raw(*uid), rustix::fs::Gid::from_raw(*gid));
        let what = format!("chown to {uid}:{gid}");
        rustix::fs::fchown(&file, Some(user), Some(group)).map_err(said(&what))?;
        let seen = look(dir, c"owned").map_err(said("look at a file"))?.stamp;
        if (seen.uid, seen.gid) != (*uid, *gid) {
            return wrong(format!("{what} left it to {}:{}", seen.uid, seen.gid));
        }
    }
    Ok(())
}

fn try_modes(dir: &OwnedFd) -> Tried {
    rustix::fs::mkdirat(dir, c"setgid", Mode::from_raw_mode(0o700)).map_err(said("make a folder"))?;
    let file = make(dir, c"setuid").map_err(said("make a file"))?;
    let folder = crate::source::open_dir(dir, c"setgid", false).map_err(said("open a folder"))?;
    for (fd, mode) in [(&folder, 0o2770), (&folder, 0o1777), (&file, 0o4755), (&file, 0o600)] {
        let what = format!("chmod to {mode:o}");
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(said(&what))?;
        let seen = look_open(fd).map_err(said("look at an entry"))?.stamp.permissions();
        if seen != mode {
            return wrong(format!("{what} made it {seen:o}"));
        }
    }
    Ok(())
}

fn try_symlinks(dir: &OwnedFd) -> Tried {
    rustix::fs::symlinkat(c"/nowhere/at all", dir, c"link").map_err(said("make a symbolic link"))?;
    let leads_to = crate::source::read_link(dir, c"link").map_err(said("read a symbolic link"))?;
    if leads_to.as_c_str() == c"/nowhere/at all" {
        Ok(())
    } else {
        wrong("a symbolic link came back changed")
    }
}

fn try_hard_links(dir: &OwnedFd) -> Tried {
    make(dir, c"one").map_err(said("make a file"))?;
    rustix::fs::linkat(dir, c"one", dir, c"two", AtFlags::empty()).map_err(said("make a hard link"))?;
    let inode = |name| look(dir, name).map(|seen| (seen.stamp.ino, seen.stamp.links));
    match (inode(c"one"), inode(c"two")) {
        (Ok(one), Ok(two)) if one == two && one.1 == 2 => Ok(()),
        _ => wrong("a hard link is not the same file"),
    }
}

fn try_special(dir: &OwnedFd) -> Tried {
    for (name, kind) in [(c"fifo", FileType::Fifo), (c"socket", FileType::Socket)] {
        rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(0o600), 0)
            .map_err(said("make a fifo or socket"))?;
    }
    Ok(())
}

fn try_time(dir: &OwnedFd, name: &CStr, seconds: i64, nanos: i64) -> Tried {
    make(dir, name).map_err(said("make a file"))?;
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(said("set a time"))?;
    let seen = look(dir, name).map_err(said("look at a file"))?.stamp.modified;
    if (seen.seconds, i64::from(seen.nanos)) == (seconds, nanos) {
        Ok(())
    } else {
        wrong(format!("the time {seconds}.{nanos:09} came back as {}.{:09}", seen.seconds, seen.nanos))
    }
}

fn try_rename(dir: &OwnedFd) -> Tried {
    let file = make(dir, c"beside").map_err(said("make a file"))?;
    make(dir, c"place").map_err(said("make a file"))?;
    rustix::fs::renameat(dir, c"beside", dir, c"place").map_err(said("rename over a file"))?;
    let inode = look_open(&file).map_err(said("look at a file"))?.stamp.ino;
    match look(dir, c"place") {
        Ok(seen) if seen.stamp.ino == inode => Ok(()),
        _ => wrong("a rename over a file left the old one"),
    }
}

fn try_fsync(dir: &OwnedFd) -> Tried {
    let file = make(dir, c"synced").map_err(said("make a file"))?;
    rustix::io::write(&file, b"x").map_err(said("write"))?;
    rustix::fs::fsync(&file).map_err(said("fsync a file"))?;
    rustix::fs::fsync(dir).map_err(said("fsync a folder"))
}

fn try_locks(dir: &OwnedFd) -> Tried {
    let file = make(dir, c"locked").map_err(said("make a file"))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(said("flock"))?;
    rustix::fs::flock(&file, FlockOperation::Unlock).map_err(said("flock"))?;
    rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(said("a POSIX lock"))
}

fn try_names(dir: &OwnedFd) -> Tried {
    for name in [b"case".as_slice(), b"CASE", b"latin1-\xe9\xff", b"new\nline", &[b'n'; NAME_BYTES]] {
        let name = CString::new(name).unwrap_or_default();
        make(dir, &name).map_err(said(&format!("make a file named {name:?}")))?;
    }
    Ok(())
}

fn try_xattr(dir: &OwnedFd, name: &CStr, key: &CStr, value: &[u8]) -> Tried {
    let file = make(dir, name).map_err(said("make a file"))?;
    let what = format!("set {}", key.to_string_lossy());
    rustix::fs::fsetxattr(&file, key, value, XattrFlags::empty()).map_err(said(&what))?;
    let mut back = vec![0_u8; 256];
    let length = rustix::fs::fgetxattr(&file, key, &mut back[..]).map_err(said(&what))?;
    if back.get(..length) == Some(value) { Ok(()) } else { wrong(format!("{what}: it came back changed")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_folder_holds_everything_and_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let probed = probe(dir.path(), &[(1001, 1001), (65_000, 65_000)]).unwrap();
        let lacks: Vec<_> = probed.found.iter().filter(|found| !found.has).collect();
        assert!(lacks.is_empty(), "{lacks:?}");
        assert_eq!(probed.found.len(), 15);
        assert!(!probed.remote && probed.free_bytes > 0);
        assert!(probed.clock_ahead_millis.abs() < 1_000, "{}", probed.clock_ahead_millis);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_written_says_so() {
        let probed = probe(Path::new("/proc"), &[]).unwrap();
        assert!(!probed.has(Ability::Write));
        assert!(probed.why(Ability::Write).contains("could not make"), "{}", probed.why(Ability::Write));
    }
}
