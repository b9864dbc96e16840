//! Extended attributes, POSIX ACLs and file capabilities, and what is done where the target refuses them.

use crate::target::Target;
use rustix::io::{Errno, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const LIST_BYTES: usize = 64 << 10;
const VALUE_BYTES: usize = 64 << 10;
/// So many paths are kept as examples of what the target refused.
const EXAMPLES_MAX: usize = 20;

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// The kinds of extended attributes that a file system holds or refuses as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum XattrKind {
    /// POSIX ACLs.
    Acl,
    /// File capabilities.
    Capability,
    /// `user.*`
    User,
    /// `trusted.*`
    Trusted,
    /// Anything else.
    Other,
}

impl XattrKind {
    fn of(key: &[u8]) -> Self {
        match key {
            ACL_ACCESS | ACL_DEFAULT => XattrKind::Acl,
            b"security.capability" => XattrKind::Capability,
            _ if key.starts_with(b"user.") => XattrKind::User,
            _ if key.starts_with(b"trusted.") => XattrKind::Trusted,
            _ => XattrKind::Other,
        }
    }
}

impl std::fmt::Display for XattrKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            XattrKind::Acl => "POSIX ACLs",
            XattrKind::Capability => "file capabilities",
            XattrKind::User => "user extended attributes",
            XattrKind::Trusted => "trusted extended attributes",
            XattrKind::Other => "other extended attributes",
        })
    }
}

/// Whether an attribute is the entry's own. Labels are given by the target host's policy, hashes by its integrity
/// measurement, and what a network file system shows of its own ACLs is not an attribute.
fn is_carried(key: &[u8]) -> bool {
    let own = [b"user.".as_slice(), b"trusted.", b"security.", b"system.posix_acl_"];
    let others = [b"security.selinux".as_slice(), b"security.ima", b"security.evm", b"trusted.overlay."];
    own.iter().any(|prefix| key.starts_with(prefix)) && !others.iter().any(|prefix| key.starts_with(prefix))
}

/// An entry's extended attributes, those that are carried.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Xattrs(pub(crate) BTreeMap<CString, Vec<u8>>);

