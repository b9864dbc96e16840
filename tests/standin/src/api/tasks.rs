//! `v1/tasks/{id}?first=&wait=`

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use serde::Deserialize;

use super::auth::Caller;
use super::{Answer, ApiError};
use crate::server::App;

/// The longest wait that a client may ask for.
const MAX_WAIT_SECONDS: u64 = 20;

#[derive(Debug, Deserialize)]
pub(crate) struct Poll {
    first: Option<String>,
    wait: Option<String>,
}

pub(crate) async fn poll(
    State(app): State<Arc<App>>,
    _caller: Caller,
    Path(id): Path<String>,
    Query(poll): Query<Poll>,
) -> Answer {
    let number = |text: Option<String>, name: &str| match text {
        None => Ok(0),
        Some(text) => text.parse::<u64>().map_err(|_| {
            ApiError::bad_request(format!("The query parameter {name} must be a whole number, not '{text}'."))
        }),
    };
    let first = usize::try_from(number(poll.first, "first")?)
        .map_err(|_| ApiError::bad_request("The query parameter first is too large."))?;
    let wait = number(poll.wait, "wait")?;
    if wait > MAX_WAIT_SECONDS {
        return Err(ApiError::bad_request(format!(
            "The query parameter wait must be 0 to {MAX_WAIT_SECONDS}."
        )));
    }
    let before = app.tasks.poll(&app.store, &id, 0, Duration::ZERO).await?.ok_or_else(ApiError::not_found)?;
    if first > before.output.len() {
        return Err(ApiError::bad_request(format!(
            "The query parameter first must be 0 to {}.",
            before.output.len()
        )));
    }
    let progress = app
        .tasks
        .poll(&app.store, &id, first, Duration::from_secs(wait))
        .await?
        .ok_or_else(ApiError::not_found)?;
    Ok(axum::Json(progress.answer(&id, first)))
}
