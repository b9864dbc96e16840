//! `v1/system/caches/runtime`, for administrators.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::auth::Administrator;
use super::{Answer, ApiError};
use crate::builds;
use crate::runtimes::Version;
use crate::server::App;

/// The image name of local execution.
const LOCAL: &str = "Local";

pub(crate) async fn list(State(app): State<Arc<App>>, _admin: Administrator) -> Answer {
    let all: Vec<Json> = app
        .data
        .caches()
        .iter()
        .map(|c| json!({ "language": c.language.to_string(), "version": c.version, "image_name": LOCAL }))
        .collect();
    Ok(axum::Json(json!({ "caches": all })))
}

#[derive(Debug, Deserialize)]
struct Deletion {
    language: String,
    version: String,
    image_name: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

pub(crate) async fn delete(State(app): State<Arc<App>>, _admin: Administrator, body: String) -> Answer {
    let wanted: Deletion = serde_json::from_str(&body)
        .map_err(|e| ApiError::bad_request(format!("The request body is not valid: {e}")))?;
    if !["r", "python"].contains(&wanted.language.to_lowercase().as_str()) {
        return Err(ApiError::bad_request(format!("Unknown language '{}'.", wanted.language)));
    }
    if Version::parse(&wanted.version).is_none() {
        return Err(ApiError::bad_request(format!(
            "The version '{}' does not have three parts.",
            wanted.version
        )));
    }
    let image = wanted.image_name.unwrap_or_else(|| LOCAL.to_owned());
    let cache = app
        .data
        .caches()
        .into_iter()
        .find(|c| {
            c.language.to_string().eq_ignore_ascii_case(&wanted.language) && c.version == wanted.version
        })
        .filter(|_| image == LOCAL)
        .ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, 4, "Cache does not exist"))?;
    let (language, version) = (cache.language.to_string(), cache.version.clone());
    let task = if wanted.dry_run { None } else { Some(builds::delete_cache(&app, cache)?) };
    Ok(axum::Json(json!({ "language": language, "version": version, "image_name": image, "task_id": task })))
}
