//! Not being in the way: a rate limit, idle I/O and processor priority.

use crate::error::CopyError;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The lowest processor priority.
const NICEST: i32 = 19;
/// No thread sleeps longer at once for the rate limit, so that it can be cancelled.
const NAP_MAX_MILLIS: u64 = 200;

/// Lets so many bytes pass a second, all threads together.
#[derive(Debug)]
pub(crate) struct RateLimit {
    bytes_per_second: u64,
    /// When the bytes let through so far are paid for.
    paid_until: Mutex<Instant>,
}

impl RateLimit {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        RateLimit { bytes_per_second: bytes_per_second.max(1), paid_until: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more may pass, or there is no more need to.
    pub(crate) fn take(&self, bytes: u64, stopped: &dyn Fn() -> bool) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let until = {
            let mut paid = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let start = (*paid).max(now);
            *paid = start + cost;
            start
        };
        while let Some(wait) = until.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero()) {
            if stopped() {
                return;
            }
            std::thread::sleep(wait.min(Duration::from_millis(NAP_MAX_MILLIS)));
        }
    }
}

/// Gives the calling thread, and those it starts from now on, idle I/O priority and the lowest processor priority.
pub(crate) fn become_idle() -> Result<(), CopyError> {
    let thread = rustix::thread::gettid();
    rustix::process::setpriority_process(Some(thread), NICEST)
        .map_err(|errno| CopyError::Setting(format!("could not lower the processor priority: {errno}")))?;
    // There is no safe wrapper of ioprio_set; ionice is part of util-linux, which every system has.
    let ran = Command::new("ionice")
        .args(["-c", "3", "-p", &thread.as_raw_nonzero().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    match ran {
        Ok(ended) if ended.status.success() => Ok(()),
        Ok(ended) => Err(CopyError::Setting(format!(
            "could not take idle I/O priority: ionice said `{}`; copy without it",
            String::from_utf8_lossy(&ended.stderr).trim()
        ))),
        Err(error) => Err(CopyError::Setting(format!(
            "could not take idle I/O priority: ionice (package util-linux) does not start: {error}; copy without it"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_limit_lets_no_more_pass_than_it_says() {
        let limit = RateLimit::new(1_000_000);
        let start = Instant::now();
        (0..5).for_each(|_| limit.take(50_000, &|| false));
        // The last of five waits for the four before it.
        assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    }

    #[test]
    fn what_waits_for_the_rate_limit_ends_when_it_is_to_stop() {
        let limit = RateLimit::new(1);
        let start = Instant::now();
        (0..2).for_each(|_| limit.take(3_600, &|| start.elapsed() > Duration::from_millis(300)));
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    }

    #[test]
    fn an_idle_thread_says_so_and_the_thread_beside_it_does_not() {
        let own = || {
            let id = rustix::thread::gettid().as_raw_nonzero().to_string();
            let said = Command::new("ionice").args(["-p", &id]).output().unwrap().stdout;
            String::from_utf8(said).unwrap().trim().to_owned()
        };
        let idle = std::thread::spawn(move || {
            become_idle().unwrap();
            own()
        });
        assert_eq!(idle.join().unwrap(), "idle");
        assert_ne!(own(), "idle");
    }
}
