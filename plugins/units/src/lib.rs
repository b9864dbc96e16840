//! Units of systemd, as steps need them: looked at, started, stopped, reloaded, enabled, over D-Bus and within bounds.
//!
//! A job is followed until systemd tells how it ended, and only `done` counts. It may end before its path comes back: signals are
//! asked for first (`org.freedesktop.systemd1(5)`).

mod proxies;

use connect_migrator_sdk::StepError;
use futures_util::StreamExt;
use proxies::ManagerProxy;
use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, SystemTime};
use zbus::fdo::PropertiesProxy;
use zbus::names::InterfaceName;
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

/// How long systemd may take to answer anything but a job.
pub const ANSWER_TIMEOUT_SECONDS: u64 = 30;
const ANSWER: Duration = Duration::from_secs(ANSWER_TIMEOUT_SECONDS);

/// How a job takes the place of others.
const MODE: &str = "replace";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";

/// systemd could not be asked, or a unit did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not {tried}: {why}; {remedy}")]
pub struct UnitError {
    /// What was tried, on what, as it follows "could not".
    pub tried: String,
    /// Why it failed.
    pub why: String,
    /// What to do now.
    pub remedy: String,
}

impl From<UnitError> for StepError {
    fn from(error: UnitError) -> Self {
        StepError::new(error.tried).because(error.why).remedy(error.remedy)
    }
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
    /// Its main process; 0 when it has none.
    pub main_pid: u32,
    /// How often systemd started it again by itself.
    pub restarts: u32,
    /// How long it has been active; `None` while it is not.
    pub age: Option<Duration>,
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

/// How long ago the unit became active, by the clock's microseconds at that time.
fn age(active: &str, entered_micros: u64) -> Option<Duration> {
    let entered = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(entered_micros))?;
    // `None` too when the clock was set back since.
    SystemTime::now().duration_since(entered).ok().filter(|_| active == "active" && entered_micros > 0)
}

/// The systemd of this host, or of a bus that a test likes. Connects anew for every call.
#[derive(Debug, Clone, Default)]
pub struct Systemd {
    bus: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Verb {
    Start,
    Stop,
    Reload,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Reload => "reload",
        }
    }
}

impl Systemd {
    /// On another bus than the system's, by its address.
    #[must_use]
    pub fn on_bus(address: &str) -> Self {
        Systemd { bus: Some(address.into()) }
    }

    /// The unit as it is now. One that does not exist is [`Status::is_missing`]. Changes nothing.
    ///
    /// # Errors
    /// When systemd does not say within [`ANSWER_TIMEOUT_SECONDS`].
    pub async fn status(&self, unit: &str) -> Result<Status, UnitError> {
        bounded(format!("read the state of {unit}"), ANSWER, self.look(unit)).await
    }

    /// Starts the unit, and returns when that is done. Idempotent.
    ///
    /// # Errors
    /// When the job does not end with `done` within `limit`.
    pub async fn start(&self, unit: &str, limit: Duration) -> Result<(), UnitError> {
        self.run(Verb::Start, unit, limit).await
    }

    /// Stops the unit, and returns when that is done. Idempotent.
    ///
    /// # Errors
    /// As [`Systemd::start`].
    pub async fn stop(&self, unit: &str, limit: Duration) -> Result<(), UnitError> {
        self.run(Verb::Stop, unit, limit).await
    }

    /// Makes the unit read its own configuration again, and returns when it was told to. Idempotent.
    ///
    /// # Errors
    /// As [`Systemd::start`].
    pub async fn reload(&self, unit: &str, limit: Duration) -> Result<(), UnitError> {
        self.run(Verb::Reload, unit, limit).await
    }

    /// Makes systemd read all unit files again. Idempotent.
    ///
    /// # Errors
    /// When systemd does not within [`ANSWER_TIMEOUT_SECONDS`].
    pub async fn read_units(&self) -> Result<(), UnitError> {
        bounded("make systemd read its units".into(), ANSWER, async { self.manager().await?.reload().await })
            .await
    }

    /// Lets the unit start with the machine. Idempotent.
    ///
    /// # Errors
    /// When it cannot, or systemd does not answer within [`ANSWER_TIMEOUT_SECONDS`].
    pub async fn enable(&self, unit: &str) -> Result<(), UnitError> {
        bounded(format!("enable {unit}"), ANSWER, async {
            let manager = self.manager().await?;
            manager.enable_unit_files(&[unit], false, true).await?;
            // A unit that is loaded already learns of its new links only so; `systemctl enable` does the same.
            manager.reload().await
        })
        .await
    }

