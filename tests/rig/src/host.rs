//! What the host must have, and getting it.

use std::process::Stdio;

use crate::{Error, program};

/// A program the rig starts, and the Debian package that has it.
const NEEDS: [(&str, &str); 10] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("flock", "util-linux"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("tar", "tar"),
];
/// What it takes besides to build an image without being root.
const NEEDS_AS_USER: (&str, &str) = ("newuidmap", "uidmap");

/// How long apt waits for another package manager that is at work, in seconds.
const APT_WAITS: &str = "DPkg::Lock::Timeout=300";

/// Makes sure that the host has what the rig needs. Missing Debian packages are installed when this user is root or
/// may use `sudo` without a password, after they have been told to `say`; else the error holds the one command
/// that does it. The host's package sources are never changed.
pub fn require(say: impl Fn(&str)) -> Result<(), Error> {
    let mut needs = NEEDS.to_vec();
    if !is_root() {
        needs.push(NEEDS_AS_USER);
    }
    let mut missing: Vec<&str> =
        needs.into_iter().filter(|(name, _)| !program::exists(name)).map(|(_, package)| package).collect();
    missing.dedup();
    install(&missing, say)
}

/// Installs Debian packages as [`require`] does.
pub fn install(missing: &[&str], say: impl Fn(&str)) -> Result<(), Error> {
    if missing.is_empty() {
        return Ok(());
    }
    let lacks = |line: String| Error::HostLacks { missing: missing.join(", "), line };
    if !program::exists("apt-get") {
        return Err(lacks(format!("this system's package manager (on Debian: {})", plain(missing))));
    }
    let prefix: &[&str] = match (is_root(), program::exists("sudo")) {
        (true, _) => &[],
        (false, true) if program::output("asking for sudo", "sudo", &["-n", "true"]).is_ok() => {
            &["sudo", "-n"]
        }
        _ => return Err(lacks(format!("sudo {}", plain(missing)))),
    };
    say(&format!("this host lacks the Debian packages {}; installing them", missing.join(", ")));
    // apt does not wait for another apt; tests that lack something run at once.
    let lock = std::env::temp_dir().join("connect-migrator-rig-apt.lock");
    let turn = std::fs::File::create(&lock).map_err(|e| Error::io("create", &lock, e))?;
    turn.lock().map_err(|e| Error::io("lock", &lock, e))?;
    apt(prefix, &["update"])?;
    let arguments = installable(missing)?;
    say(&format!(
        "{}apt-get {}",
        prefix.iter().map(|p| format!("{p} ")).collect::<String>(),
        arguments.join(" ")
    ));
    apt(prefix, &arguments)?;
    Ok(())
}

fn plain(packages: &[&str]) -> String {
    format!("apt-get install --no-install-recommends {}", packages.join(" "))
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn apt<A: AsRef<std::ffi::OsStr>>(prefix: &[&str], arguments: &[A]) -> Result<(), Error> {
    let mut words =
        prefix.iter().copied().chain(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", APT_WAITS]);
    let mut command = program::command(words.next().unwrap_or("env"));
    let ended = command.args(words).args(arguments).stdin(Stdio::null()).output();
    program::finish("installing what the rig needs", "apt-get", ended).map(drop)
}

/// The arguments with which apt can install the packages, found by simulating. A qemu-utils that came from another
/// suite (backports) does not go with the qemu of this one: then all of qemu is taken from that suite, and where
/// that suite is not among the host's sources, qemu-utils goes back to this one's version.
fn installable(packages: &[&str]) -> Result<Vec<String>, Error> {
    let candidates = ways(packages, &policy("qemu-utils"), &policy("qemu-system-x86"));
    let mut last = None;
    for arguments in candidates {
        let mut simulated = vec!["--simulate".to_owned()];
        simulated.extend(arguments.iter().cloned());
        match apt(&[], &simulated) {
            Ok(()) => return Ok(arguments),
            Err(error) => last = last.or(Some(error)),
        }
    }
    Err(last.unwrap_or_else(|| Error::HostLacks { missing: packages.join(", "), line: plain(packages) }))
}

fn policy(package: &str) -> String {
    program::output("asking apt for versions", "apt-cache", &["policy", package]).unwrap_or_default()
}

fn ways(packages: &[&str], utils: &str, system: &str) -> Vec<Vec<String>> {
    let install = |options: &[&str], more: Option<String>| {
        let mut words = vec!["install", "-y", "--no-install-recommends"];
        words.extend(options);
        let packages = packages.iter().map(|p| (*p).to_owned());
        words.into_iter().map(str::to_owned).chain(packages).chain(more).collect::<Vec<_>>()
    };
    let mut ways = vec![install(&[], None)];
    let installed = field(utils, "Installed:").filter(|version| *version != "(none)");
    if let Some(installed) = installed {
        if let Some(suite) = suite_of(system, installed) {
            ways.push(install(&["-t", suite], None));
        }
        if let Some(candidate) = field(system, "Candidate:") {
            ways.push(install(&["--allow-downgrades"], Some(format!("qemu-utils={candidate}"))));
        }
    }
    ways
}

fn field<'a>(policy: &'a str, name: &str) -> Option<&'a str> {
    policy.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim)
}

