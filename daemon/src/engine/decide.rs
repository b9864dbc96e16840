//! What comes next. A pure function of what is durable, so that a run that was cut off anywhere goes on as if it had not been.

use super::{Plan, findings, has_blocker};
use crate::runbook::OnFailure;
use crate::state::{CallRecord, CallResult, Cause, Decision, End, Event, Failure, MayDo, Stop, View};
use connect_migrator_sdk::{Op, Outcome, Probe, Role, Undone, Verdict};
use serde_json::Value;
use std::collections::BTreeSet;

/// What the engine does next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Make a call.
    Call {
        /// Index in the program.
        place: usize,
        /// The call.
        op: Op,
        /// For rollback and probe: the call in question.
        of: Option<Op>,
        /// Which try.
        attempt: u32,
        /// The last checkpoint of an earlier try.
        checkpoint: Option<Value>,
        /// The undo records of the call in question, oldest first.
        undo: Vec<Value>,
    },
    /// Write down a decision.
    Append(Event),
    /// Watch the new server.
    Soak,
    /// Wait for an operator: end this run.
    Wait(Stop),
    /// It is over.
    Done(End),
}

/// Decides. `view` belongs to a started migration of `plan`.
#[must_use]
pub fn next(plan: &Plan, view: &View) -> Next {
    if let Some((_, end)) = &view.closed {
        return Next::Done(end.clone());
    }
    if let Some(stop) = &view.stop {
        return Next::Wait(stop.clone());
    }
    match view.decision {
        Some(Decision::Rollback { .. }) => back(plan, view),
        _ => forward(plan, view),
    }
}

fn forward(plan: &Plan, view: &View) -> Next {
    let committed = matches!(view.decision, Some(Decision::Commit { .. }));
    let mut checked = false;
    for (place, spot) in plan.program.iter().enumerate() {
        if spot.op != Op::Check && !checked {
            checked = true;
            // Only before anything was touched: later the checks describe a world that is gone.
            let touched = view.calls.iter().any(|call| call.op != Op::Check);
            if !touched && has_blocker(&findings(view)) {
                return Next::Append(Event::Closed { end: End::Blocked });
            }
        }
        if spot.op == Op::Finalize && !committed {
            return soak(view);
        }
        let Some(last) = view.tries(place, spot.op, None).next_back() else {
            return first_try(place, spot.op);
        };
        match &last.result {
            None => return cut_off(view, last),
            Some(CallResult::Failed(failure))
                if failure.cancelled || (last.before_resume && spot.op != Op::Check) =>
            {
                return try_again(last);
            }
            // A check that failed is a blocker, and a finalize that failed is only reported.
            Some(CallResult::Failed(_)) if matches!(spot.op, Op::Check | Op::Finalize) => {}
            Some(CallResult::Failed(failure)) => return failed(plan, last, failure),
            Some(CallResult::Answered { answer, .. }) if spot.op == Op::Verify => {
                if let Some(failure) = broken(answer) {
                    return if last.before_resume { try_again(last) } else { failed(plan, last, &failure) };
                }
            }
            Some(CallResult::Answered { .. }) => {}
        }
    }
    if committed { Next::Append(Event::Closed { end: End::Committed }) } else { soak(view) }
}

fn soak(view: &View) -> Next {
    if view.soak_since.is_some() { Next::Soak } else { Next::Append(Event::SoakStarted) }
}

fn first_try(place: usize, op: Op) -> Next {
    Next::Call { place, op, of: None, attempt: 1, checkpoint: None, undo: Vec::new() }
}

fn try_again(last: &CallRecord) -> Next {
    Next::Call {
        place: last.place,
        op: last.op,
        of: last.of,
        attempt: last.attempt + 1,
        checkpoint: last.checkpoint.clone(),
        undo: Vec::new(),
    }
}

/// The call has an intent and no outcome: look at the world, never guess.
fn cut_off(view: &View, last: &CallRecord) -> Next {
    if !last.op.changes() {
        return try_again(last);
    }
    let probe = |attempt| Next::Call {
        place: last.place,
        op: Op::Probe,
        of: Some(last.op),
        attempt,
        checkpoint: last.checkpoint.clone(),
        undo: last.undo.clone(),
    };
    let mut probes = view.tries(last.place, Op::Probe, Some(last.op));
    let Some(probed) = probes.rfind(|probe| probe.number > last.number) else { return probe(1) };
    let answer = match &probed.result {
        None => return probe(probed.attempt + 1),
        Some(CallResult::Failed(failure)) if failure.cancelled => return probe(probed.attempt + 1),
        Some(CallResult::Failed(failure)) => Probe::Unknown { why: failure.why.clone() },
        Some(CallResult::Answered { answer, .. }) => {
            serde_json::from_value(answer.clone()).unwrap_or_else(|error| Probe::Unknown {
                why: format!("the probe's answer was not understood: {error}"),
            })
        }
    };
    match answer {
        Probe::Done { outcome } => Next::Append(Event::Outcome {
            call: last.number,
            result: CallResult::Answered {
                answer: serde_json::to_value(outcome).unwrap_or(Value::Null),
                probed: true,
            },
        }),
        Probe::RunAgain => try_again(last),
        Probe::Unknown { .. } if probed.before_resume => probe(probed.attempt + 1),
        Probe::Unknown { why } => Next::Append(Event::Stopped {
            why: format!(
                "step `{}` was cut off during {}, and it cannot be told whether it was carried out: {why}",
                last.step, last.op
            ),
            may: vec![MayDo::Resume, MayDo::Rollback],
        }),
    }
}

