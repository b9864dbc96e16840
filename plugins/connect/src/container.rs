//! What must change in the configuration when Connect moves into a container.
//!
//! [`derive()`] takes the source's configuration and answers the container's: the fewest changes with which it starts there and
//! serves the same data, what must be mounted, and what a person must look at.

mod database;
pub use database::database_is_on_loopback;
mod files;
mod logging;
mod profiles;
mod tools;

use crate::gcfg::{Gcfg, SetError, name_of};
use crate::installation::{Installation, Listen, variable};
use crate::secrets;
use connect_migrator_sdk::Finding;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The port on which Connect listens inside a container of its own. The images expose it.
pub const CONTAINER_PORT: u16 = 3939;
/// Where a listener with TLS moves when it would collide with [`CONTAINER_PORT`].
const TLS_PORT: u16 = 3443;

/// Whether the container has a network of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// Its own: one port is published.
    #[default]
    Bridge,
    /// The host's: it listens where it is published.
    Host,
}

/// What is known about the image, from its labels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageFacts {
    /// The distribution as repositories of binary packages name it: `noble`, `jammy`, `rhel9`.
    pub codename: Option<String>,
    /// Versions of R, newest first as the label lists them. Empty when the labels tell none.
    pub r: Vec<String>,
    /// Versions of Python.
    pub python: Vec<String>,
    /// Versions of Quarto.
    pub quarto: Vec<String>,
    /// The variant without interpreters.
    pub minimal: bool,
}

impl ImageFacts {
    /// Reads the labels of Posit's images; other images may carry the same.
    #[must_use]
    pub fn from_labels<'a>(label: impl Fn(&str) -> Option<&'a str>) -> Self {
        let list = |tool: &str| {
            let text = label(&format!("co.posit.image.tools.{tool}")).unwrap_or_default();
            text.split(',').map(str::trim).filter(|v| !v.is_empty()).map(str::to_owned).collect()
        };
        ImageFacts {
            codename: label("co.posit.image.os").and_then(codename),
            r: list("R"),
            python: list("python"),
            quarto: list("quarto"),
            minimal: label("co.posit.image.variant").is_some_and(|v| v.eq_ignore_ascii_case("minimal")),
        }
    }
}

/// `Ubuntu 24.04` as package repositories call it.
#[must_use]
pub fn codename(os: &str) -> Option<String> {
    let os = os.to_lowercase().replace('-', " ");
    let version = os.split(' ').find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let major = version.split('.').next().unwrap_or(version);
    let name = match (os.split(' ').next()?, version) {
        ("ubuntu", "26.04") => "resolute",
        ("ubuntu", "24.04") => "noble",
        ("ubuntu", "22.04") => "jammy",
        ("ubuntu", "20.04") => "focal",
        ("ubuntu", "18.04") => "bionic",
        ("debian", _) if major == "11" => "bullseye",
        ("debian", _) if major == "12" => "bookworm",
        ("debian", _) if major == "13" => "trixie",
        ("rhel" | "red" | "rocky" | "alma" | "almalinux", _) => return Some(format!("rhel{major}")),
        _ => return None,
    };
    Some(name.into())
}

/// What the derivation may assume.
#[derive(Debug, Clone)]
pub struct ContainerRules {
    /// See [`Network`].
    pub network: Network,
    /// Where the container is to answer on the host, without TLS.
    pub publish: Listen,
    /// What the image's labels tell; `None` while they cannot be read.
    pub image: Option<ImageFacts>,
    /// The host's `/etc`.
    pub etc: PathBuf,
    /// The host's table of names.
    pub hosts_file: PathBuf,
    /// Where the host's R installations are, one folder each.
    pub r_folder: PathBuf,
    /// Files of the host that content may rely on without the configuration naming them.
    pub host_files: Vec<PathBuf>,
}

impl ContainerRules {
    /// `etc` is the host's `/etc`.
    #[must_use]
    pub fn new(network: Network, publish: Listen, etc: &Path) -> Self {
        ContainerRules {
            network,
            publish,
            image: None,
            etc: etc.into(),
            hosts_file: etc.join("hosts"),
            r_folder: etc.with_file_name("opt").join("R"),
            host_files: ["odbcinst.ini", "odbc.ini", "krb5.conf", "krb5.keytab", "pip.conf"]
                .map(|name| etc.join(name))
                .to_vec(),
        }
    }
}

