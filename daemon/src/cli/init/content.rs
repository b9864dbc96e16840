//! The content of the source, when an administrator's key was given.

use connect_migrator_connect::api::{Api, ApiError};
use connect_migrator_sdk::Secret;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use zeroize::Zeroizing;

/// No key is longer.
const KEY_MAX_BYTES: u64 = 4096;

/// What the content needs of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// How many items there are.
    pub(super) items: usize,
    /// How many items were deployed with each version of each language.
    pub(super) needs: BTreeMap<(&'static str, String), usize>,
}

/// The key in a file.
///
/// # Errors
/// When there is none.
pub(super) fn read_key(path: &Path) -> Result<Secret, String> {
    let failed =
        |why: &dyn std::fmt::Display| format!("could not read the API key in {}: {why}", path.display());
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    file.take(KEY_MAX_BYTES).read_to_string(&mut text).map_err(|error| failed(&error))?;
    let key = text.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(failed(&"it does not hold one key and nothing else"));
    }
    Ok(Secret::new(key.to_owned()))
}

/// Asks the source for its content.
///
/// # Errors
/// When it does not answer, or the key is not an administrator's.
pub(super) async fn look(url: &str, key: Secret) -> Result<Content, String> {
    let api = Api::new(url, Some(key)).map_err(|error| error.to_string())?;
    let user = api.user().await.map_err(|error| error.to_string())?;
    if !user.is_administrator() {
        return Err(format!(
            "the key belongs to {}, who is {}, not an administrator",
            user.username, user.user_role
        ));
    }
    let mut content = Content::default();
    api.each_content(|item| -> Result<(), ApiError> {
        content.items += 1;
        let versions = [("R", item.r_version), ("Python", item.py_version), ("Quarto", item.quarto_version)];
        for (language, version) in versions {
            if let Some(version) = version.filter(|version| !version.is_empty()) {
                *content.needs.entry((language, version)).or_default() += 1;
            }
        }
        Ok(())
    })
    .await
    .map_err(|error| error.to_string())?;
    Ok(content)
}
