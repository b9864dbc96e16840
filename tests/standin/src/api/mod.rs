//! The Connect Server API as far as the stand-in speaks it, and the content pages.
//!
//! Shapes: <https://docs.posit.co/connect/api/>

mod auth;
mod caches;
mod content;
mod pages;
mod server;
mod tasks;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::server::App;

/// Requests by method and route, for benches.
#[derive(Debug, Default)]
pub struct Counts(Mutex<BTreeMap<String, u64>>);

/// An error in the product's shape: `{"code", "error", "payload"}`.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: i64,
    error: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: i64, error: impl Into<String>) -> Self {
        ApiError { status, code, error: error.into() }
    }

    fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, 4, "The requested object does not exist.")
    }

    fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, 2, error)
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, 1, failure.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "code": self.code, "error": self.error, "payload": null });
        (self.status, axum::Json(body)).into_response()
    }
}

pub(crate) type Answer = Result<axum::Json<Json>, ApiError>;

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/__ping__", get(server::ping))
        .route("/__api__/server_settings", get(server::settings))
        .route("/__api__/server_settings/applications", get(server::applications))
        .route("/__api__/v1/server_settings/r", get(server::r))
        .route("/__api__/v1/server_settings/python", get(server::python))
        .route("/__api__/v1/server_settings/quarto", get(server::quarto))
        .route("/__api__/v1/user", get(server::user))
        .route("/__api__/v1/content", get(content::list))
        .route("/__api__/v1/content/{guid}", get(content::one))
        .route("/__api__/v1/content/{guid}/build", post(content::build))
        .route("/__api__/v1/tasks/{id}", get(tasks::poll))
        .route("/__api__/v1/system/caches/runtime", get(caches::list).delete(caches::delete))
        .route("/content/{guid}", get(pages::redirect))
        .route("/content/{guid}/", get(pages::page))
        .route("/content/{guid}/websocket/", get(pages::websocket))
        .route("/__standin__/stats", get(stats))
        .route("/__standin__/reset", post(reset))
        .fallback(no_such_endpoint)
        .method_not_allowed_fallback(no_such_endpoint)
        .layer(from_fn_with_state(Arc::clone(&app), note))
        .with_state(app)
}

async fn no_such_endpoint() -> Response {
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "404 page not found\n")
        .into_response()
}

/// Counts a request and writes it to the access log.
async fn note(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| request.uri().path().to_owned(), |p| p.as_str().to_owned());
    let path = request.uri().path().to_owned();
    if !route.starts_with("/__standin__") {
        let mut counts = app.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(format!("{method} {route}")).or_default() += 1;
    }
    let response = next.run(request).await;
    app.access.line(&format!("{} {method} {path} {}", crate::live::now(), response.status().as_u16()));
    response
}

/// What benches read: requests by route, and the build slots.
async fn stats(State(app): State<Arc<App>>) -> axum::Json<Json> {
    let mut stats = app.builds.measured();
    let counts = app.counts.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(stats) = stats.as_object_mut() {
        stats.insert("requests".to_owned(), json!(counts));
    }
    axum::Json(stats)
}

async fn reset(State(app): State<Arc<App>>) -> axum::Json<Json> {
    app.builds.reset();
    app.counts.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    axum::Json(json!({}))
}
