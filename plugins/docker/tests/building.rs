//! Images that are built, scanned, and looked into, against a double of the engine.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

use connect_migrator_container::check_engine;
use connect_migrator_container::kind::Kind;
use connect_migrator_container::undo::Undo as Shared;
use connect_migrator_container::world::Subject;
use connect_migrator_docker::undo::Undo;
use connect_migrator_docker::{check_all, stage};
use connect_migrator_engine_double::{Start, host::Host};
use connect_migrator_sdk::{Finding, Op, Outcome, Severity, StepError};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

/// A host whose runbook has an image built, which is not there yet.
async fn builds() -> Host {
    let mut host = Host::new(Kind::Docker).await;
    std::fs::create_dir(host.at("image")).unwrap();
    std::fs::write(host.at("image/Containerfile"), "FROM h:5000/base:1\nCOPY file /file\n").unwrap();
    std::fs::write(host.at("image/file"), "x").unwrap();
    host.settings["image"] = json!({ "containerfile": host.at("image/Containerfile") });
    host.engine.state().local = false;
    host
}

async fn prepare(host: &Host) -> Result<Outcome, StepError> {
    let (settings, cx) = (host.settings(), host.context(Op::Prepare));
    stage::prepare(&Subject::new(&settings, &host.world, &cx).unwrap(), &cx).await
}

async fn of_engine(host: &Host) -> Vec<Finding> {
    let (settings, cx) = (host.settings(), host.context(Op::Check));
    let subject = Subject::new(&settings, &host.world, &cx).unwrap();
    check_engine::engine(&subject, &cx, subject.installation().unwrap().version).await.found
}

fn find<'f>(found: &'f [Finding], key: &str) -> &'f Finding {
    found.iter().find(|finding| finding.key == key).unwrap_or_else(|| panic!("no {key}: {found:#?}"))
}

#[tokio::test]
async fn check_says_what_will_be_built_and_what_is_not_there() {
    let host = builds().await;
    let found = of_engine(&host).await;
    let image = find(&found, "image");
    assert_eq!(image.severity, Severity::Ok);
    assert!(image.text.contains("will be built") && image.text.contains("beginning from h:5000/base:1"));
    find(&found, "build-room");
    assert!(host.engine.state().calls.iter().all(|call| call.starts_with("GET")));
    std::fs::remove_file(host.at("image/Containerfile")).unwrap();
    let found = check_all(&host.settings(), &host.context(Op::Check), &host.world).await.unwrap();
    assert_eq!(find(&found, "build-containerfile").severity, Severity::Blocker);
}

#[tokio::test]
async fn a_login_for_a_build_says_which_registry_it_is_for() {
    let mut host = builds().await;
    host.settings["login"] = json!({ "user": "ann", "password": { "credential": "registry" } });
    host.daemon.store_secret("registry", "hunter2hunter2");
    let found = of_engine(&host).await;
    let unclear = find(&found, "registry-login");
    assert_eq!(unclear.severity, Severity::Blocker);
    assert!(unclear.remedy.contains("registry = "), "{unclear:?}");
    assert!(prepare(&host).await.is_err() && host.engine.state().built.is_none());
    host.settings["login"]["registry"] = json!("h:5000");
    assert!(!of_engine(&host).await.iter().any(|f| f.key == "registry-login"));
    prepare(&host).await.unwrap();
}

#[tokio::test]
async fn an_image_is_built_during_prepare_labelled_and_pinned_by_its_id() {
    let host = builds().await;
    prepare(&host).await.unwrap();
    let (query, sent) = host.engine.state().built.clone().unwrap();
    for part in
        ["dockerfile=Containerfile", "version=2", "t=localhost%2Fconnect-migrator%2Fc-1", "built-from"]
    {
        assert!(query.contains(part), "{part}: {query}");
    }
    assert!(sent >= 3 * 512, "{sent}");
    let container = host.engine.state().container.clone().unwrap();
    assert_eq!(container["Config"]["Image"], "sha256:11");
    let records: Vec<Undo> = host.records();
    assert!(matches!(&records[0], Undo::Shared(Shared::Built { .. })), "{records:?}");
}

#[tokio::test]
async fn a_build_that_fails_says_why_with_its_last_output() {
    let host = builds().await;
    // The base is here, and what is built never is.
    host.engine.state().build_error = Some("process \"it\" did not complete successfully: exit code: 1");
    let error = prepare(&host).await.unwrap_err();
    let text = format!("{error:?}");
    assert!(text.contains("exit code: 1") && text.contains("it says so"), "{text}");
    assert!(host.engine.state().container.is_none());
}

