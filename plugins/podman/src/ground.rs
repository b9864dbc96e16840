//! What of this host only podman's step needs to know.

use crate::systemd::{Systemd, Units};
use connect_migrator_container::world::{Subject, World};
use std::path::{Path, PathBuf};

/// The places and the systemd of this host. Tests have others.
#[derive(Debug, Clone)]
pub struct Ground<S> {
    /// What every engine's step needs.
    pub world: World,
    /// systemd.
    pub systemd: S,
    /// Where podman's generator may lie, which turns `.container` files into units.
    pub generators: Vec<PathBuf>,
    /// SELinux's own file system.
    pub selinux: PathBuf,
}

impl Ground<Systemd> {
    /// Those of this host.
    #[must_use]
    pub fn here() -> Self {
        let name = "podman-system-generator";
        Ground {
            world: World::new(connect_migrator_container::kind::Kind::Podman),
            systemd: Systemd,
            generators: ["/usr/lib/systemd/system-generators", "/lib/systemd/system-generators"]
                .map(|folder| Path::new(folder).join(name))
                .to_vec(),
            selinux: "/sys/fs/selinux".into(),
        }
    }
}

/// How the container becomes a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A `.container` file, from which podman's generator makes the unit (podman 4.4 and later).
    Quadlet,
    /// A unit that runs podman.
    Unit,
}

impl<S: Units> Ground<S> {
    /// What this host's podman can do.
    #[must_use]
    pub fn form(&self) -> Form {
        if self.generators.iter().any(|path| path.exists()) { Form::Quadlet } else { Form::Unit }
    }
}

/// The unit's name.
#[must_use]
pub fn unit(subject: &Subject<'_>) -> String {
    format!("{}.service", subject.names.container)
}

/// The file that the unit is made of.
#[must_use]
pub fn unit_file(subject: &Subject<'_>, form: Form) -> PathBuf {
    match form {
        Form::Quadlet => subject
            .world
            .etc
            .join("containers/systemd")
            .join(format!("{}.container", subject.names.container)),
        Form::Unit => subject.world.unit_dir.join(unit(subject)),
    }
}

/// The file without which the unit does not start: the migration writes it when it hands over to the container.
#[must_use]
pub fn handed_over(subject: &Subject<'_>) -> PathBuf {
    subject.folder().join("handed-over")
}

/// The script that runs before every start.
#[must_use]
pub fn guard(subject: &Subject<'_>) -> PathBuf {
    subject.folder().join("guard")
}
