//! `connect-migrator plan`.

use super::{Exit, survey::survey};
use crate::instance::Instance;
use crate::state::CallResult;
use connect_migrator_sdk::{Change, Op};
use serde::Serialize;

#[derive(Serialize)]
struct StepPlan {
    step: String,
    uses: String,
    changes: Vec<Change>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Prints what each step would change, in the order of the run.
pub(super) async fn run(instance: &Instance, json: bool) -> Exit {
    let survey = match survey(instance, Op::Plan).await {
        Ok(survey) => survey,
        Err(exit) => return exit,
    };
    let mut plans: Vec<StepPlan> = Vec::new();
    for (step, result) in &survey.answers {
        let (changes, error) = match result {
            CallResult::Failed(failure) => (Vec::new(), Some(format!("{} {}", failure.why, failure.remedy))),
            CallResult::Answered { answer, .. } => match serde_json::from_value(answer.clone()) {
                Ok(changes) => (changes, None),
                Err(error) => (Vec::new(), Some(format!("the plan was not understood: {error}"))),
            },
        };
        plans.push(StepPlan { step: step.id.clone(), uses: step.uses.clone(), changes, error });
    }
    let failed = plans.iter().any(|plan| plan.error.is_some());
    if json {
        match serde_json::to_string_pretty(&plans) {
            Ok(text) => println!("{text}"),
            Err(error) => return Exit::Failed.because(&error),
        }
    } else {
        print(&survey.assembled.plan, &plans);
    }
    if failed { Exit::Failed } else { Exit::Done }
}

fn print(plan: &crate::engine::Plan, plans: &[StepPlan]) {
    for plan in plans {
        if let Some(error) = &plan.error {
            println!("! {}: {error}", plan.step);
        }
    }
    let titles = [
        (Op::Prepare, "Before the window, while Connect serves"),
        (Op::EnterWindow, "The window opens"),
        (Op::Apply, "In this order"),
        (Op::Finalize, "At commit"),
    ];
    for (op, title) in titles {
        let order = plan.program.iter().filter(|place| place.op == op).map(|place| place.step);
        let mut titled = false;
        for (number, step) in order.enumerate() {
            let Some(step) = plans.get(step) else { continue };
            for change in step.changes.iter().filter(|change| change.when == op) {
                if !titled {
                    println!("\n{title}");
                    titled = true;
                }
                println!("  {}. {} ({}): {}", number + 1, step.step, step.uses, change.what);
                for line in change.diff.iter().flat_map(|diff| diff.lines()) {
                    println!("       {line}");
                }
            }
        }
    }
    println!("\nEvery step can be undone until commit. Nothing was changed.");
}
