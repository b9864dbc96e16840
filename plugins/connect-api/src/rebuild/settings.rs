//! Settings of `connect-api/rebuild`.

use super::items::What;
use crate::connection::Connection;
use connect_migrator_connect::api::{KeyHeader, TASK_WAIT_MAX_SECONDS};
use connect_migrator_sdk::SecretRef;
use schemars::JsonSchema;
use serde::Deserialize;

/// Default of `parallelism`: first builds that start together can get into each other's way in the R package cache.
pub const PARALLELISM: usize = 2;
/// Default of `retry`.
pub const RETRY: u32 = 1;
/// Default of `item-timeout-seconds`: compiling many packages takes long.
pub const ITEM_TIMEOUT_SECONDS: u64 = 7_200;

/// Default of `total-timeout-seconds`: less than an `apply` may take by default, so that a long rebuild ends by itself and is no failure.
pub const TOTAL_TIMEOUT_SECONDS: u64 = 6_600;

/// Settings of `connect-api/rebuild`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RebuildSettings {
    /// The server to ask. Default: the source before the window, the new server after it.
    #[serde(default)]
    pub url: Option<String>,
    /// The key of an administrator. Default: the one of `[connect]`.
    #[serde(default)]
    pub api_key: Option<SecretRef>,
    /// The header that carries the key: `authorization` (default) or `x-rsc-authorization`.
    #[serde(default)]
    pub key_header: KeyHeader,
    /// Which content: `all` (default), `r` or `python`.
    #[serde(default)]
    pub what: What,
    /// How many builds run at once, 1 to 64. Default 2.
    #[serde(default = "parallelism")]
    pub parallelism: Bounded<1, 64>,
    /// How many more builds are submitted, to wait in the queue of a server that limits builds itself, so that none of its
    /// slots waits for us; 0 to 16. Default 0: on a server without such a queue they would run at once.
    #[serde(default = "submit_ahead")]
    pub submit_ahead: Bounded<0, 16>,
    /// How often an item that failed is tried again, after all others. Default 1.
    #[serde(default = "retry")]
    pub retry: u32,
    /// How many items may fail, as a number (`3`) or a share (`"10%"`) of those to build. More fail the step. Default: any.
    #[serde(default)]
    pub max_failed: Option<MaxFailed>,
    /// How long one build may take, in seconds. Default 7200.
    #[serde(default = "item_timeout_seconds")]
    pub item_timeout_seconds: u64,
    /// How long all of it may take, in seconds; what is not built by then is told, and builds at its first visit. For longer, raise
    /// `apply` in `[timeouts]` too. Default 6600.
    #[serde(default = "total_timeout_seconds")]
    pub total_timeout_seconds: u64,
    /// How long the server may keep a question about a build open, in seconds; at most, and by default, 20.
    #[serde(default = "wait_seconds")]
    pub wait_seconds: u64,
}

fn parallelism() -> Bounded<1, 64> {
    Bounded(PARALLELISM)
}

fn submit_ahead() -> Bounded<0, 16> {
    Bounded(0)
}

fn retry() -> u32 {
    RETRY
}

fn item_timeout_seconds() -> u64 {
    ITEM_TIMEOUT_SECONDS
}

fn total_timeout_seconds() -> u64 {
    TOTAL_TIMEOUT_SECONDS
}

fn wait_seconds() -> u64 {
    TASK_WAIT_MAX_SECONDS
}

impl RebuildSettings {
    pub(super) fn connection(&self) -> Connection {
        Connection { url: self.url.clone(), api_key: self.api_key.clone(), key_header: self.key_header }
    }
}

/// A number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "usize")]
pub struct Bounded<const MIN: usize, const MAX: usize>(usize);

impl<const MIN: usize, const MAX: usize> Bounded<MIN, MAX> {
    /// The number.
    #[must_use]
    pub fn get(self) -> usize {
        self.0
    }
}

impl<const MIN: usize, const MAX: usize> TryFrom<usize> for Bounded<MIN, MAX> {
    type Error = String;

    fn try_from(number: usize) -> Result<Self, String> {
        if (MIN..=MAX).contains(&number) {
            return Ok(Bounded(number));
        }
        Err(format!("{number} is not a number from {MIN} to {MAX}"))
    }
}

impl<const MIN: usize, const MAX: usize> std::fmt::Display for Bounded<MIN, MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<const MIN: usize, const MAX: usize> JsonSchema for Bounded<MIN, MAX> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("from-{MIN}-to-{MAX}").into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// How many items may fail.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number of items such as 3, or a share such as \"10%\"")]
pub enum MaxFailed {
    /// A number.
    Count(usize),
    /// A share of those to build.
    Share(Percent),
}

impl MaxFailed {
    /// How many of `total` items that are, rounded down.
    #[must_use]
    pub fn of(self, total: usize) -> usize {
        match self {
            MaxFailed::Count(count) => count,
            MaxFailed::Share(Percent(percent)) => total * usize::from(percent) / 100,
        }
    }
}

/// A whole number of percent, written `"10%"`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Percent(u8);

impl TryFrom<String> for Percent {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse().ok());
        let number = number.filter(|percent| *percent <= 100);
        number.map(Percent).ok_or_else(|| format!("`{text}` is not a share such as \"10%\""))
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "percent".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^ *(100|[0-9]{1,2}) *% *$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(settings: Value) -> Result<RebuildSettings, String> {
        serde_json::from_value(settings).map_err(|error| error.to_string())
    }

    #[test]
    fn every_setting_has_its_default() {
        let settings = read(json!({})).unwrap();
        assert_eq!((settings.parallelism.get(), settings.submit_ahead.get(), settings.retry), (2, 0, 1));
        assert_eq!((settings.max_failed, settings.wait_seconds), (None, 20));
    }

    #[test]
    fn a_threshold_is_a_number_or_a_share() {
        let of = |value: Value| read(json!({ "max-failed": value })).map(|s| s.max_failed.unwrap().of(250));
        assert_eq!(of(json!(3)), Ok(3));
        assert_eq!(of(json!("10%")), Ok(25));
        assert_eq!(of(json!("0%")), Ok(0));
        for wrong in [json!("ten"), json!("101%"), json!(-1), json!(1.5), json!("10")] {
            assert!(of(wrong.clone()).unwrap_err().contains("such as"), "{wrong}");
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_refused() {
        assert!(read(json!({"parallelism": 0})).unwrap_err().contains("from 1 to 64"));
        assert!(read(json!({"submit-ahead": 17})).unwrap_err().contains("from 0 to 16"));
        assert!(read(json!({"paralelism": 1})).unwrap_err().contains("paralelism"));
    }
}
