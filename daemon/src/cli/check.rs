//! `connect-migrator check`.

use super::{Exit, survey::survey, tables};
use crate::engine::{StepFindings, has_blocker};
use crate::instance::Instance;
use crate::service::StepsRunAs;
use connect_migrator_sdk::{Finding, Op, Severity};

/// Prints the findings of every step, worst first.
pub(super) async fn run(instance: &Instance, json: bool, all: bool, steps: StepsRunAs) -> Exit {
    let survey = match survey(instance, Op::Check, steps).await {
        Ok(survey) => survey,
        Err(exit) => return exit,
    };
    let findings: Vec<StepFindings> =
        survey.answers.iter().map(|(step, result)| StepFindings::of(step, result)).collect();
    let blocked = has_blocker(&findings);
    if json {
        match serde_json::to_string_pretty(&findings) {
            Ok(text) => say_line!("{text}"),
            Err(error) => return Exit::Failed.because(&error),
        }
    } else {
        say!("{}", table(&findings, all));
        let count = |severity| {
            findings
                .iter()
                .flat_map(|step| &step.findings)
                .filter(|finding| finding.severity == severity)
                .count()
        };
        let (blockers, warnings, good) =
            (count(Severity::Blocker), count(Severity::Warning), count(Severity::Ok));
        say_line!(
            "{}, {}, {good} as they should be. Nothing was changed.",
            counted(blockers, "blocker"),
            counted(warnings, "warning")
        );
        if blocked {
            say_line!("A migration would not start. Mend the blockers and run this again.");
        } else {
            say_line!("`systemctl start {}` would go ahead.", instance.unit().trim_end_matches(".service"));
        }
    }
    if blocked { Exit::Blocked } else { Exit::Done }
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// The findings, worst first; without the good ones unless `all`. Empty when there is nothing to show.
fn table(findings: &[StepFindings], all: bool) -> String {
    let mut rows: Vec<(&str, &Finding)> = findings
        .iter()
        .flat_map(|step| step.findings.iter().map(move |finding| (step.step.as_str(), finding)))
        .filter(|(_, finding)| all || finding.severity != Severity::Ok)
        .collect();
    rows.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.severity));
    if rows.is_empty() {
        return String::new();
    }
    let mut table = tables::new(["", "STEP", "KEY", "WHAT WAS FOUND, AND WHAT TO DO"]);
    for (step, finding) in rows {
        let word = match finding.severity {
            Severity::Blocker => "BLOCKER",
            Severity::Warning => "warning",
            Severity::Ok => "ok",
        };
        let mut text = finding.text.clone();
        if !finding.remedy.is_empty() {
            text.push_str(&format!("\n→ {}", finding.remedy));
        }
        if finding.severity == Severity::Warning {
            text.push_str(&format!("\n→ or accept it: allow = [\"{}\"] in step `{step}`", finding.key));
        }
        table.add_row([word.to_owned(), step.to_owned(), finding.key.clone(), tables::shown(&text)]);
    }
    format!("{table}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_stands_first_and_a_warning_tells_what_silences_it() {
        let findings = [
            StepFindings {
                step: "container".into(),
                findings: vec![
                    Finding::warning("data-local", "the data lie on a local disk", "move them"),
                    Finding::ok("engine", "Docker answers"),
                ],
            },
            StepFindings {
                step: "route".into(),
                findings: vec![Finding::blocker("nginx-inactive", "nginx is not active", "start it")],
            },
        ];
        insta::assert_snapshot!(table(&findings, false));
        assert!(table(&findings, true).contains("Docker answers"));
        assert_eq!(table(&[], true), "");
    }
}
