//! What the check reads from an image's labels before anything is pulled, and what content makes of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use axum::Json;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use connect_migrator_container::kind::Kind;
use connect_migrator_container::undo::Undo as Shared;
use connect_migrator_container::world::Subject;
use connect_migrator_docker::undo::Undo;
use connect_migrator_docker::{check_all, plan, stage};
use connect_migrator_engine_double::host::Host;
use connect_migrator_images::registry::{platform, sha256};
use connect_migrator_sdk::{Finding, Op, SecretRef, Severity};
use serde_json::json;
use std::sync::{Arc, Mutex};

const TAG: &str = "2026.03.1-ubuntu-24.04-std";

fn config() -> String {
    let platform = platform();
    let (os, machine) = platform.split_once('/').unwrap();
    json!({ "os": os, "architecture": machine, "config": { "Labels": {
        "co.posit.image.version": "2026.03.1", "co.posit.image.os": "Ubuntu 24.04",
        "co.posit.image.tools.R": "4.5.3", "co.posit.image.tools.python": "3.14.3",
    } } })
    .to_string()
}

/// A registry with one image.
fn registry(uri: &Uri) -> Response {
    if uri.path().ends_with(&format!("/manifests/{TAG}")) {
        return Json(json!({ "config": { "digest": sha256(config().as_bytes()) } })).into_response();
    }
    if uri.path().contains("/blobs/") {
        return config().into_response();
    }
    (StatusCode::NOT_FOUND, "{}").into_response()
}

fn denied(_: &Uri) -> Response {
    (StatusCode::UNAUTHORIZED, "{}").into_response()
}

fn broken(_: &Uri) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, "{}").into_response()
}

fn busy(_: &Uri) -> Response {
    (StatusCode::TOO_MANY_REQUESTS, "{}").into_response()
}

/// A Connect with three items.
fn connect(uri: &Uri) -> Response {
    if uri.path() != "/__api__/v1/content" {
        return (StatusCode::NOT_FOUND, "{}").into_response();
    }
    let item = |title: &str, r: Option<&str>, python: Option<&str>| {
        json!({
            "guid": title, "title": title, "bundle_id": "7", "owner": { "username": "ann" },
            "r_version": r, "py_version": python,
        })
    };
    Json(json!([
        item("fits", Some("4.5.1"), Some("3.14.3")),
        item("Quarterly", Some("4.2.3"), None),
        item("model", None, Some("3.9.5")),
    ]))
    .into_response()
}

async fn serve(answer: fn(&Uri) -> Response) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let app = axum::Router::new().fallback(move |uri: Uri| async move { answer(&uri) });
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

async fn check(host: &Host) -> Vec<Finding> {
    check_all(&host.settings(), &host.context(Op::Check), &host.world).await.unwrap()
}

fn get<'f>(found: &'f [Finding], key: &str) -> &'f Finding {
    found.iter().find(|f| f.key == key).unwrap()
}

async fn chosen_from(address: &str) -> Host {
    let mut host = Host::new(Kind::Docker).await;
    host.engine.state().local = false;
    let registries = [format!("{address}/posit/connect")];
    host.settings["image"] =
        json!({ "version": "match-source", "os": "ubuntu-24.04", "registries": registries });
    host
}

#[tokio::test]
async fn labels_are_read_in_the_registry_and_content_is_compared_with_them() {
    let mut host = chosen_from(&serve(registry).await).await;
    let source = serve(connect).await;
    host.edit_config("Listen = 127.0.0.1:1", &format!("Listen = {source}"));
    host.source.api_key = Some(SecretRef { credential: "key".into() });
    host.daemon.store_secret("key", "0123456789abcdef");
    let found = check(&host).await;
    assert!(get(&found, "image").text.contains(&format!("{TAG} for {} ", platform())), "{found:#?}");
    assert_eq!(get(&found, "image-version").severity, Severity::Ok);
    let lost = get(&found, "content-interpreters");
    assert_eq!(lost.severity, Severity::Warning);
    assert!(lost.text.contains("2 of 3 content items"), "{}", lost.text);
    for line in ["Quarterly of ann: R 4.2.3", "model of ann: Python 3.9.5"] {
        assert!(lost.text.contains(line), "{}", lost.text);
    }
    assert!(!host.engine.state().calls.iter().any(|call| call.starts_with("POST")), "nothing is pulled");
}

#[tokio::test]
async fn a_registry_that_is_at_fault_is_a_blocker_of_its_own() {
    let host = chosen_from(&serve(busy).await).await;
    let found = check(&host).await;
    assert_eq!(get(&found, "registry-limit").severity, Severity::Blocker);
    assert!(!found.iter().any(|f| f.key == "image" || f.key == "content-interpreters"), "{found:#?}");
}

