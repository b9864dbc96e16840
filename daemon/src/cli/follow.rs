//! `connect-migrator status --follow`: live in a terminal, lines in a pipe, an object a line with `--json`.

use super::Exit;
use super::status;
use crate::bus;
use crate::engine::StepFindings;
use crate::instance::Instance;
use crate::report::{CallReport, Ended, Report, Standing, may_lines, write_findings};
use crate::service::{Live, Status};
use connect_migrator_sdk::{Finding, Op};
use indicatif::{HumanBytes, HumanDuration, MultiProgress, ProgressBar, ProgressStyle};
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often a terminal is drawn anew.
const DRAW_EVERY_MILLIS: u64 = 500;
/// How often a pipe gets a line about progress alone.
const LINE_EVERY_SECS: u64 = 10;
/// So many parts has a bar without a length of its own.
const PARTS: u64 = 1000;

/// Follows until `ended` answers an exit code, or until what is shown cannot be written.
pub(super) async fn run(
    instance: &Instance,
    watcher: Option<&bus::Watcher>,
    json: bool,
    ended: impl Fn(&Status) -> Option<Exit>,
) -> Exit {
    let screen = if json { Screen::Json } else { Screen::for_people() };
    let gone = |error: &std::io::Error| match error.kind() {
        // Whoever read this has gone away.
        ErrorKind::BrokenPipe => Some(Exit::Done),
        _ => Some(Exit::Failed.because(&format!("could not write to standard output: {error}"))),
    };
    on_screen(instance, watcher, screen, None, gone, ended).await
}

/// The same for what was asked for: what comes of it is waited for and told by the exit code, whether it can be shown or not.
/// `before`: what is known already and not told again.
pub(super) async fn to_the_end(
    instance: &Instance,
    watcher: Option<&bus::Watcher>,
    before: Option<Status>,
    ended: impl Fn(&Status) -> Option<Exit>,
) -> Exit {
    on_screen(instance, watcher, Screen::for_people(), before, |_| None, ended).await
}

/// `unwritten` says whether it is over when nothing can be shown.
async fn on_screen(
    instance: &Instance,
    watcher: Option<&bus::Watcher>,
    mut screen: Screen,
    before: Option<Status>,
    unwritten: impl Fn(&std::io::Error) -> Option<Exit>,
    ended: impl Fn(&Status) -> Option<Exit>,
) -> Exit {
    let mut before = before;
    let mut waiting_told = false;
    loop {
        let status = match status::now(instance, watcher).await {
            Ok(status) => status,
            Err(unread) => return unread.exit(),
        };
        match status {
            None => {
                if !waiting_told {
                    complain!(
                        "No migration of `{0}` has been started; waits for `systemctl start connect-migrator@{0}`.",
                        instance.name()
                    );
                    waiting_told = true;
                }
            }
            Some(status) => {
                if let Err(error) = screen.show(before.as_ref(), &status)
                    && let Some(exit) = unwritten(&error)
                {
                    return exit;
                }
                if let Some(exit) = ended(&status) {
                    screen.end(&status);
                    return exit;
                }
                before = Some(status);
            }
        }
        tokio::time::sleep(Duration::from_millis(DRAW_EVERY_MILLIS)).await;
    }
}

/// The exit code once the migration has ended, is parked, or needs an operator.
pub(super) fn ended(status: &Status) -> Option<Exit> {
    exit_of(&status.report).filter(|_| status.report.standing != Standing::Parked || !status.daemon_runs)
}

/// The exit code for where a migration stands; `None` while it runs.
pub(super) fn exit_of(report: &Report) -> Option<Exit> {
    match report.standing {
        Standing::Running => None,
        Standing::Parked | Standing::Committed => Some(Exit::Done),
        Standing::Blocked => Some(Exit::Blocked),
        Standing::RolledBack if report.left.is_empty() => Some(Exit::RolledBack),
        Standing::RolledBack | Standing::Waiting => Some(Exit::NeedsOperator),
    }
}

enum Screen {
    Live(Bars),
    /// When the last line about progress alone was written.
    Lines(Option<Instant>),
    Json,
}

impl Screen {
    fn for_people() -> Self {
        if std::io::stdout().is_terminal() { Screen::Live(Bars::new()) } else { Screen::Lines(None) }
    }

