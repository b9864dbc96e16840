//! The nfs step: moves Connect's data directory from local disk to a network file system.
//!
//! `prepare` mounts the export by a systemd unit and copies while Connect serves, again and again until a pass is short; `apply` copies
//! what has changed since, compares both sides, and names the mount as data directory. The source's data directory is not altered,
//! except by a rollback after users worked on the new server: then what they changed is copied back, and what that replaces is kept.

pub mod check;
pub mod config;
pub mod copying;
pub mod settings;
pub mod stage;
pub mod trial;
pub mod undo;
pub mod units;

use connect_migrator_sdk::prelude::*;
use connect_migrator_units::Systemd;
use settings::Settings;
use undo::Undo;

/// The step `nfs`.
#[derive(Debug)]
pub struct Nfs;

impl Step for Nfs {
    type Config = Settings;
    type Undo = Undo;

    fn info() -> StepInfo {
        // Says nothing of its needs: a copy carries owners, special files, capabilities and labels, and the trial mounts. Nearly
        // nothing would be taken away, and what is missed would only show with somebody's data.
        StepInfo::new("nfs", "Moves Connect's data directory from local disk to a network file system")
            .needs_source_stopped()
    }

    async fn check(config: &Settings, cx: &Context) -> Result<Vec<Finding>, StepError> {
        check::check(config, cx, &Systemd::default()).await
    }

    async fn plan(config: &Settings, cx: &Context) -> Result<Vec<Change>, StepError> {
        check::plan(config, cx)
    }

    async fn prepare(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        stage::prepare(config, cx, &Systemd::default()).await
    }

    async fn apply(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        stage::apply(config, cx, &Systemd::default()).await
    }

    async fn verify(config: &Settings, cx: &Context) -> Result<Verdict, StepError> {
        stage::verify(config, cx, &Systemd::default()).await
    }

    async fn rollback(
        config: &Settings,
        cx: &Context,
        _of: Op,
        undo: Vec<Undo>,
    ) -> Result<Undone, StepError> {
        undo::roll_back(config, cx, &Systemd::default(), undo).await
    }

    async fn finalize(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let folders = stage::folders(config, cx)?;
        Ok(Outcome::already_done(format!(
            "the former data directory {} was left as it is; remove it when you are sure",
            folders.source.display()
        )))
    }
}

connect_migrator_sdk::export_plugin!(Nfs);
