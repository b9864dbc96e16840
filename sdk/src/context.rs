//! What a step can ask of the daemon while it runs.

use crate::{Migration, Op, Secret, SecretRef, Source, StepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often [`Context::cancelled`] looks.
const CANCEL_POLL_MILLIS: u64 = 50;

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// For authors.
    Debug,
    /// For operators.
    Info,
    /// An operator should look.
    Warn,
    /// Something failed.
    Error,
}

impl LogLevel {
    /// As it crosses the C boundary: 0 debug to 3 error.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            LogLevel::Debug => 0,
            LogLevel::Info => 1,
            LogLevel::Warn => 2,
            LogLevel::Error => 3,
        }
    }

    /// The reverse of [`LogLevel::number`]; what is higher than known is an error.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => LogLevel::Debug,
            1 => LogLevel::Info,
            2 => LogLevel::Warn,
            _ => LogLevel::Error,
        }
    }
}

/// How far a call has come. Any part may be unknown.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// What is being done now, as it follows "is": `pulling layer 3 of 7`.
    pub doing: String,
    /// Units done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// Units in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// `bytes`, `items`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// The daemon refused something, or can no longer be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the daemon refused {what}: {why}")]
pub struct HostRefused {
    /// What was asked for.
    pub what: String,
    /// Why not.
    pub why: String,
}

impl From<HostRefused> for StepError {
    fn from(refused: HostRefused) -> Self {
        StepError::new(format!("get {} from the daemon", refused.what)).because(refused.why)
    }
}

/// One call as the step sees it: everything that is known before it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Invocation {
    /// The step's `id` in the runbook.
    pub step: String,
    /// The step's name within its plugin.
    pub uses: String,
    /// The call.
    pub op: Op,
    /// For `rollback` and `probe`: the call in question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Op>,
    /// 1 for the first try of this call.
    pub attempt: u32,
    /// The settings under `with`.
    pub config: Value,
    /// The migration.
    pub migration: Migration,
    /// The Connect that is moved.
    pub source: Source,
    /// A folder of this step's own, root only, that exists and lives until commit or the end of rollback.
    pub state_dir: PathBuf,
    /// Facts that steps have published, in `check` and `plan` those of the steps before this one.
    #[serde(default)]
    pub facts: Map<String, Value>,
    /// Whether users may have been sent to the new server. `None`: the daemon does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed: Option<bool>,
    /// The last checkpoint of this call, if it was cut off before.
    #[serde(default)]
    pub checkpoint: Option<Value>,
    /// The undo records of the call in question, oldest first.
    #[serde(default)]
    pub undo: Vec<Value>,
}

/// How a context reaches the daemon. Implemented by the plugin boundary, and by [`testing`](crate::testing) for authors' tests.
/// All calls may come from any thread.
pub trait HostCalls: Send + Sync {
    /// Writes a log line.
    fn log(&self, level: LogLevel, message: &str, fields: &Map<String, Value>);
    /// Reports progress; may be dropped when too frequent.
    fn progress(&self, progress: &Progress);
    /// Returns once the record is durable.
    ///
    /// # Errors
    /// When it could not be made durable: the caller must change nothing.
    fn record_undo(&self, record: &Value) -> Result<(), HostRefused>;
    /// Returns once the checkpoint is durable.
    ///
    /// # Errors
    /// When it could not be made durable.
    fn checkpoint(&self, checkpoint: &Value) -> Result<(), HostRefused>;
    /// Fetches a secret.
    ///
    /// # Errors
    /// When the settings do not name it or it is not stored.
    fn secret(&self, credential: &str) -> Result<Secret, HostRefused>;
    /// Whether the call should end as soon as it safely can.
    fn is_cancelled(&self) -> bool;
    /// Wakes those who wait for the end, where the daemon can do so; without it, [`Context::cancelled`] looks now and then.
    fn cancellation(&self) -> Option<CancellationToken> {
        None
    }
}

/// What a step can ask of the daemon while it runs.
#[derive(Clone)]
pub struct Context {
    invocation: Arc<Invocation>,
    host: Arc<dyn HostCalls>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("step", &self.invocation.step)
            .field("op", &self.invocation.op)
            .finish()
    }
}

