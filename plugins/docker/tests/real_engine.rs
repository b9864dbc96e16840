//! The step against a real docker engine. Needs one that may run plain containers on the host's network, and the `docker` program and a
//! static busybox: `CONNECT_MIGRATOR_TEST_DOCKER=/var/run/docker.sock cargo test -p connect-migrator-docker -- --ignored`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use connect_migrator_connect::installation::Places;
use connect_migrator_container::kind::Kind;
use connect_migrator_container::processes::{self, Group};
use connect_migrator_container::settings::Settings;
use connect_migrator_container::undo::Undo as Shared;
use connect_migrator_container::world::{Subject, World};
use connect_migrator_docker::{check_all, plan, stage, start, undo};
use connect_migrator_sdk::testing::MemoryHost;
use connect_migrator_sdk::{Context, Finding, Op, Severity, Source, Target, Verdict};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const CONNECT: &str = r#"#!/bin/sh
[ "$1" = --version ] && { echo "Posit Connect v2026.03.1"; exit 0; }
. /etc/behaviour
mkdir -p /www/__api__
echo '{}' > /www/__ping__
echo "{\"version\":\"$version\",\"hostname\":\"$(hostname)\"}" > /www/__api__/server_settings
id -u nobody > /tmp/uid; cp /tmp/uid /www/uid
echo "password is hunter2hunter2"
[ "$behaviour" = exit ] && { echo "Unable to obtain a valid license: expired"; exit 1; }
[ "$behaviour" = silent ] && exec sleep 1000
exec httpd -f -p "$(sed -n 's/^Listen = //p' "$2")" -h /www
"#;

struct Rig {
    root: tempfile::TempDir,
    socket: PathBuf,
    world: World,
    source: Source,
    port: u16,
    name: String,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.docker(&["rm", "-f", &self.name]);
    }
}

