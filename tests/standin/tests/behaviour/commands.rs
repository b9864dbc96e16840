//! The programs as they are called.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_connect-standin");

fn run(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(args)
        .env("STANDIN_VERSION", "2025.09.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn config(dir: &Path, text: &str) -> String {
    let file = dir.join("rstudio-connect.gcfg");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn the_first_line_of_version_is_the_version() {
    let output = run(&["connect", "--version"], "");
    assert!(output.status.success());
    assert_eq!(text(&output.stdout).lines().next(), Some("2025.09.1"));
}

#[test]
fn a_syntax_error_keeps_connect_from_starting_and_names_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), "[Server]\nDataDir = /tmp\n[HTTP\n");
    let output = run(&["connect", "--config", &file], "");
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains(&format!("{file}:3:")), "{}", text(&output.stderr));
}

#[test]
fn a_value_is_encrypted_with_the_secret_key_which_is_made_when_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), &format!("[Server]\nDataDir = {}/data\n", dir.path().display()));
    let output = run(&["rscadmin", "--config", &file, "encrypt-config-value"], "secret-value\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let sealed = text(&output.stdout);
    let key =
        connect_standin::secret::SecretKey::read(&dir.path().join("data/db/secret.key")).unwrap().unwrap();
    assert_eq!(key.decrypt(sealed.lines().last().unwrap()).as_deref(), Some("secret-value"));
}

#[test]
fn migrate_explains_itself_and_refuses_what_it_does_not_know() {
    let help = run(&["migrate", "db", "--help"], "");
    assert!(help.status.success() && text(&help.stdout).contains("-data"));
    assert!(text(&run(&["migrate", "help"], "").stdout).contains("db"));
    assert_eq!(run(&["migrate", "db", "--frobnicate"], "").status.code(), Some(2));
}

#[test]
fn seed_then_violations_prints_content_and_no_violation() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), &format!("[Server]\nDataDir = {}/data\n", dir.path().display()));
    let key = dir.path().join("key");
    std::fs::write(&key, "administrator-key-0001\n").unwrap();
    let output = run(&["seed", "--config", &file, "--admin-key-file", key.to_str().unwrap()], "");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let items: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(items.as_array().unwrap().len(), 12);
    let output = run(&["violations", "--config", &file], "");
    assert_eq!((output.status.code(), text(&output.stdout).trim()), (Some(0), "[]"));
    let log = dir.path().join("data").join(connect_standin::live::VIOLATIONS_LOG);
    let copy = r#"{"id":"a","hostname":"h","boot_id":"b","pid":1,"started":"s"}"#;
    std::fs::write(
        log,
        format!("{{\"time\":\"t\",\"place\":\"data-dir\",\"this\":{copy},\"other\":{copy}}}\n"),
    )
    .unwrap();
    assert_eq!(run(&["violations", "--config", &file], "").status.code(), Some(1));
}

#[test]
fn bulk_serves_buildable_items_from_memory_and_tidies_up_after_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "administrator-key-0001\n").unwrap();
    let mut child = Command::new(PROGRAM)
        .args(["bulk", "--items", "40", "--admin-key-file", key.to_str().unwrap()])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    let request = |path: &str| {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        let head = "Authorization: Key administrator-key-0001\r\nConnection: close";
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let content = request("/__api__/v1/content");
    assert_eq!(content.matches("\"content_url\"").count(), 40);
    assert!(!content.contains("\"bundle_id\":null") && !content.contains("\"app_mode\":\"static\""));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["key"]);
}
