//! nginx as a systemd unit.

use crate::nginx::{Service, ServiceError};
use connect_migrator_units::{Systemd, UnitError};
use std::time::Duration;

/// A unit of this machine's systemd.
#[derive(Debug, Clone)]
pub struct SystemdUnit {
    unit: String,
    reload_limit: Duration,
    systemd: Systemd,
}

impl SystemdUnit {
    /// The unit `unit`, whose reload may take `reload_limit`.
    #[must_use]
    pub fn new(unit: &str, reload_limit: Duration) -> Self {
        SystemdUnit { unit: unit.into(), reload_limit, systemd: Systemd::default() }
    }

    fn failed(&self, tried: &'static str, error: UnitError) -> ServiceError {
        ServiceError { tried, unit: self.unit.clone(), why: format!("{}; {}", error.why, error.remedy) }
    }
}

impl Service for SystemdUnit {
    async fn is_active(&self) -> Result<bool, ServiceError> {
        let status = self.systemd.status(&self.unit).await;
        let status = status.map_err(|error| self.failed("ask systemd for the state of", error))?;
        Ok(matches!(status.active.as_str(), "active" | "reloading" | "refreshing"))
    }

    async fn main_pid(&self) -> Option<u32> {
        let status = self.systemd.status(&self.unit).await;
        status.ok().map(|status| status.main_pid).filter(|pid| *pid != 0)
    }

    async fn reload(&self) -> Result<(), ServiceError> {
        let reloaded = self.systemd.reload(&self.unit, self.reload_limit).await;
        reloaded.map_err(|error| self.failed("reload", error))
    }
}
