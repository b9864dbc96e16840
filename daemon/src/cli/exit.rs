//! What the process tells by its exit code.

use crate::state::LockError;
use std::fmt::Display;
use std::process::ExitCode;

/// The documented exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Something failed.
    Failed = 1,
    /// The command line was not understood.
    Usage = 2,
    /// The migration was rolled back.
    RolledBack = 3,
    /// A check found a blocker.
    Blocked = 4,
    /// An operator is needed.
    NeedsOperator = 5,
    /// The runbook, or the state of the instance, cannot be used.
    Unusable = 6,
    /// Another connect-migrator is at work on this instance.
    Busy = 7,
}

impl Exit {
    /// Prints the error first.
    #[must_use]
    pub fn because(self, error: &dyn Display) -> Self {
        let text = error.to_string();
        // Mistakes in a runbook are drawn with the word already.
        let word = if text.starts_with("error") { "" } else { "error: " };
        complain!("{word}{text}");
        self
    }
}

impl From<&LockError> for Exit {
    fn from(error: &LockError) -> Self {
        match error {
            LockError::Held(_) => Exit::Busy,
            LockError::Io(..) => Exit::Unusable,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::InstanceLock;

    #[test]
    fn a_lock_that_is_held_is_busy_and_one_that_cannot_be_opened_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let held = InstanceLock::take(dir.path()).unwrap();
        assert_eq!(Exit::from(&InstanceLock::take(dir.path()).unwrap_err()), Exit::Busy);
        drop(held);
        let gone = dir.path().join("gone");
        assert_eq!(Exit::from(&InstanceLock::take(&gone).unwrap_err()), Exit::Unusable);
    }
}
