//! A plugin as any author would write it: exported by the macro, without a word about the boundary.

use connect_migrator_sdk::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of `honest`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What to write.
    text: String,
}

/// What stood there before.
#[derive(Debug, Serialize, Deserialize)]
pub struct Before {
    text: Option<String>,
}

/// Writes a text to the file `text` of its folder.
#[derive(Debug)]
pub struct Honest;

impl Step for Honest {
    type Config = Settings;
    type Undo = Before;

    fn info() -> StepInfo {
        StepInfo::new("honest", "Writes a text")
    }

    async fn check(_: &Settings, _: &Context) -> Result<Vec<Finding>, StepError> {
        Ok(Vec::new())
    }

    async fn apply(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let path = cx.state_dir().join("text");
        let before = std::fs::read_to_string(&path).ok();
        if before.as_deref() == Some(&config.text) {
            return Ok(Outcome::already_done("the text is there"));
        }
        cx.record_undo(&Before { text: before })?;
        std::fs::write(&path, &config.text)
            .map_err(|error| StepError::new(format!("write {}", path.display())).because(error))?;
        Ok(Outcome::changed("wrote the text"))
    }

    async fn rollback(_: &Settings, cx: &Context, _: Op, undo: Vec<Before>) -> Result<Undone, StepError> {
        let path = cx.state_dir().join("text");
        let put_back = match undo.first().and_then(|before| before.text.as_ref()) {
            Some(text) => std::fs::write(&path, text),
            None => std::fs::remove_file(&path).or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
        };
        put_back.map_err(|error| StepError::new(format!("put back {}", path.display())).because(error))?;
        Ok(Undone::restored("the text is as it was"))
    }
}

/// Does nothing: what a call costs.
#[derive(Debug)]
pub struct Noop;

impl Step for Noop {
    type Config = ();
    type Undo = ();

    fn info() -> StepInfo {
        StepInfo::new("noop", "Does nothing")
    }

    async fn check((): &(), _: &Context) -> Result<Vec<Finding>, StepError> {
        Ok(Vec::new())
    }

    async fn apply((): &(), _: &Context) -> Result<Outcome, StepError> {
        Ok(Outcome::already_done("nothing to do"))
    }

    async fn rollback((): &(), _: &Context, _: Op, _: Vec<()>) -> Result<Undone, StepError> {
        Ok(Undone::restored("nothing was done"))
    }
}

connect_migrator_sdk::export_plugin!(Honest, Noop);
