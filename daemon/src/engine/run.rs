//! Carries out what [`next`] decides, until there is nothing more to do.

use super::call::{Called, Caller, Journal, NextCall, NoteTaker, Secrets, SharedJournal, ended_reading};
use super::decide::{Next, broken, next, not_an_outcome};
use super::plan::Plan;
use super::window::{NOTHING_TO_ABORT, users_have_moved, windows};
use crate::runbook::Then;
use crate::state::{CallResult, Cause, End, Event, Failure, Phase, Stop, Store, StoreError, View};
use connect_migrator_sdk::{Invocation, LogLevel, Migration, Op, Progress};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How often the loop says that it is alive while a call runs.
const ALIVE_EVERY_SECS: u64 = 2;
/// How many rounds of the soak must fail in a row until the new server counts as broken.
const SOAK_STRIKES: u32 = 3;
/// How long to wait for the next round after a failed one.
const SOAK_RETRY_SECS: u64 = 2;

/// The engine cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The state could not be written or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder of a step could not be made.
    #[error("could not make the folder {0} of a step: {1}; check that the disk is not full or read-only")]
    StepDir(std::path::PathBuf, std::io::Error),
    /// A call may still be changing things: nothing else was done. The next start waits for its end.
    #[error("{0}")]
    StillRuns(String),
    /// There is no migration to go on with.
    #[error("no migration has been started")]
    NotStarted,
}

/// What an operator asks of a running engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Stop at the next safe point, unless [`Command::Resume`] comes first.
    Park,
    /// Stop at the next safe point in any case: systemd waits for the end of this process, and kills it if it does not come.
    Stop,
    /// Take a [`Command::Park`] back that has not been carried out yet.
    Resume,
    /// Take the way back.
    Rollback,
    /// Take the way back, unless users work on the new server already.
    Abort,
    /// End the soak now.
    Commit,
}

/// How a command is answered: a sentence on what will happen, or why not.
pub type Reply = oneshot::Sender<Result<String, String>>;

/// How a run of the engine ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Finish {
    /// The migration is over.
    Closed(End),
    /// Parked; the next run goes on.
    Parked,
    /// An operator is needed.
    Waiting(Stop),
}

/// Something to be told.
#[derive(Debug)]
pub enum Note<'a> {
    /// An event has become durable; the view includes it.
    Event {
        /// The event.
        event: &'a Event,
        /// The state with it.
        view: &'a View,
        /// The phase it belongs to.
        phase: Phase,
    },
    /// A step wrote a line.
    Log {
        /// The step's id.
        step: &'a str,
        /// Its plugin.
        plugin: &'a str,
        /// How much it matters.
        level: LogLevel,
        /// The line.
        message: &'a str,
    },
    /// A step reports how far it has come.
    Progress {
        /// The step's id.
        step: &'a str,
        /// How far.
        progress: &'a Progress,
    },
    /// A round of the soak.
    Soaked {
        /// Why the new server is not as it should be, if it is not.
        broken: Option<&'a str>,
        /// How long the soak still lasts.
        left: Duration,
    },
    /// The loop runs. `busy`: a call that must not be cut off is under way, or users are not served.
    Alive {
        /// See above.
        busy: bool,
    },
    /// A command to park was taken; `false`: and taken back.
    Parking(bool),
}

/// Who is told.
pub trait Observer: Send + Sync {
    /// Is told. Must not block for long.
    fn note(&self, note: &Note<'_>);
}

/// Time, so that tests need not wait.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
    /// Time since an earlier moment, whatever somebody sets the clock to; without that in which the machine was suspended.
    fn monotonic(&self) -> Duration;
    /// Waits.
    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()>;
}

/// The real time.
#[derive(Debug, Default)]
pub struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        static BEGAN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        BEGAN.get_or_init(std::time::Instant::now).elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Runs one migration.
#[allow(missing_debug_implementations, reason = "it holds the traits of its surroundings")]
pub struct Engine {
    plan: Plan,
    journal: SharedJournal,
    caller: Arc<dyn Caller>,
    secrets: Arc<dyn Secrets>,
    observer: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
    park: bool,
    /// systemd ends this process: the park is not taken back.
    stop: bool,
    /// It was decided while something else was being done.
    rollback: bool,
}

impl Engine {
    /// An engine on the state that `store` holds.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn new(
        plan: Plan,
        store: Arc<dyn Store>,
        caller: Arc<dyn Caller>,
        secrets: Arc<dyn Secrets>,
        observer: Arc<dyn Observer>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EngineError> {
        let journal = SharedJournal::new(Journal::open(store)?);
        Ok(Engine {
            plan,
            journal,
            caller,
            secrets,
            observer,
            clock,
            park: false,
            stop: false,
            rollback: false,
        })
    }

