//! A host with podman: the shared double of the API, and one of systemd that reads the unit as far as it guards the start.

use connect_migrator_container::kind::Kind;
use connect_migrator_engine_double::host::Host;
use connect_migrator_engine_double::{Double, Start};
use connect_migrator_podman::ground::{Form, Ground};
use connect_migrator_podman::systemd::{Status, Units};
use connect_migrator_sdk::StepError;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const UNIT: &str = "c-1.service";
/// A number that no process has.
const PID: &str = "999999999";

#[derive(Debug)]
pub struct State {
    pub loaded: bool,
    pub enabled: bool,
    pub active: &'static str,
    pub exit: i32,
    /// Whether podman makes units of `.container` files.
    pub takes_units: bool,
    pub socket: bool,
    pub printed: String,
    pub calls: Vec<String>,
}

#[derive(Clone)]
pub struct FakeSystemd {
    state: Arc<Mutex<State>>,
    engine: Double,
    files: [PathBuf; 2],
    proc: PathBuf,
}

impl FakeSystemd {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn file(&self) -> Option<&Path> {
        self.files.iter().map(PathBuf::as_path).find(|path| path.exists())
    }

    /// A process of the container, as long as the unit is active.
    fn process(&self, lives: bool) {
        let dir = self.proc.join(PID);
        if lives {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("cgroup"), format!("0::/system.slice/{UNIT}/x\n")).unwrap();
        } else if dir.exists() {
            std::fs::remove_dir_all(dir).unwrap();
        }
    }

    fn failed(why: &str) -> StepError {
        StepError::new(format!("start {UNIT}")).because(why).remedy("see `journalctl -u c-1.service`")
    }
}

impl Units for FakeSystemd {
    async fn status(&self, unit: &str) -> Result<Status, StepError> {
        let state = self.state();
        if unit == "podman.socket" {
            let active = if state.socket { "active" } else { "inactive" };
            return Ok(Status { load: "loaded".into(), active: active.into(), ..Status::default() });
        }
        if !state.loaded {
            return Ok(Status { load: "not-found".into(), active: "inactive".into(), ..Status::default() });
        }
        let file = self.file().unwrap_or(Path::new("/theirs")).display().to_string();
        let quadlet = file.ends_with(".container");
        Ok(Status {
            load: "loaded".into(),
            active: state.active.into(),
            file: if quadlet { "/run/systemd/generator/c-1.service".into() } else { file.clone() },
            made_of: if quadlet { file } else { String::new() },
            wanted_by: if quadlet || state.enabled { vec!["multi-user.target".into()] } else { Vec::new() },
            result: "success".into(),
            exit: state.exit,
            ..Status::default()
        })
    }

    async fn start(&self, unit: &str, _: Duration) -> Result<(), StepError> {
        self.state().calls.push(format!("start {unit}"));
        if unit == "podman.socket" {
            self.state().socket = true;
            return Ok(());
        }
        let text = std::fs::read_to_string(self.file().unwrap()).unwrap();
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
        if !Path::new(&value("AssertPathExists=")).exists() {
            return Err(Self::failed("one of its assertions failed (`assert`)"));
        }
        let script = value("ExecStartPre=/bin/sh ");
        let out = Command::new("/bin/sh").arg(script).output().unwrap();
        self.state().printed.push_str(&String::from_utf8_lossy(&out.stderr));
        if !out.status.success() {
            return Err(Self::failed("the job failed (`failed`)"));
        }
        let start = self.engine.state().start.clone();
        match start {
            Start::Refused(message) => {
                self.state().printed.push_str(message);
                self.state().active = "failed";
                Err(Self::failed("the job failed (`failed`)"))
            }
            Start::Exit(code) => {
                let mut state = self.state();
                (state.active, state.exit) = ("failed", i32::try_from(code).unwrap());
                Ok(())
            }
            Start::Silent => {
                self.state().active = "active";
                self.process(true);
                Ok(())
            }
            Start::Serve { version, hostname } => {
                self.state().active = "active";
                self.process(true);
                self.engine.serve(Some((version, hostname)));
                Ok(())
            }
        }
    }