impl Context {
    /// Used by the plugin boundary and by tests.
    #[must_use]
    pub fn new(invocation: Invocation, host: Arc<dyn HostCalls>) -> Self {
        Context { invocation: Arc::new(invocation), host }
    }

    /// Everything that was known when the call started.
    #[must_use]
    pub fn invocation(&self) -> &Invocation {
        &self.invocation
    }

    /// The migration that this call belongs to.
    #[must_use]
    pub fn migration(&self) -> &Migration {
        &self.invocation.migration
    }

    /// The Connect that is moved.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.invocation.source
    }

    /// A folder of this step's own, root only, that lives until commit or the end of rollback. During `check` and `plan` it may
    /// not exist.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.invocation.state_dir
    }

    /// A fact that an earlier step published, `None` if there is none yet.
    ///
    /// # Errors
    /// When the fact has another shape.
    pub fn fact<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StepError> {
        let Some(value) = self.invocation.facts.get(key) else { return Ok(None) };
        serde_json::from_value(value.clone()).map(Some).map_err(|error| {
            StepError::new(format!("read the fact `{key}`"))
                .because(error)
                .remedy("the step that publishes it and this one do not fit together; compare their versions")
        })
    }

    /// Writes a line for operators into the journal.
    pub fn info(&self, message: impl AsRef<str>) {
        self.log(LogLevel::Info, message);
    }

    /// Writes a line that an operator should look at.
    pub fn warn(&self, message: impl AsRef<str>) {
        self.log(LogLevel::Warn, message);
    }

    /// Writes a line for authors.
    pub fn debug(&self, message: impl AsRef<str>) {
        self.log(LogLevel::Debug, message);
    }

    /// Writes a line. No secrets.
    pub fn log(&self, level: LogLevel, message: impl AsRef<str>) {
        self.host.log(level, message.as_ref(), &Map::new());
    }

    /// Reports how far the call has come; cheap, and safe to call often.
    pub fn progress(&self, progress: &Progress) {
        self.host.progress(progress);
    }

    /// Writes down what is needed to put back the change that comes next. Returns once it is durable.
    ///
    /// # Errors
    /// When it could not be made durable. Then change nothing: return the error.
    pub fn record_undo(&self, record: &impl Serialize) -> Result<(), StepError> {
        Ok(self.host.record_undo(&to_value("an undo record", record)?)?)
    }

    /// Writes down how far the call has come, so that it can go on there after a crash. Returns once it is durable.
    ///
    /// # Errors
    /// When it could not be made durable.
    pub fn checkpoint(&self, checkpoint: &impl Serialize) -> Result<(), StepError> {
        Ok(self.host.checkpoint(&to_value("a checkpoint", checkpoint)?)?)
    }

    /// The last checkpoint of this call, if it was cut off before.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn last_checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, StepError> {
        let Some(value) = &self.invocation.checkpoint else { return Ok(None) };
        serde_json::from_value(value.clone()).map(Some).map_err(|error| {
            StepError::new("read the last checkpoint").because(error).remedy("roll back, and start again")
        })
    }

    /// Fetches a secret that the settings name.
    ///
    /// # Errors
    /// When it is not stored, with where it is looked for.
    pub fn secret(&self, secret: &SecretRef) -> Result<Secret, StepError> {
        Ok(self.host.secret(&secret.credential)?)
    }

    /// Whether the call should end as soon as it safely can; answer [`StepError::cancelled`] then.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.host.is_cancelled()
    }

    /// Returns once the call should end; for `tokio::select!`.
    pub async fn cancelled(&self) {
        let woken = async {
            match self.host.cancellation() {
                Some(cancellation) => cancellation.cancelled_owned().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = woken => {}
            () = self.poll_cancelled() => {}
        }
    }

    /// For step hosts that cannot wake us.
    async fn poll_cancelled(&self) {
        while !self.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(CANCEL_POLL_MILLIS)).await;
        }
    }
}

fn to_value(what: &str, value: &impl Serialize) -> Result<Value, StepError> {
    serde_json::to_value(value)
        .map_err(|error| StepError::new(format!("put {what} into JSON")).because(error))
}
