//! A migration told to people and programs, from its state alone.

mod builds;
mod html;
mod text;

pub use builds::{Build, REBUILD, builds};
pub use html::html;
pub use text::{may_lines, write_findings};

use crate::engine::{Span, StepFindings, findings, windows};
use crate::state::{CallRecord, CallResult, Cause, Decision, End, Event, MayDo, Phase, View};
use connect_migrator_sdk::{Op, Outcome, Target, Undone, Verdict};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Write;
use std::path::Path;

/// The whole migration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The name after the `@`.
    pub instance: String,
    /// UUIDv7.
    pub migration: String,
    /// Where it stands.
    pub standing: Standing,
    /// The phase it is or was in.
    pub phase: Phase,
    /// When it began.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started: Timestamp,
    /// When it ended.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub ended: Option<Timestamp>,
    /// Times in which users were not served.
    pub windows: Vec<Window>,
    /// The new server, if it was started.
    pub target: Option<Target>,
    /// What the checks found.
    pub findings: Vec<StepFindings>,
    /// The steps in the reader's order.
    pub steps: Vec<StepReport>,
    /// Why it was rolled back.
    pub cause: Option<Cause>,
    /// What rollback could not put back.
    pub left: Vec<String>,
    /// Why it waits, if it waits.
    pub waits: Option<String>,
    /// What the operator may do now.
    pub may: Vec<MayDo>,
    /// SHA-256 of the runbook.
    pub runbook_digest: String,
}

/// Where a migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// On its way.
    Running,
    /// Parked: the next start goes on.
    Parked,
    /// An operator is needed.
    Waiting,
    /// Connect lives in the container.
    Committed,
    /// Connect is back on the host.
    RolledBack,
    /// A check found a blocker; nothing was touched.
    Blocked,
}

impl Standing {
    /// Where the migration of this view stands.
    #[must_use]
    pub fn of(view: &View) -> Self {
        match (&view.closed, &view.stop) {
            (Some((_, End::Committed)), _) => Standing::Committed,
            (Some((_, End::RolledBack { .. })), _) => Standing::RolledBack,
            (Some((_, End::Blocked)), _) => Standing::Blocked,
            (None, Some(_)) => Standing::Waiting,
            (None, None) if view.parked => Standing::Parked,
            (None, None) => Standing::Running,
        }
    }

    /// As it stands in JSON and on the bus.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Standing::Running => "running",
            Standing::Parked => "parked",
            Standing::Waiting => "waiting",
            Standing::Committed => "committed",
            Standing::RolledBack => "rolled-back",
            Standing::Blocked => "blocked",
        }
    }
}

/// A time in which users were not served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    /// From when to when.
    #[serde(flatten)]
    pub span: Span,
    /// Its length so far.
    pub seconds: f64,
}

/// A step with its calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepReport {
    /// Its `id`.
    pub id: String,
    /// `plugin` or `plugin/step`.
    pub uses: String,
    /// One line on what it does.
    pub summary: String,
    /// What was called, oldest first.
    pub calls: Vec<CallReport>,
}

/// A call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallReport {
    /// Which.
    pub op: Op,
    /// For rollback and probe: the call in question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<Op>,
    /// Which try.
    pub attempt: u32,
    /// When.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started: Timestamp,
    /// How long; `None` when it was cut off.
    pub seconds: Option<f64>,
    /// How it ended.
    pub ended: Ended,
    /// What was seen or done.
    pub evidence: Vec<String>,
    /// The step's own details.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It changed something, or answered what it was asked.
    Done,
    /// Everything was as wanted already.
    AlreadyDone,
    /// It failed.
    Failed,
    /// It was cut off, or still runs.
    Unknown,
}

