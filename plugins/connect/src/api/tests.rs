use super::*;
use axum::extract::{Path, Query, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use axum::routing::{any, delete, get, post};
use axum::{Json, Router};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

async fn serve(app: Router) -> (String, SocketAddr) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}"), address)
}

fn key() -> Option<Secret> {
    Some(Secret::new("s3cr3t-key".into()))
}

async fn api(app: Router) -> Api {
    Api::new(&serve(app).await.0, key()).unwrap()
}

#[tokio::test]
async fn the_key_is_sent_in_the_header_that_is_asked_for_and_not_with_a_ping() {
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let record = Arc::clone(&seen);
    let app = Router::new().fallback(move |request: Request| {
        record.lock().unwrap().push(request.headers().clone());
        async { Json(json!({"username": "ada", "user_role": "administrator"})) }
    });
    let api = api(app).await;
    api.user().await.unwrap();
    api.clone().key_in(KeyHeader::XRscAuthorization).user().await.unwrap();
    api.ping().await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].get("authorization").unwrap(), "Key s3cr3t-key");
    assert_eq!(seen[1].get("x-rsc-authorization").unwrap(), "Key s3cr3t-key");
    assert!(seen[1].get("authorization").is_none());
    assert!(seen[2].get("authorization").is_none());
}

#[tokio::test]
async fn an_address_can_be_asked_under_the_servers_public_name_and_without_its_proxys_path() {
    let app = Router::new().route(
        "/__api__/server_settings",
        get(|headers: HeaderMap| async move {
            Json(json!({"hostname": headers.get("host").unwrap().to_str().unwrap(), "version": ""}))
        }),
    );
    let (_, address) = serve(app).await;
    let api = Api::with_address("https://connect.example.com/rsconnect/", address, None).unwrap();
    let settings = api.server_settings().await.unwrap();
    assert_eq!(settings.hostname.as_deref(), Some("connect.example.com"));
    assert_eq!(settings.version, None, "an empty version is no version");
}

#[tokio::test]
async fn a_path_in_the_address_is_kept() {
    let app = Router::new().route("/rsconnect/__api__/v1/user", get(|| async { Json(json!({"guid": "g"})) }));
    let (url, _) = serve(app).await;
    for url in [format!("{url}/rsconnect"), format!("{url}/rsconnect/")] {
        assert_eq!(Api::new(&url, key()).unwrap().user().await.unwrap().guid, "g");
    }
}

#[tokio::test]
async fn an_error_says_the_call_the_status_and_the_servers_words() {
    let app = Router::new()
        .route(
            "/__api__/v1/user",
            get(|| async {
                (
                    StatusCode::UNAUTHORIZED,
                    Json(json!({"code": 3, "error": "Key is not valid", "payload": null})),
                )
            }),
        )
        .route("/__api__/server_settings", get(|| async { StatusCode::INTERNAL_SERVER_ERROR }))
        .route("/__ping__", get(|| async { (StatusCode::BAD_GATEWAY, "<html>\n bad  gateway") }));
    let api = api(app).await;
    let error = api.user().await.unwrap_err();
    assert_eq!((error.status(), error.text()), (Some(401), "Key is not valid"));
    assert!(!error.is_away());
    assert!(error.to_string().contains("/__api__/v1/user answered 401: Key is not valid"), "{error}");
    let error = api.server_settings().await.unwrap_err();
    assert_eq!((error.status(), error.text()), (Some(500), ""));
    assert!(error.to_string().ends_with("answered 500"), "{error}");
    let error = api.ping().await.unwrap_err();
    assert!(error.is_away() && error.to_string().ends_with("answered 502: <html> bad gateway"), "{error}");
}

