//! What a start finds: an open migration to go on with, or none.

use super::{Teller, armed};
use crate::engine::Plan;
use crate::host::{CallFailure, Launcher, PluginRef};
use crate::instance::{self, AssembleError, Instance, PinError, Plugins};
use crate::runbook::{Runbook, RunbookError};
use crate::state::{Event, Store, StoreError, View};
use crate::systemd::journal;
use std::collections::BTreeMap;
use uuid::Uuid;

/// The plan to run, and the event to begin with if the migration is new.
pub(super) struct Recovered {
    pub(super) plan: Plan,
    pub(super) begins: Option<Event>,
}

/// The run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecoverError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Runbook(#[from] RunbookError),
    #[error("{0}")]
    Assemble(#[from] AssembleError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(
        "the runbook {path} is not the one that this migration began with:\n{diff}\nPut it back as it was, then start again; \
         or go back with `connect-migrator rollback {instance}`, which uses the runbook as it was"
    )]
    Changed { path: String, diff: String, instance: String },
}

impl RecoverError {
    /// Whether the next try can go well though nobody mends anything: right after a boot a machine may be too busy for a plugin to
    /// describe itself in time.
    pub(super) fn may_pass(&self) -> bool {
        let RecoverError::Assemble(AssembleError::Plugin { why, .. }) = self else { return false };
        matches!(
            why,
            CallFailure::Silent { .. }
                | CallFailure::TimedOut { .. }
                | CallFailure::Crashed { .. }
                | CallFailure::NotStarted { .. }
                | CallFailure::StillRuns { .. }
        )
    }
}

/// Reads the state and makes the plan. Changes nothing but the copies of the plugins.
pub(super) async fn recover(
    instance: &Instance,
    store: &dyn Store,
    launcher: &dyn Launcher,
) -> Result<Recovered, RecoverError> {
    let view = View::of(&store.load()?);
    if view.is_open() { resume(instance, &view, launcher).await } else { begin(instance, launcher).await }
}

async fn begin(instance: &Instance, launcher: &dyn Launcher) -> Result<Recovered, RecoverError> {
    let runbook = Runbook::load(&instance.runbook_path())?;
    let migration = Uuid::now_v7().to_string();
    let installed = Plugins::installed(&instance.plugin_dirs());
    let assembled = instance::assemble(instance, runbook, &installed, &migration, launcher).await?;
    let dir = instance.pinned_plugins_dir(&migration);
    let (pinned, digests) = instance::pin_plugins(&assembled.plugins, &dir)?;
    let mut plan = assembled.plan;
    for step in &mut plan.steps {
        if let Some(plugin) = pinned.get(&step.plugin.name()) {
            step.plugin = plugin.clone();
        }
    }
    let begins = Event::Started {
        migration,
        instance: instance.name().into(),
        runbook: assembled.runbook.text().into(),
        runbook_digest: assembled.runbook.digest(),
        plugins: digests,
        version: env!("CARGO_PKG_VERSION").into(),
        outline: plan.outline(),
    };
    Ok(Recovered { plan, begins: Some(begins) })
}

async fn resume(
    instance: &Instance,
    view: &View,
    launcher: &dyn Launcher,
) -> Result<Recovered, RecoverError> {
    let Some(Event::Started { runbook: pinned, plugins: digests, .. }) =
        view.started.as_ref().map(|r| &r.event)
    else {
        return begin(instance, launcher).await;
    };
    // What was decided is carried out with the runbook as it was; to go on undecided, it must still be that one.
    if view.decision.is_none() {
        is_unchanged(instance, pinned)?;
    }
    let path = instance.runbook_path();
    let runbook = Runbook::parse(&path.display().to_string(), pinned)
        .map_err(|diagnostics| RecoverError::Assemble(AssembleError::Runbook(diagnostics)))?;
    let mut plugins: BTreeMap<String, PluginRef> =
        instance::verify_pinned(digests, &instance.pinned_plugins_dir(view.migration()))?;
    let built_in = Plugins::installed(&[]);
    plugins.extend(built_in.0);
    let assembled =
        instance::assemble(instance, runbook, &Plugins(plugins), view.migration(), launcher).await?;
    Ok(Recovered { plan: assembled.plan, begins: None })
}

