//! Builds: so many at once, each for a while, and only with an interpreter that suits.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::sync::Semaphore;

use crate::caches::Cache;
use crate::content::Content;
use crate::failure::Failure;
use crate::runtimes::{Language, Version};
use crate::server::App;
use crate::tasks::Reporter;

/// The build slots and what was measured on them.
#[derive(Debug)]
pub struct Builds {
    slots: Arc<Semaphore>,
    count: usize,
    stats: Mutex<Stats>,
    /// Items that had their first build since the start; for `flaky-every`.
    tried: Mutex<HashSet<i64>>,
}

#[derive(Debug, Default)]
struct Stats {
    first_submit: Option<Instant>,
    last_finish: Option<Instant>,
    busy: Duration,
    running: usize,
    max_running: usize,
    done: u64,
}

impl Builds {
    /// Makes the slots.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Builds {
            slots: Arc::new(Semaphore::new(count)),
            count,
            stats: Mutex::default(),
            tried: Mutex::default(),
        }
    }

    fn stats(&self) -> std::sync::MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was measured.
    pub fn reset(&self) {
        *self.stats() = Stats::default();
    }

    /// What was measured since the start or the last reset. `busy_share` is the sum of build times by slots and span.
    #[must_use]
    pub fn measured(&self) -> Json {
        let stats = self.stats();
        let span = stats
            .first_submit
            .zip(stats.last_finish)
            .map(|(a, b)| b.saturating_duration_since(a).as_secs_f64());
        json!({
            "builds": stats.done,
            "max_running": stats.max_running,
            "first_submit_to_last_finish_s": span,
            "busy_share": span.filter(|s| *s > 0.0).map(|s| stats.busy.as_secs_f64() / (s * self.count as f64)),
            "slots": self.count,
        })
    }

    fn fails_this_time(&self, every: i64, id: i64) -> bool {
        let first = self.tried.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        first && every > 0 && id.rem_euclid(every) == 0
    }
}

/// Starts a build of a bundle and returns the task's id.
///
/// # Errors
/// No random numbers.
pub fn submit(app: &Arc<App>, content: Content, bundle: String) -> Result<String, Failure> {
    let (id, reporter) = app.tasks.begin()?;
    app.builds.stats().first_submit.get_or_insert_with(Instant::now);
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let Ok(_slot) = Arc::clone(&app.builds.slots).acquire_owned().await else { return };
        let began = Instant::now();
        {
            let mut stats = app.builds.stats();
            stats.running += 1;
            stats.max_running = stats.max_running.max(stats.running);
        }
        build(&app, &content, &bundle, reporter).await;
        let mut stats = app.builds.stats();
        stats.running -= 1;
        stats.done += 1;
        stats.busy += began.elapsed();
        stats.last_finish = Some(Instant::now());
    });
    Ok(id)
}

async fn build(app: &App, content: &Content, bundle: &str, reporter: Reporter) {
    const FAILED: &str = "build-failed-error";
    let lines = app.tuning.build_lines.max(1);
    let step = Duration::from_micros(app.tuning.build_ms * 1000 / lines);
    let mut chosen = Vec::new();
    for (language, wanted) in content.needs() {
        let Some(version) = app.runtimes.compatible(language, wanted) else {
            let error = format!(
                "Cannot find compatible environment: no compatible Local environment with {language} version {wanted}"
            );
            return reporter.fail(&app.store, FAILED, error).await;
        };
        chosen.push((language, version));
    }
    for line in 1..lines {
        tokio::time::sleep(step).await;
        match (line, chosen.first()) {
            (1, Some((language, version))) => {
                reporter.say(format!("Building environment with {language} {version}..."))
            }
            _ => reporter.say(format!("Installing packages ({line} of {})...", lines - 1)),
        }
    }
    tokio::time::sleep(step).await;
    if app.builds.fails_this_time(app.tuning.flaky_every, content.id) {
        return reporter.fail(&app.store, FAILED, "The build was interrupted: packrat cache is in use").await;
    }
    if app.tuning.build_writes {
        for (language, version) in &chosen {
            match environment(app, *language, *version, content, bundle) {
                Ok(Some(line)) => reporter.say(line),
                Ok(None) => {}
                Err(e) => return reporter.fail(&app.store, FAILED, e.to_string()).await,
            }
        }
    }
    reporter.succeed(&app.store, "Build completed.").await;
}

/// Reuses what is cached without looking at what it was built on: the product's documentation makes clearing the
/// caches the administrator's duty, and so does the stand-in.
fn environment(
    app: &App,
    language: Language,
    version: Version,
    content: &Content,
    bundle: &str,
) -> Result<Option<String>, Failure> {
    let cached = app.data.has_environment(language, version, bundle);
    app.data.build_environment(language, version, content.id, bundle, &app.distribution)?;
    Ok(cached.then(|| format!("Using cached environment: {language}-{version}-{bundle}")))
}

/// Starts the deletion of a runtime cache and returns the task's id.
///
/// # Errors
/// No random numbers.
pub fn delete_cache(app: &Arc<App>, cache: Cache) -> Result<String, Failure> {
    let (id, reporter) = app.tasks.begin()?;
    let app = Arc::clone(app);
    tokio::spawn(async move {
        reporter.say(format!("Deleting runtime cache {} {}...", cache.language, cache.version));
        tokio::time::sleep(Duration::from_millis(app.tuning.cache_delete_ms)).await;
        match app.data.remove_cache(&cache) {
            Ok(_) => reporter.succeed(&app.store, "Deleted runtime cache.").await,
            Err(e) => reporter.fail(&app.store, "cache-delete-error", e.to_string()).await,
        }
    });
    Ok(id)
}

/// Why an item cannot be served just now; `Ok`: it can.
///
/// # Errors
/// A text for the page.
pub fn runs(app: &App, content: &Content, bundle: &str) -> Result<(), String> {
    let unpacked = app.data.app(content.id, bundle);
    app.data.readable_by_run_as(&unpacked)?;
    for (language, wanted) in content.needs() {
        let Some(version) = app.runtimes.compatible(language, wanted) else {
            return Err(format!("no compatible Local environment with {language} version {wanted}"));
        };
        if !app.data.has_environment(language, version, bundle) {
            return Err(format!(
                "the environment for {language} {version} is not built: rebuild this content"
            ));
        }
        match app.data.distribution_of(language, version) {
            Some(built) if built == app.distribution => {}
            built => {
                return Err(format!(
                    "the {language} {version} packages were built on {}, this server runs on {}: clear the runtime \
                     caches and rebuild this content",
                    built.as_deref().unwrap_or("an unknown distribution"),
                    app.distribution
                ));
            }
        }
    }
    Ok(())
}
