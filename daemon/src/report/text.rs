//! The report as plain text.

use super::{Ended, Report, Standing, StepReport};
use crate::engine::StepFindings;
use crate::state::MayDo;
use connect_migrator_sdk::{Op, Severity};
use std::fmt::Write;

impl Report {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_to(&mut out);
        // Titles of content are in it, and those who write them must not reach the reader's terminal.
        out.retain(|letter| letter == '\n' || !letter.is_control());
        out
    }

    fn write_to(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "Migration of `{}`: {}", self.instance, self.headline())?;
        writeln!(out, "  id       {}", self.migration)?;
        writeln!(out, "  began    {}", time(self.started))?;
        if let Some(ended) = self.ended {
            writeln!(out, "  ended    {}", time(ended))?;
        }
        for window in &self.windows {
            let open = if window.span.closed.is_none() { ", still open: users are not served" } else { "" };
            writeln!(out, "  window   {:.1} s from {}{open}", window.seconds, time(window.span.opened))?;
        }
        if let (Some(target), false) = (&self.target, self.standing == Standing::RolledBack) {
            writeln!(
                out,
                "  server   Connect {} in {} container `{}`",
                target.version, target.engine, target.name
            )?;
            writeln!(out, "  image    {}", target.image)?;
        }
        if let Some(cause) = &self.cause {
            match (&cause.step, cause.op) {
                (Some(step), Some(op)) => {
                    writeln!(out, "\nRolled back because step `{step}` failed in {op}:")?
                }
                _ => writeln!(out, "\nRolled back because:")?,
            }
            writeln!(out, "  {}", cause.why)?;
            if !cause.remedy.is_empty() {
                writeln!(out, "  What to do: {}", cause.remedy)?;
            }
        }
        let worth =
            |step: &&StepFindings| step.findings.iter().any(|finding| finding.severity != Severity::Ok);
        if self.findings.iter().any(|step| worth(&step)) {
            writeln!(out, "\nFindings")?;
            write_findings(out, &self.findings, false)?;
        }
        writeln!(out, "\nSteps")?;
        let width = self.steps.iter().map(|step| step.id.len()).max().unwrap_or(0);
        for step in &self.steps {
            write_step(out, step, width)?;
        }
        for left in &self.left {
            writeln!(out, "\nCould not be put back: {left}")?;
        }
        if let Some(why) = &self.waits {
            writeln!(out, "\nWaits for you: {why}")?;
        }
        if !self.may.is_empty() {
            writeln!(out, "\nYou may now")?;
        }
        for (command, what) in may_lines(self) {
            writeln!(out, "  {command:<45} {what}")?;
        }
        Ok(())
    }

    /// Where it stands, in one line.
    #[must_use]
    pub fn headline(&self) -> String {
        match self.standing {
            Standing::Running => format!("running, in {}", self.phase.name()),
            Standing::Parked => format!(
                "parked in {}; `systemctl start connect-migrator@{}` goes on",
                self.phase.name(),
                self.instance
            ),
            Standing::Waiting => format!("waits for you, in {}", self.phase.name()),
            Standing::Committed => "committed, Connect lives in the container".into(),
            Standing::RolledBack if self.left.is_empty() => {
                "rolled back, Connect is on the host as before".into()
            }
            Standing::RolledBack => "rolled back, but not everything could be put back".into(),
            Standing::Blocked => "blocked by its checks, nothing was touched".into(),
        }
    }
}

/// What the operator may do now: each command with what it does.
#[must_use]
pub fn may_lines(report: &Report) -> Vec<(String, &'static str)> {
    let name = &report.instance;
    let line = |may: &MayDo| match may {
        MayDo::Resume => (format!("systemctl start connect-migrator@{name}"), "try again from here"),
        MayDo::Rollback => (format!("connect-migrator rollback {name}"), "go back to the host"),
        MayDo::Commit => (format!("connect-migrator commit {name}"), "end the soak, stay in the container"),
    };
    report.may.iter().map(line).collect()
}

/// Findings, worst first; without the good ones unless `all`.
///
/// # Errors
/// Those of `out`.
pub fn write_findings(out: &mut impl Write, findings: &[StepFindings], all: bool) -> std::fmt::Result {
    let mut rows: Vec<_> = findings
        .iter()
        .flat_map(|step| step.findings.iter().map(move |finding| (step.step.as_str(), finding)))
        .filter(|(_, finding)| all || finding.severity != Severity::Ok)
        .collect();
    rows.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.severity));
    for (step, finding) in rows {
        let word = match finding.severity {
            Severity::Blocker => "BLOCKER",
            Severity::Warning => "warning",
            Severity::Ok => "ok",
        };
        writeln!(out, "  {word:<8} {step}: {} [{}]", indent(&finding.text, 11), finding.key)?;
        if !finding.remedy.is_empty() {
            writeln!(out, "           what to do: {}", indent(&finding.remedy, 11))?;
        }
    }
    Ok(())
}

fn write_step(out: &mut String, step: &StepReport, width: usize) -> std::fmt::Result {
    let shown = step.calls.iter().filter(|call| {
        !matches!(call.op, Op::Check | Op::Plan | Op::Probe | Op::Verify) && call.ended != Ended::AlreadyDone
            || call.ended == Ended::Failed
            || call.op == Op::Apply
    });
    let mut none = true;
    for call in shown {
        none = false;
        let sign = match call.ended {
            Ended::Done | Ended::AlreadyDone => '+',
            Ended::Failed => '!',
            Ended::Unknown => '?',
        };
        let of = call.of.map(|of| format!(" of {of}")).unwrap_or_default();
        let seconds =
            call.seconds.map_or_else(|| "cut off or running".into(), |seconds| format!("{seconds:.1} s"));
        writeln!(out, "{sign} {:<width$}  {}{of} ({seconds})", step.id, call.op)?;
        for line in &call.evidence {
            writeln!(out, "  {:width$}  {}", "", indent(line, width + 4))?;
        }
    }
    if none {
        writeln!(out, "  {:<width$}  nothing was changed", step.id)?;
    }
    Ok(())
}

fn indent(text: &str, by: usize) -> String {
    text.trim_end().replace('\n', &format!("\n{:by$}", ""))
}

fn time(at: jiff::Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Event, Record, View};
    use jiff::Timestamp;

    #[test]
    fn what_somebody_wrote_into_a_title_does_not_reach_the_terminal_as_a_command() {
        let at = Timestamp::UNIX_EPOCH;
        let started = serde_json::json!({"event": "started", "migration": "m", "instance": "prod", "runbook": "", "runbook_digest": "",
            "plugins": {}, "version": "0", "outline": {"steps": [], "program": []}});
        let why = "`\u{1b}]0;title\u{7}` failed\nsee its log".to_owned();
        let events = [serde_json::from_value(started).unwrap(), Event::Stopped { why, may: vec![] }];
        let records: Vec<_> = (1..).zip(events).map(|(seq, event)| Record { seq, at, event }).collect();
        let text = Report::of(&View::of(&records), at).unwrap().text();
        assert!(text.contains("`]0;title` failed\nsee its log"), "{text:?}");
    }
}
