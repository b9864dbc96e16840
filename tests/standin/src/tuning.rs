//! The knobs of the stand-in that the product does not have: how long things take, what goes wrong.
//!
//! They come from `standin.toml` in `/opt/rstudio-connect` (baked into an image), then from `standin.toml` beside the gcfg
//! file, then from `STANDIN_<NAME>` in the environment (upper case, underscores). The last one wins. [`Tuning`] has the
//! names, written with dashes in the files.

use std::path::Path;

use serde::Deserialize;

use crate::failure::Failure;

/// What `/__ping__` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ping {
    /// 200 `{}`.
    Ok,
    /// 503 for ever: a server that is up and never healthy.
    Unavailable,
    /// The port is never opened.
    NeverListen,
}

/// What `migrate db` does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrateFault {
    /// Nothing.
    None,
    /// It ends with an error when half of the tables are there.
    Fail,
    /// It never ends, with half of the tables there.
    Hang,
    /// It says that all went well, and one row is missing.
    LoseRow,
}

/// Times are in milliseconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tuning {
    /// From "Starting Posit Connect" to the open port.
    pub startup_ms: u64,
    /// From SIGTERM (the port is closed at once) to the end of the process.
    pub stop_ms: u64,
    /// One build, once it has a slot.
    pub build_ms: u64,
    /// Lines that a build writes, spread over its time.
    pub build_lines: u64,
    /// Builds that run at once.
    pub build_slots: usize,
    /// Every n-th content item (by id) fails its first build since the server started. 0: none does.
    pub flaky_every: i64,
    /// Whether builds write environments to DataDir. Off for benches of thousands of items.
    pub build_writes: bool,
    /// Deleting one runtime cache.
    pub cache_delete_ms: u64,
    /// What `/__ping__` answers.
    pub ping: Ping,
    /// What `migrate db` does wrong.
    pub migrate_fault: MigrateFault,
    /// Whether `migrate` is of a release that carries instrumentation data: it has `-data` then.
    pub migrate_instrumentation: bool,
    /// A version to report instead of the true one.
    pub reported_version: Option<String>,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            startup_ms: 0,
            stop_ms: 0,
            build_ms: 200,
            build_lines: 3,
            build_slots: 4,
            flaky_every: 0,
            build_writes: true,
            cache_delete_ms: 100,
            ping: Ping::Ok,
            migrate_fault: MigrateFault::None,
            migrate_instrumentation: true,
            reported_version: None,
        }
    }
}

impl Tuning {
    /// Reads those files that exist, in order, then the environment.
    ///
    /// # Errors
    /// A name or value that is not known.
    pub fn load(
        files: &[&Path],
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Failure> {
        let mut table = toml::Table::new();
        for path in files {
            match std::fs::read_to_string(path) {
                Ok(text) => table.extend(
                    text.parse::<toml::Table>()
                        .map_err(|e| Failure::Config(format!("{}: {e}", path.display())))?,
                ),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Failure::file("read", path)(e)),
            }
        }
        for (key, text) in variables {
            // The two that are not knobs but places, read elsewhere.
            if key == "STANDIN_VERSION" || key == "STANDIN_OPT" {
                continue;
            }
            let Some(name) = key.strip_prefix("STANDIN_") else { continue };
            let value = match text.parse::<i64>() {
                Ok(n) => toml::Value::Integer(n),
                Err(_) => match text.parse::<bool>() {
                    Ok(b) => toml::Value::Boolean(b),
                    Err(_) => toml::Value::String(text),
                },
            };
            table.insert(name.to_lowercase().replace('_', "-"), value);
        }
        table.try_into().map_err(|e| Failure::Config(format!("{files:?} or STANDIN_*: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_over_the_file_and_unknown_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("standin.toml");
        std::fs::write(&file, "build-ms = 7\nping = \"never-listen\"\n").unwrap();
        let set = |k: &str, v: &str| [(k.to_owned(), v.to_owned())];
        let tuning = Tuning::load(&[&file], set("STANDIN_BUILD_MS", "9")).unwrap();
        assert_eq!((tuning.build_ms, tuning.ping), (9, Ping::NeverListen));
        assert!(Tuning::load(&[&file], set("STANDIN_BUILDMS", "9")).is_err());
    }
}
