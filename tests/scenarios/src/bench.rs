//! What is measured, as tables: one thing at a time, on a machine of its own or on this host.

mod elsewhere;
mod latency;
mod rebuild;
mod relocation;
mod step;
mod window;

use crate::artifacts::Artifacts;
use crate::lab::{self, Lab, Tried};
use connect_migrator_rig::Suite;

/// Runs the benches, or those whose name (`window`, `relocation`, `latency`, `step`, `rebuild`, `copy`, `database`) is in `only`, and
/// prints their figures.
///
/// # Errors
/// When one cannot be run, or a figure is worse than it may be.
pub fn run(artifacts: &Artifacts, suite: Option<Suite>, only: &[String]) -> Tried {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|part| part == name);
    let measured = if wanted("window") { on_a_machine(artifacts, suite) } else { Ok(()) };
    let relocated = if wanted("relocation") { relocation(artifacts, suite) } else { Ok(()) };
    let noticed = if wanted("latency") { latency(artifacts, suite) } else { Ok(()) };
    println!("\nOn this host:");
    let called = if wanted("step") { step::run() } else { Ok(()) };
    let rebuilt = if wanted("rebuild") { rebuild::run(artifacts) } else { Ok(()) };
    let copied = if wanted("copy") { elsewhere::copy() } else { Ok(()) };
    let compared = if wanted("database") { elsewhere::database() } else { Ok(()) };
    measured.and(relocated).and(noticed).and(called).and(rebuilt).and(copied).and(compared)
}

fn on_a_machine(artifacts: &Artifacts, suite: Option<Suite>) -> Tried {
    let suite = suite.map_or_else(|| Suite::best_for_host().map(|best| best.suite), Ok)?;
    let lab = Lab::fresh(&lab::installed(suite, artifacts)?, artifacts)?;
    println!("\nOn a machine ({suite}):");
    window::run(&lab).map_err(|error| match lab.story() {
        Ok(story) => format!("{error}\n{story}").into(),
        Err(_) => error,
    })
}

fn relocation(artifacts: &Artifacts, suite: Option<Suite>) -> Tried {
    let suite = suite.map_or_else(|| Suite::best_for_host().map(|best| best.suite), Ok)?;
    println!("\nOn two machines ({suite}):");
    relocation::run(suite, artifacts)
}

fn latency(artifacts: &Artifacts, suite: Option<Suite>) -> Tried {
    let suite = suite.map_or_else(|| Suite::best_for_host().map(|best| best.suite), Ok)?;
    println!("\nOn a machine ({suite}):");
    latency::run(suite, artifacts)
}

/// The middle one.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Prints rows under their headings, in columns.
fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let widths: Vec<usize> = (0..columns)
        .map(|column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    for row in rows {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        println!("   {}", line.join("   ").trim_end());
    }
}
