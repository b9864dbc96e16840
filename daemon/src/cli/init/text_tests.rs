use super::super::proxy::Site;
use super::super::seen::Engine;
use super::super::storage::Storage;
use super::*;
use crate::cli::init::content::Content;
use crate::runbook::Runbook;

fn storage(kind: &str, source: &str) -> Result<Storage, String> {
    Ok(Storage { at: "/".into(), kind: kind.into(), source: source.into() })
}

/// A host on which nothing has to move but Connect.
fn host() -> Seen {
    Seen {
        instance: "prod".into(),
        unit: "rstudio-connect.service".into(),
        config: "/etc/rstudio-connect/rstudio-connect.gcfg".into(),
        unit_state: Ok("active (running), enabled".into()),
        installation: Ok(Connect {
            version: Some("2026.03.1".into()),
            address: Some("https://connect.example.com".into()),
            port: 3939,
            database: DatabaseProvider::Postgres,
            database_on_loopback: false,
            data_dir: "/mnt/connect/data".into(),
            storage: storage("nfs4", "nas:/export"),
            run_as: "rstudio-connect".into(),
            run_as_ids: Some((999, 999)),
            licences: vec!["/var/lib/rstudio-connect/x.lic".into()],
        }),
        engine: Ok(Engine { name: "docker", found: "/run/docker.sock".into(), other: None }),
        site: Ok(Site {
            file: "/etc/nginx/sites-enabled/connect".into(),
            value: "http://127.0.0.1:3939 at /etc/nginx/sites-enabled/connect:9".into(),
            names: vec!["connect.example.com".into()],
        }),
        publish: Ok(3940),
        content: None,
        key_file: None,
        stored: vec![API_KEY],
        registries: Vec::new(),
        postgres_url: None,
        nfs_export: None,
        nfs_mount: "/mnt/connect".into(),
        parallelism: 4,
    }
}

/// A host on which everything has to move and nothing is plain.
fn odd_host() -> Seen {
    let mut seen = host();
    if let Ok(connect) = &mut seen.installation {
        connect.database = DatabaseProvider::Sqlite;
        connect.storage = storage("ext4", "/dev/vda1");
        connect.run_as_ids = Some((998, 997));
        connect.address = None;
    }
    seen.stored.clear();
    // The data lie at the first place.
    seen.nfs_mount = "/mnt/connect-data".into();
    seen
}

/// A host without anything.
fn empty_host() -> Seen {
    let none = || "there is none".to_owned();
    Seen {
        unit_state: Err(none()),
        installation: Err(none()),
        engine: Err(none()),
        site: Err(none()),
        publish: Err(none()),
        stored: Vec::new(),
        ..host()
    }
}

fn steps(draft: &Draft) -> Vec<String> {
    let runbook = Runbook::parse("prod.toml", &draft.text).unwrap();
    runbook.steps.iter().map(|step| step.uses.to_string()).collect()
}

#[test]
fn a_host_that_is_ready_needs_five_steps_and_has_no_gap() {
    let draft = Draft::of(&host());
    insta::assert_snapshot!(draft.text);
    assert_eq!(draft.gaps, Vec::<String>::new());
    let expected =
        ["systemd/stop", "docker", "connect-api/clear-caches", "route-nginx", "connect-api/rebuild"];
    assert_eq!(steps(&draft), expected);
}

#[test]
fn what_was_not_found_is_an_explained_gap() {
    for (name, seen) in [("odd", odd_host()), ("empty", empty_host())] {
        let draft = Draft::of(&seen);
        assert!(!draft.gaps.is_empty(), "{name}");
        assert_eq!(draft.text.matches("# GAP:").count(), draft.gaps.len(), "{name}");
        steps(&draft);
        let instance = Instance::named("prod").unwrap();
        let told = draft.told(&instance, Path::new("/etc/connect-migrator/prod.toml"));
        insta::assert_snapshot!(name, format!("{}\n======\n{told}", draft.text));
    }
}

#[test]
fn given_targets_fill_their_gaps() {
    let mut seen = odd_host();
    seen.postgres_url = Some("postgres://connect@db.example.com/connect".into());
    seen.nfs_export = Some("nas:/export/connect".into());
    let draft = Draft::of(&seen);
    assert!(!draft.text.contains("# with"), "{}", draft.text);
    assert_eq!(steps(&draft).first().map(String::as_str), Some("postgres"));
}

#[test]
fn a_key_that_was_given_by_a_file_is_stored_from_it_and_content_is_told() {
    let mut seen = host();
    seen.stored.clear();
    seen.key_file = Some("/root/my key".into());
    let needs = [(("R", "4.5.2".to_owned()), 7)].into_iter().collect();
    seen.content = Some(Ok(Content { items: 11, needs }));
    let draft = Draft::of(&seen);
    let command = "install -D -m 0600 '/root/my key' /etc/connect-migrator/credentials/connect-api-key";
    assert!(draft.text.contains(command), "{}", draft.text);
    assert!(draft.text.contains("11 items; deployed with R 4.5.2 (7)"), "{}", draft.text);
}

#[test]
fn nothing_that_a_host_says_ends_a_comment_or_a_string() {
    let hostile = "x\"\n[[step]]\nid = \"evil\"\r\u{85}\u{2028}";
    let mut seen = host();
    seen.site = Err(hostile.into());
    seen.content = Some(Err(hostile.into()));
    seen.unit = hostile.into();
    seen.engine = Ok(Engine { name: "docker", found: hostile.into(), other: None });
    if let Ok(connect) = &mut seen.installation {
        connect.run_as = hostile.into();
        connect.run_as_ids = Some((1, 1));
        connect.address = Some(hostile.into());
    }
    let draft = Draft::of(&seen);
    let table: toml::Table = draft.text.parse().unwrap();
    let steps = table.get("step").and_then(toml::Value::as_array).unwrap();
    assert!(steps.iter().all(|step| step.get("id").and_then(toml::Value::as_str) != Some("evil")));
}