    async fn stop(&self, unit: &str, _: Duration) -> Result<(), StepError> {
        self.state().calls.push(format!("stop {unit}"));
        if unit == "podman.socket" {
            self.state().socket = false;
        } else {
            self.state().active = "inactive";
            self.process(false);
            self.engine.serve(None);
        }
        Ok(())
    }

    async fn reload(&self) -> Result<(), StepError> {
        let there = self.file().is_some();
        let mut state = self.state();
        state.loaded = there && state.takes_units;
        Ok(())
    }

    async fn enable(&self, _: &str) -> Result<(), StepError> {
        self.state().enabled = true;
        Ok(())
    }

    async fn disable(&self, _: &str) -> Result<(), StepError> {
        self.state().enabled = false;
        Ok(())
    }

    async fn last_lines(&self, _: &str) -> Vec<String> {
        self.state().printed.lines().map(str::to_owned).collect()
    }
}

pub struct Lab {
    pub host: Host,
    pub ground: Ground<FakeSystemd>,
}

impl Lab {
    pub async fn new(form: Form) -> Self {
        let host = Host::new(Kind::Podman).await;
        let generator = host.at("podman-system-generator");
        if form == Form::Quadlet {
            std::fs::write(&generator, "").unwrap();
        }
        let state = State {
            loaded: false,
            enabled: false,
            active: "inactive",
            exit: 0,
            takes_units: true,
            socket: false,
            printed: String::new(),
            calls: Vec::new(),
        };
        let systemd = FakeSystemd {
            state: Arc::new(Mutex::new(state)),
            engine: host.engine.clone(),
            files: [host.at("etc/containers/systemd/c-1.container"), host.at("units/c-1.service")],
            proc: host.at("proc"),
        };
        let ground = Ground {
            world: host.world.clone(),
            systemd,
            generators: vec![generator],
            selinux: host.at("selinux"),
            inits: vec![host.at("catatonit")],
            other_inits: vec![host.at("tini-static")],
        };
        std::fs::write(host.at("catatonit"), "").unwrap();
        // Debian's package of podman brings this folder along.
        std::fs::create_dir_all(host.at("etc/containers")).unwrap();
        Lab { host, ground }
    }

    pub fn systemd(&self) -> MutexGuard<'_, State> {
        self.ground.systemd.state()
    }

    /// The server of the double holds the port that the settings publish.
    pub fn with_free_port(&mut self) {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        self.host.settings["publish"] = serde_json::json!(format!("127.0.0.1:{port}"));
    }

    pub fn prints(&self, text: &str) {
        self.systemd().printed.push_str(text);
        self.systemd().printed.push('\n');
    }

    pub fn printed(&self) -> String {
        self.systemd().printed.clone()
    }

    /// Everything has ended, as after a reboot.
    pub fn reboot(&self) {
        self.systemd().active = "inactive";
        self.ground.systemd.process(false);
        self.host.engine.serve(None);
    }

    /// `systemctl start`, by hand or at a boot.
    pub async fn ground_start(&self) -> Result<(), StepError> {
        self.ground.systemd.start(UNIT, Duration::from_secs(1)).await
    }

    /// Everything below the root of the test.
    pub fn files(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut folders = vec![self.host.root.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
                all.push(entry.path().display().to_string());
            }
        }
        all.sort();
        all
    }

    /// A text without what differs from run to run.
    pub fn masked(&self, text: &str) -> String {
        let root = self.host.root.path().display().to_string();
        let port =
            self.host.settings["publish"].as_str().unwrap().trim_start_matches("127.0.0.1:").to_owned();
        text.replace(&root, "ROOT").replace(&port, "PORT")
    }
}
