//! `connect-migrator rollback`, `commit`, `pause`, `resume` and `abort`: through the daemon if it runs, else by a decision that its next start carries out.

use super::status::{self, Unread};
use super::tables::shown;
use super::{Exit, daemon, follow, questions};
use crate::bus;
use crate::engine::{NOTHING_TO_ABORT, users_have_moved, windows};
use crate::instance::Instance;
use crate::report::{Report, Standing};
use crate::service::{self, Status};
use crate::state::{Cause, Decision, Event, InstanceLock, MayDo, Phase, SqliteStore, Store, View};
use jiff::Timestamp;

/// Parks the run at the next safe point.
pub(super) async fn pause(instance: &Instance) -> Exit {
    if let Err(exit) = open_view(instance).await {
        return exit;
    }
    let name = instance.name();
    match daemon::ask(instance, "Park").await {
        Ok(Some(answer)) => say_line!("{name}: {answer}; `connect-migrator resume {name}` goes on"),
        Ok(None) => return pause_alone(instance).await,
        Err(error) => return Exit::Failed.because(&error),
    }
    Exit::Done
}

/// No daemon runs: writes the pause down, and lets no reboot go on.
async fn pause_alone(instance: &Instance) -> Exit {
    let paused = |view: &View| (!view.paused).then_some(Event::PauseAsked);
    let view = match write_down(instance, paused) {
        Ok(view) => view,
        Err(exit) => return exit,
    };
    let name = instance.name();
    // A reboot must go on then, as a daemon would.
    if windows(&view).last().is_some_and(|window| window.closed.is_none()) {
        say_line!(
            "{name} does not run at the moment, and users are not served: the next start goes on until they are, and then parks"
        );
        return Exit::Done;
    }
    match service::disarm(instance).await {
        Ok(stays_enabled) => {
            say_line!(
                "{name} does not run at the moment, and stays so; `connect-migrator resume {name}` goes on"
            );
            if stays_enabled {
                say_line!("{}", service::goes_on_all_the_same(instance));
            }
            Exit::Done
        }
        Err(error) => Exit::Failed.because(&format!(
            "{name} does not run at the moment, but a reboot goes on with it: could not disable {}: {error}",
            instance.unit()
        )),
    }
}

/// Appends what `event` answers to the state of an open migration that no daemon runs, if anything. Answers how it stands then.
fn write_down(instance: &Instance, event: impl FnOnce(&View) -> Option<Event>) -> Result<View, Exit> {
    let mut state = HeldState::of(instance)?;
    if let Some(event) = event(&state.view).filter(|_| state.view.is_open()) {
        state.append(&event)?;
    }
    Ok(state.view)
}

/// The state of an instance that no daemon runs, and none can run meanwhile.
struct HeldState {
    _lock: InstanceLock,
    store: SqliteStore,
    view: View,
}

impl HeldState {
    fn of(instance: &Instance) -> Result<Self, Exit> {
        let lock =
            InstanceLock::take(&instance.state_dir()).map_err(|error| Exit::from(&error).because(&error))?;
        let store =
            SqliteStore::open(&instance.state_path()).map_err(|error| Exit::Unusable.because(&error))?;
        let view = View::of(&store.load().map_err(|error| Exit::Unusable.because(&error))?);
        Ok(HeldState { _lock: lock, store, view })
    }

    fn append(&mut self, event: &Event) -> Result<(), Exit> {
        let record = self.store.append(event).map_err(|error| Exit::Unusable.because(&error))?;
        self.view.add(&record);
        Ok(())
    }
}

/// What a resume writes down where no daemon runs, and the next one would not know that somebody wants it to go on: it was cut off
/// before it had stood still, or before it had done what comes after that.
fn goes_on(view: &View, is_armed: bool) -> Option<Event> {
    match (view.stop.is_some(), view.parked) {
        (true, _) => is_armed.then_some(Event::Resumed),
        (false, true) => (view.paused && is_armed).then_some(Event::Unparked),
        (false, false) => view.paused.then_some(Event::PauseTakenBack),
    }
}

