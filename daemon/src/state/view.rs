//! What the events add up to.

use super::{CallResult, Cause, End, Event, MayDo, Record};
use connect_migrator_sdk::{Op, Role};
use jiff::Timestamp;
use serde_json::{Map, Value};

/// The current state of a migration. Built only from its events, so that nothing can be known that is not durable.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// The first event, if a migration has been started.
    pub started: Option<Record>,
    /// All calls, oldest first.
    pub calls: Vec<CallRecord>,
    /// Whether the way leads on or back.
    pub decision: Option<Decision>,
    /// When the soak began.
    pub soak_since: Option<Timestamp>,
    /// An operator asked for the end of the soak.
    pub commit_asked: bool,
    /// The run stopped and waits for an operator.
    pub stop: Option<Stop>,
    /// It stands still at a safe point.
    pub parked: bool,
    /// An operator wants it to stand still until somebody resumes it. A stop by systemd is no such wish.
    pub paused: bool,
    /// How it ended.
    pub closed: Option<(Timestamp, End)>,
    /// Facts that calls have published.
    pub facts: Map<String, Value>,
    last_resumed: u64,
}

/// Whether the way leads on or back.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Back.
    Rollback {
        /// When it was decided.
        at: Timestamp,
        /// Why.
        cause: Cause,
    },
    /// There is no way back.
    Commit {
        /// When it was decided.
        at: Timestamp,
        /// Who decided.
        by: String,
    },
}

/// The run stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct Stop {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub why: String,
    /// What the operator may do.
    pub may: Vec<MayDo>,
}

/// One call with all that is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct CallRecord {
    /// Its number.
    pub number: u64,
    /// Index in the program, or of the call that is undone.
    pub place: usize,
    /// The step's id.
    pub step: String,
    /// The call.
    pub op: Op,
    /// For rollback and probe: the call in question.
    pub of: Option<Op>,
    /// Which try.
    pub attempt: u32,
    /// When the intent was appended.
    pub started: Timestamp,
    /// When the outcome was appended.
    pub ended: Option<Timestamp>,
    /// Undo records, oldest first.
    pub undo: Vec<Value>,
    /// The last checkpoint.
    pub checkpoint: Option<Value>,
    /// How it ended, if that is known.
    pub result: Option<CallResult>,
    /// It ended, or was cut off, before an operator started the run again.
    pub before_resume: bool,
}

impl CallRecord {
    /// The answer, if it was answered.
    #[must_use]
    pub fn answer(&self) -> Option<&Value> {
        match &self.result {
            Some(CallResult::Answered { answer, .. }) => Some(answer),
            _ => None,
        }
    }
}

impl View {
    /// The view of these events.
    #[must_use]
    pub fn of(records: &[Record]) -> Self {
        let mut view = View::default();
        for record in records {
            view.add(record);
        }
        view
    }

    /// Takes one more event in.
    pub fn add(&mut self, record: &Record) {
        self.parked = match record.event {
            Event::Parked => true,
            Event::PauseAsked => self.parked,
            _ => false,
        };
        match &record.event {
            Event::Started { .. } => self.started = Some(record.clone()),
            Event::Intent { call, place, step, op, of, attempt } => self.calls.push(CallRecord {
                number: *call,
                place: *place,
                step: step.clone(),
                op: *op,
                of: *of,
                attempt: *attempt,
                started: record.at,
                ended: None,
                undo: Vec::new(),
                checkpoint: None,
                result: None,
                before_resume: false,
            }),
            Event::Undo { call, data } => {
                if let Some(call) = self.call_mut(*call) {
                    call.undo.push(data.clone());
                }
            }
            Event::Checkpoint { call, data } => {
                if let Some(call) = self.call_mut(*call) {
                    call.checkpoint = Some(data.clone());
                }
            }
            Event::Outcome { call, result } => self.end_call(*call, record.at, result),
            Event::SoakStarted => self.soak_since = Some(record.at),
            Event::RollbackDecided { cause } => {
                self.decision = Some(Decision::Rollback { at: record.at, cause: cause.clone() });
                self.stop = None;
                // Who asks for the way back does not want it to stand still. That a step failed takes no pause back.
                self.paused &= cause.step.is_some();
            }
            Event::CommitAsked => (self.commit_asked, self.paused) = (true, false),
            Event::CommitTakenBack => self.commit_asked = false,
            // Who pauses is not sure any more.
            Event::PauseAsked => (self.commit_asked, self.paused) = (false, true),
            Event::PauseTakenBack | Event::Unparked => self.paused = false,
            Event::CommitDecided { by } => {
                self.decision = Some(Decision::Commit { at: record.at, by: by.clone() });
                self.stop = None;
                self.paused = false;
            }
            Event::Parked => {}
            Event::Stopped { why, may } => {
                self.commit_asked = false;
                self.stop = Some(Stop { at: record.at, why: why.clone(), may: may.clone() });
            }
            Event::Resumed => {
                self.stop = None;
                self.paused = false;
                self.last_resumed = record.seq;
                for call in &mut self.calls {
                    call.before_resume = true;
                }
            }
            Event::Closed { end } => self.closed = Some((record.at, end.clone())),
        }
    }

