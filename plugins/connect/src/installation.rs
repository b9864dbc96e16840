//! An installation of Connect on this host.

use crate::environment_file::{self, Ambiguous};
use crate::gcfg::{Gcfg, GcfgError, name_of};
use crate::source_edits::SourceEdits;
use crate::version::Version;
use connect_migrator_sdk::Source;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long `connect --version` may take.
const VERSION_TIMEOUT_SECONDS: u64 = 20;
/// How often it is looked at meanwhile.
const VERSION_POLL_MILLIS: u64 = 10;
/// No configuration file is larger; a larger one is not read into memory.
const CONFIG_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The data directory when nothing else is set. <https://docs.posit.co/connect/admin/directories/>
pub const DEFAULT_DATA_DIR: &str = "/var/lib/rstudio-connect";
/// The port when nothing else is set.
pub const DEFAULT_PORT: u16 = 3939;
/// The user that runs content when nothing else is set.
pub const DEFAULT_RUN_AS: &str = "rstudio-connect";
/// The environment file of the packaged unit.
pub const ENVIRONMENT_FILE: &str = "/etc/default/rstudio-connect";
/// Where licence files are looked for, whatever the data directory is.
pub const LICENCE_DIR: &str = "/var/lib/rstudio-connect";

/// Why an installation could not be read.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// A file could not be read.
    #[error("could not read {}: {why}; see that it exists and that this runs as root, or name the right file under `[connect]`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: std::io::Error,
    },
    /// The configuration file is not well-formed.
    #[error("{} is not well-formed: {error}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: GcfgError,
    },
    /// The environment file can be understood in two ways.
    #[error("{}: {error}", path.display())]
    Environment {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: Ambiguous,
    },
    /// A setting has a value that means nothing.
    #[error("{setting} in {} is `{value}`, which is not {expected}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// The setting.
        setting: String,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// The database that Connect uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseProvider {
    /// Files in the data directory: the default.
    Sqlite,
    /// A PostgreSQL server.
    Postgres,
    /// Something else, as written.
    Other(String),
}

/// Where Connect listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The address; empty for all.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether it is `HTTPS.Listen`.
    pub tls: bool,
}

impl Listen {
    /// Reads `:3939`, `127.0.0.1:3939`, `[::1]:3939`.
    #[must_use]
    pub fn parse(text: &str, tls: bool) -> Option<Self> {
        let (host, port) = text.trim().rsplit_once(':')?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if bare.is_none() && host.contains(':') {
            return None;
        }
        let host = bare.unwrap_or(host);
        Some(Listen { host: host.into(), port: port.parse().ok()?, tls })
    }

    /// Whether it is reachable only from the same network namespace.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

/// Whether a host name or address means this machine itself.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Where to look; the defaults are those of the packages. Tests look elsewhere.
#[derive(Debug, Clone)]
pub struct Places {
    /// The environment file of the unit.
    pub environment_file: PathBuf,
    /// The folders that hold `<unit>.d/*.conf`.
    pub unit_dirs: Vec<PathBuf>,
}

impl Default for Places {
    fn default() -> Self {
        Places {
            environment_file: ENVIRONMENT_FILE.into(),
            unit_dirs: vec!["/etc/systemd/system".into(), "/run/systemd/system".into()],
        }
    }
}

/// An installation of Connect as its configuration file, its environment file and its program describe it.
#[derive(Debug, Clone)]
pub struct Installation {
    /// The configuration file, parsed.
    pub gcfg: Gcfg,
    /// Where it lies.
    pub config_path: PathBuf,
    /// What `connect --version` says; `None` when it cannot be run or says nothing.
    pub version: Option<Version>,
    /// `Server.DataDir`.
    pub data_dir: PathBuf,
    /// `Database.Dir`: holds `secret.key`.
    pub database_dir: PathBuf,
    /// Where the data are now: other than `data_dir` when a step is going to move them ([`Installation::edited`]).
    pub data_dir_now: PathBuf,
    /// Where `Database.Dir` is now.
    pub database_dir_now: PathBuf,
    /// `Database.Provider`.
    pub database_provider: DatabaseProvider,
    /// `HTTP.Listen`, or `HTTPS.Listen` when only that is set.
    pub listen: Listen,
    /// `Server.Address`: where users go.
    pub address: Option<String>,
    /// `Applications.RunAs`.
    pub run_as: String,
    /// Variables of the unit's environment file, later ones winning.
    pub environment: BTreeMap<String, String>,
    /// Drop-ins of the unit that set `Environment=` or `EnvironmentFile=`.
    pub environment_drop_ins: Vec<PathBuf>,
}

impl Installation {
    /// Reads the installation. Runs `connect --version`, changes nothing. Blocks for as long as that program takes.
    ///
    /// # Errors
    /// When the configuration file cannot be read or is not well-formed.
    pub fn read(source: &Source) -> Result<Self, InstallationError> {
        Self::read_at(source, &Places::default())
    }