    fn show(&mut self, before: Option<&Status>, now: &Status) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        match self {
            Screen::Json => {
                // The length of an open window alone is no news.
                let same = before.is_some_and(|before| {
                    before.live == now.live
                        && before.report.calls() == now.report.calls()
                        && before.report.standing == now.report.standing
                        && before.report.phase == now.report.phase
                        && before.daemon_runs == now.daemon_runs
                });
                if !same {
                    serde_json::to_writer(&mut out, now)?;
                    writeln!(out)?;
                }
            }
            Screen::Lines(last) => {
                for line in news(before.map(|status| &status.report), &now.report) {
                    writeln!(out, "{line}")?;
                }
                let due = last.is_none_or(|at| at.elapsed() >= Duration::from_secs(LINE_EVERY_SECS));
                if let (Some(live), true) = (&now.live, due) {
                    writeln!(out, "  {}: {}", live.step, words(live))?;
                    *last = Some(Instant::now());
                }
            }
            Screen::Live(bars) => {
                for line in news(before.map(|status| &status.report), &now.report) {
                    bars.all.println(line)?;
                }
                bars.draw(now);
            }
        }
        out.flush()
    }

    fn end(&self, status: &Status) {
        if let Screen::Live(bars) = self {
            let _ = bars.all.clear();
        }
        if !matches!(self, Screen::Json) {
            say_line!("\n{}", status.report.text().trim_end());
        }
    }
}

/// The lower lines of a terminal: where it stands, how far the call has come, what the operator may do.
struct Bars {
    all: MultiProgress,
    head: ProgressBar,
    bar: ProgressBar,
    foot: ProgressBar,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let line = |template: &str| {
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            all.add(ProgressBar::new(PARTS).with_style(style.progress_chars("━╸─")))
        };
        let head = line("{spinner} {msg}");
        let bar = line("  {msg}");
        let foot = line("  {msg}");
        Bars { head, bar, foot, all }
    }

    fn draw(&self, status: &Status) {
        self.head.set_message(headline(status));
        self.head.tick();
        let with_total = status.live.as_ref().and_then(|live| Some((live.done?, live.total?)));
        let template = match with_total {
            Some((done, total)) if total > 0 => {
                self.bar.set_position(
                    (u128::from(done.min(total)) * u128::from(PARTS) / u128::from(total)) as u64,
                );
                "  {bar:24} {msg}"
            }
            _ => "  {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("━╸─"));
        }
        self.bar.set_message(status.live.as_ref().map_or_else(String::new, words));
        let may = may_lines(&status.report).into_iter().map(|(command, _)| command).collect::<Vec<_>>();
        self.foot.set_message(if may.is_empty() {
            String::new()
        } else {
            format!("you may: {}", may.join(", or "))
        });
        self.bar.tick();
        self.foot.tick();
    }
}

/// Phase, running call, and the window so far, in one line.
fn headline(status: &Status) -> String {
    let report = &status.report;
    let mut parts = vec![format!("{}: {}", report.instance, report.phase.name())];
    let running = report.steps.iter().find_map(|step| {
        let call = step.calls.iter().rev().find(|call| call.ended == Ended::Unknown)?;
        Some(format!("step {} {}", step.id, called(call)))
    });
    parts.extend(running);
    if let Some(window) = report.windows.last() {
        let open = if window.span.closed.is_none() { ", open: users are not served" } else { "" };
        parts.push(format!("window {:.1} s{open}", window.seconds));
    }
    if !status.daemon_runs && report.standing == Standing::Running {
        parts.push("the daemon does not run now".into());
    }
    parts.join(" · ")
}

fn called(call: &CallReport) -> String {
    call.of.map_or_else(|| call.op.to_string(), |of| format!("{} of {of}", call.op))
}

/// `pulling the image, 12.0 MiB of 40.0 MiB (30 %), 3.0 MiB/s, 9 seconds left`.
pub(super) fn words(live: &Live) -> String {
    let unit = live.unit.as_deref().unwrap_or_default();
    let amount = |count: u64| match unit {
        "bytes" => HumanBytes(count).to_string(),
        _ => format!("{count} {unit}").trim_end().to_owned(),
    };
    let mut text = live.doing.clone();
    match (live.done, live.total) {
        (Some(done), Some(total)) => {
            let share = if total > 0 { u128::from(done) * 100 / u128::from(total) } else { 100 };
            text.push_str(&format!(", {} of {} ({share} %)", amount(done), amount(total)));
        }
        (Some(done), None) => text.push_str(&format!(", {}", amount(done))),
        _ => {}
    }
    if let Some(rate) = live.per_second {
        let shown = match unit {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is only shown")]
            "bytes" => HumanBytes(rate as u64).to_string(),
            _ => format!("{rate:.1}"),
        };
        text.push_str(&format!(", {shown}/s"));
    }
    if let Some(left) = live.seconds_left.and_then(|left| Duration::try_from_secs_f64(left.max(0.0)).ok()) {
        text.push_str(&format!(", {} left", HumanDuration(left)));
    }
    // It comes from a step and goes to a terminal.
    text.chars().filter(|c| !c.is_control()).collect()
}

