//! How the container reaches the database.

use super::{Network, Work};
use crate::installation::{DatabaseProvider, is_loopback};
use connect_migrator_sdk::Finding;
use std::path::{Path, PathBuf};

impl Work<'_> {
    pub(super) fn database(&mut self) {
        if self.installation.database_provider != DatabaseProvider::Postgres {
            return;
        }
        let names = self.host_names();
        let mut loopback = Vec::new();
        for key in ["URL", "InstrumentationURL"] {
            let Some(url) = self.installation.setting("Postgres", key) else { continue };
            for (option, path) in certificates_of(&url) {
                self.mount(Path::new(&path), true, format!("Postgres.{key} names it as {option}"));
            }
            for host in hosts_of(&url) {
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

/// Whether a `postgres://` URL leads to this machine's loopback, which inside a container with a network of its own is another.
#[must_use]
pub fn database_is_on_loopback(url: &str) -> bool {
    hosts_of(url).iter().any(|host| !host.starts_with('/') && is_loopback(host))
}

/// The hosts of a `postgres://` URL: several may be given, a folder means a socket, none means this machine.
pub(super) fn hosts_of(url: &str) -> Vec<String> {
    let (rest, query) = url.split_once('?').unwrap_or((url, ""));
    for pair in query.split('&') {
        if let Some(host) = pair.strip_prefix("host=")
            && !host.is_empty()
        {
            return host.split(',').map(percent_decoded).collect();
        }
    }
    let authority = rest.split_once("://").map_or(rest, |(_, rest)| rest);
    // A password may hold `/` or `@` unescaped: the last `@` ends it.
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let hosts = hosts.split('/').next().unwrap_or_default();
    hosts
        .split(',')
        .map(|host| match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
            Some((address, _)) => address.to_owned(),
            None => percent_decoded(host.split(':').next().unwrap_or_default()),
        })
        .map(|host| if host.is_empty() { "localhost".to_owned() } else { host })
        .collect()
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
