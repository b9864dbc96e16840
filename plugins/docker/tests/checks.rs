//! What the check finds, one broken prerequisite at a time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use connect_migrator_container::kind::Kind;
use connect_migrator_container::{storage, world::Subject};
use connect_migrator_docker::{check_all, plan};
use connect_migrator_engine_double::host::Host;
use connect_migrator_sdk::{Finding, Op, Severity};
use serde_json::json;
use std::collections::BTreeSet;

async fn check(host: &Host) -> Vec<Finding> {
    let found = check_all(&host.settings(), &host.context(Op::Check), &host.world).await.unwrap();
    let keys: BTreeSet<&str> = found.iter().map(|f| f.key.as_str()).collect();
    assert_eq!(keys.len(), found.len(), "keys are unique: {found:#?}");
    assert!(!format!("{found:?}").contains("hunter2hunter2"));
    for finding in &found {
        assert_eq!(finding.severity == Severity::Ok, finding.remedy.is_empty(), "{finding:?}");
    }
    found
}

/// The server of the double holds the port that the settings publish.
fn with_free_port(host: &mut Host) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    host.settings["publish"] = json!(format!("127.0.0.1:{port}"));
}

async fn sound() -> Host {
    let mut host = Host::new(Kind::Docker).await;
    with_free_port(&mut host);
    host
}

#[tokio::test]
async fn a_sound_host_has_nothing_but_ok() {
    let found = check(&sound().await).await;
    assert!(found.iter().all(|f| f.severity == Severity::Ok), "{found:#?}");
    let keys: Vec<&str> = found.iter().map(|f| f.key.as_str()).collect();
    for key in [
        "docker",
        "image",
        "image-version",
        "name",
        "database",
        "data",
        "secret-key",
        "ids",
        "licence",
        "port",
    ] {
        assert!(keys.contains(&key), "{key} is missing in {keys:?}");
    }
}

#[tokio::test]
async fn each_broken_prerequisite_is_a_blocker_of_its_own() {
    type Break = fn(&mut Host);
    let broken: [(&str, Break); 21] = [
        ("docker-unreachable", |h| h.settings["socket"] = json!("/nowhere/docker.sock")),
        ("docker-old", |h| h.engine.state().api = "1.24"),
        ("docker-rootless", |h| h.engine.state().security.push("name=rootless")),
        ("image-missing", |h| {
            let mut engine = h.engine.state();
            (engine.local, engine.registry) = (false, (404, "manifest unknown"));
        }),
        ("image-version", |h| h.engine.state().labels = json!({ "co.posit.image.version": "2025.12.1" })),
        ("name-taken", |h| {
            h.engine.state().container =
                Some(json!({ "Id": "x", "Name": "/c-1", "Config": { "Labels": {} } }));
        }),
        ("already-running", |h| {
            let labels =
                json!({ "io.connect-migrator.instance": "test", "io.connect-migrator.migration": "earlier" });
            h.engine.state().container = Some(
                json!({ "Id": "x", "Name": "/c-1", "Config": { "Labels": labels }, "State": { "Running": true } }),
            );
        }),
        ("database-sqlite", |h| h.edit_config("Provider = postgres", "Provider = sqlite")),
        ("database-unknown", |h| h.edit_config("Provider = postgres", "Provider = oracle")),
        ("database-loopback", |h| h.edit_config("db.example.com", "localhost")),
        ("data-local", |h| std::fs::write(h.at("mountinfo"), "1 0 0:1 / / rw - ext4 /dev/vda rw\n").unwrap()),
        ("data-unsuitable", |h| {
            std::fs::write(h.at("mountinfo"), "1 0 0:1 / / rw - cifs //nas/x rw\n").unwrap()
        }),
        ("data-missing", |h| std::fs::rename(h.at("data"), h.at("gone")).unwrap()),
        ("secret-key-missing", |h| std::fs::remove_file(h.at("data/db/secret.key")).unwrap()),
        ("run-as-unknown", |h| h.edit_config("RunAs = nobody", "RunAs = no-such-user-here")),
        ("ids-differ", |h| h.settings["run-as-ids"] = json!("check")),
        ("licence-missing", |h| std::fs::remove_file(h.at("lic/x.lic")).unwrap()),
        ("config-syntax", |h| h.edit_config("Provider = postgres", "Provider postgres")),
        ("config-missing", |h| std::fs::remove_file(h.at("c.gcfg")).unwrap()),
        ("mounts-missing", |h| h.settings["mounts"] = json!([{ "source": "/nowhere" }])),
        ("port-taken", |h| h.settings["publish"] = json!(format!("127.0.0.1:{}", h.engine.port))),
    ];
    for (key, break_it) in broken {
        let mut host = sound().await;
        break_it(&mut host);
        let found = check(&host).await;
        let blockers: Vec<&str> =
            found.iter().filter(|f| f.severity == Severity::Blocker).map(|f| f.key.as_str()).collect();
        // Without its data directory an installation has no key either.
        let expected: &[&str] =
            if key == "data-missing" { &["data-missing", "secret-key-missing"] } else { &[key] };
        assert_eq!(blockers, expected, "{found:#?}");
    }
}

