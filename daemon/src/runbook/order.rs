//! Whether the steps exist, and the order in which they are applied.

use super::diagnostics::{Diagnostic, Diagnostics, nearest_hint};
use super::{Runbook, StepEntry};
use connect_migrator_sdk::{Role, StepInfo};
use std::collections::BTreeMap;

/// Checks that every plugin named by a `uses` is installed.
///
/// # Errors
/// With each `uses` that names no installed plugin, and the nearest name.
pub fn plugins_exist(runbook: &Runbook, installed: &[&str]) -> Result<(), Diagnostics> {
    let mistakes: Vec<_> = runbook.steps.iter().filter_map(|step| unknown_plugin(step, installed)).collect();
    if mistakes.is_empty() { Ok(()) } else { Err(told(runbook, mistakes)) }
}

fn unknown_plugin(step: &StepEntry, installed: &[&str]) -> Option<Diagnostic> {
    if installed.contains(&step.uses.plugin.as_str()) {
        return None;
    }
    let message = format!("there is no plugin `{}`", step.uses.plugin);
    let mut mistake = Diagnostic::new(step.uses_span.clone(), message).label("not installed");
    mistake.hint = nearest_hint(&step.uses.plugin, installed);
    Some(mistake)
}

/// Finds what each step's plugin says about it, in the order of the runbook. `installed` lists the steps of each plugin.
///
/// # Errors
/// With each `uses` that names no installed plugin or none of its steps.
pub fn resolve(
    runbook: &Runbook,
    installed: &BTreeMap<String, Vec<StepInfo>>,
) -> Result<Vec<StepInfo>, Diagnostics> {
    let plugins: Vec<&str> = installed.keys().map(String::as_str).collect();
    let mut mistakes = Vec::new();
    let mut infos = Vec::new();
    for step in &runbook.steps {
        let Some(steps) = installed.get(&step.uses.plugin) else {
            mistakes.extend(unknown_plugin(step, &plugins));
            continue;
        };
        match steps.iter().find(|info| info.name == step.uses.step_name()) {
            Some(info) => infos.push(info.clone()),
            None => mistakes.push(unknown_step(step, steps)),
        }
    }
    if mistakes.is_empty() { Ok(infos) } else { Err(told(runbook, mistakes)) }
}

fn unknown_step(step: &StepEntry, steps: &[StepInfo]) -> Diagnostic {
    let plugin = &step.uses.plugin;
    let names: Vec<String> = steps
        .iter()
        .map(|info| if info.name == *plugin { plugin.clone() } else { format!("{plugin}/{}", info.name) })
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let message = match &step.uses.step {
        Some(name) => format!("the plugin `{plugin}` has no step `{name}`"),
        None if steps.len() > 1 => format!("the plugin `{plugin}` has several steps; which one is meant?"),
        None => format!("the plugin `{plugin}` has no step of that name"),
    };
    let mut mistake = Diagnostic::new(step.uses_span.clone(), message);
    mistake.hint = match step.uses.step {
        Some(_) => nearest_hint(&step.uses.to_string(), &names),
        None => nearest_hint("", &names),
    };
    mistake
}

