//! What a check found.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// The migration can run; the operator should know.
    Warning,
    /// The migration must not start.
    Blocker,
}

/// One result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Stable, in kebab-case, unique within a step: what scripts match and what silences a warning.
    pub key: String,
    /// What was found, naming the thing it was found on. No secrets.
    pub text: String,
    /// What to do about it. Empty for [`Severity::Ok`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// Facts for the checks and plans of later steps: what will be so once this step is carried out.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub facts: Map<String, Value>,
}

impl Finding {
    fn new(severity: Severity, key: String, text: String, remedy: String) -> Self {
        Finding { severity, key, text, remedy, facts: Map::new() }
    }

    /// As it should be.
    pub fn ok(key: impl Into<String>, text: impl Into<String>) -> Self {
        Finding::new(Severity::Ok, key.into(), text.into(), String::new())
    }

    /// Worth knowing.
    pub fn warning(key: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding::new(Severity::Warning, key.into(), text.into(), remedy.into())
    }

    /// Nothing may be touched while this holds.
    pub fn blocker(key: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding::new(Severity::Blocker, key.into(), text.into(), remedy.into())
    }

    /// Publishes a fact. A value that cannot be put into JSON is left out.
    #[must_use]
    pub fn fact(mut self, key: impl Into<String>, value: &impl Serialize) -> Self {
        if let Ok(value) = serde_json::to_value(value) {
            self.facts.insert(key.into(), value);
        }
        self
    }
}
