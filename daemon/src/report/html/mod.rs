//! The report as one HTML file: no script, nothing from elsewhere, readable on paper.
//!
//! Everything that comes from outside (names of content, logs, messages) goes through [`Text`]; nothing is written as it came.

mod timeline;

use super::builds::Build;
use super::{CallReport, Ended, Report, Standing, may_lines};
use connect_migrator_sdk::Severity;
use jiff::Timestamp;
use std::fmt::{self, Write};

const STYLE: &str = include_str!("style.css");
const LEGEND: &str = "<p class=\"legend\"><b class=\"look\"></b> looks only <b class=\"prepare\"></b> prepares <b \
class=\"apply\"></b> changes <b class=\"back\"></b> puts back <b class=\"failed\"></b> failed <i class=\"window\"></i> users \
are not served</p>";
/// So many items are listed; the rest is counted.
const ITEMS_MAX: usize = 5000;

/// Foreign text, made harmless.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(c)?,
                // Characters that turn the direction of text around could make a name look like another one.
                c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                    f.write_char('\u{fffd}')?;
                }
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Makes the file.
#[must_use]
pub fn html(report: &Report, runbook: &str, builds: &[Build], now: Timestamp) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = page(&mut out, report, runbook, builds, now);
    out
}

fn page(out: &mut String, report: &Report, runbook: &str, builds: &[Build], now: Timestamp) -> fmt::Result {
    let title = format!("Migration of {}", report.instance);
    writeln!(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
    // Whatever slipped through: nothing is loaded and nothing runs.
    writeln!(
        out,
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    )?;
    writeln!(out, "<meta name=\"viewport\" content=\"width=device-width\">")?;
    writeln!(out, "<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>", Text(&title))?;
    head(out, report, &title, now)?;
    writeln!(out, "<h2>Timeline</h2>")?;
    timeline::draw(out, report, now)?;
    writeln!(out, "{LEGEND}")?;
    findings(out, report)?;
    steps(out, report)?;
    items(out, builds)?;
    if !runbook.is_empty() {
        writeln!(
            out,
            "<h2>The runbook</h2>\n<details><summary>As it was when the migration began, SHA-256 <code>{}</code></summary>",
            Text(&report.runbook_digest)
        )?;
        writeln!(out, "<pre>{}</pre></details>", Text(runbook))?;
    }
    writeln!(out, "</body>\n</html>")
}

fn head(out: &mut String, report: &Report, title: &str, now: Timestamp) -> fmt::Result {
    let class = match report.standing {
        Standing::Committed => "good",
        Standing::RolledBack if report.left.is_empty() => "fair",
        Standing::Running | Standing::Parked => "plain",
        _ => "bad",
    };
    writeln!(
        out,
        "<h1>{}</h1>\n<p class=\"headline {class}\">{}</p>",
        Text(title),
        Text(&report.headline())
    )?;
    writeln!(out, "<table class=\"facts\">")?;
    let mut fact =
        |name: &str, value: &str| writeln!(out, "<tr><th>{name}</th><td>{}</td></tr>", Text(value));
    fact("Began", &time(report.started))?;
    match report.ended {
        Some(ended) => fact("Ended", &time(ended))?,
        None => fact("Seen", &time(now))?,
    }
    for window in &report.windows {
        let open = if window.span.closed.is_none() { ", still open: users are not served" } else { "" };
        fact(
            "Window",
            &format!("{:.1} s without service, from {}{open}", window.seconds, time(window.span.opened)),
        )?;
    }
    if let Some(target) = &report.target {
        fact(
            "Server",
            &format!("Connect {} in {} container {}", target.version, target.engine, target.name),
        )?;
        fact("Image", &target.image)?;
    }
    fact("Migration", &report.migration)?;
    writeln!(out, "</table>")?;
    if let Some(cause) = &report.cause {
        let step = cause.step.as_ref().map(|step| format!(" because step {step} failed")).unwrap_or_default();
        writeln!(out, "<div class=\"box bad\"><b>Rolled back{}.</b> {}", Text(&step), Text(&cause.why))?;
        if !cause.remedy.is_empty() {
            writeln!(out, "<br>What to do: {}", Text(&cause.remedy))?;
        }
        writeln!(out, "</div>")?;
    }
    for left in &report.left {
        writeln!(out, "<div class=\"box bad\"><b>Could not be put back:</b> {}</div>", Text(left))?;
    }
    if let Some(why) = &report.waits {
        writeln!(out, "<div class=\"box bad\"><b>Waits for you:</b> {}</div>", Text(why))?;
    }
    let may = may_lines(report);
    if !may.is_empty() {
        writeln!(out, "<div class=\"box\"><b>You may now</b><ul>")?;
        for (command, what) in may {
            writeln!(out, "<li><code>{}</code> {what}</li>", Text(&command))?;
        }
        writeln!(out, "</ul></div>")?;
    }
    Ok(())
}

fn findings(out: &mut String, report: &Report) -> fmt::Result {
    let mut rows: Vec<_> = report
        .findings
        .iter()
        .flat_map(|step| step.findings.iter().map(move |finding| (&step.step, finding)))
        .collect();
    rows.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.severity));
    writeln!(out, "<h2>Findings of the checks</h2>")?;
    if rows.is_empty() {
        return writeln!(out, "<p>None.</p>");
    }
    writeln!(
        out,
        "<table class=\"list found\"><tr><th></th><th>Step</th><th>Key</th><th>What was found, and what to do</th></tr>"
    )?;
    for (step, finding) in rows {
        let (class, word) = match finding.severity {
            Severity::Blocker => ("bad", "blocker"),
            Severity::Warning => ("fair", "warning"),
            Severity::Ok => ("good", "ok"),
        };
        write!(
            out,
            "<tr><td class=\"{class}\">{word}</td><td>{}</td><td><code>{}</code></td><td>{}",
            Text(step),
            Text(&finding.key),
            Text(&finding.text)
        )?;
        if !finding.remedy.is_empty() {
            write!(out, "<br><i>{}</i>", Text(&finding.remedy))?;
        }
        writeln!(out, "</td></tr>")?;
    }
    writeln!(out, "</table>")
}

