//! `connect-migrator status`.

use super::{Exit, follow};
use crate::bus;
use crate::instance::Instance;
use crate::report::Report;
use crate::service::Status;
use crate::state::{SqliteStore, Store, StoreError, View};
use jiff::Timestamp;
use std::io::ErrorKind;

/// The state was not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// Not with this user's rights; the daemon may tell.
    NotAllowed(String),
    /// It cannot be read at all.
    Unusable(String),
}

impl Unread {
    /// Prints it.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Unread::NotAllowed(why) => Exit::Failed.because(why),
            Unread::Unusable(why) => Exit::Unusable.because(why),
        }
    }
}

/// The state as it is durable now; `None` when no migration has been started.
pub(super) fn read(instance: &Instance) -> Result<Option<View>, Unread> {
    // A file that may not be seen is not a file that is missing.
    if let Err(error) = std::fs::metadata(instance.state_path())
        && error.kind() != ErrorKind::NotFound
    {
        let path = instance.state_path();
        let why = format!("could not read the state {}: {error}; run as root", path.display());
        return Err(Unread::NotAllowed(why));
    }
    let unusable = |error: StoreError| Unread::Unusable(error.to_string());
    let Some(store) = SqliteStore::read(&instance.state_path()).map_err(unusable)? else { return Ok(None) };
    let records = store.load().map_err(unusable)?;
    Ok(Some(View::of(&records)).filter(|view| view.started.is_some()))
}

/// As [`read`], with what is wrong printed.
pub(super) fn view(instance: &Instance) -> Result<Option<View>, Exit> {
    read(instance).map_err(|unread| unread.exit())
}

/// The state and, if a daemon runs, what it says; all of it from the daemon where the state may not be read.
pub(super) async fn now(
    instance: &Instance,
    watcher: Option<&bus::Watcher>,
) -> Result<Option<Status>, Unread> {
    let view = match (read(instance), watcher) {
        (Err(Unread::NotAllowed(why)), Some(watcher)) => {
            return match watcher.status().await {
                Ok(Some(status)) => Ok(Some(status)),
                Ok(None) => Err(Unread::NotAllowed(format!("{why}, since no daemon runs that could tell"))),
                Err(refused) => {
                    Err(Unread::NotAllowed(format!("{why}; and the daemon does not tell: {refused}")))
                }
            };
        }
        (view, _) => view?,
    };
    let Some(report) = view.and_then(|view| Report::of(&view, Timestamp::now())) else { return Ok(None) };
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
        return follow::run(instance, watcher.as_ref(), json, follow::ended).await;
    }
    let status = match now(instance, watcher.as_ref()).await {
        Ok(status) => status,
        Err(unread) => return unread.exit(),
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
