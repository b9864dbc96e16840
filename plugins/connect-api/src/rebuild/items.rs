//! Which content is built, in which order. Only a few bytes an item are held in memory; the rest lies in a file.

use connect_migrator_connect::api::{Api, ApiError, ContentItem};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// An item to build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The content's id.
    pub guid: String,
    /// What people call it.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// The bundle that is served, and so built.
    pub bundle: String,
}

/// An item that is not built, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The content's id.
    pub guid: String,
    /// What people call it.
    pub name: String,
    /// Why it is not built.
    pub why: String,
}

/// Which languages are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// All.
    #[default]
    All,
    /// Only content with R.
    R,
    /// Only content with Python.
    Python,
}

/// Whether an item has an environment to build; if not, why not.
///
/// # Errors
/// The reason to skip it.
pub fn bundle_to_build(item: &ContentItem, what: What) -> Result<&str, String> {
    let Some(bundle) = item.bundle_id.as_deref() else { return Err("never published".into()) };
    if item.app_mode == "static" {
        return Err("static: needs no packages".into());
    }
    if let category @ ("pin" | "plot") = item.content_category.as_str() {
        return Err(format!("a {category}: needs no packages"));
    }
    match (what, &item.r_version, &item.py_version) {
        (_, None, None) => Err("uses neither R nor Python".into()),
        (What::R, None, _) => Err("uses no R, and `what = \"r\"`".into()),
        (What::Python, _, None) => Err("uses no Python, and `what = \"python\"`".into()),
        _ => Ok(bundle),
    }
}

/// The items to build, most recently deployed first.
#[derive(Debug)]
pub struct Items {
    file: File,
    path: PathBuf,
    order: Vec<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    deployed_millis: i64,
    offset: u64,
    len: u32,
}

/// Why the items could not be listed or read.
#[derive(Debug, thiserror::Error)]
pub enum ItemsError {
    /// The server did not tell them.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The file.
    #[error("{what} {}: {why}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        why: std::io::Error,
    },
}

impl Items {
    /// Asks the server for all content. What is to be built goes into the file `path`; `skipped` is handed the rest.
    ///
    /// # Errors
    /// When the list cannot be read to its end, or the file not written.
    pub async fn list(
        api: &Api,
        what: What,
        path: &Path,
        mut skipped: impl FnMut(Skipped) -> std::io::Result<()>,
    ) -> Result<Items, ItemsError> {
        let fail = |why| ItemsError::File { what: "write", path: path.into(), why };
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
        let mut file = BufWriter::new(file.map_err(fail)?);
        let mut order = Vec::new();
        let mut offset = 0;
        api.each_content(|item| -> Result<(), ItemsError> {
            let (guid, name) = (item.guid.clone(), item.label().to_owned());
            let bundle = match bundle_to_build(&item, what) {
                Ok(bundle) => bundle.to_owned(),
                Err(why) => return skipped(Skipped { guid, name, why }).map_err(fail),
            };
            let line = Item { guid, name, bundle, owner: item.owner_label().to_owned() };
            let line = serde_json::to_vec(&line).map_err(|error| fail(error.into()))?;
            file.write_all(&line).map_err(fail)?;
            let len = u32::try_from(line.len()).map_err(|error| fail(std::io::Error::other(error)))?;
            order.push(Place { deployed_millis: deployed_millis(&item), offset, len });
            offset += u64::from(len);
            Ok(())
        })
        .await?;
        // Stable: of items deployed at the same moment, the server's order stays.
        order.sort_by_key(|place| std::cmp::Reverse(place.deployed_millis));
        order.shrink_to_fit();
        let file = file.into_inner().map_err(|error| fail(error.into_error()))?;
        Ok(Items { file, path: path.into(), order })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The item at a place in the order; `None` past the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn get(&self, at: usize) -> Result<Option<Item>, ItemsError> {
        let Some(place) = self.order.get(at) else { return Ok(None) };
        let fail = |why| ItemsError::File { what: "read", path: self.path.clone(), why };
        let mut line = vec![0; place.len as usize];
        self.file.read_exact_at(&mut line, place.offset).map_err(fail)?;
        serde_json::from_slice(&line).map(Some).map_err(|error| fail(error.into()))
    }
}

/// Milliseconds since 1970; the smallest number when it is not known.
fn deployed_millis(item: &ContentItem) -> i64 {
    let time = item.last_deployed_time.as_deref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    time.map_or(i64::MIN, jiff::Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(fields: serde_json::Value) -> ContentItem {
        let mut all = json!({"guid": "g", "bundle_id": "1", "app_mode": "shiny", "r_version": "4.3.0"});
        for (key, value) in fields.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn what_has_no_packages_is_skipped_with_the_reason() {
        let skip = |fields| bundle_to_build(&item(fields), What::All).unwrap_err();
        assert_eq!(skip(json!({"bundle_id": null})), "never published");
        assert_eq!(skip(json!({"bundle_id": ""})), "never published");
        assert_eq!(skip(json!({"app_mode": "static"})), "static: needs no packages");
        assert_eq!(skip(json!({"content_category": "pin"})), "a pin: needs no packages");
        assert_eq!(skip(json!({"content_category": "plot"})), "a plot: needs no packages");
        assert_eq!(skip(json!({"r_version": null, "app_mode": "nodejs"})), "uses neither R nor Python");
        let site = item(json!({"content_category": "site", "app_mode": "rmd-static"}));
        assert_eq!(bundle_to_build(&site, What::All), Ok("1"));
    }

    #[test]
    fn one_language_can_be_asked_for() {
        let both = item(json!({"py_version": "3.11.0"}));
        for what in [What::All, What::R, What::Python] {
            assert_eq!(bundle_to_build(&both, what), Ok("1"));
        }
        assert!(bundle_to_build(&item(json!({})), What::Python).unwrap_err().contains("no Python"));
        let python = item(json!({"r_version": null, "py_version": "3.11.0"}));
        assert!(bundle_to_build(&python, What::R).unwrap_err().contains("no R"));
    }

    #[test]
    fn times_are_compared_as_times() {
        let at = |time: &str| deployed_millis(&item(json!({"last_deployed_time": time})));
        assert!(at("2024-01-02T03:04:05+02:00") < at("2024-01-02T02:04:05Z"));
        assert!(at("2024-01-02T03:04:05.9Z") > at("2024-01-02T03:04:05Z"));
        assert_eq!(at("soon"), i64::MIN);
    }
}
