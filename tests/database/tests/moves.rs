//! The whole way there and back.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use connect_migrator_sdk::Op;
use database_tests::cluster::{Cluster, PASSWORD};
use database_tests::scene::{Scene, stands_in};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_database-tests");

fn blockers(found: &[(String, String, String)]) -> Vec<String> {
    found.iter().filter(|f| f.1 == "blocker").map(|f| format!("{}: {}", f.0, f.2)).collect()
}

fn left(undone: &Value) -> usize {
    undone["left"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_serves_the_same_from_postgresql_over_tls_and_the_configuration_keeps_its_other_bytes() {
    let Some(cluster) = Cluster::shared() else { return };
    let scene = Scene::new(PROGRAM, &cluster.database("whole")).await;
    let content = scene.served().await;
    let found = scene.findings().await;
    assert_eq!(blockers(&found), Vec::<String>::new());
    for key in ["tls", "empty", "rights", "server-version", "sqlite-integrity", "tool", "space"] {
        assert!(found.iter().any(|f| f.0 == key && f.1 == "ok"), "{key}: {found:?}");
    }
    let plan = scene.make(Op::Plan).await.to_string();
    assert!(plan.contains("comes back on PostgreSQL") && !plan.contains(PASSWORD), "{plan}");
    let (config, sqlite) = (scene.config(), scene.sqlite());

    let prepared = scene.make(Op::Prepare).await;
    assert!(prepared["facts"]["source-edits/database"].is_object(), "{prepared}");
    assert_eq!(scene.config(), config, "nothing is switched while Connect serves");
    let applied = scene.make(Op::Apply).await;
    assert!(applied["evidence"].to_string().contains("are the same"), "{applied}");
    assert_eq!(scene.make(Op::Verify).await["verdict"], "holds");
    assert_eq!(scene.make(Op::Probe).await["probe"], "done");
    assert_eq!(scene.sqlite(), sqlite, "the source's SQLite files are not touched");
    let switched = String::from_utf8(scene.config()).unwrap();
    assert!(switched.contains("Provider = postgres ; for now\r\n"), "{switched}");
    for line in String::from_utf8(config.clone()).unwrap().split("\r\n").filter(|l| !l.contains("Provider")) {
        assert!(switched.contains(line), "{line}");
    }
    assert_eq!(cluster.sql("whole", "SELECT count(*) FROM visits"), "200");
    assert_eq!(stands_in(&scene.path("state"), PASSWORD), Vec::<std::path::PathBuf>::new());
    assert!(!switched.contains(PASSWORD));

    assert_eq!(scene.served().await, content);
    assert_eq!(scene.make(Op::Apply).await["done"], "already-done");
    assert_eq!(scene.make(Op::Verify).await["verdict"], "holds");

    let (apply, prepare) = scene.roll_back().await;
    assert_eq!((left(&apply), left(&prepare)), (0, 0), "{apply} {prepare}");
    assert_eq!(scene.config(), config);
    assert_eq!(scene.sqlite(), sqlite);
    assert_eq!(cluster.tables("whole"), Vec::<String>::new());
    let again = scene.call(Op::Rollback).roll_back(Op::Apply).await.unwrap();
    assert_eq!(left(&again), 0, "{again}");
    assert_eq!(scene.served().await, content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_users_were_sent_there_the_source_comes_back_on_postgresql() {
    let Some(cluster) = Cluster::shared() else { return };
    let mut scene = Scene::new(PROGRAM, &cluster.database("routed")).await;
    let content = scene.served().await;
    scene.make(Op::Prepare).await;
    scene.make(Op::Apply).await;
    let (switched, tables) = (scene.config(), cluster.tables("routed"));
    let before = std::fs::read(scene.kept("config.before")).unwrap();
    cluster.sql("routed", "UPDATE content SET title = 'Changed by a user' WHERE id = 2");
    scene.routed = true;
    // Somebody's tool has put the old configuration back: the source must not be started on SQLite.
    std::fs::write(scene.path("connect.gcfg"), &before).unwrap();
    let refused = scene.call(Op::Rollback).roll_back(Op::Apply).await.unwrap_err().to_string();
    assert!(refused.contains("leads elsewhere"), "{refused}");
    std::fs::write(scene.path("connect.gcfg"), &switched).unwrap();
    let (apply, prepare) = scene.roll_back().await;
    assert_eq!((left(&apply), left(&prepare)), (0, 0), "{apply} {prepare}");
    assert!(apply.to_string().contains("comes back on PostgreSQL"), "{apply}");
    assert_eq!((scene.config(), cluster.tables("routed")), (switched, tables));
    let now = scene.served().await;
    assert_ne!(now, content);
    assert!(now.to_string().contains("Changed by a user"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instrumentation_data_go_to_a_database_of_their_own_or_stay_behind_with_an_older_tool() {
    let Some(cluster) = Cluster::shared() else { return };
    let mut scene = Scene::new(PROGRAM, &cluster.database("two_core")).await;
    scene.with["instrumentation-url"] = cluster.database("two_visits").into();
    let found = scene.findings().await;
    assert_eq!(blockers(&found), Vec::<String>::new());
    assert!(found.iter().any(|f| f.0 == "instrumentation-rights" && f.1 == "ok"));
    scene.make(Op::Prepare).await;
    scene.make(Op::Apply).await;
    assert_eq!(cluster.tables("two_visits"), ["visits"]);
    assert!(!cluster.tables("two_core").contains(&"visits".to_owned()));
    let (apply, _) = scene.roll_back().await;
    assert_eq!(left(&apply), 0, "{apply}");
    assert_eq!(cluster.tables("two_visits").len() + cluster.tables("two_core").len(), 0);

    let old = Scene::new(PROGRAM, &cluster.database("old_tool")).await;
    old.tool("migrate", "export STANDIN_MIGRATE_INSTRUMENTATION=false\nexec $STANDIN migrate \"$@\"");
    assert!(old.findings().await.iter().any(|f| f.0 == "tool" && f.1 == "warning"));
    old.make(Op::Prepare).await;
    let applied = old.make(Op::Apply).await;
    assert!(applied.to_string().contains("left behind"), "{applied}");
}
