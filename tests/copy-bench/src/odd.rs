//! Entries that copiers stumble over.

use crate::tree::{Grower, acl, own, set_time};
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};
use std::ffi::OsStr;
use std::fs;
use std::io::Result;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

const DEEP_LEVELS: usize = 30;
const DEEP_NAME_BYTES: usize = 190;
const OWNER: (u32, u32) = (997, 997);

/// Adds a folder `odd` with odd names, modes, owners, times, links, special files, xattrs and ACLs.
///
/// # Errors
/// When an entry cannot be made (needs root).
pub fn add_odd(root: &Path) -> Result<()> {
    let mut grower = Grower::new(root, 99)?;
    let odd = root.join("odd");
    grower.folder(&odd, 0o755, OWNER)?;
    let names: [&[u8]; 19] = [
        b"with space",
        b"new\nline",
        b"tab\there",
        b"-rf",
        b"--delete",
        b"*?[x]",
        b"quote'\"",
        b"back\\slash",
        b"  lead",
        b"trail ",
        "na\u{ef}ve-\u{65e5}\u{672c}-\u{1f600}".as_bytes(),
        b"nfd-e\xcc\x81",
        b"latin1-\xe9\xff\xfe",
        &[b'x'; 255],
        b".hidden",
        b"...",
        b"~",
        b"#x#",
        b"a:b",
    ];
    for name in names {
        grower.file(&odd.join(OsStr::from_bytes(name)), 100 + name.len(), 0o644, OWNER)?;
    }
    let weird = odd.join(OsStr::from_bytes(b"dir\n\xff \xe2\x98\x83"));
    for (folder, mode) in [
        (&weird, 0o755),
        (&odd.join("empty-dir"), 0o755),
        (&odd.join("no-access"), 0o000),
        (&odd.join("sticky"), 0o1777),
    ] {
        grower.folder(folder, mode, OWNER)?;
    }
    for (file, mode, owner) in [
        (weird.join("f"), 0o644, OWNER),
        (odd.join("no-access/in"), 0o644, OWNER),
        (odd.join("mode0000"), 0o000, OWNER),
        (odd.join("mode4755"), 0o4755, OWNER),
        (odd.join("mode2755"), 0o2755, OWNER),
        (odd.join("bigids"), 0o640, (2_000_000_001, 2_000_000_002)),
        (odd.join("old"), 0o644, OWNER),
        (odd.join("future"), 0o644, OWNER),
        (odd.join("only-hole"), 0o644, OWNER),
        (odd.join("h1"), 0o644, OWNER),
        (odd.join("xattr-many"), 0o644, OWNER),
        (odd.join("capable"), 0o755, OWNER),
    ] {
        grower.file(&file, 10, mode, owner)?;
    }
    set_time(&odd.join("old"), -500_000_000, 3)?;
    set_time(&odd.join("future"), 4_200_000_000, 5)?;
    fs::OpenOptions::new().write(true).truncate(true).open(odd.join("only-hole"))?.set_len(1 << 20)?;
    fs::create_dir_all(root.join("db"))?;
    fs::hard_link(odd.join("h1"), odd.join("h2"))?;
    fs::hard_link(odd.join("h1"), root.join("db/h3"))?;
    for (leads_to, name) in [
        (b"nowhere".as_slice(), "dangling"),
        (b".", "loop"),
        (&[b'y'; 4_000], "long-target"),
        (b"t\n\xff", "odd-target"),
    ] {
        symlink(OsStr::from_bytes(leads_to), odd.join(name))?;
    }
    own(&odd.join("dangling"), (1001, 1002))?;
    set_time(&odd.join("dangling"), 1_750_000_000, 123_456_789)?;
    rustix::fs::mknodat(CWD, odd.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?;
    drop(std::os::unix::net::UnixListener::bind(odd.join("sock"))?);
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::setxattr(odd.join(name), key, value, XattrFlags::empty())
    };
    for number in 0..20 {
        set("xattr-many", &format!("user.k{number}"), &[number; 64])?;
    }
    set("empty-dir", "user.onadir", b"\0bin\xff")?;
    let default =
        acl(&[(1, 7, u32::MAX), (2, 5, 1003), (4, 5, u32::MAX), (16, 5, u32::MAX), (32, 0, u32::MAX)]);
    set("empty-dir", "system.posix_acl_default", &default)?;
    let mut capability = Vec::new();
    for word in [0x0200_0001_u32, 1 << 10, 0, 0, 0] {
        capability.extend_from_slice(&word.to_le_bytes());
    }
    set("capable", "security.capability", &capability)?;
    grower.finish().map(drop)
}

/// Adds a chain of folders that is longer than PATH_MAX, with a file at its end. rsync and cp refuse it.
///
/// # Errors
/// When it cannot be made.
pub fn add_deep(root: &Path) -> Result<()> {
    let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(CWD, root, open, Mode::empty())?;
    for level in 0..DEEP_LEVELS {
        let name = format!("deep{level:02}-{}", "d".repeat(DEEP_NAME_BYTES));
        rustix::fs::mkdirat(&at, &name, Mode::from_raw_mode(0o755))?;
        at = rustix::fs::openat(&at, &name, open, Mode::empty())?;
    }
    let leaf = rustix::fs::openat(&at, "leaf", OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o644))?;
    rustix::io::write(&leaf, b"leaf\n")?;
    Ok(())
}
