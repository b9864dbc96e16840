//! The docker step: runs Connect in a container of a docker engine on this host.
//!
//! `prepare` pulls the image, derives the container's configuration from the host's, and creates the container; `apply` only starts it.
//! Two of the container's mounts are guards: the engine refuses to start it while the source's unit is not masked, or while the data
//! directory is an empty mount point, after a reboot too.

pub mod archive;
pub mod check;
pub mod check_engine;
pub mod container_spec;
pub mod content;
pub mod engine;
pub mod files;
pub mod health;
pub mod image;
pub mod labels;
pub mod owners;
pub mod plan;
pub mod processes;
pub mod reference;
pub mod settings;
pub mod stage;
pub mod start;
pub mod storage;
pub mod undo;
pub mod world;

use connect_migrator_sdk::prelude::*;
use settings::Settings;
use undo::Undo;
use world::{Subject, World};

/// The step `docker`.
#[derive(Debug)]
pub struct Docker;

impl Step for Docker {
    type Config = Settings;
    type Undo = Undo;

    fn info() -> StepInfo {
        StepInfo::new("docker", "Runs Connect in a container of the docker engine on this host")
            .starts_target()
            .needs_source_stopped()
            .needs(
                Needs::nothing()
                    .network()
                    .processes()
                    .capabilities(&[
                        "CAP_CHOWN",
                        "CAP_DAC_OVERRIDE",
                        "CAP_DAC_READ_SEARCH",
                        "CAP_FOWNER",
                        "CAP_KILL",
                    ])
                    // Also into the data directory, which is where Connect's configuration says.
                    .writes(&["/"]),
            )
    }

    async fn check(config: &Settings, cx: &Context) -> Result<Vec<Finding>, StepError> {
        check_all(config, cx, &World::default()).await
    }

    async fn plan(config: &Settings, cx: &Context) -> Result<Vec<Change>, StepError> {
        let world = World::default();
        plan::plan(&Subject::new(config, &world, cx)?).await
    }

    async fn prepare(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let world = World::default();
        stage::prepare(&Subject::new(config, &world, cx)?, cx).await
    }

    async fn apply(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let world = World::default();
        start::apply(&Subject::new(config, &world, cx)?, cx).await
    }

    async fn verify(config: &Settings, cx: &Context) -> Result<Verdict, StepError> {
        let world = World::default();
        start::verify(&Subject::new(config, &world, cx)?, cx).await
    }

    async fn probe(config: &Settings, cx: &Context, of: Op) -> Result<Probe, StepError> {
        if of != Op::Apply {
            return Ok(Probe::RunAgain);
        }
        let world = World::default();
        start::probe(&Subject::new(config, &world, cx)?, cx).await
    }

    async fn rollback(
        config: &Settings,
        cx: &Context,
        _of: Op,
        undo: Vec<Undo>,
    ) -> Result<Undone, StepError> {
        let world = World::default();
        undo::roll_back(&Subject::new(config, &world, cx)?, cx, undo).await
    }

    async fn finalize(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let world = World::default();
        let subject = Subject::new(config, &world, cx)?;
        Ok(Outcome::already_done(format!(
            "the container {} keeps its configuration in {}",
            subject.names.container,
            subject.folder().display()
        )))
    }
}

/// Every finding; a part that cannot be read does not keep the others back.
///
/// # Errors
/// When the settings themselves cannot be used.
pub async fn check_all(config: &Settings, cx: &Context, world: &World) -> Result<Vec<Finding>, StepError> {
    let subject = Subject::new(config, world, cx)?;
    let read = subject.installation();
    let installation = read.as_ref().ok();
    let source = installation.and_then(|i| i.version);
    let engine = check_engine::engine(&subject, cx, source).await;
    let mut found = engine.found;
    if let (Ok(installation), Some(facts), Some(reference)) = (&read, &engine.image, &engine.reference) {
        found.extend(content::interpreters(&subject, cx, installation, facts, reference).await);
    }
    match &read {
        Ok(installation) => {
            found.extend(check::installation(&subject, installation));
            found.extend(check::derivation(check::derive(&subject, installation, engine.image)));
        }
        Err(error) => found.push(check::unreadable(error)),
    }
    found.push(check::licence(&subject, installation.map(|i| i.data_dir.as_path())));
    if !engine.own_container_runs {
        found.push(check::port(&subject, installation));
    }
    found.extend(check::extras(&subject));
    Ok(found)
}

connect_migrator_sdk::export_plugin!(Docker);
