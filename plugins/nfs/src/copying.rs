//! Runs the copier for a call: progress, stalls and cancellation go between it and the daemon.

use connect_migrator_copy::{Content, Control, CopyError, Report, Verified, watching};
use connect_migrator_sdk::{Context, Progress, StepError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// So many failures or differences are told in an error.
const TOLD_MAX: usize = 5;

/// Which folders are copied: kept from the first `prepare` on, as the configuration names another data directory later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Folders {
    /// The data directory of the source.
    pub source: PathBuf,
    /// The mount point.
    pub mount: PathBuf,
}

/// When the source was left: what changes at the target from here on is the users' work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cutover {
    /// By the target's clock.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// Files of the step's own folder.
#[derive(Debug)]
pub struct Kept<'a>(pub &'a Path);

impl Kept<'_> {
    /// [`Folders`]
    #[must_use]
    pub fn folders(&self) -> PathBuf {
        self.0.join("folders.json")
    }

    /// [`Cutover`]
    #[must_use]
    pub fn cutover(&self) -> PathBuf {
        self.0.join("cutover.json")
    }

    /// What the copier recorded.
    #[must_use]
    pub fn manifest(&self) -> PathBuf {
        self.0.join("manifest")
    }

    /// What the copier recorded for the way back.
    #[must_use]
    pub fn back(&self) -> PathBuf {
        self.0.join("back")
    }

    /// Says that the list of the way back is complete.
    #[must_use]
    pub fn back_listed(&self) -> PathBuf {
        self.0.join("back.json")
    }

    /// The configuration file as it was before.
    #[must_use]
    pub fn config_before(&self) -> PathBuf {
        self.0.join("config.before")
    }

    /// The configuration file as this step wrote it.
    #[must_use]
    pub fn config_after(&self) -> PathBuf {
        self.0.join("config.after")
    }
}

/// Reads a file of the step's own folder; `None` if it is not there.
///
/// # Errors
/// When it cannot be read or understood.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StepError> {
    let failed =
        |why: &dyn std::fmt::Display| StepError::new(format!("read {}", path.display())).because(why);
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(&error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

/// Writes a file for root only, so that a crash leaves the old or the new one.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), StepError> {
    let beside = path.with_extension("new");
    let written = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    })();
    written.map_err(|error| {
        StepError::new(format!("write {}", path.display()))
            .because(error)
            .remedy("see that the disk is neither full nor read-only")
    })
}

/// [`write()`] of JSON.
///
/// # Errors
/// As [`write()`].
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StepError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| StepError::new(format!("write {}", path.display())).because(error))?;
    write(path, &bytes)
}

/// An error of the copier, for the operator.
#[must_use]
pub fn failed(tried: &str, error: &CopyError) -> StepError {
    match error {
        CopyError::Cancelled => StepError::cancelled(tried),
        CopyError::Full { .. } => {
            StepError::new(tried).because(error).remedy("make room there, then start again")
        }
        error => StepError::new(tried).because(error),
    }
}

/// Runs work of the copier on threads of its own; `doing` follows "is".
///
/// # Errors
/// What the work answers.
pub async fn run<T: Send + 'static>(
    cx: &Context,
    doing: &'static str,
    total: Option<(u64, u64)>,
    work: impl FnOnce(&Control<'_>) -> Result<T, CopyError> + Send + 'static,
) -> Result<T, CopyError> {
    let cx = cx.clone();
    let ran = tokio::task::spawn_blocking(move || {
        let cancel = AtomicBool::new(cx.is_cancelled());
        let stalled = AtomicBool::new(false);
        let on_progress = |progress: &connect_migrator_copy::Progress| {
            if cx.is_cancelled() {
                cancel.store(true, SeqCst);
            }
            match progress.waiting_since {
                Some(since) if !stalled.swap(true, SeqCst) => {
                    let seconds = since.elapsed().unwrap_or_default().as_secs();
                    cx.warn(format!("waiting for the NFS server since {seconds} s, while {doing}"));
                }
                None if stalled.swap(false, SeqCst) => cx.info("the NFS server answers again"),
                _ => {}
            }
            let line = progress.line().replace("waiting for the target", "waiting for the NFS server");
            cx.progress(&Progress {
                doing: format!("{doing}: {line}"),
                done: Some(progress.entries),
                total: progress.total.map(|(entries, _)| entries),
                unit: Some("entries".into()),
            });
        };
        work(&Control { cancel: &cancel, on_progress: &on_progress, total })
    });
    ran.await.unwrap_or_else(|error| Err(CopyError::Setting(format!("the copier broke off: {error}"))))
}

/// Looks at what may belong to a server that does not answer: on a thread of its own, and a wait is told.
///
/// # Errors
/// What the looking answers.
pub async fn look<T: Send + 'static>(
    cx: &Context,
    doing: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CopyError> {
    run(cx, doing, None, move |control| Ok(watching(control, work))).await
}

/// A report in which nothing failed, or the error that tells what did.
///
/// # Errors
/// When the pass was not whole.
pub fn whole(tried: &str, report: Report) -> Result<Report, StepError> {
    if report.whole {
        return Ok(report);
    }
    let mut why: Vec<String> = report.failures.iter().take(TOLD_MAX).map(ToString::to_string).collect();
    if report.unsettled > 0 {
        why.push(format!("{} entries changed or vanished while they were copied", report.unsettled));
    }
    for foreign in report.foreign.iter().take(TOLD_MAX) {
        why.push(format!("{foreign} at the target is, or holds, what others put there, and stays"));
    }
    if report.failed > TOLD_MAX as u64 {
        why.push(format!("{} more", report.failed - TOLD_MAX as u64));
    }
    Err(StepError::new(tried)
        .because(why.join("; "))
        .remedy("mend that, and resume: the copy goes on where it was"))
}

/// A comparison that found no difference, or the error that tells which.
///
/// # Errors
/// When the trees differ.
pub fn same(tried: &str, verified: &Verified) -> Result<(), StepError> {
    if verified.is_same() {
        return Ok(());
    }
    let mut why: Vec<String> = verified
        .differences
        .iter()
        .take(TOLD_MAX)
        .map(|difference| format!("{} {}", difference.path, difference.what))
        .collect();
    why.extend(verified.extra.iter().take(TOLD_MAX).map(|extra| format!("{extra} is only at the target")));
    why.extend(verified.missing.iter().take(TOLD_MAX).map(|name| format!("{name} is not at the target")));
    let count = verified.different + (verified.extra.len() + verified.missing.len()) as u64;
    Err(StepError::new(tried)
        .because(format!("{count} differences: {}", why.join("; ")))
        .remedy("find who writes to the export or the source now; then resume"))
}

/// The files to read for a setting.
#[must_use]
pub fn content(setting: crate::settings::VerifyContent) -> Content {
    /// One file in so many is a sample.
    const SAMPLE: u64 = 100;
    match setting {
        crate::settings::VerifyContent::None => Content::None,
        crate::settings::VerifyContent::Sample => Content::Sample(SAMPLE),
        crate::settings::VerifyContent::All => Content::All,
    }
}
