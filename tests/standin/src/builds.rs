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
    /// When each free slot became free. A build begins there if it was waiting, so that late timers do not add up:
    /// a slot that always has work does exactly one build in each build time.
    free_since: Mutex<Vec<Instant>>,
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
            free_since: Mutex::new(vec![Instant::now(); count]),
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

    /// The begin of a build that was submitted then and has a slot now.
    fn take_slot(&self, submitted: Instant) -> Instant {
        let mut free = self.free_since.lock().unwrap_or_else(PoisonError::into_inner);
        // The slot that was free first; there is one for every permit.
        let first = free.iter().enumerate().min_by_key(|(_, since)| **since).map(|(at, _)| at);
        first.map_or(submitted, |at| free.swap_remove(at).max(submitted))
    }

    fn give_slot(&self, ended: Instant) {
        self.free_since.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
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
    let submitted = Instant::now();
    app.builds.stats().first_submit.get_or_insert(submitted);
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let Ok(_slot) = Arc::clone(&app.builds.slots).acquire_owned().await else { return };
        let began = app.builds.take_slot(submitted);
        {
            let mut stats = app.builds.stats();
            stats.running += 1;
            stats.max_running = stats.max_running.max(stats.running);
        }
        let ended = build(&app, &content, &bundle, reporter, began).await;
        app.builds.give_slot(ended);
        let mut stats = app.builds.stats();
        stats.running -= 1;
        stats.done += 1;
        stats.busy += ended.saturating_duration_since(began);
        stats.last_finish = Some(Instant::now());
    });
    Ok(id)
}

/// Does the build and tells when it ended by the slot's clock.
async fn build(app: &App, content: &Content, bundle: &str, reporter: Reporter, began: Instant) -> Instant {
    let mut clock = began;
    match attempt(app, content, bundle, &reporter, &mut clock).await {
        Ok(()) => reporter.succeed(&app.store, "Build completed.").await,
        Err(why) => reporter.fail(&app.store, "build-failed-error", why).await,
    }
    clock
}

async fn attempt(
    app: &App,
    content: &Content,
    bundle: &str,
    reporter: &Reporter,
    clock: &mut Instant,
) -> Result<(), String> {
    let mut chosen = Vec::new();
    for (language, wanted) in content.needs() {
        let version = app.runtimes.compatible(language, wanted).ok_or_else(|| {
            format!(
                "Cannot find compatible environment: no compatible Local environment with {language} version {wanted}"
            )
        })?;
        chosen.push((language, version));
    }
    let lines = app.tuning.build_lines.max(1);
    let step = Duration::from_micros(app.tuning.build_ms * 1000 / lines);
    for line in 1..=lines {
        *clock += step;
        tokio::time::sleep_until((*clock).into()).await;
        match (line, chosen.first()) {
            (line, _) if line == lines => {} // the end is the last line
            (1, Some((language, version))) => {
                reporter.say(format!("Building environment with {language} {version}..."));
            }
            _ => reporter.say(format!("Installing packages ({line} of {})...", lines - 1)),
        }
    }
    if app.builds.fails_this_time(app.tuning.flaky_every, content.id) {
        return Err("The build was interrupted: packrat cache is in use".to_owned());
    }
    if app.tuning.build_writes && !chosen.is_empty() {
        // Builds run as the RunAs user, like content.
        app.data.readable_by_run_as(&app.data.app(content.id, bundle))?;
        for (language, version) in &chosen {
            if let Some(line) =
                environment(app, *language, *version, content, bundle).map_err(|e| e.to_string())?
            {
                reporter.say(line);
            }
        }
    }
    Ok(())
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
    if content.app_mode != "static" {
        app.data.readable_by_run_as(&app.data.app(content.id, bundle))?;
    }
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