impl Report {
    /// The report of a started migration; `None` when none has been started.
    #[must_use]
    pub fn of(view: &View, now: Timestamp) -> Option<Self> {
        let record = view.started.as_ref()?;
        let Event::Started { migration, instance, runbook_digest, outline, .. } = &record.event else {
            return None;
        };
        let until = view.closed.as_ref().map_or(now, |(at, _)| *at);
        let steps = outline.steps.iter().map(|step| StepReport {
            id: step.id.clone(),
            uses: step.uses.clone(),
            summary: step.summary.clone(),
            calls: view.calls.iter().filter(|call| call.step == step.id).map(CallReport::of).collect(),
        });
        Some(Report {
            instance: instance.clone(),
            migration: migration.clone(),
            standing: Standing::of(view),
            phase: view.phase(),
            started: record.at,
            ended: view.closed.as_ref().map(|(at, _)| *at),
            windows: windows(view)
                .into_iter()
                .map(|span| Window { span, seconds: span.seconds(until) })
                .collect(),
            target: view.facts.get(Target::KEY).and_then(|fact| serde_json::from_value(fact.clone()).ok()),
            findings: findings(view),
            steps: steps.collect(),
            cause: match &view.decision {
                Some(Decision::Rollback { cause, .. }) => Some(cause.clone()),
                _ => None,
            },
            left: match &view.closed {
                Some((_, End::RolledBack { left })) => left.clone(),
                _ => Vec::new(),
            },
            waits: view.stop.as_ref().map(|stop| stop.why.clone()),
            may: may(view),
            runbook_digest: runbook_digest.clone(),
        })
    }

    /// How many calls have begun and ended so far.
    #[must_use]
    pub fn calls(&self) -> (usize, usize) {
        let calls = || self.steps.iter().flat_map(|step| &step.calls);
        (calls().count(), calls().filter(|call| call.ended != Ended::Unknown).count())
    }

    /// Writes the report for people to `path` and the one for programs beside it. Replaces older ones.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        replace(path, &self.text())?;
        replace(&path.with_extension("json"), &json)
    }
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension("part");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

/// What an operator may do now.
#[must_use]
pub fn may(view: &View) -> Vec<MayDo> {
    if view.closed.is_some() {
        return Vec::new();
    }
    if let Some(stop) = &view.stop {
        return stop.may.clone();
    }
    match &view.decision {
        Some(_) => Vec::new(),
        None if view.soak_since.is_some() => vec![MayDo::Commit, MayDo::Rollback],
        None => vec![MayDo::Rollback],
    }
}

impl CallReport {
    fn of(call: &CallRecord) -> Self {
        let mut ended = Ended::Unknown;
        let mut evidence = Vec::new();
        let mut details = Value::Null;
        match &call.result {
            Some(CallResult::Failed(failure)) => {
                ended = Ended::Failed;
                evidence.push(failure.why.clone());
                evidence.extend(Some(failure.remedy.clone()).filter(|remedy| !remedy.is_empty()));
            }
            Some(CallResult::Answered { answer, .. }) => {
                ended = Ended::Done;
                (evidence, details) = told(call.op, answer, &mut ended);
            }
            None => {}
        }
        CallReport {
            op: call.op,
            of: call.of,
            attempt: call.attempt,
            started: call.started,
            seconds: call.ended.map(|at| at.duration_since(call.started).as_secs_f64()),
            ended,
            evidence,
            details,
        }
    }
}

/// The sentences and details of an answer.
fn told(op: Op, answer: &Value, ended: &mut Ended) -> (Vec<String>, Value) {
    let nothing = (Vec::new(), Value::Null);
    match op {
        Op::Prepare | Op::EnterWindow | Op::Apply | Op::Finalize => {
            let Ok(outcome) = serde_json::from_value::<Outcome>(answer.clone()) else { return nothing };
            if outcome.done == connect_migrator_sdk::Done::AlreadyDone {
                *ended = Ended::AlreadyDone;
            }
            (outcome.evidence, outcome.details)
        }
        Op::Verify => match serde_json::from_value(answer.clone()) {
            Ok(Verdict::Holds { evidence }) => (vec![evidence], Value::Null),
            Ok(Verdict::Broken { why, remedy }) => {
                *ended = Ended::Failed;
                (vec![why, remedy], Value::Null)
            }
            Err(_) => nothing,
        },
        Op::Rollback => match serde_json::from_value::<Undone>(answer.clone()) {
            Ok(undone) => (undone.evidence.into_iter().chain(undone.left).collect(), Value::Null),
            Err(_) => nothing,
        },
        Op::Check | Op::Plan | Op::Probe => nothing,
    }
}
