//! When to ask after a build again, so that a build that prints many lines does not cost a request a line.
//!
//! The server answers a long poll as soon as there is a new line. Asking again at once would find the end of the build without
//! delay, at the price of one request a line; waiting saves requests, and finds the end late. So: wait until shortly before
//! the shorter ones of the last builds would have ended, and after that for a small share of the time already spent. What a
//! question needs to get there counts as waiting.

use std::time::Duration;

/// How many builds are remembered.
const REMEMBERED: usize = 32;
/// After the expected end: wait for one part in this many of the time spent so far.
const SHARE: u32 = 8;
/// The longest pause after the expected end.
const PAUSE_MAX_MILLIS: u64 = 2_000;
/// The longest pause before it: a build that differs from the others is not found out much later than that.
const EXPECTED_MAX_MILLIS: u64 = 10_000;

/// The times of the last builds, from their first line to their end.
#[derive(Debug, Default)]
pub struct Pace {
    last: Vec<Duration>,
    next: usize,
    round_trip: Duration,
}

impl Pace {
    /// A build took that long from its first line to its end.
    pub fn took(&mut self, time: Duration) {
        match self.last.get_mut(self.next) {
            Some(slot) => *slot = time,
            None => self.last.push(time),
        }
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// A question that the server answers at once took that long.
    pub fn round_trip(&mut self, time: Duration) {
        self.round_trip = (self.round_trip * 7 + time) / 8;
    }

    /// Only one in eight of the last builds was shorter: a single odd one, or an answer that came late, decides nothing.
    fn shorter(&self) -> Duration {
        let mut sorted = self.last.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 8).copied().unwrap_or_default()
    }

    /// How long to wait before asking again after a build whose first line came `spent` ago.
    #[must_use]
    pub fn pause(&self, spent: Duration) -> Duration {
        // Not all of it: the end itself is what the next long poll waits for, and it must have got there by then.
        let expected = self.shorter() * 13 / 16;
        let until_then = expected.checked_sub(spent + self.round_trip * 2).filter(|left| !left.is_zero());
        if let Some(left) = until_then {
            return left.min(Duration::from_millis(EXPECTED_MAX_MILLIS));
        }
        (spent / SHARE).saturating_sub(self.round_trip).min(Duration::from_millis(PAUSE_MAX_MILLIS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How many polls a build of `lines` lines in `total` costs, and how late its end is found.
    fn polls(pace: &Pace, total: Duration, lines: u32, way: Duration) -> (u32, Duration) {
        let line = |n: u32| total * n / lines;
        let (mut asked, mut count, mut seen) = (Duration::ZERO, 0, 0);
        loop {
            count += 1;
            // The answer comes with the first line that was not seen yet, or at once if there is one.
            let answered = (asked + way).max(line(seen + 1));
            seen = (1..=lines).filter(|n| line(*n) <= answered).count() as u32;
            if seen == lines {
                return (count, answered - total);
            }
            asked = answered + pace.pause(answered - line(1));
        }
    }

    #[test]
    fn three_polls_or_four_are_enough_for_builds_like_the_ones_before() {
        for (total, way) in [(50 * MS, Duration::ZERO), (50 * MS, 2 * MS), (200 * MS, 20 * MS)] {
            for lines in 1..=6 {
                let mut pace = Pace::default();
                pace.took(total - total / lines);
                (0..100).for_each(|_| pace.round_trip(way));
                let (count, late) = polls(&pace, total, lines, way);
                assert!(count <= 3 + lines / 4, "{count} polls for {lines} lines in {total:?}");
                assert!(late <= total / 25, "{late:?} late for {lines} lines in {total:?}");
            }
        }
    }

    #[test]
    fn a_long_build_that_prints_all_the_time_costs_few_polls_and_ends_unnoticed_for_seconds_at_most() {
        let (count, late) = polls(&Pace::default(), 600_000 * MS, 60_000, Duration::ZERO);
        assert!(count < 400, "{count} polls");
        assert!(late <= 2_000 * MS, "{late:?}");
    }

    #[test]
    fn some_short_builds_among_the_last_ones_are_enough_to_ask_early_again_but_a_single_one_is_not() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.took(1_000 * MS);
        }
        assert_eq!(pace.pause(Duration::ZERO), 812_500 * MS / 1_000);
        pace.took(10 * MS);
        assert_eq!(pace.pause(Duration::ZERO), 812_500 * MS / 1_000);
        for _ in 0..REMEMBERED / 8 {
            pace.took(10 * MS);
        }
        assert!(pace.pause(Duration::ZERO) <= 10 * MS);
        for _ in 0..REMEMBERED {
            pace.took(60_000 * MS);
        }
        assert_eq!(pace.pause(Duration::ZERO), 10_000 * MS);
    }
}
