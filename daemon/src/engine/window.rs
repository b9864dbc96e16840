//! The window: how long users were not served.

use crate::state::{CallResult, View};
use connect_migrator_sdk::{Op, Role};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A time in which users are not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Span {
    /// From.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub opened: Timestamp,
    /// To; `None` while it lasts.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub closed: Option<Timestamp>,
}

impl Span {
    /// Its length, up to `now` while it lasts.
    #[must_use]
    pub fn seconds(&self, now: Timestamp) -> f64 {
        self.closed.unwrap_or(now).duration_since(self.opened).as_secs_f64()
    }
}

/// What `abort` is answered when [`users_have_moved`].
pub const NOTHING_TO_ABORT: &str = "users already work on the new server: there is nothing to abort any more; `rollback` goes back to the \
                                    host, `commit` stays in the container";

/// Whether the new server has served users: the window has closed with them on it.
#[must_use]
pub fn users_have_moved(view: &View) -> bool {
    let closed = || windows(view).last().is_some_and(|span| span.closed.is_some());
    view.soak_since.is_some() || view.decision.is_none() && view.routed() && closed()
}

/// The windows of a migration: none before the stop, one on the way there, one more if it was rolled back after that had closed.
#[must_use]
pub fn windows(view: &View) -> Vec<Span> {
    let outline = view.outline();
    let role_at = |place: usize| outline.role_at(place);
    let opens = |op: Op, place: usize| {
        matches!((op, role_at(place)), (Op::EnterWindow, Role::Routes) | (Op::Apply, Role::StopsSource))
    };
    let ends_with = if outline.steps.iter().any(|step| step.role == Role::Routes) {
        Role::Routes
    } else {
        Role::StartsTarget
    };
    let mut spans: Vec<Span> = Vec::new();
    let mut undone = 0;
    let opening_calls = || {
        let mut places: Vec<(usize, Op)> = view
            .calls
            .iter()
            .filter(|c| opens(c.op, c.place) && !c.undo.is_empty())
            .map(|c| (c.place, c.op))
            .collect();
        places.sort_unstable();
        places.dedup();
        places.len()
    };
    for call in &view.calls {
        let open = spans.last().is_some_and(|span| span.closed.is_none());
        let answered = match &call.result {
            Some(CallResult::Answered { answer, .. }) => Some(answer),
            _ => None,
        };
        match (call.op, call.of) {
            (op, None) if opens(op, call.place) && spans.is_empty() => {
                spans.push(Span { opened: call.started, closed: None });
            }
            (Op::Verify, None)
                if open
                    && role_at(call.place) == ends_with
                    && answered.is_some_and(|answer| super::decide::broken(answer).is_none()) =>
            {
                close(&mut spans, call.ended);
            }
            (Op::Rollback, Some(of)) => {
                let disturbs =
                    of == Op::Apply && matches!(role_at(call.place), Role::Routes | Role::StartsTarget);
                if !open && !spans.is_empty() && disturbs {
                    spans.push(Span { opened: call.started, closed: None });
                }
                if opens(of, call.place) && answered.is_some() {
                    undone += 1;
                    if undone == opening_calls() {
                        close(&mut spans, call.ended);
                    }
                }
            }
            _ => {}
        }
    }
    spans
}

fn close(spans: &mut [Span], at: Option<Timestamp>) {
    if let Some(span) = spans.last_mut().filter(|span| span.closed.is_none()) {
        span.closed = at;
    }
}
