//! What keeps it from starting, and what a start or stop looks like from outside.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use connect_standin::secret::SecretKey;
use connect_standin::settings::{Interpreter, Provider};
use connect_standin::store::Store;
use connect_standin::tuning::{Ping, Tuning};
use connect_standin::{Checks, Launch, Server};

use crate::scene::{Scene, quick};

async fn refusal(scene: &Scene) -> String {
    match scene.launch("debian-12", quick()).await {
        Err(e) => e.to_string(),
        Ok(_) => panic!("it started"),
    }
}

#[tokio::test]
async fn the_service_log_has_the_two_lines_that_tools_wait_for() {
    let scene = Scene::empty("");
    let site = scene.start("debian-12").await;
    let log = scene.service_log();
    let starting = log.find("Starting Posit Connect v2026.03.1").unwrap();
    let listening = log.find(&format!("Starting HTTP server on {}", site.server.address())).unwrap();
    assert!(starting < listening, "{log}");
    site.server.stop().await;
    assert!(scene.service_log().contains("Stopped Posit Connect"));
}

#[tokio::test]
async fn a_fresh_installation_makes_its_secret_key_and_keeps_it() {
    let scene = Scene::empty("");
    let path = scene.settings.secret_key();
    scene.start("debian-12").await.server.stop().await;
    let key = SecretKey::read(&path).unwrap().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    scene.start("debian-12").await.server.stop().await;
    assert_eq!(SecretKey::read(&path).unwrap().unwrap().signature(), key.signature());
}

#[tokio::test]
async fn a_database_that_knows_a_secret_key_is_not_opened_without_it_or_with_another() {
    let scene = Scene::seeded("").await;
    let path = scene.settings.secret_key();
    let away = path.with_extension("away");
    std::fs::rename(&path, &away).unwrap();
    let error = refusal(&scene).await;
    assert!(error.contains("secret key") && error.contains("does not exist"), "{error}");
    assert!(!path.exists(), "no new key is made");
    assert!(scene.service_log().contains("does not exist"));

    SecretKey::create(&path).unwrap();
    assert!(refusal(&scene).await.contains("is not the key that the database was used with"));

    std::fs::write(&path, "short\n").unwrap();
    assert!(refusal(&scene).await.contains("Unable to read secret key file"));

    std::fs::rename(&away, &path).unwrap();
    scene.start("debian-12").await.server.stop().await;
}

#[tokio::test]
async fn an_encrypted_password_needs_the_key_it_was_encrypted_with() {
    let dir = tempfile::tempdir().unwrap();
    let other = SecretKey::create(&dir.path().join("other")).unwrap();
    let mut scene = Scene::empty("");
    scene.settings.provider = Provider::Postgres;
    scene.settings.postgres_url = Some("postgres://connect@127.0.0.1:1/connect?sslmode=disable".into());
    scene.settings.postgres_password = Some(other.encrypt("password").unwrap());
    assert!(refusal(&scene).await.contains("does not exist"));
    SecretKey::create(&scene.settings.secret_key()).unwrap();
    assert!(refusal(&scene).await.contains("Unable to decrypt Postgres.Password"));
    scene.settings.postgres_password = Some("password".into());
    assert!(refusal(&scene).await.contains("connect to connect on"), "nobody listens on port 1");
}

#[tokio::test]
async fn a_configured_interpreter_that_is_not_there_keeps_it_from_starting() {
    let mut scene = Scene::empty("");
    scene.settings.python =
        Interpreter { enabled: true, executables: vec!["/nowhere/python/3.11.9/bin/python".into()] };
    assert!(refusal(&scene).await.contains("Could not locate a Python installation"));
}

#[tokio::test]
async fn privileges_and_licence_are_asked_for_before_anything_is_written() {
    let scene = Scene::empty("[Applications]\nRunAs = nobody-of-that-name\n");
    let licences = tempfile::tempdir().unwrap();
    let start = async || {
        let launch = Launch {
            settings: scene.settings.clone(),
            tuning: quick(),
            checks: Checks { licence_dir: Some(licences.path().to_owned()), ..Checks::strict() },
            version: "2026.03.1".into(),
            distribution: "debian-12".into(),
            interpreters: scene.dir.path().join("opt"),
            store: None,
        };
        Server::start(launch).await.err().map(|e| e.to_string()).unwrap_or_default()
    };
    if nix::unistd::Uid::effective().is_root() {
        assert!(start().await.starts_with("Unable to obtain a valid license"));
        std::fs::write(licences.path().join("a.lic"), "a licence\n").unwrap();
        assert_eq!(
            start().await,
            "Cannot verify the Applications.RunAs user 'nobody-of-that-name': user: unknown user nobody-of-that-name"
        );
    } else {
        assert_eq!(start().await, "Posit Connect must be started by root");
    }
    assert!(!scene.data().exists());
}

#[test]
fn a_sandbox_without_cap_sys_admin_fails_with_the_documented_words() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("connect");
    // By a process of its own: one that another test starts meanwhile would inherit the open file, which then is "busy".
    let copied =
        Command::new("cp").arg(env!("CARGO_BIN_EXE_connect-standin")).arg(&program).status().unwrap();
    assert!(copied.success());
    let mut command = Command::new(&program);
    command.args(["rsandbox", "65534", "65534"]);
    if nix::unistd::Uid::effective().is_root() {
        command.uid(65534).gid(65534);
    }
    let output = command.output().unwrap();
    assert!(!output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stderr).trim(),
        "[rsandbox] ERROR system error 1 (Operation not permitted)"
    );
}

#[tokio::test]
async fn an_unhealthy_server_answers_503_and_one_may_report_another_version() {
    let scene = Scene::seeded("").await;
    let tuning = Tuning { ping: Ping::Unavailable, reported_version: Some("2026.02.1".into()), ..quick() };
    let site = scene.launch("debian-12", tuning).await.unwrap();
    assert_eq!(site.get_as("/__ping__", None).await.0, 503);
    assert_eq!(site.get("/__api__/server_settings").await.1["version"], "2026.02.1");
}

#[tokio::test]
async fn a_server_that_never_listens_is_alive_all_the_same() {
    let scene = Scene::seeded("").await;
    let tuning = Tuning { ping: Ping::NeverListen, ..quick() };
    let start = scene.launch("debian-12", tuning);
    assert!(tokio::time::timeout(Duration::from_millis(500), start).await.is_err());
    assert!(!scene.service_log().contains("Starting HTTP server"));
    assert!(scene.data().join(connect_standin::live::LIVE_DIR).is_dir());
}

#[tokio::test]
async fn start_and_stop_take_the_time_they_are_told_to() {
    let scene = Scene::seeded("").await;
    let begun = Instant::now();
    let tuning = Tuning { startup_ms: 400, stop_ms: 300, ..quick() };
    let site = scene.launch("debian-12", tuning).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(400));
    let (begun, address) = (Instant::now(), site.server.address());
    let stopping = tokio::spawn(site.server.stop());
    crate::scene::eventually("the port is closed", async || {
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await;
    assert!(
        begun.elapsed() < Duration::from_millis(290),
        "the port closes before the end: {:?}",
        begun.elapsed()
    );
    stopping.await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let store = Store::open(&scene.settings).await.unwrap();
    assert!(store.query("SELECT id FROM live_instances", &[]).await.unwrap().is_empty());
}