/// Takes a pause back, or starts the unit again.
pub(super) async fn resume(instance: &Instance) -> Exit {
    let view = match open_view(instance).await {
        Ok(view) => view,
        Err(exit) => return exit,
    };
    if let Some(stop) = view.as_ref().and_then(|view| view.stop.as_ref()) {
        say_line!("It stopped because {}", shown(&stop.why));
    }
    let shows = format!("`connect-migrator status {} --follow` shows it", instance.name());
    // Parked, or waiting: the daemon has ended or is about to, and takes no more commands.
    if !view.as_ref().is_some_and(|view| view.parked || view.stop.is_some()) {
        match daemon::ask(instance, "Resume").await {
            Ok(Some(answer)) => {
                say_line!("{}: {answer}; {shows}", instance.name());
                return Exit::Done;
            }
            Ok(None) => {}
            Err(error) => return Exit::Failed.because(&error),
        }
    }
    if view.as_ref().is_some_and(|view| view.phase() == Phase::Check) {
        say_line!("The checks come first; this ends when they have passed.");
    }
    let told = |report: Report| {
        say!("{}", report.text());
        follow::exit_of(&report).unwrap_or(Exit::Failed)
    };
    // A start after the end would begin another migration.
    if let Some(report) = ended_meanwhile(instance, view.as_ref()) {
        return told(report);
    }
    let is_armed = service::is_armed(instance);
    if view.as_ref().is_some_and(|view| goes_on(view, is_armed).is_some())
        // A daemon that is about to end holds it, and does the rest itself.
        && InstanceLock::take(&instance.state_dir()).is_ok()
        && let Err(exit) = write_down(instance, |view| goes_on(view, is_armed))
    {
        return exit;
    }
    match daemon::start(instance).await {
        Ok(()) => {
            say_line!("{} goes on; {shows}", instance.name());
            Exit::Done
        }
        Err(error) => match ended_meanwhile(instance, view.as_ref()) {
            Some(report) => told(report),
            None => Exit::Failed.because(&error),
        },
    }
}

/// The open migration, or why there is none; `Ok(None)` when its state may not be read, but a daemon is there to be asked.
async fn open_view(instance: &Instance) -> Result<Option<View>, Exit> {
    match status::read(instance) {
        Ok(Some(view)) if view.is_open() => Ok(Some(view)),
        Ok(_) => Err(Exit::Failed.because(&format!(
            "no migration of `{0}` is open; see `connect-migrator status {0}`",
            instance.name()
        ))),
        Err(Unread::NotAllowed(why)) => match bus::Watcher::of(instance).await {
            Ok(watcher) if watcher.progress().await.is_some() => Ok(None),
            _ => Err(Exit::Failed.because(&why)),
        },
        Err(unread) => Err(unread.exit()),
    }
}

/// What an operator may decide.
struct Choice {
    /// The method of the bus.
    method: &'static str,
    /// What will be done, as things stand.
    question: fn(Option<&View>) -> String,
    /// Whether it is Connect on the host that is wanted in the end.
    goes_back: bool,
    /// The event to write down; `Ok(None)`: it is decided already.
    event: fn(&View) -> Result<Option<Event>, String>,
}

/// Goes back before users work on the new server.
pub(super) async fn abort(instance: &Instance, yes: bool, wait: bool) -> Exit {
    let event = |view: &View| if users_have_moved(view) { Err(NOTHING_TO_ABORT.into()) } else { back(view) };
    let choice = Choice { method: "Abort", question: questions::rollback, goes_back: true, event };
    decide(instance, &choice, yes, wait).await
}

/// Goes back.
pub(super) async fn rollback(instance: &Instance, yes: bool, wait: bool) -> Exit {
    let choice = Choice { method: "Rollback", question: questions::rollback, goes_back: true, event: back };
    decide(instance, &choice, yes, wait).await
}

fn back(view: &View) -> Result<Option<Event>, String> {
    match &view.decision {
        Some(Decision::Commit { .. }) => Err("it is committed: there is no way back".into()),
        Some(Decision::Rollback { .. }) => Ok(None),
        None => {
            let why = "an operator asked for it".into();
            let cause = Cause { step: None, op: None, why, remedy: String::new() };
            Ok(Some(Event::RollbackDecided { cause }))
        }
    }
}

/// Ends the soak.
pub(super) async fn commit(instance: &Instance, yes: bool, wait: bool) -> Exit {
    let choice =
        Choice { method: "Commit", question: questions::commit, goes_back: false, event: commit_event };
    decide(instance, &choice, yes, wait).await
}

