//! `connect-migrator rollback`, `commit`, `pause`, `resume` and `abort`: through the daemon if it runs, else by a decision that its next start carries out.

use super::{Exit, status};
use crate::bus;
use crate::instance::Instance;
use crate::report::{Report, Standing};
use crate::state::{Cause, Decision, Event, InstanceLock, SqliteStore, Store, View};
use crate::systemd::units::Units;
use jiff::Timestamp;
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// How often the state is looked at while waiting for the end.
const FOLLOW_EVERY_MILLIS: u64 = 200;
/// How long the unit may take to start.
const START_TIMEOUT_SECS: u64 = 90;

/// Goes back before users work on the new server.
pub(super) async fn abort(instance: &Instance, yes: bool, wait: bool) -> Exit {
    match status::view(instance) {
        Ok(Some(view)) if view.is_open() && view.soak_since.is_some() => Exit::Failed.because(&format!(
            "users already work on the new server: there is nothing to abort any more; `connect-migrator rollback {0}` goes back \
             to the host, `connect-migrator commit {0}` stays in the container",
            instance.name()
        )),
        Ok(_) => rollback(instance, yes, wait).await,
        Err(exit) => exit,
    }
}

/// Parks the run at the next safe point.
pub(super) async fn pause(instance: &Instance) -> Exit {
    if let Err(exit) = open_view(instance) {
        return exit;
    }
    match bus::ask(instance, "Park").await {
        Ok(Some(answer)) => {
            say_line!("{0}: {answer}; `connect-migrator resume {0}` goes on", instance.name());
            Exit::Done
        }
        Ok(None) => {
            say_line!(
                "{0} does not run at the moment; `connect-migrator resume {0}` goes on",
                instance.name()
            );
            Exit::Done
        }
        Err(error) => Exit::Failed.because(&error),
    }
}

/// Starts the unit again.
pub(super) async fn resume(instance: &Instance) -> Exit {
    let view = match open_view(instance) {
        Ok(view) => view,
        Err(exit) => return exit,
    };
    if let Some(stop) = &view.stop {
        say_line!("It stopped because {}", stop.why);
    }
    let units = match Units::system().await {
        Ok(units) => units,
        Err(error) => return Exit::Failed.because(&error),
    };
    match units.status(&instance.unit()).await {
        Ok(status) if status.is_active() && !view.parked => {
            say_line!("{} runs already; `connect-migrator status {0} --follow` shows it", instance.name());
            return Exit::Done;
        }
        Ok(_) => {}
        Err(error) => return Exit::Failed.because(&error),
    }
    match units.start(&instance.unit(), Duration::from_secs(START_TIMEOUT_SECS)).await {
        Ok(()) => {
            say_line!("{} goes on; `connect-migrator status {0} --follow` shows it", instance.name());
            Exit::Done
        }
        Err(error) => Exit::Failed.because(&error),
    }
}

/// The open migration, or why there is none.
fn open_view(instance: &Instance) -> Result<View, Exit> {
    match status::view(instance)? {
        Some(view) if view.is_open() => Ok(view),
        _ => Err(Exit::Failed.because(&format!(
            "no migration of `{0}` is open; see `connect-migrator status {0}`",
            instance.name()
        ))),
    }
}

/// Goes back.
pub(super) async fn rollback(instance: &Instance, yes: bool, wait: bool) -> Exit {
    let question = "Connect will be stopped in the container and started again on the host; users are not served meanwhile.";
    decide(instance, "Rollback", question, yes, wait, |view| match &view.decision {
        Some(Decision::Commit { .. }) => Err("it is committed: there is no way back".into()),
        Some(Decision::Rollback { .. }) => Ok(None),
        None => {
            let why = "an operator asked for it".into();
            Ok(Some(Event::RollbackDecided {
                cause: Cause { step: None, op: None, why, remedy: String::new() },
            }))
        }
    })
    .await
}

