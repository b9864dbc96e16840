//! How far the running call has come, for those who watch.

use connect_migrator_sdk::Progress;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// A rate is told only after so long: before that it is noise.
const RATE_AFTER_SECONDS: f64 = 1.0;

/// What is being done at this moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Live {
    /// The step's id.
    pub step: String,
    /// What is being done, as it follows "is".
    pub doing: String,
    /// Units done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// Units in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// `bytes`, `items`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Units a second, on average since this began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// At this rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<f64>,
}

/// Where a row of progress reports began, to tell a rate by.
#[derive(Debug, Clone)]
pub(super) struct Row {
    step: String,
    unit: Option<String>,
    total: Option<u64>,
    from: u64,
    since: Instant,
}

impl Live {
    /// The newest report of a step; `row` is kept by the caller from one to the next.
    pub(super) fn of(step: &str, progress: &Progress, row: &mut Option<Row>, now: Instant) -> Self {
        let mut live = Live {
            step: step.into(),
            doing: progress.doing.clone(),
            done: progress.done,
            total: progress.total,
            unit: progress.unit.clone(),
            per_second: None,
            seconds_left: None,
        };
        let Some(done) = progress.done else {
            *row = None;
            return live;
        };
        let same = row.as_ref().is_some_and(|row| {
            row.step == step && row.unit == progress.unit && row.total == progress.total && row.from <= done
        });
        if !same {
            let (unit, total) = (progress.unit.clone(), progress.total);
            *row = Some(Row { step: step.into(), unit, total, from: done, since: now });
        }
        let Some(row) = row else { return live };
        let seconds = now.duration_since(row.since).as_secs_f64();
        if seconds >= RATE_AFTER_SECONDS && done > row.from {
            #[allow(clippy::cast_precision_loss, reason = "it is only shown")]
            let rate = (done - row.from) as f64 / seconds;
            live.per_second = Some(rate);
            #[allow(clippy::cast_precision_loss, reason = "it is only shown")]
            let left = progress.total.map(|total| total.saturating_sub(done) as f64 / rate);
            live.seconds_left = left;
        }
        live
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report(done: u64, total: u64) -> Progress {
        Progress { doing: "pulling".into(), done: Some(done), total: Some(total), unit: Some("bytes".into()) }
    }

    #[test]
    fn rate_and_time_left_count_from_where_the_row_began() {
        let (start, mut row) = (Instant::now(), None);
        assert_eq!(Live::of("container", &report(100, 1100), &mut row, start).per_second, None);
        let later = start + Duration::from_secs(10);
        let live = Live::of("container", &report(600, 1100), &mut row, later);
        assert_eq!((live.per_second, live.seconds_left), (Some(50.0), Some(10.0)));
        let other = Live::of("storage", &report(700, 1100), &mut row, later + Duration::from_secs(1));
        assert_eq!(other.per_second, None, "another step begins anew");
    }
}
