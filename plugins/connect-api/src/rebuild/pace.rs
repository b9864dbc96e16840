//! When to ask after a build again, so that a build that prints many lines does not cost a request a line.
//!
//! The server answers a long poll as soon as there is a new line. Asking again at once would find the end of the build without
//! delay, at the price of one request a line; waiting saves requests, and finds the end late. So: wait until shortly before
//! the shorter ones of the last builds would have ended, and after that for a small share of the time already spent.

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

    /// Only one in eight of the last builds was shorter: a single odd one, or an answer that came late, decides nothing.
    fn shorter(&self) -> Duration {
        let mut sorted = self.last.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 8).copied().unwrap_or_default()
    }

    /// How long to wait before asking again after a build whose first line came `spent` ago.
    #[must_use]
    pub fn pause(&self, spent: Duration) -> Duration {
        // Not all of it: the end itself is what the next long poll waits for.
        let expected = self.shorter() * 7 / 8;
        if let Some(left) = expected.checked_sub(spent).filter(|left| !left.is_zero()) {
            return left.min(Duration::from_millis(EXPECTED_MAX_MILLIS));
        }
        (spent / SHARE).min(Duration::from_millis(PAUSE_MAX_MILLIS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How many polls a build of `lines` lines in `total` costs, and how late its end is found.
    fn polls(pace: &Pace, total: Duration, lines: u32) -> (u32, Duration) {
        let line = |n: u32| total * n / lines;
        let (mut asked, mut count, mut seen) = (Duration::ZERO, 0, 0);
        loop {
            count += 1;
            // The answer comes with the first line that was not seen yet, or at once if there is one.
            let answered = asked.max(line(seen + 1));
            seen = (1..=lines).filter(|n| line(*n) <= answered).count() as u32;
            if seen == lines {
                return (count, answered - total);
            }
            asked = answered + pace.pause(answered - line(1));
        }
    }

    #[test]
    fn three_polls_are_enough_for_builds_like_the_ones_before() {
        for lines in 1..=8 {
            let total = 50 * MS;
            let mut pace = Pace::default();
            pace.took(total - total / lines);
            let (count, late) = polls(&pace, total, lines);
            assert!(count <= 3, "{count} polls for {lines} lines");
            assert!(late <= total / 10, "{late:?} late for {lines} lines");
        }
    }

    #[test]
    fn a_long_build_that_prints_all_the_time_costs_few_polls_and_ends_unnoticed_for_seconds_at_most() {
        let (count, late) = polls(&Pace::default(), 600_000 * MS, 60_000);
        assert!(count < 400, "{count} polls");
        assert!(late <= 2_000 * MS, "{late:?}");
    }

    #[test]
    fn some_short_builds_among_the_last_ones_are_enough_to_ask_early_again_but_a_single_one_is_not() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.took(1_000 * MS);
        }
        assert_eq!(pace.pause(Duration::ZERO), 875 * MS);
        pace.took(10 * MS);
        assert_eq!(pace.pause(Duration::ZERO), 875 * MS);
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
