//! The mount as a systemd unit that is there after every boot, before a container engine starts.

use crate::settings::Settings;
use crate::trial::{Trial, try_export};
use connect_migrator_sdk::StepError;
use connect_migrator_units::{ANSWER_TIMEOUT_SECONDS, Systemd};
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a mount or unmount may take; the unit says the same to systemd.
pub const MOUNT_TIMEOUT_SECONDS: u64 = 90;
/// How long systemd may take to mount, or unmount, and to say so.
const JOB_TIMEOUT: Duration = Duration::from_secs(MOUNT_TIMEOUT_SECONDS + ANSWER_TIMEOUT_SECONDS);
/// Where units of the administrator are.
const UNITS_DIR: &str = "/etc/systemd/system";
/// The table of mounts.
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// What is mounted somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// `nas:/export/connect`
    pub what: String,
    /// `nfs4`
    pub kind: String,
    /// Options of the mount and its file system.
    pub options: String,
}

/// Mounts by systemd, or as a test likes it.
pub trait Mounter: Send + Sync {
    /// What is mounted at `path`, `None` if nothing is.
    ///
    /// # Errors
    /// When it cannot be told.
    fn mounted(&self, path: &Path) -> Result<Option<Mounted>, StepError>;
    /// Makes systemd read its units, enables and starts the unit.
    ///
    /// # Errors
    /// When it does not start.
    fn start(&self, unit: &Path) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Stops and disables the unit and removes its file.
    ///
    /// # Errors
    /// When it does not stop, for example because it is in use.
    fn stop(&self, unit: &Path) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Where units are.
    fn units_dir(&self) -> PathBuf;
    /// Mounts the export where only this call sees it, and looks at it.
    fn try_export(
        &self,
        settings: &Settings,
        owners: Vec<(u32, u32)>,
    ) -> impl Future<Output = Result<Result<Trial, String>, tokio::task::JoinError>> + Send {
        let settings = settings.clone();
        tokio::task::spawn_blocking(move || try_export(&settings, &owners))
    }
}

/// The name of the mount unit of a path, as systemd wants it: `/mnt/connect-data` is `mnt-connect\x2ddata.mount`.
#[must_use]
pub fn unit_name(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let trimmed = path.as_os_str().as_bytes();
    let trimmed: &[u8] = trimmed.strip_prefix(b"/").unwrap_or(trimmed);
    let trimmed = trimmed.strip_suffix(b"/").unwrap_or(trimmed);
    let mut name = String::new();
    for (at, byte) in trimmed.iter().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at == 0 => name.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => name.push(char::from(*byte)),
            other => name.push_str(&format!("\\x{other:02x}")),
        }
    }
    name.push_str(".mount");
    name
}

/// The unit file.
#[must_use]
pub fn unit_text(export: &str, mount: &Path, options: &str) -> String {
    let where_ = mount.to_string_lossy().replace('%', "%%");
    let what = export.replace('%', "%%");
    format!(
        "# Written by connect-migrator for its step nfs. Removed by its rollback.\n\
         [Unit]\n\
         Description=Data of Posit Connect\n\
         Documentation=https://docs.posit.co/connect/admin/server-management/migration/nfs/\n\
         Before=docker.service podman.service podman-restart.service\n\
         \n\
         [Mount]\n\
         What={what}\n\
         Where={where_}\n\
         Type=nfs\n\
         Options={options},_netdev\n\
         TimeoutSec={MOUNT_TIMEOUT_SECONDS}\n\
         \n\
         [Install]\n\
         WantedBy=remote-fs.target\n"
    )
}

