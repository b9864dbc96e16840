//! The postgres step: moves the database from SQLite to PostgreSQL with the product's own tool.
//!
//! `check` looks at both ends; `prepare` encrypts the password and stages the configuration; `apply`, with Connect stopped, saves the
//! SQLite files, lets the tool copy from a copy of them, compares both databases itself, and switches the configuration last.

pub mod backup;
pub mod check;
pub mod compare;
pub mod connection;
pub mod objects;
pub mod plan;
pub mod program;
pub mod server;
pub mod settings;
pub mod sqlite_files;
pub mod stage;
pub mod subject;
pub mod tls;
pub mod tool;
pub mod undo;
pub mod url;
pub mod window;

use connect_migrator_connect::installation::Places;
use connect_migrator_sdk::prelude::*;
use settings::Settings;
use subject::Subject;
use undo::Undo;

/// The step `postgres`.
#[derive(Debug)]
pub struct Postgres;

impl Step for Postgres {
    type Config = Settings;
    type Undo = Undo;

    fn info() -> StepInfo {
        // Says nothing of its needs: those of the product's own tools, which it runs, are not known.
        StepInfo::new("postgres", "Moves the database from SQLite to PostgreSQL with the product's own tool")
            .needs_source_stopped()
    }

    async fn check(config: &Settings, cx: &Context) -> Result<Vec<Finding>, StepError> {
        let places = Places::default();
        Ok(check::all(&Subject::new(config, &places, cx)).await)
    }

    async fn plan(config: &Settings, cx: &Context) -> Result<Vec<Change>, StepError> {
        let places = Places::default();
        plan::plan(&Subject::new(config, &places, cx))
    }

    async fn prepare(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let places = Places::default();
        stage::prepare(&Subject::new(config, &places, cx)).await
    }

    async fn apply(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let places = Places::default();
        window::apply(&Subject::new(config, &places, cx)).await
    }

    async fn verify(config: &Settings, cx: &Context) -> Result<Verdict, StepError> {
        let places = Places::default();
        window::verify(&Subject::new(config, &places, cx)).await
    }

    async fn probe(config: &Settings, cx: &Context, of: Op) -> Result<Probe, StepError> {
        if of != Op::Apply {
            return Ok(Probe::RunAgain);
        }
        let places = Places::default();
        window::probe(&Subject::new(config, &places, cx))
    }

    async fn rollback(
        config: &Settings,
        cx: &Context,
        _of: Op,
        undo: Vec<Undo>,
    ) -> Result<Undone, StepError> {
        let places = Places::default();
        undo::roll_back(&Subject::new(config, &places, cx), undo).await
    }

    async fn finalize(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let places = Places::default();
        let subject = Subject::new(config, &places, cx);
        // A step after this one may have moved the data directory: the files are where they were saved from.
        let saved = backup::Backup::read(&subject.kept(window::BACKUP)).unwrap_or_default();
        let dir = match saved.files.first().and_then(|file| file.path.parent()) {
            Some(dir) => dir.to_path_buf(),
            None => subject::sqlite_dir(&subject.installed()?),
        };
        let removed = undo::without_copies(
            &subject,
            &[stage::WORK, window::REFERENCE, window::BACKUP],
            Undone { evidence: Vec::new(), left: Vec::new() },
        );
        for left in removed.left {
            cx.warn(left);
        }
        Ok(Outcome::already_done(format!(
            "the SQLite files in {} are no longer used, and stay; remove them when you do not want them any more",
            dir.display()
        )))
    }
}

connect_migrator_sdk::export_plugin!(Postgres);
