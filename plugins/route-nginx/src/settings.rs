//! The settings of the step.

use schemars::JsonSchema;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// The settings under `with` of a `route-nginx` step.
///
/// ```toml
/// [[step]]
/// id = "route"
/// uses = "route-nginx"
/// with = { site = "/etc/nginx/sites-enabled/connect", upstream = "127.0.0.1:3940" }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The file that holds the server block through which users reach Connect. A symbolic link is followed.
    pub site: PathBuf,

    /// `host:port` under which the container answers HTTP: the new value.
    pub upstream: String,

    /// Looks only at the server blocks of the site that carry this name. Default: all of them.
    #[serde(default)]
    pub server_name: Option<String>,

    /// `host:port` under which the site reaches the source: the old value. Default: the port that Connect's configuration file
    /// tells, on any address of this machine.
    #[serde(default)]
    pub source_address: Option<String>,

    /// `host:port`, on a loopback address, where nginx serves the maintenance page during the migration. Best a port that the kernel
    /// never gives to outgoing connections (`net.ipv4.ip_local_port_range`): one of those may be in use just when nginx is to listen.
    #[serde(default = "default_maintenance")]
    pub maintenance: String,

    /// Seconds after which clients are told to try again, in the `Retry-After` of the maintenance page.
    #[serde(default = "default_retry_after")]
    pub retry_after: u32,

    /// An HTML file of your own for the maintenance page, at most 64 KiB, in one file with its styles and images. It is copied when
    /// the migration is prepared. Default: a short page in English.
    #[serde(default)]
    pub maintenance_page: Option<PathBuf>,

    /// The nginx binary, for `nginx -t`.
    #[serde(default = "default_nginx")]
    pub nginx: PathBuf,

    /// The systemd unit that is reloaded.
    #[serde(default = "default_unit")]
    pub unit: String,

    /// nginx' main configuration file.
    #[serde(default = "default_configuration")]
    pub configuration: PathBuf,

    /// nginx' prefix path, for `nginx -p`. Default: the one it was built with.
    #[serde(default)]
    pub prefix: Option<PathBuf>,

    /// Where the requests that prove the route connect to, as `http://host:port` or `https://host:port`. They carry the host
    /// name of the URL that users type. Default: the address that the server block listens on.
    #[serde(default)]
    pub probe: Option<String>,

    /// The path of a content item that is used over a websocket, such as `/content/6e3a…/`, that anyone may open. With it, the
    /// route is also proved by a websocket upgrade.
    #[serde(default)]
    pub websocket_path: Option<String>,

    /// Seconds that `nginx -t` may take, and that a reload may take.
    #[serde(default = "default_reload_timeout")]
    pub reload_timeout: u64,

    /// Seconds after a reload in which requests through nginx must end where they should.
    #[serde(default = "default_verify_timeout")]
    pub verify_timeout: u64,
}

fn default_maintenance() -> String {
    "127.0.0.1:3941".into()
}

fn default_retry_after() -> u32 {
    30
}

fn default_nginx() -> PathBuf {
    "/usr/sbin/nginx".into()
}

fn default_unit() -> String {
    "nginx.service".into()
}

fn default_configuration() -> PathBuf {
    "/etc/nginx/nginx.conf".into()
}

fn default_reload_timeout() -> u64 {
    30
}

fn default_verify_timeout() -> u64 {
    30
}

impl Settings {
    /// How long `nginx -t` and a reload may take, each.
    #[must_use]
    pub fn reload_time(&self) -> Duration {
        Duration::from_secs(self.reload_timeout)
    }

    /// How long a route may take to be as wanted after a reload.
    #[must_use]
    pub fn verify_time(&self) -> Duration {
        Duration::from_secs(self.verify_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_settings_are_enough_and_an_unknown_one_is_refused() {
        let given =
            serde_json::json!({"site": "/etc/nginx/sites-enabled/connect", "upstream": "127.0.0.1:3940"});
        let settings: Settings = serde_json::from_value(given).unwrap();
        assert_eq!(settings.maintenance, "127.0.0.1:3941");
        assert_eq!((settings.retry_after, settings.unit.as_str()), (30, "nginx.service"));
        let wrong = serde_json::json!({"site": "/x", "upstream": "127.0.0.1:3940", "retry_after": 5});
        let error = serde_json::from_value::<Settings>(wrong).unwrap_err().to_string();
        assert!(error.contains("unknown field `retry_after`") && error.contains("`retry-after`"), "{error}");
    }
}
