//! What the calls of a step answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Whether a call had to change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Done {
    /// The world was changed.
    Changed,
    /// It was already as wanted.
    AlreadyDone,
}

/// The answer of `prepare`, `enter_window`, `apply` and `finalize`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Outcome {
    /// Whether anything had to change.
    pub done: Done,
    /// What was seen or done, a sentence each, for the report. No secrets.
    pub evidence: Vec<String>,
    /// Facts for later steps, read there with [`Context::fact`](crate::Context::fact). Keys are shared by the whole migration.
    #[serde(default)]
    pub facts: Map<String, Value>,
    /// Anything more for the machine-readable report. No secrets.
    #[serde(default)]
    pub details: Value,
}

impl Outcome {
    /// The world was changed.
    pub fn changed(evidence: impl Into<String>) -> Self {
        Outcome {
            done: Done::Changed,
            evidence: vec![evidence.into()],
            facts: Map::new(),
            details: Value::Null,
        }
    }

    /// Nothing had to be changed.
    pub fn already_done(evidence: impl Into<String>) -> Self {
        Outcome { done: Done::AlreadyDone, ..Outcome::changed(evidence) }
    }

    /// Adds a sentence.
    #[must_use]
    pub fn and(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    /// Publishes a fact. A value that cannot be put into JSON is left out.
    #[must_use]
    pub fn fact(mut self, key: impl Into<String>, value: &impl Serialize) -> Self {
        if let Ok(value) = serde_json::to_value(value) {
            self.facts.insert(key.into(), value);
        }
        self
    }

    /// Adds one member to the details for the machine-readable report. A text named `diff`, or `…-diff`, is a unified diff of a file
    /// that was changed, which the report shows as one. Take secrets out of it yourself: nobody does so later.
    #[must_use]
    pub fn with_detail(mut self, name: &str, value: &impl Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        match &mut self.details {
            Value::Object(details) => drop(details.insert(name.into(), value)),
            details => *details = Value::Object([(name.to_owned(), value)].into_iter().collect()),
        }
        self
    }

    /// Sets the details for the machine-readable report.
    #[must_use]
    pub fn details(mut self, details: &impl Serialize) -> Self {
        self.details = serde_json::to_value(details).unwrap_or(Value::Null);
        self
    }
}

/// The answer of `verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// The world is as wanted.
    Holds {
        /// What was seen.
        evidence: String,
    },
    /// It is not.
    Broken {
        /// What was seen instead.
        why: String,
        /// What an operator can do about it.
        remedy: String,
    },
}

impl Verdict {
    /// The world is as wanted.
    pub fn holds(evidence: impl Into<String>) -> Self {
        Verdict::Holds { evidence: evidence.into() }
    }

    /// The world is not as wanted.
    pub fn broken(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Verdict::Broken { why: why.into(), remedy: remedy.into() }
    }
}

/// The answer of `probe`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "probe")]
pub enum Probe {
    /// The call was carried out in full; here is the outcome it would have answered.
    Done {
        /// With facts, if the call publishes any.
        outcome: Outcome,
    },
    /// Run it again: it was not carried out, or doing it again is harmless.
    RunAgain,
    /// It cannot be told, and doing it again could harm. The daemon stops and asks.
    Unknown {
        /// What was seen, and what the operator should look at.
        why: String,
    },
}

/// The answer of `rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Undone {
    /// What was put back.
    pub evidence: Vec<String>,
    /// What could not be put back, with what to do about it. Not empty means that the operator is needed.
    #[serde(default)]
    pub left: Vec<String>,
}

impl Undone {
    /// Everything of this call was put back.
    pub fn restored(evidence: impl Into<String>) -> Self {
        Undone { evidence: vec![evidence.into()], left: Vec::new() }
    }

    /// Adds a sentence on what was put back.
    #[must_use]
    pub fn and(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    /// Adds something that could not be put back.
    #[must_use]
    pub fn but(mut self, left: impl Into<String>) -> Self {
        self.left.push(left.into());
        self
    }
}

/// One line of `connect-migrator plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// When it will happen.
    pub when: crate::Op,
    /// What will happen, as a sentence.
    pub what: String,
    /// A unified diff of a file that will change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// Facts for the plans of later steps: what will be so once this step is carried out.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub facts: Map<String, Value>,
}

impl Change {
    /// A change without a diff.
    pub fn new(when: crate::Op, what: impl Into<String>) -> Self {
        Change { when, what: what.into(), diff: None, facts: Map::new() }
    }

    /// Publishes a fact. A value that cannot be put into JSON is left out.
    #[must_use]
    pub fn fact(mut self, key: impl Into<String>, value: &impl Serialize) -> Self {
        if let Ok(value) = serde_json::to_value(value) {
            self.facts.insert(key.into(), value);
        }
        self
    }

    /// Adds the diff of the file that changes.
    #[must_use]
    pub fn with_diff(mut self, diff: impl Into<String>) -> Self {
        self.diff = Some(diff.into());
        self
    }
}
