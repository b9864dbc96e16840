//! Our own D-Bus interface: a name and an object for each instance.
//!
//! The bus lets everybody look and call (`packaging/dbus`); before a method does anything, polkit is asked (`packaging/polkit`).
//! The properties and signals say no more than `systemctl status` does.

mod authority;
mod broadcast;
mod migration;

pub use authority::Action;

use crate::engine::{Command, Reply};
use crate::instance::Instance;
use crate::service::{Live, Shown, Status, Teller};
use crate::systemd::units::BusAddress;
use migration::Migration;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use zbus::fdo;
use zbus::proxy::MethodFlags;

/// The prefix of every instance's name.
pub const NAME_PREFIX: &str = "org.connect_migrator";
/// The object at every name.
pub const PATH: &str = "/org/connect_migrator/migration";
/// The interface of the object.
pub const INTERFACE: &str = "org.connect_migrator.Migration1";
/// How long the last signals may take.
const FAREWELL_TIMEOUT_MILLIS: u64 = 500;
/// How long an answer may take: the daemon itself waits up to 30 s for its engine.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);
/// The same where a person may be asked for a password first.
const ASK_PERSON_TIMEOUT: Duration = Duration::from_secs(300);
/// How long whoever only watches waits for an answer.
const WATCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The bus name of an instance: `org.connect_migrator.prod`.
#[must_use]
pub fn name_of(instance: &Instance) -> String {
    let name = instance.name();
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
    name: String,
    connection: zbus::Connection,
    teller: Arc<Teller>,
    signals: JoinHandle<()>,
}

impl Bus {
    /// Takes the name of the instance and serves its object.
    ///
    /// # Errors
    /// When there is no bus, or its policy does not let us.
    pub async fn serve(
        address: BusAddress,
        instance: &Instance,
        commands: mpsc::Sender<(Command, Reply)>,
        teller: Arc<Teller>,
    ) -> Result<Self, BusError> {
        let name = name_of(instance);
        let object = Migration {
            commands,
            teller: Arc::clone(&teller),
            instance: instance.clone(),
            looking: Mutex::new(()),
        };
        let served = async {
            let builder = match &address {
                BusAddress::System => zbus::connection::Builder::system(),
                BusAddress::At(address) => zbus::connection::Builder::address(address.as_str()),
            };
            builder.serve_at(PATH, object).name(name.as_str()).build().await
        };
        let connection = match served.await {
            Ok(connection) => connection,
            Err(why) => return Err(BusError { name, why }),
        };
        let signals = tokio::spawn(broadcast::broadcast(connection.clone(), Arc::clone(&teller)));
        Ok(Bus { name, connection, teller, signals })
    }

    /// Tells the end, and gives the name back.
    pub async fn close(self) {
        let told = async {
            let _ = broadcast::tell_what_changed(&self.connection, &self.teller, &mut Shown::default()).await;
            // Released by a call, so that the name is gone when this returns: a closed connection is noticed by the bus in its own time.
            let _ = self.connection.release_name(self.name.as_str()).await;
            let _ = self.connection.clone().graceful_shutdown().await;
        };
        // Whoever waits for the name to go must not wait for long.
        let _ = tokio::time::timeout(Duration::from_millis(FAREWELL_TIMEOUT_MILLIS), told).await;
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.signals.abort();
    }
}

/// Whether a daemon of the instance answers, and what it says to a method of its object.
///
/// # Errors
/// When the bus cannot be reached, or the daemon refuses; `Ok(None)` when no daemon runs.
pub async fn ask(instance: &Instance, method: &str) -> Result<Option<String>, String> {
    Watcher::of(instance).await.map_err(|error| lost(&error))?.ask(method).await
}

