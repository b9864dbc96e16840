//! The step host: the process in which a plugin's code runs, and the daemon's side of the talk with it.
//!
//! The daemon loads no foreign code. For every call it starts itself anew as `connect-migrator step-host`, which checks the
//! plugin's file ([`Trust`]), loads it, makes one call and ends. What they say to each other is
//! [`frames`](connect_migrator_sdk::frames). Whatever the plugin does (crash, hang, flood, lie), the call ends within its
//! bounds ([`HostLimits`]) with an answer or one [`CallFailure`].
//!
//! | daemon's side | step host's side |
//! |---|---|
//! | `conversation`: one call, its bounds, its end | `process`: start, one call, exit |
//! | `launcher`: how the process is started, `ahead`: before it is needed | `link`: the socket, and death when it closes |
//! | `lines`, `output`: bounded reading | `load`, `fit`: the C boundary |
//!
//! A step host ends at once when its socket closes: after a `kill -9` of the daemon nothing goes on changing things. What a
//! plugin starts belongs to the step host's process group and ends with it; a process that leaves the group is out of reach.
//!
//! In a unit of its own (`transient`) a call that changes things has a [`Seat`] instead, and goes on when the daemon is gone. What
//! it records then waits for a daemon that is back, so that nothing is changed unrecorded; how it ends is left in a file before it
//! is reported (`outcome`). A daemon that starts again takes part in the call that it finds running, or reads the file.

mod ahead;
mod built_in;
mod conversation;
mod failure;
mod fit;
mod launcher;
mod limits;
mod lines;
mod link;
mod listener;
mod load;
mod outcome;
mod output;
mod process;
mod sandbox;
mod transient;
mod trust;

pub use ahead::AheadLauncher;
pub use conversation::{CallRequest, call, describe, rejoin};
pub use failure::CallFailure;
pub use launcher::{ChildLauncher, Launcher, NotLaunched, Running, Start, StepProcess};
pub use limits::HostLimits;
pub use listener::Listener;
pub use outcome::{CallKey, Seat, found as outcome_found};
pub use process::step_host_main;
pub use sandbox::fault_of;
pub use transient::{SurvivorError, TransientLauncher};
pub use trust::{Trust, Untrusted};

use connect_migrator_sdk::boundary::{ABI_MAJOR, SYMBOL};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes read at once for a digest.
const DIGEST_CHUNK_BYTES: usize = 128 * 1024;
/// No plugin is larger; what lies behind is not looked at.
const PLUGIN_MAX_BYTES: u64 = 512 * 1024 * 1024;

/// Where a plugin's code is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PluginRef {
    /// Linked into the daemon.
    BuiltIn(String),
    /// A shared library.
    File(PathBuf),
}

impl std::fmt::Display for PluginRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PluginRef::BuiltIn(name) => f.write_str(name),
            PluginRef::File(path) => path.display().fmt(f),
        }
    }
}

/// Looks whether a plugin's file may be loaded, as a step host will.
///
/// # Errors
/// [`CallFailure::Refused`], with what is wrong and what to do about it.
pub fn check_trust(path: &Path) -> Result<(), CallFailure> {
    trusted(&Trust::default(), path).map(drop)
}

/// SHA-256 of a plugin's file in lower-case hexadecimal, if the file may be loaded; `None` for what is linked into the daemon.
///
/// # Errors
/// [`CallFailure::Refused`] when the file is not trusted or cannot be read.
pub fn digest(plugin: &PluginRef) -> Result<Option<String>, CallFailure> {
    digest_of(&Trust::default(), plugin)
}

/// [`digest`] of a file that is trusted by `trust`.
///
/// # Errors
/// As [`digest`].
pub fn digest_of(trust: &Trust, plugin: &PluginRef) -> Result<Option<String>, CallFailure> {
    let PluginRef::File(path) = plugin else { return Ok(None) };
    let mut file = trusted(trust, path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; DIGEST_CHUNK_BYTES];
    loop {
        let read = file.read(&mut chunk).map_err(|error| CallFailure::Refused {
            plugin: path.display().to_string(),
            why: format!("it cannot be read: {error}"),
            remedy: "check the disk that it is on".into(),
        })?;
        match chunk.get(..read) {
            None | Some([]) => break,
            Some(bytes) => hasher.update(bytes),
        }
    }
    let mut hex = String::new();
    for byte in hasher.finalize() {
        let _ = write!(hex, "{byte:02x}"); // writing into a string cannot fail
    }
    Ok(Some(hex))
}

/// The versions of the boundary for which a plugin's file names an entry point, from its bytes alone: `[1]`. Nothing of it is loaded.
///
/// # Errors
/// As [`digest`].
pub fn abi_named(plugin: &PluginRef) -> Result<Vec<u16>, CallFailure> {
    let PluginRef::File(path) = plugin else { return Ok(vec![ABI_MAJOR]) };
    let mut bytes = Vec::new();
    trusted(&Trust::default(), path)?.take(PLUGIN_MAX_BYTES).read_to_end(&mut bytes).map_err(|error| {
        CallFailure::Refused {
            plugin: path.display().to_string(),
            why: format!("it cannot be read: {error}"),
            remedy: "check the disk that it is on".into(),
        }
    })?;
    Ok(abi_in(&bytes))
}

/// The names of a library's symbols stand in its table of strings, each between zero bytes.
fn abi_in(bytes: &[u8]) -> Vec<u16> {
    let name = SYMBOL.trim_end_matches(|c: char| c.is_ascii_digit()).as_bytes();
    let number = |text: &[u8]| std::str::from_utf8(text.strip_prefix(name)?).ok()?.parse().ok();
    let mut found: Vec<u16> = bytes.split(|byte| *byte == 0).filter_map(number).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn trusted(trust: &Trust, path: &Path) -> Result<std::fs::File, CallFailure> {
    trust.open(path).map_err(|untrusted| CallFailure::Refused {
        plugin: path.display().to_string(),
        why: untrusted.to_string(),
        remedy: untrusted.remedy(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_of_the_boundary_are_read_from_the_names_of_symbols() {
        let strings = b"\x7fELF\0memcpy\0connect_migrator_plugin_v1\0connect_migrator_plugin_v12\0";
        assert_eq!(abi_in(strings), [1, 12]);
        let others =
            b"\0xconnect_migrator_plugin_v1\0connect_migrator_plugin_v\0connect_migrator_plugin_v1x\0";
        assert_eq!(abi_in(others), [] as [u16; 0]);
        assert_eq!(abi_named(&PluginRef::BuiltIn("systemd".into())).unwrap(), [ABI_MAJOR]);
    }

    #[test]
    fn the_digest_is_that_of_sha256sum() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.so");
        std::fs::write(&path, "abc").unwrap();
        let trust = Trust::in_a_test(nix::unistd::getuid().as_raw(), root.path());
        assert_eq!(
            digest_of(&trust, &PluginRef::File(path)).unwrap().unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest(&PluginRef::BuiltIn("systemd".into())).unwrap(), None);
    }
}
