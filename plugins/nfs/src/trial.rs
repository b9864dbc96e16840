//! Trying an export before anything is changed: it is mounted where only this call can see it, and gone when the call ends.

use crate::settings::Settings;
use connect_migrator_copy::{Probed, probe};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long mounting for a trial may take.
const MOUNT_SECONDS: u64 = 30;
/// How often it is looked at meanwhile.
const POLL_MILLIS: u64 = 20;
/// So that a server that stops answering ends the trial: five seconds, twice, then an error.
const TRIAL_OPTIONS: &str = "soft,timeo=50,retrans=1";

/// What a trial found.
#[derive(Debug, Clone)]
pub struct Trial {
    /// What it can hold.
    pub probed: Probed,
    /// The names at its root.
    pub names: Vec<String>,
    /// The options in effect; without those of the trial itself.
    pub options: String,
}

/// Looks at a mounted export.
///
/// # Errors
/// When it cannot be looked at.
pub fn look(at: &Path, owners: &[(u32, u32)], table: &str) -> Result<Trial, String> {
    let probed = probe(at, owners).map_err(|error| error.to_string())?;
    let names = std::fs::read_dir(at)
        .and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        })
        .map_err(|error| format!("could not list {}: {error}", at.display()))?;
    let table = std::fs::read_to_string(table).unwrap_or_default();
    let options = crate::units::find_mount(&table, at).map(|mounted| mounted.options).unwrap_or_default();
    Ok(Trial { probed, names, options })
}

/// Mounts the export in a mount namespace of a thread of its own, and looks at it there.
///
/// # Errors
/// When it cannot be mounted or looked at, with what mount(8) said.
pub fn try_export(settings: &Settings, owners: &[(u32, u32)]) -> Result<Trial, String> {
    std::thread::scope(|scope| {
        let tried = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)
                .map_err(|errno| format!("could not make a mount namespace: {errno}"))?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .map_err(|errno| format!("could not keep mounts to this call: {errno}"))?;
            let at = scratch()?;
            mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=700"))
                .map_err(|errno| format!("could not mount a scratch folder: {errno}"))?;
            let at = at.join("export");
            std::fs::create_dir(&at).map_err(|error| format!("could not make {}: {error}", at.display()))?;
            mount_export(settings, &at)?;
            look(&at, owners, "/proc/thread-self/mountinfo")
        });
        tried.join().unwrap_or_else(|_| Err("the trial broke off".into()))
    })
}

/// A folder that every system has and that nobody minds being covered in this namespace.
fn scratch() -> Result<PathBuf, String> {
    ["/mnt", "/media", "/srv"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_dir())
        .ok_or_else(|| "there is neither /mnt nor /media nor /srv to mount at for a trial".into())
}

fn mount_export(settings: &Settings, at: &Path) -> Result<(), String> {
    let kept = settings.options.split(',').filter(|option| *option != "hard");
    let options: Vec<&str> = kept.chain([TRIAL_OPTIONS]).collect();
    let mut child = Command::new("mount")
        .args(["-t", "nfs", "-o", &options.join(","), "--", &settings.export])
        .arg(at)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .env("LC_ALL", "C")
        .spawn()
        .map_err(|error| format!("mount does not start: {error}"))?;
    let end = Instant::now() + Duration::from_secs(MOUNT_SECONDS);
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(POLL_MILLIS)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("mount did not end within {MOUNT_SECONDS} s"));
            }
            Err(error) => return Err(format!("mount cannot be waited for: {error}")),
        }
    }
    let ended = child.wait_with_output().map_err(|error| format!("mount cannot be waited for: {error}"))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(format!("mount said: {}", said.trim().replace('\n', "; ")))
}
