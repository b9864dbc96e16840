//! What a check found.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
}

impl Finding {
    /// As it should be.
    pub fn ok(key: impl Into<String>, text: impl Into<String>) -> Self {
        Finding { severity: Severity::Ok, key: key.into(), text: text.into(), remedy: String::new() }
    }

    /// Worth knowing.
    pub fn warning(key: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding { severity: Severity::Warning, key: key.into(), text: text.into(), remedy: remedy.into() }
    }

    /// Nothing may be touched while this holds.
    pub fn blocker(key: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding { severity: Severity::Blocker, key: key.into(), text: text.into(), remedy: remedy.into() }
    }
}