/// What a commit writes down where no daemon runs.
fn commit_event(view: &View) -> Result<Option<Event>, String> {
    match &view.decision {
        Some(Decision::Rollback { .. }) => Err("it is being rolled back".into()),
        Some(Decision::Commit { .. }) => Ok(None),
        None if view.commit_asked => Ok(None),
        None if view.soak_since.is_none() => Err("only a migration in its soak can be committed".into()),
        // The run gave this choice after it had looked at the new server. Else it looks once more first.
        None if view.stop.as_ref().is_some_and(|stop| stop.may.contains(&MayDo::Commit)) => {
            Ok(Some(Event::CommitDecided { by: "operator".into() }))
        }
        None => Ok(Some(Event::CommitAsked)),
    }
}

async fn decide(instance: &Instance, choice: &Choice, yes: bool, wait: bool) -> Exit {
    let view = match open_view(instance).await {
        Ok(view) => view,
        Err(exit) => return exit,
    };
    if let Some(Err(why)) = view.as_ref().map(choice.event) {
        return Exit::Failed.because(&why);
    }
    if !yes && !questions::agreed(&(choice.question)(view.as_ref())) {
        say_line!("Nothing was changed.");
        return Exit::Failed;
    }
    // Without a bus there is still the state.
    let watcher = bus::Watcher::of(instance).await.ok();
    let before = status::now(instance, watcher.as_ref()).await.ok().flatten();
    match daemon::ask(instance, choice.method).await {
        Ok(Some(answer)) => say_line!("{}: {answer}", instance.name()),
        Ok(None) => {
            if let Err(exit) = decide_alone(instance, choice).await {
                return exit;
            }
        }
        // The daemon may have died after it had written the decision down, and before it could answer.
        Err(_) if is_decided(instance, choice) => say_line!("{}: it is decided already", instance.name()),
        Err(error) => return Exit::Failed.because(&error),
    }
    if !wait {
        return Exit::Done;
    }
    let ended = |status: &Status| carried_out(status, choice.goes_back);
    tokio::select! {
        exit = follow::to_the_end(instance, watcher.as_ref(), before, ended) => exit,
        why = daemon::standstill(instance, watcher.as_ref()) => Exit::NeedsOperator.because(&why),
    }
}

fn is_decided(instance: &Instance, choice: &Choice) -> bool {
    let view = status::read(instance).ok().flatten();
    view.is_some_and(|view| matches!((choice.event)(&view), Ok(None)))
}

/// The exit code once what was decided has been carried out, or needs an operator.
fn carried_out(status: &Status, goes_back: bool) -> Option<Exit> {
    match (follow::exit_of(&status.report)?, status.report.standing) {
        (Exit::RolledBack | Exit::Blocked, _) if goes_back => Some(Exit::Done),
        (_, Standing::Committed) if goes_back => Some(Exit::Failed),
        (exit, standing) => (standing != Standing::Parked).then_some(exit),
    }
}

/// No daemon runs: writes the decision down, and starts the unit, which carries it out.
async fn decide_alone(instance: &Instance, choice: &Choice) -> Result<(), Exit> {
    let decided = {
        let mut state = HeldState::of(instance)?;
        match (choice.event)(&state.view) {
            Ok(Some(_)) if !state.view.is_open() => {
                return Err(Exit::Failed.because(&format!(
                    "the migration has just ended; see `connect-migrator status {}`",
                    instance.name()
                )));
            }
            Ok(Some(event)) => state.append(&event)?,
            // It is decided already; that somebody asks for it again takes a pause back.
            Ok(None) if state.view.is_open() => {
                if let Some(event) = goes_on(&state.view, service::is_armed(instance)) {
                    state.append(&event)?;
                }
            }
            Ok(None) => {}
            Err(why) => return Err(Exit::Failed.because(&why)),
        }
        state.view
    };
    // It was decided and carried out since it was looked at: a start would begin another migration.
    if !decided.is_open() {
        return Ok(());
    }
    match daemon::start(instance).await {
        // It may have carried the decision out before systemd saw it run.
        Err(error) if ended_meanwhile(instance, Some(&decided)).is_none() => {
            Err(Exit::Failed.because(&format!(
                "the decision is written down, but {} could not be started to carry it out: {error}",
                instance.unit()
            )))
        }
        _ => Ok(()),
    }
}

/// The report of a migration that has ended, or has come to need an operator, since `before`.
fn ended_meanwhile(instance: &Instance, before: Option<&View>) -> Option<Report> {
    let now = status::read(instance).ok().flatten()?;
    has_ended_since(before, &now).then(|| Report::of(&now, Timestamp::now())).flatten()
}

