//! What the built-in steps stand on: the machine, or in tests a double of it.

use crate::systemd::cgroup::Cgroups;
use crate::systemd::processes::{Process, Processes};
use crate::systemd::units::{BusAddress, UnitError, Units};
use connect_migrator_sdk::{Context, Progress, StepError};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often progress is reported while systemd works.
const PROGRESS_EVERY_MILLIS: u64 = 1000;

/// The bus, the control groups and the processes that the steps look at.
#[derive(Debug, Clone)]
pub struct Ground {
    bus: BusAddress,
    cgroups: Cgroups,
    processes: Processes,
    runtime_units: PathBuf,
}

impl Default for Ground {
    fn default() -> Self {
        Ground {
            bus: BusAddress::default(),
            cgroups: Cgroups::default(),
            processes: Processes::default(),
            runtime_units: "/run/systemd/system".into(),
        }
    }
}

impl Ground {
    /// Another bus, another tree of control groups, another `/proc`, another `/run/systemd/system`.
    #[must_use]
    pub fn at(bus: &str, cgroup_root: &Path, proc_dir: &Path, runtime_units: &Path) -> Self {
        let processes = Processes::at(proc_dir);
        Ground {
            bus: BusAddress::At(bus.into()),
            cgroups: Cgroups::at(cgroup_root, processes.clone()),
            processes,
            runtime_units: runtime_units.into(),
        }
    }

    /// The folder of unit files that a reboot removes.
    pub(super) fn runtime_units(&self) -> &Path {
        &self.runtime_units
    }

    pub(super) async fn units(&self) -> Result<Units, UnitError> {
        Units::connect(self.bus.clone(), self.cgroups.clone()).await
    }

    /// Connects in containers on this machine; none of them is of the unit `source`.
    pub(super) fn connects_in_containers(&self, source: &str) -> Result<Vec<Process>, StepError> {
        self.processes.connects_in_containers(source).map_err(unreadable_processes)
    }

    /// What of the product still runs on this machine itself.
    pub(super) fn left_of(&self, install_dir: &Path) -> Result<Vec<Process>, StepError> {
        let dir: PathBuf = install_dir.join("bin");
        self.processes.on_host_running_from(&dir).map_err(unreadable_processes)
    }
}

fn unreadable_processes(error: std::io::Error) -> StepError {
    StepError::new("look which processes run")
        .because(error)
        .remedy("see that /proc is mounted and that this runs as root")
}

/// Does something that systemd may take its time for: reports how long it has taken, and ends when the call is to end. What
/// systemd has begun then goes on; the way back knows how to undo it.
pub(super) async fn with_progress<T>(
    cx: &Context,
    doing: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, UnitError>>,
) -> Result<T, StepError> {
    let started = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(PROGRESS_EVERY_MILLIS));
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done.map_err(StepError::from),
            () = cx.cancelled() => return Err(StepError::cancelled(doing)),
            _ = tick.tick() => cx.progress(&Progress {
                doing: doing.into(),
                done: Some(started.elapsed().as_secs()),
                total: Some(limit.as_secs()),
                unit: Some("s".into()),
            }),
        }
    }
}
