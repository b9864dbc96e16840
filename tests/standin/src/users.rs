//! Users and their API keys.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::failure::Failure;
use crate::live::now;
use crate::secret;
use crate::store::{Store, Value};

/// The shortest API key that is taken.
const MIN_KEY_CHARS: usize = 16;

/// What the database keeps of an API key.
#[must_use]
pub fn key_hash(key: &str) -> String {
    secret::hex(&Sha256::digest(key.as_bytes()))
}

/// Seconds since 1970.
#[must_use]
pub fn unix_now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Reads an API key from a file; the white space around it does not count.
///
/// # Errors
/// The file cannot be read, or holds no key.
pub fn read_key(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(Failure::file("read", path))?;
    let key = text.trim();
    if key.chars().count() < MIN_KEY_CHARS || key.contains(char::is_whitespace) {
        return Err(Failure::Usage(format!(
            "{} does not hold an API key: one word of at least {MIN_KEY_CHARS} characters is expected",
            path.display()
        )));
    }
    Ok(key.to_owned())
}

/// Adds a user; doing it twice is doing it once.
///
/// # Errors
/// The database's.
pub async fn add_user(store: &Store, guid: &str, username: &str, role: &str) -> Result<(), Failure> {
    let time = "2024-01-15T09:00:00Z";
    let row: [Value; 11] = [
        guid.into(),
        username.into(),
        format!("{username}@example.com").into(),
        username.into(),
        "Example".into(),
        role.into(),
        time.into(),
        time.into(),
        time.into(),
        true.into(),
        false.into(),
    ];
    store.insert("users", &row).await.map(drop)
}

/// Adds an API key of a user. `expires`: seconds since 1970.
///
/// # Errors
/// The database's.
pub async fn add_key(store: &Store, user: &str, key: &str, expires: Option<i64>) -> Result<(), Failure> {
    let row: [Value; 5] = [key_hash(key).into(), user.into(), "standin".into(), now().into(), expires.into()];
    store.insert("api_keys", &row).await.map(drop)
}
