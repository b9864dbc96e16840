//! Long polling.

use std::time::{Duration, Instant};

use connect_standin::seed::guid;
use connect_standin::tuning::Tuning;
use serde_json::{Value, json};

use crate::scene::{Scene, Site, quick};

async fn submit(site: &Site) -> String {
    let path = format!("/__api__/v1/content/{}/build", guid("content", 2));
    let (_, answer) = site.post(&path, json!({ "bundle_id": null })).await;
    answer["task_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_poll_answers_at_the_first_new_line_and_not_after_its_wait() {
    let scene = Scene::seeded("").await;
    let site = scene.launch("debian-12", Tuning { build_ms: 900, ..quick() }).await.unwrap();
    let id = submit(&site).await;
    let begun = Instant::now();
    let mut first = 0;
    let mut answers = 0;
    let mut lines: Vec<Value> = Vec::new();
    loop {
        let (status, answer) = site.get(&format!("/__api__/v1/tasks/{id}?first={first}&wait=20")).await;
        assert_eq!(status, 200);
        answers += 1;
        lines.extend(answer["output"].as_array().unwrap().clone());
        assert_eq!(answer["last"], lines.len());
        first = lines.len();
        if answer["finished"] == true {
            assert_eq!(
                (&answer["code"], &answer["error"], &answer["result"]),
                (&json!(0), &json!(""), &Value::Null)
            );
            break;
        }
        assert_eq!(answer["id"], id.as_str());
    }
    assert!(begun.elapsed() >= Duration::from_millis(850), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(answers <= 4, "{answers} polls for {} lines", lines.len());
}

#[tokio::test]
async fn a_poll_without_news_answers_when_its_wait_is_over() {
    let scene = Scene::seeded("").await;
    let site = scene.launch("debian-12", Tuning { build_ms: 60_000, ..quick() }).await.unwrap();
    let id = submit(&site).await;
    let begun = Instant::now();
    let (_, answer) = site.get(&format!("/__api__/v1/tasks/{id}?wait=1")).await;
    assert_eq!(answer["finished"], false);
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn first_and_wait_outside_their_bounds_are_refused() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    let id = submit(&site).await;
    for query in ["wait=21", "wait=-1", "wait=x", "first=99", "first=-1"] {
        let (status, error) = site.get(&format!("/__api__/v1/tasks/{id}?{query}")).await;
        assert_eq!(status, 400, "{query}: {error}");
    }
    site.follow(&json!(id)).await;
}

#[tokio::test]
async fn a_finished_task_is_known_after_a_restart() {
    let scene = Scene::seeded("").await;
    let site = scene.start("debian-12").await;
    let id = submit(&site).await;
    let before = site.follow(&json!(id)).await;
    site.server.stop().await;
    let site = scene.start("debian-12").await;
    let (status, after) = site.get(&format!("/__api__/v1/tasks/{id}")).await;
    assert_eq!((status, after), (200, before));
}

#[tokio::test]
async fn no_more_builds_run_at_once_than_there_are_slots() {
    let scene = Scene::seeded("").await;
    let site = scene.launch("debian-12", Tuning { build_slots: 2, ..quick() }).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(submit(&site).await);
    }
    for id in ids {
        site.follow(&json!(id)).await;
    }
    let (_, stats) = site.get("/__standin__/stats").await;
    assert_eq!((&stats["max_running"], &stats["builds"]), (&json!(2), &json!(6)));
    assert_eq!(stats["requests"]["POST /__api__/v1/content/{guid}/build"], 6);
}

#[tokio::test]
async fn a_flaky_item_fails_its_first_build_only() {
    let scene = Scene::seeded("").await;
    let site = scene.launch("debian-12", Tuning { flaky_every: 2, ..quick() }).await.unwrap();
    let item = guid("content", 2);
    assert_eq!(site.build(&item).await["code"], 1);
    assert_eq!(site.build(&item).await["code"], 0);
}
