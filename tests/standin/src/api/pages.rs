//! Content as visitors see it.

use std::sync::Arc;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use sha2::{Digest, Sha256};

use super::{ApiError, no_such_endpoint};
use crate::builds;
use crate::content::Content;
use crate::secret;
use crate::server::App;

pub(crate) async fn redirect(Path(guid): Path<String>) -> Redirect {
    Redirect::permanent(&format!("/content/{guid}/"))
}

async fn published(app: &App, guid: &str) -> Result<Option<(Content, String)>, ApiError> {
    let content = Content::find(&app.store, guid).await?;
    Ok(content.and_then(|c| c.bundle_id.clone().map(|bundle| (c, bundle))))
}

fn broken(content: &Content, why: &str) -> Response {
    let text = format!("{} ({}) cannot be shown: {why}\n", content.title, content.guid);
    (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text)
        .into_response()
}

/// The same bytes from every server with the same data: title, guid and the digest of the bundle.
pub(crate) async fn page(
    State(app): State<Arc<App>>,
    Path(guid): Path<String>,
) -> Result<Response, ApiError> {
    let Some((content, bundle)) = published(&app, &guid).await? else { return Ok(no_such_endpoint().await) };
    if let Err(why) = builds::runs(&app, &content, &bundle) {
        return Ok(broken(&content, &why));
    }
    if content.app_mode == "static" {
        return match std::fs::read_to_string(app.data.app(content.id, &bundle).join("index.html")) {
            Ok(text) => Ok(Html(text).into_response()),
            Err(e) => Ok(broken(&content, &format!("index.html: {e}"))),
        };
    }
    match std::fs::read(app.data.bundle(content.id, &bundle)) {
        Ok(bytes) => {
            let digest = secret::hex(&Sha256::digest(&bytes));
            let (title, mode) = (&content.title, &content.app_mode);
            Ok(Html(format!(
                "<!doctype html>\n<title>{title}</title>\n<h1>{title}</h1>\n<p>{guid} {mode} bundle {bundle} \
                 sha256 {digest}</p>\n"
            ))
            .into_response())
        }
        Err(e) => Ok(broken(&content, &format!("bundle {bundle}: {e}"))),
    }
}

/// Shiny and its like: echoes what it gets.
pub(crate) async fn websocket(
    State(app): State<Arc<App>>,
    Path(guid): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, ApiError> {
    let Some((content, bundle)) = published(&app, &guid).await? else { return Ok(no_such_endpoint().await) };
    if !content.has_websocket() {
        return Ok(no_such_endpoint().await);
    }
    Ok(match builds::runs(&app, &content, &bundle) {
        Ok(()) => upgrade.on_upgrade(echo),
        Err(why) => broken(&content, &why),
    })
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let done = match message {
            Message::Text(_) | Message::Binary(_) => socket.send(message).await.is_err(),
            Message::Close(_) => true,
            _ => false,
        };
        if done {
            break;
        }
    }
}
