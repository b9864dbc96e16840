//! Calls through the step host.

use crate::engine::{Called, Caller, Ended, PlannedStep, RealEnd};
use crate::host::{
    self, AheadLauncher, CallFailure, CallKey, CallRequest, Launcher, Listener, Seat, TransientLauncher,
    outcome_found,
};
use crate::state::Failure;
use connect_migrator_sdk::Answer;
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Makes each call in a process of its own.
#[derive(Clone)]
pub struct HostCaller {
    launcher: AheadLauncher,
    /// Where calls leave their outcome, and who finds those that went on.
    survivors: Option<Survivors>,
}

#[derive(Clone)]
struct Survivors {
    folder: PathBuf,
    /// `None` when systemd cannot be asked.
    launcher: Option<Arc<TransientLauncher>>,
    /// Calls are made so that they may go on.
    seats: bool,
}

impl std::fmt::Debug for HostCaller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostCaller").finish_non_exhaustive()
    }
}

impl HostCaller {
    /// Through this launcher. Calls end with the daemon.
    #[must_use]
    pub fn new(launcher: Arc<dyn Launcher>) -> Self {
        HostCaller { launcher: AheadLauncher::new(launcher), survivors: None }
    }

    /// Finds calls of an earlier run that went on without it; `folder` is where they leave their outcome. Without `launcher`
    /// systemd cannot be asked.
    #[must_use]
    pub fn finding(mut self, folder: &Path, launcher: Option<Arc<TransientLauncher>>) -> Self {
        self.survivors = Some(Survivors { folder: folder.into(), launcher, seats: false });
        self
    }

    /// Calls that change things are made in units, and go on when the daemon is gone.
    #[must_use]
    pub fn surviving(folder: &Path, launcher: Arc<TransientLauncher>) -> Self {
        let survivors =
            Survivors { folder: folder.into(), launcher: Some(Arc::clone(&launcher)), seats: true };
        HostCaller { launcher: AheadLauncher::new(launcher), survivors: Some(survivors) }
    }

    fn seat(&self, folder: &Path, call: &Called) -> Option<Seat> {
        let number = call.number.filter(|_| call.invocation.op.changes())?;
        let folder = folder.join(&call.invocation.migration.id).join(number.to_string());
        Some(Seat { number, folder })
    }

    async fn make(
        &self,
        step: &PlannedStep,
        call: Called,
        listener: Arc<dyn Listener>,
        cancel: CancellationToken,
    ) -> Result<Value, CallFailure> {
        // Why one cannot be started is told when it is made.
        let next = call.next.iter().map_while(|next| self.request(&next.step, next.call.clone()).ok());
        let next = next.map(|next| next.start(self.launcher.limits())).collect();
        let request = self.request(step, call)?;
        let launcher = self.launcher.expecting(next);
        host::call(&launcher, request, listener, cancel).await
    }

    /// What is asked of the step host; makes the folder for its outcome.
    fn request(&self, step: &PlannedStep, call: Called) -> Result<CallRequest, CallFailure> {
        let survivors = self.survivors.as_ref().filter(|survivors| survivors.seats);
        let seat = survivors.and_then(|survivors| self.seat(&survivors.folder, &call));
        if let Some(Seat { folder, .. }) = &seat {
            // Before the unit: a folder without a unit is a call that has ended, and never the other way round.
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
                CallFailure::NotStarted {
                    call: format!("{} of the step `{}`", call.invocation.op, step.id),
                    why: format!("the folder {} for its outcome cannot be made: {error}", folder.display()),
                }
            })?;
        }
        Ok(CallRequest {
            needs: step.info.needs.clone(),
            seat,
            ..CallRequest::new(step.plugin.clone(), call.invocation, call.timeout)
        })
    }

    async fn learn(
        &self,
        step: &PlannedStep,
        call: Called,
        listener: Arc<dyn Listener>,
        cancel: CancellationToken,
    ) -> Result<RealEnd, String> {
        let Some(survivors) = &self.survivors else { return Ok(None) };
        let Some(seat) = self.seat(&survivors.folder, &call) else { return Ok(None) };
        if !seat.folder.exists() {
            return Ok(None); // it ended with its daemon
        }
        let Some(launcher) = &survivors.launcher else {
            return Err(format!(
                "could not ask systemd whether {} of step `{}` still runs; see that the system bus is there, then start again",
                call.invocation.op, step.id
            ));
        };
        let key = CallKey::of(&call.invocation);
        let found = launcher.find(seat.number).await.map_err(|error| error.to_string())?;
        let joined = match found {
            None => None,
            Some(running) => {
                listener.log(
                    connect_migrator_sdk::LogLevel::Warn,
                    "went on while no daemon ran; it is waited for",
                );
                // It may have been busy for longer than it may, but it must be able to say so.
                let timeout = call.timeout.max(launcher.limits().hello);
                let request = CallRequest::new(step.plugin.clone(), call.invocation, timeout);
                Some(host::rejoin(launcher.as_ref(), running, request, listener, cancel).await)
            }
        };
        launcher.end_call(seat.number).await.map_err(|error| error.to_string())?;
        let end = match joined {
            // It ended without a word to us, perhaps because we came too late.
            None
            | Some(Err(
                CallFailure::Crashed { .. }
                | CallFailure::Protocol { .. }
                | CallFailure::Silent { .. }
                | CallFailure::StillRuns { .. },
            )) => match outcome_found(&seat.folder, &key) {
                Ok(Some(answer)) => Some(answered(step, &key, answer)),
                Ok(None) => None,
                Err(error) => {
                    return Err(format!(
                        "could not read how {} of step `{}` ended from {}: {error}; move that folder away if you want the \
                             world to be looked at instead",
                        key.op,
                        step.id,
                        seat.folder.display()
                    ));
                }
            },
            Some(result) => Some(result),
        };
        Ok(end.map(|result| result.map_err(failure)))
    }
}

/// What a call's answer means, as a conversation takes it.
fn answered(step: &PlannedStep, key: &CallKey, answer: Answer) -> Result<Value, CallFailure> {
    match answer {
        Answer::Ok(value) => Ok(value),
        Answer::Error(error) => Err(CallFailure::Step(error)),
        Answer::Panic(text) => Err(CallFailure::Panicked {
            call: format!("{} of the step `{}` (plugin {})", key.op, step.id, step.plugin.name()),
            text,
        }),
    }
}

fn failure(failure: CallFailure) -> Failure {
    let cancelled = match &failure {
        CallFailure::Step(error) => error.cancelled,
        CallFailure::IgnoredCancel { .. } => true,
        _ => false,
    };
    Failure {
        why: failure.cause(),
        remedy: failure.remedy(),
        cancelled,
        crashed: !failure.outcome_is_known(),
    }
}

impl Caller for HostCaller {
    fn call<'a>(
        &'a self,
        step: &'a PlannedStep,
        call: Called,
        listener: Arc<dyn Listener>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            let changes = call.invocation.op.changes();
            match self.make(step, call, listener, cancel).await {
                Err(still @ CallFailure::StillRuns { .. }) if changes => Err(still.to_string()),
                result => Ok(result.map_err(failure)),
            }
        })
    }

    fn await_end<'a>(
        &'a self,
        step: &'a PlannedStep,
        call: Called,
        listener: Arc<dyn Listener>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<RealEnd, String>> {
        Box::pin(self.learn(step, call, listener, cancel))
    }
}