    /// [`Installation::read`] with other places.
    ///
    /// # Errors
    /// As [`Installation::read`].
    pub fn read_at(source: &Source, places: &Places) -> Result<Self, InstallationError> {
        let mut read = Self::read_files_at(source, places)?;
        read.version = version_of(&source.install_dir);
        Ok(read)
    }

    /// [`Installation::read_at`] without running the program: quick, and `version` stays `None`.
    ///
    /// # Errors
    /// As [`Installation::read`].
    pub fn read_files_at(source: &Source, places: &Places) -> Result<Self, InstallationError> {
        let path = &source.config;
        let unreadable = |why| InstallationError::Unreadable { path: path.clone(), why };
        let bytes = read_bounded(path).map_err(unreadable)?;
        let gcfg =
            Gcfg::parse(&bytes).map_err(|error| InstallationError::Config { path: path.clone(), error })?;
        let environment = match read_bounded(&places.environment_file) {
            Ok(bytes) => environment_file::parse(&String::from_utf8_lossy(&bytes)).map_err(|error| {
                InstallationError::Environment { path: places.environment_file.clone(), error }
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(why) => {
                return Err(InstallationError::Unreadable { path: places.environment_file.clone(), why });
            }
        };
        let mut read = Installation {
            gcfg,
            config_path: path.clone(),
            version: None,
            data_dir: PathBuf::new(),
            database_dir: PathBuf::new(),
            data_dir_now: PathBuf::new(),
            database_dir_now: PathBuf::new(),
            database_provider: DatabaseProvider::Sqlite,
            listen: Listen { host: String::new(), port: DEFAULT_PORT, tls: false },
            address: None,
            run_as: DEFAULT_RUN_AS.into(),
            environment,
            environment_drop_ins: environment_drop_ins(&source.unit, &places.unit_dirs),
        };
        read.interpret()?;
        read.data_dir_now.clone_from(&read.data_dir);
        read.database_dir_now.clone_from(&read.database_dir);
        Ok(read)
    }

    /// The installation as it will be once other steps have changed its configuration. Values that are not known yet (a password
    /// that is encrypted in `prepare`) are left out.
    ///
    /// # Errors
    /// When a value cannot be written, or is none.
    pub fn edited(mut self, edits: SourceEdits) -> Result<Self, InstallationError> {
        let edits = edits.known();
        edits.apply(&mut self.gcfg).map_err(|error| InstallationError::Unreadable {
            path: self.config_path.clone(),
            why: std::io::Error::other(error.to_string()),
        })?;
        self.interpret()?;
        Ok(self)
    }

    /// Whether a step is going to move the data.
    #[must_use]
    pub fn data_will_move(&self) -> bool {
        self.data_dir != self.data_dir_now
    }

    fn interpret(&mut self) -> Result<(), InstallationError> {
        self.data_dir = self.path_setting("Server", "DataDir")?.unwrap_or_else(|| DEFAULT_DATA_DIR.into());
        self.database_dir = self.path_setting("Database", "Dir")?.unwrap_or_else(|| self.data_dir.join("db"));
        self.database_provider = match self.setting("Database", "Provider") {
            None => DatabaseProvider::Sqlite,
            Some(name) => match name.to_lowercase().as_str() {
                "sqlite" => DatabaseProvider::Sqlite,
                "postgres" | "postgresql" => DatabaseProvider::Postgres,
                _ => DatabaseProvider::Other(name),
            },
        };
        let http = self.setting("HTTP", "Listen");
        let https = self.setting("HTTPS", "Listen");
        if let Some((name, value, tls)) = match (http, https) {
            (Some(value), _) => Some(("HTTP", value, false)),
            (None, Some(value)) => Some(("HTTPS", value, true)),
            (None, None) => None,
        } {
            self.listen = Listen::parse(&value, tls)
                .ok_or_else(|| self.wrong(name, "Listen", &value, "an address such as `:3939`"))?;
        }
        self.address = self.setting("Server", "Address");
        if let Some(user) = self.setting("Applications", "RunAs") {
            self.run_as = user;
        }
        Ok(())
    }

    /// The value in effect: the environment variable `CONNECT_<SECTION>_<KEY>`, else the last value in the file. Empty counts as
    /// not set. <https://docs.posit.co/connect/admin/appendix/configuration/#environment-variables>
    #[must_use]
    pub fn setting(&self, section: &str, key: &str) -> Option<String> {
        self.environment
            .get(&variable(section, key))
            .cloned()
            .or_else(|| self.gcfg.get(section, None, key))
            .filter(|value| !value.is_empty())
    }

    fn path_setting(&self, section: &str, key: &str) -> Result<Option<PathBuf>, InstallationError> {
        let Some(value) = self.setting(section, key) else { return Ok(None) };
        let path = PathBuf::from(&value);
        if path.is_absolute() {
            return Ok(Some(path));
        }
        Err(self.wrong(section, key, &value, "an absolute path"))
    }

    fn wrong(&self, section: &str, key: &str, value: &str, expected: &'static str) -> InstallationError {
        let setting = name_of(section, None, key);
        InstallationError::Setting { path: self.config_path.clone(), setting, value: value.into(), expected }
    }

    /// Every address on which it listens.
    #[must_use]
    pub fn listens(&self) -> Vec<Listen> {
        let others = [("HTTP", false), ("HTTPS", true), ("HTTPRedirect", false)];
        let set =
            others.iter().filter_map(|(section, tls)| Listen::parse(&self.setting(section, "Listen")?, *tls));
        let mut all = vec![self.listen.clone()];
        all.extend(set);
        all.dedup();
        all
    }

    /// Where the source itself answers on this machine, past any proxy: `http://127.0.0.1:3939`.
    #[must_use]
    pub fn local_url(&self) -> String {
        let scheme = if self.listen.tls { "https" } else { "http" };
        let host = match self.listen.host.as_str() {
            "" | "0.0.0.0" | "::" | "*" => "127.0.0.1".to_owned(),
            host if host.contains(':') => format!("[{host}]"),
            host => host.to_owned(),
        };
        format!("{scheme}://{host}:{}", self.listen.port)
    }

    /// The key that decrypts settings and database records.
    #[must_use]
    pub fn secret_key_path(&self) -> PathBuf {
        self.database_dir_now.join("secret.key")
    }

    /// The licence files that Connect would find, sorted by name.
    #[must_use]
    pub fn licence_files(&self) -> Vec<PathBuf> {
        licence_files_in(Path::new(LICENCE_DIR))
    }
}

/// The `*.lic` in a folder, sorted by name; none when it cannot be read.
#[must_use]
pub fn licence_files_in(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "lic") && path.is_file())
        .collect();
    found.sort();
    found
}

/// The environment variable that overrides a setting.
#[must_use]
pub fn variable(section: &str, key: &str) -> String {
    format!("CONNECT_{section}_{key}").to_uppercase()
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let file = std::fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::other("it is a folder"));
    }
    let mut bytes = Vec::new();
    file.take(CONFIG_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CONFIG_MAX_BYTES {
        return Err(std::io::Error::other(format!("it is larger than {CONFIG_MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

fn environment_drop_ins(unit: &str, dirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in dirs {
        let Ok(entries) = std::fs::read_dir(dir.join(format!("{unit}.d"))) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_conf = path.extension().is_some_and(|ext| ext == "conf");
            let sets = |text: Vec<u8>| {
                String::from_utf8_lossy(&text).lines().any(|line| {
                    let line = line.trim();
                    line.starts_with("Environment=") || line.starts_with("EnvironmentFile=")
                })
            };
            if is_conf && read_bounded(&path).is_ok_and(sets) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What `<install_dir>/bin/connect --version` prints, bounded in time.
fn version_of(install_dir: &Path) -> Option<Version> {
    use std::io::Read;
    let mut child = Command::new(install_dir.join("bin/connect"))
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + Duration::from_secs(VERSION_TIMEOUT_SECONDS);
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(VERSION_POLL_MILLIS));
            }
            _ => {
                child.kill().ok();
                child.wait().ok();
                return None;
            }
        }
    }
    let mut output = Vec::new();
    child.stdout.take()?.take(4096).read_to_end(&mut output).ok()?;
    Version::find(&String::from_utf8_lossy(&output))
}

#[cfg(test)]
#[path = "installation_tests.rs"]
mod tests;
