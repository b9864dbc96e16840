//! `connect-migrator status`.

use super::{Exit, follow};
use crate::bus;
use crate::instance::Instance;
use crate::report::Report;
use crate::service::Live;
use crate::state::{SqliteStore, Store, View};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use std::io::ErrorKind;

/// Where a migration stands, with what only a running daemon knows: what `status --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Status {
    /// The durable part.
    #[serde(flatten)]
    pub report: Report,
    /// Whether the daemon of this instance runs.
    pub daemon_runs: bool,
    /// How far the running call has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
}

/// The state as it is durable now; `None` when no migration has been started.
pub(super) fn view(instance: &Instance) -> Result<Option<View>, Exit> {
    // A file that may not be seen is not a file that is missing.
    if let Err(error) = std::fs::metadata(instance.state_path())
        && error.kind() != ErrorKind::NotFound
    {
        return Err(Exit::Failed.because(&format!(
            "could not read the state {}: {error}; run as root",
            instance.state_path().display()
        )));
    }
    let store = SqliteStore::read(&instance.state_path()).map_err(|error| Exit::Unusable.because(&error))?;
    let Some(store) = store else { return Ok(None) };
    let records = store.load().map_err(|error| Exit::Unusable.because(&error))?;
    Ok(Some(View::of(&records)).filter(|view| view.started.is_some()))
}

/// The state and, if a daemon runs, what it says.
pub(super) async fn now(instance: &Instance, watcher: Option<&bus::Watcher>) -> Result<Option<Status>, Exit> {
    let Some(report) = view(instance)?.and_then(|view| Report::of(&view, Timestamp::now())) else {
        return Ok(None);
    };
    let told = match watcher {
        Some(watcher) => watcher.progress().await,
        None => None,
    };
    Ok(Some(Status { report, daemon_runs: told.is_some(), live: told.flatten() }))
}

/// Prints where the migration stands.
pub(super) async fn run(instance: &Instance, json: bool, follow: bool) -> Exit {
    // Without a bus there is still the state.
    let watcher = bus::Watcher::of(instance).await.ok();
    if follow {
        return follow::run(instance, watcher.as_ref(), json).await;
    }
    let status = match now(instance, watcher.as_ref()).await {
        Ok(status) => status,
        Err(exit) => return exit,
    };
    let Some(status) = status else {
        if json {
            say_line!("null");
        } else {
            say_line!("No migration of `{}` has been started.", instance.name());
        }
        return Exit::Done;
    };
    if json {
        match serde_json::to_string_pretty(&status) {
            Ok(text) => say_line!("{text}"),
            Err(error) => return Exit::Failed.because(&error),
        }
    } else {
        say!("{}", status.report.text());
        if let Some(live) = &status.live {
            say_line!("\nNow\n  {}", follow::words(live));
        }
    }
    Exit::Done
}
