//! The object of an instance.

use super::INTERFACE;
use super::authority::{Action, authorize};
use crate::engine::{Command, Reply};
use crate::instance::Instance;
use crate::report::Report;
use crate::service::{Live, Shown, Status, Teller};
use crate::state::{MayDo, SqliteStore, Store, View};
use jiff::Timestamp;
use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, Variant, fdo};

/// How long a command waits for the engine to take it.
const COMMAND_TIMEOUT_SECS: u64 = 30;
/// How long a check or plan may take in all.
const LOOK_TIMEOUT_SECS: u64 = 900;
/// The longest answer of a check or plan: the bus itself ends at 128 MiB.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

pub(super) struct Migration {
    pub(super) commands: mpsc::Sender<(Command, Reply)>,
    pub(super) teller: Arc<Teller>,
    pub(super) instance: Instance,
    /// Held while a check or plan runs: one at a time.
    pub(super) looking: Mutex<()>,
}

impl Migration {
    async fn ask(&self, command: Command) -> fdo::Result<String> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.commands.send((command, reply)).await.map_err(|_| "the run has just ended".to_owned())?;
            answer.await.map_err(|_| "the run has just ended".to_owned())?
        };
        match tokio::time::timeout(Duration::from_secs(COMMAND_TIMEOUT_SECS), asked).await {
            Ok(answer) => answer.map_err(fdo::Error::Failed),
            Err(_) => Err(fdo::Error::TimedOut(
                "the engine did not take the command in time; see the journal".into(),
            )),
        }
    }

    /// Runs a command that looks at the host, and answers its JSON.
    async fn look(&self, command: &str) -> fdo::Result<String> {
        let Ok(_held) = self.looking.try_lock() else {
            let why = "a check or plan is already at work; wait for its end";
            return Err(fdo::Error::LimitsExceeded(why.into()));
        };
        // A process of its own: what a step holds in memory, or hangs on, is not the daemon's.
        let mut look = tokio::process::Command::new("/proc/self/exe");
        // In units: the daemon's own sandbox leaves a step nothing to look with.
        look.args([command, self.instance.name(), "--json", "--steps-run-as=units"]);
        look.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(Duration::from_secs(LOOK_TIMEOUT_SECS), look.output()).await {
            Err(_) => {
                Err(fdo::Error::TimedOut(format!("the {command} did not end within {LOOK_TIMEOUT_SECS} s")))
            }
            Ok(Err(error)) => Err(fdo::Error::Failed(format!("could not start the {command}: {error}"))),
            Ok(Ok(out)) if out.stdout.is_empty() || out.stdout.len() > MAX_ANSWER_BYTES => {
                Err(fdo::Error::Failed(format!(
                    "the {command} gave no answer that fits ({}, {} bytes); run `connect-migrator {command} {}`",
                    out.status,
                    out.stdout.len(),
                    self.instance.name()
                )))
            }
            Ok(Ok(out)) => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
        }
    }

    async fn allow(&self, connection: &Connection, header: &Header<'_>, action: Action) -> fdo::Result<()> {
        authorize(connection, header, action, self.instance.name()).await
    }
}

