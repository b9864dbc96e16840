//! The trap that clearing caches avoids.

use connect_standin::runtimes::{Language, Version, install_stub};
use connect_standin::seed::guid;
use reqwest::Method;
use serde_json::{Value, json};

use crate::scene::{PUBLISHER, Scene, Site};

const CACHES: &str = "/__api__/v1/system/caches/runtime";

async fn list(site: &Site) -> Vec<Value> {
    site.get(CACHES).await.1["caches"].as_array().unwrap().clone()
}

#[tokio::test]
async fn content_of_another_distribution_is_500_until_caches_are_cleared_and_it_is_rebuilt() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    let app = guid("content", 2);
    let (status, before) = site.page(&app).await;
    assert_eq!(status, 200, "{before}");
    assert!(before.contains("Sales explorer") && before.contains(&app));
    site.server.stop().await;

    let site = scene.start("ubuntu-24.04").await;
    let (status, text) = site.page(&app).await;
    assert_eq!(status, 500);
    assert!(text.contains("built on debian-12") && text.contains("ubuntu-24.04"), "{text}");
    assert_eq!(site.page(&guid("content", 1)).await.0, 200, "static content needs no cache");

    // Rebuilding alone reuses what is cached.
    let task = site.build(&app).await;
    assert_eq!(task["code"], 0);
    assert!(task["output"].to_string().contains("Using cached environment"), "{task}");
    assert_eq!(site.page(&app).await.0, 500);

    for cache in list(&site).await {
        let (status, answer) = site.delete(CACHES, cache.clone()).await;
        assert_eq!(status, 200, "{answer}");
        let task = site.follow(&answer["task_id"]).await;
        assert_eq!(task["code"], 0, "{task}");
    }
    assert_eq!(list(&site).await, Vec::<Value>::new());
    let (status, text) = site.page(&app).await;
    assert_eq!(status, 500);
    assert!(text.contains("rebuild"), "{text}");

    assert_eq!(site.build(&app).await["code"], 0);
    assert_eq!(site.page(&app).await, (200, before));
    assert_eq!(site.page(&guid("content", 4)).await.0, 500, "the other ones are still to be rebuilt");
}

#[tokio::test]
async fn an_interpreter_of_the_same_minor_version_is_taken_and_one_that_lacks_fails_the_build() {
    let scene = Scene::seeded("").await;
    let python = scene.dir.path().join("opt/python");
    std::fs::remove_dir_all(&python).unwrap();
    install_stub(&scene.dir.path().join("opt"), Language::Python, Version(3, 12, 13)).unwrap();
    let site = scene.start("ubuntu-24.04").await;
    let dash = guid("content", 4);
    assert_eq!(site.build(&dash).await["code"], 0);
    assert_eq!(site.page(&dash).await.0, 200);
    assert!(
        list(&site)
            .await
            .contains(&json!({ "language": "Python", "version": "3.12.13", "image_name": "Local" }))
    );

    let task = site.build(&guid("content", 13)).await;
    assert_eq!(task["code"], 1);
    assert_eq!(
        task["error"],
        "Cannot find compatible environment: no compatible Local environment with Python version 3.9.5"
    );
    assert_eq!(task["result"]["type"], "build-failed-error");
}

#[tokio::test]
async fn a_dry_run_deletes_nothing_and_still_tells_errors() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    let before = list(&site).await;
    assert!(before.len() >= 2, "{before:?}");
    let body = json!({ "language": "r", "version": "4.5.2", "image_name": "Local", "dry_run": true });
    let (status, answer) = site.delete(CACHES, body).await;
    assert_eq!(status, 200);
    assert_eq!(
        answer,
        json!({ "language": "R", "version": "4.5.2", "image_name": "Local", "task_id": null })
    );
    assert_eq!(list(&site).await, before);
    for (body, expected) in [
        (json!({ "language": "R", "version": "3.6.3", "dry_run": true }), 404),
        (json!({ "language": "R", "version": "4.5.2", "image_name": "other", "dry_run": true }), 404),
        (json!({ "language": "R", "version": "4.5" }), 400),
        (json!({ "language": "Perl", "version": "5.40.0" }), 400),
        (json!({ "language": "R" }), 400),
    ] {
        let (status, error) = site.delete(CACHES, body.clone()).await;
        assert_eq!(status, expected, "{body}: {error}");
    }
    let (_, error) = site.delete(CACHES, json!({ "language": "R", "version": "3.6.3" })).await;
    assert_eq!((error["code"].clone(), error["error"].clone()), (json!(4), json!("Cache does not exist")));
}

#[tokio::test]
async fn caches_are_for_administrators_only() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    assert_eq!(site.get_as(CACHES, Some(PUBLISHER)).await.0, 403);
    assert_eq!(site.get_as(CACHES, None).await.0, 401);
    let body = json!({ "language": "R", "version": "4.5.2" });
    let response = site.send(Method::DELETE, CACHES, Some(PUBLISHER), Some(body)).await;
    assert_eq!(response.status(), 403);
}

#[tokio::test]
async fn unpacked_bundles_point_into_the_caches_by_relative_links() {
    let scene = Scene::seeded("").await;
    let link = scene.data().join("apps/2/1002/packrat");
    assert_eq!(std::fs::read_link(&link).unwrap().to_str().unwrap(), "../../../packrat/4.5.2/1002");
    assert!(link.join("lib/base/DESCRIPTION").is_file());
    assert!(scene.data().join("bundles/2/1002.tar.gz").is_file());
}