impl Rig {
    fn new(behaviour: &str, version: &str) -> Self {
        let socket = PathBuf::from(std::env::var("CONNECT_MIGRATOR_TEST_DOCKER").unwrap());
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for dir in [
            "data/db",
            "units",
            "lic",
            "opt/bin",
            "img/bin",
            "img/etc",
            "img/tmp",
            "img/opt/rstudio-connect/bin",
        ] {
            std::fs::create_dir_all(at(dir)).unwrap();
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let name = format!("cm-test-{port}");
        std::fs::write(at("data/db/secret.key"), "k").unwrap();
        std::fs::write(at("lic/x.lic"), "l").unwrap();
        std::fs::write(
            at("c.gcfg"),
            format!(
                "[Server]\nDataDir = {}\n[HTTP]\nListen = 127.0.0.1:1\n[Database]\nProvider = postgres\n[Postgres]\nURL = postgres://c@localhost/c\nPassword = hunter2hunter2\n[Applications]\nRunAs = nobody\n",
                at("data").display()
            ),
        )
        .unwrap();
        std::fs::set_permissions(at("c.gcfg"), PermissionsExt::from_mode(0o600)).unwrap();
        for connect in [at("opt/bin/connect"), at("img/opt/rstudio-connect/bin/connect")] {
            std::fs::write(&connect, CONNECT).unwrap();
            std::fs::set_permissions(&connect, PermissionsExt::from_mode(0o755)).unwrap();
        }
        std::fs::write(at("img/etc/passwd"), "root:x:0:0::/:/bin/sh\nnobody:x:999:999::/:/bin/sh\n").unwrap();
        std::fs::write(at("img/etc/group"), "root:x:0:\n").unwrap();
        std::fs::write(at("img/etc/behaviour"), format!("behaviour={behaviour}\nversion={version}\n"))
            .unwrap();
        std::fs::copy("/bin/busybox", at("img/bin/busybox")).unwrap();
        for applet in ["sh", "mkdir", "echo", "hostname", "httpd", "sed", "id", "cp", "sleep"] {
            std::os::unix::fs::symlink("busybox", at("img/bin").join(applet)).unwrap();
        }
        let world = World {
            places: Places { environment_file: at("default"), unit_dirs: vec![at("units")] },
            folders: at("containers"),
            unit_dir: at("units"),
            licence_dir: at("lic"),
            ..World::new(Kind::Docker)
        };
        let source = Source { config: at("c.gcfg"), install_dir: at("opt"), ..Source::default() };
        let rig = Rig { root, socket, world, source, port, name };
        let tar = Command::new("tar")
            .args(["-C"])
            .arg(rig.at("img"))
            .args(["-cf"])
            .arg(rig.at("img.tar"))
            .arg(".")
            .status();
        assert!(tar.unwrap().success());
        let tar = rig.at("img.tar").display().to_string();
        assert!(rig.docker(&[
            "import",
            "--change",
            "VOLUME /data",
            "--change",
            "LABEL co.posit.image.version=2026.03.1",
            &tar,
            &rig.image()
        ]));
        rig
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn image(&self) -> String {
        format!("{}:2026.03.1", self.name)
    }

    fn docker(&self, args: &[&str]) -> bool {
        let host = format!("unix://{}", self.socket.display());
        Command::new("docker").env("DOCKER_HOST", host).args(args).output().unwrap().status.success()
    }

    fn settings(&self) -> Settings {
        serde_json::from_value(json!({
            "image": self.image(), "name": self.name, "publish": format!("127.0.0.1:{}", self.port), "network": "host",
            "privileges": "none", "run-as-ids": "keep", "allow-local-data": true, "socket": self.socket, "start-timeout": "20s",
            "stop-timeout": "10s",
        }))
        .unwrap()
    }

    fn mask(&self) {
        std::os::unix::fs::symlink("/dev/null", self.at("units/rstudio-connect.service")).unwrap();
    }

    fn context(&self, host: &Arc<MemoryHost>, op: Op) -> Context {
        host.context(op, self.root.path(), self.source.clone())
    }
}

fn records(host: &MemoryHost) -> Vec<undo::Undo> {
    host.told().undo.into_iter().map(|record| serde_json::from_value(record).unwrap()).collect()
}

fn blockers(found: &[Finding]) -> Vec<&Finding> {
    found.iter().filter(|f| f.severity == Severity::Blocker).collect()
}

#[tokio::test]
#[ignore = "needs a docker engine"]
async fn a_container_is_made_started_verified_and_taken_away_again() {
    let rig = Rig::new("serve", "2026.03.1");
    let settings = rig.settings();
    let host = MemoryHost::new();
    let found = check_all(&settings, &rig.context(&host, Op::Check), &rig.world).await.unwrap();
    assert!(blockers(&found).is_empty(), "{found:#?}");
    let before = listing(rig.root.path());

    let cx = rig.context(&host, Op::Prepare);
    let subject = Subject::new(&settings, &rig.world, &cx).unwrap();
    for change in plan::plan(&subject, &cx).await.unwrap() {
        assert!(!format!("{change:?}").contains("hunter2hunter2"));
    }
    assert_eq!(listing(rig.root.path()), before, "a plan changes nothing");
    let outcome = stage::prepare(&subject, &cx).await.unwrap();
    println!("{outcome:#?}");
    let prepared = records(&host);
    let staged = std::fs::metadata(subject.staged_config()).unwrap();
    assert_eq!(staged.permissions().mode() & 0o777, 0o600);
    // Twice is once.
    stage::prepare(&subject, &cx).await.unwrap();

    // While the unit is not masked, neither the step nor anybody else can start it.
    let host = MemoryHost::new();
    let cx = rig.context(&host, Op::Apply);
    let error = start::apply(&subject, &cx).await.unwrap_err();
    assert!(error.to_string().contains("is not masked"), "{error}");
    assert!(!rig.docker(&["start", &rig.name]));
    rig.mask();
    std::fs::rename(subject.data_guard(&rig.at("data")), rig.at("guard")).unwrap();
    assert!(!rig.docker(&["start", &rig.name]), "the data directory is empty");
    std::fs::rename(rig.at("guard"), subject.data_guard(&rig.at("data"))).unwrap();

    let began = std::time::Instant::now();
    let outcome = start::apply(&subject, &cx).await.unwrap();
    println!("apply took {:?}: {outcome:#?}", began.elapsed());
    let target: Target = serde_json::from_value(outcome.facts[Target::KEY].clone()).unwrap();
    assert_eq!((target.version.as_str(), target.name.as_str()), ("2026.03.1", rig.name.as_str()));
    assert!(matches!(start::verify(&subject, &cx).await.unwrap(), Verdict::Holds { .. }));
    let undo::Undo::Own(undo::Own::Started { id, .. }) = &records(&host)[0] else {
        panic!("the start is written down")
    };
    let names: Vec<String> = processes::of(&rig.world.proc, Group::Container(id))
        .into_iter()
        .map(|process| process.name)
        .collect();
    assert!(names.iter().any(|name| name == "httpd" || name == "busybox"), "{names:?}");
    let again = start::apply(&subject, &cx).await.unwrap();
    assert_eq!(again.done, connect_migrator_sdk::Done::AlreadyDone);
    assert!(matches!(start::probe(&subject, &cx).await.unwrap(), connect_migrator_sdk::Probe::Done { .. }));

    let undone = undo::roll_back(&subject, &cx, records(&host)).await.unwrap();
    println!("{undone:#?}");
    assert!(
        undone.left.is_empty() && undone.evidence.iter().any(|e| e.contains("ended when it was asked to"))
    );
    assert!(!rig.docker(&["inspect", &rig.name]));
    undo::roll_back(&subject, &cx, records(&host)).await.unwrap();
    let undone = undo::roll_back(&subject, &cx, prepared).await.unwrap();
    assert!(undone.left.is_empty(), "{undone:#?}");
    std::fs::remove_file(rig.at("units/rstudio-connect.service")).unwrap();
    assert_eq!(listing(rig.root.path()), before);
}

fn listing(root: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
            all.push(entry.path());
        }
    }
    all.sort();
    all
}

