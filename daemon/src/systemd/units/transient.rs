//! Units without a file: made, signalled, and watched until they are gone.

use super::{ANSWER_TIMEOUT_SECS, UnitError, Units, within};
use crate::systemd::proxies::{ManagerProxy, SERVICE_INTERFACE, SYSTEMD_NAME, UNIT_INTERFACE};
use nix::sys::signal::Signal;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use zbus::fdo::PropertiesProxy;
use zbus::names::InterfaceName;
use zbus::{OwnedVariant, Variant};

/// How often a unit is looked at that is about to end.
const END_POLL_MILLIS: u64 = 5;
/// A unit that is there already stays as it is.
const MODE: &str = "fail";
/// What systemd answers about a unit that it does not have.
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// `CLD_EXITED` in `ExecMainCode`.
const EXITED: i32 = 1;

/// How the last run of a transient unit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRun {
    /// How its main process ended, if it did.
    pub main: Option<Ended>,
    /// `success`, `exit-code`, `signal`, `oom-kill`, `timeout`, …
    pub result: String,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal of this number.
    Killed(i32),
}

impl Units {
    /// Makes and starts a unit. It is held: [`Units::last_run`] can be asked after its end, until [`Units::let_go`].
    ///
    /// # Errors
    /// When systemd refuses, or the bus is lost on the way: then the unit may have been started.
    pub async fn start_transient(
        &self,
        unit: &str,
        properties: &[(&str, Variant<'_>)],
    ) -> Result<(), UnitError> {
        let manager = self.manager().await?;
        let start = async {
            manager.start_transient_unit(unit, MODE, properties, &[]).await?;
            Ok(())
        };
        within(ANSWER_TIMEOUT_SECS, || format!("start {unit}"), start).await
    }

    /// Sends a signal to all processes of a unit. One that is gone has none.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn kill(&self, unit: &str, signal: Signal) -> Result<(), UnitError> {
        let kill = |manager: ManagerProxy<'static>| async move {
            match manager.kill_unit(unit, "all", signal as i32).await {
                // Of a unit without processes, or without itself.
                Err(zbus::Error::MethodError(..)) => Ok(()),
                answer => answer,
            }
        };
        self.ask(ANSWER_TIMEOUT_SECS, || format!("send {} to {unit}", signal.as_str()), kill).await
    }

    /// Holds a unit that somebody else started. `false` when it is gone.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn hold(&self, unit: &str) -> Result<bool, UnitError> {
        let hold = |manager: ManagerProxy<'static>| async move {
            match manager.ref_unit(unit).await {
                Ok(()) => Ok(true),
                Err(error) if is_unknown(&error) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.ask(ANSWER_TIMEOUT_SECS, || format!("hold {unit}"), hold).await
    }

    /// Lets systemd forget a unit that was held.
    pub async fn let_go(&self, unit: &str) {
        if let Ok(manager) = self.manager().await {
            // When the bus was lost meanwhile, systemd has forgotten it already.
            let _ = manager.unref_unit(unit).await;
        }
    }

    /// The units that match, those excepted that have ended.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn running(&self, pattern: &str) -> Result<Vec<String>, UnitError> {
        let list = |manager: ManagerProxy<'static>| async move {
            let listed = manager.list_units_by_patterns(&[], &[pattern]).await?;
            Ok(listed
                .into_iter()
                .filter(|unit| !matches!(unit.3.as_str(), "inactive" | "failed"))
                .map(|unit| unit.0)
                .collect())
        };
        self.ask(ANSWER_TIMEOUT_SECS, || format!("list the units {pattern}"), list).await
    }

    /// Whether the unit runs, is about to, or still has processes.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn is_running(&self, unit: &str) -> Result<bool, UnitError> {
        let read = |manager: ManagerProxy<'static>| async move {
            let Some(properties) = properties_of(&manager, unit).await? else { return Ok(None) };
            let interface = InterfaceName::try_from(UNIT_INTERFACE)?;
            let state = match properties.get(interface, "ActiveState").await {
                Ok(state) => text(Some(&state)),
                Err(error) => return unless_gone(error).map(|()| None),
            };
            if !matches!(state.as_str(), "inactive" | "failed") {
                return Ok(Some(None));
            }
            let interface = InterfaceName::try_from(SERVICE_INTERFACE)?;
            match properties.get(interface, "ControlGroup").await {
                Ok(group) => Ok(Some(Some(text(Some(&group))))),
                Err(error) => unless_gone(error).map(|()| None),
            }
        };
        let found = self.ask(ANSWER_TIMEOUT_SECS, || format!("look whether {unit} runs"), read).await?;
        Ok(match found {
            None => false,
            Some(None) => true,
            // systemd gives up on what even SIGKILL does not end.
            Some(Some(group)) => !self.processes_in(unit, &group)?.is_empty(),
        })
    }

    /// Waits until the unit has ended and has no process left. `false` when it has not `limit` later.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn await_end(&self, unit: &str, limit: Duration) -> Result<bool, UnitError> {
        let deadline = Instant::now() + limit;
        loop {
            if !self.is_running(unit).await? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(END_POLL_MILLIS)).await;
        }
    }

    /// How the unit ended; `None` when it runs or is not known.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn last_run(&self, unit: &str) -> Result<Option<LastRun>, UnitError> {
        if self.is_running(unit).await? {
            return Ok(None);
        }
        let read = |manager: ManagerProxy<'static>| async move {
            let Some(properties) = properties_of(&manager, unit).await? else { return Ok(None) };
            match properties.get_all(InterfaceName::try_from(SERVICE_INTERFACE)?).await {
                Ok(all) => Ok(Some(all)),
                Err(error) => unless_gone(error).map(|()| None),
            }
        };
        let all: Option<HashMap<String, OwnedVariant>> =
            self.ask(ANSWER_TIMEOUT_SECS, || format!("read how {unit} ended"), read).await?;
        let Some(all) = all else { return Ok(None) };
        let number = |property: &str| match all.get(property).map(|value| &**value) {
            Some(Variant::I32(number)) => *number,
            _ => 0,
        };
        let main = match (number("ExecMainCode"), number("ExecMainStatus")) {
            (0, _) => None,
            (EXITED, status) => Some(Ended::Exited(status)),
            (_, signal) => Some(Ended::Killed(signal)),
        };
        Ok(Some(LastRun { main, result: text(all.get("Result")) }))
    }
}

/// `None` when systemd does not know the unit.
async fn properties_of(
    manager: &ManagerProxy<'static>,
    unit: &str,
) -> zbus::Result<Option<PropertiesProxy<'static>>> {
    let path = match manager.get_unit(unit).await {
        Ok(path) => path,
        Err(error) if is_unknown(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let builder = PropertiesProxy::builder(manager.inner().connection());
    builder.destination(SYSTEMD_NAME).path(path).build().await.map(Some)
}

/// What systemd says of a unit that it does not have.
fn is_unknown(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..) if name.as_str() == NO_SUCH_UNIT)
}

/// The unit's object has gone between two questions.
fn unless_gone(error: zbus::fdo::Error) -> zbus::Result<()> {
    use zbus::fdo::Error::{UnknownInterface, UnknownMethod, UnknownObject, UnknownProperty};
    match error {
        UnknownObject(_) | UnknownInterface(_) | UnknownMethod(_) | UnknownProperty(_) => Ok(()),
        error => Err(error.into()),
    }
}

fn text(value: Option<&OwnedVariant>) -> String {
    match value.map(|value| &**value) {
        Some(Variant::Str(text)) => text.to_string(),
        _ => String::new(),
    }
}