/// The failure that a verdict stands for, if it does.
pub(super) fn broken(answer: &Value) -> Option<Failure> {
    let failure =
        |why: String, remedy: String| Some(Failure { why, remedy, cancelled: false, crashed: false });
    match serde_json::from_value(answer.clone()) {
        Ok(Verdict::Holds { .. }) => None,
        Ok(Verdict::Broken { why, remedy }) => failure(why, remedy),
        Err(error) => failure(format!("the answer of verify was not understood: {error}"), String::new()),
    }
}

/// The failure of a call that should have changed the world and answers something else than an [`Outcome`]: what it did is not known.
pub(super) fn not_an_outcome(op: Op, answer: &Value) -> Option<Failure> {
    if !matches!(op, Op::Prepare | Op::EnterWindow | Op::Apply | Op::Finalize) {
        return None;
    }
    let error = serde_json::from_value::<Outcome>(answer.clone()).err()?;
    Some(Failure {
        why: format!("the answer of {op} was not understood: {error}"),
        remedy: "the plugin and this version do not fit together; ask who made it".into(),
        cancelled: false,
        crashed: true,
    })
}

fn failed(plan: &Plan, call: &CallRecord, failure: &Failure) -> Next {
    match plan.on_failure {
        OnFailure::Rollback => Next::Append(Event::RollbackDecided {
            cause: Cause {
                step: Some(call.step.clone()),
                op: Some(call.op),
                why: failure.why.clone(),
                remedy: failure.remedy.clone(),
            },
        }),
        OnFailure::Pause => Next::Append(Event::Stopped {
            why: format!("step `{}` failed in {}: {}", call.step, call.op, failure.why),
            may: vec![MayDo::Resume, MayDo::Rollback],
        }),
    }
}

/// The way back: every call that recorded an undo record, newest first.
fn back(plan: &Plan, view: &View) -> Next {
    let mut left = Vec::new();
    let mut failures = Vec::new();
    // Why the source must not be started, if it must not.
    let mut source_stays_off: Option<&str> = None;
    let mut target_may_live = false;
    let mut source_is_down = false;
    let mut not_undone = BTreeSet::new();
    for (place, spot) in plan.program.iter().enumerate().rev() {
        if !matches!(spot.op, Op::Prepare | Op::EnterWindow | Op::Apply) {
            continue;
        }
        let undo: Vec<Value> =
            view.tries(place, spot.op, None).flat_map(|call| call.undo.iter().cloned()).collect();
        let Some(step) = plan.steps.get(spot.step) else { continue };
        if undo.is_empty() {
            continue;
        }
        // While it is not known that the new one is gone, or the data are back, the old one stays down.
        if step.info.role == Role::StopsSource
            && spot.op == Op::Apply
            && let Some(why) = source_stays_off
        {
            failures.push(format!("`{}` was left as it is, {why}", step.id));
            source_is_down = true;
            // What it prepared is what keeps anybody from starting it by hand.
            not_undone.insert(spot.step);
            continue;
        }
        // Users are not sent to what does not serve; and what sends them away, such as a page, was prepared.
        if spot.op == Op::EnterWindow && source_is_down {
            failures.push(format!("`{}` still sends users away, as the source does not serve", step.id));
            not_undone.insert(spot.step);
            continue;
        }
        // What it prepared holds what could not be put back; and what the new one may still write to is not put back under it.
        if not_undone.contains(&spot.step) || target_may_live && step.info.needs_source_stopped {
            continue;
        }
        let call = |attempt, checkpoint| Next::Call {
            place,
            op: Op::Rollback,
            of: Some(spot.op),
            attempt,
            checkpoint,
            undo: undo.clone(),
        };
        let Some(last) = view.tries(place, Op::Rollback, Some(spot.op)).next_back() else {
            return call(1, None);
        };
        match &last.result {
            Some(CallResult::Answered { answer, .. }) => {
                match serde_json::from_value::<Undone>(answer.clone()) {
                    Ok(undone) => {
                        left.extend(undone.left.into_iter().map(|left| format!("`{}`: {left}", step.id)))
                    }
                    Err(error) => left.push(format!("`{}`: its answer was not understood: {error}", step.id)),
                }
            }
            Some(CallResult::Failed(failure)) if !failure.cancelled && !last.before_resume => {
                let remedy = if failure.remedy.is_empty() { "" } else { "; " };
                failures
                    .push(format!("`{}` ({}): {}{remedy}{}", step.id, spot.op, failure.why, failure.remedy));
                if spot.op == Op::Apply && step.info.role == Role::StopsSource {
                    source_is_down = true;
                    not_undone.insert(spot.step);
                }
                if spot.op == Op::Apply && step.info.role == Role::StartsTarget {
                    target_may_live = true;
                    source_stays_off = Some("so that not two Connects run");
                } else if spot.op == Op::Apply && step.info.needs_source_stopped {
                    source_stays_off
                        .get_or_insert("so that Connect does not start on data that are not put back");
                    not_undone.insert(spot.step);
                }
            }
            _ => return call(last.attempt + 1, last.checkpoint.clone()),
        }
    }
    if failures.is_empty() {
        return Next::Append(Event::Closed { end: End::RolledBack { left } });
    }
    Next::Append(Event::Stopped {
        why: format!("rollback needs you: {}", failures.join("; ")),
        may: vec![MayDo::Rollback],
    })
}
