//! Why a call did not answer.

use connect_migrator_sdk::StepError;
use std::fmt::{self, Display};
use std::time::Duration;

/// A failed call. Its text is the cause and what to do now; [`CallFailure::cause`] and [`CallFailure::remedy`] are its parts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallFailure {
    /// The step said so itself.
    Step(StepError),
    /// The step panicked; the panic was caught inside the plugin.
    Panicked {
        /// What was called, as in "apply of the step `container` (plugin docker)".
        call: String,
        /// The panic's message and place.
        text: String,
    },
    /// The step host ended before it answered.
    Crashed {
        /// What was called.
        call: String,
        /// How it ended, as it follows "the step host".
        how: String,
    },
    /// The call took longer than it may.
    TimedOut {
        /// What was called.
        call: String,
        /// What it was given.
        after: Duration,
        /// Whether it had to be killed, and for how long it had ignored that it should end.
        ignored_cancel_for: Option<Duration>,
    },
    /// The call was asked to end, and did not.
    IgnoredCancel {
        /// What was called.
        call: String,
        /// For how long.
        ignored_for: Duration,
    },
    /// It was killed before it answered, and its process is still there: what it changes may still change.
    StillRuns {
        /// What was called.
        call: String,
    },
    /// The step host said something that it must not say.
    Protocol {
        /// What was called.
        call: String,
        /// What it said.
        what: String,
    },
    /// The step host said nothing at all in the time that it has to start.
    Silent {
        /// What was called.
        call: String,
        /// How long it had.
        after: Duration,
    },
    /// The plugin was not loaded: its file is not trusted, or it is not made for this daemon. Nothing of it has run, but for
    /// what a shared library runs while it is loaded.
    Refused {
        /// Its file.
        plugin: String,
        /// What is wrong.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// The call does not fit into a frame. It was not made.
    TooLarge {
        /// What was to be called.
        call: String,
        /// Size and limit.
        why: String,
    },
    /// The step host could not be started.
    NotStarted {
        /// What was to be called.
        call: String,
        /// Why not.
        why: String,
    },
}

impl CallFailure {
    /// Whether it is known how far the call came: it ended by itself with an error, or never began. Otherwise the world has to
    /// be looked at.
    #[must_use]
    pub fn outcome_is_known(&self) -> bool {
        match self {
            CallFailure::Step(_)
            | CallFailure::Refused { .. }
            | CallFailure::TooLarge { .. }
            | CallFailure::NotStarted { .. } => true,
            CallFailure::Panicked { .. }
            | CallFailure::Crashed { .. }
            | CallFailure::TimedOut { .. }
            | CallFailure::IgnoredCancel { .. }
            | CallFailure::StillRuns { .. }
            | CallFailure::Protocol { .. }
            | CallFailure::Silent { .. } => false,
        }
    }

    /// What happened.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            CallFailure::Step(error) if error.why.is_empty() => format!("could not {}", error.tried),
            CallFailure::Step(error) => format!("could not {}: {}", error.tried, error.why),
            CallFailure::Panicked { call, text } => format!("{call} panicked: {text}"),
            CallFailure::Crashed { call, how } => format!("{call} crashed: the step host {how}"),
            CallFailure::TimedOut { call, after, ignored_cancel_for } => {
                let after = Spoken(*after);
                match ignored_cancel_for {
                    None => format!("{call} was not done after {after} and was asked to end"),
                    Some(grace) => format!(
                        "{call} was not done after {after}, did not end within {} when asked to, and was killed",
                        Spoken(*grace)
                    ),
                }
            }
            CallFailure::IgnoredCancel { call, ignored_for } => {
                format!("{call} did not end within {} when asked to, and was killed", Spoken(*ignored_for))
            }
            CallFailure::StillRuns { call } => {
                format!("{call} does not end although it was sent SIGKILL: its process hangs in the kernel")
            }
            CallFailure::Protocol { call, what } => {
                format!("{call} broke the protocol between daemon and step host: it sent {what}")
            }
            CallFailure::Silent { call, after } => {
                format!("{call} did not begin: its process said nothing within {}", Spoken(*after))
            }
            CallFailure::Refused { plugin, why, .. } => format!("the plugin {plugin} was not loaded: {why}"),
            CallFailure::TooLarge { call, why } => format!("{call} cannot be called: {why}"),
            CallFailure::NotStarted { call, why } => {
                format!("{call} was not called: the step host could not be started: {why}")
            }
        }
    }

    /// What to do now.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            CallFailure::Step(error) => error.remedy.clone(),
            CallFailure::Refused { remedy, .. } => remedy.clone(),
            CallFailure::Panicked { .. } | CallFailure::Crashed { .. } | CallFailure::Protocol { .. } => {
                "this is a fault of the plugin: install another version of it, and send its author the log of this run".into()
            }
            CallFailure::TimedOut { .. } => {
                "see in the log of this run what it waited for; give it more time if that is all it needs (a plugin that hangs while it is \
                 loaded has logged nothing)"
                    .into()
            }
            CallFailure::Silent { .. } => {
                "start again when the machine is less busy (`uptime`, `systemctl list-jobs`)".into()
            }
            CallFailure::IgnoredCancel { .. } => "see in the log of this run what it was busy with".into(),
            CallFailure::StillRuns { .. } => {
                "see `systemctl list-units 'connect-migrator-step-*'` and mend what it hangs on (a mount, a disk); nothing else is done \
                 before it has ended"
                    .into()
            }
            CallFailure::TooLarge { .. } => "report this with the runbook; nothing was changed by this call".into(),
            CallFailure::NotStarted { .. } => {
                "look whether the package is complete and the machine has memory and processes to spare".into()
            }
        }
    }
}

impl Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause())?;
        match self.remedy() {
            remedy if remedy.is_empty() => Ok(()),
            remedy => write!(f, "; {remedy}"),
        }
    }
}

/// A duration as one says it.
struct Spoken(Duration);

impl Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        match self.0.as_secs() {
            0 => write!(f, "{millis} ms"),
            seconds if seconds >= 120 && seconds.is_multiple_of(60) => write!(f, "{} min", seconds / 60),
            seconds if millis.is_multiple_of(1000) => write!(f, "{seconds} s"),
            _ => write!(f, "{:.1} s", self.0.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spoken_as_a_person_would() {
        let spoken = |millis| Spoken(Duration::from_millis(millis)).to_string();
        assert_eq!(
            [spoken(80), spoken(1500), spoken(90_000), spoken(1_800_000)],
            ["80 ms", "1.5 s", "90 s", "30 min"]
        );
    }

    #[test]
    fn a_failure_of_the_step_reads_as_the_step_wrote_it() {
        let error =
            StepError::new("pull the image").because("no route to host").remedy("look at the network");
        assert_eq!(CallFailure::Step(error.clone()).to_string(), error.to_string());
    }
}
