//! nginx' processes: when the old ones have stopped taking requests.
//!
//! On a reload nginx starts new workers, gives them a tenth of a second, and only then tells the old ones to stop: meanwhile both take
//! requests, and which one does is chance. A few good answers prove nothing then. Each worker says in its title that it has stopped.

use std::time::{Duration, Instant};

/// How often they are looked at.
const POLL_MILLIS: u64 = 5;
/// What is waited where they cannot be seen.
const BLIND_WAIT_MILLIS: u64 = 500;

/// The workers of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workers(Option<Vec<u32>>);

impl Workers {
    /// Those that take requests now, of the nginx whose main process is `main`.
    #[must_use]
    pub fn now(main: Option<u32>) -> Workers {
        let children =
            main.and_then(|main| std::fs::read_to_string(format!("/proc/{main}/task/{main}/children")).ok());
        let pids = children
            .map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>());
        Workers(pids.map(|pids| pids.into_iter().filter(|pid| takes_requests(*pid)).collect()))
    }

    /// Returns once none of them takes requests any more; after `limit` in any case: nginx keeps them when it refuses the new
    /// configuration, and a request has to tell.
    pub async fn stopped(&self, limit: Duration) {
        let Some(pids) = self.0.as_ref().filter(|pids| !pids.is_empty()) else {
            tokio::time::sleep(Duration::from_millis(BLIND_WAIT_MILLIS)).await;
            return;
        };
        let deadline = Instant::now() + limit;
        while pids.iter().any(|pid| takes_requests(*pid)) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(POLL_MILLIS)).await;
        }
    }
}

fn takes_requests(pid: u32) -> bool {
    let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let title = String::from_utf8_lossy(&title);
    title.contains("worker process") && !title.contains("shutting down")
}
