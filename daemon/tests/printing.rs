//! The command's output and its readers.

#![allow(clippy::unwrap_used, reason = "what goes wrong here is a failed test")]

use connect_migrator::state::{SqliteStore, Store};
use std::process::{Command, Stdio};

#[test]
fn a_reader_who_has_gone_does_not_change_how_a_command_ends() {
    let status = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_connect-migrator"));
        command.args(["status", "never-begun"]).stderr(Stdio::piped());
        command
    };
    let read = status().output().unwrap();
    assert!(!read.stdout.is_empty(), "it prints nothing: {}", String::from_utf8_lossy(&read.stderr));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let unread = status().stdout(writer).spawn().unwrap().wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&unread.stderr);
    assert_eq!((unread.status, told.as_ref()), (read.status, ""));
}

#[test]
fn nobody_who_reads_errors_does_not_change_how_a_command_ends() {
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_connect-migrator"));
        command.args(["check", "no instance of this name"]).stdout(Stdio::null());
        command
    };
    let read = check().output().unwrap();
    assert!(!read.stderr.is_empty());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let unread = check().stderr(writer).status().unwrap();
    assert_eq!(unread, read.status);
}

#[test]
fn what_cannot_be_written_is_told_by_a_command_that_only_shows() {
    let root = tempfile::tempdir().unwrap();
    let state = root.path().join("var/lib/connect-migrator/prod");
    std::fs::create_dir_all(&state).unwrap();
    let store = SqliteStore::open(&state.join("state.db")).unwrap();
    let started = serde_json::json!({"event": "started", "migration": "m", "instance": "prod", "runbook": "", "runbook_digest": "",
        "plugins": {}, "version": "0", "outline": {"steps": [], "program": []}});
    store.append(&serde_json::from_value(started).unwrap()).unwrap();
    let show = |arguments: &[&str], out: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_connect-migrator"));
        command.args(arguments).env("CONNECT_MIGRATOR_TEST_ROOT", root.path());
        command.stdout(out).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
    };
    for arguments in [
        ["status", "prod", "--follow"].as_slice(),
        &["status", "prod", "--json"],
        &["status", "prod"],
        &["status", "never-begun"],
        &["report", "prod", "--json"],
        &["report", "prod", "--output", "-"],
    ] {
        let full = show(arguments, std::fs::File::options().write(true).open("/dev/full").unwrap().into());
        let told = String::from_utf8_lossy(&full.stderr);
        let is_told = full.status.code() == Some(1) && told.contains("could not write");
        assert!(is_told, "{arguments:?}: {}: {told}", full.status);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert!(show(arguments, writer.into()).status.success(), "{arguments:?}");
    }
}
