//! `connect-migrator plan`.

use super::stays::{Host, stays};
use super::window_estimate::{self, WindowEstimate};
use super::{Exit, status, survey::survey, tables::shown};
use crate::instance::Instance;
use crate::report::Report;
use crate::service::StepsRunAs;
use crate::state::{CallResult, Place};
use connect_migrator_sdk::{Change, Op};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use std::fmt::Write;

/// What a migration would do: what `plan --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WholePlan {
    /// The name after the `@`.
    pub instance: String,
    /// The phases in the order of the run; `rollback` last, as it would be done before the commit.
    pub phases: Vec<PhasePlan>,
    /// The steps in the reader's order.
    pub steps: Vec<StepPlan>,
    /// How long users may not be served.
    pub window: WindowEstimate,
    /// What stays on the host.
    pub stays: Vec<String>,
}

/// A phase with what happens in it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct PhasePlan {
    /// The call that is made to each step.
    pub phase: Op,
    /// The `id`s of the steps that change something then, in their order.
    pub steps: Vec<String>,
}

/// What one step would change.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct StepPlan {
    /// Its `id`.
    pub step: String,
    /// `plugin` or `plugin/step`.
    pub uses: String,
    /// In the order in which they happen; those of `rollback` say how the step is undone.
    pub changes: Vec<Change>,
    /// Why it could not be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long its calls in the window took in the last migration of this instance; `None` when that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_seconds: Option<f64>,
}

impl StepPlan {
    fn changes_something(&self) -> bool {
        self.changes.iter().any(|change| change.when != Op::Rollback)
    }
}

