//! nginx as a systemd unit, over D-Bus.

use crate::nginx::{Service, ServiceError};
use futures_util::StreamExt;
use std::time::Duration;
use zbus::OwnedObjectPath;

/// How long systemd may take to answer a question.
const ANSWER_TIMEOUT_SECONDS: u64 = 10;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Service", default_service = "org.freedesktop.systemd1")]
trait ServiceUnit {
    #[zbus(property(emits_changed_signal = "false"), name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;
}

/// A unit of this machine's systemd.
#[derive(Debug, Clone)]
pub struct SystemdUnit {
    unit: String,
    reload_limit: Duration,
    bus: Option<String>,
}

impl SystemdUnit {
    /// The unit `unit`, whose reload may take `reload_limit`.
    #[must_use]
    pub fn new(unit: &str, reload_limit: Duration) -> Self {
        SystemdUnit { unit: unit.into(), reload_limit, bus: None }
    }

    /// On another bus than the system's, by its address.
    #[must_use]
    pub fn on_bus(mut self, address: &str) -> Self {
        self.bus = Some(address.into());
        self
    }

    async fn manager(&self) -> zbus::Result<ManagerProxy<'static>> {
        let connection = match &self.bus {
            Some(address) => zbus::connection::Builder::address(address.as_str()).build().await?,
            None => zbus::Connection::system().await?,
        };
        ManagerProxy::new(&connection).await
    }

    /// LoadUnit also answers for a unit that systemd has not needed so far, GetUnit does not.
    async fn path(&self) -> zbus::Result<(zbus::Connection, OwnedObjectPath)> {
        let manager = self.manager().await?;
        let path = manager.load_unit(&self.unit).await?;
        Ok((manager.inner().connection().clone(), path))
    }

    async fn active_state(&self) -> zbus::Result<String> {
        let (connection, path) = self.path().await?;
        let uncached = zbus::proxy::CacheProperties::No;
        UnitProxy::builder(&connection)
            .path(path)
            .cache_properties(uncached)
            .build()
            .await?
            .active_state()
            .await
    }

    async fn ask_main_pid(&self) -> zbus::Result<u32> {
        let (connection, path) = self.path().await?;
        let uncached = zbus::proxy::CacheProperties::No;
        ServiceUnitProxy::builder(&connection)
            .path(path)
            .cache_properties(uncached)
            .build()
            .await?
            .main_pid()
            .await
    }

    /// Answers the job's result.
    async fn reload_job(&self) -> zbus::Result<String> {
        let manager = self.manager().await?;
        // Before the job is made: it may end before its path comes back.
        manager.subscribe().await?;
        let mut removed = manager.receive_job_removed().await?;
        let job = manager.reload_unit(&self.unit, "replace").await?;
        while let Some(signal) = removed.next().await {
            let args = signal.args()?;
            if args.job == job {
                return Ok(args.result.clone());
            }
        }
        Err(zbus::Error::Failure("the bus closed before the job ended".into()))
    }

    fn failed(&self, tried: &'static str, why: impl Into<String>) -> ServiceError {
        ServiceError { tried, unit: self.unit.clone(), why: why.into() }
    }
}

impl Service for SystemdUnit {
    async fn is_active(&self) -> Result<bool, ServiceError> {
        let limit = Duration::from_secs(ANSWER_TIMEOUT_SECONDS);
        match tokio::time::timeout(limit, self.active_state()).await {
            Ok(Ok(state)) => Ok(matches!(state.as_str(), "active" | "reloading" | "refreshing")),
            Ok(Err(error)) => Err(self.failed("ask systemd for the state of", error.to_string())),
            Err(_) => {
                let why = format!("systemd did not answer within {ANSWER_TIMEOUT_SECONDS} s");
                Err(self.failed("ask systemd for the state of", why))
            }
        }
    }

    async fn main_pid(&self) -> Option<u32> {
        let limit = Duration::from_secs(ANSWER_TIMEOUT_SECONDS);
        let answer = tokio::time::timeout(limit, self.ask_main_pid()).await;
        answer.ok().and_then(Result::ok).filter(|pid| *pid != 0)
    }

    async fn reload(&self) -> Result<(), ServiceError> {
        match tokio::time::timeout(self.reload_limit, self.reload_job()).await {
            Ok(Ok(result)) if result == "done" => Ok(()),
            Ok(Ok(result)) => {
                let why = format!("the job ended with `{result}`; `journalctl -u {}` tells more", self.unit);
                Err(self.failed("reload", why))
            }
            Ok(Err(error)) => Err(self.failed("reload", error.to_string())),
            Err(_) => {
                let why = format!("the job did not end within {} s", self.reload_limit.as_secs());
                Err(self.failed("reload", why))
            }
        }
    }
}