/// Ends the soak.
pub(super) async fn commit(instance: &Instance, yes: bool, wait: bool) -> Exit {
    let question = "Connect will stay in the container, and there will be no way back.";
    decide(instance, "Commit", question, yes, wait, |view| match &view.decision {
        Some(Decision::Rollback { .. }) => Err("it is being rolled back".into()),
        Some(Decision::Commit { .. }) => Ok(None),
        None if view.soak_since.is_none() => Err("only a migration in its soak can be committed".into()),
        None => Ok(Some(Event::CommitDecided { by: "operator".into() })),
    })
    .await
}

async fn decide(
    instance: &Instance,
    method: &str,
    question: &str,
    yes: bool,
    wait: bool,
    decision: impl Fn(&View) -> Result<Option<Event>, String>,
) -> Exit {
    let view = match open_view(instance) {
        Ok(view) => view,
        Err(exit) => return exit,
    };
    if let Err(why) = decision(&view) {
        return Exit::Failed.because(&why);
    }
    if !yes && !agreed(question) {
        say_line!("Nothing was changed.");
        return Exit::Failed;
    }
    match bus::ask(instance, method).await {
        Ok(Some(answer)) => say_line!("{}: {answer}", instance.name()),
        Ok(None) => {
            if let Err(exit) = decide_alone(instance, &decision).await {
                return exit;
            }
        }
        Err(error) => return Exit::Failed.because(&error),
    }
    if wait { follow(instance).await } else { Exit::Done }
}

/// No daemon runs: writes the decision down, and starts the unit, which carries it out.
async fn decide_alone(
    instance: &Instance,
    decision: &impl Fn(&View) -> Result<Option<Event>, String>,
) -> Result<(), Exit> {
    {
        let _lock = InstanceLock::take(&instance.state_dir()).map_err(|error| Exit::Busy.because(&error))?;
        let store =
            SqliteStore::open(&instance.state_path()).map_err(|error| Exit::Unusable.because(&error))?;
        let records = store.load().map_err(|error| Exit::Unusable.because(&error))?;
        match decision(&View::of(&records)) {
            Ok(Some(event)) => drop(store.append(&event).map_err(|error| Exit::Unusable.because(&error))?),
            Ok(None) => {}
            Err(why) => return Err(Exit::Failed.because(&why)),
        }
    }
    let start = async {
        let units = Units::system().await?;
        units.start(&instance.unit(), Duration::from_secs(START_TIMEOUT_SECS)).await
    };
    start.await.map_err(|error| {
        Exit::Failed.because(&format!(
            "the decision is written down, but {} could not be started to carry it out: {error}",
            instance.unit()
        ))
    })?;
    Ok(())
}

fn agreed(question: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        complain!("{question}\nNot asked, because this is no terminal; say `--yes`.");
        return false;
    }
    say!("{question}\nGo on? [y/N] ");
    let mut answer = String::new();
    std::io::stdout().flush().is_ok()
        && std::io::stdin().read_line(&mut answer).is_ok()
        && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Waits until the migration is over or needs an operator, then prints the report.
async fn follow(instance: &Instance) -> Exit {
    loop {
        let report = match status::view(instance) {
            Ok(view) => view.and_then(|view| Report::of(&view, Timestamp::now())),
            Err(exit) => return exit,
        };
        let Some(report) = report else { return Exit::Failed };
        let exit = match report.standing {
            Standing::Running | Standing::Parked => None,
            Standing::Committed | Standing::Blocked => Some(Exit::Done),
            Standing::RolledBack if report.left.is_empty() => Some(Exit::Done),
            Standing::RolledBack | Standing::Waiting => Some(Exit::NeedsOperator),
        };
        if let Some(exit) = exit {
            say!("{}", report.text());
            return exit;
        }
        tokio::time::sleep(Duration::from_millis(FOLLOW_EVERY_MILLIS)).await;
    }
}
