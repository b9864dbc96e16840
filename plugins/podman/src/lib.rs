//! The podman step: runs Connect in a container that is a service of this host's systemd.
//!
//! `prepare` fetches the image, derives the container's configuration from the host's, and writes the unit: a Quadlet `.container`
//! file where podman has it (4.4 and later), else a unit that runs podman with the same options. `apply` only starts it. The unit does
//! not start before the migration hands over, while the source's unit is not masked, or on an empty data directory, after a reboot
//! neither.

pub mod check;
pub mod ground;
pub mod guard;
mod journal;
pub mod options;
pub mod plan;
pub mod selinux;
pub mod socket;
pub mod stage;
pub mod start;
pub mod systemd;
pub mod undo;
pub mod unit;

use connect_migrator_container::settings::Settings;
use connect_migrator_container::world::Subject;
use connect_migrator_sdk::prelude::*;
use ground::Ground;
use undo::Undo;

/// The step `podman`.
#[derive(Debug)]
pub struct Podman;

impl Step for Podman {
    type Config = Settings;
    type Undo = Undo;

    fn info() -> StepInfo {
        StepInfo::new("podman", "Runs Connect in a podman container that is a systemd service")
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
        check::check(config, cx, &Ground::here()).await
    }

    async fn plan(config: &Settings, cx: &Context) -> Result<Vec<Change>, StepError> {
        let ground = Ground::here();
        plan::plan(&ground, &Subject::new(config, &ground.world, cx)?, cx).await
    }

    async fn prepare(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let ground = Ground::here();
        stage::prepare(&ground, &Subject::new(config, &ground.world, cx)?, cx).await
    }

    async fn apply(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let ground = Ground::here();
        start::apply(&ground, &Subject::new(config, &ground.world, cx)?, cx).await
    }

    async fn verify(config: &Settings, cx: &Context) -> Result<Verdict, StepError> {
        let ground = Ground::here();
        start::verify(&ground, &Subject::new(config, &ground.world, cx)?, cx).await
    }

    async fn probe(config: &Settings, cx: &Context, of: Op) -> Result<Probe, StepError> {
        if of != Op::Apply {
            return Ok(Probe::RunAgain);
        }
        let ground = Ground::here();
        start::probe(&ground, &Subject::new(config, &ground.world, cx)?, cx).await
    }

    async fn rollback(
        config: &Settings,
        cx: &Context,
        _of: Op,
        undo: Vec<Undo>,
    ) -> Result<Undone, StepError> {
        let ground = Ground::here();
        undo::roll_back(&ground, &Subject::new(config, &ground.world, cx)?, cx, undo).await
    }

    async fn finalize(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let ground = Ground::here();
        let subject = Subject::new(config, &ground.world, cx)?;
        Ok(Outcome::already_done(format!(
            "{} stays, with its configuration in {}",
            ground::unit(&subject),
            subject.folder().display()
        )))
    }
}

connect_migrator_sdk::export_plugin!(Podman);