/// The suite that offers a version, from `apt-cache policy`: the line of the version is followed by
/// `  100 http://deb.debian.org/debian bookworm-backports/main amd64 Packages`.
fn suite_of<'a>(policy: &'a str, version: &str) -> Option<&'a str> {
    let mut lines = policy.lines().skip_while(|line| !line.contains("Version table"));
    lines.find(|line| line.split_whitespace().any(|word| word == version))?;
    lines
        .take_while(|line| line.ends_with("Packages") || line.contains("/var/lib/dpkg/status"))
        .find_map(|line| line.split_whitespace().nth(2)?.split_once('/').map(|(suite, _)| suite))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UTILS: &str = "qemu-utils:\n  Installed: 1:10.0~bpo12+1\n  Candidate: 1:10.0~bpo12+1\n";
    const SYSTEM: &str = "qemu-system-x86:\n  Installed: (none)\n  Candidate: 1:7.2\n  Version table:\n     \
        1:10.0~bpo12+1 100\n        100 http://m/debian bookworm-backports/main amd64 Packages\n     \
        1:7.2 500\n        500 http://m/debian bookworm/main amd64 Packages\n";

    #[test]
    fn the_plain_way_is_tried_first_and_alone_where_no_qemu_is_installed() {
        let ways = ways(&["mmdebstrap"], "qemu-utils:\n  Installed: (none)\n", SYSTEM);
        assert_eq!(ways, [["install", "-y", "--no-install-recommends", "mmdebstrap"]]);
    }

    #[test]
    fn a_qemu_from_backports_is_completed_from_backports() {
        let ways = ways(&["qemu-system-x86"], UTILS, SYSTEM);
        assert_eq!(ways[1][3..], ["-t", "bookworm-backports", "qemu-system-x86"]);
    }

    #[test]
    fn without_the_backports_source_qemu_utils_goes_back() {
        let system = "qemu-system-x86:\n  Installed: (none)\n  Candidate: 1:7.2\n  Version table:\n     \
                      1:7.2 500\n        500 http://m/debian bookworm/main amd64 Packages\n";
        let ways = ways(&["qemu-system-x86"], UTILS, system);
        assert_eq!(ways.len(), 2);
        assert_eq!(ways[1][3..], ["--allow-downgrades", "qemu-system-x86", "qemu-utils=1:7.2"]);
    }

    #[test]
    fn the_suite_of_a_version_is_read_from_the_policy() {
        assert_eq!(suite_of(SYSTEM, "1:10.0~bpo12+1"), Some("bookworm-backports"));
        assert_eq!(suite_of(SYSTEM, "1:7.2"), Some("bookworm"));
        assert_eq!(suite_of(SYSTEM, "1:8.0"), None);
    }
}
