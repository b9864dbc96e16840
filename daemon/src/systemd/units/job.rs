//! Jobs: made, and followed until their end.

use super::{UnitError, Units, within};
use crate::systemd::proxies::{JobRemovedStream, ManagerProxy};
use futures_util::StreamExt;
use std::fmt;
use std::time::{Duration, Instant};
use zbus::OwnedObjectPath;

/// Replace jobs that contradict this one, as `systemctl` does.
const MODE: &str = "replace";
/// How often the unit is asked whether the job still exists: its end may have been told while the bus was lost.
const JOB_POLL_MILLIS: u64 = 1000;
/// How long systemd may take to make a job.
const JOB_ANSWER_SECS: u64 = 25;

/// What is to be done with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Stop and start it.
    Restart,
    /// Make it read its configuration again.
    Reload,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Restart => "restart",
            Verb::Reload => "reload",
        })
    }
}

/// How a job ended.
enum End {
    /// systemd told it.
    Told(String),
    /// The job is gone, but nobody told how it ended.
    Untold,
}

impl Units {
    /// Makes a job and waits for its end. `Ok` only for `done`, and for a job that is gone without a word: the caller reads the
    /// unit's state in any case.
    pub(super) async fn job(&self, verb: Verb, unit: &str, timeout: Duration) -> Result<(), UnitError> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.try_job(verb, unit, deadline, timeout).await {
                // Nothing is lost by making the same job again: it joins the one that is there.
                Err(error) if error.is_lost() && Instant::now() < deadline => {
                    self.reconnected().await?;
                }
                result => return result,
            }
        }
    }

    async fn try_job(
        &self,
        verb: Verb,
        unit: &str,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<(), UnitError> {
        let manager = self.manager().await?;
        let make = async {
            let removed = manager.receive_job_removed().await?;
            let job = match verb {
                Verb::Start => manager.start_unit(unit, MODE).await?,
                Verb::Stop => manager.stop_unit(unit, MODE).await?,
                Verb::Restart => manager.restart_unit(unit, MODE).await?,
                Verb::Reload => manager.reload_unit(unit, MODE).await?,
            };
            Ok((removed, job))
        };
        let (removed, job) = within(JOB_ANSWER_SECS, || format!("{verb} {unit}"), make).await?;
        let wait = self.end_of(unit, &manager, removed, &job);
        match tokio::time::timeout_at(deadline.into(), wait).await {
            Err(_) => Err(UnitError::JobTimedOut { verb, unit: unit.into(), after: timeout }),
            Ok(Err(error)) => Err(error),
            Ok(Ok(End::Untold)) => Ok(()),
            Ok(Ok(End::Told(result))) if result == "done" => Ok(()),
            Ok(Ok(End::Told(result))) => Err(UnitError::Job { verb, unit: unit.into(), result }),
        }
    }

    async fn end_of(
        &self,
        unit: &str,
        manager: &ManagerProxy<'static>,
        mut removed: JobRemovedStream,
        job: &OwnedObjectPath,
    ) -> Result<End, UnitError> {
        let mut poll = tokio::time::interval(Duration::from_millis(JOB_POLL_MILLIS));
        poll.tick().await;
        let mut gone = false;
        loop {
            tokio::select! {
                biased;
                signal = removed.next() => {
                    let Some(signal) = signal else {
                        let why = zbus::Error::InputOutput(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into());
                        return Err(UnitError::refused(format!("wait for the job of {unit}"), why));
                    };
                    let Ok(args) = signal.args() else { continue };
                    if args.job == *job {
                        return Ok(End::Told(args.result.clone()));
                    }
                }
                _ = poll.tick() => {
                    if manager.inner().connection().is_closed() {
                        let why = zbus::Error::InputOutput(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into());
                        return Err(UnitError::refused(format!("wait for the job of {unit}"), why));
                    }
                    // Seen gone twice: the signal of a job that has just ended may be on its way.
                    let exists = self.status(unit).await?.job.as_deref() == Some(job.as_str());
                    if !exists && gone {
                        return Ok(End::Untold);
                    }
                    gone = !exists;
                }
            }
        }
    }
}
