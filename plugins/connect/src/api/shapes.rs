//! What the calls answer. Fields that are not needed are left out, unknown ones ignored, missing ones tolerated: the answers
//! differ between versions.

use serde::{Deserialize, Deserializer, Serialize};

/// `GET /__api__/server_settings`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[non_exhaustive]
pub struct ServerSettings {
    /// The host name that the server itself sees: inside a container, the container's.
    #[serde(default, deserialize_with = "text")]
    pub hostname: Option<String>,
    /// `None` on a server that is set to hide it.
    #[serde(default, deserialize_with = "text")]
    pub version: Option<String>,
    /// The exact build.
    #[serde(default, deserialize_with = "text")]
    pub build: Option<String>,
    /// `native`, or a cluster's.
    #[serde(default, deserialize_with = "text")]
    pub execution_type: Option<String>,
}

/// `GET /__api__/v1/user`: whom the key belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[non_exhaustive]
pub struct User {
    /// The user's id.
    #[serde(default)]
    pub guid: String,
    /// The name they log in with.
    #[serde(default)]
    pub username: String,
    /// `viewer`, `publisher` or `administrator`.
    #[serde(default)]
    pub user_role: String,
    /// A locked user cannot use the server.
    #[serde(default, deserialize_with = "or_default")]
    pub locked: bool,
}

impl User {
    /// Whether this user may clear caches and build all content.
    #[must_use]
    pub fn is_administrator(&self) -> bool {
        self.user_role == "administrator"
    }
}

/// One runtime cache: the packages of one version of one language for one image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuntimeCache {
    /// `R`, `Python` or `python`.
    pub language: String,
    /// Three parts.
    pub version: String,
    /// `Local` on a server that runs content itself.
    #[serde(default = "local_image")]
    pub image_name: String,
}

fn local_image() -> String {
    "Local".into()
}

impl std::fmt::Display for RuntimeCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({})", self.language, self.version, self.image_name)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Caches {
    #[serde(default, deserialize_with = "or_default")]
    pub caches: Vec<RuntimeCache>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Started {
    #[serde(default, deserialize_with = "text")]
    pub task_id: Option<String>,
}

/// `GET /__api__/v1/tasks/{id}`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[non_exhaustive]
pub struct Task {
    /// The lines from `first` on.
    #[serde(default, alias = "status", deserialize_with = "or_default")]
    pub output: Vec<String>,
    /// Whether it has ended.
    #[serde(default, deserialize_with = "or_default")]
    pub finished: bool,
    /// 0 for success, once it has ended.
    #[serde(default, deserialize_with = "or_default")]
    pub code: i64,
    /// Why it failed.
    #[serde(default, deserialize_with = "or_default")]
    pub error: String,
    /// How many lines there are: the next `first`.
    #[serde(default, alias = "last_status", deserialize_with = "or_default")]
    pub last: u64,
}

impl Task {
    /// Whether it ended well.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.finished && self.code == 0
    }
}

/// One item of `GET /__api__/v1/content`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContentItem {
    /// Its id.
    pub guid: String,
    /// The short name.
    #[serde(default, deserialize_with = "text")]
    pub name: Option<String>,
    /// What users see.
    #[serde(default, deserialize_with = "text")]
    pub title: Option<String>,
    /// The bundle that is served. `None`: never published.
    #[serde(default, deserialize_with = "text")]
    pub bundle_id: Option<String>,
    /// `shiny`, `static`, `python-api`, …
    #[serde(default, deserialize_with = "or_default")]
    pub app_mode: String,
    /// `pin`, `plot`, `site`, or empty.
    #[serde(default, deserialize_with = "or_default")]
    pub content_category: String,
    /// The version of R it was deployed with.
    #[serde(default, deserialize_with = "text")]
    pub r_version: Option<String>,
    /// The version of Python it was deployed with.
    #[serde(default, deserialize_with = "text")]
    pub py_version: Option<String>,
    /// The version of Quarto it was deployed with.
    #[serde(default, deserialize_with = "text")]
    pub quarto_version: Option<String>,
    /// RFC 3339.
    #[serde(default, deserialize_with = "text")]
    pub last_deployed_time: Option<String>,
    /// The owner's id.
    #[serde(default, deserialize_with = "text")]
    pub owner_guid: Option<String>,
    /// The owner, where the server tells.
    #[serde(default)]
    pub owner: Option<Owner>,
}

/// The owner of a content item.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Owner {
    /// The name they log in with.
    #[serde(default)]
    pub username: String,
}

impl ContentItem {
    /// What a person calls it: the title, or the name, or the id.
    #[must_use]
    pub fn label(&self) -> &str {
        self.title.as_deref().or(self.name.as_deref()).unwrap_or(&self.guid)
    }

    /// The owner's name, or id, or nothing.
    #[must_use]
    pub fn owner_label(&self) -> &str {
        match &self.owner {
            Some(owner) if !owner.username.is_empty() => &owner.username,
            _ => self.owner_guid.as_deref().unwrap_or_default(),
        }
    }
}

/// An interpreter that the server can run content with: `GET /__api__/v1/server_settings/{r,python,quarto}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[non_exhaustive]
pub struct Interpreter {
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// `Local` on a server that runs content itself.
    #[serde(default, deserialize_with = "text")]
    pub image_name: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Interpreters {
    #[serde(default, deserialize_with = "or_default")]
    pub installations: Vec<Interpreter>,
}

/// `null` as the default.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Empty as `None`, numbers as their digits: ids are numbers in some answers and text in others.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Text {
        Text(String),
        Number(u64),
    }
    Ok(match Option::deserialize(from)? {
        Some(Text::Text(text)) => Some(text).filter(|text| !text.is_empty()),
        Some(Text::Number(number)) => Some(number.to_string()),
        None => None,
    })
}
