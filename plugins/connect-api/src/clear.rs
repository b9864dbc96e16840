//! `connect-api/clear-caches`: deletes all runtime caches of the server.
//!
//! Packages in these caches were built on the source's distribution and do not run on another.
//! <https://docs.posit.co/connect/admin/server-management/runtime-caches/>

pub mod keep;
pub mod purge;
pub mod tree;

use crate::connection::{Connection, installation};
use crate::follow::{Backoff, CACHES_AWAY_MAX_SECONDS};
use connect_migrator_connect::api::{Api, ApiError, KeyHeader, RuntimeCache};
use connect_migrator_connect::source_edits::kept_in_data_key;
use connect_migrator_sdk::{Progress, prelude::*};
use keep::{CACHE_FOLDERS, Frozen, Keep, KeepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Settings of `connect-api/clear-caches`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ClearCachesSettings {
    /// The server to ask. Default: the source before the window, the new server after it.
    #[serde(default)]
    pub url: Option<String>,
    /// The key of an administrator. Default: the one of `[connect]`.
    #[serde(default)]
    pub api_key: Option<SecretRef>,
    /// The header that carries the key: `authorization` (default) or `x-rsc-authorization`.
    #[serde(default)]
    pub key_header: KeyHeader,
    /// Keep the caches until commit, as hard links below the data directory, so that rollback can put them back. Default true.
    #[serde(default = "yes")]
    pub keep: bool,
    /// How long the deletion of one cache may take, in seconds. Default 1800.
    #[serde(default = "cache_timeout_seconds")]
    pub cache_timeout_seconds: u64,
}

fn yes() -> bool {
    true
}

/// Default of `cache-timeout-seconds`: caches of many gigabytes on a share take minutes.
const CACHE_TIMEOUT_SECONDS: u64 = 1_800;

fn cache_timeout_seconds() -> u64 {
    CACHE_TIMEOUT_SECONDS
}

impl ClearCachesSettings {
    fn connection(&self) -> Connection {
        Connection { url: self.url.clone(), api_key: self.api_key.clone(), key_header: self.key_header }
    }
}

/// What was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum ClearCachesUndo {
    /// The hidden folder was made below the data directory.
    Folder {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// Caches were deleted.
    Cleared {
        /// The data directory.
        data_dir: PathBuf,
        /// Whether copies were to be kept.
        kept: bool,
    },
}

/// The step.
#[derive(Debug, Clone, Copy)]
pub struct ClearCaches;

impl Step for ClearCaches {
    type Config = ClearCachesSettings;
    type Undo = ClearCachesUndo;

    fn info() -> StepInfo {
        // The data directory is where Connect's configuration says, and other steps may have moved it.
        StepInfo::new("clear-caches", "Deletes all runtime caches, which were built on the old distribution")
            .needs(
                Needs::nothing()
                    .network()
                    .capabilities(&["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER"])
                    .writes(&["/"]),
            )
    }

    async fn check(config: &Self::Config, cx: &Context) -> Result<Vec<Finding>, StepError> {
        let (api, mut findings) = config.connection().check(cx).await?;
        let Some(api) = api else { return Ok(findings) };
        let caches = match api.caches().await {
            Ok(caches) => caches,
            Err(error) => {
                findings.push(no_list(&error));
                return Ok(findings);
            }
        };
        findings.push(Finding::ok("caches", format!("{} to be deleted", named(&caches))));
        for cache in &caches {
            match api.delete_cache(cache, true).await {
                Err(error) if error.status() != Some(404) || matches!(error, ApiError::NoEndpoint { .. }) => {
                    findings.push(Finding::blocker(
                        "caches-not-deletable",
                        format!("the trial deletion of the cache {cache} failed: {error}"),
                        "ask Connect's log for the cause; `rsconnect system caches delete --dry-run` shows the same",
                    ));
                    break;
                }
                _ => {}
            }
        }
        if config.keep {
            let keep = Keep::new(&installation(cx).await?.data_dir_now, cx.migration());
            findings
                .extend(blocking("look at the caches", cx, move || Ok(check_keep(&keep, &caches))).await?);
        } else {
            findings.push(Finding::warning(
                "caches-not-kept",
                "`keep = false`: after a rollback the source has no runtime caches and builds them anew, which takes time",
                "leave `keep` out to have them put back",
            ));
        }
        Ok(findings)
    }

    async fn plan(config: &Self::Config, cx: &Context) -> Result<Vec<Change>, StepError> {
        let mut changes = Vec::new();
        if config.keep {
            let keep = Keep::new(&installation(cx).await?.data_dir, cx.migration());
            let path = keep.path().display().to_string();
            changes.push(Change::new(
                Op::Prepare,
                format!("keep the runtime caches as hard links in {path}, until commit"),
            ));
        }
        let caches = config.connection().open(cx).await?.caches().await.map_err(listing)?;
        changes.push(Change::new(Op::Apply, format!("delete {}", named(&caches))));
        let back = if config.keep {
            "put the kept runtime caches back"
        } else {
            "delete the runtime caches built meanwhile; those deleted are not kept (`keep = false`), the source builds them anew"
        };
        changes.push(Change::new(Op::Rollback, back));
        Ok(changes)
    }

    async fn prepare(config: &Self::Config, cx: &Context) -> Result<Outcome, StepError> {
        if !config.keep {
            return Ok(Outcome::already_done("`keep = false`: the runtime caches are not kept"));
        }
        let data_dir = installation(cx).await?.data_dir;
        let keep = Keep::new(&data_dir, cx.migration());
        let path = keep.path().display().to_string();
        let tried = format!("keep the runtime caches in {path}");
        let trial = keep.clone();
        if let Err(why) = blocking(&tried, cx, move || Ok(trial.try_links())).await? {
            cx.warn(format!("the runtime caches cannot be kept: {why}"));
            return Ok(Outcome::already_done(format!(
                "the runtime caches cannot be kept for a rollback: {why}"
            )));
        }
        cx.record_undo(&ClearCachesUndo::Folder { data_dir: data_dir.clone() })?;
        remember(cx, &data_dir)?;
        cx.progress(&Progress { doing: "keeping the runtime caches".into(), ..Progress::default() });
        let stop = cx.clone();
        let work = move || keep.make().and_then(|()| keep.update(&|| stop.is_cancelled()));
        let (frozen, done) = blocking(&tried, cx, work).await?;
        for (name, why) in &frozen.not_kept {
            cx.warn(format!(
                "the runtime caches in {name} cannot be kept: {why}; rollback will not bring them back"
            ));
        }
        let entries = done.added + done.same;
        let kept = list(&frozen.kept, "no runtime caches");
        let name = path.rsplit('/').next().unwrap_or(&path);
        Ok(Outcome::changed(format!("kept {kept} in {path} ({entries} entries)"))
            .fact(kept_in_data_key(&cx.invocation().step), &[name])
            .details(&frozen))
    }

    async fn apply(config: &Self::Config, cx: &Context) -> Result<Outcome, StepError> {
        let api = config.connection().open(cx).await?;
        let caches = caches_of(&api).await.map_err(listing)?;
        if caches.is_empty() {
            return Ok(Outcome::already_done(format!("{} lists no runtime caches", api.address())));
        }
        let kept_in = remembered(cx)?;
        cx.record_undo(&ClearCachesUndo::Cleared {
            data_dir: kept_in.clone().unwrap_or_default(),
            kept: kept_in.is_some(),
        })?;
        let mut evidence = Vec::new();
        if let Some(data_dir) = &kept_in {
            let frozen = bring_up_to_date(data_dir, cx).await?;
            evidence.push(format!("kept until commit: {}", list(&frozen.kept, "nothing")));
        }
        let purged = purge::all(&api, caches, config.cache_timeout_seconds, cx).await?;
        let mut outcome = Outcome::changed(format!("{} lists no runtime caches any more", api.address()))
            .details(&serde_json::json!({ "caches": purged }));
        outcome.evidence.extend(purged.iter().map(ToString::to_string));
        outcome.evidence.extend(evidence);
        Ok(outcome)
    }

    async fn verify(config: &Self::Config, cx: &Context) -> Result<Verdict, StepError> {
        // Caches come back with the first content that is built, so their number proves nothing later on.
        let api = config.connection().open(cx).await?;
        Ok(match api.caches().await {
            Ok(caches) if caches.is_empty() => Verdict::holds("no runtime caches"),
            Ok(caches) => Verdict::holds(format!("built anew since they were deleted: {}", named(&caches))),
            // A key that was taken back since is no fault of the new server.
            Err(error) if matches!(error.status(), Some(401 | 403)) && api.ping().await.is_ok() => {
                Verdict::holds(format!(
                    "{} serves; its caches cannot be listed any more: {error}",
                    api.address()
                ))
            }
            Err(error) => {
                Verdict::broken(format!("the runtime caches cannot be listed: {error}"), "see Connect's log")
            }
        })
    }

    async fn rollback(
        config: &Self::Config,
        cx: &Context,
        _of: Op,
        undo: Vec<Self::Undo>,
    ) -> Result<Undone, StepError> {
        let mut undone = Undone { evidence: Vec::new(), left: Vec::new() };
        for change in undo.into_iter().rev() {
            match change {
                ClearCachesUndo::Folder { data_dir } => {
                    let keep = Keep::new(&data_dir, cx.migration());
                    let path = keep.path().display().to_string();
                    blocking(&format!("remove {path}"), cx, move || keep.remove()).await?;
                    undone = undone.and(format!("{path} is gone"));
                }
                ClearCachesUndo::Cleared { data_dir, kept: true } => {
                    undone = put_back(&data_dir, cx, undone).await?;
                }
                ClearCachesUndo::Cleared { kept: false, .. } => undone = drop_new(config, cx, undone).await,
            }
        }
        Ok(undone)
    }

    async fn finalize(_config: &Self::Config, cx: &Context) -> Result<Outcome, StepError> {
        let none = || Outcome::already_done("no runtime caches are kept");
        let Some(data_dir) = remembered(cx)? else { return Ok(none()) };
        let keep = Keep::new(&data_dir, cx.migration());
        let path = keep.path().display().to_string();
        let removed = blocking(&format!("remove {path}"), cx, move || keep.remove()).await?;
        let changed = || Outcome::changed(format!("the kept runtime caches in {path} are removed"));
        Ok(if removed { changed() } else { none() })
    }
}

/// The file of the state folder that says below which data directory the caches are kept. Written by `prepare`: in the window
/// there is no time to find it out again.
const DATA_DIR: &str = "data-dir";

fn remember(cx: &Context, data_dir: &Path) -> Result<(), StepError> {
    let path = cx.state_dir().join(DATA_DIR);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(data_dir.as_os_str().as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| StepError::new(format!("write {}", path.display())).because(error))
}

/// `None`: no caches are kept.
fn remembered(cx: &Context) -> Result<Option<PathBuf>, StepError> {
    let path = cx.state_dir().join(DATA_DIR);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(PathBuf::from(OsString::from_vec(bytes)))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StepError::new(format!("read {}", path.display())).because(error)),
    }
}