fn steps(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "<h2>What was done</h2>")?;
    for step in &report.steps {
        writeln!(
            out,
            "<h3>{} <small>{}</small></h3>\n<p>{}</p>\n<table class=\"list calls\">",
            Text(&step.id),
            Text(&step.uses),
            Text(&step.summary)
        )?;
        for call in &step.calls {
            one_call(out, call)?;
        }
        writeln!(out, "</table>")?;
    }
    Ok(())
}

fn one_call(out: &mut String, call: &CallReport) -> fmt::Result {
    let (class, word) = match call.ended {
        Ended::Done => ("good", "done"),
        Ended::AlreadyDone => ("good", "as wanted"),
        Ended::Failed => ("bad", "failed"),
        Ended::Unknown => ("plain", "cut off or running"),
    };
    let of = call.of.map(|of| format!(" of {of}")).unwrap_or_default();
    let again = if call.attempt > 1 { format!(", try {}", call.attempt) } else { String::new() };
    let seconds = call.seconds.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default();
    write!(
        out,
        "<tr><td>{}{of}{again}</td><td class=\"{class}\">{word}</td><td class=\"number\">{seconds}</td><td>",
        call.op
    )?;
    let lines: Vec<String> = call.evidence.iter().map(|line| Text(line).to_string()).collect();
    write!(out, "{}", lines.join("<br>"))?;
    for (name, diff) in diffs(&call.details) {
        write!(out, "<p>{}</p><pre class=\"diff\">", Text(&name))?;
        for line in diff.lines() {
            let class = match line.as_bytes().first() {
                Some(b'+') => "added",
                Some(b'-') => "removed",
                _ => "same",
            };
            write!(out, "<span class=\"{class}\">{}</span>", Text(line))?;
        }
        write!(out, "</pre>")?;
    }
    if !call.details.is_null() {
        let text = serde_json::to_string_pretty(&call.details).unwrap_or_default();
        write!(out, "<details><summary>details</summary><pre>{}</pre></details>", Text(&text))?;
    }
    writeln!(out, "</td></tr>")
}

/// The unified diffs among a step's details: members named `diff`, or ending so.
fn diffs(details: &serde_json::Value) -> Vec<(String, String)> {
    let Some(members) = details.as_object() else { return Vec::new() };
    let is_diff = |name: &str| name == "diff" || name.ends_with("-diff");
    members
        .iter()
        .filter(|(name, _)| is_diff(name))
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn items(out: &mut String, builds: &[Build]) -> fmt::Result {
    if builds.is_empty() {
        return Ok(());
    }
    let built = builds.iter().filter(|build| build.built).count();
    writeln!(
        out,
        "<h2>Content</h2>\n<p>{built} of {} items were built.</p>\n<table class=\"list\"><tr><th></th><th>Item</th><th>Owner</th><th>What happened</th></tr>",
        builds.len()
    )?;
    for build in builds.iter().take(ITEMS_MAX) {
        let (class, word) = match (build.built, build.failures) {
            (true, 0) => ("good", "built"),
            (true, _) => ("fair", "built at last"),
            (false, 0) if build.error.is_empty() => ("plain", "not known"),
            (false, _) => ("bad", "failed"),
        };
        write!(
            out,
            "<tr><td class=\"{class}\">{word}</td><td>{}<br><code>{}</code></td>",
            Text(&build.name),
            Text(&build.guid)
        )?;
        write!(out, "<td>{}</td><td>{}", Text(&build.owner), Text(&build.error))?;
        if !build.log.is_empty() {
            write!(out, "<details><summary>log</summary><pre>{}</pre></details>", Text(&build.log))?;
        }
        writeln!(out, "</td></tr>")?;
    }
    writeln!(out, "</table>")?;
    if builds.len() > ITEMS_MAX {
        writeln!(out, "<p>… and {} more; the state folder has them all.</p>", builds.len() - ITEMS_MAX)?;
    }
    Ok(())
}

fn time(at: Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

#[cfg(test)]
mod tests;
