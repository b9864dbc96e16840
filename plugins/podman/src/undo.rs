//! What was changed, and how it is put back.

use crate::ground::{Ground, handed_over};
use crate::socket::Socket;
use crate::systemd::Units;
use connect_migrator_container::files;
use connect_migrator_container::processes::{self, Group};
use connect_migrator_container::settings::Command;
use connect_migrator_container::undo::{self, Undo as Shared, removed};
use connect_migrator_container::world::Subject;
use connect_migrator_sdk::{Context, StepError, Undone};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// The folder of `.container` files is made.
    UnitFolder {
        /// Where.
        path: PathBuf,
    },
    /// The unit's file is written.
    Unit {
        /// Where.
        path: PathBuf,
        /// The unit.
        unit: String,
    },
    /// The unit is started.
    Started {
        /// Which.
        unit: String,
    },
}

/// What stopping may take longer than the container's own time to end; systemd itself gives it 60 s.
const STOP_MARGIN_SECONDS: u64 = 90;
/// 128 + SIGKILL.
const KILLED: i32 = 137;

/// Puts one call back: newest change first.
///
/// # Errors
/// When a process of the container may still run. Then the source must not be started.
pub async fn roll_back<S: Units>(
    ground: &Ground<S>,
    subject: &Subject<'_>,
    cx: &Context,
    changes: Vec<Undo>,
) -> Result<Undone, StepError> {
    let mut undone = Undone { evidence: Vec::new(), left: Vec::new() };
    let mut rest = Vec::new();
    // Stopping comes before everything: nothing may be taken away from a container that runs.
    for change in changes.into_iter().rev() {
        match change {
            Undo::Own(Own::Started { unit }) => undone = stopped(ground, subject, cx, &unit, undone).await?,
            change => rest.push(change),
        }
    }
    for change in rest {
        undone = match change {
            Undo::Shared(change @ Shared::Container { .. }) => {
                let socket = Socket::open(&ground.systemd, subject).await;
                let undone = undo::put_back(subject, change, undone).await;
                socket.close().await;
                undone
            }
            Undo::Shared(change) => undo::put_back(subject, change, undone).await,
            Undo::Own(Own::UnitFolder { path }) => {
                // Somebody else's files keep it, which is right.
                let _ = std::fs::remove_dir(&path);
                undone
            }
            Undo::Own(Own::Unit { path, unit }) => {
                let result = without_unit(ground, &path, &unit).await;
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

/// Removes the unit. Answers whether it was there.
async fn without_unit<S: Units>(ground: &Ground<S>, path: &Path, unit: &str) -> Result<bool, StepError> {
    // Its links first, while its file still says which they are.
    let disabled = if path.exists() { ground.systemd.disable(unit).await } else { Ok(()) };
    let was_there = files::remove(path)?;
    // What a generator makes cannot be disabled, and needs not be.
    if path.extension().is_some_and(|ext| ext == "service") {
        disabled?;
    }
    if was_there {
        ground.systemd.reload().await?;
    }
    Ok(was_there)
}

/// Stops the service so that Connect itself is asked to end, and sees that nothing of it runs.
async fn stopped<S: Units>(
    ground: &Ground<S>,
    subject: &Subject<'_>,
    cx: &Context,
    unit: &str,
    undone: Undone,
) -> Result<Undone, StepError> {
    // From here on nobody can start it again: not systemd after a crash, and not a reboot.
    files::remove(&handed_over(subject))?;
    let (name, proc) = (&subject.names.container, &subject.world.proc);
    let group = Group::Unit(unit);
    let grace = subject.settings.stop_timeout.duration();
    let running = !processes::of(proc, group).is_empty();
    if running {
        cx.info(format!(
            "asking Connect in the container {name} to end, for up to {}",
            subject.settings.stop_timeout
        ));
        if subject.settings.command == Command::Image {
            // The image's start script does not hand the request on.
            processes::end(proc, group, Some("connect"), grace).await;
        }
    }
    let stop = ground.systemd.stop(unit, grace + Duration::from_secs(STOP_MARGIN_SECONDS)).await;
    let mut undone = undone;
    if let Err(error) = &stop {
        cx.warn(format!("{error}; ending the container's processes without systemd"));
        processes::end(proc, group, None, grace).await;
        undone = undone.but(format!("{error}; see that `systemctl is-active {unit}` says `inactive`"));
    }
    let left =
        if processes::of(proc, group).is_empty() { Vec::new() } else { processes::slay(proc, group).await };
    if !left.is_empty() {
        let pids: Vec<String> = left.iter().map(|process| process.pid.to_string()).collect();
        return Err(StepError::new(format!("end the container {name}"))
            .because(format!("its processes {} cannot be killed", pids.join(", ")))
            .remedy(format!(
                "do not start {}: two servers would use one database. End these processes (or restart this machine), then roll back again",
                subject.source.unit
            )));
    }
    let killed = ground.systemd.status(unit).await.is_ok_and(|status| status.exit == KILLED);
    Ok(undone.and(match (running, stop.is_ok() && killed) {
        (false, _) => format!("container {name} did not run"),
        (true, true) => format!(
            "container {name} did not end by itself within {} and was killed",
            subject.settings.stop_timeout
        ),
        (true, false) => format!("container {name} ended when it was asked to"),
    }))
}
