//! The command's output and its readers.

#![allow(clippy::unwrap_used, reason = "what goes wrong here is a failed test")]

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