/// One change of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChange {
    /// `HTTP.Listen`.
    pub setting: String,
    /// The value so far, secrets hidden; `None` when it was not set.
    pub before: Option<String>,
    /// The value in the container, secrets hidden; `None` when it is removed.
    pub after: Option<String>,
    /// Why.
    pub why: String,
}

/// Something of the host that the container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// On the host.
    pub host: PathBuf,
    /// In the container.
    pub container: PathBuf,
    /// Whether the container must not write there.
    pub read_only: bool,
    /// Why.
    pub why: String,
}

/// The container's configuration and what goes with it.
#[derive(Debug, Clone)]
pub struct Derived {
    /// The configuration file.
    pub gcfg: Gcfg,
    /// The changes, in the order in which they were made.
    pub changes: Vec<ConfigChange>,
    /// What must be mounted, the configuration file itself and licence files left out.
    pub mounts: Vec<Mount>,
    /// Environment variables. No secrets: those are in the file.
    pub environment: BTreeMap<String, String>,
    /// Names that only the host's own table knows, with their addresses.
    pub extra_hosts: Vec<(String, String)>,
    /// What a person must look at. Keys are unique.
    pub findings: Vec<Finding>,
    original: Gcfg,
}

impl Derived {
    /// The original's text without secrets.
    #[must_use]
    pub fn shown_before(&self) -> String {
        secrets::redact_gcfg(&self.original)
    }

    /// The new text without secrets.
    #[must_use]
    pub fn shown_after(&self) -> String {
        secrets::redact_gcfg(&self.gcfg)
    }
}

/// Derives the container's configuration. Reads the host's files to see which exist; changes nothing.
///
/// # Errors
/// When a value cannot be written into the configuration file.
pub fn derive(installation: &Installation, rules: &ContainerRules) -> Result<Derived, SetError> {
    let mut work = Work {
        installation,
        rules,
        derived: Derived {
            gcfg: installation.gcfg.clone(),
            changes: Vec::new(),
            mounts: Vec::new(),
            environment: BTreeMap::new(),
            extra_hosts: Vec::new(),
            findings: Vec::new(),
            original: installation.gcfg.clone(),
        },
    };
    work.carry_environment()?;
    work.listen()?;
    work.data();
    work.logging()?;
    work.tools()?;
    work.repositories()?;
    work.database();
    work.files();
    work.sign_in();
    work.host_habits();
    Ok(work.derived)
}

struct Work<'a> {
    installation: &'a Installation,
    rules: &'a ContainerRules,
    derived: Derived,
}