    /// Whether systemd has asked this process to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop
    }

    /// The current state.
    #[must_use]
    pub fn view(&self) -> View {
        self.journal.view()
    }

    /// Appends the first event of a migration.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub fn start(&self, started: &Event) -> Result<(), EngineError> {
        self.append(started)
    }

    /// Makes durable that a parked or waiting migration goes on, so that nobody who asks is told otherwise. Called again, it
    /// does nothing.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub fn go_on(&self) -> Result<(), EngineError> {
        let (open, waits, parked) =
            self.journal.with(|view| (view.is_open(), view.stop.is_some(), view.parked));
        match (open, waits, parked) {
            (true, true, _) => self.append(&Event::Resumed),
            (true, false, true) => self.append(&Event::Unparked),
            _ => Ok(()),
        }
    }

    /// Makes durable that the next start tries again what has failed because the machine goes down. A pause that was asked for stays.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub fn put_off(&self) -> Result<(), EngineError> {
        let paused = self.journal.with(|view| view.paused);
        self.go_on()?;
        if paused { self.append(&Event::PauseAsked) } else { Ok(()) }
    }

    /// Goes on until the migration is over, parked, or needs an operator. A migration that waited for one counts as resumed.
    ///
    /// # Errors
    /// When the state cannot be written: nothing more was done after that.
    pub async fn run(
        &mut self,
        commands: &mut mpsc::Receiver<(Command, Reply)>,
    ) -> Result<Finish, EngineError> {
        if self.journal.with(|view| view.started.is_none()) {
            return Err(EngineError::NotStarted);
        }
        self.go_on()?;
        // Of a daemon that was cut off before it stood still.
        if self.journal.with(|view| view.paused) {
            self.park = true;
            self.observer.note(&Note::Parking(true));
        }
        self.learn(commands).await?;
        loop {
            while let Ok((command, reply)) = commands.try_recv() {
                self.heed(&command, reply, None);
            }
            if self.park && self.journal.with(|view| view.is_open() && !in_window(view)) {
                self.append(&Event::Parked)?;
                return Ok(Finish::Parked);
            }
            let decided = self.journal.with(|view| next(&self.plan, view));
            match decided {
                Next::Done(end) => return Ok(Finish::Closed(end)),
                Next::Wait(stop) => return Ok(Finish::Waiting(stop)),
                Next::Append(event) => self.append(&event)?,
                Next::Soak => self.soak(commands).await?,
                call @ Next::Call { .. } => self.call(&call, commands).await?,
            }
        }
    }

    fn append(&self, event: &Event) -> Result<(), EngineError> {
        if let Err(why) = self.journal.append(event) {
            return Err(EngineError::Store(self.journal.take_failure().unwrap_or(StoreError {
                tried: "append to",
                path: "of the migration".into(),
                why,
                remedy: "start again once that is mended".into(),
            })));
        }
        self.journal.with(|view| self.observer.note(&Note::Event { event, view, phase: view.phase() }));
        Ok(())
    }

    /// Takes a command; answers it, and cancels the running call where that is safe and wanted.
    fn heed(&mut self, command: &Command, reply: Reply, running: Option<(Op, &CancellationToken)>) {
        let view = self.view();
        let interrupt = |word: &str| match running {
            Some((Op::Check | Op::Prepare | Op::Verify | Op::Probe, cancel)) => {
                cancel.cancel();
                format!("{word} now")
            }
            Some((op, _)) => format!("{word} when the running call ({op}) has ended"),
            None => format!("{word} now"),
        };
        let answer = match command {
            _ if !view.is_open() => Err("the migration is over".to_owned()),
            Command::Park | Command::Stop => {
                let pauses = *command == Command::Park;
                // Who pauses is not sure any more. A reboot is no change of mind.
                let taken_back = pauses && view.commit_asked && view.decision.is_none();
                let events = [
                    taken_back.then_some(Event::CommitTakenBack),
                    // Durable before it is promised: the next daemon must not go on instead.
                    (pauses && !view.paused).then_some(Event::PauseAsked),
                ];
                if let Err(error) = events.iter().flatten().try_for_each(|event| self.append(event)) {
                    let _ = reply.send(Err(error.to_string()));
                    return;
                }
                self.park = true;
                self.stop |= !pauses;
                self.observer.note(&Note::Parking(true));
                let parks = if in_window(&view) {
                    "parks as soon as users are served again".into()
                } else {
                    interrupt("parks")
                };
                Ok(if taken_back {
                    format!("{parks}; the commit that was asked for is taken back")
                } else {
                    parks
                })
            }
            Command::Resume if self.stop => {
                Err("systemd is stopping it: it parks, and can be resumed once it has".into())
            }
            Command::Resume if self.park => match self.append(&Event::PauseTakenBack) {
                Ok(()) => {
                    self.unpark();
                    Ok("goes on: the pause was taken back before it parked".into())
                }
                Err(error) => Err(error.to_string()),
            },
            Command::Resume => Ok("runs already".into()),
            Command::Abort if users_have_moved(&view) => Err(NOTHING_TO_ABORT.into()),
            Command::Rollback | Command::Abort => match &view.decision {
                Some(crate::state::Decision::Commit { .. }) => {
                    Err("it is already committed: there is no way back".into())
                }
                Some(_) => {
                    let again = if view.paused { self.append(&Event::PauseTakenBack) } else { Ok(()) };
                    again.map_err(|error| error.to_string()).map(|()| {
                        self.unpark();
                        "it is already rolling back".into()
                    })
                }
                // Durable before it is promised: a daemon that dies during the call must not go on forward.
                None => match self.append(&Event::RollbackDecided { cause: operators_cause() }) {
                    Ok(()) => {
                        self.rollback = true;
                        // Who asks for the way back does not want it to stand still first, as systemd may.
                        self.unpark();
                        Ok(interrupt("rolls back"))
                    }
                    Err(error) => Err(error.to_string()),
                },
            },
            Command::Commit => {
                if view.soak_since.is_none() || view.decision.is_some() {
                    Err("only a migration in its soak can be committed".into())
                } else {
                    // As for rollback: a daemon that dies before the round has ended must still know.
                    let asked = if view.commit_asked { Ok(()) } else { self.append(&Event::CommitAsked) };
                    match asked {
                        Ok(()) => {
                            self.unpark();
                            Ok("commits as soon as one more round of verification holds".into())
                        }
                        Err(error) => Err(error.to_string()),
                    }
                }
            }
        };
        // Whoever asked may have gone away.
        let _ = reply.send(answer);
    }

    async fn call(
        &mut self,
        call: &Next,
        commands: &mut mpsc::Receiver<(Command, Reply)>,
    ) -> Result<(), EngineError> {
        let Next::Call { place, op, of, attempt, checkpoint, undo } = call.clone() else { return Ok(()) };
        let Some(step) = self.plan.step_at(place).cloned() else { return Ok(()) };
        let state_dir = self.plan.steps_dir.join(&step.id);
        std::fs::create_dir_all(&state_dir)
            .map_err(|error| EngineError::StepDir(state_dir.clone(), error))?;
        let number = self.journal.with(View::next_call);
        let invocation = Invocation { of, attempt, checkpoint, undo, ..self.invocation(&step, op) };
        self.append(&Event::Intent { call: number, place, step: step.id.clone(), op, of, attempt })?;
        let listener = self.listener(&step, op, number);
        let cancel = CancellationToken::new();
        let caller = Arc::clone(&self.caller);
        let next = self.next_if_all_goes_well(place, op, number);
        let call = Called { number: Some(number), invocation, timeout: self.plan.timeout(op), next };
        let made = caller.call(&step, call, listener, cancel.clone());
        match self.attend(made, op, &cancel, commands).await {
            Ok(result) => self.ended(number, op, result),
            Err(why) => Err(EngineError::StillRuns(why)),
        }
    }

    /// The first try of a call of this step, as things stand now.
    fn invocation(&self, step: &super::PlannedStep, op: Op) -> Invocation {
        let (migration, facts, routed) =
            self.journal.with(|view| (view.migration().to_owned(), view.facts.clone(), view.routed()));
        Invocation {
            step: step.id.clone(),
            uses: step.info.name.clone(),
            op,
            of: None,
            attempt: 1,
            config: step.config.clone(),
            migration: Migration { id: migration, instance: self.plan.instance.clone() },
            source: self.plan.source.clone(),
            state_dir: self.plan.steps_dir.join(&step.id),
            facts,
            routed: Some(routed),
            checkpoint: None,
            undo: Vec::new(),
        }
    }

    /// The calls that follow this one until users are served again.
    fn next_if_all_goes_well(&self, place: usize, op: Op, number: u64) -> Vec<NextCall> {
        if self.plan.program.get(place).is_none_or(|at| at.op != op) {
            return Vec::new(); // on the way back, or a round of the soak
        }
        let mut calls = Vec::new();
        for (at, number) in self.plan.until_served(place).iter().zip(number + 1..) {
            let Some(step) = self.plan.steps.get(at.step) else { break };
            let invocation = self.invocation(step, at.op);
            // Its sandbox is made with this folder in it.
            if std::fs::create_dir_all(&invocation.state_dir).is_err() {
                break;
            }
            let timeout = self.plan.timeout(at.op);
            let call = Called { number: Some(number), invocation, timeout, next: Vec::new() };
            calls.push(NextCall { step: step.clone(), call });
        }
        calls
    }

    /// Writes down how a call ended.
    fn ended(
        &self,
        number: u64,
        op: Op,
        result: Result<serde_json::Value, Failure>,
    ) -> Result<(), EngineError> {
        if let Some(error) = self.journal.take_failure() {
            return Err(error.into());
        }
        let result = match result {
            Ok(answer) => match not_an_outcome(op, &answer) {
                None => CallResult::Answered { answer, probed: false },
                Some(failure) => CallResult::Failed(failure),
            },
            Err(failure) => CallResult::Failed(failure),
        };
        self.append(&Event::Outcome { call: number, result })
    }

    fn listener(&self, step: &super::PlannedStep, op: Op, number: u64) -> Arc<NoteTaker> {
        Arc::new(NoteTaker {
            journal: op.changes().then(|| (self.journal.clone(), number)),
            observer: Arc::clone(&self.observer),
            secrets: Arc::clone(&self.secrets),
            credentials: step.credentials.clone(),
            step: step.id.clone(),
            plugin: step.plugin.name(),
        })
    }

    /// A call that changes things may have gone on when an earlier run was cut off from it. Its real end is written down; where
    /// that cannot be learnt, the world will be looked at. Nothing else is done before it has ended.
    async fn learn(&mut self, commands: &mut mpsc::Receiver<(Command, Reply)>) -> Result<(), EngineError> {
        let cut_off = self.journal.with(|view| view.cut_off().cloned());
        let Some(record) = cut_off else { return Ok(()) };
        let Some(step) = self.plan.step_at(record.place).cloned() else { return Ok(()) };
        let back = self.journal.with(|view| view.decision.is_some());
        let invocation = Invocation {
            of: record.of,
            attempt: record.attempt,
            checkpoint: record.checkpoint,
            ..self.invocation(&step, record.op)
        };
        let ran = self.clock.now().duration_since(record.started).unsigned_abs();
        let timeout = self.plan.timeout(record.op).saturating_sub(ran);
        let call = Called { number: Some(record.number), invocation, timeout, next: Vec::new() };
        let cancel = CancellationToken::new();
        // What an operator decided while no daemon ran, as if the daemon had been asked.
        if back && record.op == Op::Prepare {
            cancel.cancel();
        }
        let caller = Arc::clone(&self.caller);
        let listener = self.listener(&step, record.op, record.number);
        let awaited = caller.await_end(&step, call, listener, cancel.clone());
        match self.attend(awaited, record.op, &cancel, commands).await {
            Ok(Some(result)) => self.ended(record.number, record.op, result),
            Ok(None) => match self.journal.take_failure() {
                Some(error) => Err(error.into()),
                None => Ok(()),
            },
            Err(why) => Err(EngineError::StillRuns(why)),
        }
    }

    /// Waits for a call while commands are heeded and the watchdog is fed.
    async fn attend<T>(
        &mut self,
        made: BoxFuture<'_, T>,
        op: Op,
        cancel: &CancellationToken,
        commands: &mut mpsc::Receiver<(Command, Reply)>,
    ) -> T {
        let mut made = made;
        let mut commands_open = true;
        loop {
            let busy = matches!(op, Op::EnterWindow | Op::Apply | Op::Rollback | Op::Finalize)
                || self.journal.with(in_window);
            self.observer.note(&Note::Alive { busy });
            tokio::select! {
                result = &mut made => return result,
                command = commands.recv(), if commands_open => match command {
                    Some((command, reply)) => self.heed(&command, reply, Some((op, cancel))),
                    None => commands_open = false,
                },
                () = tokio::time::sleep(Duration::from_secs(ALIVE_EVERY_SECS)) => {}
            }
        }
    }

    /// Watches the new server until the soak is over, and writes down what was decided. The time in which nobody watched does not
    /// count: after a reboot or a park the soak begins anew.
    async fn soak(&mut self, commands: &mut mpsc::Receiver<(Command, Reply)>) -> Result<(), EngineError> {
        let began = self.clock.monotonic();
        let mut strikes = 0;
        loop {
            let trouble = self.soak_round(commands).await;
            if self.park || self.rollback {
                return Ok(()); // the run loop takes it from here
            }
            let left = self.plan.soak.for_.saturating_sub(self.clock.monotonic().saturating_sub(began));
            self.observer
                .note(&Note::Soaked { broken: trouble.as_ref().map(|cause| cause.why.as_str()), left });
            let over = left.is_zero();
            if let Some(cause) = trouble {
                strikes += 1;
                if strikes >= SOAK_STRIKES {
                    return match self.plan.on_failure {
                        crate::runbook::OnFailure::Rollback => self.append(&Event::RollbackDecided { cause }),
                        crate::runbook::OnFailure::Pause => self.append(&Event::Stopped {
                            why: format!("the new server does not hold during the soak: {}", cause.why),
                            may: vec![
                                crate::state::MayDo::Resume,
                                crate::state::MayDo::Rollback,
                                crate::state::MayDo::Commit,
                            ],
                        }),
                    };
                }
            } else {
                strikes = 0;
                if self.commit_asked() {
                    return self.append(&Event::CommitDecided { by: "operator".into() });
                }
                match self.plan.soak.then {
                    Then::Commit if over => {
                        return self.append(&Event::CommitDecided { by: "the soak time is over".into() });
                    }
                    Then::Rollback if over => {
                        let why = "the runbook asks for rollback after the soak".into();
                        let cause = Cause { step: None, op: None, why, remedy: String::new() };
                        return self.append(&Event::RollbackDecided { cause });
                    }
                    _ => {}
                }
            }
            let pause = if strikes > 0 { Duration::from_secs(SOAK_RETRY_SECS) } else { self.plan.soak.every };
            let pause = if over { pause } else { pause.min(left) };
            self.soak_pause(pause, strikes > 0, commands).await;
        }
    }

    /// Takes a park back, if systemd does not want it.
    fn unpark(&mut self) {
        if self.park && !self.stop {
            self.park = false;
            self.observer.note(&Note::Parking(false));
        }
    }

    fn commit_asked(&self) -> bool {
        self.journal.with(|view| view.commit_asked)
    }

    /// A commit that is asked for ends it, but not the pause after a `failed` round: three in a row count as a failed step.
    async fn soak_pause(
        &mut self,
        pause: Duration,
        failed: bool,
        commands: &mut mpsc::Receiver<(Command, Reply)>,
    ) {
        let clock = Arc::clone(&self.clock);
        let mut slept = clock.sleep(pause);
        let mut commands_open = true;
        while !(self.park || self.rollback || !failed && self.commit_asked()) {
            self.observer.note(&Note::Alive { busy: false });
            tokio::select! {
                () = &mut slept => return,
                command = commands.recv(), if commands_open => match command {
                    Some((command, reply)) => self.heed(&command, reply, None),
                    None => commands_open = false,
                },
                () = tokio::time::sleep(Duration::from_secs(ALIVE_EVERY_SECS)) => {}
            }
        }
    }

    /// Verifies every step once; answers the first that does not hold.
    async fn soak_round(&mut self, commands: &mut mpsc::Receiver<(Command, Reply)>) -> Option<Cause> {
        for step in self.plan.steps.clone() {
            let invocation = self.invocation(&step, Op::Verify);
            let secrets = Arc::clone(&self.secrets);
            let taker = NoteTaker::reading(&step, Arc::clone(&self.observer), secrets);
            let cancel = CancellationToken::new();
            let caller = Arc::clone(&self.caller);
            let timeout = self.plan.timeout(Op::Verify);
            let call = Called { number: None, invocation, timeout, next: Vec::new() };
            let made = caller.call(&step, call, Arc::new(taker), cancel.clone());
            let result = self.attend(made, Op::Verify, &cancel, commands).await;
            if self.park || self.rollback {
                return None;
            }
            let failure = match ended_reading(result) {
                Ok(answer) => broken(&answer),
                Err(failure) => Some(failure),
            };
            if let Some(failure) = failure {
                return Some(Cause {
                    step: Some(step.id.clone()),
                    op: Some(Op::Verify),
                    why: failure.why,
                    remedy: failure.remedy,
                });
            }
        }
        None
    }
}

/// Whether users are not served now.
fn in_window(view: &View) -> bool {
    windows(view).last().is_some_and(|span| span.closed.is_none())
}

fn operators_cause() -> Cause {
    Cause { step: None, op: None, why: "an operator asked for it".into(), remedy: String::new() }
}