#[zbus::interface(name = "org.connect_migrator.Migration1")]
impl Migration {
    /// Takes the way back. Answers what will happen. Needs `org.connect-migrator.rollback`.
    #[zbus(out_args("answer"))]
    async fn rollback(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> fdo::Result<String> {
        self.allow(connection, &header, Action::Rollback).await?;
        self.ask(Command::Rollback).await
    }

    /// Takes the way back, unless users work on the new server already. Answers what will happen. Needs
    /// `org.connect-migrator.rollback`.
    #[zbus(out_args("answer"))]
    async fn abort(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> fdo::Result<String> {
        self.allow(connection, &header, Action::Rollback).await?;
        self.ask(Command::Abort).await
    }

    /// Ends the soak. Answers what will happen. Needs `org.connect-migrator.commit`.
    #[zbus(out_args("answer"))]
    async fn commit(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> fdo::Result<String> {
        self.allow(connection, &header, Action::Commit).await?;
        self.ask(Command::Commit).await
    }

    /// Stops at the next safe point. Answers when that is. Needs `org.connect-migrator.run`.
    #[zbus(out_args("answer"))]
    async fn park(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> fdo::Result<String> {
        self.allow(connection, &header, Action::Run).await?;
        self.ask(Command::Park).await
    }

    /// Takes a `Park` back that has not been carried out yet. Answers what will happen; what is parked already goes on when its
    /// unit is started. Needs `org.connect-migrator.run`.
    #[zbus(out_args("answer"))]
    async fn resume(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> fdo::Result<String> {
        self.allow(connection, &header, Action::Run).await?;
        self.ask(Command::Resume).await
    }

    /// Looks at every prerequisite, as `connect-migrator check --json` does, and answers the same. Needs
    /// `org.connect-migrator.check`.
    #[zbus(out_args("findings"))]
    async fn check(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> fdo::Result<String> {
        self.allow(connection, &header, Action::Check).await?;
        self.look("check").await
    }

    /// Looks at what a migration would do, as `connect-migrator plan --json` does, and answers the same. Needs
    /// `org.connect-migrator.check`.
    #[zbus(out_args("plan"))]
    async fn plan(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> fdo::Result<String> {
        self.allow(connection, &header, Action::Check).await?;
        self.look("plan").await
    }

    /// The whole migration as JSON, as `connect-migrator status --json` prints it. Needs `org.connect-migrator.view`.
    #[zbus(out_args("report"))]
    async fn report(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> fdo::Result<String> {
        self.allow(connection, &header, Action::View).await?;
        let path = self.instance.state_path();
        let live = self.teller.shown().progress;
        let read = move || {
            let store = SqliteStore::read(&path).map_err(|error| error.to_string())?;
            let records = match store {
                Some(store) => store.load().map_err(|error| error.to_string())?,
                None => Vec::new(),
            };
            let report = Report::of(&View::of(&records), Timestamp::now());
            let status = report.map(|report| Status { report, daemon_runs: true, live });
            serde_json::to_string(&status).map_err(|error| error.to_string())
        };
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| fdo::Error::Failed(format!("could not read the state: {error}")))?
            .map_err(fdo::Error::Failed)
    }

    /// Something happened: what kind of event (as in the journal's `MESSAGE_ID`, and in words), in which step and phase, and
    /// one line on it.
    #[zbus(signal)]
    pub(super) async fn event(
        emitter: &SignalEmitter<'_>,
        message_id: &str,
        name: &str,
        step: &str,
        phase: &str,
        text: &str,
    ) -> zbus::Result<()>;

    /// The name after the `@`.
    #[zbus(property(emits_changed_signal = "const"))]
    async fn instance(&self) -> String {
        self.instance.name().into()
    }

    /// The daemon's version.
    #[zbus(property(emits_changed_signal = "const"))]
    async fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").into()
    }

    /// The migration's id, a UUIDv7.
    #[zbus(property)]
    async fn migration_id(&self) -> String {
        self.teller.shown().migration
    }

    /// `check`, `prepare`, `apply`, `verify`, `soak`, `commit` or `rollback`.
    #[zbus(property)]
    async fn phase(&self) -> String {
        self.teller.shown().phase
    }

    /// The step that is being called; empty between calls.
    #[zbus(property)]
    async fn step(&self) -> String {
        self.teller.shown().step
    }

    /// One line on what is being done.
    #[zbus(property)]
    async fn status(&self) -> String {
        self.teller.shown().status
    }

    /// `running`, `parked`, `waiting`, `committed`, `rolled-back` or `blocked`.
    #[zbus(property)]
    async fn standing(&self) -> String {
        self.teller.shown().standing
    }

    /// What an operator may do now: `resume`, `rollback`, `commit`.
    #[zbus(property)]
    async fn may_do(&self) -> Vec<String> {
        may_do(&self.teller.shown())
    }

    /// How far a step has come: its id, what it does, units done and in all, the unit, units a second and seconds left; 0 and an
    /// empty text: it did not say.
    #[zbus(property)]
    async fn progress(&self) -> Told {
        progress(&self.teller.shown())
    }

    /// When users were last not served: from and to, in microseconds since 1970; 0: not yet.
    #[zbus(property)]
    async fn window(&self) -> (u64, u64) {
        window(&self.teller.shown())
    }

    /// How long users were last not served, until now while it lasts.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn window_seconds(&self) -> f64 {
        self.teller.shown().window.map_or(0.0, |span| span.seconds(Timestamp::now()))
    }
}

fn may_do(shown: &Shown) -> Vec<String> {
    let name = |may: &MayDo| match may {
        MayDo::Resume => "resume",
        MayDo::Rollback => "rollback",
        MayDo::Commit => "commit",
    };
    shown.may.iter().map(|may| name(may).to_owned()).collect()
}

/// Progress as the bus has it: step, doing, done, total, unit, a second, seconds left.
pub(super) type Told = (String, String, u64, u64, String, f64, f64);

fn progress(shown: &Shown) -> Told {
    let Some(live) = shown.progress.clone() else { return Default::default() };
    (
        live.step,
        live.doing,
        live.done.unwrap_or_default(),
        live.total.unwrap_or_default(),
        live.unit.unwrap_or_default(),
        live.per_second.unwrap_or_default(),
        live.seconds_left.unwrap_or_default(),
    )
}

/// The other way round: for those who watch.
pub(super) fn live(told: Told) -> Option<Live> {
    let (step, doing, done, total, unit, per_second, seconds_left) = told;
    let said = |number: u64| Some(number).filter(|number| *number > 0);
    let measured = |number: f64| Some(number).filter(|number| *number > 0.0);
    (!doing.is_empty()).then(|| Live {
        step,
        doing,
        done: said(done).or_else(|| said(total).map(|_| 0)),
        total: said(total),
        unit: Some(unit).filter(|unit| !unit.is_empty()),
        per_second: measured(per_second),
        seconds_left: measured(seconds_left),
    })
}

fn window(shown: &Shown) -> (u64, u64) {
    let micros = |at: Timestamp| u64::try_from(at.as_microsecond()).unwrap_or_default();
    shown.window.map_or((0, 0), |span| (micros(span.opened), span.closed.map_or(0, micros)))
}

/// What differs between two moments, by the names of the properties.
pub(super) fn changes(before: &Shown, now: &Shown) -> HashMap<&'static str, Variant<'static>> {
    let mut changed = HashMap::new();
    let texts = [
        ("MigrationId", &before.migration, &now.migration),
        ("Phase", &before.phase, &now.phase),
        ("Step", &before.step, &now.step),
        ("Status", &before.status, &now.status),
        ("Standing", &before.standing, &now.standing),
    ];
    for (name, before, now) in texts {
        if before != now {
            changed.insert(name, Variant::from(now.clone()));
        }
    }
    if before.may != now.may {
        changed.insert("MayDo", Variant::from(may_do(now)));
    }
    if before.progress != now.progress {
        changed.insert("Progress", Variant::from(progress(now)));
    }
    if before.window != now.window {
        changed.insert("Window", Variant::from(window(now)));
    }
    changed
}

/// Sends what changed, in one signal.
pub(super) async fn tell_changes(
    connection: &Connection,
    changed: HashMap<&'static str, Variant<'static>>,
) -> zbus::Result<()> {
    let invalidated: [&str; 0] = [];
    let body = (INTERFACE, changed, &invalidated[..]);
    connection
        .emit_signal(None::<&str>, super::PATH, "org.freedesktop.DBus.Properties", "PropertiesChanged", &body)
        .await
}