#[tokio::test]
async fn an_unknown_endpoint_is_told_from_an_unknown_thing() {
    let app = Router::new()
        .route(
            CACHES_ROUTE,
            delete(|| async {
                (StatusCode::NOT_FOUND, Json(json!({"code": 4, "error": "Cache does not exist"})))
            }),
        )
        .fallback(|| async { (StatusCode::NOT_FOUND, "404 page not found\n") });
    let api = api(app).await;
    assert!(matches!(api.interpreters("r").await.unwrap_err(), ApiError::NoEndpoint { .. }));
    let cache = RuntimeCache { language: "R".into(), version: "4.3.0".into(), image_name: "Local".into() };
    let error = api.delete_cache(&cache, true).await.unwrap_err();
    assert_eq!((error.status(), error.text()), (Some(404), "Cache does not exist"));
    assert!(matches!(error, ApiError::Refused { .. }));
}

const CACHES_ROUTE: &str = "/__api__/v1/system/caches/runtime";

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_key() {
    let asked = Arc::new(Mutex::new(false));
    let mark = Arc::clone(&asked);
    let (elsewhere, _) = serve(Router::new().fallback(move || {
        *mark.lock().unwrap() = true;
        async { "{}" }
    }))
    .await;
    let to = format!("{elsewhere}/x");
    let app = Router::new().fallback(move || async move { Redirect::permanent(&to) });
    let error = api(app).await.user().await.unwrap_err();
    assert!(matches!(&error, ApiError::Redirected { to, .. } if to.ends_with("/x")), "{error}");
    assert!(!*asked.lock().unwrap());
}

#[tokio::test]
async fn caches_are_listed_and_deleted_with_the_body_that_the_server_expects() {
    let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
    let record = Arc::clone(&seen);
    let app = Router::new().route(
        CACHES_ROUTE,
        get(|| async {
            Json(json!({"caches": [{"language": "R", "version": "4.3.0", "image_name": "Local", "new": 1},
                                   {"language": "python", "version": "3.11.2"}]}))
        })
        .delete(move |Json(body): Json<Value>| async move {
            let task = if body["dry_run"] == json!(true) { Value::Null } else { json!("task-1") };
            record.lock().unwrap().push(body);
            Json(json!({"language": "R", "version": "4.3.0", "image_name": "Local", "task_id": task}))
        }),
    );
    let api = api(app).await;
    let caches = api.caches().await.unwrap();
    assert_eq!(caches[1].image_name, "Local");
    assert_eq!(api.delete_cache(&caches[0], true).await.unwrap(), None);
    assert_eq!(api.delete_cache(&caches[0], false).await.unwrap().as_deref(), Some("task-1"));
    assert_eq!(
        seen.lock().unwrap()[1],
        json!({"language": "R", "version": "4.3.0", "image_name": "Local", "dry_run": false})
    );
}

#[tokio::test]
async fn a_server_without_caches_may_answer_null() {
    let app = Router::new().route(CACHES_ROUTE, get(|| async { Json(json!({"caches": null})) }));
    assert_eq!(api(app).await.caches().await.unwrap(), vec![]);
}

#[tokio::test]
async fn a_task_is_asked_from_a_line_on_and_read_in_both_shapes() {
    let app = Router::new().route(
        "/__api__/v1/tasks/{id}",
        get(|Path(id): Path<String>, Query(query): Query<HashMap<String, String>>| async move {
            assert_eq!((query["first"].as_str(), query["wait"].as_str()), ("7", "20"));
            match id.as_str() {
                "new" => Json(json!({"id": "new", "output": ["a"], "finished": true, "code": 1,
                    "error": "it failed", "last": 8, "result": {"type": "build-failed-error", "data": null}})),
                _ => Json(json!({"id": "old", "status": null, "finished": true, "code": 0, "error": "",
                    "last_status": 7, "user_id": 1})),
            }
        }),
    );
    let api = api(app).await;
    let task = api.task("new", 7, 600).await.unwrap();
    assert_eq!((task.last, task.error.as_str(), task.succeeded()), (8, "it failed", false));
    let task = api.task("old", 7, 20).await.unwrap();
    assert_eq!((task.last, task.output.len(), task.succeeded()), (7, 0, true));
}

