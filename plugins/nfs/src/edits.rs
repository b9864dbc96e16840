//! What steps tell each other about their changes to the source's configuration, and what the daemon tells about its users.

use connect_migrator_sdk::{Context, Target};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// Where the keys of these facts begin.
const KEY_PREFIX: &str = "source-edits/";

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
    /// `Server`.
    pub section: String,
    /// `DataDir`.
    pub key: String,
    /// `{ "text": "/mnt/connect" }`; other steps have other forms.
    pub value: Value,
}

impl SourceEdits {
    /// The key of the fact that the step `id` publishes.
    #[must_use]
    pub fn key(id: &str) -> String {
        format!("{KEY_PREFIX}{id}")
    }

    /// This step's own: the data directory.
    #[must_use]
    pub fn data_directory(mount: &Path) -> Self {
        let value = serde_json::json!({ "text": mount.to_string_lossy() });
        SourceEdits { edits: vec![ConfigEdit { section: "Server".into(), key: "DataDir".into(), value }] }
    }
}

/// The value that other steps will give to a setting, as far as they have told.
#[must_use]
pub fn told_by_others(cx: &Context, section: &str, key: &str) -> Option<String> {
    let own = SourceEdits::key(&cx.invocation().step);
    let facts = cx.invocation().facts.iter();
    let others = facts.filter(|(fact, _)| fact.starts_with(KEY_PREFIX) && **fact != own);
    others
        .filter_map(|(_, value)| serde_json::from_value::<SourceEdits>(value.clone()).ok())
        .flat_map(|told| told.edits)
        .filter(|edit| edit.section.eq_ignore_ascii_case(section) && edit.key.eq_ignore_ascii_case(key))
        .filter_map(|edit| edit.value.get("text")?.as_str().map(str::to_owned))
        .next_back()
}

/// Whether users may have been sent to the new server. A daemon that does not say is taken to mean yes once the new server was started:
/// rather look for changes without need than lose somebody's work.
#[must_use]
pub fn traffic_was_routed(cx: &Context) -> bool {
    let said = serde_json::to_value(cx.invocation()).ok().and_then(|value| value.get("routed")?.as_bool());
    said.unwrap_or_else(|| cx.invocation().facts.contains_key(Target::KEY))
}
