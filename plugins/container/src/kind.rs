//! The engines, and what people type for each.

use std::path::Path;

/// A container engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// docker.
    Docker,
    /// podman.
    Podman,
}

impl Kind {
    /// The name of the step, of the program and of its unit.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Docker => "docker",
            Kind::Podman => "podman",
        }
    }

    /// Where the engine answers.
    #[must_use]
    pub fn socket(self) -> &'static Path {
        Path::new(match self {
            Kind::Docker => "/var/run/docker.sock",
            Kind::Podman => "/run/podman/podman.sock",
        })
    }

    /// How one gets it.
    #[must_use]
    pub(crate) fn install(self) -> &'static str {
        match self {
            Kind::Docker => {
                "install docker (`apt install docker.io`, or Docker's own packages), see that `systemctl status docker` is active, and run this as root"
            }
            Kind::Podman => {
                "install podman (`apt install podman`, `dnf install podman`), see that `systemctl start podman.socket` works, and run this as root"
            }
        }
    }

    /// Where it says what is wrong with it.
    #[must_use]
    pub(crate) fn status(self) -> &'static str {
        match self {
            Kind::Docker => "see `systemctl status docker`, and that this runs as root",
            Kind::Podman => "see `systemctl status podman.socket podman.service`, and that this runs as root",
        }
    }

    /// Where it says what it did.
    #[must_use]
    pub fn journal(self) -> &'static str {
        match self {
            Kind::Docker => "see `journalctl -u docker`",
            Kind::Podman => "see `journalctl -u podman`",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