fn lost(error: &zbus::Error) -> String {
    format!("could not ask the daemon on the system bus: {error}")
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
        Watcher::on(BusAddress::System, instance).await
    }

    /// Of this instance on this bus.
    ///
    /// # Errors
    /// When there is no bus.
    pub async fn on(address: BusAddress, instance: &Instance) -> zbus::Result<Self> {
        let connect = async {
            match &address {
                BusAddress::System => zbus::Connection::system().await,
                BusAddress::At(address) => zbus::connection::Builder::address(address.as_str()).build().await,
            }
        };
        let connected = tokio::time::timeout(WATCH_TIMEOUT, connect).await;
        let connection = connected.map_err(|_| zbus::Error::Failure("the bus does not answer".into()))??;
        Ok(Watcher { connection, name: name_of(instance) })
    }

    /// What the daemon says to a method of its object; `Ok(None)` when no daemon runs.
    ///
    /// # Errors
    /// When the bus fails, or the daemon refuses.
    pub async fn ask(&self, method: &str) -> Result<Option<String>, String> {
        // Whoever sits at a terminal can be asked for a password.
        self.call(method, std::io::stdin().is_terminal()).await
    }

    async fn call(&self, method: &str, interactive: bool) -> Result<Option<String>, String> {
        use fdo::Error as Said;
        let mut flags = MethodFlags::NO_AUTO_START;
        flags.set(MethodFlags::ALLOW_INTERACTIVE_AUTH, interactive);
        let asked = async {
            let object: zbus::Proxy<'_> = zbus::proxy::Builder::new(&self.connection)
                .destination(self.name.as_str())
                .path(PATH)
                .interface(INTERFACE)
                .cache_properties(zbus::proxy::CacheProperties::No)
                .build()
                .await?;
            object.call_with_flags(method, flags, &()).await
        };
        let within = if interactive { ASK_PERSON_TIMEOUT } else { ASK_TIMEOUT };
        let Ok(answer) = tokio::time::timeout(within, asked).await else {
            return Err(format!(
                "the daemon did not answer `{method}` within {} s; what was asked may be done all the same: see \
                 `connect-migrator status`",
                within.as_secs()
            ));
        };
        match answer {
            Ok(answer) => Ok(answer),
            Err(zbus::Error::FDO(error)) => match *error {
                // It does not run, or it has ended before it answered.
                Said::ServiceUnknown(_) | Said::NameHasNoOwner(_) | Said::NoReply(_) => Ok(None),
                Said::Failed(why)
                | Said::AccessDenied(why)
                | Said::InteractiveAuthorizationRequired(why)
                | Said::LimitsExceeded(why)
                | Said::TimedOut(why) => Err(why),
                error => Err(lost(&zbus::Error::from(error))),
            },
            Err(zbus::Error::MethodError(_, Some(why), _)) => Err(why),
            Err(error) => Err(lost(&error)),
        }
    }

    /// Where the migration stands, from the daemon itself: for those who may not read the state. `Ok(None)` when no daemon runs.
    ///
    /// # Errors
    /// When the bus fails, the daemon refuses, or its answer is not understood.
    pub async fn status(&self) -> Result<Option<Status>, String> {
        // Asked twice a second by whoever follows: a password cannot be asked for each time.
        let Some(text) = self.call("Report", false).await? else { return Ok(None) };
        serde_json::from_str(&text).map_err(|error| {
            format!("the daemon's report was not understood: {error}; it may be of another version than this command")
        })
    }

    /// The property `Progress`: `None` when no daemon runs, or none that may be asked; `Some(None)` when its step tells nothing.
    pub async fn progress(&self) -> Option<Option<Live>> {
        let asked = self.connection.call_method(
            Some(self.name.as_str()),
            PATH,
            Some("org.freedesktop.DBus.Properties"),
            "Get",
            &(INTERFACE, "Progress"),
        );
        let reply = tokio::time::timeout(WATCH_TIMEOUT, asked).await.ok()?.ok()?;
        let value: zbus::OwnedVariant = reply.body().deserialize().ok()?;
        Some(migration::live(migration::Told::try_from(value).ok()?))
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
            ("eu_west", "org.connect_migrator.eu_west"),
            ("eu-west", "org.connect_migrator.eu-west"),
        ] {
            let found = name_of(&Instance::named(instance).unwrap());
            assert_eq!(found, name);
            assert!(zbus::names::WellKnownName::try_from(found.as_str()).is_ok());
        }
    }
}
