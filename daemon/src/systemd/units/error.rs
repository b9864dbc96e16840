//! Why a unit is not as it should be.

use super::job::Verb;
use super::status::UnitStatus;
use crate::systemd::processes::{Process, listed};
use connect_migrator_sdk::StepError;
use std::fmt;
use std::io;
use std::time::Duration;

/// Why a unit is not as it should be. Displayed as "could not …: …; …": what was tried, why it failed, what to do now.
#[derive(Debug)]
#[non_exhaustive]
pub enum UnitError {
    /// systemd, or the bus, refused.
    Refused {
        /// What was tried, on what.
        tried: String,
        /// What was answered.
        why: zbus::Error,
    },
    /// Nobody answered.
    NoAnswer {
        /// What was tried, on what.
        tried: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The job ended otherwise than with `done`.
    Job {
        /// What was to be done.
        verb: Verb,
        /// With which unit.
        unit: String,
        /// systemd's word: `failed`, `canceled`, `timeout`, `dependency`, `skipped`, …
        result: String,
    },
    /// The job did not end.
    JobTimedOut {
        /// What was to be done.
        verb: Verb,
        /// With which unit.
        unit: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// systemd says `done`, but the unit is in another state.
    State {
        /// What was to be done.
        verb: Verb,
        /// With which unit.
        unit: String,
        /// The state it is in.
        state: String,
    },
    /// The unit is inactive, but some of its processes live on.
    LeftOver {
        /// Of which unit.
        unit: String,
        /// How long it was waited for.
        after: Duration,
        /// Which.
        processes: Vec<Process>,
    },
    /// A property is missing or of another type than documented.
    Property {
        /// Of which unit.
        unit: String,
        /// Which.
        property: &'static str,
    },
    /// The control group cannot be read.
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
    pub(crate) fn is_lost(&self) -> bool {
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

    /// systemd is not on the bus.
    pub(super) fn is_unknown_service(&self) -> bool {
        matches!(self, UnitError::Refused { why: zbus::Error::FDO(why), .. }
            if matches!(**why, zbus::fdo::Error::ServiceUnknown(_) | zbus::fdo::Error::NameHasNoOwner(_)))
    }

    /// The property, of `candidates`, which systemd says that it does not know.
    pub(crate) fn unknown_property<'a>(&self, candidates: &[&'a str]) -> Option<&'a str> {
        let UnitError::Refused { why: zbus::Error::FDO(why), .. } = self else { return None };
        let zbus::fdo::Error::PropertyReadOnly(text) = &**why else { return None };
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words.find_map(|word| candidates.iter().find(|name| **name == word).copied())
    }

    /// What was tried, on what, as it follows "could not".
    fn tried(&self) -> String {
        match self {
            UnitError::Refused { tried, .. } | UnitError::NoAnswer { tried, .. } => tried.clone(),
            UnitError::Job { verb, unit, .. }
            | UnitError::JobTimedOut { verb, unit, .. }
            | UnitError::State { verb, unit, .. } => format!("{verb} {unit}"),
            UnitError::LeftOver { unit, .. } => format!("see the last process of {unit} end"),
            UnitError::Property { unit, .. } => format!("read the state of {unit}"),
            UnitError::Processes { unit, .. } => format!("read which processes {unit} has"),
        }
    }

    fn why(&self) -> String {
        match self {
            UnitError::Refused { why, .. } => why.to_string(),
            UnitError::NoAnswer { after, .. } => format!("no answer within {} s", after.as_secs()),
            UnitError::Job { result, .. } => format!("{} (`{result}`)", meaning(result)),
            UnitError::JobTimedOut { after, .. } => format!("it did not end within {} s", after.as_secs()),
            UnitError::State { state, .. } => format!("systemd says it is done, but the unit is {state}"),
            UnitError::LeftOver { after, processes, .. } => {
                format!(
                    "it is stopped, but after {} s these still run: {}",
                    after.as_secs(),
                    listed(processes)
                )
            }
            UnitError::Property { property, .. } => format!("systemd's answer has no usable `{property}`"),
            UnitError::Processes { why, .. } => why.to_string(),
        }
    }

    fn remedy(&self) -> String {
        match self {
            UnitError::Refused { why, .. } => advice(why).into(),
            UnitError::NoAnswer { .. } => "see `systemctl status dbus` and `journalctl -u dbus`".into(),
            UnitError::JobTimedOut { unit, .. } => {
                format!("see `systemctl list-jobs` and `journalctl -u {unit}`")
            }
            UnitError::Job { unit, .. } | UnitError::State { unit, .. } => {
                format!("see `journalctl -u {unit}`")
            }
            UnitError::LeftOver { .. } => "end them, then try again".into(),
            UnitError::Property { .. } => String::new(),
            UnitError::Processes { .. } => {
                "see that /sys/fs/cgroup is mounted and that this runs as root".into()
            }
        }
    }
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {}: {}", self.tried(), self.why())?;
        let remedy = self.remedy();
        if remedy.is_empty() { Ok(()) } else { write!(f, "; {remedy}") }
    }
}

impl std::error::Error for UnitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            UnitError::Refused { why, .. } => Some(why),
            UnitError::Processes { why, .. } => Some(why),
            _ => None,
        }
    }
}

impl From<UnitError> for StepError {
    fn from(error: UnitError) -> Self {
        StepError::new(error.tried()).because(error.why()).remedy(error.remedy())
    }
}

/// What to do about an answer.
fn advice(why: &zbus::Error) -> &'static str {
    const BUS: &str = "see `systemctl status dbus`";
    const MOVE: &str = "move the unit's file from /etc/systemd/system to /usr/local/lib/systemd/system, then run \
                        `systemctl daemon-reload`";
    match why {
        zbus::Error::Connection(..) | zbus::Error::InputOutput(_) => BUS,
        zbus::Error::FDO(why) => match **why {
            zbus::fdo::Error::AccessDenied(_) => "run as root",
            zbus::fdo::Error::ServiceUnknown(_) | zbus::fdo::Error::NameHasNoOwner(_) => {
                "systemd must be what started this machine"
            }
            zbus::fdo::Error::FileExists(_) => MOVE,
            _ => "",
        },
        // What systemd answers when a file lies where the link of a mask would be.
        zbus::Error::MethodError(name, ..) if name.as_str() == "org.freedesktop.systemd1.UnitExists" => MOVE,
        _ => "",
    }
}

/// systemd's words for the end of a job.
fn meaning(result: &str) -> &'static str {
    match result {
        "failed" => "the job failed",
        "canceled" => "another job took its place",
        "timeout" => "the job took longer than systemd allows jobs to take",
        "dependency" => "a unit that it depends on failed",
        "skipped" => "systemd skipped the job, as it does not apply to the unit's state",
        "invalid" => "the unit cannot do this in its state",
        "assert" => "one of the unit's assertions failed",
        "unsupported" => "this machine does not support units of this kind",
        "collected" => "the unit was removed from memory",
        "once" => "the unit starts only once per boot",
        "frozen" => "the unit is frozen",
        "concurrency" => "too many units of its slice are active",
        _ => "the job ended in a way that is not known here",
    }
}
