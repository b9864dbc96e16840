//! The engine starts after the data's mount.

use crate::undo::{Own, Undo};
use connect_migrator_connect::installation::Installation;
use connect_migrator_container::files;
use connect_migrator_container::storage::{self, Mounted};
use connect_migrator_container::world::Subject;
use connect_migrator_sdk::{Context, StepError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The drop-in that orders the engine after the data's mount.
#[must_use]
pub fn drop_in(subject: &Subject<'_>) -> PathBuf {
    let name = format!("connect-migrator-{}.conf", subject.names.container);
    subject.world.unit_dir.join("docker.service.d").join(name)
}

/// What the data directory lies on, if it is not the root.
#[must_use]
pub fn data_mount(subject: &Subject<'_>, installation: &Installation) -> Option<Mounted> {
    let mountinfo = std::fs::read_to_string(&subject.world.mountinfo).unwrap_or_default();
    let real = installation.data_dir.canonicalize().unwrap_or_else(|_| installation.data_dir.clone());
    storage::holding(&real, &mountinfo).filter(|mounted| mounted.at != Path::new("/"))
}

/// Writes it. It takes effect at the next boot, which is when it matters.
///
/// # Errors
/// When it cannot be written.
pub fn write(
    subject: &Subject<'_>,
    cx: &Context,
    installation: &Installation,
) -> Result<Option<String>, StepError> {
    let Some(mounted) = data_mount(subject, installation) else { return Ok(None) };
    let unit = storage::mount_unit(&mounted.at);
    let path = drop_in(subject);
    cx.record_undo(&Undo::Own(Own::DropIn { path: path.clone() }))?;
    let folder = path.parent().unwrap_or(&path);
    files::folder(folder)?;
    let text = format!(
        "# The container {} has its data there. Wants= and not Requires=: other containers do not depend on it.\n[Unit]\nWants={unit}\nAfter={unit} remote-fs.target\n",
        subject.names.container
    );
    files::write(&path, text.as_bytes(), 0o644)?;
    // systemd must be able to look into it, also where the folder was made just now.
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755))
        .map_err(|error| StepError::new(format!("open {}", folder.display())).because(error))?;
    Ok(Some(unit))
}
