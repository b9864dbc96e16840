//! The part of systemd's D-Bus interface that is used here; the whole is in `org.freedesktop.systemd1(5)`.

use zbus::{OwnedObjectPath, Variant};

/// A change to the links of unit files: what was done (`symlink`, `unlink`), on which path, pointing where.
pub type UnitFileChange = (String, String, String);

/// A unit in a list: name, description, load state, active state, sub state, followed unit, object, job, its kind, its object.
pub type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// The manager of all units.
#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub trait Manager {
    /// Asks for signals: without a subscriber systemd sends none.
    fn subscribe(&self) -> zbus::Result<()>;

    /// The object of a unit, which is loaded if it is not.
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;

    /// Makes a job that starts the unit.
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    /// Makes a job that stops the unit.
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    /// Makes a job that restarts the unit.
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    /// Makes a job that makes the unit read its configuration again.
    fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    /// Links units to `/dev/null`.
    fn mask_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<Vec<UnitFileChange>>;

    /// Removes links to `/dev/null`.
    fn unmask_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<Vec<UnitFileChange>>;

    /// Links units into what wants them.
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<UnitFileChange>)>;

    /// Removes such links.
    fn disable_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<Vec<UnitFileChange>>;

    /// Reads all unit files again. Answers when that is done.
    fn reload(&self) -> zbus::Result<()>;

    /// `enabled`, `disabled`, `static`, `masked`, …
    fn get_unit_file_state(&self, file: &str) -> zbus::Result<String>;

    /// Makes and starts a unit that has no file.
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        beside: &[(&str, Vec<(&str, Variant<'_>)>)],
    ) -> zbus::Result<OwnedObjectPath>;

    /// The object of a unit that is loaded.
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;

    /// Sends a signal to processes of the unit: `main`, `control`, `all`.
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;

    /// Keeps the unit loaded as long as this connection lives.
    fn ref_unit(&self, name: &str) -> zbus::Result<()>;

    /// Undoes `ref_unit`.
    fn unref_unit(&self, name: &str) -> zbus::Result<()>;

    /// The loaded units in these states (all, if none is named) whose names match one of the patterns.
    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<ListedUnit>>;

    /// `running`, `degraded`, `stopping`, …
    #[zbus(property)]
    fn system_state(&self) -> zbus::Result<String>;

    /// A job has ended: `done`, `failed`, `canceled`, `timeout`, `dependency`, `skipped`, …
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

/// The interface that every unit has.
pub const UNIT_INTERFACE: &str = "org.freedesktop.systemd1.Unit";
/// The interface that a service has beside it.
pub const SERVICE_INTERFACE: &str = "org.freedesktop.systemd1.Service";
/// Who offers these interfaces.
pub const SYSTEMD_NAME: &str = "org.freedesktop.systemd1";
