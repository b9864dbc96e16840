//! Why a unit is not as it should be.

use super::job::Verb;
use super::status::UnitStatus;
use crate::systemd::processes::{Process, listed};
use std::io;
use std::time::Duration;

/// Why a unit is not as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// systemd, or the bus, refused.
    #[error("could not {tried}: {why}{}", advice(.why))]
    Refused {
        /// What was tried, on what.
        tried: String,
        /// What was answered.
        why: zbus::Error,
    },
    /// Nobody answered.
    #[error("could not {tried}: no answer within {} s; see `systemctl status dbus` and `journalctl -u dbus`", .after.as_secs())]
    NoAnswer {
        /// What was tried, on what.
        tried: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The job ended otherwise than with `done`.
    #[error("could not {verb} {unit}: {}; see `journalctl -u {unit}`", .meaning)]
    Job {
        /// What was to be done.
        verb: Verb,
        /// With which unit.
        unit: String,
        /// systemd's word: `failed`, `canceled`, `timeout`, `dependency`, `skipped`, …
        result: String,
        /// What that means.
        meaning: String,
    },
    /// The job did not end.
    #[error("could not {verb} {unit}: it did not end within {} s; see `systemctl list-jobs` and `journalctl -u {unit}`", .after.as_secs())]
    JobTimedOut {
        /// What was to be done.
        verb: Verb,
        /// With which unit.
        unit: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// systemd says `done`, but the unit is in another state.
    #[error(
        "could not {verb} {unit}: systemd says it is done, but the unit is {state}; see `journalctl -u {unit}`"
    )]
    State {
        /// What was to be done.
        verb: Verb,
        /// With which unit.
        unit: String,
        /// The state it is in.
        state: String,
    },
    /// The unit is inactive, but some of its processes live on.
    #[error("{unit} is stopped, but after {} s these of its processes still run: {}; end them, then try again",
            .after.as_secs(), listed(.processes))]
    LeftOver {
        /// Of which unit.
        unit: String,
        /// How long it was waited for.
        after: Duration,
        /// Which.
        processes: Vec<Process>,
    },
    /// A property is missing or of another type than documented.
    #[error("could not read the state of {unit}: systemd's answer has no usable `{property}`")]
    Property {
        /// Of which unit.
        unit: String,
        /// Which.
        property: &'static str,
    },
    /// The control group cannot be read.
    #[error("could not read which processes {unit} has: {why}; is /sys/fs/cgroup mounted?")]
    Processes {
        /// Of which unit.
        unit: String,
        /// Why.
        why: io::Error,
    },
}

impl UnitError {
    pub(super) fn refused(tried: String, why: zbus::Error) -> Self {
        UnitError::Refused { tried, why }
    }

    pub(super) fn state(verb: Verb, status: &UnitStatus) -> Self {
        UnitError::State { verb, unit: status.unit.clone(), state: status.state_text() }
    }

    /// The bus was lost on the way: the question may be asked again.
    pub(super) fn is_lost(&self) -> bool {
        let UnitError::Refused { why, .. } = self else { return false };
        match why {
            zbus::Error::InputOutput(_) | zbus::Error::Connection(..) => true,
            zbus::Error::FDO(why) => matches!(
                **why,
                zbus::fdo::Error::NoReply(_)
                    | zbus::fdo::Error::Disconnected(_)
                    | zbus::fdo::Error::IOError(_)
            ),
            _ => false,
        }
    }
}

/// What to do about an answer.
fn advice(why: &zbus::Error) -> &'static str {
    match why {
        zbus::Error::Connection(..) | zbus::Error::InputOutput(_) => "; see `systemctl status dbus`",
        zbus::Error::FDO(why) => match **why {
            zbus::fdo::Error::AccessDenied(_) => "; run as root",
            zbus::fdo::Error::ServiceUnknown(_) | zbus::fdo::Error::NameHasNoOwner(_) => {
                "; systemd must be what started this machine"
            }
            zbus::fdo::Error::FileExists(_) => {
                "; move the unit file from /etc/systemd/system to /usr/local/lib/systemd/system, then `systemctl daemon-reload`"
            }
            _ => "",
        },
        _ => "",
    }
}
