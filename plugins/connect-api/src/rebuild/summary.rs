//! What is told about a rebuild.

use super::items::Skipped;
use super::run::{Failed, Tally};
use connect_migrator_sdk::Outcome;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;

/// How much of each list goes into the report; the whole lists are in the state folder.
pub const LIST_MAX_BYTES: usize = 256 * 1024;
/// How many failures are named in a sentence.
const NAMED: usize = 5;

/// The beginning of a list, and its length.
#[derive(Debug, Clone)]
pub struct Head<T> {
    shown: Vec<T>,
    bytes: usize,
    count: usize,
}

impl<T> Default for Head<T> {
    fn default() -> Self {
        Head { shown: Vec::new(), bytes: 0, count: 0 }
    }
}

impl<T: Serialize> Head<T> {
    /// Adds one; kept as long as there is room.
    pub fn add(&mut self, item: T) {
        self.count += 1;
        if self.bytes < LIST_MAX_BYTES {
            self.bytes += serde_json::to_vec(&item).map_or(0, |text| text.len());
            self.shown.push(item);
        }
    }

    /// How many were added.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}

/// What became of everything.
#[derive(Debug)]
pub struct Summary {
    /// How many items were to be built.
    pub total: usize,
    /// What became of them.
    pub tally: Tally,
    /// What was left out.
    pub skipped: Head<Skipped>,
    /// From the first submission to the last end.
    pub seconds: f64,
    /// Requests in that time.
    pub requests: u64,
    /// Where the output of the builds is.
    pub logs: PathBuf,
}

impl Summary {
    fn figures(&self) -> Value {
        json!({
            "total": self.total,
            "complete": self.tally.complete,
            "complete-before": self.tally.before,
            "failed": self.tally.failed.len(),
            "out-of-time": self.tally.out_of_time,
            "skipped": self.skipped.count(),
            "seconds": (self.seconds * 1000.0).round() / 1000.0,
            "requests": self.requests,
            "logs": self.logs,
        })
    }

    fn failures(&self) -> String {
        let failed = &self.tally.failed;
        let mut text: Vec<String> = failed.iter().take(NAMED).map(named).collect();
        if let Some(more) = failed.len().checked_sub(NAMED).filter(|more| *more > 0) {
            text.push(format!("and {more} more"));
        }
        text.join("; ")
    }

    /// Why the step fails when more failed than may.
    #[must_use]
    pub fn too_many_failed(&self) -> String {
        let mut text = format!(
            "{} of {} items failed, more than `max-failed` allows: {}",
            self.tally.failed.len(),
            self.total,
            self.failures()
        );
        if self.tally.not_tried > 0 {
            text.push_str(&format!("; {} were not tried any more", self.tally.not_tried));
        }
        text.push_str(&format!("; the logs are in {}", self.logs.display()));
        text
    }

    /// What `apply` answers.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let Tally { complete, before, failed, out_of_time, .. } = &self.tally;
        let mut outcome = if self.total == 0 {
            Outcome::already_done("there is no content to build")
        } else if failed.is_empty() && complete == before && *out_of_time == 0 {
            Outcome::already_done(format!("all {complete} items were built before"))
        } else {
            let built = format!("built {complete} of {} items in {:.1} s", self.total, self.seconds);
            Outcome::changed(built)
        };
        if !failed.is_empty() {
            let logs = self.logs.display();
            let text = format!("{} failed: {}; the logs are in {logs}", failed.len(), self.failures());
            outcome = outcome.and(text);
        }
        if *out_of_time > 0 {
            outcome = outcome.and(format!(
                "{out_of_time} were not built when the time for all (`total-timeout-seconds`) was over: each builds at its first visit"
            ));
        }
        if self.skipped.count() > 0 {
            outcome = outcome.and(format!("{} items have nothing to build", self.skipped.count()));
        }
        let mut shown: Head<&Failed> = Head::default();
        failed.iter().for_each(|failed| shown.add(failed));
        let figures = self.figures();
        let details = json!({
            "complete": complete,
            "failed": shown.shown,
            "skipped": self.skipped.shown,
            "figures": figures,
        });
        outcome.fact("rebuild", &figures).details(&details)
    }
}

fn named(failed: &Failed) -> String {
    if failed.owner.is_empty() {
        return format!("{} ({}): {}", failed.name, failed.guid, failed.error);
    }
    format!("{} ({}, of {}): {}", failed.name, failed.guid, failed.owner, failed.error)
}
