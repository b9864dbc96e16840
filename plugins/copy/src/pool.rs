//! Threads that share work which makes more work. Last in, first out: depth first, so that few folders are open.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct Queue<J> {
    jobs: Vec<J>,
    running: usize,
}

/// Jobs for a number of threads; ends when none waits and none runs.
#[derive(Debug)]
pub(crate) struct Pool<J> {
    queue: Mutex<Queue<J>>,
    more: Condvar,
}

impl<J: Send> Pool<J> {
    pub(crate) fn new() -> Self {
        Pool { queue: Mutex::new(Queue { jobs: Vec::new(), running: 0 }), more: Condvar::new() }
    }

    fn held(&self) -> MutexGuard<'_, Queue<J>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, job: J) {
        self.held().jobs.push(job);
        self.more.notify_one();
    }

    pub(crate) fn push_all(&self, jobs: impl IntoIterator<Item = J>) {
        self.held().jobs.extend(jobs);
        self.more.notify_all();
    }

    /// Takes jobs until none waits and none runs.
    pub(crate) fn work(&self, mut run: impl FnMut(J)) {
        let mut queue = self.held();
        loop {
            if let Some(job) = queue.jobs.pop() {
                queue.running += 1;
                drop(queue);
                run(job);
                queue = self.held();
                queue.running -= 1;
            } else if queue.running == 0 {
                self.more.notify_all();
                return;
            } else {
                queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Drops what waits.
    pub(crate) fn clear(&self) {
        self.held().jobs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    #[test]
    fn jobs_that_make_jobs_are_all_done_and_the_threads_end() {
        let pool = Pool::new();
        let done = AtomicU32::new(0);
        pool.push(10_u32);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    pool.work(|depth| {
                        done.fetch_add(1, SeqCst);
                        if depth > 0 {
                            pool.push_all([depth - 1, depth - 1]);
                        }
                    })
                });
            }
        });
        assert_eq!(done.load(SeqCst), (1 << 11) - 1);
    }
}
