//! What the checks found, and whether it ends the run.

use crate::state::{CallResult, OutlineStep, View};
use connect_migrator_sdk::{Finding, Op, Severity};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The findings of one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepFindings {
    /// The step's id.
    pub step: String,
    /// What it found. Silenced warnings are left out.
    pub findings: Vec<Finding>,
}

impl StepFindings {
    /// The findings of a check that ended this way. A check that could not be made is a blocker of its own.
    #[must_use]
    pub fn of(step: &OutlineStep, result: &CallResult) -> Self {
        let mut findings = match result {
            CallResult::Answered { answer, .. } => {
                serde_json::from_value(answer.clone()).unwrap_or_else(|error| {
                    vec![Finding::blocker(
                        "check-not-understood",
                        format!("the answer of the check is not a list of findings: {error}"),
                        "the plugin and this version do not fit together",
                    )]
                })
            }
            CallResult::Failed(failure) => {
                vec![Finding::blocker("check-failed", failure.why.clone(), failure.remedy.clone())]
            }
        };
        findings.retain(|finding: &Finding| {
            finding.severity != Severity::Warning || !step.allow.contains(&finding.key)
        });
        findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.key.cmp(&b.key)));
        StepFindings { step: step.id.clone(), findings }
    }
}

/// The findings of all checks made so far, in the reader's order.
#[must_use]
pub fn findings(view: &View) -> Vec<StepFindings> {
    let outline = view.outline();
    let checks = outline.program.iter().enumerate().filter(|(_, place)| place.op == Op::Check);
    checks
        .filter_map(|(index, place)| {
            let result = view.tries(index, Op::Check, None).next_back()?.result.as_ref()?;
            Some(StepFindings::of(outline.steps.get(place.step)?, result))
        })
        .collect()
}

/// Whether any of these is a blocker.
#[must_use]
pub fn has_blocker(findings: &[StepFindings]) -> bool {
    findings.iter().flat_map(|step| &step.findings).any(|finding| finding.severity == Severity::Blocker)
}