impl Work<'_> {
    /// Sets a value and notes the change; does nothing when it is already so.
    fn set(&mut self, section: &str, key: &str, value: &str, why: &str) -> Result<(), SetError> {
        let overriding = self.derived.environment.remove(&variable(section, key));
        let in_file = self.derived.gcfg.get(section, None, key);
        let before = overriding.or_else(|| in_file.clone());
        if in_file.as_deref() != Some(value) {
            self.derived.gcfg.set(section, None, key, value)?;
        }
        if before.as_deref() != Some(value) {
            let setting = name_of(section, None, key);
            self.note(setting, key, before.as_deref(), Some(value), why);
        }
        Ok(())
    }

    fn note(&mut self, setting: String, key: &str, before: Option<&str>, after: Option<&str>, why: &str) {
        let shown = |value: Option<&str>| value.map(|v| secrets::redact_value(key, v));
        let (before, after) = (shown(before), shown(after));
        self.derived.changes.push(ConfigChange { setting, before, after, why: why.into() });
    }

    fn mount(&mut self, path: &Path, read_only: bool, why: impl Into<String>) {
        // What lies below a mounted folder is there already.
        let covered = self
            .derived
            .mounts
            .iter()
            .any(|mount| path.starts_with(&mount.container) && (read_only || !mount.read_only));
        if !covered {
            let (host, container) = (path.to_path_buf(), path.to_path_buf());
            self.derived.mounts.push(Mount { host, container, read_only, why: why.into() });
        }
    }

    fn find(&mut self, finding: Finding) {
        self.derived.findings.push(finding);
    }

    /// Variables of the unit's environment file: settings go along, secrets into the file (a container's environment can be read
    /// by everyone who may inspect it).
    fn carry_environment(&mut self) -> Result<(), SetError> {
        let mut left = Vec::new();
        for (name, value) in &self.installation.environment {
            let setting = name.strip_prefix("CONNECT_").map(|rest| rest.split('_').collect::<Vec<_>>());
            match setting.as_deref() {
                // What clients of the API use; not settings of the server.
                _ if matches!(name.as_str(), "CONNECT_SERVER" | "CONNECT_API_KEY") => {}
                Some([section, key]) if secrets::is_secret(key, value) => {
                    let in_file = self.derived.gcfg.get(section, None, key);
                    if in_file.as_deref() == Some(value) {
                        continue;
                    }
                    self.derived.gcfg.set(section, None, key, value)?;
                    let why = format!(
                        "{name} of the unit's environment holds a secret, which a container's environment would show"
                    );
                    let written = self.written_name(section, key);
                    self.note(written, key, in_file.as_deref(), Some(value), &why);
                }
                Some([_, key, ..]) if !secrets::is_secret(key, value) && !secrets::is_secret(name, value) => {
                    self.derived.environment.insert(name.clone(), value.clone());
                }
                _ => left.push(name.clone()),
            }
        }
        if !left.is_empty() {
            self.find(Finding::warning(
                "environment-file",
                format!("the unit's environment file also sets {}, which the container does not get", left.join(", ")),
                "add those that Connect or content needs under `environment` of this step; secrets do not belong there",
            ));
        }
        Ok(())
    }

    /// The setting's name as the file writes it; environment variables only know upper case.
    fn written_name(&self, section: &str, key: &str) -> String {
        self.derived
            .gcfg
            .settings()
            .find(|s| s.section.eq_ignore_ascii_case(section) && s.key.eq_ignore_ascii_case(key))
            .map_or_else(|| name_of(section, None, key), |s| name_of(s.section, s.subsection, s.key))
    }

    fn listen(&mut self) -> Result<(), SetError> {
        let (value, port, why) = match self.rules.network {
            Network::Bridge => (
                format!(":{CONTAINER_PORT}"),
                CONTAINER_PORT,
                "a published port reaches only what listens on the container's own address, at the port that is published",
            ),
            Network::Host => {
                let Listen { host, port, .. } = &self.rules.publish;
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                (
                    format!("{host}:{port}"),
                    *port,
                    "the container shares the host's network and listens where it is to be reached",
                )
            }
        };
        let reaches = self
            .installation
            .setting("HTTP", "Listen")
            .and_then(|text| Listen::parse(&text, false))
            .is_some_and(|l| {
                self.rules.network == Network::Bridge
                    && l.port == port
                    && matches!(l.host.as_str(), "" | "0.0.0.0" | "::" | "*")
            });
        if !reaches {
            self.set("HTTP", "Listen", &value, why)?;
        }
        let Some(tls) = self.installation.setting("HTTPS", "Listen") else { return Ok(()) };
        if Listen::parse(&tls, true).is_some_and(|l| l.port == port) {
            self.set(
                "HTTPS",
                "Listen",
                &format!(":{TLS_PORT}"),
                "its port is the one that is published without TLS",
            )?;
        }
        self.find(Finding::warning(
            "tls-in-connect",
            format!("Connect itself ends TLS (HTTPS.Listen = {tls}); only plain HTTP is published from the container"),
            "let a proxy on this host end TLS and send it the container's address, or publish HTTPS.Listen yourself",
        ));
        Ok(())
    }

    fn data(&mut self) {
        let installation = self.installation;
        self.mount(
            &installation.data_dir,
            false,
            "the data directory (Server.DataDir), at the same path as on the host",
        );
        self.mount(
            &installation.database_dir,
            false,
            "secret.key and other files of the database (Database.Dir) lie outside the data directory",
        );
        for (section, key, why) in [
            ("SQLite", "Dir", "SQLite.Dir lies outside the data directory"),
            ("Metrics", "DataPath", "Metrics.DataPath lies outside the data directory"),
        ] {
            if let Some(path) = installation.setting(section, key).map(PathBuf::from)
                && path.is_absolute()
                && path.is_dir()
            {
                self.mount(&path, false, why);
            }
        }
    }

    fn sign_in(&mut self) {
        let provider = self.installation.setting("Authentication", "Provider").unwrap_or_default();
        if provider.eq_ignore_ascii_case("pam") {
            self.find(Finding::warning(
                "authentication-pam",
                "Authentication.Provider is pam: users of this host sign in, but the image has only its own",
                "give the container the same users (sssd and its socket, or mounts of /etc/passwd, /etc/shadow, /etc/group and /etc/pam.d), and try a sign-in during the soak",
            ));
        }
    }
}

#[cfg(test)]
mod tests;
