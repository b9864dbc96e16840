//! `connect-migrator report`.

use super::{Exit, status};
use crate::instance::Instance;
use crate::report::{Build, REBUILD, Report, builds, html};
use crate::state::Event;
use connect_migrator_sdk::Op;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The whole migration with its content: what `report --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FullReport {
    /// The migration.
    #[serde(flatten)]
    pub report: Report,
    /// What became of each content item; empty when none was built.
    pub content: Vec<Build>,
}

/// Writes the report.
pub(super) fn run(instance: &Instance, json: bool, output: Option<&Path>) -> Exit {
    let view = match status::view(instance) {
        Ok(view) => view,
        Err(exit) => return exit,
    };
    let now = Timestamp::now();
    let Some((view, report)) = view.and_then(|view| Report::of(&view, now).map(|report| (view, report)))
    else {
        let error =
            format!("no migration of `{}` has been started: there is nothing to report", instance.name());
        return Exit::Failed.because(&error);
    };
    let steps_dir = instance.steps_dir(&report.migration);
    let mut content = Vec::new();
    for step in report.steps.iter().filter(|step| step.uses == REBUILD) {
        let details = step.calls.iter().rev().find(|call| call.op == Op::Apply).map(|call| &call.details);
        content.extend(builds(&steps_dir.join(&step.id), details.unwrap_or(&serde_json::Value::Null)));
    }
    let text = if json {
        match serde_json::to_string_pretty(&FullReport { report, content }) {
            Ok(text) => text + "\n",
            Err(error) => return Exit::Failed.because(&error),
        }
    } else {
        let runbook = match view.started.as_ref().map(|record| &record.event) {
            Some(Event::Started { runbook, .. }) => runbook.as_str(),
            _ => "",
        };
        html(&report, runbook, &content, now)
    };
    let path = match output {
        Some(path) if path == Path::new("-") => None,
        Some(path) => Some(path.to_owned()),
        None if json => None,
        None => Some(PathBuf::from(format!("connect-migrator-{}.html", instance.name()))),
    };
    let Some(path) = path else {
        say!("{text}");
        return Exit::Done;
    };
    match write(&path, &text) {
        Ok(()) => {
            say_line!("Written: {}", path.display());
            Exit::Done
        }
        Err(error) => Exit::Failed.because(&format!(
            "could not write the report {}: {error}; name another file with --output",
            path.display()
        )),
    }
}

/// Beside its place first, and readable by its owner only: it has names and logs of content.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let _ = std::fs::remove_file(&part);
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&part)?;
    let done = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = done.and_then(|()| std::fs::rename(&part, path)) {
        let _ = std::fs::remove_file(&part);
        return Err(error);
    }
    Ok(())
}
