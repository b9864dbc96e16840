//! Units over a private D-Bus, with a double of systemd on the other side.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use connect_migrator_units::Systemd;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zbus::OwnedObjectPath;
use zbus::object_server::SignalEmitter;

const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/nginx_2eservice";

/// A bus of its own, gone with this value.
struct Bus {
    daemon: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Bus {
    fn start() -> Bus {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("bus.conf");
        let text = format!(
            "<busconfig><listen>unix:dir={}</listen><auth>EXTERNAL</auth><policy context=\"default\"><allow send_destination=\"*\"/>\
             <allow receive_sender=\"*\"/><allow own=\"*\"/><allow user=\"*\"/></policy></busconfig>",
            dir.path().display()
        );
        std::fs::write(&config, text).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon can be run; else: apt-get install -y dbus-daemon");
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Bus { daemon, address: address.trim().into(), _dir: dir }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

/// The results of jobs that the double tells, in this order, before it answers `ReloadUnit`; the job of the call is number 7.
type Script = Vec<(u32, &'static str)>;

struct Manager {
    script: Script,
    calls: Arc<Mutex<Vec<String>>>,
}

fn job(id: u32) -> OwnedObjectPath {
    format!("/org/freedesktop/systemd1/job/{id}").try_into().unwrap()
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self) {
        self.calls.lock().unwrap().push("Subscribe".into());
    }

    fn load_unit(&self, name: &str) -> OwnedObjectPath {
        self.calls.lock().unwrap().push(format!("LoadUnit {name}"));
        UNIT_PATH.try_into().unwrap()
    }

    async fn reload_unit(
        &self,
        name: &str,
        mode: &str,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        self.calls.lock().unwrap().push(format!("ReloadUnit {name} {mode}"));
        if name == "absent.service" {
            return Err(zbus::fdo::Error::Failed("Unit absent.service not found.".into()));
        }
        // systemd may be done before its answer is read: the signals come first.
        for (id, result) in &self.script {
            Manager::job_removed(&emitter, *id, job(*id), name.into(), (*result).into()).await?;
        }
        Ok(job(7))
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

struct Unit(&'static str);

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn active_state(&self) -> String {
        self.0.into()
    }
}

struct Process(u32);

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl Process {
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> u32 {
        self.0
    }
}

struct Double {
    bus: Bus,
    calls: Arc<Mutex<Vec<String>>>,
    _connection: zbus::Connection,
}

async fn double(script: Script, state: &'static str, pid: u32) -> Double {
    let bus = Bus::start();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let connection = zbus::connection::Builder::address(bus.address.as_str())
        .serve_at("/org/freedesktop/systemd1", Manager { script, calls: Arc::clone(&calls) })
        .serve_at(UNIT_PATH, Unit(state))
        .serve_at(UNIT_PATH, Process(pid))
        .name("org.freedesktop.systemd1")
        .build()
        .await
        .unwrap();
    Double { bus, calls, _connection: connection }
}

const LIMIT: Duration = Duration::from_secs(2);
const NGINX: &str = "nginx.service";

#[tokio::test]
async fn a_job_that_ends_before_its_answer_is_read_is_not_missed() {
    let double = double(vec![(6, "failed"), (7, "done")], "active", 4711).await;
    let systemd = Systemd::on_bus(&double.bus.address);
    systemd.reload(NGINX, LIMIT).await.unwrap();
    assert_eq!(*double.calls.lock().unwrap(), ["Subscribe", "ReloadUnit nginx.service replace"]);
    let status = systemd.status(NGINX).await.unwrap();
    assert!(status.is_active() && !status.is_missing());
    assert_eq!(status.main_pid, 4711);
}

#[tokio::test]
async fn only_done_is_done() {
    for result in ["failed", "canceled", "timeout", "dependency", "skipped"] {
        let double = double(vec![(7, result)], "active", 1).await;
        let error = Systemd::on_bus(&double.bus.address).reload(NGINX, LIMIT).await.unwrap_err();
        assert!(error.to_string().contains(&format!("(`{result}`)")), "{error}");
    }
}

#[tokio::test]
async fn a_job_that_does_not_end_ends_the_wait() {
    let double = double(vec![(8, "done")], "active", 1).await;
    let error = Systemd::on_bus(&double.bus.address).reload(NGINX, LIMIT).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not reload nginx.service: systemd was not done within 2 s; see `systemctl list-jobs`"
    );
}

#[tokio::test]
async fn refusals_and_other_states_are_told() {
    let double = double(Vec::new(), "failed", 0).await;
    let systemd = Systemd::on_bus(&double.bus.address);
    let error = systemd.reload("absent.service", LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("Unit absent.service not found."), "{error}");
    let status = systemd.status(NGINX).await.unwrap();
    assert!(!status.is_active() && status.main_pid == 0);
    assert!(Systemd::on_bus("unix:path=/absent/bus").status(NGINX).await.is_err());
}