async fn failing(behaviour: &str, version: &str, more: &[(&str, &str)]) -> (String, Rig) {
    let rig = Rig::new(behaviour, version);
    let mut settings = rig.settings();
    for (key, value) in more {
        assert_eq!(*key, "start-timeout");
        settings.start_timeout = connect_migrator_sdk::Span(value.parse().unwrap());
    }
    let host = MemoryHost::new();
    let cx = rig.context(&host, Op::Apply);
    let subject = Subject::new(&settings, &rig.world, &cx).unwrap();
    stage::prepare(&subject, &cx).await.unwrap();
    rig.mask();
    let error = start::apply(&subject, &cx).await.unwrap_err().to_string();
    assert!(!error.contains("hunter2hunter2"), "{error}");
    let undone = undo::roll_back(&subject, &cx, records(&host)).await.unwrap();
    assert!(undone.left.is_empty(), "{undone:#?}");
    assert!(!rig.docker(&["inspect", &rig.name]));
    (error, rig)
}

#[tokio::test]
#[ignore = "needs a docker engine"]
async fn a_server_that_ends_at_once_fails_at_once_with_its_last_words() {
    let began = std::time::Instant::now();
    let (error, _rig) = failing("exit", "2026.03.1", &[]).await;
    assert!(
        error.contains("ended with status 1") && error.contains("Unable to obtain a valid license"),
        "{error}"
    );
    assert!(began.elapsed().as_secs() < 15, "{:?}", began.elapsed());
}

#[tokio::test]
#[ignore = "needs a docker engine"]
async fn another_version_is_refused_naming_both() {
    let (error, _rig) = failing("serve", "2025.12.1", &[]).await;
    assert!(error.contains("2025.12.1") && error.contains("2026.03.1"), "{error}");
}

#[tokio::test]
#[ignore = "needs a docker engine"]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let (error, _rig) = failing("silent", "2026.03.1", &[("start-timeout", "2")]).await;
    assert!(error.contains("does not answer at") && error.contains("after 2 s"), "{error}");
}

/// A registry on loopback; gone with this value.
struct Registry {
    process: std::process::Child,
    port: u16,
    _root: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn registry() -> Registry {
    let root = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = root.path().join("config.yml");
    let text = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        root.path().display()
    );
    std::fs::write(&config, text).unwrap();
    let quiet = std::process::Stdio::null;
    let process = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(quiet())
        .stderr(quiet())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(std::time::Instant::now() < deadline, "the registry does not come up");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Registry { process, port, _root: root }
}

