//! How long the operations at a tree have been waiting: a server that does not answer shows by that.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

thread_local! {
    static SLOT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// A place for each thread that works at a tree.
#[derive(Debug)]
pub(crate) struct Watch {
    started: Instant,
    /// For each thread: when its running operation began, in milliseconds since `started` plus one; 0 for none.
    busy: Vec<AtomicU64>,
}

impl Watch {
    /// For so many threads, and one that has no place of its own.
    pub(crate) fn new(threads: usize) -> Self {
        Watch { started: Instant::now(), busy: (0..=threads).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Gives this thread its place in every watch.
    pub(crate) fn enlist(slot: usize) {
        SLOT.with(|own| own.set(slot));
    }

    /// How long the longest running operation has been waiting.
    pub(crate) fn waiting_millis(&self) -> u64 {
        let now = self.millis();
        let begun = self.busy.iter().map(|busy| busy.load(Relaxed)).filter(|begun| *begun != 0).min();
        begun.map_or(0, |begun| now.saturating_sub(begun))
    }

    /// Runs one operation under the watch.
    pub(crate) fn over<T>(&self, operation: impl FnOnce() -> T) -> T {
        let slot = self.busy.get(SLOT.with(Cell::get)).or(self.busy.last());
        if let Some(slot) = slot {
            slot.store(self.millis(), Relaxed);
        }
        let answer = operation();
        if let Some(slot) = slot {
            slot.store(0, Relaxed);
        }
        answer
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// Runs an operation, under a watch if there is one.
pub(crate) fn over<T>(watch: Option<&Watch>, operation: impl FnOnce() -> T) -> T {
    match watch {
        Some(watch) => watch.over(operation),
        None => operation(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn the_longest_wait_of_all_threads_is_told_and_its_end() {
        let watch = Watch::new(2);
        let (begun, has_begun) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let watch = &watch;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                Watch::enlist(0);
                watch.over(|| {
                    begun.send(()).unwrap();
                    ends.recv().unwrap();
                });
                begun.send(()).unwrap();
            });
            has_begun.recv().unwrap();
            watch.over(|| std::thread::sleep(Duration::from_millis(30)));
            assert!(watch.waiting_millis() >= 30);
            end.send(()).unwrap();
            has_begun.recv().unwrap();
            assert_eq!(watch.waiting_millis(), 0);
        });
    }
}