/// The server of the double listens where the container is to be published.
async fn port_of(publish: &str, source: &str) -> Finding {
    let mut host = Host::new(Kind::Docker).await;
    let port = host.engine.port;
    std::os::unix::fs::symlink("/proc/net", host.at("proc/net")).unwrap();
    host.settings["publish"] = json!(format!("{publish}:{port}"));
    host.edit_config("Listen = 127.0.0.1:1", &format!("Listen = {source}:{port}"));
    let found = check(&host).await;
    found.into_iter().find(|f| f.key.starts_with("port")).unwrap()
}

#[tokio::test]
async fn only_what_the_source_itself_listens_on_will_be_free() {
    let own = port_of("127.0.0.1", "127.0.0.1").await;
    assert!(own.severity == Severity::Ok && own.text.contains("the source's own port"), "{own:?}");
    let own = port_of("0.0.0.0", "127.0.0.1").await;
    assert_eq!(own.severity, Severity::Ok, "{own:?}");
    // Another program has the port, and the source has it on another address.
    for publish in ["127.0.0.1", "0.0.0.0"] {
        let taken = port_of(publish, "127.0.0.2").await;
        assert_eq!((taken.key.as_str(), taken.severity), ("port-taken", Severity::Blocker), "{taken:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_does_not_hide_other_findings() {
    let mut host = sound().await;
    host.settings["socket"] = json!("/nowhere/docker.sock");
    std::fs::remove_file(host.at("lic/x.lic")).unwrap();
    std::fs::write(host.at("c.gcfg"), "[Server\n").unwrap();
    let found = check(&host).await;
    let keys: BTreeSet<&str> =
        found.iter().filter(|f| f.severity == Severity::Blocker).map(|f| f.key.as_str()).collect();
    assert_eq!(keys, BTreeSet::from(["config-syntax", "docker-unreachable", "licence-missing"]));
    let syntax = found.iter().find(|f| f.key == "config-syntax").unwrap();
    assert!(syntax.text.contains("line 1, column 8") && syntax.text.contains('^'), "{}", syntax.text);
}

#[tokio::test]
async fn a_registry_that_refuses_is_told_from_one_without_the_tag() {
    // The engine reaches it, and we do not: its words count.
    for (answer, key, text, remedy) in [
        ((401, "unauthorized"), "registry-login", "unauthorized", "`login` of this step"),
        ((403, "denied: requested access"), "registry-login", "denied: requested access", "`login`"),
        ((404, "manifest unknown"), "image-missing", "does not exist", "no such tag"),
        ((429, "toomanyrequests"), "registry-limit", "too often", "wait"),
        (
            (500, "dial tcp 10.0.0.1:443: connect: connection refused"),
            "registry-unreachable",
            "10.0.0.1",
            "reaches the registry",
        ),
    ] {
        let host = sound().await;
        {
            let mut engine = host.engine.state();
            (engine.local, engine.registry) = (false, answer);
        }
        let found = check(&host).await;
        let blocker = found.iter().find(|f| f.severity == Severity::Blocker).unwrap();
        assert_eq!(blocker.key, key, "{blocker:?}");
        assert!(blocker.remedy.contains(remedy) && blocker.text.contains(text), "{blocker:?}");
    }
}

#[tokio::test]
async fn a_local_disk_can_be_accepted() {
    let mut host = sound().await;
    std::fs::write(host.at("mountinfo"), "1 0 0:1 / / rw - ext4 /dev/vda rw\n").unwrap();
    host.settings["allow-local-data"] = json!(true);
    let found = check(&host).await;
    assert_eq!(found.iter().find(|f| f.key == "data-local").unwrap().severity, Severity::Warning);
}

#[tokio::test]
async fn the_plan_shows_every_change_with_its_reason_and_no_secret() {
    let host = sound().await;
    let (settings, cx) = (host.settings(), host.context(Op::Plan));
    let subject = Subject::new(&settings, &host.world, &cx).unwrap();
    let changes = plan::plan(&subject, &cx).await.unwrap();
    let mut text = String::new();
    for change in &changes {
        text.push_str(&format!("{}: {}\n", change.when, change.what));
        if let Some(diff) = &change.diff {
            text.push_str(diff);
        }
    }
    assert!(!text.contains("hunter2hunter2"));
    let root = host.root.path().display().to_string();
    let port = settings.publish.trim_start_matches("127.0.0.1:");
    let unit = storage::mount_unit(&host.at("data").canonicalize().unwrap());
    let text = text.replace(&unit, "DATA.mount").replace(&root, "ROOT").replace(port, "PORT");
    insta::assert_snapshot!(text);
}
