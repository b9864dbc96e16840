//! What steps change in the source's configuration, in a form that later steps can read beforehand: a container is made for the
//! configuration as it will be.

use crate::gcfg::{Gcfg, SetError, name_of};
use connect_migrator_sdk::{Context, Target};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::{Path, PathBuf};

/// No value that is kept in a file is longer.
const VALUE_MAX_BYTES: u64 = 64 * 1024;
/// Where the keys of these facts begin.
const KEY_PREFIX: &str = "source-edits/";
/// Where the keys of facts begin that name what steps keep in the data directory.
const KEPT_PREFIX: &str = "kept-in-data/";

/// Edits of the source's configuration file that a step makes in its `apply`, published in its `prepare`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceEdits {
    /// In the order in which they are made.
    pub edits: Vec<ConfigEdit>,
}

/// One setting that gets another value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigEdit {
    /// `Database`.
    pub section: String,
    /// The name in quotes after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subsection: Option<String>,
    /// `Provider`.
    pub key: String,
    /// The value.
    pub value: EditValue,
}

/// A value, or where it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EditValue {
    /// The value itself.
    Text(String),
    /// A file for root alone that holds the value: an encrypted password must not stand in the state. It is there once the step is
    /// prepared.
    File(PathBuf),
}

/// Why edits could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The value cannot be written.
    #[error(transparent)]
    Set(#[from] SetError),
    /// The file of a value cannot be read.
    #[error("could not read the value of {setting} from {}: {why}; prepare the step again, or roll back", path.display())]
    Value {
        /// The setting.
        setting: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        why: std::io::Error,
    },
}

impl SourceEdits {
    /// The key of the fact that the step `id` publishes.
    #[must_use]
    pub fn key(id: &str) -> String {
        format!("{KEY_PREFIX}{id}")
    }

    /// The edits of the other steps, as far as they have told.
    #[must_use]
    pub fn of_others(cx: &Context) -> Self {
        let own = Self::key(&cx.invocation().step);
        let facts = cx.invocation().facts.iter();
        let others = facts.filter(|(key, _)| key.starts_with(KEY_PREFIX) && **key != own);
        let told = others.filter_map(|(_, value)| serde_json::from_value::<Self>(value.clone()).ok());
        SourceEdits { edits: told.flat_map(|told| told.edits).collect() }
    }

    /// The text that a setting will have; `None` when it is not edited or its value is kept in a file.
    #[must_use]
    pub fn text(&self, section: &str, key: &str) -> Option<&str> {
        let same = |edit: &&ConfigEdit| {
            edit.section.eq_ignore_ascii_case(section)
                && edit.subsection.is_none()
                && edit.key.eq_ignore_ascii_case(key)
        };
        match &self.edits.iter().rev().find(same)?.value {
            EditValue::Text(text) => Some(text),
            EditValue::File(_) => None,
        }
    }

    /// These without the values whose files are not written yet: before the step is prepared.
    #[must_use]
    pub fn known(mut self) -> Self {
        self.edits.retain(|edit| match &edit.value {
            EditValue::Text(_) => true,
            EditValue::File(path) => path.is_file(),
        });
        self
    }

    /// Adds one edit.
    #[must_use]
    pub fn with(mut self, section: &str, key: &str, value: EditValue) -> Self {
        self.edits.push(ConfigEdit { section: section.into(), subsection: None, key: key.into(), value });
        self
    }

    /// Makes the edits; every other byte stays. Making them twice is the same as making them once.
    ///
    /// # Errors
    /// When a value cannot be read or written; `gcfg` may then hold some of the edits.
    pub fn apply(&self, gcfg: &mut Gcfg) -> Result<(), EditError> {
        for ConfigEdit { section, subsection, key, value } in &self.edits {
            let sub = subsection.as_deref();
            let text = match value {
                EditValue::Text(text) => text.clone(),
                EditValue::File(path) => kept(path).map_err(|why| EditError::Value {
                    setting: name_of(section, sub, key),
                    path: path.clone(),
                    why,
                })?,
            };
            if gcfg.get(section, sub, key).as_deref() != Some(&text) {
                gcfg.set(section, sub, key, &text)?;
            }
        }
        Ok(())
    }
}

fn kept(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(VALUE_MAX_BYTES).read_to_string(&mut text)?;
    Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
}

/// The key of the fact in which a step names what it keeps at the root of the data directory: nobody's data, and not to be carried.
#[must_use]
pub fn kept_in_data_key(step: &str) -> String {
    format!("{KEPT_PREFIX}{step}")
}

/// Names at the root of the data directory that steps keep there for themselves.
#[must_use]
pub fn kept_in_data(cx: &Context) -> Vec<String> {
    let facts = cx.invocation().facts.iter().filter(|(key, _)| key.starts_with(KEPT_PREFIX));
    facts
        .filter_map(|(_, value)| serde_json::from_value::<Vec<String>>(value.clone()).ok())
        .flatten()
        .collect()
}

/// Whether users may have been sent to the new server. A daemon that does not say so is taken to mean yes once the new server has been
/// started: rather look for users' work without need than lose it.
#[must_use]
pub fn traffic_was_routed(cx: &Context) -> bool {
    let invocation = cx.invocation();
    invocation.routed.unwrap_or_else(|| invocation.facts.contains_key(Target::KEY))
}