/// Prints what each step would change, in the order of the run.
pub(super) async fn run(instance: &Instance, json: bool, steps: StepsRunAs) -> Exit {
    let survey = match survey(instance, Op::Plan, steps).await {
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
    let whole = WholePlan {
        instance: instance.name().into(),
        phases: phases(&plan.program, &plans),
        steps: plans,
        window: estimate,
        stays: stays(plan, Host::of(plan).as_ref()),
    };
    if json {
        match serde_json::to_string_pretty(&whole) {
            Ok(text) => say_line!("{text}"),
            Err(error) => return Exit::Failed.because(&error),
        }
    } else {
        say!("{}", text(&plan.program, &whole));
    }
    if failed { Exit::Failed } else { Exit::Done }
}

/// Which steps change something in each phase.
fn phases(program: &[Place], plans: &[StepPlan]) -> Vec<PhasePlan> {
    let steps = |op: Op, back: bool| {
        let mut order: Vec<&StepPlan> = program
            .iter()
            .filter(|place| place.op == if back { Op::Apply } else { op })
            .filter_map(|place| plans.get(place.step))
            .filter(|step| match back {
                true => step.changes_something(),
                false => step.changes.iter().any(|change| change.when == op),
            })
            .collect();
        if back {
            order.reverse();
        }
        PhasePlan { phase: op, steps: order.into_iter().map(|step| step.step.clone()).collect() }
    };
    let forward = [Op::Prepare, Op::EnterWindow, Op::Apply, Op::Finalize].map(|op| steps(op, false));
    forward.into_iter().chain([steps(Op::Rollback, true)]).collect()
}

fn text(program: &[Place], whole: &WholePlan) -> String {
    let plans = &whole.steps;
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
        let order = program.iter().filter(|place| place.op == op).map(|place| place.step);
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
    way_back(&mut out, program, plans);
    let quiet = |plan: &&StepPlan| !plan.changes_something() && plan.error.is_none();
    let quiet: Vec<&str> = plans.iter().filter(quiet).map(|plan| plan.step.as_str()).collect();
    if !quiet.is_empty() {
        let _ = writeln!(out, "\nNothing to change for: {}", quiet.join(", "));
    }
    for (number, stays) in whole.stays.iter().enumerate() {
        let title = if number == 0 { "\nWhat stays on this host\n" } else { "" };
        let _ = writeln!(out, "{title}  - {}", shown(stays));
    }
    let _ = writeln!(out, "\n{}", whole.window);
    let _ = writeln!(out, "\nNothing was changed.");
    out
}

/// Per step how it is undone, in the order in which rollback does it.
fn way_back(out: &mut String, program: &[Place], plans: &[StepPlan]) {
    let applied = program.iter().rev().filter(|place| place.op == Op::Apply);
    let changed = applied.filter_map(|place| plans.get(place.step)).filter(|step| step.changes_something());
    for (number, step) in changed.enumerate() {
        if number == 0 {
            let _ = writeln!(out, "\nRollback, at any time before commit, undoes in this order");
        }
        let mut told = step.changes.iter().filter(|change| change.when == Op::Rollback).peekable();
        if told.peek().is_none() {
            let _ = writeln!(
                out,
                "  {}. {}: what it wrote down before it changed anything; it does not say more",
                number + 1,
                step.step
            );
        }
        for change in told {
            let _ = writeln!(out, "  {}. {}: {}", number + 1, step.step, shown(&change.what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Phase;

    fn step(name: &str, changes: &[(Op, &str)]) -> StepPlan {
        StepPlan {
            step: name.to_owned(),
            uses: "a/b".to_owned(),
            changes: changes.iter().map(|(op, what)| Change::new(*op, *what)).collect(),
            error: None,
            window_seconds: None,
        }
    }

    #[test]
    fn the_whole_plan_is_told_phase_by_phase_with_the_window_and_what_stays() {
        let mut route =
            step("route", &[(Op::EnterWindow, "show the maintenance page"), (Op::Apply, "switch")]);
        route.changes[1].diff = Some("-old\n+new\n".into());
        let mut broken = step("content", &[]);
        broken.error = Some("no key is stored".into());
        let steps = vec![
            step("stop", &[(Op::Apply, "stop and mask"), (Op::Rollback, "unmask and start")]),
            step("container", &[(Op::Prepare, "pull the image"), (Op::Apply, "start it")]),
            route,
            broken,
            step("caches", &[]),
        ];
        let every = |op, phase| (0..5).map(move |step| Place { step, op, phase });
        let program: Vec<Place> = every(Op::Prepare, Phase::Prepare)
            .chain(every(Op::EnterWindow, Phase::Apply))
            .chain(every(Op::Apply, Phase::Apply))
            .chain(every(Op::Finalize, Phase::Commit))
            .collect();
        let whole = WholePlan {
            instance: "prod".into(),
            phases: phases(&program, &steps),
            steps,
            window: window_estimate::tests::unknown(),
            stays: vec!["the unit x.service, masked".into(), "the data in /var/lib/x".into()],
        };
        insta::assert_snapshot!(text(&program, &whole));
        let order: Vec<(Op, String)> =
            whole.phases.iter().map(|phase| (phase.phase, phase.steps.join(" "))).collect();
        let expected = [
            (Op::Prepare, "container"),
            (Op::EnterWindow, "route"),
            (Op::Apply, "stop container route"),
            (Op::Finalize, ""),
            (Op::Rollback, "route container stop"),
        ];
        assert_eq!(order, expected.map(|(op, steps)| (op, steps.to_owned())));
    }

    #[test]
    fn what_is_undone_is_told_the_last_applied_first_and_nothing_for_a_step_that_changes_nothing() {
        let plans = [
            step("stop", &[(Op::Apply, "mask"), (Op::Rollback, "unmask and start")]),
            step("pool", &[(Op::Apply, "drain")]),
            step("start", &[]),
            step("builds", &[(Op::Rollback, "nothing")]),
        ];
        let program: Vec<Place> =
            (0..plans.len()).map(|step| Place { step, op: Op::Apply, phase: Phase::Apply }).collect();
        let mut out = String::new();
        way_back(&mut out, &program, &plans);
        insta::assert_snapshot!(out, @r"
        Rollback, at any time before commit, undoes in this order
          1. pool: what it wrote down before it changed anything; it does not say more
          2. stop: unmask and start
        ");
    }
}
