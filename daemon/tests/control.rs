//! `pause`, `resume` and `rollback` on a machine with a double of systemd, and what a start of the daemon tells systemd.
//!
//! Where a daemon is asked, callers other than root are refused, because there is no polkit: those tests do nothing then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod systemd_double;

use connect_migrator::bus::Bus;
use connect_migrator::engine::{Command as Asked, Reply};
use connect_migrator::instance::Instance;
use connect_migrator::service::Teller;
use connect_migrator::state::{Cause, End, Event, Outline, SqliteStore, Store};
use connect_migrator::systemd::notify::Notify;
use connect_migrator::systemd::units::BusAddress;
use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use systemd_double::world::Unit;
use systemd_double::{Machine, until};
use tokio::process::Command;
use tokio::sync::mpsc;

const UNIT: &str = "connect-migrator@prod.service";
const RUNBOOK: &str = "version = 1\n[[step]]\nid = \"stop\"\nuses = \"systemd/stop\"\n";

/// A machine with a migration that has come so far.
struct Host {
    machine: Machine,
    root: tempfile::TempDir,
    instance: Instance,
}

impl Host {
    async fn with(events: &[Event]) -> Host {
        let machine = Machine::boot().await;
        machine.world(|world| world.add(Unit::named(UNIT)));
        let (root, instance) = migration(events);
        Host { machine, root, instance }
    }

    fn append(&self, event: &Event) {
        SqliteStore::open(&self.instance.state_path()).unwrap().append(event).unwrap();
    }

    fn unit<T>(&self, change: impl FnOnce(&mut Unit) -> T) -> T {
        self.machine.world(|world| change(world.units.get_mut(UNIT).unwrap()))
    }

