//! What a step needs of the machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a step needs of the machine: where the daemon runs steps in units of their own, everything else is taken away. Reading
/// files is always allowed as far as their modes and [`Needs::capabilities`](field@Needs::capabilities) let root, as are Unix sockets
/// (and with them D-Bus and container engines) and the step's own state folder. A step that says nothing keeps all that a step can say.
///
/// Nobody keeps new privileges by setuid programs, kernel settings (`sysctl -w`), modules, control groups, clock and host name, and
/// real-time scheduling; and half of the machine's memory is the most. What needs more can ask systemd or an engine for it by its
/// socket. Whoever says what it needs also loses memory that is written and executed: programs with a just-in-time compiler, such as
/// java and node, do not run in it.
///
/// Built with [`Needs::nothing`] and the methods that follow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", default)]
#[non_exhaustive]
pub struct Needs {
    /// To talk over IP, also on loopback.
    #[serde(skip_serializing_if = "is_false")]
    pub network: bool,
    /// Device nodes other than /dev/null and its like.
    #[serde(skip_serializing_if = "is_false")]
    pub devices: bool,
    /// To mount file systems itself; needs `CAP_SYS_ADMIN` in [`Needs::capabilities`](field@Needs::capabilities), too. Mounts are seen
    /// by the step alone; what the host shall see is a mount unit.
    #[serde(skip_serializing_if = "is_false")]
    pub mounts: bool,
    /// Namespaces of its own, as rootless containers have.
    #[serde(skip_serializing_if = "is_false")]
    pub namespaces: bool,
    /// To look at other users' processes.
    #[serde(skip_serializing_if = "is_false")]
    pub processes: bool,
    /// Capabilities, as in capabilities(7): `CAP_CHOWN`. Without any, files that root may not read by their mode alone cannot be
    /// read either.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Folders and files that it writes: absolute paths. Those that do not exist are left out. `/`: it cannot tell beforehand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub writes: Vec<String>,
    /// Settings, as JSON pointers into `with` (`/site`), whose value is a path: it may write in the folder where that path leads to,
    /// symbolic links followed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub writes_beside: Vec<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Needs {
    /// Nothing but what every step has.
    #[must_use]
    pub fn nothing() -> Self {
        Needs::default()
    }

    /// See [`Needs::network`](field@Needs::network).
    #[must_use]
    pub fn network(mut self) -> Self {
        self.network = true;
        self
    }

    /// See [`Needs::devices`](field@Needs::devices).
    #[must_use]
    pub fn devices(mut self) -> Self {
        self.devices = true;
        self
    }

    /// See [`Needs::mounts`](field@Needs::mounts).
    #[must_use]
    pub fn mounts(mut self) -> Self {
        self.mounts = true;
        self
    }

    /// See [`Needs::namespaces`](field@Needs::namespaces).
    #[must_use]
    pub fn namespaces(mut self) -> Self {
        self.namespaces = true;
        self
    }

    /// See [`Needs::processes`](field@Needs::processes).
    #[must_use]
    pub fn processes(mut self) -> Self {
        self.processes = true;
        self
    }

    /// Adds capabilities.
    #[must_use]
    pub fn capabilities(mut self, names: &[&str]) -> Self {
        self.capabilities.extend(names.iter().map(ToString::to_string));
        self
    }

    /// Adds folders or files that it writes.
    #[must_use]
    pub fn writes(mut self, paths: &[&str]) -> Self {
        self.writes.extend(paths.iter().map(ToString::to_string));
        self
    }

    /// Adds a setting that names a path beside which it writes.
    #[must_use]
    pub fn writes_beside(mut self, setting: &str) -> Self {
        self.writes_beside.push(setting.into());
        self
    }
}
