//! The docker step: runs Connect in a container of a docker engine on this host.
//!
//! `prepare` pulls the image, derives the container's configuration from the host's, and starts the container with Connect held back in it
//! ([`gate`]); `apply` lets Connect start, and starts the container itself only where it does not run. Two of the container's mounts are guards: the engine refuses to start it while the source's unit is not masked, or while the data
//! directory is an empty mount point, after a reboot too.

pub mod container_spec;
pub mod gate;
pub mod ordering;
pub mod plan;
pub mod stage;
pub mod start;
pub mod undo;

pub use connect_migrator_container::check_all::check_all;
use connect_migrator_container::kind::Kind;
use connect_migrator_container::settings::Settings;
use connect_migrator_container::world::{Subject, World};
use connect_migrator_sdk::prelude::*;
use undo::Undo;

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
        check_all(config, cx, &World::new(Kind::Docker)).await
    }

    async fn plan(config: &Settings, cx: &Context) -> Result<Vec<Change>, StepError> {
        let world = World::new(Kind::Docker);
        plan::plan(&Subject::new(config, &world, cx)?, cx).await
    }

    async fn prepare(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let world = World::new(Kind::Docker);
        stage::prepare(&Subject::new(config, &world, cx)?, cx).await
    }

    async fn apply(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let world = World::new(Kind::Docker);
        start::apply(&Subject::new(config, &world, cx)?, cx).await
    }

    async fn verify(config: &Settings, cx: &Context) -> Result<Verdict, StepError> {
        let world = World::new(Kind::Docker);
        start::verify(&Subject::new(config, &world, cx)?, cx).await
    }

    async fn probe(config: &Settings, cx: &Context, of: Op) -> Result<Probe, StepError> {
        if of != Op::Apply {
            return Ok(Probe::RunAgain);
        }
        let world = World::new(Kind::Docker);
        start::probe(&Subject::new(config, &world, cx)?, cx).await
    }

    async fn rollback(
        config: &Settings,
        cx: &Context,
        _of: Op,
        undo: Vec<Undo>,
    ) -> Result<Undone, StepError> {
        let world = World::new(Kind::Docker);
        undo::roll_back(&Subject::new(config, &world, cx)?, cx, undo).await
    }

    async fn finalize(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let world = World::new(Kind::Docker);
        let subject = Subject::new(config, &world, cx)?;
        Ok(Outcome::already_done(format!(
            "the container {} keeps its configuration in {}",
            subject.names.container,
            subject.folder().display()
        )))
    }
}

connect_migrator_sdk::export_plugin!(Docker);
