//! What the daemon and earlier steps tell a step.

use crate::SecretRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The migration that a call belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Migration {
    /// UUIDv7. Empty for `connect-migrator check` and `plan`, which belong to no migration.
    pub id: String,
    /// The name after the `@`.
    pub instance: String,
}

/// The Connect that is moved: the `[connect]` table of the runbook, defaults filled in.
///
/// Members that are not known are ignored: a later daemon may say more to a plugin of today.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Source {
    /// The systemd unit. Default `rstudio-connect.service`.
    #[serde(default = "default_unit")]
    pub unit: String,
    /// The configuration file. Default `/etc/rstudio-connect/rstudio-connect.gcfg`.
    #[serde(default = "default_config")]
    pub config: PathBuf,
    /// Where users reach Connect. Default: `Server.Address` of the configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The key of an administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<SecretRef>,
    /// The folder that holds the product. Default `/opt/rstudio-connect`.
    #[serde(default = "default_install_dir")]
    pub install_dir: PathBuf,
}

fn default_unit() -> String {
    "rstudio-connect.service".into()
}

fn default_config() -> PathBuf {
    "/etc/rstudio-connect/rstudio-connect.gcfg".into()
}

fn default_install_dir() -> PathBuf {
    "/opt/rstudio-connect".into()
}

impl Default for Source {
    fn default() -> Self {
        Source {
            unit: default_unit(),
            config: default_config(),
            url: None,
            api_key: None,
            install_dir: default_install_dir(),
        }
    }
}

/// The new server, as published by the step that starts it under the key [`Target::KEY`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// `docker`, `podman`, …
    pub engine: String,
    /// The container's name.
    pub name: String,
    /// The host name that Connect inside reports as `hostname` of `server_settings`: how a routing step proves that a request
    /// reached this server and no other.
    pub hostname: String,
    /// `host:port` under which it answers HTTP from this machine.
    pub address: String,
    /// The version that Connect inside reports.
    pub version: String,
    /// The image, pinned by digest.
    pub image: String,
}

impl Target {
    /// The key of this fact.
    pub const KEY: &'static str = "target";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_daemon_says_of_the_source_does_not_break_a_plugin_of_today() {
        let said = serde_json::json!({ "unit": "connect.service", "said-later": { "more": 1 } });
        let source: Source = serde_json::from_value(said).unwrap();
        assert_eq!(source, Source { unit: "connect.service".into(), ..Source::default() });
    }
}
