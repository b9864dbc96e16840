//! Ping, server settings, the calling user.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value as Json, json};

use super::Answer;
use super::auth::Caller;
use crate::runtimes::Language;
use crate::server::App;
use crate::tuning::Ping;

pub(crate) async fn ping(State(app): State<Arc<App>>) -> Response {
    match app.tuning.ping {
        Ping::Ok => axum::Json(json!({})).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, axum::Json(json!({}))).into_response(),
    }
}

/// Without a key the answer is reduced: neither version nor hostname.
pub(crate) async fn settings(State(app): State<Arc<App>>, caller: Option<Caller>) -> Answer {
    let mut settings = json!({
        "authentication": { "handles_credentials": true, "handles_login": true, "name": "password", "notice": "" },
        "mail_all": false,
        "public_warning": "",
        "logged_in_warning": "",
        "self_registration": true,
    });
    if let (Some(_), Some(settings)) = (caller, settings.as_object_mut()) {
        let more = json!({
            "hostname": app.hostname,
            "version": app.version,
            "build": format!("v{}-0-gstandin", app.version),
            "about": format!("Posit Connect v{}", app.version),
            "license": {
                "ts": crate::users::unix_now() * 1000,
                "status": "activated",
                "expiration": (crate::users::unix_now() + 31_536_000) * 1000,
                "days-left": 365,
                "has-key": false,
                "has-trial": false,
                "tier": "enhanced",
                "type": "local",
                "users": "100",
            },
            "execution_type": "native",
            "runtimes": ["R", "Python", "Quarto"],
            "git_enabled": false,
            "git_available": false,
            "deprecated_settings": false,
        });
        if let Json::Object(more) = more {
            settings.extend(more);
        }
    }
    Ok(axum::Json(settings))
}

pub(crate) async fn applications(State(app): State<Arc<App>>, _caller: Caller) -> Answer {
    Ok(axum::Json(json!({
        "access_types": ["all", "logged_in", "acl"],
        "run_as": app.settings.run_as,
        "run_as_group": app.settings.run_as,
        "run_as_current_user": false,
    })))
}

fn installations(app: &App, language: Language, enabled: bool) -> Json {
    let all: Vec<Json> = app
        .runtimes
        .versions(language)
        .iter()
        .map(|v| json!({ "version": v.to_string(), "cluster_name": "Local", "image_name": "Local" }))
        .collect();
    json!({ "installations": all, "api_enabled": enabled })
}

pub(crate) async fn r(State(app): State<Arc<App>>, _caller: Caller) -> Answer {
    Ok(axum::Json(installations(&app, Language::R, app.settings.r.enabled)))
}

pub(crate) async fn python(State(app): State<Arc<App>>, _caller: Caller) -> Answer {
    Ok(axum::Json(installations(&app, Language::Python, app.settings.python.enabled)))
}

pub(crate) async fn quarto(State(app): State<Arc<App>>, _caller: Caller) -> Answer {
    Ok(axum::Json(installations(&app, Language::Quarto, app.settings.quarto.enabled)))
}

pub(crate) async fn user(caller: Caller) -> Answer {
    Ok(axum::Json(caller.to_json()))
}
