//! What of this host only podman's step needs to know.

use crate::systemd::{Systemd, Units};
use connect_migrator_container::settings::Command;
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
    /// Where podman looks for its init.
    pub inits: Vec<PathBuf>,
    /// Others that do as well.
    pub other_inits: Vec<PathBuf>,
}

/// Where podman's init may lie: built in, and what `PATH` of a unit leads to.
const INIT_FOLDERS: [&str; 6] =
    ["/usr/libexec/podman", "/usr/lib/podman", "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
/// Small, static inits that other packages bring along.
const OTHER_INITS: [&str; 2] = ["/usr/bin/tini-static", "/usr/bin/docker-init"];

impl Ground<Systemd> {
    /// Those of this host.
    #[must_use]
    pub fn here() -> Self {
        let name = "podman-system-generator";
        Ground {
            world: World::new(connect_migrator_container::kind::Kind::Podman),
            systemd: Systemd::default(),
            generators: ["/usr/lib/systemd/system-generators", "/lib/systemd/system-generators"]
                .map(|folder| Path::new(folder).join(name))
                .to_vec(),
            selinux: "/sys/fs/selinux".into(),
            inits: INIT_FOLDERS.map(|folder| Path::new(folder).join("catatonit")).to_vec(),
            other_inits: OTHER_INITS.map(PathBuf::from).to_vec(),
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

/// The small init below which Connect runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Init {
    /// The image's start script runs as it is.
    None,
    /// podman's own.
    Podmans,
    /// Another one of this host.
    Other(PathBuf),
    /// podman wants one, and there is none.
    Missing,
}

impl<S> Ground<S> {
    /// Which one there is.
    #[must_use]
    pub fn init(&self, subject: &Subject<'_>) -> Init {
        if subject.settings.command == Command::Image {
            return Init::None;
        }
        if self.inits.iter().any(|path| path.exists()) {
            return Init::Podmans;
        }
        self.other_inits
            .iter()
            .find(|path| path.exists())
            .map_or(Init::Missing, |path| Init::Other(path.clone()))
    }
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
