//! Deletes caches until the server lists none.

use crate::follow::{FollowError, Patience, follow};
use connect_migrator_connect::api::{Api, ApiError, RuntimeCache};
use connect_migrator_sdk::{Context, Progress, StepError};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How often deletion is tried on what is still listed.
pub const ROUNDS_MAX: usize = 3;
/// How many caches are deleted at once.
pub const AT_ONCE: usize = 4;
/// How long to wait before what is still listed is tried again.
const ROUND_PAUSE_MILLIS: u64 = 1_000;

/// What became of one cache.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Purged {
    /// Which.
    #[serde(flatten)]
    pub cache: RuntimeCache,
    /// `deleted`, `gone` when somebody else had, or `failed`.
    pub result: &'static str,
    /// Why it failed; empty otherwise.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// How long it took.
    pub seconds: f64,
}

impl std::fmt::Display for Purged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} in {:.1} s", self.cache, self.result, self.seconds)?;
        if self.error.is_empty() { Ok(()) } else { write!(f, ": {}", self.error) }
    }
}

/// Deletes `caches` and whatever the server lists after that. Answers what became of each; the last word on a cache that was
/// tried several times.
///
/// # Errors
/// When some are still listed after [`ROUNDS_MAX`] rounds, or the list cannot be had. When the call is cancelled.
pub async fn all(
    api: &Api,
    mut caches: Vec<RuntimeCache>,
    timeout_seconds: u64,
    cx: &Context,
) -> Result<Vec<Purged>, StepError> {
    let mut results: Vec<Purged> = Vec::new();
    for round in 1..=ROUNDS_MAX {
        let total = caches.len() as u64;
        let mut running =
            stream::iter(caches).map(|cache| one(api, cache, timeout_seconds)).buffer_unordered(AT_ONCE);
        let mut done = 0;
        loop {
            cx.progress(&Progress {
                doing: "deleting runtime caches".into(),
                done: Some(done),
                total: Some(total),
                unit: Some("caches".into()),
            });
            let purged = tokio::select! {
                purged = running.next() => purged,
                () = cx.cancelled() => return Err(StepError::cancelled("delete the runtime caches")),
            };
            let Some(purged) = purged else { break };
            done += 1;
            if purged.result == "failed" {
                cx.warn(purged.to_string());
            } else {
                cx.info(purged.to_string());
            }
            results.retain(|earlier| earlier.cache != purged.cache);
            results.push(purged);
        }
        caches = super::caches_of(api).await.map_err(super::listing)?;
        if caches.is_empty() {
            results.sort_by(|a, b| a.cache.cmp(&b.cache));
            return Ok(results);
        }
        if round < ROUNDS_MAX {
            tokio::time::sleep(Duration::from_millis(ROUND_PAUSE_MILLIS)).await;
        }
    }
    let mut why = format!("still listed after {ROUNDS_MAX} tries: {}", super::named(&caches));
    for failed in results.iter().filter(|purged| !purged.error.is_empty() && caches.contains(&purged.cache)) {
        why.push_str(&format!("; {failed}"));
    }
    Err(StepError::new("delete all runtime caches")
        .because(why)
        .remedy("see Connect's log for the cause; stop content that uses these caches"))
}

async fn one(api: &Api, cache: RuntimeCache, timeout_seconds: u64) -> Purged {
    let began = Instant::now();
    let (result, error) = match delete(api, &cache, timeout_seconds).await {
        Ok(result) => (result, String::new()),
        Err(error) => ("failed", error),
    };
    let seconds = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    Purged { cache, result, error, seconds }
}

async fn delete(api: &Api, cache: &RuntimeCache, timeout_seconds: u64) -> Result<&'static str, String> {
    let task = match api.delete_cache(cache, false).await {
        Ok(task) => task,
        Err(ApiError::Refused { status: 404, .. }) => return Ok("gone"),
        Err(error) => return Err(error.to_string()),
    };
    let Some(task) = task else { return Ok("deleted") };
    let patience = Patience::with_task(Duration::from_secs(timeout_seconds));
    match follow(api, &task, &patience, |_| Duration::ZERO).await {
        Ok(ended) if ended.succeeded() => Ok("deleted"),
        Ok(ended) if ended.error.is_empty() => Err(format!("the task ended with code {}", ended.code)),
        Ok(ended) => Err(ended.error),
        // The list decides, which is asked next.
        Err(FollowError::Lost { .. }) => Ok("deleted"),
        Err(error) => Err(error.to_string()),
    }
}
