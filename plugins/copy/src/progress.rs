//! How far a pass has come, and asking it to stop.

use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// An operation at the target that takes longer than this is told as waiting for the target.
pub const STALL_MILLIS: u64 = 5_000;
/// How often progress is told.
pub const PROGRESS_MILLIS: u64 = 250;
/// How often what is done is made durable, at the least.
pub(crate) const BATCH_MILLIS: u64 = 2_000;

/// How far a pass has come.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Progress {
    /// Entries of the source looked at.
    pub entries: u64,
    /// Entries made, replaced or set anew at the target.
    pub written: u64,
    /// Entries removed from the target.
    pub removed: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Entries and bytes in all, when they are known from a survey or the pass before.
    pub total: Option<(u64, u64)>,
    /// How long the pass has been running.
    pub elapsed: Duration,
    /// How long it will probably still take.
    pub left: Option<Duration>,
    /// Since when the target has not answered, when that is longer than [`STALL_MILLIS`].
    pub waiting_since: Option<SystemTime>,
}

impl Progress {
    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = match self.total {
            Some((entries, _)) => format!("{} of about {} entries", self.entries, entries),
            None => format!("{} entries", self.entries),
        };
        line.push_str(&format!(", {} MiB written", self.bytes >> 20));
        if let Some(left) = self.left {
            line.push_str(&format!(", about {} s left", left.as_secs().max(1)));
        }
        if let Some(since) = self.waiting_since {
            let seconds = since.elapsed().unwrap_or_default().as_secs();
            line.push_str(&format!("; waiting for the target since {seconds} s"));
        }
        line
    }
}

/// How a caller follows a pass and stops it.
pub struct Control<'a> {
    /// Set to stop: the pass ends as soon as what runs has ended, and can be gone on with.
    pub cancel: &'a AtomicBool,
    /// Called from a thread of the pass, every [`PROGRESS_MILLIS`] and at the end.
    pub on_progress: &'a (dyn Fn(&Progress) + Sync),
    /// Entries and bytes to expect, for the estimate.
    pub total: Option<(u64, u64)>,
}

impl std::fmt::Debug for Control<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("cancel", self.cancel).field("total", &self.total).finish()
    }
}

/// Runs what may have to wait for the target, outside of a pass: when it waits long, that is told.
pub fn watching<T>(control: &Control<'_>, operation: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let over = Over::default();
    let tell = |waits| (control.on_progress)(&Counts::default().progress(None, began.elapsed(), waits));
    let waited = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let told = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            over.every(PROGRESS_MILLIS, || {
                if waited() >= STALL_MILLIS {
                    told.store(true, Relaxed);
                    tell(waited());
                }
            });
            if told.load(Relaxed) {
                tell(0);
            }
        });
        let _over = Ends(&over);
        operation()
    })
}

/// Whether something is over, to be waited for.
#[derive(Default)]
pub(crate) struct Over(Mutex<bool>, Condvar);

impl Over {
    /// Does something every so often until it is over.
    pub(crate) fn every(&self, millis: u64, mut each: impl FnMut()) {
        loop {
            let over = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.1.wait_timeout_while(over, Duration::from_millis(millis), |over| !*over);
            if *waited.unwrap_or_else(PoisonError::into_inner).0 {
                return;
            }
            each();
        }
    }
}

/// Whatever way it ends.
pub(crate) struct Ends<'a>(pub(crate) &'a Over);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

/// Counted by the threads.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) entries: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) files: AtomicU64,
    pub(crate) removed: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) unsettled: AtomicU64,
}

impl Counts {
    pub(crate) fn add(count: &AtomicU64, more: u64) {
        count.fetch_add(more, Relaxed);
    }

    pub(crate) fn progress(
        &self,
        total: Option<(u64, u64)>,
        elapsed: Duration,
        waiting_millis: u64,
    ) -> Progress {
        let (entries, bytes) = (self.entries.load(Relaxed), self.bytes.load(Relaxed));
        let waits = waiting_millis >= STALL_MILLIS;
        Progress {
            entries,
            written: self.written.load(Relaxed),
            removed: self.removed.load(Relaxed),
            bytes,
            total,
            elapsed,
            left: total.and_then(|total| time_left(total, (entries, bytes), elapsed)),
            waiting_since: waits.then(|| SystemTime::now() - Duration::from_millis(waiting_millis)),
        }
    }
}

/// From the share that is done: of the entries, or of the bytes if that is less.
fn time_left(total: (u64, u64), done: (u64, u64), elapsed: Duration) -> Option<Duration> {
    let share = |done: u64, total: u64| (total > 0).then(|| (done as f64 / total as f64).min(1.0));
    let entries = share(done.0, total.0)?;
    let least = share(done.1, total.1).map_or(entries, |bytes| bytes.min(entries));
    (least > 0.01).then(|| elapsed.mul_f64((1.0 - least) / least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_what_is_slower_of_entries_and_bytes() {
        let left = time_left((100, 1_000), (50, 250), Duration::from_secs(10)).unwrap();
        assert_eq!(left.as_secs(), 30);
        assert_eq!(time_left((100, 0), (0, 0), Duration::from_secs(10)), None);
    }

    #[test]
    fn what_waits_long_outside_of_a_pass_is_told_and_so_is_its_end() {
        let waits = Mutex::new(Vec::new());
        let cancel = AtomicBool::new(false);
        let on_progress = |progress: &Progress| waits.lock().unwrap().push(progress.waiting_since.is_some());
        let control = Control { cancel: &cancel, on_progress: &on_progress, total: None };
        assert_eq!(watching(&control, || 7), 7);
        assert!(waits.lock().unwrap().is_empty());
        watching(&control, || std::thread::sleep(Duration::from_millis(STALL_MILLIS + 1_000)));
        let told = waits.into_inner().unwrap();
        assert!(told.first() == Some(&true) && told.last() == Some(&false), "{told:?}");
    }

    #[test]
    fn a_stalled_target_is_told_as_waiting_since() {
        let counts = Counts::default();
        assert!(counts.progress(None, Duration::ZERO, STALL_MILLIS - 1).waiting_since.is_none());
        let line = counts.progress(None, Duration::ZERO, 12_000).line();
        assert!(line.contains("waiting for the target since 12 s"), "{line}");
    }
}
