//! Our own D-Bus interface: a name and an object for each instance.
//!
//! Only root may call the methods (`packaging/dbus`); `connect-migrator rollback` and `commit` do.

use crate::engine::{Command, Reply};
use crate::instance::Instance;
use crate::service::Teller;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use zbus::fdo;

/// The prefix of every instance's name.
pub const NAME_PREFIX: &str = "org.connect_migrator";
/// The object at every name.
pub const PATH: &str = "/org/connect_migrator/migration";
/// How long a command waits for the engine to take it.
const COMMAND_TIMEOUT_SECS: u64 = 30;
/// How long whoever only watches waits for an answer.
const WATCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The bus name of an instance: `org.connect_migrator.prod`.
#[must_use]
pub fn name_of(instance: &Instance) -> String {
    let name = instance.name().replace('-', "_");
    let first_is_digit = name.chars().next().is_some_and(|first| first.is_ascii_digit());
    format!("{NAME_PREFIX}.{}{name}", if first_is_digit { "_" } else { "" })
}

/// The bus cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("could not take the name {name} on the system bus: {why}")]
pub struct BusError {
    name: String,
    why: zbus::Error,
}

/// The name is held for as long as this lives.
#[derive(Debug)]
pub struct Bus {
    _connection: zbus::Connection,
}

impl Bus {
    /// Takes the name of the instance and serves its object.
    ///
    /// # Errors
    /// When there is no bus, or its policy does not let us.
    pub async fn serve(
        instance: &Instance,
        commands: mpsc::Sender<(Command, Reply)>,
        teller: Arc<Teller>,
    ) -> Result<Self, BusError> {
        let name = name_of(instance);
        let served = async {
            zbus::connection::Builder::system()
                .serve_at(PATH, Migration { commands, teller, instance: instance.name().into() })
                .name(name.as_str())
                .build()
                .await
        };
        match served.await {
            Ok(connection) => Ok(Bus { _connection: connection }),
            Err(why) => Err(BusError { name, why }),
        }
    }
}

struct Migration {
    commands: mpsc::Sender<(Command, Reply)>,
    teller: Arc<Teller>,
    instance: String,
}

impl Migration {
    async fn ask(&self, command: Command) -> fdo::Result<String> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.commands.send((command, reply)).await.map_err(|_| "the run has just ended".to_owned())?;
            answer.await.map_err(|_| "the run has just ended".to_owned())?
        };
        match tokio::time::timeout(Duration::from_secs(COMMAND_TIMEOUT_SECS), asked).await {
            Ok(answer) => answer.map_err(fdo::Error::Failed),
            Err(_) => Err(fdo::Error::TimedOut(
                "the engine did not take the command in time; see the journal".into(),
            )),
        }
    }
}

#[zbus::interface(name = "org.connect_migrator.Migration1")]
impl Migration {
    /// Takes the way back. Answers what will happen.
    async fn rollback(&self) -> fdo::Result<String> {
        self.ask(Command::Rollback).await
    }

    /// Ends the soak. Answers what will happen.
    async fn commit(&self) -> fdo::Result<String> {
        self.ask(Command::Commit).await
    }

    /// Stops at the next safe point. Answers when that is.
    async fn park(&self) -> fdo::Result<String> {
        self.ask(Command::Park).await
    }

    /// The name after the `@`.
    #[zbus(property)]
    async fn instance(&self) -> String {
        self.instance.clone()
    }

    /// The migration's id.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn migration_id(&self) -> String {
        self.teller.shown().migration
    }

    /// The phase.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn phase(&self) -> String {
        self.teller.shown().phase
    }

    /// The step that is being called.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn step(&self) -> String {
        self.teller.shown().step
    }

    /// How far the running call has come, as one JSON object; empty when it tells nothing.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn progress(&self) -> String {
        let progress = self.teller.shown().progress;
        progress.and_then(|live| serde_json::to_string(&live).ok()).unwrap_or_default()
    }

    /// One line on what is being done.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn status(&self) -> String {
        self.teller.shown().status
    }
}

/// Whether a daemon of the instance answers, and what it says to a method of its object.
///
/// # Errors
/// When the bus cannot be reached, or the daemon refuses; `Ok(None)` when no daemon runs.
pub async fn ask(instance: &Instance, method: &str) -> Result<Option<String>, String> {
    let lost = |error: zbus::Error| format!("could not ask the daemon on the system bus: {error}");
    let connection = zbus::Connection::system().await.map_err(lost)?;
    let name = name_of(instance);
    let known = fdo::DBusProxy::new(&connection).await.map_err(lost)?;
    let bus_name = zbus::names::BusName::try_from(name.as_str()).map_err(|error| error.to_string())?;
    if !known.name_has_owner(bus_name).await.map_err(|error| lost(error.into()))? {
        return Ok(None);
    }
    let called = connection
        .call_method(Some(name.as_str()), PATH, Some("org.connect_migrator.Migration1"), method, &())
        .await;
    match called {
        Ok(reply) => Ok(Some(reply.body().deserialize::<String>().map_err(lost)?)),
        Err(zbus::Error::MethodError(_, Some(why), _)) => Err(why),
        Err(error) => Err(lost(error)),
    }
}

/// Reads what a daemon tells, again and again, over one connection.
#[derive(Debug)]
pub struct Watcher {
    connection: zbus::Connection,
    name: String,
}

impl Watcher {
    /// Of this instance; its daemon need not run.
    ///
    /// # Errors
    /// When there is no bus.
    pub async fn of(instance: &Instance) -> zbus::Result<Self> {
        let connected = tokio::time::timeout(WATCH_TIMEOUT, zbus::Connection::system()).await;
        let connection = connected.map_err(|_| zbus::Error::Failure("the bus does not answer".into()))??;
        Ok(Watcher { connection, name: name_of(instance) })
    }

    /// The property `Progress`; `None` when no daemon runs, or none that may be asked.
    pub async fn progress(&self) -> Option<String> {
        let asked = self.connection.call_method(
            Some(self.name.as_str()),
            PATH,
            Some("org.freedesktop.DBus.Properties"),
            "Get",
            &("org.connect_migrator.Migration1", "Progress"),
        );
        let reply = tokio::time::timeout(WATCH_TIMEOUT, asked).await.ok()?.ok()?;
        let value: zbus::OwnedVariant = reply.body().deserialize().ok()?;
        String::try_from(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instance_has_a_valid_bus_name_of_its_own() {
        for (instance, name) in [
            ("prod", "org.connect_migrator.prod"),
            ("2nd", "org.connect_migrator._2nd"),
            ("eu-west", "org.connect_migrator.eu_west"),
        ] {
            let found = name_of(&Instance::named(instance).unwrap());
            assert_eq!(found, name);
            assert!(zbus::names::WellKnownName::try_from(found.as_str()).is_ok());
        }
    }
}