fn has_ended_since(before: Option<&View>, now: &View) -> bool {
    now.closed.is_some() || (now.stop.is_some() && now.stop != before.and_then(|before| before.stop.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{End, MemoryStore};

    #[test]
    fn the_exit_code_tells_whether_what_was_asked_for_came_about() {
        let report = |end: End| {
            let store = MemoryStore::default();
            store.append(&started()).unwrap();
            store.append(&Event::Closed { end }).unwrap();
            let report = Report::of(&View::of(&store.load().unwrap()), Timestamp::now()).unwrap();
            Status { report, daemon_runs: false, live: None }
        };
        let back = report(End::RolledBack { left: vec![] });
        let half = report(End::RolledBack { left: vec!["a file".into()] });
        let there = report(End::Committed);
        let codes = |goes_back| [&back, &half, &there].map(|status| carried_out(status, goes_back));
        assert_eq!(codes(true), [Some(Exit::Done), Some(Exit::NeedsOperator), Some(Exit::Failed)]);
        assert_eq!(codes(false), [Some(Exit::RolledBack), Some(Exit::NeedsOperator), Some(Exit::Done)]);
    }

    fn started() -> Event {
        Event::Started {
            migration: "m".into(),
            instance: "prod".into(),
            runbook: String::new(),
            runbook_digest: String::new(),
            plugins: std::collections::BTreeMap::new(),
            version: "0".into(),
            outline: crate::state::Outline::default(),
        }
    }

    #[test]
    fn a_commit_without_a_daemon_looks_at_the_new_server_once_more_unless_the_run_gave_that_choice() {
        let store = MemoryStore::default();
        let view = || View::of(&store.load().unwrap());
        store.append(&started()).unwrap();
        assert!(commit_event(&view()).is_err(), "users are not there yet");
        store.append(&Event::SoakStarted).unwrap();
        store.append(&Event::Parked).unwrap();
        assert_eq!(commit_event(&view()), Ok(Some(Event::CommitAsked)));
        store.append(&Event::CommitAsked).unwrap();
        assert_eq!(commit_event(&view()), Ok(None));
        store.append(&Event::PauseAsked).unwrap();
        assert_eq!(commit_event(&view()), Ok(Some(Event::CommitAsked)), "who pauses is not sure any more");
        store.append(&Event::Stopped { why: "it does not hold".into(), may: vec![MayDo::Commit] }).unwrap();
        let decided = Event::CommitDecided { by: "operator".into() };
        assert_eq!(commit_event(&view()), Ok(Some(decided.clone())));
        assert!(view().paused);
        store.append(&decided).unwrap();
        assert!(!view().paused, "it would stand still instead of committing");
    }

    #[test]
    fn a_resume_is_written_down_where_the_next_start_would_not_know_that_it_is_one() {
        let store = MemoryStore::default();
        let view = || View::of(&store.load().unwrap());
        store.append(&started()).unwrap();
        assert_eq!(goes_on(&view(), true), None, "it was cut off, and goes on by itself");
        store.append(&Event::PauseAsked).unwrap();
        assert_eq!(goes_on(&view(), true), Some(Event::PauseTakenBack));
        store.append(&Event::Parked).unwrap();
        assert_eq!(goes_on(&view(), true), Some(Event::Unparked));
        assert_eq!(goes_on(&view(), false), None, "any start is a resume then");
        store.append(&Event::Unparked).unwrap();
        store.append(&Event::Parked).unwrap();
        assert_eq!(goes_on(&view(), true), None, "systemd has parked it");
        store.append(&Event::Stopped { why: "it does not hold".into(), may: vec![] }).unwrap();
        assert_eq!(goes_on(&view(), true), Some(Event::Resumed));
        assert_eq!(goes_on(&view(), false), None);
    }

    #[test]
    fn a_start_that_failed_because_all_was_done_meanwhile_is_no_failure() {
        let stopped = Event::Stopped { why: "the disk is full".into(), may: vec![MayDo::Resume] };
        let store = MemoryStore::default();
        store.append(&stopped).unwrap();
        let before = View::of(&store.load().unwrap());
        assert!(!has_ended_since(Some(&before), &before), "it waited before");
        let decided = back(&before).unwrap().unwrap();
        store.append(&decided).unwrap();
        let decided = View::of(&store.load().unwrap());
        assert!(!has_ended_since(Some(&decided), &decided));
        store.append(&stopped).unwrap();
        assert!(has_ended_since(Some(&decided), &View::of(&store.load().unwrap())));
        store.append(&Event::Closed { end: End::RolledBack { left: vec![] } }).unwrap();
        assert!(has_ended_since(Some(&decided), &View::of(&store.load().unwrap())));
    }
}
