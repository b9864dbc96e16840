//! Who asks: `Authorization: Key ...` or `X-RSC-Authorization: Key ...`.

use std::sync::Arc;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde_json::{Value as Json, json};

use super::ApiError;
use crate::failure::Failure;
use crate::server::App;
use crate::store::{Row, Store};
use crate::users::{key_hash, unix_now};

/// The user that an API key belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) guid: String,
    pub(crate) role: String,
    row: Row,
}

impl Caller {
    pub(crate) fn is_administrator(&self) -> bool {
        self.role == "administrator"
    }

    pub(crate) fn to_json(&self) -> Json {
        let row = &self.row;
        json!({
            "guid": self.guid,
            "email": row.text(2),
            "username": row.text(1),
            "first_name": row.text(3),
            "last_name": row.text(4),
            "user_role": self.role,
            "created_time": row.text(6),
            "updated_time": row.text(7),
            "active_time": row.opt_text(8),
            "confirmed": row.int(9) == 1,
            "locked": row.int(10) == 1,
        })
    }
}

/// A caller whose role is administrator.
#[derive(Debug)]
pub(crate) struct Administrator;

fn key_of(parts: &Parts) -> Option<&str> {
    // The product's own header is there for sites whose proxy uses up the other one, so it goes first.
    ["x-rsc-authorization", "authorization"]
        .iter()
        .find_map(|name| parts.headers.get(*name)?.to_str().ok()?.strip_prefix("Key "))
        .map(str::trim)
}

async fn lookup(store: &Store, key: &str) -> Result<Option<Caller>, Failure> {
    let sql = "SELECT u.guid, u.username, u.email, u.first_name, u.last_name, u.user_role, u.created_time, \
               u.updated_time, u.active_time, u.confirmed, u.locked FROM api_keys k JOIN users u \
               ON u.guid = k.user_guid WHERE k.hash = $1 AND (k.expires_unix IS NULL OR k.expires_unix > $2)";
    let rows = store.query(sql, &[key_hash(key).into(), unix_now().into()]).await?;
    Ok(rows.into_iter().next().map(|row| Caller { guid: row.text(0), role: row.text(5), row }))
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let Some(key) = key_of(parts) else {
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, 24, "You must be authenticated to do this."));
        };
        lookup(&app.store, key)
            .await?
            .ok_or_else(|| ApiError::new(StatusCode::UNAUTHORIZED, 3, "Key is not valid"))
    }
}

impl OptionalFromRequestParts<Arc<App>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Option<Self>, ApiError> {
        if key_of(parts).is_none() {
            return Ok(None);
        }
        <Caller as FromRequestParts<Arc<App>>>::from_request_parts(parts, app).await.map(Some)
    }
}

impl FromRequestParts<Arc<App>> for Administrator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let caller = <Caller as FromRequestParts<Arc<App>>>::from_request_parts(parts, app).await?;
        if caller.is_administrator() {
            Ok(Administrator)
        } else {
            Err(ApiError::new(StatusCode::FORBIDDEN, 22, "You don't have permission to access this item."))
        }
    }
}