    /// Runs the command while something else happens.
    async fn run(&self, arguments: &[&str], meanwhile: impl Future<Output = ()>) -> (Option<i32>, String) {
        let mut command = command(self.root.path(), &self.machine.bus.address);
        command.args(arguments);
        let run = async { tokio::time::timeout(Duration::from_secs(60), command.output()).await };
        let (output, ()) = tokio::join!(run, meanwhile);
        let Output { status, stdout, stderr } = output.expect("it did not end").unwrap();
        (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
    }

    async fn started(&self) {
        until("the unit is started", || self.machine.asked().contains(&format!("StartUnit {UNIT}"))).await;
    }
}

fn migration(events: &[Event]) -> (tempfile::TempDir, Instance) {
    let root = tempfile::tempdir().unwrap();
    let instance = Instance::below(root.path(), "prod").unwrap();
    std::fs::create_dir_all(instance.state_dir()).unwrap();
    let started = Event::Started {
        migration: "m".into(),
        instance: "prod".into(),
        runbook: RUNBOOK.into(),
        runbook_digest: String::new(),
        plugins: BTreeMap::new(),
        version: "0".into(),
        outline: Outline::default(),
    };
    let store = SqliteStore::open(&instance.state_path()).unwrap();
    store.append(&started).unwrap();
    events.iter().for_each(|event| drop(store.append(event).unwrap()));
    (root, instance)
}

fn command(root: &std::path::Path, bus: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_connect-migrator"));
    command.env("CONNECT_MIGRATOR_TEST_ROOT", root).env("DBUS_SYSTEM_BUS_ADDRESS", bus);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn rollback_decided() -> Event {
    let why = "an operator asked for it".into();
    Event::RollbackDecided { cause: Cause { step: None, op: None, why, remedy: String::new() } }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_was_done_before_systemd_saw_the_unit_run_is_no_failure() {
    let host = Host::with(&[Event::Parked]).await;
    host.unit(|unit| {
        unit.behaviour.result = "failed".into();
        unit.behaviour.takes = Duration::from_millis(500);
    });
    let daemon = async {
        host.started().await;
        host.append(&Event::Closed { end: End::RolledBack { left: vec![] } });
    };
    let (code, told) = host.run(&["rollback", "prod", "--yes"], daemon).await;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("rolled back"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_cannot_be_started_is_a_failure_and_stays_decided() {
    let host = Host::with(&[Event::Parked]).await;
    host.unit(|unit| unit.behaviour.result = "failed".into());
    let (code, told) = host.run(&["rollback", "prod", "--yes"], async {}).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("the decision is written down, but"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_comes_to_a_standstill_is_not_waited_for_for_ever() {
    let host = Host::with(&[Event::Parked]).await;
    let dies = async {
        host.started().await;
        until("it runs", || host.unit(|unit| unit.is_running())).await;
        // The command has seen it run by then.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        host.unit(|unit| {
            unit.active = "failed".into();
            unit.result = "start-limit-hit".into();
        });
    };
    let (code, told) = host.run(&["rollback", "prod", "--yes"], dies).await;
    assert_eq!(code, Some(5), "{told}");
    assert!(told.contains("start-limit-hit") && told.contains("systemctl reset-failed"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_reaches_a_daemon_that_is_only_starting_and_a_resume_takes_it_back() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let host = Host::with(&[]).await;
    host.unit(|unit| unit.active = "activating".into());
    let (send, mut receive) = mpsc::channel::<(Asked, Reply)>(8);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Some((command, reply)) = receive.recv().await {
            taken.lock().unwrap().push(command);
            let _: Result<(), _> = reply.send(Ok("it will be done".into()));
        }
    });
    let bus = Mutex::new(None);
    let comes = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let teller = Arc::new(Teller::new("prod", Notify::from_environment()));
        let address = BusAddress::At(host.machine.bus.address.clone());
        let served = Bus::serve(address, &host.instance, send, teller).await.unwrap();
        *bus.lock().unwrap() = Some(served);
    };
    let (code, told) = host.run(&["pause", "prod"], comes).await;
    assert_eq!((code, told.contains("it will be done")), (Some(0), true), "{told}");
    host.unit(|unit| unit.active = "active".into());
    let (code, told) = host.run(&["resume", "prod"], async {}).await;
    assert_eq!((code, told.contains("it will be done")), (Some(0), true), "{told}");
    assert_eq!(*asked.lock().unwrap(), [Asked::Park, Asked::Resume]);
    assert!(!host.machine.asked().contains(&format!("StartUnit {UNIT}")), "the unit runs already");
}

/// The run ends while the command waits for its daemon.
async fn run_that_ends_meanwhile(command: &[&str], events: &[Event]) -> (Option<i32>, String) {
    let host = Host::with(&[]).await;
    host.unit(|unit| unit.active = "activating".into());
    let ends = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        events.iter().for_each(|event| host.append(event));
        host.unit(|unit| unit.active = "inactive".into());
    };
    let (code, told) = host.run(command, ends).await;
    assert!(!host.machine.asked().contains(&format!("StartUnit {UNIT}")), "another migration began: {told}");
    (code, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_comes_too_late_does_not_begin_another_migration() {
    let rolled_back = [rollback_decided(), Event::Closed { end: End::RolledBack { left: vec![] } }];
    let (code, told) = run_that_ends_meanwhile(&["rollback", "prod", "--yes"], &rolled_back).await;
    assert!(code == Some(0) && told.contains("rolled back"), "{told}");
    let (code, told) = run_that_ends_meanwhile(&["resume", "prod"], &rolled_back).await;
    assert!(code == Some(3) && told.contains("rolled back"), "{told}");
    let blocked = [Event::Closed { end: End::Blocked }];
    let (code, told) = run_that_ends_meanwhile(&["rollback", "prod", "--yes"], &blocked).await;
    assert!(code == Some(1) && told.contains("has just ended"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_starts_the_unit_of_a_parked_run() {
    let host = Host::with(&[Event::Parked]).await;
    let (code, told) = host.run(&["resume", "prod"], async {}).await;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("The checks come first") && told.contains("prod goes on"), "{told}");
    assert!(host.machine.asked().contains(&format!("StartUnit {UNIT}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_only_rolls_back_a_run_parked_in_check_is_ready_first() {
    let (root, _) = migration(&[Event::Parked, rollback_decided()]);
    let socket = root.path().join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut daemon = command(root.path(), "unix:path=/nonexistent");
    daemon.args(["daemon", "prod", "--steps-run-as=children"]).env("NOTIFY_SOCKET", &socket);
    // The runbook is not there: what was decided needs none.
    let output = daemon.output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{told}");
    systemd.set_nonblocking(true).unwrap();
    let mut messages = String::new();
    let mut buffer = [0; 4096];
    while let Ok(read) = systemd.recv(&mut buffer) {
        messages.push_str(&String::from_utf8_lossy(&buffer[..read]));
        messages.push('\n');
    }
    assert!(messages.contains("READY=1"), "{messages}");
}