    /// Lets the unit no longer start with the machine, and forgets that it failed. Idempotent.
    ///
    /// # Errors
    /// As [`Systemd::enable`].
    pub async fn disable(&self, unit: &str) -> Result<(), UnitError> {
        bounded(format!("disable {unit}"), ANSWER, async {
            let manager = self.manager().await?;
            // One that has not failed, or is not loaded, refuses.
            let _ = manager.reset_failed_unit(unit).await;
            manager.disable_unit_files(&[unit], false).await.map(drop)
        })
        .await
    }

    async fn manager(&self) -> zbus::Result<ManagerProxy<'static>> {
        let connection = match &self.bus {
            Some(address) => zbus::connection::Builder::address(address.as_str()).build().await?,
            None => zbus::Connection::system().await?,
        };
        ManagerProxy::new(&connection).await
    }

    async fn look(&self, unit: &str) -> zbus::Result<Status> {
        let manager = self.manager().await?;
        // LoadUnit also answers for a unit that systemd has not needed so far, GetUnit does not.
        let path = manager.load_unit(unit).await?;
        let properties = PropertiesProxy::builder(manager.inner().connection())
            .destination("org.freedesktop.systemd1")
            .path(path)
            .build()
            .await?;
        let mut all = properties.get_all(InterfaceName::try_from(UNIT)?).await?;
        if unit.ends_with(".service") && text(&all, "LoadState") != "not-found" {
            all.extend(properties.get_all(InterfaceName::try_from(SERVICE)?).await?);
        }
        Ok(Status {
            load: text(&all, "LoadState"),
            active: text(&all, "ActiveState"),
            sub: text(&all, "SubState"),
            file: text(&all, "FragmentPath"),
            made_of: text(&all, "SourcePath"),
            wanted_by: texts(&all, "WantedBy"),
            result: text(&all, "Result"),
            exit: value(&all, "ExecMainStatus"),
            main_pid: value(&all, "MainPID"),
            restarts: value(&all, "NRestarts"),
            age: age(&text(&all, "ActiveState"), value(&all, "ActiveEnterTimestamp")),
        })
    }

    /// Answers the job's result.
    async fn job(&self, verb: Verb, unit: &str) -> zbus::Result<String> {
        let manager = self.manager().await?;
        manager.subscribe().await?;
        let mut removed = manager.receive_job_removed().await?;
        let job: OwnedObjectPath = match verb {
            Verb::Start => manager.start_unit(unit, MODE).await?,
            Verb::Stop => manager.stop_unit(unit, MODE).await?,
            Verb::Reload => manager.reload_unit(unit, MODE).await?,
        };
        while let Some(signal) = removed.next().await {
            let arguments = signal.args()?;
            if arguments.job == job {
                return Ok(arguments.result.clone());
            }
        }
        Err(zbus::Error::Failure("the bus closed before the job ended".into()))
    }

    async fn run(&self, verb: Verb, unit: &str, limit: Duration) -> Result<(), UnitError> {
        let tried = format!("{} {unit}", verb.word());
        let result = bounded(tried.clone(), limit, self.job(verb, unit)).await?;
        let why = match result.as_str() {
            "done" => return Ok(()),
            "assert" => "one of its assertions failed",
            "dependency" => "a unit that it needs could not be started",
            "canceled" => "another job took its place",
            "timeout" => "it took too long",
            _ => "the job failed",
        };
        Err(UnitError {
            tried,
            why: format!("{why} (`{result}`)"),
            remedy: format!("see `systemctl status '{unit}'` and `journalctl -u '{unit}'`"),
        })
    }
}

type Properties = HashMap<String, OwnedVariant>;

fn text(all: &Properties, name: &str) -> String {
    match all.get(name).map(|value| &**value) {
        Some(Variant::Str(text)) => text.to_string(),
        _ => String::new(),
    }
}

fn texts(all: &Properties, name: &str) -> Vec<String> {
    let Some(Variant::Array(values)) = all.get(name).map(|value| &**value) else { return Vec::new() };
    let texts = values.iter().filter_map(|value| match value {
        Variant::Str(text) => Some(text.to_string()),
        _ => None,
    });
    texts.collect()
}

fn value<T: TryFrom<i64> + Default>(all: &Properties, name: &str) -> T {
    let number = match all.get(name).map(|value| &**value) {
        Some(Variant::I32(number)) => i64::from(*number),
        Some(Variant::U32(number)) => i64::from(*number),
        _ => 0,
    };
    T::try_from(number).unwrap_or_default()
}

async fn bounded<T>(
    tried: String,
    limit: Duration,
    asked: impl Future<Output = zbus::Result<T>>,
) -> Result<T, UnitError> {
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            Err(UnitError { tried, why: error.to_string(), remedy: "see `systemctl status dbus`".into() })
        }
        Err(_) => Err(UnitError {
            tried,
            why: format!("systemd was not done within {} s", limit.as_secs()),
            remedy: "see `systemctl list-jobs`".into(),
        }),
    }
}
