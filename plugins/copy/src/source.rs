//! The tree that is read: every step down is made from an open directory, follows no symbolic link and enters no mount.

use crate::error::{CopyError, failed};
use crate::stamp::{Seen, look_open};
use rustix::fs::{Mode, OFlags, RawDir, ResolveFlags, openat2};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The longest path handed to the kernel at once; what is longer is opened in pieces.
const PIECE_BYTES: usize = 3_000;
const LIST_BUFFER_BYTES: usize = 32 << 10;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How far a name may lead.
fn within(cross_mounts: bool) -> ResolveFlags {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    if cross_mounts { beneath } else { beneath | ResolveFlags::NO_XDEV }
}

/// Whether this kernel can open what lies below a folder without being led out of it (`openat2`, Linux 5.6). Nothing can be copied
/// otherwise. Changes nothing.
#[must_use]
pub fn kernel_suffices() -> bool {
    let opened = openat2(rustix::fs::CWD, c".", DIRECTORY, Mode::empty(), within(true));
    !matches!(opened, Err(Errno::NOSYS))
}

/// Whether an error on the source's side says that an entry is gone, or is another kind of entry by now: users work there, and the
/// next pass sees what came of it. A server says `STALE` of what is gone there.
pub(crate) fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE)
}

/// Opens the root of a tree; here symbolic links in the path are the caller's own.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, CopyError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open the folder", path, errno))
}

/// Opens a folder of an open folder. `XDEV` for a mount point, `LOOP` or `NOTDIR` for what is no folder (any more).
pub(crate) fn open_dir(dir: impl AsFd, name: &CStr, cross_mounts: bool) -> rustix::io::Result<OwnedFd> {
    openat2(dir, name, DIRECTORY, Mode::empty(), within(cross_mounts))
}

/// Opens the folder at `path` below `root`, however long the path.
pub(crate) fn open_below(root: impl AsFd, path: &[u8], cross_mounts: bool) -> rustix::io::Result<OwnedFd> {
    let mut rest = path;
    let mut at: Option<OwnedFd> = None;
    loop {
        let (piece, next) = split_piece(rest);
        let piece =
            CString::new(if piece.is_empty() { b".".as_slice() } else { piece }).map_err(|_| Errno::INVAL)?;
        let opened = match &at {
            Some(fd) => open_dir(fd, &piece, cross_mounts)?,
            None => open_dir(root.as_fd(), &piece, cross_mounts)?,
        };
        if next.is_empty() {
            return Ok(opened);
        }
        at = Some(opened);
        rest = next;
    }
}

fn split_piece(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PIECE_BYTES {
        return (path, &[]);
    }
    let Some((head, _)) = path.split_at_checked(PIECE_BYTES) else { return (path, &[]) };
    match head.iter().rposition(|byte| *byte == b'/') {
        Some(cut) => {
            let (piece, rest) = path.split_at(cut);
            (piece, rest.get(1..).unwrap_or_default())
        }
        None => (path, &[]),
    }
}

/// Opens a regular file for reading without touching its access time where that is allowed. Never waits for a fifo.
pub(crate) fn open_file(
    dir: impl AsFd,
    name: &CStr,
    cross_mounts: bool,
) -> rustix::io::Result<(OwnedFd, Seen)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |more: OFlags| openat2(dir.as_fd(), name, flags | more, Mode::empty(), within(cross_mounts));
    let file = match open(OFlags::NOATIME) {
        Err(Errno::PERM) => open(OFlags::empty())?,
        opened => opened?,
    };
    let seen = look_open(&file)?;
    Ok((file, seen))
}

/// Reads a link's target.
pub(crate) fn read_link(dir: impl AsFd, name: &CStr) -> rustix::io::Result<CString> {
    rustix::fs::readlinkat(dir, name, Vec::new())
}

/// The names in an open directory, in the file system's order.
pub(crate) fn list(dir: impl AsFd) -> rustix::io::Result<Vec<CString>> {
    let mut buffer = Vec::with_capacity(LIST_BUFFER_BYTES);
    let mut names = Vec::new();
    let mut entries = RawDir::new(dir.as_fd(), buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// `dir/name`, or `name` in the root.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + name.len() + 1);
    if !dir.is_empty() {
        path.extend_from_slice(dir);
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_is_cut_at_a_slash() {
        let long = [vec![b'a'; 2_000], vec![b'b'; 2_000], vec![b'c'; 10]].join(&b'/');
        let (piece, rest) = split_piece(&long);
        assert_eq!(piece.len(), 2_000);
        assert!(rest.starts_with(b"bbb"));
        assert_eq!(split_piece(b"a/b"), (b"a/b".as_slice(), b"".as_slice()));
    }

    #[test]
    fn a_symbolic_link_on_the_way_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let root = open_root(dir.path()).unwrap();
        assert!(open_below(&root, b"real", false).is_ok());
        assert!(matches!(open_below(&root, b"link", false), Err(Errno::LOOP | Errno::NOTDIR)));
        assert!(open_below(&root, b"..", false).is_err());
    }
}