/// The order in which the steps are applied, as indices into `runbook.steps`: the order of the file, except that a step that
/// needs the source stopped and stands before the step that stops it is applied right after that.
///
/// `infos` are those of [`resolve`].
///
/// # Errors
/// When the order could not work: the source stopped twice, a new server started beside a running source, users sent to a
/// server that is not there yet.
pub fn order(runbook: &Runbook, infos: &[StepInfo]) -> Result<Vec<usize>, Diagnostics> {
    let steps: Vec<(usize, &StepEntry, &StepInfo)> =
        runbook.steps.iter().zip(infos).enumerate().map(|(at, (step, info))| (at, step, info)).collect();
    let all = |role: Role| steps.iter().filter(move |(_, _, info)| info.role == role);
    let stop = all(Role::StopsSource).next();
    let start = all(Role::StartsTarget).next();
    let mut mistakes = Vec::new();

    for (role, first, what) in
        [(Role::StopsSource, stop, "stops the source"), (Role::StartsTarget, start, "starts the new server")]
    {
        let Some((_, first, _)) = first else { continue };
        for (_, step, _) in all(role).skip(1) {
            mistakes.push(
                at(step, format!("a second step {what}"))
                    .label(format!("`{}` {what} too", step.uses))
                    .context(first.uses_span.clone(), format!("this step {what}"))
                    .hint("remove one of them"),
            );
        }
    }
    for (place, step, _) in all(Role::StartsTarget) {
        match stop {
            None => mistakes.push(
                at(step, "the new server would run beside the source")
                    .label(format!("`{}` starts the new server, and no step stops the source", step.uses))
                    .hint("two servers on one database damage it; put before this step\n[[step]]\nid = \"stop\"\nuses = \"systemd/stop\""),
            ),
            Some((stop_place, stop, _)) if stop_place > place => mistakes.push(
                at(step, format!("the new server would run beside the source: `{}` stands too early", step.id))
                    .label(format!("`{}` starts the new server", step.uses))
                    .context(stop.uses_span.clone(), "the source is stopped only here")
                    .hint(format!("move step `{}` above step `{}`", stop.id, step.id)),
            ),
            Some(_) => {}
        }
    }
    for (place, step, _) in all(Role::Routes) {
        match start {
            None => mistakes.push(
                at(step, "users would be sent to a server that is not there")
                    .label(format!("`{}` routes to the new server, and no step starts one", step.uses))
                    .hint("put a step that starts the new server, such as `docker`, before this one"),
            ),
            Some((start_place, start, _)) if start_place > place => mistakes.push(
                at(
                    step,
                    format!(
                        "users would be sent to a server that is not there yet: `{}` stands too early",
                        step.id
                    ),
                )
                .label(format!("`{}` routes to the new server", step.uses))
                .context(start.uses_span.clone(), "the new server is started only here")
                .hint(format!("move step `{}` below step `{}`", step.id, start.id)),
            ),
            Some(_) => {}
        }
    }
    let moved: Vec<_> =
        steps.iter().filter(|(_, _, info)| info.needs_source_stopped && info.role == Role::Other).collect();
    for (place, step, _) in &moved {
        if stop.is_none() {
            mistakes.push(
                at(step, format!("`{}` needs the source stopped, and no step stops it", step.id))
                    .label(format!("`{}` changes what the source is using", step.uses))
                    .hint("add\n[[step]]\nid = \"stop\"\nuses = \"systemd/stop\""),
            );
        } else if let Some((start_place, start, _)) = start
            && start_place < place
        {
            mistakes.push(
                at(step, format!("`{}` would change what the new server is already using", step.id))
                    .label(format!("`{}` needs both servers stopped", step.uses))
                    .context(start.uses_span.clone(), "the new server is started here")
                    .hint(format!("move step `{}` above step `{}`", step.id, start.id)),
            );
        }
    }
    if !mistakes.is_empty() {
        return Err(told(runbook, mistakes));
    }
    let Some((stop_place, _, _)) = stop else { return Ok(steps.iter().map(|(at, _, _)| *at).collect()) };
    let waits = |place: &usize| place < stop_place && moved.iter().any(|(moved, _, _)| moved == place);
    let mut order = Vec::with_capacity(steps.len());
    for (place, _, _) in &steps {
        if !waits(place) {
            order.push(*place);
        }
        if place == stop_place {
            order.extend(steps.iter().map(|(at, _, _)| *at).filter(|at| waits(at)));
        }
    }
    Ok(order)
}

fn at(step: &StepEntry, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(step.uses_span.clone(), message)
}

fn told(runbook: &Runbook, mistakes: Vec<Diagnostic>) -> Diagnostics {
    Diagnostics::new(&runbook.file, &runbook.text, mistakes)
}
