//! The daemon: one run of an instance under systemd, or in the foreground.

mod armed;
mod caller;
mod live;
mod observer;
mod recover;
mod secrets;
mod status;

pub(crate) use armed::{disarm, goes_on_all_the_same, is_armed};
pub use caller::HostCaller;
pub use live::Live;
pub use observer::{News, Shown, Teller};
pub use secrets::StoredSecrets;
pub use status::Status;

use crate::bus::Bus;
use crate::cli::Exit;
use crate::engine::{Command, Engine, EngineError, Finish, Note, Observer, Reply, WallClock};
use crate::host::{ChildLauncher, Launcher, SurvivorError, TransientLauncher};
use crate::instance::Instance;
use crate::report::Report;
use crate::state::{End, InstanceLock, SqliteStore, Store, View};
use crate::systemd::units::{BusAddress, Units};
use crate::systemd::{journal, notify::Notify};
use connect_migrator_sdk::Op;
use jiff::Timestamp;
use recover::Recovered;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// How many commands may wait for the engine.
const COMMAND_QUEUE: usize = 8;
/// How often the watchdog is fed while a run is wrapped up.
const ALIVE_EVERY_SECONDS: u64 = 2;
/// How long a run that cannot go on beside a process waits before it ends and systemd starts it again: with less, systemd would give
/// up after some minutes.
const STILL_RUNS_PAUSE_SECONDS: u64 = 25;

/// In what kind of process steps run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StepsRunAs {
    /// Children of this process, which end with it.
    Children,
    /// Transient units, each with a sandbox of its own. A call that changes things goes on when the daemon is gone, and the next
    /// daemon takes part in it again.
    Units,
}

/// Goes on with the open migration of an instance, or begins a new one, until it ends, is parked, or needs an operator.
pub async fn run(instance: &Instance, steps: StepsRunAs) -> Exit {
    journal::init(journal::Mode::Daemon);
    let teller = Arc::new(Teller::new(instance.name(), Notify::from_environment()));
    let exit = match begin(instance, steps, &teller).await {
        Ok(Begun::Run(engine, _lock)) => go(instance, *engine, &teller).await,
        Ok(Begun::Ended(view, end, _lock)) => {
            teller.ready();
            kept_alive(&teller, wrap_up(instance, &view, &teller)).await;
            exit_of(&end)
        }
        Ok(Begun::Stands(view, _lock)) => {
            teller.ready();
            kept_alive(&teller, wrap_up(instance, &view, &teller)).await;
            let why =
                "the run stood still when it was cut off, and still does; start again if it is to go on";
            teller.aside(journal::ids::NEEDS_OPERATOR, journal::Priority::Notice, why);
            if view.stop.is_some() { Exit::NeedsOperator } else { Exit::Done }
        }
        Err((exit, why)) => {
            teller.failed(&why);
            exit
        }
    };
    teller.stopping();
    exit
}

type Failed = (Exit, String);

/// What a start found.
enum Begun {
    /// A migration to go on with, or a new one.
    Run(Box<Engine>, InstanceLock),
    /// One that had ended when the daemon was cut off. Nobody asked for another one: this start only wraps it up.
    Ended(Box<View>, End, InstanceLock),
    /// One that had come to wait for an operator, or was paused by one, when the daemon was cut off. Nobody asked for it to go on.
    Stands(Box<View>, InstanceLock),
}

