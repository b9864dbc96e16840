//! Units of this host, over D-Bus.

use connect_migrator_sdk::StepError;
use futures_util::StreamExt;
use std::time::Duration;
use zbus::OwnedObjectPath;
use zbus::proxy::CacheProperties;

/// How long systemd may take to answer anything but a job.
const ANSWER_TIMEOUT_SECONDS: u64 = 30;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;
    fn disable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
    ) -> zbus::Result<Vec<(String, String, String)>>;
    fn reload(&self) -> zbus::Result<()>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property)]
    fn load_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn sub_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn fragment_path(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn source_path(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn wanted_by(&self) -> zbus::Result<Vec<String>>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Service", default_service = "org.freedesktop.systemd1")]
trait Service {
    #[zbus(property)]
    fn result(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn exec_main_status(&self) -> zbus::Result<i32>;
    #[zbus(property, name = "NRestarts")]
    fn restarts(&self) -> zbus::Result<u32>;
}

/// A unit as it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// `loaded`, `not-found`, `bad-setting`, …
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating`, …
    pub active: String,
    /// `running`, `auto-restart`, …
    pub sub: String,
    /// The unit's file.
    pub file: String,
    /// What a generator made it of.
    pub made_of: String,
    /// The units that start it along.
    pub wanted_by: Vec<String>,
    /// How its last run ended: `success`, `exit-code`, `oom-kill`, …
    pub result: String,
    /// The status with which its main process ended.
    pub exit: i32,
    /// How often systemd started it again by itself.
    pub restarts: u32,
}

impl Status {
    /// Nothing of that name is known.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.load == "not-found"
    }

    /// It runs.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active == "active"
    }
}

/// What the step needs of systemd.
pub trait Units: Send + Sync {
    /// A unit as it is now.
    ///
    /// # Errors
    /// When systemd does not say.
    fn status(&self, unit: &str) -> impl Future<Output = Result<Status, StepError>> + Send;
    /// Starts it, and waits until that is done.
    ///
    /// # Errors
    /// When the job does not end well.
    fn start(&self, unit: &str, limit: Duration) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Stops it, and waits until that is done.
    ///
    /// # Errors
    /// When the job does not end well.
    fn stop(&self, unit: &str, limit: Duration) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Reads all unit files again.
    ///
    /// # Errors
    /// When systemd does not.
    fn reload(&self) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Lets it start with the machine.
    ///
    /// # Errors
    /// When it cannot.
    fn enable(&self, unit: &str) -> impl Future<Output = Result<(), StepError>> + Send;
    /// Lets it no longer start with the machine, and forgets that it failed.
    ///
    /// # Errors
    /// When it cannot.
    fn disable(&self, unit: &str) -> impl Future<Output = Result<(), StepError>> + Send;
    /// The last lines that it printed; empty when there are none, or they cannot be read.
    fn last_lines(&self, unit: &str) -> impl Future<Output = Vec<String>> + Send;
}

/// The systemd of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct Systemd;

impl Systemd {
    async fn manager() -> zbus::Result<ManagerProxy<'static>> {
        ManagerProxy::new(&zbus::Connection::system().await?).await
    }

    async fn look(unit: &str) -> zbus::Result<Status> {
        let manager = Self::manager().await?;
        // LoadUnit also answers for a unit that systemd has not needed so far, GetUnit does not.
        let path = manager.load_unit(unit).await?;
        let connection = manager.inner().connection();
        let proxy = UnitProxy::builder(connection)
            .path(path.clone())
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        let mut status = Status {
            load: proxy.load_state().await?,
            active: proxy.active_state().await?,
            sub: proxy.sub_state().await?,
            file: proxy.fragment_path().await?,
            made_of: proxy.source_path().await?,
            wanted_by: proxy.wanted_by().await?,
            ..Status::default()
        };
        if unit.ends_with(".service") && !status.is_missing() {
            let service = ServiceProxy::builder(connection)
                .path(path)
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            status.result = service.result().await?;
            status.exit = service.exec_main_status().await?;
            status.restarts = service.restarts().await?;
        }
        Ok(status)
    }

    /// Answers the job's result.
    async fn job(unit: &str, start: bool) -> zbus::Result<String> {
        let manager = Self::manager().await?;
        // Before the job is made: it may end before its path comes back.
        manager.subscribe().await?;
        let mut removed = manager.receive_job_removed().await?;
        let job = if start {
            manager.start_unit(unit, "replace").await?
        } else {
            manager.stop_unit(unit, "replace").await?
        };
        while let Some(signal) = removed.next().await {
            let arguments = signal.args()?;
            if arguments.job == job {
                return Ok(arguments.result.clone());
            }
        }
        Err(zbus::Error::Failure("the bus closed before the job ended".into()))
    }

    async fn run(unit: &str, start: bool, limit: Duration) -> Result<(), StepError> {
        let tried = format!("{} {unit}", if start { "start" } else { "stop" });
        let result = bounded(tried.clone(), limit, Self::job(unit, start)).await?;
        let why = match result.as_str() {
            "done" => return Ok(()),
            "assert" => "one of its assertions failed",
            "dependency" => "a unit that it needs could not be started",
            "canceled" => "another job took its place",
            "timeout" => "it took too long",
            _ => "the job failed",
        };
        Err(StepError::new(tried)
            .because(format!("{why} (`{result}`)"))
            .remedy(format!("see `systemctl status {unit}` and `journalctl -u {unit}`")))
    }
}

async fn bounded<T>(
    tried: String,
    limit: Duration,
    asked: impl Future<Output = zbus::Result<T>>,
) -> Result<T, StepError> {
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(StepError::new(tried).because(error).remedy("see `systemctl status dbus`")),
        Err(_) => Err(StepError::new(tried)
            .because(format!("systemd did not answer within {} s", limit.as_secs()))
            .remedy("see `systemctl list-jobs`")),
    }
}

const ANSWER: Duration = Duration::from_secs(ANSWER_TIMEOUT_SECONDS);

impl Units for Systemd {
    async fn status(&self, unit: &str) -> Result<Status, StepError> {
        bounded(format!("read the state of {unit}"), ANSWER, Self::look(unit)).await
    }

    async fn start(&self, unit: &str, limit: Duration) -> Result<(), StepError> {
        Self::run(unit, true, limit).await
    }

    async fn stop(&self, unit: &str, limit: Duration) -> Result<(), StepError> {
        Self::run(unit, false, limit).await
    }

    async fn reload(&self) -> Result<(), StepError> {
        bounded("make systemd read its units".into(), ANSWER, async { Self::manager().await?.reload().await })
            .await
    }

    async fn enable(&self, unit: &str) -> Result<(), StepError> {
        bounded(format!("enable {unit}"), ANSWER, async {
            let manager = Self::manager().await?;
            manager.enable_unit_files(&[unit], false, true).await?;
            // A unit that is loaded already learns of its new links only so; `systemctl enable` does the same.
            manager.reload().await
        })
        .await
    }

    async fn disable(&self, unit: &str) -> Result<(), StepError> {
        bounded(format!("disable {unit}"), ANSWER, async {
            let manager = Self::manager().await?;
            // One that has not failed, or is not loaded, refuses.
            let _ = manager.reset_failed_unit(unit).await;
            manager.disable_unit_files(&[unit], false).await.map(drop)
        })
        .await
    }

    async fn last_lines(&self, unit: &str) -> Vec<String> {
        crate::journal::last_lines(unit).await
    }
}
