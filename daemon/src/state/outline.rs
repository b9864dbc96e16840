//! What is written down of a plan, so that the state can be understood without the runbook and its plugins.

use connect_migrator_sdk::{Op, Role};
use serde::{Deserialize, Serialize};

/// A phase of the run, as shown to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Looking whether it can be done.
    Check,
    /// What can be done while Connect serves.
    Prepare,
    /// The steps themselves, with the window among them.
    Apply,
    /// The whole world once more.
    Verify,
    /// Watching the new server.
    Soak,
    /// Dropping what only rollback needed.
    Commit,
    /// The way back.
    Rollback,
}

impl Phase {
    /// As it stands in the journal.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Check => "check",
            Phase::Prepare => "prepare",
            Phase::Apply => "apply",
            Phase::Verify => "verify",
            Phase::Soak => "soak",
            Phase::Commit => "commit",
            Phase::Rollback => "rollback",
        }
    }
}

/// One call of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Index into the steps, in the reader's order.
    pub step: usize,
    /// The call.
    pub op: Op,
    /// The phase that it belongs to.
    pub phase: Phase,
}

/// A step as the state knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlineStep {
    /// Its `id`.
    pub id: String,
    /// `plugin` or `plugin/step`.
    pub uses: String,
    /// One line on what it does.
    pub summary: String,
    /// What it is to the run.
    pub role: Role,
    /// Keys of warnings that the operator has silenced.
    #[serde(default)]
    pub allow: Vec<String>,
}

/// The steps and the calls of an undisturbed run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outline {
    /// In the reader's order.
    pub steps: Vec<OutlineStep>,
    /// In the order of the run.
    pub program: Vec<Place>,
}

impl Outline {
    /// The step at a place of the program.
    #[must_use]
    pub fn step_at(&self, place: usize) -> Option<&OutlineStep> {
        self.program.get(place).and_then(|place| self.steps.get(place.step))
    }

    /// The role of the step at a place of the program.
    #[must_use]
    pub fn role_at(&self, place: usize) -> Role {
        self.step_at(place).map_or(Role::Other, |step| step.role)
    }
}
