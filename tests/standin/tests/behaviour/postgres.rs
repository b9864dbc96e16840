//! The same on a PostgreSQL server of its own, where one is installed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use connect_standin::live::{LOCK_KEPT_MILLIS, violations};
use connect_standin::seed::{guid, plant};
use connect_standin::settings::{Provider, Settings};
use connect_standin::store::Store;
use serde_json::json;

use crate::scene::{Scene, eventually, seed};

/// A server in a temporary directory, on a socket only.
struct Cluster {
    dir: tempfile::TempDir,
    bin: PathBuf,
}

impl Cluster {
    /// `None` where no PostgreSQL server is installed, said aloud.
    fn start() -> Option<Cluster> {
        let mut installed: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .map(|entries| entries.flatten().map(|e| e.path().join("bin")).collect())
            .unwrap_or_default();
        installed.retain(|bin| bin.join("initdb").exists());
        installed.sort();
        let Some(bin) = installed.pop() else {
            println!("SKIPPED: no /usr/lib/postgresql/*/bin/initdb on this machine (apt install postgresql)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let cluster = Cluster { dir, bin };
        let data = cluster.data();
        cluster.run("initdb", &["-D", &data, "-U", "connect", "--auth=trust", "--no-sync"]);
        cluster.control_start();
        Some(cluster)
    }

    fn data(&self) -> String {
        self.dir.path().join("pg").to_str().unwrap().to_owned()
    }

    fn control_start(&self) {
        let options = format!("-k {} -c listen_addresses='' -c fsync=off", self.dir.path().display());
        let log = self.dir.path().join("pg.log");
        let data = self.data();
        self.run(
            "pg_ctl",
            &["-D", &data, "-w", "-t", "30", "-o", &options, "-l", log.to_str().unwrap(), "start"],
        );
    }

    fn control_stop(&self) {
        let data = self.data();
        self.run("pg_ctl", &["-D", &data, "-w", "-m", "immediate", "stop"]);
    }

    /// PostgreSQL refuses to run as root: then it runs as the user that its package made.
    fn run(&self, program: &str, args: &[&str]) {
        let path = self.bin.join(program);
        let mut command = if nix::unistd::Uid::effective().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        let status =
            command.args(args).current_dir(self.dir.path()).stdout(std::process::Stdio::null()).status();
        assert!(status.unwrap().success(), "{program} {args:?}");
    }

    /// A fresh database and the `[Postgres]` section that leads to it.
    fn database(&self, name: &str) -> String {
        let socket = self.dir.path().to_str().unwrap();
        self.run("createdb", &["-h", socket, "-U", "connect", name]);
        format!("[Postgres]\nURL = \"postgres://connect@/{name}?host={socket}&sslmode=disable\"\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.control_stop();
    }
}

async fn seeded(cluster: &Cluster, name: &str) -> Scene {
    Scene::seeded(&format!("[Database]\nProvider = Postgres\n{}", cluster.database(name))).await
}

async fn places(scene: &Scene, data_dir: &Path) -> Vec<String> {
    let store = Store::open(&scene.settings).await.unwrap();
    violations(&store, data_dir).await.unwrap().into_iter().map(|v| v.place).collect()
}

/// One server for all of it: starting one takes a while.
#[tokio::test]
async fn postgres_keeps_content_tasks_keys_and_the_advisory_lock() {
    let Some(cluster) = Cluster::start() else { return };
    content_and_tasks_are_kept(&cluster).await;
    copies_with_different_data_directories_are_told_by_the_database(&cluster).await;
    a_killed_copy_leaves_no_violation(&cluster).await;
    a_session_that_keeps_the_lock_is_a_violation(&cluster).await;
    the_server_goes_on_after_postgres_was_restarted(&cluster).await;
    migrate_copies_sqlite(&cluster).await;
}

async fn content_and_tasks_are_kept(cluster: &Cluster) {
    let scene = seeded(cluster, "kept").await;
    let site = scene.start("debian-12").await;
    assert_eq!(site.content().await.len(), 13);
    assert_eq!(site.get_as("/__api__/v1/user", Some("no-such-key-at-all")).await.0, 401);
    let app = guid("content", 2);
    assert_eq!(site.page(&app).await.0, 200);
    let task = site.build(&app).await;
    site.server.stop().await;
    let site = scene.start("debian-12").await;
    let (_, again) = site.get(&format!("/__api__/v1/tasks/{}", task["id"].as_str().unwrap())).await;
    assert_eq!(again, task);
    site.server.stop().await;
    assert_eq!(places(&scene, scene.data()).await, Vec::<String>::new());
    assert!(!scene.settings.sqlite_dir.join("connect.db").exists());
}

async fn copies_with_different_data_directories_are_told_by_the_database(cluster: &Cluster) {
    let one = seeded(cluster, "shared").await;
    let mut two = Scene::empty("");
    two.settings.provider = Provider::Postgres;
    two.settings.postgres_url.clone_from(&one.settings.postgres_url);
    two.settings.database_dir.clone_from(&one.settings.database_dir);
    let first = one.start("debian-12").await;
    let second = two.start("ubuntu-24.04").await;
    eventually("the database tells", async || places(&one, one.data()).await.iter().any(|p| p == "database"))
        .await;
    first.server.stop().await;
    second.server.stop().await;
    assert!(!places(&one, one.data()).await.iter().any(|p| p == "data-dir"));
}

async fn a_killed_copy_leaves_no_violation(cluster: &Cluster) {
    let scene = seeded(cluster, "killed").await;
    let store = Store::open(&scene.settings).await.unwrap();
    scene.start("debian-12").await.server.die().await;
    let site = scene.start("ubuntu-24.04").await;
    eventually("the stale heartbeat is gone", async || {
        store.query("SELECT id FROM live_instances", &[]).await.unwrap().len() == 1
    })
    .await;
    site.server.stop().await;
    assert_eq!(places(&scene, scene.data()).await, Vec::<String>::new());
}

async fn a_session_that_keeps_the_lock_is_a_violation(cluster: &Cluster) {
    let scene = seeded(cluster, "locked").await;
    let site = scene.start("debian-12").await;
    // As a copy whose heartbeat is frozen would look: only its lock is there.
    let mut two = Scene::empty("");
    two.settings = Settings { data_dir: two.settings.data_dir.clone(), ..scene.settings.clone() };
    let other = Store::open(&scene.settings).await.unwrap();
    let store = Store::open(&scene.settings).await.unwrap();
    let rows = store
        .query(
            "SELECT objid::bigint, classid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted",
            &[],
        )
        .await
        .unwrap();
    let key = (rows[0].int(1) << 32) | rows[0].int(0);
    site.server.stop().await;
    // The server gives the lock free a moment after the connection has ended.
    eventually("the lock is free", async || {
        other.query("SELECT pg_try_advisory_lock($1)", &[key.into()]).await.unwrap()[0].int(0) == 1
    })
    .await;
    let site = two.start("ubuntu-24.04").await;
    eventually("the lock tells", async || !places(&two, two.data()).await.is_empty()).await;
    site.server.stop().await;
}

async fn the_server_goes_on_after_postgres_was_restarted(cluster: &Cluster) {
    let scene = seeded(cluster, "restarted").await;
    let site = scene.start("debian-12").await;
    cluster.control_stop();
    cluster.control_start();
    eventually("the API answers again", async || site.get("/__api__/v1/user").await.0 == 200).await;
    // Long enough for a lock taken by a second session of the same copy to be called a violation.
    tokio::time::sleep(Duration::from_millis(LOCK_KEPT_MILLIS + 500)).await;
    site.server.stop().await;
    assert_eq!(places(&scene, scene.data()).await, Vec::<String>::new());
}

async fn migrate_copies_sqlite(cluster: &Cluster) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rstudio-connect.gcfg");
    let base = format!("[Server]\nDataDir = {}/data\n{}", dir.path().display(), cluster.database("target"));
    std::fs::write(&file, &base).unwrap();
    let sqlite = Settings::from_text(&base, std::iter::empty()).unwrap();
    let store = Store::open(&sqlite).await.unwrap();
    store.claim_secret_key(&sqlite).await.unwrap();
    plant(&seed(), &store, &sqlite, "debian-12").await.unwrap();
    let migrate = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_connect-standin"))
            .args(["migrate", "db", "--config", file.to_str().unwrap()])
            .args(args)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    };
    assert!(!migrate(&[]).status.success(), "without a terminal it must be told -yes");
    assert!(!migrate(&["--verify"]).status.success(), "an empty target differs");
    let output = migrate(&["-yes"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(migrate(&["--verify"]).status.success());
    let output = migrate(&["-yes"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("not empty"));
    assert!(migrate(&["-yes", "--drop-all"]).status.success());

    let postgres = Settings { provider: Provider::Postgres, ..sqlite.clone() };
    let target = Store::open(&postgres).await.unwrap();
    target.claim_secret_key(&postgres).await.unwrap();
    let count = target.query("SELECT count(*) FROM content", &[]).await.unwrap();
    assert_eq!(json!(count[0].int(0)), json!(13));
}