#[tokio::test]
async fn a_build_names_the_bundle() {
    let app = Router::new().route(
        "/__api__/v1/content/{guid}/build",
        post(|Path(guid): Path<String>, Json(body): Json<Value>| async move {
            Json(json!({"task_id": format!("{guid}/{}", body["bundle_id"].as_str().unwrap_or("none"))}))
        }),
    );
    let api = api(app).await;
    assert_eq!(api.build("a", Some("12")).await.unwrap(), "a/12");
    assert_eq!(api.build("../x y", None).await.unwrap(), "../x y/none", "an id stays one part of the path");
}

fn content_app(include_known: bool, items: Vec<Value>) -> Router {
    Router::new().route(
        "/__api__/v1/content",
        get(move |Query(query): Query<HashMap<String, String>>| async move {
            if query.contains_key("include") && !include_known {
                return (StatusCode::BAD_REQUEST, Json(json!({"error": "unknown"}))).into_response();
            }
            Json(items).into_response()
        }),
    )
}

#[tokio::test]
async fn all_content_is_handed_over_item_by_item_also_by_a_server_that_tells_no_owners() {
    let items: Vec<Value> = (0..3000)
        .map(|n| json!({"guid": format!("g{n}"), "name": "x".repeat(n), "bundle_id": n, "extra": {"a": ["]"]}}))
        .collect();
    for include_known in [true, false] {
        let api = api(content_app(include_known, items.clone())).await;
        let mut seen = Vec::new();
        api.each_content::<ApiError>(|item| {
            seen.push((item.guid, item.bundle_id));
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(seen.len(), 3000);
        assert_eq!(seen[2999], ("g2999".to_owned(), Some("2999".to_owned())));
    }
}

#[tokio::test]
async fn the_caller_can_stop_the_list_and_a_broken_item_is_an_error() {
    let api = api(content_app(true, vec![json!({"guid": "a"}), json!({"name": "no guid"})])).await;
    let stop = ApiError::Key;
    assert_eq!(api.each_content(|_| Err(stop.clone())).await, Err(stop.clone()));
    let error = api.each_content::<ApiError>(|_| Ok(())).await.unwrap_err();
    assert!(matches!(&error, ApiError::Shape { why, .. } if why.contains("guid")), "{error}");
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let app = Router::new().route("/__api__/v1/user", get(|| async { vec![b' '; ANSWER_MAX_BYTES + 1] }));
    assert!(matches!(api(app).await.user().await, Err(ApiError::TooLarge { .. })));
}

#[tokio::test]
async fn connections_are_used_again() {
    let ports: Arc<Mutex<std::collections::HashSet<SocketAddr>>> = Arc::default();
    let record = Arc::clone(&ports);
    let app = Router::new().fallback(any(
        move |axum::extract::ConnectInfo(from): axum::extract::ConnectInfo<SocketAddr>| {
            record.lock().unwrap().insert(from);
            async { ([(header::CONTENT_TYPE, "application/json")], "{}") }
        },
    ));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
    });
    let api = Api::new(&url, key()).unwrap();
    for _ in 0..20 {
        api.user().await.unwrap();
    }
    assert_eq!(ports.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn no_answer_is_told_with_its_cause_and_the_key_is_in_no_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let api = Api::new(&url, key()).unwrap();
    let error = api.user().await.unwrap_err();
    assert!(error.is_away() && error.to_string().contains("refused"), "{error}");
    assert!(!format!("{error:?} {error} {api:?}").contains("s3cr3t"));
    let error = Api::new(&url, Some(Secret::new("s3cr3t\nx".into()))).unwrap_err();
    assert!(!format!("{error:?} {error}").contains("s3cr3t"));
}

#[test]
fn an_address_that_cannot_be_used_is_refused_without_repeating_a_password() {
    for url in ["connect.example.com", "ftp://x", "", "http://"] {
        assert!(matches!(Api::new(url, None), Err(ApiError::Url { .. })), "{url}");
    }
    let error = Api::new("https://me:s3cr3t@connect.example.com", None).unwrap_err();
    assert!(!error.to_string().contains("s3cr3t"), "{error}");
}
