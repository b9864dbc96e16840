//! What is to be done: the steps in their order, laid out as the calls that a run makes.

use crate::host::PluginRef;
use crate::runbook::{OnFailure, Soak, Timeouts};
use crate::state::{Outline, OutlineStep, Phase, Place};
use connect_migrator_sdk::{Op, Role, Source, StepInfo};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// A step of the runbook with all that is needed to call it.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedStep {
    /// Its `id`.
    pub id: String,
    /// Where its code is.
    pub plugin: PluginRef,
    /// What it says about itself.
    pub info: StepInfo,
    /// The settings under `with`.
    pub config: Value,
    /// The only credentials that it may fetch: those that its settings and `[connect]` name.
    pub credentials: BTreeSet<String>,
    /// Keys of warnings that the operator has silenced.
    pub allow: Vec<String>,
}

impl PlannedStep {
    /// `plugin` or `plugin/step`, as in the runbook.
    #[must_use]
    pub fn uses(&self) -> String {
        let plugin = self.plugin.name();
        if plugin == self.info.name { plugin } else { format!("{plugin}/{}", self.info.name) }
    }
}

impl PluginRef {
    /// The plugin's name: `systemd`, `docker`.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            PluginRef::BuiltIn(name) => name.clone(),
            PluginRef::File(path) => path
                .file_stem()
                .map_or_else(|| path.display().to_string(), |stem| stem.to_string_lossy().into_owned()),
        }
    }
}

/// A validated runbook with its plugins found: what the engine runs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The name after the `@`.
    pub instance: String,
    /// The Connect that is moved.
    pub source: Source,
    /// The steps in the reader's order.
    pub steps: Vec<PlannedStep>,
    /// The calls of an undisturbed run.
    pub program: Vec<Place>,
    /// What to do when a step fails.
    pub on_failure: OnFailure,
    /// How to watch the new server.
    pub soak: Soak,
    /// How long each call may take.
    pub timeouts: Timeouts,
    /// The folder in which each step has one of its own.
    pub steps_dir: PathBuf,
}

impl Plan {
    /// Lays out the calls. `apply_order` holds indices into `steps`.
    #[must_use]
    pub fn program(steps: &[PlannedStep], apply_order: &[usize]) -> Vec<Place> {
        let every = |op, phase| (0..steps.len()).map(move |step| Place { step, op, phase });
        let mut program: Vec<Place> =
            every(Op::Check, Phase::Check).chain(every(Op::Prepare, Phase::Prepare)).collect();
        for &step in apply_order {
            if steps.get(step).is_some_and(|step| step.info.role == Role::StopsSource) {
                // The step that takes the users' way away comes last: with it the window begins.
                let (routes, others): (Vec<Place>, Vec<Place>) = every(Op::EnterWindow, Phase::Apply)
                    .partition(|place| steps.get(place.step).is_some_and(|s| s.info.role == Role::Routes));
                program.extend(others.into_iter().chain(routes));
            }
            program.push(Place { step, op: Op::Apply, phase: Phase::Apply });
            program.push(Place { step, op: Op::Verify, phase: Phase::Apply });
        }
        program.extend(apply_order.iter().map(|&step| Place { step, op: Op::Verify, phase: Phase::Verify }));
        program.extend(every(Op::Finalize, Phase::Commit));
        program
    }

    /// What is written down of the plan when a migration begins.
    #[must_use]
    pub fn outline(&self) -> Outline {
        let step = |step: &PlannedStep| OutlineStep {
            id: step.id.clone(),
            uses: step.uses(),
            summary: step.info.summary.clone(),
            role: step.info.role,
            allow: step.allow.clone(),
        };
        Outline { steps: self.steps.iter().map(step).collect(), program: self.program.clone() }
    }

    /// The step at a place of the program.
    #[must_use]
    pub fn step_at(&self, place: usize) -> Option<&PlannedStep> {
        self.program.get(place).and_then(|place| self.steps.get(place.step))
    }

    /// The calls that follow one of the window until users are served again; none for a call that users do not wait for.
    #[must_use]
    pub fn until_served(&self, place: usize) -> &[Place] {
        let applies = |at: &Place| at.phase == Phase::Apply;
        let role = |at: &Place| self.steps.get(at.step).map(|step| step.info.role);
        let serves = |at: &Place| applies(at) && at.op == Op::Apply && role(at) == Some(Role::Routes);
        // With no step that sends users anywhere, they are served when everything is applied.
        let last = self.program.iter().position(serves).or_else(|| self.program.iter().rposition(applies));
        if !self.program.get(place).is_some_and(applies) {
            return &[];
        }
        last.and_then(|last| self.program.get(place + 1..=last)).unwrap_or_default()
    }

    /// How long a call may take.
    #[must_use]
    pub fn timeout(&self, op: Op) -> Duration {
        self.timeouts.of(op)
    }
}