/// What has happened between two looks, a line each.
fn news(before: Option<&Report>, now: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let same = before.filter(|before| before.migration == now.migration);
    if same.is_none() {
        lines.push(format!("migration {} of `{}`", now.migration, now.instance));
    }
    let mut found = String::new();
    let known = same.map_or(&[][..], |before| &before.findings);
    let _ = write_findings(&mut found, &not_yet_told(known, &now.findings), false);
    lines.extend(found.lines().map(str::to_owned));
    let mut ended: Vec<(&str, &CallReport)> = Vec::new();
    for step in &now.steps {
        let known = same.and_then(|before| before.steps.iter().find(|known| known.id == step.id));
        for (index, call) in step.calls.iter().enumerate() {
            let was = known.and_then(|known| known.calls.get(index)).map(|call| call.ended);
            let is_new = call.ended != Ended::Unknown && was.is_none_or(|was| was == Ended::Unknown);
            let quiet = matches!(call.op, Op::Check | Op::Plan | Op::Probe | Op::Verify)
                && call.ended != Ended::Failed;
            if is_new && !quiet {
                ended.push((&step.id, call));
            }
        }
    }
    ended.sort_by_key(|(_, call)| call.started);
    for (step, call) in ended {
        let sign = if call.ended == Ended::Failed { '!' } else { '+' };
        let seconds = call.seconds.map_or_else(String::new, |seconds| format!(" ({seconds:.1} s)"));
        let evidence = call.evidence.first().map_or("", |line| line.lines().next().unwrap_or_default());
        lines.push(format!("{sign} {step}: {}{seconds}: {evidence}", called(call)));
    }
    if same.is_none_or(|before| before.phase != now.phase) {
        lines.push(format!("== {}", now.phase.name()));
    }
    let open = |report: &Report| report.windows.iter().filter(|window| window.span.closed.is_none()).count();
    let closed = |report: &Report| report.windows.len() - open(report);
    if open(now) > same.map_or(0, open) {
        lines.push("== the window is open: users are not served".into());
    }
    if closed(now) > same.map_or(0, closed)
        && let Some(window) = now.windows.iter().rev().find(|window| window.span.closed.is_some())
    {
        lines.push(format!("== the window is closed after {:.1} s", window.seconds));
    }
    let clean = |line: String| line.chars().filter(|c| !c.is_control()).collect();
    lines.into_iter().map(clean).collect()
}

/// Each step's check tells for itself: what one has found is not told again when the next has.
fn not_yet_told(before: &[StepFindings], now: &[StepFindings]) -> Vec<StepFindings> {
    let told = |step: &str, finding: &Finding| {
        before.iter().any(|known| known.step == step && known.findings.contains(finding))
    };
    now.iter()
        .map(|StepFindings { step, findings }| StepFindings {
            step: step.clone(),
            findings: findings.iter().filter(|finding| !told(step, finding)).cloned().collect(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_told_once() {
        let of = |step: &str, keys: &[&str]| StepFindings {
            step: step.into(),
            findings: keys.iter().map(|key| Finding::warning(*key, "text", "remedy")).collect(),
        };
        let (before, now) = ([of("route", &["a"])], [of("route", &["a", "b"]), of("content", &["a"])]);
        assert_eq!(not_yet_told(&before, &now), [of("route", &["b"]), of("content", &["a"])]);
        assert_eq!(not_yet_told(&[], &before), before);
    }

    #[test]
    fn progress_is_told_in_the_units_of_its_step() {
        let live = Live {
            step: "container".into(),
            doing: "pulling".into(),
            done: Some(12 * 1024 * 1024),
            total: Some(40 * 1024 * 1024),
            unit: Some("bytes".into()),
            per_second: Some(3.0 * 1024.0 * 1024.0),
            seconds_left: Some(9.3),
        };
        assert_eq!(words(&live), "pulling, 12.00 MiB of 40.00 MiB (30 %), 3.00 MiB/s, 9 seconds left");
        let items =
            Live { doing: "building".into(), done: Some(3), unit: Some("items".into()), ..Live::default() };
        assert_eq!(words(&items), "building, 3 items");
        let hostile = Live { doing: "x\u{1b}[2J".into(), ..Live::default() };
        assert_eq!(words(&hostile), "x[2J");
    }
}
