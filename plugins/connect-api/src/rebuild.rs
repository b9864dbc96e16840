//! `connect-api/rebuild`: builds the environment of every content item on the new server, so that no visitor has to wait.
//!
//! An item that fails is reported and stops nothing, unless `max-failed` says so. The state folder keeps what a call that is
//! cut off needs to go on (`builds.jsonl`), what was left out (`skipped.jsonl`), and the output of each build (`logs/`).
//! <https://docs.posit.co/connect/api/#post-/v1/content/-guid-/build>

pub mod items;
pub mod journal;
pub mod log;
pub mod pace;
pub mod run;
pub mod settings;
pub mod summary;

use crate::follow::{AWAY_MAX_SECONDS, Backoff, Patience};
use connect_migrator_connect::api::Api;
use connect_migrator_connect::version::Version;
use connect_migrator_sdk::{Progress, prelude::*};
use items::{Items, ItemsError, Skipped, What};
use journal::Journal;
use run::{Limits, Run, RunError};
use serde::{Deserialize, Serialize};
use settings::RebuildSettings;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use summary::{Head, Summary};

/// The first version that builds without publishing.
const FIRST_VERSION: [u32; 3] = [2021, 11, 1];
/// How many built items `verify` asks for.
const SAMPLED: usize = 3;
const JOURNAL: &str = "builds.jsonl";
const LINE_MAX_BYTES: u64 = 64 * 1024;

/// The step.
#[derive(Debug, Clone, Copy)]
pub struct Rebuild;

/// Nothing is recorded: builds add to the runtime caches, which `connect-api/clear-caches` puts back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NothingToUndo {}

impl Step for Rebuild {
    type Config = RebuildSettings;
    type Undo = NothingToUndo;

    fn info() -> StepInfo {
        StepInfo::new(
            "rebuild",
            "Builds the environment of every content item, so that no visitor has to wait for it",
        )
        // Connect's configuration may be readable by its own user only.
        .needs(Needs::nothing().network().capabilities(&["CAP_DAC_READ_SEARCH"]))
    }

    async fn check(config: &Self::Config, cx: &Context) -> Result<Vec<Finding>, StepError> {
        let (api, mut findings) = config.connection().check(cx).await?;
        let Some(api) = api else { return Ok(findings) };
        let settings = api.server_settings().await.unwrap_or_default();
        match settings.version.as_deref().and_then(Version::find) {
            Some(version) if version.parts() < FIRST_VERSION => findings.push(Finding::blocker(
                "build-endpoint-missing",
                format!("Connect {version} cannot build content through its API"),
                "upgrade the source to 2021.11.1 or later first; or leave this step out, and content is built at its first visit",
            )),
            Some(version) => {
                findings.push(Finding::ok("build-endpoint", format!("Connect {version} builds through its API")));
            }
            // A server may hide its version.
            None => {}
        }
        Ok(findings)
    }

    async fn plan(config: &Self::Config, cx: &Context) -> Result<Vec<Change>, StepError> {
        let api = config.connection().open(cx).await?;
        let (mut build, mut skip) = (0_usize, 0_usize);
        api.each_content(|item| -> Result<(), connect_migrator_connect::api::ApiError> {
            match items::bundle_to_build(&item, config.what) {
                Ok(_) => build += 1,
                Err(_) => skip += 1,
            }
            Ok(())
        })
        .await
        .map_err(|error| StepError::new("list the content").because_of(&error))?;
        let text = format!(
            "build {build} content items, {} at once, most recently deployed first; {skip} have nothing to build",
            config.parallelism
        );
        Ok(vec![
            Change::new(Op::Apply, text),
            Change::new(Op::Rollback, "nothing: builds change nothing but the runtime caches"),
        ])
    }

