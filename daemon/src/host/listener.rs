//! What a call may ask of whoever makes it.

use connect_migrator_sdk::{LogLevel, Progress, Secret};
use serde_json::Value;

/// The other side of a step's [`Context`](connect_migrator_sdk::Context). Called from any thread; may block for a moment.
pub trait Listener: Send + Sync {
    /// The step wrote a log line.
    fn log(&self, level: LogLevel, message: &str);
    /// The step reports how far it has come.
    fn progress(&self, progress: Progress);
    /// The record is durable when this returns.
    ///
    /// # Errors
    /// Why it could not be made durable, as a sentence for the step.
    fn record_undo(&self, data: Value) -> Result<(), String>;
    /// The checkpoint is durable when this returns.
    ///
    /// # Errors
    /// Why it could not be made durable.
    fn checkpoint(&self, data: Value) -> Result<(), String>;
    /// Hands out a secret.
    ///
    /// # Errors
    /// Why not.
    fn secret(&self, credential: &str) -> Result<Secret, String>;
}
