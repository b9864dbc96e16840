//! What a good runbook is read as, and what reading never does.

use super::{MAX_RUNBOOK_BYTES, OnFailure, Runbook, RunbookError, Soak, Then, Timeouts, Uses, order};
use connect_migrator_sdk::{Op, Role, Source, StepInfo};
use proptest::prelude::*;
use std::path::Path;
use std::time::Duration;

const FULL: &str = r#"
version = 1
on-failure = "pause"
soak = { for = "1h30m", then = "rollback", every = "500ms" }

[connect]
unit = "connect.service"
config = "/srv/connect.gcfg"
url = "https://connect.example.com/rsc"
api-key = { credential = "connect-api-key" }
install-dir = "/srv/connect"

[timeouts]
apply = "3h"
enter-window = "5s"

[[step]]
id = "database"
uses = "postgres"
with = { url = "postgres://connect@db/connect", password = { credential = "postgres-password" }, tries = 3, ratio = 0.5 }

[[step]]
id = "stop"
uses = "systemd/stop"
allow = ["socket-starts-it"]

[[step]]
id = "container"
uses = "docker"
[step.with]
publish = ["127.0.0.1:3940"]
registry = { user = "me", login = [{ credential = "registry" }] }
since = 2026-01-02
"#;

fn good(text: &str) -> Runbook {
    Runbook::parse("prod.toml", text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[test]
fn every_setting_is_read() {
    let runbook = good(FULL);
    assert_eq!(runbook.on_failure, OnFailure::Pause);
    let soak =
        Soak { for_: Duration::from_secs(5400), then: Then::Rollback, every: Duration::from_millis(500) };
    assert_eq!(runbook.soak, soak);
    assert_eq!(runbook.connect.unit, "connect.service");
    assert_eq!(runbook.connect.config, Path::new("/srv/connect.gcfg"));
    assert_eq!(runbook.connect.url.as_deref(), Some("https://connect.example.com/rsc"));
    assert_eq!(runbook.connect.install_dir, Path::new("/srv/connect"));
    assert_eq!(runbook.timeouts.of(Op::Apply), Duration::from_secs(3 * 3600));
    assert_eq!(runbook.timeouts.of(Op::EnterWindow), Duration::from_secs(5));
    assert_eq!(runbook.timeouts.of(Op::Prepare), Timeouts::default().prepare);
    let ids: Vec<_> = runbook.steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(ids, ["database", "stop", "container"]);
    assert_eq!(runbook.steps[1].uses, Uses { plugin: "systemd".into(), step: Some("stop".into()) });
    assert_eq!(runbook.steps[1].allow, ["socket-starts-it"]);
    assert_eq!(runbook.steps[2].uses.step_name(), "docker");
    assert_eq!(
        runbook.steps[0].with,
        serde_json::json!({
            "url": "postgres://connect@db/connect",
            "password": { "credential": "postgres-password" },
            "tries": 3,
            "ratio": 0.5,
        })
    );
    assert_eq!(runbook.steps[2].with["since"], "2026-01-02");
    assert!(FULL[runbook.steps[1].span.clone()].starts_with("[[step]]"));
}

#[test]
fn what_is_not_written_has_its_default() {
    let runbook = good("version = 1\n[[step]]\nid = \"a\"\nuses = \"b\"\n");
    assert_eq!(runbook.on_failure, OnFailure::Rollback);
    assert_eq!(runbook.soak, Soak::default());
    assert_eq!(runbook.connect, Source::default());
    assert_eq!(runbook.timeouts, Timeouts::default());
    assert_eq!(runbook.steps[0].with, serde_json::json!({}));
    assert!(runbook.steps[0].allow.is_empty());
}

#[test]
fn a_step_may_fetch_its_own_credentials_and_those_of_connect_only() {
    let runbook = good(FULL);
    let names = |id| runbook.credentials_of(id).into_iter().collect::<Vec<_>>();
    assert_eq!(names("database"), ["connect-api-key", "postgres-password"]);
    assert_eq!(names("stop"), ["connect-api-key"]);
    assert_eq!(names("container"), ["connect-api-key", "registry"]);
    assert_eq!(
        runbook.credentials().into_iter().collect::<Vec<_>>(),
        ["connect-api-key", "postgres-password", "registry"]
    );
}

#[test]
fn the_digest_changes_with_every_byte() {
    let one = good(FULL).digest();
    assert_eq!(one.len(), 64);
    assert_eq!(one, good(FULL).digest());
    assert_ne!(one, good(&format!("{FULL} ")).digest());
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_are_read() {
    let runbook = good(&format!("\u{feff}{}", FULL.replace('\n', "\r\n")));
    assert_eq!(runbook.steps.len(), 3);
}

fn info(role: Role, needs_source_stopped: bool) -> StepInfo {
    let mut info = StepInfo::new("step", "");
    info.role = role;
    info.needs_source_stopped = needs_source_stopped;
    info
}

#[test]
fn a_step_that_needs_the_source_stopped_is_applied_right_after_the_stop() {
    let text: String = ["postgres", "note", "nfs", "stop", "container", "route", "content"]
        .map(|id| format!("[[step]]\nid = \"{id}\"\nuses = \"x\"\n"))
        .join("");
    let runbook = good(&format!("version = 1\n{text}"));
    let infos = [
        info(Role::Other, true),
        info(Role::Other, false),
        info(Role::Other, true),
        info(Role::StopsSource, false),
        info(Role::StartsTarget, false),
        info(Role::Routes, false),
        info(Role::Other, false),
    ];
    assert_eq!(order(&runbook, &infos).unwrap(), [1, 3, 0, 2, 4, 5, 6]);
}

#[test]
fn every_example_is_a_good_runbook() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../etc");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        Runbook::load(&path).unwrap_or_else(|error| panic!("{error}"));
        read += 1;
    }
    assert!(read >= 2);
}

#[test]
fn what_is_no_file_of_text_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("prod.toml"), "version = 1\n").unwrap();
    std::fs::write(path("latin.toml"), b"version = 1\n# caf\xe9\n").unwrap();
    std::fs::write(path("large.toml"), "#".repeat(MAX_RUNBOOK_BYTES + 1)).unwrap();
    std::fs::create_dir(path("folder.toml")).unwrap();
    nix::unistd::mkfifo(&path("pipe.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = |name: &str| Runbook::load(&path(name)).unwrap_err();
    assert!(
        matches!(error("prdo.toml"), RunbookError::Missing { nearest: Some(name), .. } if name == "prod.toml")
    );
    assert!(matches!(error("elsewhere/prod.toml"), RunbookError::Missing { nearest: None, .. }));
    assert!(matches!(error("latin.toml"), RunbookError::NotUtf8 { line: 2, .. }));
    assert!(matches!(error("large.toml"), RunbookError::TooLarge { .. }));
    assert!(matches!(error("folder.toml"), RunbookError::NotAFile { found: "a folder", .. }));
    assert!(matches!(error("pipe.toml"), RunbookError::NotAFile { found: "a pipe", .. }));
    assert!(matches!(error("prod.toml/prod.toml"), RunbookError::Unreadable { .. }));
    assert!(matches!(error("prod.toml"), RunbookError::Invalid(_)));
    for name in ["prdo.toml", "latin.toml", "large.toml", "folder.toml", "prod.toml"] {
        let text = error(name).to_string();
        assert!(text.contains(path(name).to_str().unwrap()), "{text}");
    }
}

#[test]
fn the_largest_text_is_refused_quickly() {
    let text = "a = 1\n".repeat(MAX_RUNBOOK_BYTES / 6);
    let started = std::time::Instant::now();
    let mistakes = Runbook::parse("prod.toml", &text).unwrap_err();
    assert!(!mistakes.render(true).is_empty());
    let unknown: String = (0..40_000).map(|n| format!("key-{n} = {n}\n")).collect();
    let mistakes = Runbook::parse("prod.toml", &unknown).unwrap_err();
    assert!(mistakes.render(true).contains("more\n"));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn deep_nesting_is_refused() {
    let text = format!("version = 1\nx = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(!Runbook::parse("prod.toml", &text).unwrap_err().render(false).is_empty());
}

/// Parses; what is refused must be drawable.
fn survives(text: &str) -> Result<(), TestCaseError> {
    if let Err(mistakes) = Runbook::parse("prod.toml", text) {
        prop_assert!(!mistakes.items().is_empty());
        prop_assert!(!mistakes.render(true).is_empty());
        prop_assert_eq!(mistakes.list().len(), mistakes.items().len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,200}|(?s).{0,200}") {
        survives(&text)?;
    }

    #[test]
    fn a_mutated_runbook_is_read_or_refused_without_a_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "(\\PC|[\\[\\]{}=\"'\\n,.]){0,4}"), 1..5),
    ) {
        let mut text = FULL.to_owned();
        for (at, length, put) in cuts {
            let mut from = at.index(text.len());
            while !text.is_char_boundary(from) { from -= 1; }
            let mut to = (from + length).min(text.len());
            while !text.is_char_boundary(to) { to += 1; }
            text.replace_range(from..to, &put);
        }
        survives(&text)?;
    }

    #[test]
    fn a_secret_is_never_shown(secret in "[A-Za-z0-9\"'\\\\#{},=]{6,20}", key in "password|db_password|API-KEY|token") {
        let secret = format!("Zq{secret}qZ");
        let text = format!("version = 1\n[[step]]\nid = \"a\"\nuses = \"b\"\n[step.with]\n{key} = \"{secret}\"\nother = nan\n");
        let mistakes = Runbook::parse("prod.toml", &text).unwrap_err();
        let shown = mistakes.render(false);
        prop_assert!(!shown.contains("Zq") && !shown.contains("qZ"), "{}", shown);
    }

    #[test]
    fn pointing_at_any_path_never_panics(path in "\\PC{0,40}", message in "(?s).{0,80}") {
        let runbook = good(FULL);
        prop_assert!(!runbook.point_at("container", &path, &message, None).render(false).is_empty());
        prop_assert!(!runbook.point_at(&path, &path, &message, None).render(false).is_empty());
    }
}
