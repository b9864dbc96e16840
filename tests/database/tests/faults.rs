//! What goes wrong, and in which good state it ends.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use connect_migrator_sdk::Op;
use database_tests::cluster::{Cluster, PASSWORD, USER};
use database_tests::scene::Scene;
use serde_json::Value;
use std::io::Read;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_database-tests");

async fn blocks(scene: &Scene, key: &str) -> bool {
    let found = scene.findings().await;
    let blocks = found.iter().any(|f| f.0 == key && f.1 == "blocker");
    if !blocks {
        println!("no blocker {key}: {found:?}");
    }
    blocks
}

fn left(undone: &Value) -> Vec<String> {
    undone["left"].as_array().unwrap().iter().map(|l| l.as_str().unwrap().to_owned()).collect()
}

/// Rolled back: everything as before.
async fn is_back(
    scene: &Scene,
    cluster: &Cluster,
    database: &str,
    before: &(Vec<u8>, Vec<(String, Vec<u8>)>),
) {
    let (apply, prepare) = scene.roll_back().await;
    assert_eq!((left(&apply), left(&prepare)), (vec![], vec![]));
    assert_eq!((scene.config(), scene.sqlite()), *before);
    assert_eq!(cluster.tables(database), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_that_fails_hangs_or_lies_is_found_and_everything_is_put_back() {
    let Some(cluster) = Cluster::shared() else { return };
    for (fault, what) in
        [("fail", "unexpected EOF"), ("hang", "within 10 s"), ("lose-row", "table content has")]
    {
        let name = format!("fault_{}", fault.replace('-', "_"));
        let mut scene = Scene::new(PROGRAM, &cluster.database(&name)).await;
        if fault == "hang" {
            scene.with["tool-timeout"] = 10.into();
        }
        scene.tool("migrate", &format!("export STANDIN_MIGRATE_FAULT={fault}\nexec $STANDIN migrate \"$@\""));
        let before = (scene.config(), scene.sqlite());
        scene.make(Op::Prepare).await;
        let error = scene.refuse(Op::Apply).await;
        assert!(error.contains(what), "{fault}: {error}");
        assert_eq!(scene.config(), before.0, "{fault}");
        let log = std::fs::read_to_string(scene.kept("migrate.log")).unwrap();
        assert!(log.contains("Migrated 1 rows of settings") || log.contains("rows of users"), "{log}");
        // The same again, with a tool that works: what the first try left is taken away.
        scene.tool("migrate", "exec $STANDIN migrate \"$@\"");
        scene.with["tool-timeout"] = 300.into();
        if fault != "lose-row" {
            scene.make(Op::Apply).await;
        }
        is_back(&scene, &cluster, &name, &before).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_that_looks_on_when_the_tool_has_ended_well_is_no_failure() {
    let Some(cluster) = Cluster::shared() else { return };
    let scene = Scene::new(PROGRAM, &cluster.database("watched")).await;
    // By the same user: sessions of others are not shown to it.
    let url = cluster.url("watched", "sslmode=require");
    let looks_on = format!("env PGPASSWORD='{PASSWORD}' psql -X -c 'SELECT pg_sleep(90)' '{url}'");
    let script = "$STANDIN migrate \"$@\" || exit $?\n[ \"$2\" = --config ] || exit 0\n";
    scene.tool("migrate", &format!("{script}setsid {looks_on} >/dev/null 2>&1 &\nsleep 2"));
    let before = (scene.config(), scene.sqlite());
    scene.make(Op::Prepare).await;
    scene.make(Op::Apply).await;
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                  WHERE datname = 'watched' AND query LIKE 'SELECT pg_sleep%'";
    assert_eq!(cluster.sql("postgres", ended), "1", "it still looked on");
    is_back(&scene, &cluster, "watched", &before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_that_changes_a_value_behind_our_back_is_found() {
    let Some(cluster) = Cluster::shared() else { return };
    let scene = Scene::new(PROGRAM, &cluster.database("changed")).await;
    let spoil = cluster.psql("changed", "UPDATE users SET email = email || ' ' WHERE username = 'viewer'");
    scene.tool("migrate", &format!("$STANDIN migrate \"$@\" || exit 1\n[ \"$2\" = --help ] || {spoil}"));
    scene.make(Op::Prepare).await;
    let error = scene.refuse(Op::Apply).await;
    assert!(error.contains("table users") && error.contains("guid "), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_put_there_is_never_dropped() {
    let Some(cluster) = Cluster::shared() else { return };
    let scene = Scene::new(PROGRAM, &cluster.database("strangers")).await;
    cluster.sql("strangers", "CREATE TABLE theirs (id int); INSERT INTO theirs VALUES (1)");
    assert!(blocks(&scene, "empty").await);
    scene.make(Op::Prepare).await;
    let error = scene.refuse(Op::Apply).await;
    assert!(error.contains("not empty") && error.contains("theirs"), "{error}");
    assert_eq!(cluster.tables("strangers"), ["theirs"]);
    cluster.sql("strangers", "DROP TABLE theirs");

    let before = (scene.config(), scene.sqlite());
    scene.make(Op::Apply).await;
    cluster.sql("strangers", &format!("CREATE TABLE theirs (id int); ALTER TABLE theirs OWNER TO {USER}"));
    let tables = cluster.tables("strangers");
    let (apply, _) = scene.roll_back().await;
    assert!(left(&apply).concat().contains("theirs"), "{apply}");
    assert_eq!(cluster.tables("strangers"), tables, "all or nothing");
    assert_eq!((scene.config(), scene.sqlite()), before, "the source is back all the same");
    cluster.sql("strangers", "DROP TABLE theirs");
    assert_eq!(left(&scene.call(Op::Rollback).roll_back(Op::Apply).await.unwrap()), Vec::<String>::new());
    assert_eq!(cluster.tables("strangers"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_another_user_is_told_and_one_of_our_own_ends_the_window() {
    let Some(cluster) = Cluster::shared() else { return };
    let scene = Scene::new(PROGRAM, &cluster.database("shared")).await;
    let told = async || {
        let found = scene.findings().await;
        found.into_iter().any(|(key, level, _)| key.ends_with("dedicated") && level == "warning")
    };
    assert!(!told().await);
    let theirs = cluster.session("shared", "postgres");
    assert!(told().await, "the session of another user goes unnoticed");
    scene.make(Op::Prepare).await;
    let ours = cluster.session("shared", USER);
    let error = scene.refuse(Op::Apply).await;
    assert!(error.contains("still used by") && error.contains(USER), "{error}");
    drop(ours);
    scene.make(Op::Apply).await;
    drop(theirs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_names_what_is_wrong_with_url_login_tls_database_and_rights() {
    let Some(cluster) = Cluster::shared() else { return };
    let good = cluster.database("checked");
    let mut scene = Scene::new(PROGRAM, &good).await;
    let with = |scene: &mut Scene, url: String| scene.with["url"] = url.into();
    for (url, key) in [
        (format!("{good}x{{$}}"), "placeholder"),
        (format!("postgres://{USER}:pw@localhost/checked"), "url"),
        ("mysql://x@y/z".to_owned(), "url"),
        (cluster.url("absent", "sslmode=require"), "database"),
        (cluster.url("postgres", "sslmode=require"), "dedicated"),
        (cluster.url("checked", "sslmode=disable"), "login"),
        (
            cluster.url("checked", &format!("sslmode=verify-full&sslrootcert={}", cluster.other_authority())),
            "tls",
        ),
        (good.replace("localhost", "127.0.0.1"), "tls"),
        (format!("postgres://{USER}@localhost:1/checked"), "reach"),
        (good.replace(USER, "nobody"), "login"),
        (format!("{good}&search_path=absent"), "schema"),
    ] {
        with(&mut scene, url.clone());
        assert!(blocks(&scene, key).await, "{url}");
    }
    with(
        &mut scene,
        cluster.url("checked", &format!("sslmode=verify-ca&sslrootcert={}", cluster.authority())),
    );
    assert!(scene.findings().await.iter().all(|f| f.1 != "blocker"));
    with(&mut scene, good);
    cluster.sql(
        "checked",
        &format!(
            "ALTER DATABASE checked OWNER TO postgres; REVOKE CREATE ON SCHEMA public FROM PUBLIC, {USER}"
        ),
    );
    assert!(blocks(&scene, "rights").await);
    assert_eq!(cluster.tables("checked"), Vec::<String>::new(), "the trial leaves nothing");
    scene.with["server-versions"] = serde_json::json!([8, 9]);
    assert!(blocks(&scene, "server-version").await);

    let Some(plain) = Cluster::start(false) else { return };
    plain.sql("postgres", &format!("CREATE DATABASE plain OWNER {USER}"));
    with(&mut scene, plain.url("plain", "sslmode=require"));
    assert!(blocks(&scene, "tls").await);
}

/// Each file appears at one stage of `apply`; the call is killed when it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_names_what_is_wrong_with_the_installation() {
    let Some(cluster) = Cluster::shared() else { return };
    let scene = Scene::new(PROGRAM, &cluster.database("unready")).await;
    assert!(scene.findings().await.iter().all(|f| f.1 != "blocker"));
    let whole = "exec $STANDIN migrate \"$@\"";
    scene.tool("migrate", "echo no usage at all");
    assert!(blocks(&scene, "tool").await);
    std::fs::remove_file(scene.path("opt/bin/migrate")).unwrap();
    assert!(blocks(&scene, "tool").await);
    scene.tool("migrate", whole);
    for (name, key) in [("opt/bin/rscadmin", "secret-key"), ("data/db/secret.key", "secret-key")] {
        std::fs::rename(scene.path(name), scene.path("away")).unwrap();
        assert!(blocks(&scene, key).await, "{name}");
        std::fs::rename(scene.path("away"), scene.path(name)).unwrap();
    }
    let config = String::from_utf8(scene.config()).unwrap();
    for provider in ["oracle", "postgres"] {
        let other = config.replace("Provider = sqlite", &format!("Provider = {provider}"));
        std::fs::write(scene.path("connect.gcfg"), other).unwrap();
        assert!(blocks(&scene, "provider").await, "{provider}");
    }
    std::fs::write(scene.path("connect.gcfg"), config).unwrap();
    for (name, _) in scene.sqlite() {
        if name.contains(".db") {
            std::fs::remove_file(scene.path("data/db").join(name)).unwrap();
        }
    }
    assert!(blocks(&scene, "sqlite-files").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_any_two_stages_and_run_again_it_ends_the_same() {
    let Some(cluster) = Cluster::shared() else { return };
    let stages = [
        "backup/manifest.json",
        "target-before.json",
        "migrate.pid",
        "migrate.log",
        "target-put.json",
        "compared.json",
        "config.after",
    ];
    for (number, stage) in stages.into_iter().enumerate() {
        let name = format!("killed_{number}");
        let scene = Scene::new(PROGRAM, &cluster.database(&name)).await;
        let before = (scene.config(), scene.sqlite());
        scene.make(Op::Prepare).await;
        let mut child = scene.spawn(Op::Apply);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !scene.kept(stage).exists() {
            if let Some(status) = child.try_wait().unwrap() {
                let mut text = String::new();
                child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
                assert!(status.success(), "{stage}: {text}");
                break;
            }
            assert!(Instant::now() < deadline, "{stage} never appears");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if number % 2 == 0 {
            let applied = scene.make(Op::Apply).await;
            assert!(applied["evidence"].is_array());
            assert_eq!(scene.make(Op::Verify).await["verdict"], "holds", "{stage}");
            assert_eq!(scene.sqlite(), before.1, "{stage}");
            assert_eq!(cluster.sql(&name, "SELECT count(*) FROM content"), "12", "{stage}");
        }
        is_back(&scene, &cluster, &name, &before).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_to_stop_it_ends_at_once_and_goes_on_later() {
    let Some(cluster) = Cluster::shared() else { return };
    let scene = Scene::new(PROGRAM, &cluster.database("stopped")).await;
    scene.make(Op::Prepare).await;
    let mut call = scene.call(Op::Apply);
    call.cancelled = true;
    let error = call.make().await.unwrap_err();
    assert!(error.contains("asked to stop"), "{error}");
    scene.make(Op::Apply).await;
    assert!(!String::from_utf8_lossy(&scene.config()).contains(PASSWORD));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edits_of_an_administrator_since_the_switch_stay() {
    let Some(cluster) = Cluster::shared() else { return };
    let scene = Scene::new(PROGRAM, &cluster.database("edited")).await;
    scene.make(Op::Prepare).await;
    scene.make(Op::Apply).await;
    let mut config = scene.config();
    config.extend_from_slice(b"; a note by hand\r\n");
    std::fs::write(scene.path("connect.gcfg"), &config).unwrap();
    let (apply, _) = scene.roll_back().await;
    assert_eq!(left(&apply), Vec::<String>::new());
    let text = String::from_utf8(scene.config()).unwrap();
    assert!(
        text.contains("; a note by hand")
            && text.contains("Provider = sqlite ; for now")
            && !text.contains("URL"),
        "{text}"
    );
    scene.served().await;
}
