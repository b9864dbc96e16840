//! `connect-migrator images`, as an administrator calls it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use serde_json::Value;
use std::process::{Command, Output};

const BAKERY: &str = "\
repository: {url: github.com/example/images, vendor: Example, maintainer: images@example.com}
registries: [{host: ghcr.io, namespace: example}]
images:
  - name: connect
    variants:
      - {name: Standard, extension: std, tagDisplayName: std, primary: true}
      - {name: Minimal, extension: min, tagDisplayName: min}
    versions:
      - name: 2026.03.1
        latest: true
        os: [{name: Ubuntu 24.04, primary: true}]
        dependencies: [{dependency: R, version: 4.5.2}, {dependency: python, version: 3.12.13}]
  - name: other
    versions:
      - name: 1.0.0
        os: [{name: Ubuntu 24.04, primary: true}]
";

fn images(bakery: &str, more: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bakery.yaml");
    std::fs::write(&file, bakery).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_connect-migrator"));
    command.args(["images", "--bakery"]).arg(&file).args(more).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_matrix_is_a_table_or_json_with_every_tag_in_every_registry() {
    let table = images(BAKERY, &["--image", "connect"]);
    let printed = text(&table.stdout);
    assert!(table.status.success(), "{}", text(&table.stderr));
    for shown in ["IMAGE", "2026.03.1", "R 4.5.2", "ghcr.io/example/connect:2026.03.1-ubuntu-24.04-std"] {
        assert!(printed.contains(shown), "`{shown}` is not in\n{printed}");
    }
    assert!(!printed.contains("other"), "another image is in\n{printed}");

    let json = images(BAKERY, &["--image", "connect", "--json"]);
    let targets: Value = serde_json::from_slice(&json.stdout).unwrap();
    let targets = targets.as_array().unwrap();
    assert_eq!(targets.len(), 2, "{targets:?}");
    assert_eq!((&targets[0]["image"], &targets[0]["version"]), (&"connect".into(), &"2026.03.1".into()));
    assert!(targets[0].to_string().contains("ghcr.io/example/connect:2026.03.1-ubuntu-24.04-std"));
}

#[test]
fn a_mistake_is_shown_with_its_line_and_a_caret_and_nothing_else_is_printed() {
    let wrong = images(&BAKERY.replace("tagDisplayName: min", "tagDisplyName: min"), &[]);
    let told = text(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(1), "{told}");
    assert!(wrong.stdout.is_empty());
    assert!(told.contains("bakery.yaml:7") && told.contains("tagDisplyName") && told.contains('^'), "{told}");
}

#[test]
fn an_image_that_the_file_has_not_is_named_beside_those_that_it_has() {
    let missing = images(BAKERY, &["--image", "conect"]);
    let told = text(&missing.stderr);
    assert_eq!(missing.status.code(), Some(1), "{told}");
    assert!(told.contains("no image `conect`") && told.contains("connect, other"), "{told}");
}
