//! `connect-migrator check`.

use super::{Exit, survey::survey};
use crate::engine::{StepFindings, has_blocker};
use crate::instance::Instance;
use crate::report::write_findings;
use connect_migrator_sdk::{Op, Severity};

/// Prints the findings of every step, worst first.
pub(super) async fn run(instance: &Instance, json: bool, all: bool) -> Exit {
    let survey = match survey(instance, Op::Check).await {
        Ok(survey) => survey,
        Err(exit) => return exit,
    };
    let findings: Vec<StepFindings> =
        survey.answers.iter().map(|(step, result)| StepFindings::of(step, result)).collect();
    let blocked = has_blocker(&findings);
    if json {
        match serde_json::to_string_pretty(&findings) {
            Ok(text) => println!("{text}"),
            Err(error) => return Exit::Failed.because(&error),
        }
    } else {
        let mut text = String::new();
        let _ = write_findings(&mut text, &findings, all);
        let count = |severity| {
            findings
                .iter()
                .flat_map(|step| &step.findings)
                .filter(|finding| finding.severity == severity)
                .count()
        };
        let (blockers, warnings, good) =
            (count(Severity::Blocker), count(Severity::Warning), count(Severity::Ok));
        print!("{text}");
        println!("{blockers} blockers, {warnings} warnings, {good} as they should be. Nothing was changed.");
        if blocked {
            println!("A migration would not start. Mend the blockers and run this again.");
        } else {
            println!("`systemctl start {}` would go ahead.", instance.unit().trim_end_matches(".service"));
        }
    }
    if blocked { Exit::Blocked } else { Exit::Done }
}