/// Writes the unit file. Answers whether it was other before.
///
/// # Errors
/// When it cannot be written, or another one stands there that is not ours.
pub fn write_unit(path: &Path, text: &str) -> Result<bool, StepError> {
    let failed = |error: std::io::Error| {
        StepError::new(format!("write the unit {}", path.display()))
            .because(error)
            .remedy("see that this runs as root and that the disk is neither full nor read-only")
    };
    match fs::read_to_string(path) {
        Ok(have) if have == text => return Ok(false),
        Ok(have) if !is_ours(&have) => {
            return Err(StepError::new(format!("write the unit {}", path.display()))
                .because("there is one of somebody else's")
                .remedy("mount the export there yourself, or choose another mount point"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let beside = path.with_extension("mount.new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&beside)
        .map_err(failed)?;
    std::io::Write::write_all(&mut file, text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path))
        .map_err(failed)?;
    Ok(true)
}

/// Whether a unit file is one that this step wrote.
#[must_use]
pub fn is_ours(text: &str) -> bool {
    text.starts_with("# Written by connect-migrator")
}

/// Finds a mount point in the table of mounts; the last one mounted there counts.
#[must_use]
pub fn find_mount(table: &str, path: &Path) -> Option<Mounted> {
    let wanted = path.to_string_lossy();
    table.lines().rev().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let head: Vec<&str> = head.split(' ').collect();
        let at = unescape(head.get(4)?);
        if at != wanted {
            return None;
        }
        let mut tail = tail.split(' ');
        let (kind, what, more) = (tail.next()?, tail.next()?, tail.next().unwrap_or_default());
        let options = format!("{},{more}", head.get(5)?);
        Some(Mounted { what: unescape(what), kind: kind.into(), options })
    })
}

/// The kernel writes spaces and the like as octal numbers.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let octal = (byte == b'\\').then(|| {
            let digits: Vec<u8> = bytes.clone().take(3).collect();
            std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 8).ok())
        });
        match octal.flatten() {
            Some(value) => {
                out.push(value);
                bytes.nth(2);
            }
            None => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn name_of(unit: &Path) -> String {
    unit.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Mounter for Systemd {
    fn mounted(&self, path: &Path) -> Result<Option<Mounted>, StepError> {
        let table = fs::read_to_string(MOUNTINFO)
            .map_err(|error| StepError::new(format!("read {MOUNTINFO}")).because(error))?;
        Ok(find_mount(&table, path))
    }

    async fn start(&self, unit: &Path) -> Result<(), StepError> {
        let name = name_of(unit);
        self.read_units().await?;
        self.enable(&name).await?;
        Ok(Systemd::start(self, &name, JOB_TIMEOUT).await?)
    }

    async fn stop(&self, unit: &Path) -> Result<(), StepError> {
        let name = name_of(unit);
        if !unit.exists() {
            return Ok(());
        }
        Systemd::stop(self, &name, JOB_TIMEOUT).await?;
        self.disable(&name).await?;
        fs::remove_file(unit)
            .map_err(|error| StepError::new(format!("remove the unit {}", unit.display())).because(error))?;
        Ok(self.read_units().await?)
    }

    fn units_dir(&self) -> PathBuf {
        UNITS_DIR.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_named_as_systemd_wants_it() {
        for (path, name) in [
            ("/mnt/connect", "mnt-connect.mount"),
            ("/srv/connect-data", "srv-connect\\x2ddata.mount"),
            ("/srv/a b/.c", "srv-a\\x20b-.c.mount"),
        ] {
            assert_eq!(unit_name(Path::new(path)), name);
        }
    }

    #[test]
    fn a_mount_is_found_by_its_path_and_the_last_one_counts() {
        let table = "36 35 98:0 / /mnt/a\\040b rw,noatime shared:1 - nfs4 nas:/x rw,vers=4.2,hard\n\
                     37 35 98:1 / /mnt/c rw - ext4 /dev/sda1 rw\n\
                     38 35 98:2 / /mnt/c rw,relatime - nfs4 nas:/y rw,hard\n";
        let found = find_mount(table, Path::new("/mnt/a b")).unwrap();
        assert_eq!((found.what.as_str(), found.kind.as_str()), ("nas:/x", "nfs4"));
        assert_eq!(found.options, "rw,noatime,rw,vers=4.2,hard");
        assert_eq!(find_mount(table, Path::new("/mnt/c")).unwrap().what, "nas:/y");
        assert!(find_mount(table, Path::new("/mnt")).is_none());
    }

    #[test]
    fn a_unit_of_somebody_else_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let unit = dir.path().join("mnt-connect.mount");
        let text = unit_text("nas:/export", Path::new("/mnt/connect"), "hard");
        assert!(write_unit(&unit, &text).unwrap());
        assert!(!write_unit(&unit, &text).unwrap());
        assert!(text.contains("Before=docker.service") && text.contains("WantedBy=remote-fs.target"));
        fs::write(&unit, "[Mount]\nWhat=theirs\n").unwrap();
        assert!(write_unit(&unit, &text).is_err());
    }
}
