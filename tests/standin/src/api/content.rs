//! `v1/content` and builds.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::auth::Caller;
use super::{Answer, ApiError};
use crate::builds;
use crate::content::Content;
use crate::secret;
use crate::server::App;

#[derive(Debug, Deserialize)]
pub(crate) struct Filter {
    include: Option<String>,
    name: Option<String>,
    owner_guid: Option<String>,
}

/// A bare array, without pages. Administrators get everything, others what they own.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(filter): Query<Filter>,
) -> Answer {
    let own = (!caller.is_administrator()).then_some(caller.guid.as_str());
    let mut items = Content::list(&app.store, own).await?;
    items.retain(|c| filter.name.as_ref().is_none_or(|n| *n == c.name));
    items.retain(|c| filter.owner_guid.as_ref().is_none_or(|g| *g == c.owner_guid));
    let include = filter.include.unwrap_or_default();
    let owners = if include.split(',').any(|i| i == "owner") { owners(&app).await? } else { HashMap::new() };
    let with_tags = include.split(',').any(|i| i == "tags");
    let all: Vec<Json> = items
        .iter()
        .map(|c| {
            let mut item = c.to_json(&app.settings.address);
            if let Some(fields) = item.as_object_mut() {
                if let Some(owner) = owners.get(&c.owner_guid) {
                    fields.insert("owner".to_owned(), owner.clone());
                }
                if with_tags {
                    fields.insert("tags".to_owned(), Json::Null);
                }
            }
            item
        })
        .collect();
    Ok(axum::Json(Json::Array(all)))
}

async fn owners(app: &App) -> Result<HashMap<String, Json>, ApiError> {
    let rows = app.store.query("SELECT guid, username, first_name, last_name FROM users", &[]).await?;
    let json = |r: &crate::store::Row| json!({ "guid": r.text(0), "username": r.text(1), "first_name": r.text(2), "last_name": r.text(3) });
    Ok(rows.iter().map(|r| (r.text(0), json(r))).collect())
}

async fn find(app: &App, caller: &Caller, guid: &str) -> Result<Content, ApiError> {
    let content = Content::find(&app.store, guid).await?.ok_or_else(ApiError::not_found)?;
    if caller.is_administrator() || caller.guid == content.owner_guid {
        Ok(content)
    } else {
        Err(ApiError::new(StatusCode::FORBIDDEN, 4, "You don't have permission to access this item."))
    }
}

pub(crate) async fn one(State(app): State<Arc<App>>, caller: Caller, Path(guid): Path<String>) -> Answer {
    Ok(axum::Json(find(&app, &caller, &guid).await?.to_json(&app.settings.address)))
}

#[derive(Debug, Default, Deserialize)]
struct Build {
    bundle_id: Option<String>,
}

/// Builds the environment of a bundle (by default the active one) without publishing it.
pub(crate) async fn build(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(guid): Path<String>,
    body: String,
) -> Answer {
    let wanted: Build = if body.trim().is_empty() {
        Build::default()
    } else {
        serde_json::from_str(&body)
            .map_err(|e| ApiError::bad_request(format!("The request body is not valid: {e}")))?
    };
    if caller.role == "viewer" {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            22,
            "You don't have permission to perform this operation.",
        ));
    }
    let content = find(&app, &caller, &guid).await?;
    let bundle = match wanted.bundle_id.or_else(|| content.bundle_id.clone()) {
        None => return Err(ApiError::bad_request("This content has no active bundle.")),
        Some(bundle) if content.bundle_id.as_ref() == Some(&bundle) => bundle,
        Some(bundle) => {
            let sql = "SELECT id FROM bundles WHERE id = $1 AND content_guid = $2";
            let rows = app.store.query(sql, &[bundle.as_str().into(), guid.as_str().into()]).await?;
            if rows.is_empty() {
                return Err(ApiError::not_found());
            }
            bundle
        }
    };
    if app.tuning.build_writes {
        let id = secret::hex(&secret::random(8)?);
        let now = crate::live::now();
        let row = [id.into(), now.into(), caller.guid.as_str().into(), "build_content".into(), guid.into()];
        app.store.insert("audit", &row).await?;
    }
    let task = builds::submit(&app, content, bundle)?;
    Ok(axum::Json(json!({ "task_id": task })))
}
