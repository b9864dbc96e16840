//! Tells the journal, systemd and the bus what happens.

use super::live::{Live, Row};
use crate::engine::{Note, Observer, Span, StepFindings, findings, windows};
use crate::report::{Standing, may};
use crate::state::{CallResult, Decision, End, Event, MayDo, Outline, View};
use crate::systemd::journal::{Entry, MessageId, Priority, ids};
use crate::systemd::notify::Notify;
use connect_migrator_sdk::{LogLevel, Op, Progress, Severity};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// How often progress may change the status line.
const STATUS_EVERY_MILLIS: u64 = 500;
/// How long systemd is asked to wait, again and again, while a call that must not be cut off is under way.
const EXTEND_TIMEOUT_SECS: u64 = 60;

/// How many events may wait for the bus; older ones are dropped, since the journal has them all.
const NEWS_QUEUE: usize = 256;

/// What is shown of the run at this moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shown {
    /// UUIDv7.
    pub migration: String,
    /// The phase's name.
    pub phase: String,
    /// The step's id.
    pub step: String,
    /// One line.
    pub status: String,
    /// Where the migration stands; empty before it has begun.
    pub standing: String,
    /// What an operator may do now.
    pub may: Vec<MayDo>,
    /// The last time in which users were not served.
    pub window: Option<Span>,
    /// How far the running call has come, if it tells.
    pub progress: Option<Live>,
}

impl Shown {
    fn take(&mut self, view: &View) {
        self.migration = view.migration().into();
        self.phase = view.phase().name().into();
        if view.started.is_some() {
            self.standing = Standing::of(view).name().into();
            self.may = may(view);
            self.window = windows(view).last().copied();
        }
    }
}

/// An event as the bus tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// What kind of event it is.
    pub id: MessageId,
    /// The step's id, if it is of one.
    pub step: String,
    /// The phase.
    pub phase: String,
    /// One line.
    pub text: String,
}

