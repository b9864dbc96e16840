//! A daemon in memory, for authors' own tests.

use crate::{Context, HostCalls, HostRefused, Invocation, LogLevel, Migration, Op, Progress, Secret, Source};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a step told the in-memory daemon.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Log lines.
    pub log: Vec<(LogLevel, String)>,
    /// Progress reports.
    pub progress: Vec<Progress>,
    /// Undo records, oldest first.
    pub undo: Vec<Value>,
    /// Checkpoints, oldest first.
    pub checkpoints: Vec<Value>,
}

/// A daemon in memory: hands out secrets, keeps what it is told.
#[derive(Debug, Default)]
pub struct MemoryHost {
    secrets: Mutex<BTreeMap<String, String>>,
    told: Mutex<Told>,
    cancelled: std::sync::atomic::AtomicBool,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryHost {
    /// An empty one.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Stores a secret.
    pub fn store_secret(&self, credential: &str, value: &str) {
        held(&self.secrets).insert(credential.into(), value.into());
    }

    /// Asks the running call to end.
    pub fn cancel(&self) {
        self.cancelled.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// What was told so far.
    #[must_use]
    pub fn told(&self) -> Told {
        held(&self.told).clone()
    }

    /// A context for a call of `op` on a step whose state folder is `state_dir`.
    #[must_use]
    pub fn context(self: &Arc<Self>, op: Op, state_dir: &Path, source: Source) -> Context {
        self.context_with(Invocation {
            step: "step".into(),
            uses: "step".into(),
            op,
            of: None,
            attempt: 1,
            config: Value::Null,
            migration: Migration {
                id: "00000000-0000-7000-8000-000000000000".into(),
                instance: "test".into(),
            },
            source,
            state_dir: state_dir.into(),
            facts: Map::new(),
            routed: None,
            checkpoint: None,
            undo: Vec::new(),
        })
    }

    /// A context for any invocation.
    #[must_use]
    pub fn context_with(self: &Arc<Self>, invocation: Invocation) -> Context {
        Context::new(invocation, Arc::clone(self) as Arc<dyn HostCalls>)
    }
}

impl HostCalls for MemoryHost {
    fn log(&self, level: LogLevel, message: &str, _fields: &Map<String, Value>) {
        held(&self.told).log.push((level, message.into()));
    }

    fn progress(&self, progress: &Progress) {
        held(&self.told).progress.push(progress.clone());
    }

    fn record_undo(&self, record: &Value) -> Result<(), HostRefused> {
        held(&self.told).undo.push(record.clone());
        Ok(())
    }

    fn checkpoint(&self, checkpoint: &Value) -> Result<(), HostRefused> {
        held(&self.told).checkpoints.push(checkpoint.clone());
        Ok(())
    }

    fn secret(&self, credential: &str) -> Result<Secret, HostRefused> {
        held(&self.secrets).get(credential).map(|value| Secret::new(value.clone())).ok_or_else(|| {
            HostRefused { what: format!("the secret `{credential}`"), why: "it is not stored".into() }
        })
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(std::sync::atomic::Ordering::SeqCst)
    }
}
