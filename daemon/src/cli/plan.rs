//! `connect-migrator plan`.

use super::window_estimate::{self, WindowEstimate};
use super::{Exit, status, survey::survey, tables::shown};
use crate::engine::Plan;
use crate::instance::Instance;
use crate::report::Report;
use crate::service::StepsRunAs;
use crate::state::CallResult;
use connect_migrator_sdk::{Change, Op};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use std::fmt::Write;

/// What one step would change: what `plan --json` prints of each.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct StepPlan {
    /// Its `id`.
    pub step: String,
    /// `plugin` or `plugin/step`.
    pub uses: String,
    /// In the order in which they happen.
    pub changes: Vec<Change>,
    /// Why it could not be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long its calls in the window took in the last migration of this instance; `None` when that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<f64>,
}

/// Prints what each step would change, in the order of the run.
pub(super) async fn run(instance: &Instance, json: bool) -> Exit {
    let survey = match survey(instance, Op::Plan, StepsRunAs::Children).await {
        Ok(survey) => survey,
        Err(exit) => return exit,
    };
    let last = match status::view(instance) {
        Ok(view) => view.and_then(|view| Report::of(&view, Timestamp::now())),
        Err(exit) => return exit,
    };
    let plan = &survey.assembled.plan;
    let estimate = window_estimate::of(plan, last.as_ref());
    let mut plans: Vec<StepPlan> = Vec::new();
    for (step, result) in &survey.answers {
        let (changes, error) = match result {
            CallResult::Failed(failure) => (Vec::new(), Some(format!("{} {}", failure.why, failure.remedy))),
            CallResult::Answered { answer, .. } => match serde_json::from_value(answer.clone()) {
                Ok(changes) => (changes, None),
                Err(error) => (Vec::new(), Some(format!("the plan was not understood: {error}"))),
            },
        };
        let window_seconds = estimate.of_step(&step.id);
        plans.push(StepPlan {
            step: step.id.clone(),
            uses: step.uses.clone(),
            changes,
            error,
            window_seconds,
        });
    }
    let failed = plans.iter().any(|plan| plan.error.is_some());
    if json {
        match serde_json::to_string_pretty(&plans) {
            Ok(text) => say_line!("{text}"),
            Err(error) => return Exit::Failed.because(&error),
        }
    } else {
        say!("{}", text(plan, &plans, &estimate));
    }
    if failed { Exit::Failed } else { Exit::Done }
}

fn text(plan: &Plan, plans: &[StepPlan], estimate: &WindowEstimate) -> String {
    let mut out = String::new();
    for plan in plans {
        if let Some(error) = &plan.error {
            let _ = writeln!(out, "! {}: {}", plan.step, shown(error));
        }
    }
    let titles = [
        (Op::Prepare, "Before the window, while Connect serves"),
        (Op::EnterWindow, "The window opens"),
        (Op::Apply, "In this order"),
        (Op::Finalize, "At commit; from then on there is no way back"),
    ];
    for (op, title) in titles {
        let order = plan.program.iter().filter(|place| place.op == op).map(|place| place.step);
        let mut titled = false;
        for (number, step) in order.enumerate() {
            let Some(step) = plans.get(step) else { continue };
            for change in step.changes.iter().filter(|change| change.when == op) {
                if !titled {
                    let _ = writeln!(out, "\n{title}");
                    titled = true;
                }
                let _ =
                    writeln!(out, "  {}. {} ({}): {}", number + 1, step.step, step.uses, shown(&change.what));
                for line in change.diff.iter().flat_map(|diff| diff.lines()) {
                    let _ = writeln!(out, "       {}", shown(line));
                }
            }
        }
    }
    let quiet = |plan: &&StepPlan| plan.changes.is_empty() && plan.error.is_none();
    let stays: Vec<&str> = plans.iter().filter(quiet).map(|plan| plan.step.as_str()).collect();
    if !stays.is_empty() {
        let _ = writeln!(out, "\nNothing to change for: {}", stays.join(", "));
    }
    let _ = writeln!(out, "\n{estimate}");
    let _ = writeln!(out, "\nEvery step can be undone until commit. Nothing was changed.");
    out
}
