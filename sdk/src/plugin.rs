//! A plugin without its boundary: which steps it has, and how a call finds the right function of the right one.
//!
//! The same dispatcher serves a shared library ([`export_plugin!`](crate::export_plugin)) and steps that are linked into the
//! daemon ([`plugin_of!`](crate::plugin_of)).

use crate::{Context, HostCalls, Invocation, LogLevel, Op, Step, StepError, StepInfo, forward};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::time::Duration;

/// Threads that run a step's futures, beside the one that waits for the call.
const WORKER_THREADS: usize = 2;

/// How long a step's left-over tasks are waited for once the call has been answered.
const LEFTOVER_TASKS_SECONDS: u64 = 1;

/// In front of the crate's name, and not part of the plugin's.
const CRATE_PREFIX: &str = "connect-migrator-";

/// What a plugin says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PluginDescription {
    /// The name before the slash in `uses = "plugin/step"`.
    pub plugin: String,
    /// The plugin's own version.
    pub version: String,
    /// The version of the SDK that it was built with.
    pub sdk: String,
    /// Its steps.
    pub steps: Vec<StepInfo>,
}

/// The answer of a call, as it crosses the boundary and the socket: `{"ok": …}`, `{"error": StepError}` or `{"panic": text}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What the function of the step returned: for `check` a list of findings, for `apply` an outcome, and so on.
    Ok(Value),
    /// The step failed.
    Error(StepError),
    /// The step panicked: with what message, and where.
    Panic(String),
}

/// The steps of a plugin. Built by [`plugin_of!`](crate::plugin_of).
pub struct Plugin {
    name: String,
    version: String,
    steps: Vec<(StepInfo, Box<dyn Dispatch>)>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("name", &self.name).field("version", &self.version).finish()
    }
}

impl Plugin {
    /// A plugin without steps.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        Plugin { name: name.into(), version: version.into(), steps: Vec::new() }
    }

    /// Adds a step.
    #[must_use]
    pub fn with<S: Step>(mut self) -> Self {
        self.steps.push((S::info(), Box::new(Of::<S>(PhantomData))));
        self
    }

    /// As in `uses = "name/step"`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names, versions and steps, with the schema of each step's settings.
    #[must_use]
    pub fn describe(&self) -> PluginDescription {
        let describe = |(info, step): &(StepInfo, Box<dyn Dispatch>)| StepInfo {
            settings_schema: step.settings_schema(),
            ..info.clone()
        };
        PluginDescription {
            plugin: self.name.clone(),
            version: self.version.clone(),
            sdk: crate::boundary::SDK_VERSION.into(),
            steps: self.steps.iter().map(describe).collect(),
        }
    }

    /// Carries out one call, on a runtime of its own that is gone when this returns. Must not be called on a thread that
    /// already runs a runtime. A panic of the step becomes [`Answer::Panic`].
    #[must_use]
    pub fn call(&self, invocation: Invocation, host: Arc<dyn HostCalls>) -> Answer {
        let Some((_, step)) = self.steps.iter().find(|(info, _)| info.name == invocation.uses) else {
            return Answer::Error(self.no_such_step(&invocation.uses));
        };
        let dispatch = forward::to(Arc::clone(&host));
        let for_threads = dispatch.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .enable_all()
            // The thread keeps it until it ends; the guard could only be dropped there.
            .on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&for_threads)))
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                return Answer::Error(
                    StepError::new("start the threads of the step")
                        .because(error)
                        .remedy("look whether the machine is out of memory, processes or open files"),
                );
            }
        };
        let cx = Context::new(invocation, host);
        let answer = tracing::dispatcher::with_default(&dispatch, || {
            catch_unwind(AssertUnwindSafe(|| runtime.block_on(step.call(&cx))))
        });
        runtime.shutdown_timeout(Duration::from_secs(LEFTOVER_TASKS_SECONDS));
        match answer {
            Ok(Ok(value)) => Answer::Ok(value),
            Ok(Err(error)) => Answer::Error(error),
            Err(panic) => Answer::Panic(panic_text(panic.as_ref())),
        }
    }

    fn no_such_step(&self, uses: &str) -> StepError {
        let names: Vec<_> = self.steps.iter().map(|(info, _)| format!("`{}`", info.name)).collect();
        StepError::new(format!("find the step `{uses}` in the plugin `{}`", self.name))
            .because(format!("version {} of it has {}", self.version, names.join(", ")))
            .remedy("correct `uses` in the runbook, or install the version of the plugin that has it")
    }
}

/// The plugin's name from its crate's.
#[must_use]
pub const fn name_of_crate(name: &'static str) -> &'static str {
    let (prefix, bytes) = (CRATE_PREFIX.as_bytes(), name.as_bytes());
    if bytes.len() <= prefix.len() {
        return name;
    }
    let (head, _) = bytes.split_at(prefix.len());
    let mut at = 0;
    #[allow(
        clippy::indexing_slicing,
        reason = "both slices are as long as the bound; iterators are not const"
    )]
    while at < prefix.len() {
        if head[at] != prefix[at] {
            return name;
        }
        at += 1;
    }
    name.split_at(prefix.len()).1
}

