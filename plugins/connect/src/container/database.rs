//! How the container reaches the database.

use super::{Network, Work};
use crate::installation::{DatabaseProvider, Installation, is_loopback};
use connect_migrator_sdk::Finding;
use std::path::{Path, PathBuf};

/// The settings that hold a URL.
const URLS: [&str; 2] = ["URL", "InstrumentationURL"];

impl Work<'_> {
    pub(super) fn database(&mut self) {
        if self.installation.database_provider != DatabaseProvider::Postgres {
            return;
        }
        let names = self.host_names();
        let mut loopback = Vec::new();
        for key in URLS {
            let Some(url) = self.installation.setting("Postgres", key) else { continue };
            for (option, path) in certificates_of(&url) {
                self.mount(Path::new(&path), true, format!("Postgres.{key} names it as {option}"));
            }
            for (host, _) in DatabasePlace::of(String::new(), &url).hosts {
                if host.starts_with('/') {
                    self.mount(
                        Path::new(&host),
                        true,
                        format!("Postgres.{key} goes through a socket in this folder"),
                    );
                    continue;
                }
                let known = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(&host));
                let address = known.map_or(host.as_str(), |(_, address)| address.as_str());
                if self.rules.network == Network::Host {
                    continue;
                }
                if is_loopback(address) {
                    loopback.push(format!("Postgres.{key} goes to {host}"));
                } else if let Some(known) = known
                    && !self.derived.extra_hosts.contains(known)
                {
                    self.derived.extra_hosts.push(known.clone());
                }
            }
        }
        if !loopback.is_empty() {
            self.find(Finding::blocker(
                "database-loopback",
                format!(
                    "{}, this machine itself; inside a container with a network of its own that is the container",
                    loopback.join(", ")
                ),
                "set `network = \"host\"` for this step, or let the URL and the database use an address that containers reach",
            ));
        }
    }

    /// Names and addresses of the host's own table.
    fn host_names(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&self.rules.hosts_file).unwrap_or_default();
        let mut names = Vec::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(address) = words.next() else { continue };
            names.extend(words.map(|name| (name.to_owned(), address.to_owned())));
        }
        names
    }
}

/// Where a `postgres://` URL leads, without its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabasePlace {
    /// The setting with the URL: `Postgres.URL`.
    pub setting: String,
    /// Hosts with their ports, in the order in which they are tried; a folder means a socket.
    pub hosts: Vec<(String, u16)>,
    /// Who logs in; empty when the URL does not say.
    pub user: String,
    /// The database; empty when the URL does not say.
    pub database: String,
    /// Never with TLS: `sslmode=disable`.
    pub plain: bool,
}

impl DatabasePlace {
    pub(super) fn of(setting: String, url: &str) -> Self {
        let (rest, query) = url.split_once('?').unwrap_or((url, ""));
        let option = |name: &str| {
            let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            value.filter(|value| !value.is_empty()).map(percent_decoded)
        };
        let rest = rest.split_once("://").map_or(rest, |(_, rest)| rest);
        // A password may hold `/` or `@` unescaped: the last `@` ends it.
        let (login, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let named = |value: &str| (!value.is_empty()).then(|| percent_decoded(value));
        let mut hosts: Vec<(String, Option<u16>)> = authority.split(',').map(host_and_port).collect();
        if let Some(other) = option("host") {
            hosts = other.split(',').map(|host| (host.to_owned(), None)).collect();
        }
        let port = option("port").and_then(|port| port.parse().ok()).unwrap_or(POSTGRES_PORT);
        let hosts = hosts.into_iter().map(|(host, own)| (host, own.unwrap_or(port))).collect();
        let user = login.split(':').next().unwrap_or_default();
        DatabasePlace {
            setting,
            hosts,
            user: option("user").or_else(|| named(user)).unwrap_or_default(),
            database: option("dbname").or_else(|| named(path)).unwrap_or_default(),
            plain: option("sslmode").as_deref() == Some("disable"),
        }
    }
}

/// Where PostgreSQL listens unless it is told otherwise.
const POSTGRES_PORT: u16 = 5432;

/// None means this machine.
fn host_and_port(text: &str) -> (String, Option<u16>) {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host.to_owned(), port.strip_prefix(':')),
        None => match text.split_once(':') {
            Some((host, port)) => (percent_decoded(host), Some(port)),
            None => (percent_decoded(text), None),
        },
    };
    let host = if host.is_empty() { "localhost".to_owned() } else { host };
    (host, port.and_then(|port| port.parse().ok()))
}

/// The databases that the installation names; none unless it uses PostgreSQL.
#[must_use]
pub fn database_places(installation: &Installation) -> Vec<DatabasePlace> {
    if installation.database_provider != DatabaseProvider::Postgres {
        return Vec::new();
    }
    let url = |key: &str| Some((format!("Postgres.{key}"), installation.setting("Postgres", key)?));
    let urls = URLS.into_iter().filter_map(url);
    urls.map(|(setting, url)| DatabasePlace::of(setting, &url)).collect()
}

/// The files that a `postgres://` URL names for TLS, by their options.
pub(super) fn certificates_of(url: &str) -> Vec<(&'static str, String)> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let value = |option: &str| query.split('&').find_map(|pair| pair.strip_prefix(option)?.strip_prefix('='));
    ["sslrootcert", "sslcert", "sslkey"]
        .into_iter()
        .filter_map(|option| Some((option, percent_decoded(value(option)?))))
        .filter(|(_, path)| path.starts_with('/'))
        .collect()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let pair = rest.clone().take(2).collect::<Vec<u8>>();
        let code = std::str::from_utf8(&pair).ok().filter(|p| p.len() == 2);
        match (byte, code.and_then(|c| u8::from_str_radix(c, 16).ok())) {
            (b'%', Some(decoded)) => {
                bytes.push(decoded);
                rest.nth(1);
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The older second configuration file beside the main one.
pub(super) fn migration_config(config: &Path) -> PathBuf {
    config.with_file_name("rstudio-connect-migration.gcfg")
}
