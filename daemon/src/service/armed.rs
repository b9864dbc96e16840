//! A reboot goes on with a migration: its unit is enabled, only for the time of the migration and only while it is to go on.

use super::Teller;
use crate::instance::Instance;
use crate::systemd::journal;
use crate::systemd::units::Units;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Left in the state directory while the unit is enabled only for the time of the migration.
const ARMED: &str = "armed";

type Tried<T> = Result<T, Box<dyn std::error::Error>>;

fn marker(instance: &Instance) -> PathBuf {
    instance.state_dir().join(ARMED)
}

/// Whether the unit is enabled only for the time of the migration.
pub(crate) fn is_armed(instance: &Instance) -> bool {
    marker(instance).exists()
}

/// Lets the run go on after a reboot: enables the unit for the time of the migration, unless it is enabled anyway.
pub(super) async fn arm(instance: &Instance, teller: &Teller) {
    let (unit, marker) = (instance.unit(), marker(instance));
    let armed = async {
        let units = Units::system().await?;
        if units.status(&unit).await?.unit_file_state == "disabled" {
            // First: a unit that stays enabled begins another migration at the next boot.
            write_marker(&marker)?;
            units.enable(&unit).await?;
        }
        Tried::Ok(())
    };
    if let Err(error) = armed.await {
        told(teller, &format!("could not enable {unit} for the time of the migration: {error}"));
    }
}

/// Lets no reboot go on with it. Answers whether one does all the same, because somebody else has enabled the unit.
///
/// # Errors
/// When systemd does not do it.
pub(crate) async fn disarm(instance: &Instance) -> Tried<bool> {
    let (unit, marker) = (instance.unit(), marker(instance));
    let units = Units::system().await?;
    if marker.exists() {
        units.disable(&unit).await?;
        std::fs::remove_file(&marker)?;
        return Ok(false);
    }
    Ok(units.status(&unit).await?.unit_file_state == "enabled")
}

/// [`disarm`] by the daemon. `is_open`: the migration is not over, so that a reboot which goes on with it matters.
pub(super) async fn disarmed(instance: &Instance, is_open: bool, teller: &Teller) {
    match disarm(instance).await {
        Ok(stays_enabled) if stays_enabled && is_open => told(teller, &goes_on_all_the_same(instance)),
        Ok(_) => {}
        Err(error) => {
            told(
                teller,
                &format!(
                    "could not disable {}, which is enabled for the time of the migration: {error}",
                    instance.unit()
                ),
            );
        }
    }
}

/// What to say where a reboot goes on with a migration that stands still.
pub(crate) fn goes_on_all_the_same(instance: &Instance) -> String {
    let unit = instance.unit();
    format!(
        "{unit} was enabled by somebody, so that a reboot goes on with it; `systemctl disable {unit}` if it should not"
    )
}

fn told(teller: &Teller, why: &str) {
    teller.aside(journal::ids::AROUND_FAILED, journal::Priority::Warning, why);
}

/// Durable when it returns.
fn write_marker(marker: &Path) -> std::io::Result<()> {
    let mut file = File::create(marker)?;
    file.write_all(b"enabled for the time of the migration\n")?;
    file.sync_all()?;
    marker.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
