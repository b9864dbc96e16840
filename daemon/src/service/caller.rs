//! Calls through the step host.

use crate::engine::{Caller, PlannedStep};
use crate::host::{self, CallFailure, CallRequest, Launcher, Listener};
use crate::state::Failure;
use connect_migrator_sdk::Invocation;
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Makes each call in a process of its own.
#[derive(Clone)]
pub struct HostCaller {
    launcher: Arc<dyn Launcher>,
}

impl std::fmt::Debug for HostCaller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostCaller").finish_non_exhaustive()
    }
}

impl HostCaller {
    /// Through this launcher.
    #[must_use]
    pub fn new(launcher: Arc<dyn Launcher>) -> Self {
        HostCaller { launcher }
    }
}

impl Caller for HostCaller {
    fn call<'a>(
        &'a self,
        step: &'a PlannedStep,
        invocation: Invocation,
        timeout: Duration,
        listener: Arc<dyn Listener>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<Value, Failure>> {
        let request = CallRequest { plugin: step.plugin.clone(), invocation, timeout };
        Box::pin(async move {
            host::call(self.launcher.as_ref(), request, listener, cancel).await.map_err(|failure| {
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
            })
        })
    }
}
