//! What is durable about a migration: an append-only row of events, and a view of them.

mod event;
mod lock;
mod memory;
mod outline;
mod sqlite;
mod view;

pub use event::{CallResult, Cause, End, Event, Failure, MayDo, Record};
pub use lock::{InstanceLock, LockError};
pub use memory::MemoryStore;
pub use outline::{Outline, OutlineStep, Phase, Place};
pub use sqlite::SqliteStore;
pub use view::{CallRecord, Decision, Stop, View, facts_of_items};

/// Where events go. An event is durable when `append` returns.
pub trait Store: Send + Sync {
    /// Appends an event.
    ///
    /// # Errors
    /// When it could not be made durable: the caller must not go on.
    fn append(&self, event: &Event) -> Result<Record, StoreError>;

    /// All events of the current migration, oldest first.
    ///
    /// # Errors
    /// When they cannot be read.
    fn load(&self) -> Result<Vec<Record>, StoreError>;
}

/// The state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("could not {tried} the state {path}: {why}; {remedy}")]
pub struct StoreError {
    /// `open`, `read`, `append to`.
    pub tried: &'static str,
    /// The file.
    pub path: String,
    /// The cause.
    pub why: String,
    /// What to do now.
    pub remedy: String,
}
