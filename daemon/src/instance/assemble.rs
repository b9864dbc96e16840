//! From the text of a runbook and the installed plugins to a plan.

use super::Instance;
use crate::engine::{Plan, PlannedStep};
use crate::host::{self, CallFailure, Launcher, PluginRef};
use crate::runbook::{self, Diagnostics, Runbook};
use connect_migrator_sdk::StepInfo;
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The plugin that is linked into the daemon.
pub const BUILT_IN: &str = "systemd";
/// How many plugins a folder may hold.
const MAX_PLUGINS: usize = 1000;

/// The plugins that can be had, by name.
#[derive(Debug, Clone, Default)]
pub struct Plugins(pub BTreeMap<String, PluginRef>);

impl Plugins {
    /// Those in `dirs`, of which the first that has one wins, and the built-in one.
    #[must_use]
    pub fn installed(dirs: &[PathBuf]) -> Self {
        let mut found = BTreeMap::from([(BUILT_IN.to_owned(), PluginRef::BuiltIn(BUILT_IN.into()))]);
        for dir in dirs {
            let Ok(entries) = std::fs::read_dir(dir) else { continue };
            for path in entries.flatten().map(|entry| entry.path()).take(MAX_PLUGINS) {
                if path.extension().is_some_and(|extension| extension == "so") {
                    let plugin = PluginRef::File(path);
                    found.entry(plugin.name()).or_insert(plugin);
                }
            }
        }
        Plugins(found)
    }
}

/// A plan cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The runbook has mistakes.
    #[error("{0}")]
    Runbook(Diagnostics),
    /// A plugin cannot be used.
    #[error("could not use the plugin `{plugin}`: {why}")]
    Plugin {
        /// Its name.
        plugin: String,
        /// Why.
        why: CallFailure,
    },
}

/// A plan, and what it was made from.
#[derive(Debug, Clone)]
pub struct Assembled {
    /// The plan.
    pub plan: Plan,
    /// The runbook.
    pub runbook: Runbook,
    /// The plugins that it uses.
    pub plugins: BTreeMap<String, PluginRef>,
}

/// Makes a plan.
///
/// # Errors
/// See [`AssembleError`]: nothing was changed.
pub async fn assemble(
    instance: &Instance,
    runbook: Runbook,
    available: &Plugins,
    migration: &str,
    launcher: &dyn Launcher,
) -> Result<Assembled, AssembleError> {
    let names: Vec<&str> = available.0.keys().map(String::as_str).collect();
    runbook::plugins_exist(&runbook, &names).map_err(AssembleError::Runbook)?;
    let plugins: BTreeMap<String, PluginRef> = runbook
        .steps
        .iter()
        .filter_map(|step| available.0.get_key_value(&step.uses.plugin))
        .map(|(name, plugin)| (name.clone(), plugin.clone()))
        .collect();
    // Each in a process of its own, all at once: a start of the daemon waits for them.
    let descriptions = join_all(plugins.values().map(|plugin| host::describe(launcher, plugin))).await;
    let mut described: BTreeMap<String, Vec<StepInfo>> = BTreeMap::new();
    for (name, description) in plugins.keys().zip(descriptions) {
        let description = description.map_err(|why| AssembleError::Plugin { plugin: name.clone(), why })?;
        described.insert(name.clone(), description.steps);
    }
    let infos = runbook::resolve(&runbook, &described).map_err(AssembleError::Runbook)?;
    let order = runbook::order(&runbook, &infos).map_err(AssembleError::Runbook)?;
    let steps: Vec<PlannedStep> = runbook
        .steps
        .iter()
        .zip(infos)
        .filter_map(|(step, info)| {
            Some(PlannedStep {
                id: step.id.clone(),
                plugin: plugins.get(&step.uses.plugin)?.clone(),
                info,
                config: step.with.clone(),
                credentials: runbook.credentials_of(&step.id),
                allow: step.allow.clone(),
            })
        })
        .collect();
    let plan = Plan {
        instance: instance.name().into(),
        source: runbook.connect.clone(),
        program: Plan::program(&steps, &order),
        steps,
        on_failure: runbook.on_failure,
        soak: runbook.soak,
        timeouts: runbook.timeouts,
        steps_dir: instance.steps_dir(migration),
    };
    Ok(Assembled { plan, runbook, plugins })
}