/// Looks whether the caches can be kept.
fn check_keep(keep: &Keep, caches: &[RuntimeCache]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let remedy = "after a rollback, clear the caches of the source and build its content again; or take a snapshot of the data first";
    if let Err(error @ KeepError::Foreign { .. }) = keep.open() {
        let remedy = "commit or roll back that migration; if it is long over, remove the folder";
        findings.push(Finding::blocker("caches-folder-left", error.to_string(), remedy));
        return findings;
    }
    match keep.present() {
        Ok((folders, others)) => {
            let known = |language: &str| {
                CACHE_FOLDERS
                    .iter()
                    .any(|(name, of)| language.eq_ignore_ascii_case(of) && folders.contains(name))
            };
            let unknown: Vec<String> =
                caches.iter().filter(|cache| !known(&cache.language)).map(ToString::to_string).collect();
            if !unknown.is_empty() || !others.is_empty() {
                let text = format!(
                    "rollback cannot bring back {}: their folders are not among {}, or are links",
                    if unknown.is_empty() { others.join(", ") } else { unknown.join(", ") },
                    CACHE_FOLDERS.map(|(name, _)| name).join(", "),
                );
                findings.push(Finding::warning("caches-not-recognised", text, remedy));
            }
        }
        Err(error) => {
            findings.push(Finding::blocker("caches-folder", error.to_string(), "see that it is there"))
        }
    }
    match keep.try_links() {
        Ok(()) => findings.push(Finding::ok("caches-kept", "the runtime caches can be kept for a rollback")),
        Err(error) => findings.push(Finding::warning(
            "caches-hard-links",
            format!("rollback cannot bring back the runtime caches: {error}"),
            remedy,
        )),
    }
    findings
}

