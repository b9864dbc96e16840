//! What was changed, and how it is put back.

use crate::container_spec::mask_guard;
use crate::gate;
use bollard::models::RestartPolicyNameEnum;
use connect_migrator_container::engine::{Engine, EngineError};
use connect_migrator_container::files;
use connect_migrator_container::processes::{self, Group};
use connect_migrator_container::settings::Command;
use connect_migrator_container::undo::{self, Undo as Shared, ours, removed};
use connect_migrator_container::world::Subject;
use connect_migrator_sdk::{Context, StepError, Undone};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One change. Written down before it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Undo {
    /// One that every engine's step makes.
    Shared(Shared),
    /// One of this step alone.
    Own(Own),
}

/// A change that only this step makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "changed")]
pub enum Own {
    /// The engine's unit is ordered after the data's mount.
    DropIn {
        /// Where.
        path: PathBuf,
    },
    /// The container is started.
    Started {
        /// Its name.
        name: String,
        /// Its id.
        id: String,
    },
}

/// After Connect itself has ended, what is left of the container may take this long.
const REST_STOP_SECONDS: u64 = 10;

/// Puts one call back: newest change first.
///
/// # Errors
/// When a process of the container may still run. Then the source must not be started.
pub async fn roll_back(subject: &Subject<'_>, cx: &Context, changes: Vec<Undo>) -> Result<Undone, StepError> {
    let mut undone = Undone { evidence: Vec::new(), left: Vec::new() };
    let mut rest = Vec::new();
    // Stopping comes before everything: nothing may be taken away from a container that runs.
    for change in changes.into_iter().rev() {
        match change {
            Undo::Own(Own::Started { name, id }) => undone = stopped(subject, cx, &name, &id, undone).await?,
            change => rest.push(change),
        }
    }
    for change in rest {
        undone = match change {
            Undo::Shared(change) => undo::put_back(subject, change, undone).await,
            Undo::Own(Own::DropIn { path }) => {
                let result = files::remove(&path);
                files::remove_empty_parent(&path);
                removed(result, path.display().to_string(), undone)
            }
            Undo::Own(Own::Started { .. }) => undone,
        };
    }
    if undone.evidence.is_empty() && undone.left.is_empty() {
        undone.evidence.push("nothing had been changed".into());
    }
    Ok(undone)
}

/// Stops the container so that Connect itself is asked to end, sees that nothing of it runs, and removes it.
async fn stopped(
    subject: &Subject<'_>,
    cx: &Context,
    name: &str,
    id: &str,
    undone: Undone,
) -> Result<Undone, StepError> {
    // From here on nobody can start it again: not an engine that comes back and follows its restart policy either.
    files::remove(&mask_guard(subject))?;
    gate::shut(subject)?;
    let engine = match subject.engine_within().await {
        Ok(engine) => engine,
        Err(error) => {
            cx.warn(format!("{error}; looking for the container's processes without it"));
            return without_engine(subject, name, id, undone).await;
        }
    };
    match through_engine(subject, cx, &engine, name, id).await {
        Ok(Some(evidence)) => Ok(undone.and(evidence)),
        Ok(None) => Ok(undone),
        Err(error) => {
            cx.warn(format!("{error}; ending the container's processes without the engine"));
            without_engine(subject, name, id, undone).await
        }
    }
}

async fn through_engine(
    subject: &Subject<'_>,
    cx: &Context,
    engine: &Engine,
    name: &str,
    id: &str,
) -> Result<Option<String>, EngineError> {
    // By id: another container may have taken the name.
    let Some(container) = ours(subject, engine, id).await? else {
        return nothing_left(subject, name, id).await.map(|()| None);
    };
    engine.restart_policy(id, RestartPolicyNameEnum::NO).await?;
    let state = container.state.unwrap_or_default();
    let running = state.running.unwrap_or(false);
    if running {
        let grace = subject.settings.stop_timeout.duration();
        cx.info(format!(
            "asking Connect in the container {name} to end, for up to {}",
            subject.settings.stop_timeout
        ));
        if subject.settings.command == Command::Image {
            // The image's start script does not hand the request on.
            processes::end(&subject.world.proc, Group::Container(id), Some("connect"), grace).await;
            engine.stop(id, std::time::Duration::from_secs(REST_STOP_SECONDS)).await?;
        } else {
            engine.stop(id, grace).await?;
        }
    }
    let after = engine.container(id).await?.and_then(|container| container.state).unwrap_or_default();
    nothing_left(subject, name, id).await?;
    if after.running == Some(true) {
        let message = "it says that it stopped it, and that it runs".into();
        return Err(EngineError::Refused {
            kind: subject.kind(),
            call: format!("stop the container {name}"),
            status: 0,
            message,
        });
    }
    engine.remove(id).await?;
    Ok(Some(match (running, after.exit_code) {
        (false, _) => format!("container {name} did not run, and is removed"),
        // 128 + SIGKILL.
        (true, Some(137)) => format!(
            "container {name} did not end by itself within {} and was killed, and is removed",
            subject.settings.stop_timeout
        ),
        (true, _) => format!("container {name} ended when it was asked to, and is removed"),
    }))
}

async fn nothing_left(subject: &Subject<'_>, name: &str, id: &str) -> Result<(), EngineError> {
    if processes::of(&subject.world.proc, Group::Container(id)).is_empty()
        || processes::slay(&subject.world.proc, Group::Container(id)).await.is_empty()
    {
        return Ok(());
    }
    let message = "processes of it are left".into();
    Err(EngineError::Refused {
        kind: subject.kind(),
        call: format!("stop the container {name}"),
        status: 0,
        message,
    })
}

/// Ends the container's processes by their control group: they may outlive the engine.
async fn without_engine(
    subject: &Subject<'_>,
    name: &str,
    id: &str,
    undone: Undone,
) -> Result<Undone, StepError> {
    let proc = &subject.world.proc;
    let found = processes::of(proc, Group::Container(id)).len();
    if found > 0 {
        processes::end(proc, Group::Container(id), None, subject.settings.stop_timeout.duration()).await;
    }
    let left = processes::slay(proc, Group::Container(id)).await;
    if !left.is_empty() {
        let pids: Vec<String> = left.iter().map(|process| process.pid.to_string()).collect();
        return Err(StepError::new(format!("end the container {name}"))
            .because(format!("its processes {} cannot be killed, and the docker engine does not help", pids.join(", ")))
            .remedy("do not start rstudio-connect.service: two servers would use one database. End these processes (or restart this machine), then roll back again"));
    }
    Ok(undone
        .and(format!("no process of the container {name} is left ({found} had to be ended without the engine)"))
        .but(format!(
            "the docker engine did not take part: once it answers, remove the container with `docker rm {name}` (it cannot start again: its guard is gone)"
        )))
}
