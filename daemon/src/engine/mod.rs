//! The run: check, prepare, apply, verify, soak, commit, rollback. No I/O but through traits.

mod call;
mod decide;
mod findings;
mod plan;
mod run;
#[cfg(test)]
mod simulation;
mod window;

pub use call::{Called, Caller, Ended, NextCall, NoteTaker, RealEnd, Secrets, ended_reading};
pub use decide::{Next, next};
pub use findings::{StepFindings, findings, has_blocker};
pub use plan::{Plan, PlannedStep};
pub use run::{Clock, Command, Engine, EngineError, Finish, Note, Observer, Reply, WallClock};
pub use window::{NOTHING_TO_ABORT, Span, users_have_moved, windows};