#[tokio::test]
async fn a_context_that_is_too_large_is_refused_before_anything_is_sent() {
    let mut host = builds().await;
    std::fs::write(host.at("image/file"), vec![0; 2 * 1024 * 1024]).unwrap();
    host.settings["build-context-max-mib"] = json!(1);
    let found = of_engine(&host).await;
    assert_eq!(find(&found, "build-context").severity, Severity::Blocker);
    let error = format!("{:?}", prepare(&host).await.unwrap_err());
    assert!(error.contains("build-context-max-mib"), "{error}");
    assert!(host.engine.state().built.is_none());
}

fn scanner(host: &Host, script: &str) -> String {
    let path = host.at("scanner");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_scan_sees_the_pinned_image_and_its_findings_are_in_the_report() {
    let mut host = Host::new(Kind::Docker).await;
    host.settings["scan"] = json!([scanner(&host, "echo \"looked at $2\""), "image", "{image}"]);
    assert_eq!(find(&of_engine(&host).await, "scan").severity, Severity::Ok);
    let report = serde_json::to_value(prepare(&host).await.unwrap()).unwrap();
    let text = report.to_string();
    assert!(text.contains("looked at h:5000/posit/connect@sha256:22"), "{text}");
    assert!(text.contains("found nothing that stands in the way"), "{text}");
}

#[tokio::test]
async fn a_scan_that_fails_blocks_or_warns_as_the_runbook_says() {
    let mut host = Host::new(Kind::Docker).await;
    host.settings["scan"] = json!([scanner(&host, "echo CVE-1 >&2; exit 3"), "{image}"]);
    let error = format!("{:?}", prepare(&host).await.unwrap_err());
    assert!(error.contains("ended with 3") && error.contains("CVE-1"), "{error}");
    assert!(host.engine.state().container.is_none());
    host.settings["scan-fails"] = json!("warn");
    let report = serde_json::to_string(&prepare(&host).await.unwrap()).unwrap();
    assert!(report.contains("CVE-1") && report.contains("lets pass"), "{report}");
}

#[tokio::test]
async fn a_scan_that_hangs_is_ended_and_one_that_floods_is_cut() {
    let mut host = Host::new(Kind::Docker).await;
    host.settings["scan-timeout"] = json!("1s");
    host.settings["scan"] = json!([scanner(&host, "sleep 1000 & wait"), "{image}"]);
    let error = format!("{:?}", prepare(&host).await.unwrap_err());
    assert!(error.contains("more than 1 s") && error.contains("scan-timeout"), "{error}");
    host.settings["scan-timeout"] = json!("60s");
    host.settings["scan"] = json!([scanner(&host, "yes | head -c 1000000"), "{image}"]);
    let report = serde_json::to_value(prepare(&host).await.unwrap()).unwrap();
    assert!(report.to_string().len() < 400_000 && report.to_string().contains("\"cut\":true"));
}

#[tokio::test]
async fn a_scan_that_is_no_program_or_names_no_image_is_a_blocker() {
    let mut host = Host::new(Kind::Docker).await;
    for (scan, key) in [
        (json!(["/nowhere/trivy", "{image}"]), "scan-missing"),
        (json!(["true"]), "scan-command"),
        (json!([]), "scan-command"),
    ] {
        host.settings["scan"] = scan;
        assert_eq!(find(&of_engine(&host).await, key).severity, Severity::Blocker);
    }
}

#[tokio::test]
async fn an_image_without_labels_is_asked_in_a_container_that_is_gone_afterwards() {
    let host = Host::new(Kind::Docker).await;
    {
        let mut engine = host.engine.state();
        engine.labels = json!({});
        engine.start = Start::Exit(0);
        engine.log = "connect=Posit Connect v2026.03.1\nR=R version 4.5.2 (x)\nos=Ubuntu 24.04\n".into();
    }
    let found = of_engine(&host).await;
    assert!(find(&found, "image").text.contains("its programs were asked"), "{found:?}");
    assert_eq!(find(&found, "image-version").severity, Severity::Ok);
    assert!(host.engine.state().container.is_none());
    host.engine.state().log = "connect=Posit Connect v2025.12.1\n".into();
    assert_eq!(find(&of_engine(&host).await, "image-version").severity, Severity::Blocker);
}