fn read(
    list: impl Fn(&mut [u8]) -> Result<usize>,
    get: impl Fn(&CStr, &mut [u8]) -> Result<usize>,
    small: &mut [u8],
) -> Result<Xattrs> {
    let length = match list(small) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(Errno::RANGE) => return read(list, get, &mut vec![0; LIST_BYTES]),
        Err(errno) => return Err(errno),
    };
    let mut found = BTreeMap::new();
    let keys = small.get(..length).unwrap_or_default();
    for key in keys.split(|byte| *byte == 0).filter(|key| is_carried(key)) {
        let Ok(key) = CString::new(key) else { continue };
        let mut value = vec![0; VALUE_BYTES];
        match get(&key, &mut value) {
            Ok(length) => {
                value.truncate(length);
                value.shrink_to_fit();
                found.insert(key, value);
            }
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(Xattrs(found))
}

impl Xattrs {
    /// Of an open file or folder.
    pub(crate) fn of_open(file: impl AsFd) -> Result<Self> {
        let file = file.as_fd();
        read(
            |buffer| rustix::fs::flistxattr(file, buffer),
            |key, buffer| rustix::fs::fgetxattr(file, key, buffer),
            &mut [0; 1024],
        )
    }

    /// Of an entry that is not opened (a link, a fifo).
    pub(crate) fn of_entry(dir: BorrowedFd<'_>, name: &CStr) -> Result<Self> {
        let path = entry_path(dir, name);
        read(
            |buffer| rustix::fs::llistxattr(&path, buffer),
            |key, buffer| rustix::fs::lgetxattr(&path, key, buffer),
            &mut [0; 1024],
        )
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a copy has others than these, apart from those that its file system refuses.
    pub(crate) fn differ_at(&self, copy: &Xattrs, refuses: impl Fn(&CStr) -> bool) -> bool {
        copy.0.iter().any(|(key, value)| self.0.get(key) != Some(value))
            || self.0.keys().any(|key| !copy.0.contains_key(key) && !refuses(key))
    }

    pub(crate) fn has_default_acl(&self) -> bool {
        self.0.keys().any(|key| key.to_bytes() == ACL_DEFAULT)
    }
}

/// A path to an entry of an open folder that follows nothing but the folder itself.
pub(crate) fn entry_path(dir: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

/// What the target could not hold.
#[derive(Debug, Clone, Serialize)]
pub struct Refused {
    /// What.
    pub kind: XattrKind,
    /// On how many entries of this pass.
    pub entries: u64,
    /// Some of them.
    pub examples: Vec<String>,
}

/// Collects what the target refuses.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<BTreeMap<XattrKind, (u64, Vec<String>)>>);

impl Refusals {
    fn held(&self) -> std::sync::MutexGuard<'_, BTreeMap<XattrKind, (u64, Vec<String>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, kind: XattrKind, path: &[u8]) {
        let mut held = self.held();
        let (count, examples) = held.entry(kind).or_default();
        *count += 1;
        if examples.len() < EXAMPLES_MAX {
            examples.push(String::from_utf8_lossy(path).into_owned());
        }
    }

    pub(crate) fn told(&self) -> Vec<Refused> {
        let held = self.held();
        held.iter()
            .map(|(kind, (entries, examples))| Refused {
                kind: *kind,
                entries: *entries,
                examples: examples.clone(),
            })
            .collect()
    }
}

/// Where attributes are set.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Onto<'a> {
    /// An open file or folder.
    Open(BorrowedFd<'a>),
    /// An entry that cannot be opened.
    Entry(BorrowedFd<'a>, &'a CStr),
}

/// Sets the attributes; what the target refuses is noted. Answers with the mode that the copy must get instead of `mode`
/// when its ACL was refused: with an ACL the group's bits are the mask, and without it they would give the group more
/// than it had.
pub(crate) fn set_all(
    target: &Target,
    onto: Onto<'_>,
    xattrs: &Xattrs,
    mode: u32,
    refusals: &Refusals,
    path: &[u8],
) -> Result<u32> {
    let mut mode = mode;
    for (key, value) in &xattrs.0 {
        let set = match onto {
            Onto::Open(file) => target.set_xattr_open(file, key, value),
            Onto::Entry(dir, name) => target.set_xattr_link(&entry_path(dir, name), key, value),
        };
        match set {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => {
                refusals.note(XattrKind::of(key.to_bytes()), path);
                if key.to_bytes() == ACL_ACCESS {
                    mode = without_acl(value, mode);
                }
            }
            // Of an attribute this mostly says that it does not fit beside the file, while there is room enough for others.
            Err(Errno::NOSPC) => return Err(Errno::TOOBIG),
            Err(errno) => return Err(errno),
        }
    }
    Ok(mode)
}

/// The mode that gives nobody more without the ACL than they had with it.
pub(crate) fn without_acl(acl: &[u8], mode: u32) -> u32 {
    const GROUP_OBJ: u16 = 0x04;
    const MASK: u16 = 0x10;
    let (mut group, mut mask) = (0o7, 0o7);
    for entry in acl.get(4..).unwrap_or_default().chunks_exact(8) {
        let [t0, t1, p0, p1, ..] = *entry else { continue };
        let (tag, permissions) = (u16::from_le_bytes([t0, t1]), u32::from(u16::from_le_bytes([p0, p1])));
        match tag {
            GROUP_OBJ => group = permissions,
            MASK => mask = permissions,
            _ => {}
        }
    }
    (mode & !0o070) | ((group & mask & 0o7) << 3)
}

/// Whether a file system refuses attributes like this one, asked at the root of a tree.
pub(crate) fn is_refused(root: impl AsFd, key: &CStr) -> bool {
    let value = &mut [0_u8; 1][..];
    matches!(rustix::fs::fgetxattr(root, key, value), Err(Errno::OPNOTSUPP))
}

/// The kind of an attribute.
pub(crate) fn kind_of(key: &CStr) -> XattrKind {
    XattrKind::of(key.to_bytes())
}

/// What a mode becomes where this ACL is refused; `None` for what is no access ACL.
pub(crate) fn without_acl_of(key: &CStr, value: &[u8], mode: u32) -> Option<u32> {
    (key.to_bytes() == ACL_ACCESS).then(|| without_acl(value, mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_its_acl_a_file_gives_the_group_no_more_than_the_acl_did() {
        let entry = |tag: u16, permissions: u16| {
            [tag.to_le_bytes(), permissions.to_le_bytes(), [0xff; 2], [0xff; 2]].concat()
        };
        let acl = [
            vec![2, 0, 0, 0],
            entry(0x01, 6),
            entry(0x02, 4),
            entry(0x04, 4),
            entry(0x10, 6),
            entry(0x20, 0),
        ]
        .concat();
        assert_eq!(without_acl(&acl, 0o100_660), 0o100_640);
    }

    #[test]
    fn labels_of_this_host_are_not_carried() {
        assert!(is_carried(b"user.origin") && is_carried(b"security.capability"));
        assert!(!is_carried(b"security.selinux") && !is_carried(b"system.nfs4_acl"));
    }
}
