//! `connect-migrator plugins` with a real library installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod hosted;

use connect_migrator::host::check_trust;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// A tree with one plugin installed. `None`: somebody else than root could write there, and it would rightly not be loaded.
fn installed() -> Option<tempfile::TempDir> {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = root.path().join("usr/lib/connect-migrator/plugins");
    std::fs::create_dir_all(&folder).unwrap();
    for part in folder.ancestors().take_while(|part| part.starts_with(root.path())) {
        hosted::mode(part, 0o755);
    }
    let plugin = folder.join("honest.so");
    std::fs::copy(hosted::built("libconnect_migrator_honest.so", "honest.so"), &plugin).unwrap();
    hosted::mode(&plugin, 0o644);
    match check_trust(&plugin) {
        Ok(()) => Some(root),
        Err(why) => {
            println!("left out: {why}");
            None
        }
    }
}

fn plugins(root: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_connect-migrator"))
        .arg("plugins")
        .args(arguments)
        .env("CONNECT_MIGRATOR_TEST_ROOT", root)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&told).into_owned())
}

#[test]
fn what_is_installed_is_listed_verified_and_shown() {
    let Some(root) = installed() else { return };
    let root = root.path();

    let (code, listed) = plugins(root, &["list", "--json"]);
    assert_eq!(code, Some(0), "{listed}");
    let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
    let named = |name: &str| listed.iter().find(|plugin| plugin["name"] == name).unwrap();
    assert_eq!(named("honest")["abi"], serde_json::json!([1]));
    assert_eq!(named("honest")["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(named("systemd")["file"], "built in");
    let (code, table) = plugins(root, &["list"]);
    assert_eq!(code, Some(0), "{table}");
    assert!(table.contains("honest") && table.contains("plugins verify"), "{table}");

    let (code, verified) = plugins(root, &["verify", "honest"]);
    assert_eq!(code, Some(0), "{verified}");
    for word in ["ok", "honest", "honest/noop", env!("CARGO_PKG_VERSION")] {
        assert!(verified.contains(word), "no {word} in\n{verified}");
    }

    let (code, shown) = plugins(root, &["show", "honest/honest"]);
    assert_eq!(code, Some(0), "{shown}");
    for word in ["Writes a text", "text (string, required)", "uses = \"honest\"", "with = { text = "] {
        assert!(shown.contains(word), "no {word} in\n{shown}");
    }
    let (code, schema) = plugins(root, &["show", "honest", "--json"]);
    assert_eq!(code, Some(0), "{schema}");
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["honest"]["required"], serde_json::json!(["text"]));
}

#[test]
fn a_library_that_is_no_plugin_is_listed_so_and_does_not_verify() {
    let Some(root) = installed() else { return };
    let path = root.path().join("usr/lib/connect-migrator/plugins/other.so");
    std::fs::write(&path, "no library").unwrap();
    hosted::mode(&path, 0o644);
    let (_, listed) = plugins(root.path(), &["list"]);
    let line = listed.lines().find(|line| line.contains("other")).unwrap();
    assert!(line.contains("none"), "{listed}");
    let (code, verified) = plugins(root.path(), &["verify"]);
    assert_eq!(code, Some(1), "{verified}");
    assert!(verified.contains("BROKEN") && verified.contains("honest/noop"), "{verified}");
}
