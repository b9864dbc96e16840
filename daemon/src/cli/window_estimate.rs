//! How long the window may be: from what the last migration of the instance took, never from a guess.

use crate::engine::Plan;
use crate::report::{Ended, Report};
use connect_migrator_sdk::{Op, Role};
use schemars::JsonSchema;
use serde::Serialize;
use std::fmt;

/// How long users may not be served, by the parts of that time.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WindowEstimate {
    /// All parts that were measured, together; `None` when none was.
    pub seconds: Option<f64>,
    /// Whether every part was measured: else it is at least this long.
    pub complete: bool,
    /// In the order of the run; none when no step stops Connect.
    pub parts: Vec<WindowPart>,
    #[serde(skip)]
    instance: String,
}

/// A call in the window.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WindowPart {
    /// The step's `id`.
    pub step: String,
    /// The call.
    pub op: Op,
    /// How long it took in the last migration of this instance; `None` when that is not known.
    pub seconds: Option<f64>,
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
            parts.push(WindowPart {
                step: step.id.clone(),
                op: place.op,
                seconds: measured(last, &step.id, &step.uses(), place.op),
            });
        }
        if place.op == Op::Verify && role(place.step) == closes {
            break;
        }
    }
    let known: Vec<f64> = parts.iter().filter_map(|part| part.seconds).collect();
    WindowEstimate {
        seconds: (!known.is_empty()).then(|| known.iter().sum()),
        complete: known.len() == parts.len(),
        parts,
        instance: plan.instance.clone(),
    }
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
        match self.seconds {
            None => write!(
                f,
                "The window: unknown, no migration of `{}` has been through it yet. A rehearsal measures it: \
                 soak = {{ for = \"1m\", then = \"rollback\" }}\nUsers wait for",
                self.instance
            )?,
            Some(known) => {
                let at_least = if self.complete { "about " } else { "at least " };
                write!(
                    f,
                    "The window: {at_least}{known:.1} s, as measured in the last migration of `{}`",
                    self.instance
                )?;
            }
        }
        for part in &self.parts {
            let seconds =
                part.seconds.map_or_else(|| "unknown".to_owned(), |seconds| format!("{seconds:.1} s"));
            write!(f, "\n  {seconds:>8}  {}: {}", part.step, part.op)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::engine::PlannedStep;
    use crate::host::PluginRef;
    use crate::report::{CallReport, Standing, StepReport};
    use crate::runbook::{OnFailure, Soak, Then, Timeouts};
    use crate::state::Phase;
    use connect_migrator_sdk::{Source, StepInfo};
    use serde_json::Value;
    use std::time::Duration;

    /// A plan of these steps, applied in their order.
    pub(crate) fn plan(steps: &[(&str, Role)]) -> Plan {
        let step = |(id, role): &(&str, Role)| {
            let mut info = StepInfo::new(*id, "does it");
            info.role = *role;
            PlannedStep {
                id: (*id).into(),
                plugin: PluginRef::BuiltIn((*id).into()),
                info,
                config: Value::Null,
                credentials: Default::default(),
                allow: vec![],
            }
        };
        let steps: Vec<PlannedStep> = steps.iter().map(step).collect();
        let order: Vec<usize> = (0..steps.len()).collect();
        Plan {
            instance: "prod".into(),
            source: Source::default(),
            program: Plan::program(&steps, &order),
            steps,
            on_failure: OnFailure::Rollback,
            soak: Soak { for_: Duration::ZERO, then: Then::Wait, every: Duration::from_secs(1) },
            timeouts: Timeouts::default(),
            steps_dir: "/nowhere".into(),
        }
    }

    const MOVE: [(&str, Role); 3] =
        [("stop", Role::StopsSource), ("container", Role::StartsTarget), ("content", Role::Other)];

    /// The estimate of a plan that never ran.
    pub(crate) fn unknown() -> WindowEstimate {
        of(&plan(&MOVE), None)
    }

    fn measured_before(calls: &[(&str, Op, f64)]) -> Report {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let step = |id: &str| StepReport {
            id: id.into(),
            uses: id.into(),
            summary: String::new(),
            calls: calls
                .iter()
                .filter(|(step, _, _)| *step == id)
                .map(|(_, op, seconds)| CallReport {
                    op: *op,
                    of: None,
                    attempt: 1,
                    started: now,
                    seconds: Some(*seconds),
                    ended: Ended::Done,
                    evidence: vec![],
                    details: Value::Null,
                })
                .collect(),
        };
        Report {
            instance: "prod".into(),
            migration: "m".into(),
            standing: Standing::RolledBack,
            phase: Phase::Rollback,
            started: now,
            ended: Some(now),
            windows: vec![],
            target: None,
            findings: vec![],
            steps: MOVE.iter().map(|(id, _)| step(id)).collect(),
            cause: None,
            left: vec![],
            waits: None,
            may: vec![],
            runbook_digest: String::new(),
        }
    }

    #[test]
    fn the_parts_of_the_window_are_told_whether_or_not_they_were_measured() {
        let calls = [
            ("stop", Op::EnterWindow, 0.1),
            ("container", Op::EnterWindow, 0.1),
            ("content", Op::EnterWindow, 0.1),
            ("stop", Op::Apply, 2.0),
            ("stop", Op::Verify, 0.2),
            ("container", Op::Apply, 5.0),
        ];
        let partly = of(&plan(&MOVE), Some(&measured_before(&calls)));
        assert_eq!((partly.seconds.map(f64::round), partly.complete), (Some(8.0), false));
        assert_eq!(partly.of_step("container"), None, "its verify was not measured");
        let all = [&calls[..], &[("container", Op::Verify, 0.5)]].concat();
        let all = of(&plan(&MOVE), Some(&measured_before(&all)));
        assert!(all.complete && all.of_step("container").is_some());
        let none = of(&plan(&[("content", Role::Other)]), None);
        insta::assert_snapshot!(format!("{}\n\n{partly}\n\n{all}\n\n{none}", unknown()));
    }
}
