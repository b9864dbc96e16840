//! A host with an installation of Connect that may be moved.

use crate::Double;
use connect_migrator_connect::installation::Places;
use connect_migrator_container::kind::Kind;
use connect_migrator_container::settings::Settings;
use connect_migrator_container::world::World;
use connect_migrator_sdk::testing::MemoryHost;
use connect_migrator_sdk::{Context, Op, Source};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

pub struct Host {
    pub root: tempfile::TempDir,
    pub engine: Double,
    pub world: World,
    pub source: Source,
    pub daemon: Arc<MemoryHost>,
    pub settings: Value,
}

impl Host {
    /// Everything as it should be: the data on NFS, the unit masked.
    pub async fn new(kind: Kind) -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for dir in ["data/db", "units", "lic", "opt/bin", "proc"] {
            std::fs::create_dir_all(at(dir)).unwrap();
        }
        let engine = Double::start(root.path()).await;
        std::fs::write(at("data/db/secret.key"), "k").unwrap();
        std::fs::write(at("lic/x.lic"), "l").unwrap();
        let data = at("data").canonicalize().unwrap();
        std::fs::write(
            at("mountinfo"),
            format!(
                "1 0 0:1 / / rw - ext4 /dev/vda rw\n2 1 0:2 / {} rw - nfs4 nas:/export rw\n",
                data.display()
            ),
        )
        .unwrap();
        std::fs::write(
            at("c.gcfg"),
            format!(
                "[Server]\nDataDir = {}\n[HTTP]\nListen = 127.0.0.1:1\n[Database]\nProvider = postgres\n\
                 [Postgres]\nURL = postgres://c@db.example.com/c\nPassword = hunter2hunter2\n\
                 [Applications]\nRunAs = nobody\n[Logging]\nServiceLog = STDOUT\nAccessLog = STDOUT\n",
                data.display()
            ),
        )
        .unwrap();
        std::fs::write(at("opt/bin/connect"), "#!/bin/sh\necho 'Posit Connect v2026.03.1'\n").unwrap();
        std::fs::set_permissions(at("opt/bin/connect"), PermissionsExt::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("/dev/null", at("units/rstudio-connect.service")).unwrap();
        let world = World {
            kind,
            places: Places { environment_file: at("default"), unit_dirs: vec![at("units")] },
            folders: at("containers"),
            unit_dir: at("units"),
            licence_dir: at("lic"),
            mountinfo: at("mountinfo"),
            proc: at("proc"),
            etc: at("etc"),
        };
        let settings = json!({
            "image": "h:5000/posit/connect:2026.03.1-ubuntu-24.04-std", "name": "c-1", "hostname": "vm-c",
            "publish": format!("127.0.0.1:{}", engine.port), "run-as-ids": "keep", "socket": engine.socket,
            "start-timeout": "1s", "answer-timeout": "1s", "engine-timeout": "5s", "stop-timeout": "1s",
        });
        let source = Source { config: at("c.gcfg"), install_dir: at("opt"), ..Source::default() };
        Host { root, engine, world, source, daemon: MemoryHost::new(), settings }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn edit_config(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.at("c.gcfg")).unwrap();
        assert!(text.contains(from));
        std::fs::write(self.at("c.gcfg"), text.replace(from, to)).unwrap();
    }

    pub fn settings(&self) -> Settings {
        serde_json::from_value(self.settings.clone()).unwrap()
    }

    pub fn context(&self, op: Op) -> Context {
        self.daemon.context(op, self.root.path(), self.source.clone())
    }

    /// What was written down before it was changed.
    pub fn records<U: DeserializeOwned>(&self) -> Vec<U> {
        self.daemon.told().undo.into_iter().map(|record| serde_json::from_value(record).unwrap()).collect()
    }
}
