//! Calls every step of a runbook that is not being run: what `check` and `plan` have in common.

use super::Exit;
use crate::engine::{Called, Caller, Note, NoteTaker, Observer, ended_reading};
use crate::host::{ChildLauncher, Launcher, TransientLauncher};
use crate::instance::{self, Assembled, Instance, Plugins};
use crate::runbook::Runbook;
use crate::service::{HostCaller, StepsRunAs, StoredSecrets};
use crate::state::{CallResult, OutlineStep, facts_of_items};
use crate::systemd::units::Units;
use connect_migrator_sdk::{Invocation, Migration, Op};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What each step answered.
pub(super) struct Survey {
    pub(super) answers: Vec<(OutlineStep, CallResult)>,
    pub(super) assembled: Assembled,
}

/// Shows what steps log while a person waits.
struct Terminal;

impl Observer for Terminal {
    fn note(&self, note: &Note<'_>) {
        if let Note::Log { step, level, message, .. } = note
            && matches!(level, connect_migrator_sdk::LogLevel::Warn | connect_migrator_sdk::LogLevel::Error)
        {
            complain!("{step}: {message}");
        }
    }
}

/// Calls `op`, which only reads, of every step.
pub(super) async fn survey(instance: &Instance, op: Op, steps: StepsRunAs) -> Result<Survey, Exit> {
    let runbook = Runbook::load(&instance.runbook_path()).map_err(|error| Exit::Unusable.because(&error))?;
    let launcher = launcher(instance, steps).await;
    let plugins = Plugins::installed(&instance.plugin_dirs());
    let assembled = instance::assemble(instance, runbook, &plugins, "", launcher.as_ref())
        .await
        .map_err(|error| Exit::Unusable.because(&error))?;
    let caller = HostCaller::new(launcher);
    let plan = &assembled.plan;
    let mut answers = Vec::new();
    let mut facts = serde_json::Map::new();
    for (step, outline) in plan.steps.iter().zip(plan.outline().steps) {
        let invocation = Invocation {
            step: step.id.clone(),
            uses: step.info.name.clone(),
            op,
            of: None,
            attempt: 1,
            config: step.config.clone(),
            migration: Migration { id: String::new(), instance: plan.instance.clone() },
            source: plan.source.clone(),
            state_dir: plan.steps_dir.join(&step.id),
            facts: facts.clone(),
            routed: None,
            checkpoint: None,
            undo: Vec::new(),
        };
        let taker = NoteTaker::reading(step, Arc::new(Terminal), Arc::new(StoredSecrets));
        let call = Called { number: None, invocation, timeout: plan.timeout(op), next: Vec::new() };
        let made = caller.call(step, call, Arc::new(taker), CancellationToken::new());
        let result = match ended_reading(made.await) {
            Ok(answer) => {
                facts.extend(facts_of_items(&answer));
                CallResult::Answered { answer, probed: false }
            }
            Err(failure) => {
                if let Some((setting, message)) = refused_setting(&step.id, &failure.why) {
                    complain!("{}\n", assembled.runbook.point_at(&step.id, &setting, &message, None));
                }
                CallResult::Failed(failure)
            }
        };
        answers.push((outline, result));
    }
    Ok(Survey { answers, assembled })
}

/// Where systemd cannot be asked for units, children do.
async fn launcher(instance: &Instance, steps: StepsRunAs) -> Arc<dyn Launcher> {
    if steps == StepsRunAs::Units
        && let Ok(units) = Units::system().await
    {
        return Arc::new(TransientLauncher::new(Arc::new(units), instance.name(), &instance.program_dir()));
    }
    Arc::new(ChildLauncher::default())
}

/// The setting of a step that its plugin refused, and why: the SDK's own sentence, taken apart.
fn refused_setting(step: &str, why: &str) -> Option<(String, String)> {
    let told = why.strip_prefix(&format!("could not read the settings of the step `{step}`: `with"))?;
    let (path, message) = told.split_once("`: ")?;
    Some((path.trim_start_matches('.').to_owned(), message.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_a_plugin_refused_is_found_in_what_it_said() {
        let said = "could not read the settings of the step `route`: `with.image.os`: unknown field `x`, expected `y`";
        let expected = Some(("image.os".to_owned(), "unknown field `x`, expected `y`".to_owned()));
        assert_eq!(refused_setting("route", said), expected);
        let whole = "could not read the settings of the step `route`: `with`: missing field `site`";
        assert_eq!(refused_setting("route", whole), Some((String::new(), "missing field `site`".to_owned())));
        assert_eq!(refused_setting("route", "could not read the disk"), None);
    }
}