/// The engine's observer.
#[derive(Debug)]
pub struct Teller {
    instance: String,
    notify: Notify,
    shown: Mutex<Shown>,
    outline: Mutex<Outline>,
    progressed: Mutex<Option<Instant>>,
    row: Mutex<Option<Row>>,
    stopping: AtomicBool,
    ready: AtomicBool,
    /// Whether users are not served, as far as it was told.
    window_is_open: AtomicBool,
    news: broadcast::Sender<News>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Teller {
    /// For this instance.
    #[must_use]
    pub fn new(instance: &str, notify: Notify) -> Self {
        Teller {
            instance: instance.into(),
            notify,
            shown: Mutex::default(),
            outline: Mutex::default(),
            progressed: Mutex::default(),
            row: Mutex::default(),
            stopping: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            window_is_open: AtomicBool::new(false),
            news: broadcast::Sender::new(NEWS_QUEUE),
        }
    }

    /// What was durable when the daemon started: only what comes after it is news.
    pub fn recovered(&self, view: &View) {
        self.window_is_open.store(is_open(view), Ordering::Relaxed);
        held(&self.shown).take(view);
    }

    /// The events from now on.
    #[must_use]
    pub fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// What is shown now.
    #[must_use]
    pub fn shown(&self) -> Shown {
        held(&self.shown).clone()
    }

    /// Which steps there are.
    pub fn outline(&self, outline: &Outline) {
        *held(&self.outline) = outline.clone();
    }

    /// The start has succeeded: an open migration was recovered, or the checks of a new one have passed. Told once.
    pub fn ready(&self) {
        if !self.ready.swap(true, Ordering::Relaxed) {
            self.notify.ready();
        }
    }

    /// The process is about to end.
    pub fn stopping(&self) {
        self.notify.stopping();
    }

    /// Something went wrong that is not an event of the migration.
    pub fn failed(&self, why: &str) {
        self.say(Some(ids::DAEMON_FAILED), Priority::Error, None, None, why);
        self.notify.status(why.lines().next().unwrap_or_default());
    }

    /// Something happened around the migration that does not change its way.
    pub fn aside(&self, id: MessageId, priority: Priority, text: &str) {
        self.say(Some(id), priority, None, None, text);
    }

    /// To the journal, and what has a kind to the bus too.
    fn say(
        &self,
        message_id: Option<MessageId>,
        priority: Priority,
        step: Option<&str>,
        plugin: Option<&str>,
        message: &str,
    ) {
        let shown = self.shown();
        if let Some(id) = message_id {
            // Nobody may listen.
            let _ = self.news.send(News {
                id,
                step: step.unwrap_or_default().into(),
                phase: shown.phase.clone(),
                text: message.lines().next().unwrap_or_default().into(),
            });
        }
        Entry {
            priority,
            message,
            instance: &self.instance,
            migration_id: Some(shown.migration.as_str()).filter(|id| !id.is_empty()),
            phase: Some(shown.phase.as_str()).filter(|phase| !phase.is_empty()),
            step,
            plugin,
            message_id,
        }
        .send();
    }

    fn status(&self, step: &str, status: String) {
        self.notify.status(&status);
        let mut shown = held(&self.shown);
        if shown.step != step {
            shown.step = step.into();
            shown.progress = None;
        }
        shown.status = status;
    }

    fn event(&self, event: &Event, view: &View, phase: &str) {
        {
            let mut shown = held(&self.shown);
            shown.take(view);
            // A call has begun or ended: what the one before told is over.
            if matches!(event, Event::Intent { .. } | Event::Outcome { .. }) {
                shown.progress = None;
            }
        }
        // So that `systemctl start` fails, visibly, when a check finds a blocker.
        if matches!(event, Event::Intent { op, .. } if *op != Op::Check) {
            self.ready();
        }
        let window = self.window_moved(view);
        for told in told(event, view).into_iter().chain(window) {
            self.tell(told, phase);
        }
    }

    /// Whether this event has opened or closed the window.
    fn window_moved(&self, view: &View) -> Option<Told> {
        let now_open = is_open(view);
        if self.window_is_open.swap(now_open, Ordering::Relaxed) == now_open {
            return None;
        }
        let told =
            |id, message| Some(Told { id, priority: Priority::Notice, step: None, status: None, message });
        if now_open {
            return told(ids::WINDOW_OPENED, Some("the window is open: users are not served".to_owned()));
        }
        let seconds = windows(view).last().map_or(0.0, |span| span.seconds(jiff::Timestamp::now()));
        told(ids::WINDOW_CLOSED, Some(format!("the window is closed after {seconds:.1} s: users are served")))
    }

    fn tell(&self, told: Told, phase: &str) {
        let Told { id, priority, step, status, message } = told;
        let plugin = step.as_ref().and_then(|step| {
            let outline = held(&self.outline);
            let uses = &outline.steps.iter().find(|known| known.id == *step)?.uses;
            Some(uses.split('/').next().unwrap_or(uses).to_owned())
        });
        if let Some(message) = &message {
            self.say(Some(id), priority, step.as_deref(), plugin.as_deref(), message);
        }
        if let Some(status) = status.or(message) {
            let status = format!("{phase}: {}", status.lines().next().unwrap_or_default());
            self.status(step.as_deref().unwrap_or_default(), status);
        }
    }
}

fn is_open(view: &View) -> bool {
    windows(view).last().is_some_and(|span| span.closed.is_none())
}

struct Told {
    id: MessageId,
    priority: Priority,
    step: Option<String>,
    /// For the status line; the message if `None`.
    status: Option<String>,
    /// For the journal.
    message: Option<String>,
}

/// The words for an event. `None`: nothing that people need.
fn told(event: &Event, view: &View) -> Option<Told> {
    let tell = |id, priority, message: String| {
        Some(Told { id, priority, step: None, status: None, message: Some(message) })
    };
    match event {
        Event::Started { migration, .. } => {
            tell(ids::STARTED, Priority::Notice, format!("migration {migration} begins"))
        }
        Event::Intent { step, op, of, attempt, .. } => {
            let of = of.map(|of| format!(" of {of}")).unwrap_or_default();
            let again = if *attempt > 1 { format!(" (try {attempt})") } else { String::new() };
            Some(Told {
                id: ids::CALL_STARTED,
                priority: Priority::Info,
                step: Some(step.clone()),
                status: Some(format!("step `{step}`: {op}{of}{again}")),
                message: op.changes().then(|| format!("{step}: {op}{of}{again} begins")),
            })
        }
        Event::Outcome { call, result } => outcome(*call, result, view),
        Event::SoakStarted => {
            let window = windows(view).first().map(|span| span.seconds(jiff::Timestamp::now()));
            let window = window.map(|seconds| format!(" The window was {seconds:.1} s.")).unwrap_or_default();
            tell(
                ids::SOAK_STARTED,
                Priority::Notice,
                format!("the new server serves; the soak begins.{window}"),
            )
        }
        Event::RollbackDecided { cause } => {
            let step =
                cause.step.as_ref().map(|step| format!(" because step `{step}` failed")).unwrap_or_default();
            let remedy = if cause.remedy.is_empty() { String::new() } else { format!("; {}", cause.remedy) };
            tell(ids::ROLLBACK_STARTED, Priority::Warning, format!("rolls back{step}: {}{remedy}", cause.why))
        }
        Event::CommitAsked => {
            let told = "an operator asked for the end of the soak: commits as soon as one more round of verification holds";
            tell(ids::COMMIT_ASKED, Priority::Notice, told.into())
        }
        Event::CommitTakenBack => {
            let told = "the commit that was asked for is taken back: it is paused instead";
            tell(ids::COMMIT_ASKED, Priority::Notice, told.into())
        }
        Event::PauseAsked => tell(
            ids::ASKED_TO_STOP,
            Priority::Notice,
            "an operator asked for a pause: parks as soon as it can".into(),
        ),
        Event::PauseTakenBack => tell(ids::UNPARKED, Priority::Notice, "the pause was taken back".into()),
        Event::CommitDecided { by } => tell(ids::COMMIT_DECIDED, Priority::Notice, format!("commits: {by}")),
        Event::Parked => {
            tell(ids::PARKED, Priority::Notice, "parked; the next start goes on from here".into())
        }
        Event::Unparked => tell(ids::UNPARKED, Priority::Notice, "goes on from where it was parked".into()),
        Event::Stopped { why, .. } => tell(ids::NEEDS_OPERATOR, Priority::Error, why.clone()),
        Event::Resumed => tell(ids::RESUMED, Priority::Notice, "goes on; what failed is tried again".into()),
        Event::Closed { end } => closed(end, view),
        Event::Undo { .. } | Event::Checkpoint { .. } => None,
    }
}

fn closed(end: &End, view: &View) -> Option<Told> {
    let (id, priority, message) = match end {
        End::Committed => {
            (ids::COMMITTED, Priority::Notice, "committed: Connect lives in the container".to_owned())
        }
        End::RolledBack { left } if left.is_empty() => {
            (ids::ROLLED_BACK, Priority::Warning, "rolled back: Connect is on the host as before".to_owned())
        }
        End::RolledBack { left } => {
            (ids::ROLLED_BACK_IN_PART, Priority::Error, format!("rolled back, but: {}", left.join("; ")))
        }
        End::Blocked => {
            let mut text = "blocked by its checks; nothing was touched".to_owned();
            for StepFindings { step, findings } in findings(view) {
                for finding in findings.iter().filter(|finding| finding.severity == Severity::Blocker) {
                    text.push_str(&format!(
                        "\n{step}: {} [{}]\n  what to do: {}",
                        finding.text, finding.key, finding.remedy
                    ));
                }
            }
            (ids::BLOCKED, Priority::Error, text)
        }
    };
    Some(Told { id, priority, step: None, status: None, message: Some(message) })
}

fn outcome(call: u64, result: &CallResult, view: &View) -> Option<Told> {
    let call = view.calls.iter().rev().find(|known| known.number == call)?;
    let seconds = call.ended.map_or(0.0, |at| at.duration_since(call.started).as_secs_f64());
    let of = call.of.map(|of| format!(" of {of}")).unwrap_or_default();
    let rolling_back = matches!(view.decision, Some(Decision::Rollback { .. }));
    let (id, priority, message) = match result {
        CallResult::Failed(failure) if failure.cancelled => (
            ids::CALL_CANCELLED,
            Priority::Info,
            Some(format!("{}: {}{of} was asked to end", call.step, call.op)),
        ),
        CallResult::Failed(failure) => {
            let remedy =
                if failure.remedy.is_empty() { String::new() } else { format!("; {}", failure.remedy) };
            (
                ids::STEP_FAILED,
                Priority::Error,
                Some(format!(
                    "{}: {}{of} failed after {seconds:.1} s: {}{remedy}",
                    call.step, call.op, failure.why
                )),
            )
        }
        CallResult::Answered { answer, .. } => {
            let lines: Vec<&str> = answer
                .get("evidence")
                .map(|evidence| match evidence {
                    serde_json::Value::Array(lines) => {
                        lines.iter().filter_map(serde_json::Value::as_str).collect()
                    }
                    serde_json::Value::String(line) => vec![line.as_str()],
                    _ => Vec::new(),
                })
                .unwrap_or_default();
            let why = answer.get("why").and_then(serde_json::Value::as_str);
            match (call.op, why) {
                (Op::Verify, Some(why)) => (
                    ids::VERIFY_BROKEN,
                    Priority::Error,
                    Some(format!("{}: verify found it broken: {why}", call.step)),
                ),
                (Op::Check | Op::Plan | Op::Probe, _) => (ids::CALL_ENDED, Priority::Info, None),
                _ => (
                    ids::CALL_ENDED,
                    if rolling_back { Priority::Notice } else { Priority::Info },
                    Some(format!(
                        "{}: {}{of} done in {seconds:.1} s: {}",
                        call.step,
                        call.op,
                        lines.join("; ")
                    )),
                ),
            }
        }
    };
    let status = Some(format!("step `{}`: {}{of} ended", call.step, call.op));
    Some(Told { id, priority, step: Some(call.step.clone()), status, message })
}

impl Observer for Teller {
    fn note(&self, note: &Note<'_>) {
        match note {
            Note::Event { event, view, phase } => self.event(event, view, phase.name()),
            Note::Log { step, plugin, level, message } => {
                let priority = match level {
                    LogLevel::Debug => Priority::Debug,
                    LogLevel::Info => Priority::Info,
                    LogLevel::Warn => Priority::Warning,
                    LogLevel::Error => Priority::Error,
                };
                self.say(None, priority, Some(step), Some(plugin), message);
            }
            Note::Progress { step, progress } => self.progress(step, progress),
            Note::Soaked { broken: Some(why), .. } => {
                self.say(Some(ids::SOAK_BROKEN), Priority::Warning, None, None, &format!("soak: {why}"));
                self.status("", format!("soak: {}", why.lines().next().unwrap_or_default()));
            }
            Note::Soaked { broken: None, left } if left.is_zero() => {
                self.status("", "soak: all holds; waits for `commit` or `rollback`".into());
            }
            Note::Soaked { broken: None, left } => {
                self.status("", format!("soak: all holds, {} s left", left.as_secs()));
            }
            Note::Alive { busy } => {
                self.notify.watchdog();
                if *busy && self.stopping.load(Ordering::Relaxed) {
                    self.notify.extend_timeout(Duration::from_secs(EXTEND_TIMEOUT_SECS));
                }
            }
            Note::Parking(parks) => self.stopping.store(*parks, Ordering::Relaxed),
        }
    }
}

impl Teller {
    fn progress(&self, step: &str, progress: &Progress) {
        let live = Live::of(step, progress, &mut held(&self.row), Instant::now());
        {
            let mut shown = held(&self.shown);
            shown.step = step.into();
            shown.progress = Some(live);
        }
        let mut last = held(&self.progressed);
        if last.is_some_and(|at| at.elapsed() < Duration::from_millis(STATUS_EVERY_MILLIS)) {
            return;
        }
        *last = Some(Instant::now());
        drop(last);
        let unit = progress.unit.as_deref().unwrap_or_default();
        let far = match (progress.done, progress.total) {
            (Some(done), Some(total)) => format!(", {done} of {total} {unit}"),
            (Some(done), None) => format!(", {done} {unit}"),
            _ => String::new(),
        };
        let phase = self.shown().phase;
        self.status(step, format!("{phase}: step `{step}`: {}{}", progress.doing, far.trim_end()));
    }
}