#[tokio::test]
#[ignore = "needs a docker engine and docker-registry"]
async fn an_image_is_pulled_with_progress_and_pinned_by_its_digest() {
    let registry = registry();
    let rig = Rig::new("serve", "2026.03.1");
    let reference = format!("127.0.0.1:{}/posit/connect:2026.03.1-ubuntu-24.04-std", registry.port);
    assert!(rig.docker(&["tag", &rig.image(), &reference]) && rig.docker(&["push", &reference]));
    assert!(rig.docker(&["rmi", &reference, &rig.image()]));
    let mut settings = rig.settings();
    settings.image = serde_json::from_value(json!({
        "version": "match-source", "os": "ubuntu-24.04", "registries": [format!("127.0.0.1:{}/posit/connect", registry.port)]
    }))
    .unwrap();
    let host = MemoryHost::new();
    let found = check_all(&settings, &rig.context(&host, Op::Check), &rig.world).await.unwrap();
    assert!(blockers(&found).is_empty(), "{found:#?}");
    assert!(found.iter().any(|f| f.key == "image" && f.text.contains("sha256:")), "{found:#?}");

    let cx = rig.context(&host, Op::Prepare);
    let subject = Subject::new(&settings, &rig.world, &cx).unwrap();
    let outcome = stage::prepare(&subject, &cx).await.unwrap();
    assert!(outcome.evidence[0].contains("posit/connect@sha256:"), "{outcome:#?}");
    println!("{:?}", host.told().progress);
    assert!(
        matches!(&records(&host)[0], undo::Undo::Shared(Shared::Image { reference: r }) if *r == reference)
    );
    let undone = undo::roll_back(&subject, &cx, records(&host)).await.unwrap();
    assert!(undone.left.is_empty() && undone.evidence.iter().any(|e| e.contains("stays")), "{undone:#?}");
    assert!(rig.docker(&["rmi", &reference]));

    // What the registry does not have, and a registry that is not there, are told apart.
    for (image, key, remedy) in [
        (format!("127.0.0.1:{}/posit/connect:2026.03.1-x", registry.port), "image-missing", "no such tag"),
        ("127.0.0.1:1/posit/connect:2026.03.1".to_owned(), "registry-unreachable", "reaches the registry"),
    ] {
        settings.image = serde_json::from_value(json!(image)).unwrap();
        let found = check_all(&settings, &rig.context(&host, Op::Check), &rig.world).await.unwrap();
        let missing = found.iter().find(|f| f.key == key).unwrap();
        println!("{missing:#?}");
        assert!(missing.remedy.contains(remedy), "{missing:#?}");
    }
}

#[tokio::test]
#[ignore = "needs a docker engine"]
async fn without_the_engine_nothing_of_the_container_keeps_running() {
    let rig = Rig::new("serve", "2026.03.1");
    let mut settings = rig.settings();
    let host = MemoryHost::new();
    let cx = rig.context(&host, Op::Apply);
    {
        let subject = Subject::new(&settings, &rig.world, &cx).unwrap();
        stage::prepare(&subject, &cx).await.unwrap();
        rig.mask();
        start::apply(&subject, &cx).await.unwrap();
    }
    // As if the engine had died in the window.
    settings.socket = Some("/nowhere/docker.sock".into());
    settings.engine_timeout = connect_migrator_sdk::Span(1);
    let subject = Subject::new(&settings, &rig.world, &cx).unwrap();
    let started: Vec<undo::Undo> = records(&host)
        .into_iter()
        .filter(|record| matches!(record, undo::Undo::Own(undo::Own::Started { .. })))
        .collect();
    let undo::Undo::Own(undo::Own::Started { id, .. }) = &started[0] else {
        panic!("the start is written down")
    };
    // The engine that is alive here would start it again, as the policy says, and the unit is still masked.
    let undone = undo::roll_back(&subject, &cx, started.clone()).await.unwrap();
    println!("{undone:#?}");
    assert_eq!(processes::of(&rig.world.proc, Group::Container(id)), []);
    assert!(std::net::TcpStream::connect(("127.0.0.1", rig.port)).is_err());
}
