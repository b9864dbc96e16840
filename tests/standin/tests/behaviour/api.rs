//! Shapes and rights of the API.

use connect_standin::seed::guid;
use reqwest::Method;
use serde_json::{Value, json};

use crate::scene::{ADMIN, EXPIRED, PUBLISHER, Scene};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn ping_needs_no_key_and_answers_an_empty_object() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    assert_eq!(site.get_as("/__ping__", None).await, (200, json!({})));
}

#[tokio::test]
async fn server_settings_tell_version_and_hostname_only_with_a_key() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    let (status, without) = site.get_as("/__api__/server_settings", None).await;
    assert_eq!(status, 200);
    assert!(without.get("version").is_none() && without.get("hostname").is_none(), "{without}");
    let (_, with) = site.get("/__api__/server_settings").await;
    assert_eq!(with["version"], "2026.03.1");
    assert_eq!(with["about"], "Posit Connect v2026.03.1");
    assert_eq!(with["execution_type"], "native");
    assert!(!with["hostname"].as_str().unwrap().is_empty());
    assert_eq!(with["license"]["status"], "activated");
    let (status, error) = site.get_as("/__api__/server_settings", Some("no-such-key-at-all")).await;
    assert_eq!((status, error["code"].clone()), (401, json!(3)));
}

#[tokio::test]
async fn keys_carry_the_role_of_their_user_and_expire() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    let (_, admin) = site.get("/__api__/v1/user").await;
    let mut fields = keys(&admin);
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "active_time",
            "confirmed",
            "created_time",
            "email",
            "first_name",
            "guid",
            "last_name",
            "locked",
            "updated_time",
            "user_role",
            "username"
        ]
    );
    assert_eq!((admin["user_role"].clone(), admin["locked"].clone()), (json!("administrator"), json!(false)));
    let (_, publisher) = site.get_as("/__api__/v1/user", Some(PUBLISHER)).await;
    assert_eq!(publisher["user_role"], "publisher");
    for key in [None, Some(EXPIRED), Some("wrong-key-wrong-key")] {
        let (status, error) = site.get_as("/__api__/v1/user", key).await;
        assert_eq!(status, 401, "{key:?}");
        assert!(error["error"].is_string() && error["payload"].is_null(), "{error}");
    }
    let client = reqwest::Client::new();
    let request = client
        .get(format!("{}/__api__/v1/user", site.base))
        .header("X-RSC-Authorization", format!("Key {ADMIN}"));
    assert_eq!(request.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn content_is_one_bare_array_and_administrators_see_all_of_it() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    let all = site.content().await;
    assert_eq!(all.len(), 13);
    let unpublished: Vec<_> = all.iter().filter(|c| c["bundle_id"].is_null()).collect();
    assert_eq!(unpublished.len(), 1);
    let first = &all[0];
    assert_eq!(first["content_url"], format!("http://connect.test/content/{}/", guid("content", 1)));
    for field in
        ["guid", "app_mode", "last_deployed_time", "r_version", "py_version", "quarto_version", "owner_guid"]
    {
        assert!(first.get(field).is_some(), "{field}");
    }
    assert!(first.get("owner").is_none());
    let (_, with_owner) = site.get("/__api__/v1/content?include=owner,tags").await;
    assert_eq!(with_owner[0]["owner"]["username"], "admin");
    let (_, own) = site.get_as("/__api__/v1/content", Some(PUBLISHER)).await;
    assert!((1..13).contains(&own.as_array().unwrap().len()));
    let (status, _) =
        site.get_as(&format!("/__api__/v1/content/{}", guid("content", 1)), Some(PUBLISHER)).await;
    assert_eq!(status, 403);
    let (status, one) = site.get(&format!("/__api__/v1/content/{}", guid("content", 1))).await;
    assert_eq!((status, &one), (200, first));
}

#[tokio::test]
async fn what_is_missing_is_404_and_an_unknown_endpoint_is_plain_text() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    let (status, error) = site.get("/__api__/v1/content/no-such-guid").await;
    assert_eq!((status, error["code"].clone()), (404, json!(4)));
    assert_eq!(site.get("/__api__/v1/tasks/none").await.0, 404);
    for (method, path) in [(Method::GET, "/__api__/v1/nothing"), (Method::PUT, "/__api__/v1/user")] {
        let response = site.send(method, path, Some(ADMIN), None).await;
        assert_eq!(response.status(), 404);
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
        assert_eq!(response.text().await.unwrap().trim(), "404 page not found");
    }
}

#[tokio::test]
async fn installed_interpreters_and_run_as_are_told() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    let (_, python) = site.get("/__api__/v1/server_settings/python").await;
    assert_eq!(
        python,
        json!({ "installations": [{ "version": "3.12.4", "cluster_name": "Local", "image_name": "Local" }],
                "api_enabled": true })
    );
    let (_, r) = site.get("/__api__/v1/server_settings/r").await;
    assert_eq!(r["installations"][0]["version"], "4.5.2");
    let (_, quarto) = site.get("/__api__/v1/server_settings/quarto").await;
    assert_eq!(quarto, json!({ "installations": [], "api_enabled": false }));
    let (_, applications) = site.get("/__api__/server_settings/applications").await;
    assert_eq!(applications["run_as"], "rstudio-connect");
    assert_eq!(site.get_as("/__api__/v1/server_settings/r", None).await.0, 401);
}

#[tokio::test]
async fn a_build_needs_the_right_to_it_and_a_bundle_of_that_content() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    let path = format!("/__api__/v1/content/{}/build", guid("content", 2));
    let response = site.send(Method::POST, &path, Some(PUBLISHER), Some(json!({}))).await;
    assert_eq!(response.status(), 403);
    assert_eq!(site.post(&path, json!({ "bundle_id": "1003" })).await.0, 404);
    assert_eq!(site.post(&path, json!({ "bundle_id": 5 })).await.0, 400);
    let never_published = format!("/__api__/v1/content/{}/build", guid("content", 7));
    assert_eq!(site.post(&never_published, json!({ "bundle_id": null })).await.0, 400);
    let (status, answer) = site.post(&path, json!({ "bundle_id": "1002", "activate": false })).await;
    assert_eq!((status, keys(&answer)), (200, vec!["task_id"]));
}
