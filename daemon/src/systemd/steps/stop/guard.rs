//! A mask that counts at once.
//!
//! systemd knows of a mask only once it has read all unit files again, which takes a second on a small machine: a second of
//! the window. So a drop-in is read before the window that makes every start fail while the link of the mask is there. It lies
//! in `/run`: a reboot removes it, and reads the mask itself.
//!
//! A flag beside it does the same from the stop on, so that a start fails also when somebody has removed the mask while the
//! container lives.

use super::{StopConfig, StopUndo};
use crate::systemd::steps::Ground;
use crate::systemd::units::{UnitStatus, Units};
use connect_migrator_sdk::{Context, Outcome, StepError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The drop-in's name.
const NAME: &str = "50-connect-migrator.conf";
/// The flag's name; systemd reads only what ends with `.conf`.
const FLAG: &str = "connect-migrator-stays-off";
/// Where the link of a mask lies.
const MASK_FOLDER: &str = "/etc/systemd/system";

pub(super) fn path(ground: &Ground, unit: &str) -> PathBuf {
    ground.runtime_units().join(format!("{unit}.d")).join(NAME)
}

fn flag(ground: &Ground, unit: &str) -> PathBuf {
    path(ground, unit).with_file_name(FLAG)
}

/// `systemctl start` prints `Assertion failed` and no more; whoever asks `systemctl status` then reads why in the title.
fn text(unit: &str, instance: &str, flag: &Path) -> String {
    format!(
        "# Written by connect-migrator for the time of a migration: a mask of {unit} counts at once,\n\
         # also before systemd has read it.\n\
         [Unit]\n\
         Description=Posit Connect, which connect-migrator moves into a container: see \"connect-migrator status {instance}\"\n\
         Documentation=man:connect-migrator(1)\n\
         AssertPathExists=!{MASK_FOLDER}/{unit}\n\
         AssertPathExists=!{}\n",
        flag.display()
    )
}

/// systemd has read the drop-in.
pub(super) fn is_read(ground: &Ground, status: &UnitStatus) -> bool {
    status.drop_in_paths.contains(&path(ground, &status.unit))
}

/// Nothing can start the unit: neither now nor after a reboot.
pub(super) fn keeps_stopped(ground: &Ground, status: &UnitStatus) -> bool {
    status.unit_file_state == "masked" && (status.load_state == "masked" || is_read(ground, status))
}

/// See [`Step::prepare`](connect_migrator_sdk::Step::prepare): puts the drop-in in place. Without it the migration runs too, only
/// its window is longer.
///
/// # Errors
/// When systemd does not answer, or the drop-in cannot be written.
pub async fn prepare(ground: &Ground, config: &StopConfig, cx: &Context) -> Result<Outcome, StepError> {
    let unit = config.unit(cx);
    let units = ground.units().await?;
    let status = units.status(unit).await?;
    let path = path(ground, unit);
    // Also when it is there: one that an earlier migration left behind is removed with this one.
    cx.record_undo(&StopUndo::Guarded { unit: unit.into() })?;
    if is_read(ground, &status) || keeps_stopped(ground, &status) {
        return Ok(Outcome::already_done(format!("{unit} cannot be started once it is masked")));
    }
    write(&path, &text(unit, &cx.migration().instance, &flag(ground, unit))).map_err(|error| {
        StepError::new(format!("write {}", path.display()))
            .because(error)
            .remedy("see that /run is writable and not full")
    })?;
    units.reload_unit_files().await?;
    let status = units.status(unit).await?;
    if is_read(ground, &status) {
        return Ok(Outcome::changed(format!(
            "{unit} cannot be started once it is masked: {}",
            path.display()
        )));
    }
    cx.warn(format!("systemd does not read {}; the window will be a little longer", path.display()));
    Ok(Outcome::changed(format!("wrote {}, which systemd does not read", path.display())))
}

/// From now on no start succeeds.
///
/// # Errors
/// When the flag cannot be written.
pub(super) fn raise_flag(ground: &Ground, unit: &str) -> Result<(), StepError> {
    let flag = flag(ground, unit);
    std::fs::write(&flag, "").map_err(|error| {
        StepError::new(format!("write {}", flag.display()))
            .because(error)
            .remedy("see that /run is writable and not full")
    })
}

/// From now on a start succeeds unless the unit is masked.
///
/// # Errors
/// When the flag cannot be removed.
pub(super) fn lower_flag(ground: &Ground, unit: &str) -> Result<(), StepError> {
    let flag = flag(ground, unit);
    match std::fs::remove_file(&flag) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StepError::new(format!("remove {}", flag.display()))
                .because(error)
                .remedy(format!("remove it by hand; {unit} does not start while it is there")))
        }
        _ => Ok(()),
    }
}

/// Removes the drop-in. Answers whether there was one.
///
/// # Errors
/// When it cannot be removed, or systemd does not answer.
pub(super) async fn remove(ground: &Ground, units: &Units, unit: &str) -> Result<bool, StepError> {
    lower_flag(ground, unit)?;
    let path = path(ground, unit);
    let removed = match std::fs::remove_file(&path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(StepError::new(format!("remove {}", path.display()))
                .because(error)
                .remedy(format!("remove it and run `systemctl daemon-reload`; it belongs to {unit}")));
        }
    };
    if let Some(folder) = path.parent() {
        // Only when nobody else has drop-ins there.
        let _ = std::fs::remove_dir(folder);
    }
    if removed || is_read(ground, &units.status(unit).await?) {
        units.reload_unit_files().await?;
    }
    Ok(removed)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    // systemd reads only names that end with `.conf`.
    let staged = path.with_extension("new");
    let _ = std::fs::remove_file(&staged);
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o644).open(&staged)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    // Whatever the umask: systemd and people may read it.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    std::fs::rename(&staged, path)
}
