//! One call, and what the step may ask of the engine while it runs.

use super::run::{Note, Observer};
use crate::host::Listener;
use crate::state::{Event, Failure, Store, StoreError, View};
use connect_migrator_sdk::{Invocation, LogLevel, Progress, Secret};
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// A call to make, or one that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Called {
    /// Its number in the migration; `None` for a call that belongs to none.
    pub number: Option<u64>,
    /// The call.
    pub invocation: Invocation,
    /// How long it may still take.
    pub timeout: std::time::Duration,
    /// The calls that come next if all goes well, until users are served again: their processes may be started meanwhile. What steps
    /// find out until then is not in them.
    pub next: Vec<NextCall>,
}

/// See [`next`](field@Called::next).
#[derive(Debug, Clone, PartialEq)]
pub struct NextCall {
    /// Whose call.
    pub step: super::PlannedStep,
    /// The call.
    pub call: Called,
}

/// How a call ended. `Err`, with a sentence: it is not certain that it runs no more, and nothing else may be called before it is.
pub type Ended = Result<Result<Value, Failure>, String>;

/// How a call ended that only reads: what is left of it is in nobody's way.
///
/// # Errors
/// When it failed, or still runs.
pub fn ended_reading(ended: Ended) -> Result<Value, Failure> {
    ended.unwrap_or_else(|why| Err(Failure { why, remedy: String::new(), cancelled: false, crashed: true }))
}

/// How a call ended that was cut off from the daemon; `None` when that cannot be learnt.
pub type RealEnd = Option<Result<Value, Failure>>;

/// Makes calls: through the step host in the daemon, on simulated steps in tests.
pub trait Caller: Send + Sync {
    /// Makes one call. Ends within its time-out, and soon after `cancel`.
    ///
    /// # Errors
    /// See [`Ended`]; only for calls that change things.
    fn call<'a>(
        &'a self,
        step: &'a super::PlannedStep,
        call: Called,
        listener: Arc<dyn Listener>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Ended>;

    /// Waits for the end of a call that an earlier run made and that was cut off from it. After this, it runs no more. Until then
    /// it records and asks as if this run had made it.
    ///
    /// # Errors
    /// A sentence, when it is not certain that it runs no more: then nothing else may be called.
    fn await_end<'a>(
        &'a self,
        _step: &'a super::PlannedStep,
        _call: Called,
        _listener: Arc<dyn Listener>,
        _cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<RealEnd, String>> {
        Box::pin(async { Ok(None) })
    }
}

/// Where credentials are found.
pub trait Secrets: Send + Sync {
    /// Finds one.
    ///
    /// # Errors
    /// A sentence that says where it was looked for and how to store it.
    fn secret(&self, credential: &str) -> Result<Secret, String>;
}

/// The store with the view of what it holds. The first failed append ends everything: no later one is tried.
pub(super) struct Journal {
    store: Arc<dyn Store>,
    view: View,
    failed: Option<StoreError>,
}

impl Journal {
    pub(super) fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let view = View::of(&store.load()?);
        Ok(Journal { store, view, failed: None })
    }

    fn append(&mut self, event: &Event) -> Result<(), String> {
        if let Some(error) = &self.failed {
            return Err(error.to_string());
        }
        match self.store.append(event) {
            Ok(record) => {
                if matches!(event, Event::Started { .. }) {
                    self.view = View::default();
                }
                self.view.add(&record);
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                self.failed = Some(error);
                Err(text)
            }
        }
    }
}

/// The journal as the engine and a running call share it.
#[derive(Clone)]
pub(super) struct SharedJournal(Arc<Mutex<Journal>>);

impl SharedJournal {
    pub(super) fn new(journal: Journal) -> Self {
        SharedJournal(Arc::new(Mutex::new(journal)))
    }

    fn held(&self) -> MutexGuard<'_, Journal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view(&self) -> View {
        self.held().view.clone()
    }

    /// Looks at the view without copying it.
    pub(super) fn with<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.held().view)
    }

    pub(super) fn append(&self, event: &Event) -> Result<(), String> {
        self.held().append(event)
    }

    /// The failure of an append, if one has failed.
    pub(super) fn take_failure(&self) -> Option<StoreError> {
        self.held().failed.take()
    }
}

/// The engine's ear during a call.
#[allow(missing_debug_implementations, reason = "it holds the traits of its surroundings")]
pub struct NoteTaker {
    pub(super) journal: Option<(SharedJournal, u64)>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) secrets: Arc<dyn Secrets>,
    pub(super) credentials: BTreeSet<String>,
    pub(super) step: String,
    pub(super) plugin: String,
}

impl NoteTaker {
    /// For calls that belong to no migration and may change nothing: `connect-migrator check` and `plan`, and the soak.
    #[must_use]
    pub fn reading(
        step: &super::PlannedStep,
        observer: Arc<dyn Observer>,
        secrets: Arc<dyn Secrets>,
    ) -> Self {
        NoteTaker {
            journal: None,
            observer,
            secrets,
            credentials: step.credentials.clone(),
            step: step.id.clone(),
            plugin: step.plugin.name(),
        }
    }

    fn durable(&self, event: impl FnOnce(u64) -> Event) -> Result<(), String> {
        match &self.journal {
            Some((journal, call)) => journal.append(&event(*call)),
            None => Err("this call may only read".into()),
        }
    }
}

impl Listener for NoteTaker {
    fn log(&self, level: LogLevel, message: &str) {
        self.observer.note(&Note::Log { step: &self.step, plugin: &self.plugin, level, message });
    }

    fn progress(&self, progress: Progress) {
        self.observer.note(&Note::Progress { step: &self.step, progress: &progress });
    }

    fn record_undo(&self, data: Value) -> Result<(), String> {
        self.durable(|call| Event::Undo { call, data })
    }

    fn checkpoint(&self, data: Value) -> Result<(), String> {
        self.durable(|call| Event::Checkpoint { call, data })
    }

    fn secret(&self, credential: &str) -> Result<Secret, String> {
        if !self.credentials.contains(credential) {
            return Err(format!(
                "the settings of step `{}` do not name the credential `{credential}`",
                self.step
            ));
        }
        self.secrets.secret(credential)
    }
}