#[tokio::test]
async fn the_fault_of_a_registry_is_told_for_an_image_that_is_named_too() {
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    for (address, key, remedy) in [
        (serve(denied).await, "registry-login", "log in"),
        (serve(busy).await, "registry-limit", "wait"),
        (serve(broken).await, "registry-broken", "try again later"),
        (gone, "registry-unreachable", "reaches the registry"),
    ] {
        let mut host = Host::new(Kind::Docker).await;
        {
            let mut engine = host.engine.state();
            (engine.local, engine.registry) = (false, (500, "dial tcp: connection refused"));
        }
        host.settings["image"] = json!(format!("{address}/posit/connect:{TAG}"));
        let found = check(&host).await;
        let fault = get(&found, key);
        assert!(fault.severity == Severity::Blocker && fault.remedy.contains(remedy), "{fault:?}");
        let (settings, cx) = (host.settings(), host.context(Op::Prepare));
        let failed = stage::prepare(&Subject::new(&settings, &host.world, &cx).unwrap(), &cx).await;
        assert!(failed.unwrap_err().remedy.contains(remedy));
    }
}

/// A registry that wants a password for everything and has nothing; tells what it was shown.
async fn asking() -> (String, Arc<Mutex<Vec<String>>>) {
    let shown = Arc::new(Mutex::new(Vec::new()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let told = Arc::clone(&shown);
    let app = axum::Router::new().fallback(move |headers: HeaderMap| async move {
        match headers.get(header::AUTHORIZATION) {
            Some(login) => {
                told.lock().unwrap().push(login.to_str().unwrap().to_owned());
                StatusCode::NOT_FOUND.into_response()
            }
            None => {
                (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"r\"")]).into_response()
            }
        }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, shown)
}

#[tokio::test]
async fn a_login_is_shown_to_its_own_registry_only() {
    let ((first, to_first), (second, to_second)) = (asking().await, asking().await);
    let mut host = chosen_from(&first).await;
    host.settings["image"]["registries"] =
        json!([format!("{first}/own/connect"), format!("{second}/own/connect")]);
    host.settings["login"] = json!({ "user": "ann", "password": { "credential": "registry" } });
    host.daemon.store_secret("registry", "hunter2hunter2");
    let found = check(&host).await;
    assert_eq!(get(&found, "registry-login").severity, Severity::Blocker);
    assert!(!to_first.lock().unwrap().is_empty());
    assert_eq!(*to_second.lock().unwrap(), Vec::<String>::new());

    to_first.lock().unwrap().clear();
    host.settings["login"]["registry"] = json!(second);
    check(&host).await;
    assert_eq!(*to_first.lock().unwrap(), Vec::<String>::new());
    assert!(!to_second.lock().unwrap().is_empty());

    host.settings["login"]["registry"] = json!("registry.example.com");
    assert_eq!(get(&check(&host).await, "login-unused").severity, Severity::Warning);
}

#[tokio::test]
async fn check_plan_and_prepare_speak_of_the_same_image() {
    let address = serve(registry).await;
    let mut host = chosen_from(&address).await;
    host.settings["image"].as_object_mut().unwrap().remove("os");
    {
        // An older choice is on this host, and the registry has the better one.
        let mut engine = host.engine.state();
        (engine.local, engine.only) = (true, Some("ubuntu-22.04"));
    }
    let better = format!("{address}/posit/connect:{TAG}");
    let found = check(&host).await;
    assert!(get(&found, "image").text.contains(&better), "{found:#?}");
    let (settings, cx) = (host.settings(), host.context(Op::Plan));
    let changes = plan::plan(&Subject::new(&settings, &host.world, &cx).unwrap(), &cx).await.unwrap();
    let pull = format!("pull the image {better} and pin it by its digest");
    assert_eq!(changes[0].what, pull);
    // Its labels are known before it is pulled.
    assert!(found.iter().any(|f| f.key == "interpreter-r" && f.text.contains("4.5.3")), "{found:#?}");
    let cx = host.context(Op::Prepare);
    stage::prepare(&Subject::new(&settings, &host.world, &cx).unwrap(), &cx).await.unwrap();
    let records: Vec<Undo> = host.records();
    assert!(
        matches!(&records[0], Undo::Shared(Shared::Image { reference }) if *reference == better),
        "{records:?}"
    );

    // Without the registry it is the one on this host, for all three.
    let mut host = chosen_from("127.0.0.1:1").await;
    host.settings["image"].as_object_mut().unwrap().remove("os");
    {
        let mut engine = host.engine.state();
        (engine.local, engine.only, engine.registry) = (true, Some("ubuntu-22.04"), (500, "refused"));
    }
    let found = check(&host).await;
    assert!(get(&found, "image").text.contains("ubuntu-22.04-std is on this host"), "{found:#?}");
    assert_eq!(get(&found, "registry-unreachable").severity, Severity::Warning);
    let (settings, cx) = (host.settings(), host.context(Op::Plan));
    let changes = plan::plan(&Subject::new(&settings, &host.world, &cx).unwrap(), &cx).await.unwrap();
    assert!(!changes.iter().any(|change| change.what.contains("pull the image")), "{changes:#?}");
    let cx = host.context(Op::Prepare);
    stage::prepare(&Subject::new(&settings, &host.world, &cx).unwrap(), &cx).await.unwrap();
    assert!(!host.engine.state().calls.contains(&"POST /images/create".to_owned()));
}

#[tokio::test]
async fn a_version_without_an_image_lists_what_was_tried() {
    let mut host = chosen_from(&serve(registry).await).await;
    host.settings["image"]["version"] = json!("2026.04.0");
    let found = check(&host).await;
    let missing = get(&found, "image-missing");
    assert_eq!(missing.severity, Severity::Blocker);
    assert!(missing.text.contains("2026.04.0-ubuntu-24.04-std does not exist"), "{}", missing.text);
}

/// A file as `docker save` writes it.
fn save(host: &Host, config: &str) -> std::path::PathBuf {
    let path = host.at("image.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let name = format!("blobs/{}", sha256(config.as_bytes()).replace(':', "/"));
    let manifest = json!([{ "Config": name, "RepoTags": ["own/connect:1"], "Layers": [] }]).to_string();
    for (name, text) in [(name.as_str(), config), ("manifest.json", &manifest)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    builder.finish().unwrap();
    path
}

/// A host whose image lies in a file.
async fn with_archive() -> (Host, std::path::PathBuf) {
    let mut host = Host::new(Kind::Docker).await;
    host.engine.state().local = false;
    let archive = save(&host, &config());
    host.settings["image"] = json!({ "archive": archive, "digest": sha256(config().as_bytes()) });
    (host, archive)
}

#[tokio::test]
async fn an_archive_is_looked_at_first_and_loaded_and_pinned_by_its_id_later() {
    let (mut host, _) = with_archive().await;
    // Left over from an image of a registry; nothing is fetched, and the password need not be stored.
    host.settings["login"] = json!({ "user": "ann", "password": { "credential": "registry" } });
    let found = check(&host).await;
    assert!(!found.iter().any(|f| f.key == "registry-login"), "{found:#?}");
    assert_eq!(get(&found, "image").severity, Severity::Ok);
    assert!(get(&found, "image-version").text.contains("has version 2026.03.1"), "{found:#?}");
    assert!(!host.engine.state().calls.iter().any(|call| call.starts_with("POST")), "nothing is loaded");

    let (settings, cx) = (host.settings(), host.context(Op::Prepare));
    stage::prepare(&Subject::new(&settings, &host.world, &cx).unwrap(), &cx).await.unwrap();
    assert!(host.engine.state().calls.contains(&"POST /images/load".to_owned()));
    assert_eq!(host.engine.state().container.as_ref().unwrap()["Config"]["Image"], "sha256:11");
}

#[tokio::test]
async fn an_archive_that_is_written_to_between_look_and_load_is_refused() {
    let (host, archive) = with_archive().await;
    host.engine.state().written_meanwhile = Some(archive);
    let (settings, cx) = (host.settings(), host.context(Op::Prepare));
    let error = stage::prepare(&Subject::new(&settings, &host.world, &cx).unwrap(), &cx)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("replaced or written to while it was read"), "{error}");
    assert!(host.engine.state().container.is_none());
}

#[tokio::test]
async fn an_archive_that_is_not_the_right_one_is_a_blocker_and_never_loaded() {
    let other = format!("sha256:{}", "0".repeat(64));
    let elsewhere = config().replace("linux", "plan9");
    for (config, digest, key) in [
        (config(), Some(other), "archive-digest"),
        (elsewhere, None, "image-platform"),
        (config().replace("2026.03.1", "2025.12.1"), None, "image-version"),
    ] {
        let mut host = Host::new(Kind::Docker).await;
        host.engine.state().local = false;
        let archive = save(&host, &config);
        host.settings["image"] = json!({ "archive": archive, "digest": digest });
        let found = check(&host).await;
        assert_eq!(get(&found, key).severity, Severity::Blocker, "{found:#?}");
        if key != "image-version" {
            let (settings, cx) = (host.settings(), host.context(Op::Prepare));
            let subject = Subject::new(&settings, &host.world, &cx).unwrap();
            stage::prepare(&subject, &cx).await.unwrap_err();
            assert!(!host.engine.state().calls.contains(&"POST /images/load".to_owned()));
        }
    }
    let mut host = Host::new(Kind::Docker).await;
    host.settings["image"] = json!({ "archive": "/nowhere/image.tar" });
    assert_eq!(get(&check(&host).await, "archive-missing").severity, Severity::Blocker);
}
