//! Two trees compared by rsync and find.

use connect_migrator_rig::host;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

/// So many differences are told.
const TOLD_MAX: usize = 20;
/// Paths that rsync refuses because they are longer than PATH_MAX; find compares them.
const DEEP: &str = "/deep*";

/// Makes sure that the host has what the comparison needs, programs or files by their whole path: installs it, or panics with the
/// command that does.
///
/// # Panics
/// When a program is missing and cannot be installed.
#[allow(clippy::panic, reason = "only tests and benches call it")]
pub fn need(programs: &[(&str, &str)]) {
    let base = [("rsync", "rsync"), ("find", "findutils"), ("getfattr", "attr"), ("setfacl", "acl")];
    let missing: Vec<&str> = base
        .iter()
        .chain(programs)
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if let Err(error) = host::install(&missing, |line| eprintln!("{line}")) {
        panic!("{error}");
    }
}

fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}

fn ran(program: &str, arguments: &[&OsStr]) -> Output {
    let ended = Command::new(program).args(arguments).env("LC_ALL", "C").output();
    #[allow(clippy::panic, reason = "only tests and benches call it")]
    ended.unwrap_or_else(|error| panic!("{program} does not start: {error}"))
}

/// What differs between two trees according to rsync (content by check sum, owners, modes, times, links, xattrs, ACLs; both
/// ways) and find (nanoseconds, link counts, what is too deep for rsync). Empty when they are the same.
#[must_use]
pub fn differences(a: &Path, b: &Path) -> Vec<String> {
    let mut told = Vec::new();
    for (from, to) in [(a, b), (b, a)] {
        let (from, to) = (slashed(from), slashed(to));
        let out = ran(
            "rsync",
            &[
                OsStr::new("-aHAXn"),
                OsStr::new("--numeric-ids"),
                OsStr::new("--checksum"),
                OsStr::new("--delete"),
                OsStr::new("--itemize-changes"),
                OsStr::new("--exclude"),
                OsStr::new(DEEP),
                &from,
                &to,
            ],
        );
        told.extend(lines(&out.stdout).map(|line| format!("rsync: {line}")));
        told.extend(lines(&out.stderr).map(|line| format!("rsync says: {line}")));
    }
    let (listed_a, listed_b) = (listing(a), listing(b));
    for (which, these, those) in [("first", &listed_a, &listed_b), ("second", &listed_b, &listed_a)] {
        let others: std::collections::HashSet<&[u8]> = those.split(|byte| *byte == 0).collect();
        let only = these.split(|byte| *byte == 0).filter(|line| !others.contains(line));
        told.extend(only.map(|line| format!("find, only in the {which}: {}", String::from_utf8_lossy(line))));
    }
    told.truncate(TOLD_MAX);
    told
}

fn slashed(path: &Path) -> std::ffi::OsString {
    let mut path = path.as_os_str().to_owned();
    path.push("/");
    path
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

/// Every entry with type, mode, owner, group, time to the nanosecond, and for what is no folder links, target and size.
fn listing(root: &Path) -> Vec<u8> {
    let root = slashed(root);
    let format = [
        "(",
        "-type",
        "d",
        "-printf",
        r"%P|%y %m %U %G %T@\0",
        ")",
        "-o",
        "-printf",
        r"%P|%y %m %U %G %T@ %n %l %s\0",
    ];
    let mut arguments = vec![root.as_os_str()];
    arguments.extend(format.iter().map(OsStr::new));
    ran("find", &arguments).stdout
}
