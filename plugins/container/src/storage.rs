//! What kind of storage the data directory lies on.

use std::path::{Path, PathBuf};

/// File systems that several machines can share and that keep owners, links and locks.
const SHARED: [&str; 10] =
    ["nfs", "nfs4", "ceph", "fuse.ceph", "fuse.glusterfs", "lustre", "gpfs", "beegfs", "gfs2", "ocfs2"];
/// Network file systems that do not keep what Connect needs.
const UNSUITABLE: [&str; 6] = ["cifs", "smb3", "smbfs", "fuse.sshfs", "fuse.s3fs", "9p"];

/// Whether storage suits a container that others may have to take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Shared.
    Shared,
    /// A disk of this host.
    Local,
    /// Shared, but without what Connect needs.
    Unsuitable,
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub at: PathBuf,
    /// `nfs4`, `ext4`, …
    pub fs: String,
    /// What: `nas:/export/connect`.
    pub source: String,
}

impl Mounted {
    /// Judges it by its type.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.fs.as_str() {
            fs if SHARED.contains(&fs) => Kind::Shared,
            fs if UNSUITABLE.contains(&fs) => Kind::Unsuitable,
            _ => Kind::Local,
        }
    }
}

/// The file system that holds a path, from the text of `/proc/self/mountinfo`.
#[must_use]
pub fn holding(path: &Path, mountinfo: &str) -> Option<Mounted> {
    // The last of several mounts on one place is the one that is seen.
    let mut best: Option<Mounted> = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(at), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
        let at = PathBuf::from(unescaped(at));
        let longer = best.as_ref().is_none_or(|b| at.as_os_str().len() >= b.at.as_os_str().len());
        if path.starts_with(&at) && longer {
            let fs = right.next().unwrap_or_default().to_owned();
            best = Some(Mounted { at, fs, source: unescaped(right.next().unwrap_or_default()) });
        }
    }
    best
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match code.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The name of the unit that mounts a folder, as systemd makes it.
#[must_use]
pub fn mount_unit(path: &Path) -> String {
    let text = path.to_string_lossy();
    let trimmed = text.trim_matches('/');
    if trimmed.is_empty() {
        return "-.mount".into();
    }
    let mut name = String::new();
    for (index, byte) in trimmed.bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if index == 0 => name.push_str("\\x2e"),
            byte if byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'.') => {
                name.push(char::from(byte));
            }
            byte => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    name + ".mount"
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "22 1 0:20 / / rw - ext4 /dev/vda rw\n\
        30 22 0:30 / /mnt rw,relatime shared:1 - tmpfs tmpfs rw\n\
        31 30 0:31 / /mnt/my\\040data rw shared:2 master:1 - nfs4 nas:/export rw,vers=4.2\n\
        32 22 0:32 / /srv rw - xfs /dev/vdb rw\n33 22 0:33 / /srv rw - cifs //nas/x rw\n";

    #[test]
    fn the_nearest_and_last_mount_holds_a_path() {
        for (path, fs, kind) in [
            ("/mnt/my data/connect", "nfs4", Kind::Shared),
            ("/mnt/my", "tmpfs", Kind::Local),
            ("/var/lib", "ext4", Kind::Local),
            ("/srv/x", "cifs", Kind::Unsuitable),
        ] {
            let mounted = holding(Path::new(path), INFO).unwrap();
            assert_eq!((mounted.fs.as_str(), mounted.kind()), (fs, kind), "{path}");
        }
        assert_eq!(holding(Path::new("/x"), "garbage\n - \n"), None);
    }

    #[test]
    fn mount_units_are_named_as_systemd_names_them() {
        for (path, unit) in [
            ("/mnt/connect", "mnt-connect.mount"),
            ("/mnt/my data/", "mnt-my\\x20data.mount"),
            ("/mnt/a-b", "mnt-a\\x2db.mount"),
            ("/.x", "\\x2ex.mount"),
            ("/", "-.mount"),
        ] {
            assert_eq!(mount_unit(Path::new(path)), unit);
        }
    }
}
