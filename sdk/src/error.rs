//! Why a call of a step failed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A failed call: what was tried, why it failed, what to do now.
///
/// ```
/// # use connect_migrator_sdk::StepError;
/// let why = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
/// let error = StepError::new("read /etc/nginx/nginx.conf").because(why).remedy("run `namei -l /etc/nginx/nginx.conf`");
/// assert_eq!(error.to_string(), "could not read /etc/nginx/nginx.conf: permission denied; run `namei -l /etc/nginx/nginx.conf`");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct StepError {
    /// What was tried, on what, as it follows "could not".
    pub tried: String,
    /// Why it failed. No secrets.
    #[serde(default)]
    pub why: String,
    /// What the operator can do now.
    #[serde(default)]
    pub remedy: String,
    /// The call ended because it was asked to ([`Context::cancelled`](crate::Context::cancelled)).
    #[serde(default)]
    pub cancelled: bool,
}

impl StepError {
    /// `tried` follows "could not": `"pull image example:1 from registry.example.com"`.
    pub fn new(tried: impl Into<String>) -> Self {
        StepError { tried: tried.into(), why: String::new(), remedy: String::new(), cancelled: false }
    }

    /// Adds the cause. For an error with sources, the whole chain.
    #[must_use]
    pub fn because(mut self, why: impl std::fmt::Display) -> Self {
        self.why = why.to_string();
        self
    }

    /// Adds the cause with all its sources.
    #[must_use]
    pub fn because_of(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !why.contains(&text) {
                why.push_str(": ");
                why.push_str(&text);
            }
            source = error.source();
        }
        self.why = why;
        self
    }

    /// Adds what to do now.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// The call was asked to end before it was done.
    #[must_use]
    pub fn cancelled(tried: impl Into<String>) -> Self {
        StepError { cancelled: true, why: "it was asked to stop".into(), ..StepError::new(tried) }
    }
}

impl std::fmt::Display for StepError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "could not {}", self.tried)?;
        if !self.why.is_empty() {
            write!(f, ": {}", self.why)?;
        }
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for StepError {}