    async fn apply(config: &Self::Config, cx: &Context) -> Result<Outcome, StepError> {
        let until = Instant::now().checked_add(Duration::from_secs(config.total_timeout_seconds));
        let api = config.connection().open(cx).await?;
        let folder = cx.state_dir();
        cx.progress(&Progress { doing: "listing the content".into(), ..Progress::default() });
        let list_failed = |error: ItemsError| {
            StepError::new(format!("list the content of {}", api.address())).because_of(&error)
        };
        let (items, skipped) = tokio::select! {
            listed = list(&api, config.what, folder) => listed.map_err(list_failed)?,
            () = cx.cancelled() => return Err(StepError::cancelled("list the content")),
        };

        let tried = || format!("build {} content items on {}", items.len(), api.address());
        let journal = Journal::open(&folder.join(JOURNAL), &cx.migration().id)
            .map_err(|error| StepError::new(tried()).because_of(&error))?;
        let limits = Limits {
            parallelism: config.parallelism.get(),
            submit_ahead: config.submit_ahead.get(),
            retry: config.retry,
            max_failed: config.max_failed.map(|max| max.of(items.len())),
            until,
            patience: Patience {
                wait_seconds: config.wait_seconds,
                ..Patience::with_task(Duration::from_secs(config.item_timeout_seconds))
            },
        };
        let began = Instant::now();
        let before = api.requests();
        let logs = folder.join("logs");
        let run = Run::new(&api, cx, &items, limits, logs.clone(), journal).all().await;
        let tally = run.map_err(|error| match error {
            RunError::Cancelled => StepError::cancelled(tried()),
            error => StepError::new(tried())
                .because_of(&error)
                .remedy("see that the server answers, and resume: what is built stays built"),
        })?;
        let summary = Summary {
            total: items.len(),
            tally,
            skipped,
            seconds: began.elapsed().as_secs_f64(),
            requests: api.requests() - before,
            logs,
        };
        if limits.max_failed.is_some_and(|max| summary.tally.failed.len() > max) {
            return Err(StepError::new("build enough of the content")
                .because(summary.too_many_failed())
                .remedy("read the logs, mend the content or raise `max-failed`"));
        }
        Ok(summary.outcome())
    }

    async fn verify(config: &Self::Config, cx: &Context) -> Result<Verdict, StepError> {
        let api = config.connection().open(cx).await?;
        if let Err(error) = api.ping().await {
            return Ok(Verdict::broken(format!("the server does not serve: {error}"), "see Connect's log"));
        }
        let mut there = 0;
        for guid in built(&cx.state_dir().join(JOURNAL), SAMPLED) {
            match api.content_item(&guid).await {
                Ok(_) => there += 1,
                // Its owner may have deleted it, and the key may be gone: no fault of the new server.
                Err(error) if matches!(error.status(), Some(401 | 403 | 404)) => {}
                Err(error) => {
                    let why = format!("the server cannot tell about the content {guid}: {error}");
                    return Ok(Verdict::broken(why, "see Connect's log"));
                }
            }
        }
        Ok(Verdict::holds(format!(
            "{} serves, and knows {there} built items that were asked for",
            api.address()
        )))
    }

    async fn rollback(_: &Self::Config, _: &Context, _: Op, _: Vec<Self::Undo>) -> Result<Undone, StepError> {
        Ok(Undone::restored("builds change nothing but the runtime caches"))
    }
}

/// The ids of the first items that were built.
fn built(journal: &Path, count: usize) -> Vec<String> {
    let Ok(file) = File::open(journal) else { return Vec::new() };
    let mut reader = BufReader::new(file);
    let (mut found, mut line) = (Vec::new(), Vec::new());
    while found.len() < count {
        line.clear();
        match reader.by_ref().take(LINE_MAX_BYTES).read_until(b'\n', &mut line) {
            Ok(read) if read > 0 => {}
            _ => break,
        }
        if let Ok(journal::Event::Built { guid, .. }) = serde_json::from_slice(&line) {
            found.push(guid);
        }
    }
    found
}

/// All content that is to be built, and what is left out. A server that users work on may be busy: it is asked again.
async fn list(api: &Api, what: What, folder: &Path) -> Result<(Items, Head<Skipped>), ItemsError> {
    let path = folder.join("skipped.jsonl");
    let fail = |why| ItemsError::File { what: "write", path: path.clone(), why };
    let mut away = Backoff::default();
    loop {
        let mut skipped = SkippedFile::create(&path).map_err(fail)?;
        match Items::list(api, what, &folder.join("items"), |item| skipped.add(item)).await {
            Err(ItemsError::Api(error))
                if error.is_away() && away.pause(Duration::from_secs(AWAY_MAX_SECONDS)).await => {}
            items => return Ok((items?, skipped.end().map_err(fail)?)),
        }
    }
}

/// Everything that is left out goes into a file; only as much as the report shows is held in memory.
struct SkippedFile {
    file: BufWriter<File>,
    head: Head<Skipped>,
}

impl SkippedFile {
    fn create(path: &Path) -> std::io::Result<Self> {
        Ok(SkippedFile { file: BufWriter::new(File::create(path)?), head: Head::default() })
    }

    fn add(&mut self, item: Skipped) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.file, &item)?;
        self.file.write_all(b"\n")?;
        self.head.add(item);
        Ok(())
    }

    fn end(mut self) -> std::io::Result<Head<Skipped>> {
        self.file.flush()?;
        Ok(self.head)
    }
}
