//! The settings under `with`.

use connect_migrator_sdk::{SecretRef, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Default of `server-versions`: <https://docs.posit.co/connect/admin/database/postgres/>.
const DEFAULT_SERVER_VERSIONS: (u32, u32) = (13, 17);
/// Default of `connect-timeout`.
const DEFAULT_CONNECT_TIMEOUT_SECONDS: u64 = 15;
/// Default of `statement-timeout`: counting and comparing the largest table is the longest statement.
const DEFAULT_STATEMENT_TIMEOUT_SECONDS: u64 = 600;
/// Default of `tool-timeout`: the product's tool copies row by row.
const DEFAULT_TOOL_TIMEOUT_SECONDS: u64 = 3600;
/// Default of `sample-rows`.
const DEFAULT_SAMPLE_ROWS: u32 = 10_000;

/// The settings of the step `postgres`.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// `postgres://user@host:port/database?options`, without the password. Options as in `Postgres.URL` of the configuration:
    /// `sslmode` (default `require`), `sslrootcert`, `search_path`, … Special characters are percent-encoded.
    pub url: String,
    /// The user's password, as it is: nothing is encoded in it.
    #[serde(default)]
    pub password: Option<SecretRef>,
    /// Another place for the instrumentation data. Default: the same database.
    #[serde(default)]
    pub instrumentation_url: Option<String>,
    /// The password for `instrumentation-url`. Default: `password`, when the users are the same.
    #[serde(default)]
    pub instrumentation_password: Option<SecretRef>,
    /// The oldest and newest major version of the server that is accepted, as the documentation of the source's release
    /// has it. Default `[13, 17]`.
    #[serde(default = "default_server_versions")]
    pub server_versions: (u32, u32),
    /// The SQLite files by name, when those in `SQLite.Dir` are not to be told apart by looking.
    #[serde(default)]
    pub sqlite_files: Vec<String>,
    /// Tables that the product's tool leaves behind on purpose: they are not compared.
    #[serde(default)]
    pub ignore_tables: Vec<String>,
    /// What of a table's content is compared; its number of rows always is. Default `sample`.
    #[serde(default)]
    pub compare: Compare,
    /// Rows of a table that are compared with `compare = "sample"`; smaller tables are compared whole. Default 10000.
    #[serde(default = "default_sample_rows")]
    pub sample_rows: u32,
    /// How long reaching the server may take. Default `15s`.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: Span,
    /// How long one statement may take. Default `10m`.
    #[serde(default = "default_statement_timeout")]
    pub statement_timeout: Span,
    /// How long the product's tool may take. Default `1h`.
    #[serde(default = "default_tool_timeout")]
    pub tool_timeout: Span,
}

/// What of a table's content is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Compare {
    /// A sample of rows spread over the table, by its key.
    #[default]
    Sample,
    /// Every row.
    All,
}

fn default_server_versions() -> (u32, u32) {
    DEFAULT_SERVER_VERSIONS
}
fn default_sample_rows() -> u32 {
    DEFAULT_SAMPLE_ROWS
}
fn default_connect_timeout() -> Span {
    Span(DEFAULT_CONNECT_TIMEOUT_SECONDS)
}
fn default_statement_timeout() -> Span {
    Span(DEFAULT_STATEMENT_TIMEOUT_SECONDS)
}
fn default_tool_timeout() -> Span {
    Span(DEFAULT_TOOL_TIMEOUT_SECONDS)
}

/// Which of the two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// Users, content, …
    Core,
    /// Usage history.
    Instrumentation,
}

impl Which {
    /// The key of its URL in `[Postgres]`.
    #[must_use]
    pub fn url_key(self) -> &'static str {
        match self {
            Which::Core => "URL",
            Which::Instrumentation => "InstrumentationURL",
        }
    }

    /// The key of its password in `[Postgres]`.
    #[must_use]
    pub fn password_key(self) -> &'static str {
        match self {
            Which::Core => "Password",
            Which::Instrumentation => "InstrumentationPassword",
        }
    }

    /// What the keys of its findings begin with.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Which::Core => "",
            Which::Instrumentation => "instrumentation-",
        }
    }

    /// The file in the state folder that holds its encrypted password.
    #[must_use]
    pub fn password_file(self) -> PathBuf {
        match self {
            Which::Core => "password.encrypted".into(),
            Which::Instrumentation => "instrumentation-password.encrypted".into(),
        }
    }
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Which::Core => "the database",
            Which::Instrumentation => "the instrumentation database",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_documentation_is_enough_and_typing_mistakes_are_found() {
        let read = |text: &str| serde_json::from_str::<Settings>(text).map_err(|e| e.to_string());
        let settings =
            read(r#"{"url": "postgres://connect@db/connect", "password": {"credential": "p"}}"#).unwrap();
        assert_eq!((settings.server_versions, settings.tool_timeout), ((13, 17), Span(3600)));
        assert_eq!(settings.compare, Compare::Sample);
        let settings = read(r#"{"url": "u", "tool-timeout": "2h", "statement-timeout": 5}"#).unwrap();
        assert_eq!((settings.tool_timeout, settings.statement_timeout), (Span(7200), Span(5)));
        assert!(read(r#"{"url": "u", "pasword": {"credential": "p"}}"#).unwrap_err().contains("pasword"));
        assert!(read(r#"{"url": "u", "tool-timeout": 0}"#).is_err());
    }
}
