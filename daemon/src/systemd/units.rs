//! Units, over D-Bus. Every change is followed until systemd says how it ended, and the unit is read again.
//!
//! The order matters (`org.freedesktop.systemd1(5)`): signals are asked for, then the job is made, then its own end is waited
//! for; a job may end before its path comes back. Only `done` counts, and also `done` is not believed: a start that a condition
//! prevented ends with `done` too.

mod error;
mod job;
mod status;
mod transient;

pub use error::UnitError;
pub use status::UnitStatus;
pub use transient::{Ended, LastRun};

use super::cgroup::Cgroups;
use super::processes::Process;
use super::proxies::{ManagerProxy, SERVICE_INTERFACE, SYSTEMD_NAME, UNIT_INTERFACE};
use job::Verb;
use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use zbus::OwnedVariant;
use zbus::fdo::PropertiesProxy;

/// How long systemd may take to answer a question.
const ANSWER_TIMEOUT_SECS: u64 = 25;
/// How long systemd may take to read all unit files again: generators run meanwhile.
const RELOAD_TIMEOUT_SECS: u64 = 90;
/// How long the processes of a stopped unit may take to vanish, unless [`Units::leftover_timeout`] says otherwise.
pub const LEFTOVER_TIMEOUT_SECS: u64 = 30;
/// How long a bus that was lost may take to come back: its daemon is being restarted.
const RECONNECT_SECS: u64 = 10;
/// How often that is tried.
const RECONNECT_POLL_MILLIS: u64 = 100;
/// How often the control group is looked at meanwhile.
const CGROUP_POLL_MILLIS: u64 = 50;

/// Where the bus is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BusAddress {
    /// The machine's system bus.
    #[default]
    System,
    /// Another, by its D-Bus address.
    At(String),
}

/// The units of a machine. Connects anew by itself when the bus was lost.
#[derive(Debug)]
pub struct Units {
    address: BusAddress,
    cgroups: Cgroups,
    leftover_timeout: Duration,
    manager: Mutex<Option<ManagerProxy<'static>>>,
}

/// What became of a stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The unit as it is now.
    pub status: UnitStatus,
    /// How long it took, until the last process was gone.
    pub took: Duration,
}

impl Units {
    /// Those of this machine.
    ///
    /// # Errors
    /// When the system bus or systemd does not answer.
    pub async fn system() -> Result<Units, UnitError> {
        Units::connect(BusAddress::System, Cgroups::default()).await
    }

    /// Those of the systemd on another bus, with another tree of control groups.
    ///
    /// # Errors
    /// When that bus or its systemd does not answer.
    pub async fn connect(address: BusAddress, cgroups: Cgroups) -> Result<Units, UnitError> {
        let leftover_timeout = Duration::from_secs(LEFTOVER_TIMEOUT_SECS);
        let units = Units { address, cgroups, leftover_timeout, manager: Mutex::new(None) };
        units.manager().await?;
        Ok(units)
    }

    /// Sets how long the processes of a stopped unit may take to vanish.
    #[must_use]
    pub fn leftover_timeout(mut self, timeout: Duration) -> Self {
        self.leftover_timeout = timeout;
        self
    }