/// The runbook is the one that the migration began with.
fn is_unchanged(instance: &Instance, pinned: &str) -> Result<(), RecoverError> {
    let path = instance.runbook_path();
    let now = match Runbook::read(&path) {
        // The difference shows it whole: that is how it can be put back.
        Err(RunbookError::Missing { .. }) => String::new(),
        read => read?,
    };
    if now == pinned {
        return Ok(());
    }
    let diff = similar::TextDiff::from_lines(pinned, &now);
    let diff = diff.unified_diff().header("as it was", "as it is now").to_string();
    Err(RecoverError::Changed { path: path.display().to_string(), diff, instance: instance.name().into() })
}

/// Whether all was done that comes after the end of this migration, [`tidy`] as the last.
pub(super) fn is_tidy(instance: &Instance, view: &View) -> bool {
    !armed::is_armed(instance) && !instance.pinned_plugins_dir(view.migration()).exists()
}

/// Removes what was kept for the time of the migration only: outcomes of calls, and last the plugins. The steps' folders stay: they
/// hold the logs of rebuilt content.
pub(super) fn tidy(instance: &Instance, view: &View, teller: &Teller) {
    let calls = instance.calls_dir().join(view.migration());
    for dir in [calls, instance.program_dir(), instance.pinned_plugins_dir(view.migration())] {
        if let Err(error) = std::fs::remove_dir_all(&dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            let why = format!("could not remove {}: {error}", dir.display());
            teller.aside(journal::ids::AROUND_FAILED, journal::Priority::Warning, &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::ChildLauncher;
    use crate::state::{Cause, MemoryStore, Outline};

    const RUNBOOK: &str = "version = 1\n[[step]]\nid = \"stop\"\nuses = \"systemd/stop\"\n";

    #[test]
    fn a_plugin_that_was_too_slow_or_died_may_do_better_next_time_and_one_that_was_refused_may_not() {
        let of = |why| RecoverError::Assemble(AssembleError::Plugin { plugin: "docker".into(), why });
        let call = || "the description of the plugin docker".to_owned();
        let silent = CallFailure::Silent { call: call(), after: std::time::Duration::from_secs(60) };
        let told = silent.to_string();
        assert!(told.contains("nothing within 60 s") && told.contains("less busy"), "{told}");
        assert!(of(silent).may_pass());
        assert!(of(CallFailure::Crashed { call: call(), how: "was killed".into() }).may_pass());
        assert!(of(CallFailure::NotStarted { call: call(), why: "no memory".into() }).may_pass());
        let refused =
            CallFailure::Refused { plugin: "docker".into(), why: "not root's".into(), remedy: "".into() };
        assert!(!of(refused).may_pass());
        let changed = RecoverError::Changed { path: "/x".into(), diff: "-a".into(), instance: "prod".into() };
        assert!(!changed.may_pass());
    }

    /// What a start makes of an open migration whose runbook is now this one.
    fn recovered(now: Option<&str>, decided: Option<Event>) -> Result<Recovered, RecoverError> {
        let root = tempfile::tempdir().unwrap();
        let instance = Instance::below(root.path(), "prod").unwrap();
        let path = instance.runbook_path();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if let Some(now) = now {
            std::fs::write(&path, now).unwrap();
        }
        let store = MemoryStore::default();
        let started = Event::Started {
            migration: "m".into(),
            instance: "prod".into(),
            runbook: RUNBOOK.into(),
            runbook_digest: String::new(),
            plugins: BTreeMap::new(),
            version: "0".into(),
            outline: Outline::default(),
        };
        for event in [started, Event::SoakStarted, Event::Parked].into_iter().chain(decided) {
            store.append(&event).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(recover(&instance, &store, &ChildLauncher::default()))
    }

    #[test]
    fn what_was_decided_is_carried_out_whatever_became_of_the_runbook() {
        let why = "an operator asked for it".into();
        let back =
            Event::RollbackDecided { cause: Cause { step: None, op: None, why, remedy: String::new() } };
        for decided in [Event::CommitDecided { by: "operator".into() }, back] {
            for now in [None, Some("half a"), Some(RUNBOOK)] {
                let found = recovered(now, Some(decided.clone())).unwrap();
                assert_eq!(found.plan.steps.len(), 1, "{decided:?}, {now:?}");
            }
        }
    }

    #[test]
    fn without_a_decision_another_runbook_is_refused_with_the_difference() {
        assert!(recovered(Some(RUNBOOK), None).is_ok());
        for now in [None, Some("half a")] {
            let error = recovered(now, None).err().unwrap().to_string();
            assert!(error.contains("-uses = \"systemd/stop\"") && error.contains("rollback prod"), "{error}");
        }
    }
}
