//! An installation of the stand-in on SQLite, seeded, with its tools.

use crate::cluster::PASSWORD;
use crate::host::{CREDENTIAL, Call};
use connect_migrator_sdk::{Op, Source};
use connect_standin::runtimes::{Language, Version, install_stub};
use connect_standin::seed::{Seed, plant};
use connect_standin::settings::Settings;
use connect_standin::store::Store;
use connect_standin::tuning::Tuning;
use connect_standin::{Checks, Launch, Server};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The key of the seeded administrator.
const ADMIN: &str = "administrator-key-0001";

/// The installation.
#[derive(Debug)]
pub struct Scene {
    dir: tempfile::TempDir,
    program: PathBuf,
    /// The runbook's settings.
    pub with: Value,
    /// Whether users were sent to the new server.
    pub routed: bool,
}

impl Scene {
    /// Seeds one. `program` is this crate's binary.
    pub async fn new(program: &str, url: &str) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let config = format!(
            "; our server\r\n[Server]\r\nDataDir = \"{0}/data\"   ; local\r\nAddress = http://connect.test\r\n[HTTP]\r\nListen = 127.0.0.1:0\r\n\
             # languages\r\n[Python]\r\nEnabled = true\r\n[Database]\r\nProvider = sqlite ; for now\r\n[Logging]\r\nServiceLog = {0}/service.log\r\nAccessLog = {0}/access.log",
            root.display()
        );
        std::fs::create_dir_all(root.join("opt/bin")).unwrap();
        std::fs::write(root.join("connect.gcfg"), config).unwrap();
        std::fs::set_permissions(root.join("connect.gcfg"), PermissionsExt::from_mode(0o640)).unwrap();
        install_stub(&root.join("opt"), Language::R, Version(4, 5, 2)).unwrap();
        install_stub(&root.join("opt"), Language::Python, Version(3, 12, 4)).unwrap();
        let scene = Scene {
            program: program.into(),
            with: json!({ "url": url, "password": { "credential": CREDENTIAL } }),
            routed: false,
            dir,
        };
        scene.tool("rscadmin", "exec $STANDIN rscadmin \"$@\"");
        scene.tool("migrate", "exec $STANDIN migrate \"$@\"");
        let settings = scene.settings();
        let store = Store::open(&settings).await.unwrap();
        store.claim_secret_key(&settings).await.unwrap();
        let seed = Seed { items: 12, admin_key: Some(ADMIN.into()), files: true, ..Seed::default() };
        plant(&seed, &store, &settings, "debian-12").await.unwrap();
        scene
    }

    /// Writes a tool of the product's: a shell script; `$STANDIN` is the stand-in.
    pub fn tool(&self, name: &str, script: &str) {
        let path = self.path(&format!("opt/bin/{name}"));
        std::fs::write(&path, format!("#!/bin/sh\nSTANDIN={}\n{script}\n", self.program.display())).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// A path in the scene's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of the step's own.
    #[must_use]
    pub fn kept(&self, name: &str) -> PathBuf {
        self.path("state").join(name)
    }

    fn settings(&self) -> Settings {
        Settings::load(&self.path("connect.gcfg")).unwrap()
    }

    /// The configuration's bytes.
    #[must_use]
    pub fn config(&self) -> Vec<u8> {
        std::fs::read(self.path("connect.gcfg")).unwrap()
    }

    /// The SQLite folder: names, bytes.
    #[must_use]
    pub fn sqlite(&self) -> Vec<(String, Vec<u8>)> {
        let mut all: Vec<_> = std::fs::read_dir(self.path("data/db"))
            .unwrap()
            .flatten()
            .map(|e| (e.file_name().to_string_lossy().into_owned(), std::fs::read(e.path()).unwrap()))
            .collect();
        all.sort();
        all
    }

    /// A call of the step.
    #[must_use]
    pub fn call(&self, op: Op) -> Call {
        Call {
            op,
            with: self.with.clone(),
            source: Source {
                config: self.path("connect.gcfg"),
                install_dir: self.path("opt"),
                ..Source::default()
            },
            state_dir: self.path("state"),
            password: PASSWORD.into(),
            routed: self.routed,
            cancelled: false,
        }
    }

    /// Makes a call that must work.
    pub async fn make(&self, op: Op) -> Value {
        self.call(op).make().await.unwrap_or_else(|error| panic!("{op}: {error}"))
    }

    /// Makes a call that must fail; its error.
    pub async fn refuse(&self, op: Op) -> String {
        match self.call(op).make().await {
            Ok(answer) => panic!("{op} worked: {answer}"),
            Err(error) => error,
        }
    }

    /// The findings by their keys.
    pub async fn findings(&self) -> Vec<(String, String, String)> {
        let found = self.make(Op::Check).await;
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        found
            .as_array()
            .unwrap()
            .iter()
            .map(|f| (text(f, "key"), text(f, "severity"), text(f, "text")))
            .collect()
    }

    /// Rolls `apply` and `prepare` back; both answers.
    pub async fn roll_back(&self) -> (Value, Value) {
        let apply = self.call(Op::Rollback).roll_back(Op::Apply).await.unwrap();
        (apply, self.call(Op::Rollback).roll_back(Op::Prepare).await.unwrap())
    }

    /// Starts a call in a process of its own.
    #[must_use]
    pub fn spawn(&self, op: Op) -> std::process::Child {
        let file = self.path("call.json");
        std::fs::write(&file, serde_json::to_vec(&self.call(op)).unwrap()).unwrap();
        std::process::Command::new(&self.program)
            .arg("call")
            .arg(file)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Starts Connect on its configuration, asks it for its content as an administrator, and stops it.
    pub async fn served(&self) -> Value {
        let server = Server::start(Launch {
            settings: self.settings(),
            tuning: Tuning::default(),
            checks: Checks::lenient(),
            version: "2026.03.1".into(),
            distribution: "debian-12".into(),
            interpreters: self.path("opt"),
            store: None,
        })
        .await
        .unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
        let url = format!("http://{}/__api__/v1/content", server.address());
        let answer = client.get(url).header("Authorization", format!("Key {ADMIN}")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let content = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        server.stop().await;
        content
    }
}

/// Whether a text stands in a file below a folder.
#[must_use]
pub fn stands_in(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(stands_in(&entry.path(), text));
        } else if std::fs::read(entry.path())
            .is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
        {
            found.push(entry.path());
        }
    }
    found
}
