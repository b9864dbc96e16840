//! What the process tells by its exit code.

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

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