    fn end_call(&mut self, number: u64, at: Timestamp, result: &CallResult) {
        let Some(call) = self.call_mut(number) else { return };
        call.ended = Some(at);
        call.result = Some(result.clone());
        let facts = match (call.answer(), call.op) {
            (Some(answer), op) if op.changes() => {
                answer.get("facts").and_then(Value::as_object).cloned().unwrap_or_default()
            }
            (Some(answer), Op::Check) => facts_of_items(answer),
            _ => Map::new(),
        };
        self.facts.extend(facts);
    }

    fn call_mut(&mut self, number: u64) -> Option<&mut CallRecord> {
        self.calls.iter_mut().rev().find(|call| call.number == number)
    }

    /// The call that was under way when the run was cut off, if it may have changed things. A later call is made only when it is
    /// known that this one has ended.
    #[must_use]
    pub fn cut_off(&self) -> Option<&CallRecord> {
        self.calls.last().filter(|call| self.is_open() && call.result.is_none() && call.op.changes())
    }

    /// The number that the next call gets.
    #[must_use]
    pub fn next_call(&self) -> u64 {
        self.calls.last().map_or(1, |call| call.number + 1)
    }

    /// All tries of one call of the program, oldest first.
    pub fn tries(
        &self,
        place: usize,
        op: Op,
        of: Option<Op>,
    ) -> impl DoubleEndedIterator<Item = &CallRecord> {
        self.calls.iter().filter(move |call| call.place == place && call.op == op && call.of == of)
    }

    /// The migration's id; empty before it has been started.
    #[must_use]
    pub fn migration(&self) -> &str {
        match self.started.as_ref().map(|record| &record.event) {
            Some(Event::Started { migration, .. }) => migration,
            _ => "",
        }
    }

    /// The outline of the plan; empty before it has been started.
    #[must_use]
    pub fn outline(&self) -> super::Outline {
        match self.started.as_ref().map(|record| &record.event) {
            Some(Event::Started { outline, .. }) => outline.clone(),
            _ => super::Outline::default(),
        }
    }

    /// The phase in which the run is.
    #[must_use]
    pub fn phase(&self) -> super::Phase {
        use super::Phase;
        match &self.decision {
            Some(Decision::Rollback { .. }) => Phase::Rollback,
            Some(Decision::Commit { .. }) => Phase::Commit,
            None if self.soak_since.is_some() => Phase::Soak,
            None => {
                let last = self.calls.last().map(|call| call.place);
                last.and_then(|place| self.outline().program.get(place).copied())
                    .map_or(Phase::Check, |place| place.phase)
            }
        }
    }

    /// Whether users may have been sent to the new server: its step has at least been called.
    #[must_use]
    pub fn routed(&self) -> bool {
        let outline = self.outline();
        let routes = outline.steps.iter().any(|step| step.role == Role::Routes);
        let sends = if routes { Role::Routes } else { Role::StartsTarget };
        self.calls.iter().any(|call| call.op == Op::Apply && outline.role_at(call.place) == sends)
    }

    /// A migration has been started and has not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.started.is_some() && self.closed.is_none()
    }
}

/// The facts of findings and planned changes: what later steps must know before any of it is done.
#[must_use]
pub fn facts_of_items(answer: &Value) -> Map<String, Value> {
    let items = answer.as_array().into_iter().flatten();
    let facts = items.filter_map(|item| item.get("facts").and_then(Value::as_object));
    facts.flat_map(|facts| facts.clone()).collect()
}