type Answering<'a> = Pin<Box<dyn Future<Output = Result<Value, StepError>> + Send + 'a>>;

/// A [`Step`] without its types.
trait Dispatch: Send + Sync {
    fn settings_schema(&self) -> Value;
    fn call<'a>(&'a self, cx: &'a Context) -> Answering<'a>;
}

struct Of<S>(PhantomData<fn() -> S>);

impl<S: Step> Dispatch for Of<S> {
    fn settings_schema(&self) -> Value {
        schemars::schema_for!(S::Config).to_value()
    }

    fn call<'a>(&'a self, cx: &'a Context) -> Answering<'a> {
        Box::pin(async move {
            let invocation = cx.invocation();
            let config: S::Config = settings(&invocation.step, &invocation.config)?;
            match invocation.op {
                Op::Check => answer(S::check(&config, cx).await?),
                Op::Plan => answer(S::plan(&config, cx).await?),
                Op::Prepare => answer(S::prepare(&config, cx).await?),
                Op::EnterWindow => answer(S::enter_window(&config, cx).await?),
                Op::Apply => answer(S::apply(&config, cx).await?),
                Op::Verify => answer(S::verify(&config, cx).await?),
                Op::Finalize => answer(S::finalize(&config, cx).await?),
                Op::Probe => answer(S::probe(&config, cx, of(invocation)?).await?),
                Op::Rollback => {
                    answer(S::rollback(&config, cx, of(invocation)?, undo_records(invocation)?).await?)
                }
            }
        })
    }
}

fn answer(value: impl Serialize) -> Result<Value, StepError> {
    serde_json::to_value(value).map_err(|error| StepError::new("put the answer into JSON").because(error))
}

/// The settings under `with`. A step without any may be written without `with`, which is no table or an empty one by then; and its
/// settings may be `()`.
fn settings<T: DeserializeOwned>(step: &str, config: &Value) -> Result<T, StepError> {
    let given = if config.is_null() { json!({}) } else { config.clone() };
    let wrong = match serde_path_to_error::deserialize(given) {
        Ok(settings) => return Ok(settings),
        Err(wrong) => wrong,
    };
    if (config.is_null() || config.as_object().is_some_and(Map::is_empty))
        && let Ok(settings) = serde_json::from_value(Value::Null)
    {
        return Ok(settings);
    }
    let path = wrong.path().to_string();
    let setting = if path == "." { "with".to_string() } else { format!("with.{path}") };
    Err(StepError::new(format!("read the settings of the step `{step}`"))
        .because(format!("`{setting}`: {}", wrong.inner()))
        .remedy(format!("correct `{setting}` of this step in the runbook")))
}

fn of(invocation: &Invocation) -> Result<Op, StepError> {
    invocation.of.ok_or_else(|| {
        StepError::new(format!("make the call `{}` of the step `{}`", invocation.op, invocation.step))
            .because("the daemon did not say which call is meant")
            .remedy("the plugin and the daemon do not fit together; install the plugin of this release")
    })
}

fn undo_records<T: DeserializeOwned>(invocation: &Invocation) -> Result<Vec<T>, StepError> {
    let read = |(number, record): (usize, &Value)| {
        serde_path_to_error::deserialize(record.clone()).map_err(|wrong| {
            let path = wrong.path().to_string();
            let place = if path == "." { String::new() } else { format!("`{path}`: ") };
            StepError::new(format!("read undo record {} of the step `{}`", number + 1, invocation.step))
                .because(format!("{place}{}", wrong.inner()))
                .remedy("install the version of the plugin that wrote the record, then roll back again")
        })
    };
    invocation.undo.iter().enumerate().map(read).collect()
}

thread_local! {
    /// Message and place of the last panic of this thread; only the hook learns the place.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes panics and `tracing` events of every thread of this process known to `host`, also of threads that the runtime of the
/// call did not start. For processes that make one call; a second caller finds the first one's host in place.
pub fn own_the_process(host: &Arc<dyn HostCalls>) {
    static ONCE: Once = Once::new();
    let host = Arc::clone(host);
    ONCE.call_once(|| {
        // Not set when the process has a subscriber of its own: then that one gets the events.
        let _ = tracing::dispatcher::set_global_default(forward::to(Arc::clone(&host)));
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if cfg!(test) {
                previous(panic); // a failed assertion should still be seen
            }
            let place = panic.location().map_or_else(String::new, |place| format!(", at {place}"));
            let text = format!("{}{place}", payload_text(panic.payload()));
            host.log(LogLevel::Error, &format!("the step panicked: {text}"), &Map::new());
            host.log(LogLevel::Debug, &Backtrace::force_capture().to_string(), &Map::new());
            LAST_PANIC.set(Some(text));
        }));
    });
}

/// What a caught panic said.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    LAST_PANIC.take().unwrap_or_else(|| payload_text(payload))
}

fn payload_text(payload: &dyn Any) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_string()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_string()
    }
}

#[cfg(test)]
pub(crate) mod tests;