/// The last look at the caches before the first is deleted. A second call of `apply` finds them frozen and leaves the copies
/// alone: the originals are no longer what they were.
async fn bring_up_to_date(data_dir: &Path, cx: &Context) -> Result<Frozen, StepError> {
    cx.progress(&Progress { doing: "keeping the runtime caches".into(), ..Progress::default() });
    let keep = Keep::new(data_dir, cx.migration());
    let tried = format!("keep the runtime caches in {}", keep.path().display());
    let stop = cx.clone();
    blocking(&tried, cx, move || {
        if let Some(frozen) = keep.frozen()? {
            return Ok(frozen);
        }
        keep.make()?;
        let (frozen, _) = keep.update(&|| stop.is_cancelled())?;
        keep.freeze(&frozen)?;
        Ok(frozen)
    })
    .await
}

async fn put_back(data_dir: &Path, cx: &Context, undone: Undone) -> Result<Undone, StepError> {
    let keep = Keep::new(data_dir, cx.migration());
    let tried = format!("put the runtime caches back into {}", data_dir.display());
    let result = blocking(&tried, cx, move || match keep.frozen()? {
        Some(frozen) => keep.put_back(&frozen).map(|moved| Some((frozen, moved))),
        None => Ok(None),
    })
    .await?;
    let Some((frozen, (back, removed))) = result else {
        return Ok(undone.and("no runtime cache had been deleted"));
    };
    let mut undone = undone.and(format!("put back: {}", list(&back, "nothing")));
    if !removed.is_empty() {
        undone = undone.and(format!("removed, for they were not there before: {}", removed.join(", ")));
    }
    for (name, why) in &frozen.not_kept {
        undone = undone.but(format!(
            "the runtime caches in {name} were not kept ({why}): clear the caches of the source and build its content again"
        ));
    }
    Ok(undone)
}

