//! Two copies on one database or one data directory.

use std::time::Duration;

use connect_standin::live::{STALE_MILLIS, violations};
use connect_standin::store::Store;
use connect_standin::tuning::Tuning;

use crate::scene::{Scene, eventually, quick};

async fn places(scene: &Scene) -> Vec<String> {
    let store = Store::open(&scene.settings).await.unwrap();
    let mut places: Vec<_> =
        violations(&store, scene.data()).await.unwrap().into_iter().map(|v| v.place).collect();
    places.sort();
    places.dedup();
    places
}

#[tokio::test]
async fn two_running_copies_are_a_violation_in_the_database_and_in_the_data_directory() {
    let scene = Scene::seeded("").await;
    let one = scene.start("debian-12").await;
    let two = scene.start("ubuntu-24.04").await;
    eventually("both places tell", async || places(&scene).await == ["data-dir", "database"]).await;
    assert!(scene.service_log().contains("VIOLATION"));
    one.server.stop().await;
    two.server.stop().await;
}

#[tokio::test]
async fn a_copy_that_was_up_for_a_moment_beside_another_one_is_noticed() {
    let scene = Scene::seeded("").await;
    let one = scene.start("debian-12").await;
    let two = scene.start("ubuntu-24.04").await;
    two.server.stop().await;
    assert_eq!(places(&scene).await, ["data-dir", "database"]);
    one.server.stop().await;
}

#[tokio::test]
async fn a_slow_stop_is_still_alive() {
    let scene = Scene::seeded("").await;
    let one = scene.launch("debian-12", Tuning { stop_ms: 800, ..quick() }).await.unwrap();
    let stopping = tokio::spawn(one.server.stop());
    let two = scene.start("ubuntu-24.04").await;
    stopping.await.unwrap();
    eventually("the overlap is told", async || !places(&scene).await.is_empty()).await;
    two.server.stop().await;
}

#[tokio::test]
async fn one_copy_after_another_is_fine_after_a_clean_stop_and_after_a_kill() {
    let scene = Scene::seeded("").await;
    let one = scene.start("debian-12").await;
    one.server.stop().await;
    let two = scene.start("ubuntu-24.04").await;
    two.server.die().await;
    let three = scene.start("debian-12").await;
    // Long enough for the third copy to have judged what the second one left behind.
    let store = Store::open(&scene.settings).await.unwrap();
    eventually("the stale heartbeat is gone", async || {
        store.query("SELECT id FROM live_instances", &[]).await.unwrap().len() == 1
    })
    .await;
    tokio::time::sleep(Duration::from_millis(STALE_MILLIS)).await;
    assert_eq!(places(&scene).await, Vec::<String>::new());
    three.server.stop().await;
    assert!(store.query("SELECT id FROM live_instances", &[]).await.unwrap().is_empty());
}
