//! What the tests of the step host share: plugins in a folder of their own, and a listener that remembers.
#![allow(dead_code, reason = "each test binary uses a part")]

use connect_migrator::host::{
    CallFailure, CallRequest, ChildLauncher, HostLimits, Launcher, Listener, PluginRef, Trust, call,
};
use connect_migrator_sdk::{Invocation, LogLevel, Migration, Op, Progress, Secret, Source};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Where plugins lie that the tests load. Only this folder and what is below it is looked at.
fn plugins_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins")
}

fn put(from: &Path, name: &str) -> PathBuf {
    let dir = plugins_dir();
    std::fs::create_dir_all(&dir).unwrap();
    mode(&dir, 0o755);
    let path = dir.join(name);
    // Beside it and renamed: another test may have it loaded.
    let part = dir.join(format!("{name}.{}.{:?}", std::process::id(), std::thread::current().id()));
    std::fs::copy(from, &part).unwrap();
    mode(&part, 0o644);
    std::fs::rename(&part, &path).unwrap();
    path
}

pub fn mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The library of a plugin crate that is a dev-dependency: cargo has built it beside this test's own executable.
pub fn built(file: &str, name: &str) -> PathBuf {
    let from = std::env::current_exe().unwrap().with_file_name(file);
    assert!(from.exists(), "{} is built as a dev-dependency of these tests", from.display());
    put(&from, name)
}

pub fn hostile() -> PluginRef {
    PluginRef::File(built("libconnect_migrator_hostile.so", "hostile.so"))
}

pub fn honest() -> PluginRef {
    PluginRef::File(built("libconnect_migrator_honest.so", "honest.so"))
}

/// The plugin in C, with `defines` (as `MAJOR=2`).
pub fn in_c(name: &str, defines: &[&str]) -> PluginRef {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk/tests/c_plugin/plugin.c");
    let built = tempfile::tempdir().unwrap();
    let library = built.path().join(name);
    let output = Command::new("cc")
        .args(["-Wall", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .args(defines.iter().map(|define| format!("-D{define}")))
        .arg(source)
        .output()
        .expect("cc is needed for this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PluginRef::File(put(&library, name))
}

pub fn trust() -> Trust {
    Trust::in_a_test(nix::unistd::getuid().as_raw(), &plugins_dir())
}

/// Graces that a test can wait for.
pub fn limits() -> HostLimits {
    HostLimits {
        cancel_grace: Duration::from_millis(300),
        terminate_grace: Duration::from_millis(300),
        ..HostLimits::default()
    }
}

pub fn launcher() -> ChildLauncher {
    ChildLauncher::default()
        .program(Path::new(env!("CARGO_BIN_EXE_connect-migrator")))
        .with_limits(limits())
        .trusting(trust())
}

pub fn invocation(uses: &str, op: Op, config: Value, state_dir: &Path) -> Invocation {
    Invocation {
        step: "box".into(),
        uses: uses.into(),
        op,
        of: None,
        attempt: 1,
        config,
        migration: Migration { id: "m".into(), instance: "test".into() },
        source: Source::default(),
        state_dir: state_dir.into(),
        facts: Map::new(),
        routed: None,
        checkpoint: None,
        undo: Vec::new(),
    }
}

/// Remembers what it is told.
#[derive(Default)]
pub struct Ear {
    pub log: Mutex<Vec<(LogLevel, String)>>,
    pub progress: Mutex<Vec<Progress>>,
    pub undo: Mutex<Vec<Value>>,
    pub checkpoints: Mutex<Vec<Value>>,
}

impl Ear {
    pub fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().iter().map(|(_, message)| message.clone()).collect()
    }
}

impl Listener for Ear {
    fn log(&self, level: LogLevel, message: &str) {
        self.log.lock().unwrap().push((level, message.into()));
    }
    fn progress(&self, progress: Progress) {
        self.progress.lock().unwrap().push(progress);
    }
    fn record_undo(&self, data: Value) -> Result<(), String> {
        self.undo.lock().unwrap().push(data);
        Ok(())
    }
    fn checkpoint(&self, data: Value) -> Result<(), String> {
        self.checkpoints.lock().unwrap().push(data);
        Ok(())
    }
    fn secret(&self, credential: &str) -> Result<Secret, String> {
        match credential {
            "key" => Ok(Secret::new("12345".into())),
            other => Err(format!("no credential `{other}` is stored")),
        }
    }
}

/// One call with what it told.
pub async fn told(
    launcher: &dyn Launcher,
    plugin: &PluginRef,
    invocation: Invocation,
    timeout: Duration,
    cancel: CancellationToken,
) -> (Result<Value, CallFailure>, Arc<Ear>) {
    let ear = Arc::new(Ear::default());
    let request = CallRequest::new(plugin.clone(), invocation, timeout);
    let result = call(launcher, request, Arc::clone(&ear) as _, cancel).await;
    (result, ear)
}

/// Waits for a condition.
pub async fn until(within: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + within;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it did not come to be within {within:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a file that a step rewrites every millisecond has not been rewritten for a while.
pub async fn stands_still(path: &Path) {
    let mut last = (std::time::Instant::now(), Vec::new());
    until(Duration::from_secs(5), || {
        let now = std::fs::read(path).unwrap_or_default();
        if now != last.1 {
            last = (std::time::Instant::now(), now);
        }
        last.0.elapsed() > Duration::from_millis(300)
    })
    .await;
}

/// What a step host says that is started with these words and asked to describe its plugin.
pub fn ask_by_hand(words: &[&str]) -> String {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.write_all(b"{\"type\":\"describe\"}\n").unwrap();
    let mut host = Command::new(env!("CARGO_BIN_EXE_connect-migrator"));
    host.arg("step-host").args(words).stdin(OwnedFd::from(theirs));
    let mut child = host.spawn().unwrap();
    drop(host);
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut said = String::new();
    ours.read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    said
}
