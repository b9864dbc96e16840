//! `connect-migrator status`.

use super::Exit;
use crate::instance::Instance;
use crate::report::Report;
use crate::state::{SqliteStore, Store, View};
use jiff::Timestamp;

/// The state as it is durable now; `None` when no migration has been started.
pub(super) fn view(instance: &Instance) -> Result<Option<View>, Exit> {
    let store = SqliteStore::read(&instance.state_path()).map_err(|error| Exit::Unusable.because(&error))?;
    let Some(store) = store else { return Ok(None) };
    let records = store.load().map_err(|error| Exit::Unusable.because(&error))?;
    Ok(Some(View::of(&records)).filter(|view| view.started.is_some()))
}

/// Prints where the migration stands.
pub(super) fn run(instance: &Instance, json: bool) -> Exit {
    let view = match view(instance) {
        Ok(view) => view,
        Err(exit) => return exit,
    };
    let Some(report) = view.and_then(|view| Report::of(&view, Timestamp::now())) else {
        if json {
            println!("null");
        } else {
            println!("No migration of `{}` has been started.", instance.name());
        }
        return Exit::Done;
    };
    if json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => println!("{text}"),
            Err(error) => return Exit::Failed.because(&error),
        }
    } else {
        print!("{}", report.text());
    }
    Exit::Done
}
