//! Follows a task of the server to its end, through everything that may stand in between: early answers, gateways that fail,
//! a server that is away for a moment.

use connect_migrator_connect::api::{Api, ApiError, Task};
use std::time::{Duration, Instant};

/// How long the server may be away, without one good answer, before that is given up.
pub const AWAY_MAX_SECONDS: u64 = 120;
/// How long it may be away when it is asked what caches it has: that is inside the window.
pub const CACHES_AWAY_MAX_SECONDS: u64 = 15;
/// How long a task that the server does not know is asked for again: another node, or one that just started, may know it.
pub const UNKNOWN_MAX_SECONDS: u64 = 3;
/// The least time between two answers without news, from a server that does not wait.
const IDLE_MIN_MILLIS: u64 = 250;
const FIRST_DELAY_MILLIS: u64 = 100;
const DELAY_MAX_MILLIS: u64 = 5_000;

/// Bounds of a wait. The defaults are the constants of this module; tests take shorter ones.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// With a server that gives no good answer.
    pub away: Duration,
    /// With a task that the server does not know.
    pub unknown: Duration,
    /// With a task that runs.
    pub task: Duration,
    /// What the server is asked to wait for each answer, in seconds.
    pub wait_seconds: u64,
}

impl Patience {
    /// With a task that may run for `task`.
    #[must_use]
    pub fn with_task(task: Duration) -> Self {
        Patience {
            away: Duration::from_secs(AWAY_MAX_SECONDS),
            unknown: Duration::from_secs(UNKNOWN_MAX_SECONDS),
            task,
            wait_seconds: connect_migrator_connect::api::TASK_WAIT_MAX_SECONDS,
        }
    }
}

/// A growing pause between tries.
#[derive(Debug)]
pub struct Backoff {
    since: Option<Instant>,
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { since: None, next: Duration::from_millis(FIRST_DELAY_MILLIS) }
    }
}

impl Backoff {
    /// Waits before the next try. `false`: tries have failed for longer than `bound`.
    pub async fn pause(&mut self, bound: Duration) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let Some(left) = bound.checked_sub(since.elapsed()) else { return false };
        tokio::time::sleep(self.next.min(left)).await;
        self.next = (self.next * 2).min(Duration::from_millis(DELAY_MAX_MILLIS));
        true
    }
}

/// Why a task could not be followed to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// The server does not know it (any more).
    #[error("the server no longer knows the task {id}")]
    Lost {
        /// The task.
        id: String,
    },
    /// It runs for too long.
    #[error("the task {id} has not ended within {seconds} s; it may still be running")]
    TooLong {
        /// The task.
        id: String,
        /// The bound.
        seconds: u64,
    },
    /// The server gave no good answer.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Follows the task `id` to its end. `answered` sees every answer, with the new lines; what it answers is the pause before
/// the next question.
///
/// # Errors
/// See [`FollowError`].
pub async fn follow(
    api: &Api,
    id: &str,
    patience: &Patience,
    mut answered: impl FnMut(&Task) -> Duration,
) -> Result<Task, FollowError> {
    let began = Instant::now();
    let mut first = 0;
    let mut away = Backoff::default();
    let mut unknown = Backoff::default();
    loop {
        let Some(left) = patience.task.checked_sub(began.elapsed()) else {
            return Err(FollowError::TooLong { id: id.into(), seconds: patience.task.as_secs() });
        };
        let wait = patience.wait_seconds.min(left.as_secs() + 1);
        let asked = Instant::now();
        match api.task(id, first, wait).await {
            Ok(task) => {
                away = Backoff::default();
                unknown = Backoff::default();
                first = task.last;
                let mut pause = answered(&task);
                if task.finished {
                    return Ok(task);
                }
                if task.output.is_empty() && asked.elapsed() < Duration::from_millis(IDLE_MIN_MILLIS) {
                    pause = pause.max(Duration::from_millis(IDLE_MIN_MILLIS));
                }
                tokio::time::sleep(pause.min(left)).await;
            }
            Err(error) if error.status() == Some(404) => {
                if !unknown.pause(patience.unknown).await {
                    return Err(FollowError::Lost { id: id.into() });
                }
            }
            Err(error) if error.is_away() || error.status() == Some(500) => {
                if !away.pause(patience.away).await {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}