    /// The unit as it is now. A unit that does not exist has the load state `not-found`.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn status(&self, unit: &str) -> Result<UnitStatus, UnitError> {
        let read = |manager: ManagerProxy<'static>| async move {
            let path = manager.load_unit(unit).await?;
            let properties = PropertiesProxy::builder(manager.inner().connection())
                .destination(SYSTEMD_NAME)
                .path(path)
                .build()
                .await?;
            let interface = zbus::names::InterfaceName::try_from(UNIT_INTERFACE)?;
            let mut all: HashMap<String, OwnedVariant> = properties.get_all(interface).await?;
            if unit.ends_with(".service") {
                let interface = zbus::names::InterfaceName::try_from(SERVICE_INTERFACE)?;
                all.extend(properties.get_all(interface).await?);
            }
            // The property is what systemd has read; this is what lies on the disk. Units without a file have none.
            if let Ok(state) = manager.get_unit_file_state(unit).await {
                all.insert("UnitFileState".into(), OwnedVariant::from(zbus::Str::from(state)));
            }
            Ok(all)
        };
        let all = self.ask(ANSWER_TIMEOUT_SECS, || format!("read the state of {unit}"), read).await?;
        UnitStatus::of(unit, &all)
    }

    /// Stops the unit, and sees that it is inactive and has no process left. Idempotent.
    ///
    /// # Errors
    /// When the job does not end with `done` within `timeout`, when the unit is not inactive then, or when processes are left
    /// [`LEFTOVER_TIMEOUT_SECS`] later.
    pub async fn stop(&self, unit: &str, timeout: Duration) -> Result<Stopped, UnitError> {
        let started = Instant::now();
        // The group's name is gone from the unit once it is inactive.
        let before = self.status(unit).await?;
        self.job(Verb::Stop, unit, timeout).await?;
        let status = self.status(unit).await?;
        if !status.is_inactive() {
            return Err(UnitError::state(Verb::Stop, &status));
        }
        for group in [&before.control_group, &status.control_group] {
            self.until_empty(unit, group).await?;
        }
        Ok(Stopped { status, took: started.elapsed() })
    }

    /// Starts the unit, and sees that it is active. Idempotent.
    ///
    /// # Errors
    /// When the job does not end with `done` within `timeout`, or when the unit is not active then.
    pub async fn start(&self, unit: &str, timeout: Duration) -> Result<(), UnitError> {
        self.job(Verb::Start, unit, timeout).await?;
        self.must_be_active(Verb::Start, unit).await
    }

    /// Stops the unit if it is active, starts it, and sees that it is active.
    ///
    /// # Errors
    /// As [`Units::start`].
    pub async fn restart(&self, unit: &str, timeout: Duration) -> Result<(), UnitError> {
        self.job(Verb::Restart, unit, timeout).await?;
        self.must_be_active(Verb::Restart, unit).await
    }

    /// Makes the unit read its configuration again, and sees that it is still active.
    ///
    /// # Errors
    /// As [`Units::start`].
    pub async fn reload(&self, unit: &str, timeout: Duration) -> Result<(), UnitError> {
        self.job(Verb::Reload, unit, timeout).await?;
        self.must_be_active(Verb::Reload, unit).await
    }

    async fn must_be_active(&self, verb: Verb, unit: &str) -> Result<(), UnitError> {
        let status = self.status(unit).await?;
        if status.is_active() { Ok(()) } else { Err(UnitError::state(verb, &status)) }
    }

    /// Masks the unit for good: nothing can start it, also after a reboot. What runs, runs on. Idempotent.
    ///
    /// # Errors
    /// When systemd refuses, which it does when a file of the unit lies where the link would be.
    pub async fn mask(&self, unit: &str) -> Result<(), UnitError> {
        self.link_mask(unit).await?;
        self.reload_unit_files().await
    }

    /// Makes the link of a mask, which counts once systemd has read it: [`Units::reload_unit_files`]. Idempotent.
    ///
    /// # Errors
    /// As [`Units::mask`].
    pub async fn link_mask(&self, unit: &str) -> Result<(), UnitError> {
        let mask = |manager: ManagerProxy<'static>| async move {
            manager.mask_unit_files(&[unit], false, false).await.map(drop)
        };
        self.ask(ANSWER_TIMEOUT_SECS, || format!("mask {unit}"), mask).await
    }

    /// Takes the mask off. Idempotent.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn unmask(&self, unit: &str) -> Result<(), UnitError> {
        self.unlink_mask(unit).await?;
        self.reload_unit_files().await
    }

    /// Removes the link of a mask. If systemd has read it, it counts until [`Units::reload_unit_files`]. Idempotent.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn unlink_mask(&self, unit: &str) -> Result<(), UnitError> {
        let unmask = |manager: ManagerProxy<'static>| async move {
            manager.unmask_unit_files(&[unit], false).await.map(drop)
        };
        self.ask(ANSWER_TIMEOUT_SECS, || format!("unmask {unit}"), unmask).await
    }

    /// Makes the unit start when the machine does. Idempotent.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn enable(&self, unit: &str) -> Result<(), UnitError> {
        let enable = |manager: ManagerProxy<'static>| async move {
            manager.enable_unit_files(&[unit], false, false).await.map(drop)
        };
        self.ask(ANSWER_TIMEOUT_SECS, || format!("enable {unit}"), enable).await?;
        self.reload_unit_files().await
    }

    /// Undoes [`Units::enable`]. Idempotent.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn disable(&self, unit: &str) -> Result<(), UnitError> {
        let disable = |manager: ManagerProxy<'static>| async move {
            manager.disable_unit_files(&[unit], false).await.map(drop)
        };
        self.ask(ANSWER_TIMEOUT_SECS, || format!("disable {unit}"), disable).await?;
        self.reload_unit_files().await
    }

    /// Makes systemd read all unit files again.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn reload_unit_files(&self) -> Result<(), UnitError> {
        let reload = |manager: ManagerProxy<'static>| async move { manager.reload().await };
        self.ask(RELOAD_TIMEOUT_SECS, || "make systemd read its unit files again".into(), reload).await
    }

    /// Whether the machine goes down: jobs that do not fit to that are refused by then.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn machine_goes_down(&self) -> Result<bool, UnitError> {
        let state = |manager: ManagerProxy<'static>| async move { manager.system_state().await };
        let state =
            self.ask(ANSWER_TIMEOUT_SECS, || "ask for the state of the machine".into(), state).await?;
        Ok(state == "stopping")
    }

    /// The processes in a control group.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn processes_in(&self, unit: &str, group: &str) -> Result<Vec<Process>, UnitError> {
        self.cgroups.processes(group).map_err(|why| UnitError::Processes { unit: unit.into(), why })
    }

    async fn until_empty(&self, unit: &str, group: &str) -> Result<(), UnitError> {
        let deadline = Instant::now() + self.leftover_timeout;
        loop {
            let left = self.processes_in(unit, group)?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(UnitError::LeftOver {
                    unit: unit.into(),
                    after: self.leftover_timeout,
                    processes: left,
                });
            }
            tokio::time::sleep(Duration::from_millis(CGROUP_POLL_MILLIS)).await;
        }
    }

    /// The manager, with signals asked for; connected anew if the bus was lost.
    async fn manager(&self) -> Result<ManagerProxy<'static>, UnitError> {
        let mut held = self.manager.lock().await;
        if let Some(manager) = held.as_ref().filter(|manager| !manager.inner().connection().is_closed()) {
            return Ok(manager.clone());
        }
        *held = None;
        let connect = async {
            let connection = match &self.address {
                BusAddress::System => zbus::Connection::system().await?,
                BusAddress::At(address) => {
                    zbus::connection::Builder::address(address.as_str()).build().await?
                }
            };
            let manager = ManagerProxy::builder(&connection)
                .cache_properties(zbus::proxy::CacheProperties::No)
                .build()
                .await?;
            manager.subscribe().await?;
            Ok(manager)
        };
        let manager = within(ANSWER_TIMEOUT_SECS, || "reach systemd over D-Bus".into(), connect).await?;
        *held = Some(manager.clone());
        Ok(manager)
    }

    /// The manager, once the bus that was lost is there again.
    async fn reconnected(&self) -> Result<ManagerProxy<'static>, UnitError> {
        *self.manager.lock().await = None;
        let deadline = Instant::now() + Duration::from_secs(RECONNECT_SECS);
        loop {
            match self.manager().await {
                // The bus may be there before systemd has found it.
                Err(error)
                    if Instant::now() < deadline && (error.is_lost() || error.is_unknown_service()) =>
                {
                    tokio::time::sleep(Duration::from_millis(RECONNECT_POLL_MILLIS)).await;
                }
                result => return result,
            }
        }
    }

    /// Asks something that does no harm when it is asked twice: if the bus is lost meanwhile, it is asked once more.
    async fn ask<T, F>(
        &self,
        limit_secs: u64,
        tried: impl Fn() -> String,
        question: impl Fn(ManagerProxy<'static>) -> F,
    ) -> Result<T, UnitError>
    where
        F: Future<Output = zbus::Result<T>>,
    {
        let manager = self.manager().await?;
        match within(limit_secs, &tried, question(manager)).await {
            Err(error) if error.is_lost() => {
                let manager = self.reconnected().await?;
                within(limit_secs, &tried, question(manager)).await
            }
            answer => answer,
        }
    }
}

async fn within<T>(
    limit_secs: u64,
    tried: impl FnOnce() -> String,
    work: impl Future<Output = zbus::Result<T>>,
) -> Result<T, UnitError> {
    let limit = Duration::from_secs(limit_secs);
    match tokio::time::timeout(limit, work).await {
        Ok(answer) => answer.map_err(|why| UnitError::refused(tried(), why)),
        Err(_) => Err(UnitError::NoAnswer { tried: tried(), after: limit }),
    }
}