async fn begin(instance: &Instance, steps: StepsRunAs, teller: &Arc<Teller>) -> Result<Begun, Failed> {
    let unusable = |why: &dyn std::fmt::Display| (Exit::Unusable, why.to_string());
    let state_dir = instance.state_dir();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&state_dir).map_err(|error| {
        unusable(&format!("could not make {}: {error}; run as root, and check the disk", state_dir.display()))
    })?;
    let lock = InstanceLock::take(&state_dir).map_err(|error| (Exit::from(&error), error.to_string()))?;
    let store: Arc<dyn Store> =
        Arc::new(SqliteStore::open(&instance.state_path()).map_err(|error| unusable(&error))?);
    let view = View::of(&store.load().map_err(|error| unusable(&error))?);
    if let Some((_, end)) = view.closed.clone()
        && !recover::is_tidy(instance, &view)
    {
        return Ok(Begun::Ended(Box::new(view), end, lock));
    }
    if view.is_open() && (view.stop.is_some() || view.parked && view.paused) && is_armed(instance) {
        return Ok(Begun::Stands(Box::new(view), lock));
    }
    let (launcher, caller) =
        launchers(instance, steps, &view, teller).await.map_err(|error| (Exit::Failed, error))?;
    let Recovered { plan, begins } =
        recover::recover(instance, store.as_ref(), launcher.as_ref()).await.map_err(|error| {
            // A migration that is open is not left lying: systemd starts it again after a failure.
            let exit = if view.is_open() && error.may_pass() { Exit::Failed } else { Exit::Unusable };
            (exit, error.to_string())
        })?;
    teller.outline(&plan.outline());
    let engine = Engine::new(
        plan,
        store,
        Arc::new(caller),
        Arc::new(StoredSecrets),
        Arc::clone(teller) as Arc<dyn Observer>,
        Arc::new(WallClock),
    )
    .map_err(|error| unusable(&error))?;
    teller.recovered(&engine.view());
    if let Some(started) = begins {
        engine.start(&started).map_err(|error| unusable(&error))?;
    }
    // Before the daemon is ready: whoever started it may ask at once.
    engine.go_on().map_err(|error| unusable(&error))?;
    Ok(Begun::Run(Box::new(engine), lock))
}

/// Who starts steps. Steps of an earlier start have ended when this returns, but for the one call that may go on.
async fn launchers(
    instance: &Instance,
    steps: StepsRunAs,
    view: &View,
    teller: &Teller,
) -> Result<(Arc<dyn Launcher>, HostCaller), String> {
    let transient = match Units::system().await {
        Ok(units) => {
            let launcher = TransientLauncher::new(Arc::new(units), instance.name(), &instance.program_dir());
            let goes_on = view.cut_off().map(|call| call.number);
            match launcher.clear(goes_on).await {
                Ok(hanging) => {
                    for unit in hanging {
                        let why = format!(
                            "{unit} of an earlier start only reads, and does not end; the run goes on beside it"
                        );
                        teller.aside(journal::ids::AROUND_FAILED, journal::Priority::Warning, &why);
                    }
                }
                Err(error) => {
                    if matches!(error, SurvivorError::StillRuns(_)) {
                        teller.aside(
                            journal::ids::AROUND_FAILED,
                            journal::Priority::Warning,
                            &format!("waits {STILL_RUNS_PAUSE_SECONDS} s until the next try: {error}"),
                        );
                        tokio::time::sleep(Duration::from_secs(STILL_RUNS_PAUSE_SECONDS)).await;
                    }
                    return Err(error.to_string());
                }
            }
            Some(Arc::new(launcher))
        }
        Err(error) => {
            if steps == StepsRunAs::Units {
                let why =
                    format!("steps run as children of the daemon, because systemd cannot be asked: {error}");
                teller.aside(journal::ids::AROUND_FAILED, journal::Priority::Warning, &why);
            }
            None
        }
    };
    let calls = instance.calls_dir();
    Ok(match transient {
        Some(launcher) if steps == StepsRunAs::Units => {
            (Arc::clone(&launcher) as Arc<dyn Launcher>, HostCaller::surviving(&calls, launcher))
        }
        other => {
            let launcher: Arc<dyn Launcher> = Arc::new(ChildLauncher::default());
            (Arc::clone(&launcher), HostCaller::new(launcher).finding(&calls, other))
        }
    })
}

/// Writes the report; after the end of a migration, undoes what was set up for its time only. Done twice, it is done once. One that
/// waits for an operator, or was paused by one, is not gone on with by a reboot.
async fn wrap_up(instance: &Instance, view: &View, teller: &Teller) {
    if let Some(report) = Report::of(view, Timestamp::now())
        && let Err(error) = report.write(&instance.report_path())
    {
        teller.failed(&format!("could not write the report {}: {error}", instance.report_path().display()));
    }
    if view.closed.is_some() || view.stop.is_some() || view.parked && view.paused {
        armed::disarmed(instance, view.is_open(), teller).await;
    }
    if view.closed.is_some() {
        // Last: it tells the next start that nothing is left to do.
        recover::tidy(instance, view, teller);
    }
}

