//! How long the window may be: from what the last migration of the instance took, never from a guess.

use crate::engine::Plan;
use crate::report::{Ended, Report};
use connect_migrator_sdk::{Op, Role};
use std::fmt;

/// The parts of the window, in the order of the run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WindowEstimate {
    parts: Vec<Part>,
    instance: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Part {
    step: String,
    op: Op,
    /// `None`: never measured.
    seconds: Option<f64>,
}

/// The estimate for a plan, from the report of the last migration.
pub(super) fn of(plan: &Plan, last: Option<&Report>) -> WindowEstimate {
    let role = |step: usize| plan.steps.get(step).map_or(Role::Other, |step| step.info.role);
    let has = |wanted| plan.steps.iter().any(|step| step.info.role == wanted);
    let closes = if has(Role::Routes) { Role::Routes } else { Role::StartsTarget };
    let mut parts = Vec::new();
    let mut open = false;
    for place in &plan.program {
        open |=
            place.op == Op::EnterWindow || (place.op == Op::Apply && role(place.step) == Role::StopsSource);
        if !open {
            continue;
        }
        if let Some(step) = plan.steps.get(place.step) {
            parts.push(Part {
                step: step.id.clone(),
                op: place.op,
                seconds: measured(last, &step.id, &step.uses(), place.op),
            });
        }
        if place.op == Op::Verify && role(place.step) == closes {
            break;
        }
    }
    WindowEstimate { parts, instance: plan.instance.clone() }
}

/// How long the first such call of the step took that succeeded.
fn measured(last: Option<&Report>, step: &str, uses: &str, op: Op) -> Option<f64> {
    let known = last?.steps.iter().find(|known| known.id == step && known.uses == uses)?;
    let call = known.calls.iter().find(|call| {
        call.op == op && call.of.is_none() && matches!(call.ended, Ended::Done | Ended::AlreadyDone)
    })?;
    call.seconds
}

impl WindowEstimate {
    /// All parts of one step; `None` if one of them is not known, or it has none.
    pub(super) fn of_step(&self, step: &str) -> Option<f64> {
        let mut parts = self.parts.iter().filter(|part| part.step == step).peekable();
        parts.peek()?;
        parts.map(|part| part.seconds).sum()
    }
}

impl fmt::Display for WindowEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.parts.is_empty() {
            return f.write_str("The window: none, no step stops Connect");
        }
        if self.parts.iter().all(|part| part.seconds.is_none()) {
            return write!(
                f,
                "The window: unknown, no migration of `{}` has been through it yet. A rehearsal measures it: \
                 soak = {{ for = \"1m\", then = \"rollback\" }}",
                self.instance
            );
        }
        let known: f64 = self.parts.iter().filter_map(|part| part.seconds).sum();
        let open = self.parts.iter().any(|part| part.seconds.is_none());
        let at_least = if open { "at least " } else { "about " };
        write!(
            f,
            "The window: {at_least}{known:.1} s, as measured in the last migration of `{}`",
            self.instance
        )?;
        for part in &self.parts {
            let seconds =
                part.seconds.map_or_else(|| "unknown".to_owned(), |seconds| format!("{seconds:.1} s"));
            write!(f, "\n  {seconds:>8}  {}: {}", part.step, part.op)?;
        }
        Ok(())
    }
}