/// The caches of a server that may have been started just now, or be busy with its first work.
async fn caches_of(api: &Api) -> Result<Vec<RuntimeCache>, ApiError> {
    let mut away = Backoff::default();
    loop {
        match api.caches().await {
            Err(error)
                if error.is_away() && away.pause(Duration::from_secs(CACHES_AWAY_MAX_SECONDS)).await => {}
            answer => return answer,
        }
    }
}

/// Without copies the least that can be done: what the new server built must not meet the source's content.
async fn drop_new(config: &ClearCachesSettings, cx: &Context, undone: Undone) -> Undone {
    let undone = undone
        .and("the source's runtime caches were not kept: its content is built again at the first visit");
    let cleared = async {
        let api = config.connection().open(cx).await?;
        let caches = caches_of(&api).await.map_err(listing)?;
        purge::all(&api, caches, config.cache_timeout_seconds, cx).await
    };
    match cleared.await {
        Ok(_) => undone.and("what the new server had built is deleted"),
        Err(error) => undone.but(format!(
            "the new server's runtime caches are still there ({error}): clear the caches of the source once it runs"
        )),
    }
}

fn no_list(error: &ApiError) -> Finding {
    match error {
        ApiError::NoEndpoint { .. } => Finding::blocker(
            "caches-endpoint-missing",
            format!("this version of Connect cannot clear caches through its API: {error}"),
            "upgrade the source to 2023.05 or later first; or leave this step out and clear the caches by hand",
        ),
        _ => Finding::blocker(
            "caches-not-listed",
            format!("the runtime caches cannot be listed: {error}"),
            "see Connect's log",
        ),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "used with map_err")]
fn listing(error: ApiError) -> StepError {
    StepError::new("list the runtime caches").because_of(&error).remedy("see Connect's log")
}

fn named(caches: &[RuntimeCache]) -> String {
    let names: Vec<String> = caches.iter().map(ToString::to_string).collect();
    match names.len() {
        0 => "no runtime caches".into(),
        1 => format!("1 runtime cache: {}", names.join(", ")),
        n => format!("{n} runtime caches: {}", names.join(", ")),
    }
}

fn list(names: &[String], none: &str) -> String {
    if names.is_empty() { none.into() } else { names.join(", ") }
}

/// Runs what may block for long on a thread of its own.
async fn blocking<T: Send + 'static>(
    tried: &str,
    cx: &Context,
    work: impl FnOnce() -> Result<T, KeepError> + Send + 'static,
) -> Result<T, StepError> {
    let failed = || StepError::new(tried);
    let result = tokio::task::spawn_blocking(work).await.map_err(|error| failed().because(error))?;
    result.map_err(|error| {
        if cx.is_cancelled() {
            return StepError::cancelled(tried);
        }
        failed().because_of(&error).remedy("see that the data directory is there and writable")
    })
}