/// Whether a start has done what it is for: the checks have passed, or it carries out what was decided before.
fn has_started(view: &View) -> bool {
    view.decision.is_some() || view.calls.iter().any(|call| call.op != Op::Check)
}

fn exit_of(end: &End) -> Exit {
    match end {
        End::Committed => Exit::Done,
        End::RolledBack { left } if left.is_empty() => Exit::RolledBack,
        End::RolledBack { .. } => Exit::NeedsOperator,
        End::Blocked => Exit::Blocked,
    }
}

async fn go(instance: &Instance, mut engine: Engine, teller: &Arc<Teller>) -> Exit {
    let (send, mut commands) = mpsc::channel(COMMAND_QUEUE);
    let bus = match Bus::serve(BusAddress::System, instance, send.clone(), Arc::clone(teller)).await {
        Ok(bus) => Some(bus),
        Err(error) => {
            teller.failed(&format!(
                "{error}; the run goes on, but `connect-migrator rollback` and `commit` must wait"
            ));
            None
        }
    };
    if let Err(error) = park_on_signals(teller, send) {
        teller
            .failed(&format!("could not listen for signals: {error}; `systemctl stop` will cut the run off"));
    }
    armed::arm(instance, teller).await;
    if has_started(&engine.view()) {
        teller.ready();
    }
    let mut result = engine.run(&mut commands).await;
    // While the machine goes down systemd refuses jobs, and steps fail by that: the next start tries them again.
    if matches!(result, Ok(Finish::Waiting(_))) && engine.is_stopping() && machine_goes_down().await {
        result = engine.put_off().map(|()| Finish::Parked);
    }
    // A service that exits well before it was ready counts as failed, and is started again.
    if matches!(result, Ok(Finish::Parked)) {
        teller.ready();
    }
    kept_alive(teller, wrap_up(instance, &engine.view(), teller)).await;
    if let Some(bus) = bus {
        bus.close().await;
    }
    match result {
        Ok(Finish::Closed(end)) => exit_of(&end),
        Ok(Finish::Parked) => Exit::Done,
        Ok(Finish::Waiting(_)) => Exit::NeedsOperator,
        Err(error) => {
            teller.failed(&error.to_string());
            if matches!(error, EngineError::StillRuns(_)) {
                // systemd starts the unit again at once, and not without end; a command ends the wait.
                let pause = Duration::from_secs(STILL_RUNS_PAUSE_SECONDS);
                let _ = tokio::time::timeout(pause, commands.recv()).await;
            }
            Exit::Failed
        }
    }
}

/// Also when systemd does not answer any more.
async fn machine_goes_down() -> bool {
    let asked = async { Units::system().await?.machine_goes_down().await };
    asked.await.unwrap_or(true)
}

/// Feeds the watchdog meanwhile: making systemd read its unit files may take long.
async fn kept_alive(teller: &Teller, work: impl Future<Output = ()>) {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            () = &mut work => return,
            () = tokio::time::sleep(Duration::from_secs(ALIVE_EVERY_SECONDS)) => {
                teller.note(&Note::Alive { busy: true });
            }
        }
    }
}

/// `systemctl stop` parks the run; so does Ctrl-C in the foreground.
fn park_on_signals(teller: &Arc<Teller>, commands: mpsc::Sender<(Command, Reply)>) -> std::io::Result<()> {
    let teller = Arc::clone(teller);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            let (reply, answer) = oneshot::channel();
            if commands.send((Command::Stop, reply)).await.is_err() {
                return;
            }
            if let Ok(Ok(text)) = answer.await {
                let told = format!("asked to stop: {text}");
                teller.aside(journal::ids::ASKED_TO_STOP, journal::Priority::Notice, &told);
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Cause, Event, MemoryStore};

    #[test]
    fn a_start_that_carries_out_a_decision_is_ready_before_it_does() {
        let store = MemoryStore::default();
        let check =
            Event::Intent { call: 1, place: 0, step: "a".into(), op: Op::Check, of: None, attempt: 1 };
        store.append(&check).unwrap();
        assert!(!has_started(&View::of(&store.load().unwrap())));
        let cause = Cause { step: None, op: None, why: String::new(), remedy: String::new() };
        store.append(&Event::RollbackDecided { cause }).unwrap();
        assert!(has_started(&View::of(&store.load().unwrap())));
    }
}
