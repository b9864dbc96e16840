//! When each call began and ended, with the window marked.

use super::super::{CallReport, Ended, Report};
use super::Text;
use connect_migrator_sdk::Op;
use jiff::Timestamp;
use std::fmt::{self, Write};

/// How much is shown on both sides of a window when it is drawn larger.
const MARGIN: f64 = 0.15;
/// A bar is never narrower, in percent: it could not be seen.
const NARROWEST: f64 = 0.3;

/// A stretch of time that is drawn from the left to the right.
struct Scale {
    from: f64,
    to: f64,
}

impl Scale {
    fn percent(&self, at: f64) -> f64 {
        let length = (self.to - self.from).max(f64::EPSILON);
        ((at - self.from) / length * 100.0).clamp(0.0, 100.0)
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

/// Draws the whole migration, and each window larger.
pub(super) fn draw(out: &mut String, report: &Report, now: Timestamp) -> fmt::Result {
    let end = report.ended.unwrap_or(now);
    let whole = Scale { from: seconds(report.started), to: seconds(end) };
    chart(out, report, &whole, end, "The whole migration")?;
    for window in &report.windows {
        let (from, to) = (seconds(window.span.opened), seconds(window.span.closed.unwrap_or(end)));
        let margin = (to - from) * MARGIN;
        let scale = Scale { from: (from - margin).max(whole.from), to: (to + margin).min(whole.to) };
        chart(out, report, &scale, end, &format!("The window, {:.1} s", window.seconds))?;
    }
    Ok(())
}

fn chart(out: &mut String, report: &Report, scale: &Scale, end: Timestamp, title: &str) -> fmt::Result {
    writeln!(
        out,
        "<figure><figcaption>{} <small>({:.1} s from left to right)</small></figcaption>\n<div class=\"chart\">",
        Text(title),
        scale.to - scale.from
    )?;
    for step in &report.steps {
        write!(out, "<div class=\"row\"><div class=\"name\">{}</div><div class=\"lane\">", Text(&step.id))?;
        for window in &report.windows {
            let left = scale.percent(seconds(window.span.opened));
            let right = scale.percent(seconds(window.span.closed.unwrap_or(end)));
            write!(
                out,
                "<i class=\"window\" style=\"left:{left:.2}%;width:{:.2}%\"></i>",
                (right - left).max(NARROWEST)
            )?;
        }
        for call in &step.calls {
            bar(out, call, scale, end)?;
        }
        writeln!(out, "</div></div>")?;
    }
    writeln!(out, "</div></figure>")
}

fn bar(out: &mut String, call: &CallReport, scale: &Scale, end: Timestamp) -> fmt::Result {
    let from = seconds(call.started);
    let to = call.seconds.map_or_else(|| seconds(end), |seconds| from + seconds);
    if to < scale.from || from > scale.to {
        return Ok(());
    }
    let (left, right) = (scale.percent(from), scale.percent(to));
    let class = match (call.ended, call.op) {
        (Ended::Failed, _) => "failed",
        (_, Op::Check | Op::Plan | Op::Probe | Op::Verify) => "look",
        (_, Op::Rollback) => "back",
        (_, Op::Prepare) => "prepare",
        _ => "apply",
    };
    let of = call.of.map(|of| format!(" of {of}")).unwrap_or_default();
    write!(
        out,
        "<b class=\"{class}\" style=\"left:{left:.2}%;width:{:.2}%\" title=\"{}{of}, {:.1} s\"></b>",
        (right - left).max(NARROWEST),
        call.op,
        to - from
    )
}
