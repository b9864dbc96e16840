//! Steps in transient units: the same bounds as for children, and what becomes of a call when the daemon is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod hosted;
// Not by its crate: that and the daemon would bring two plugins into one program.
#[path = "../../tests/hostile/src/misdeed.rs"]
mod misdeed;
mod systemd_double;

use connect_migrator::engine::{Called, Caller, PlannedStep, RealEnd};
use connect_migrator::host::{HostLimits, SurvivorError, TransientLauncher};
use connect_migrator::service::HostCaller;
use connect_migrator::state::Failure;
use connect_migrator::systemd::cgroup::Cgroups;
use connect_migrator::systemd::processes::Processes;
use connect_migrator::systemd::units::{BusAddress, Units};
use connect_migrator_sdk::{Invocation, Needs, Op, StepInfo};
use hosted::{Ear, hostile, invocation, launcher, limits, told};
use misdeed::Misdeed;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use systemd_double::world::Unit;
use systemd_double::{Machine, until};
use tokio_util::sync::CancellationToken;

const TIMEOUT: Duration = Duration::from_secs(20);

/// How long a call waits in these tests for a daemon that is back.
const REJOIN: Duration = Duration::from_secs(2);

async fn units(address: &str, folder: &Path) -> Units {
    let cgroups = Cgroups::at(&folder.join("cgroup"), Processes::at(&folder.join("proc")));
    Units::connect(BusAddress::At(address.into()), cgroups).await.unwrap()
}

async fn transient(address: &str, folder: &Path) -> TransientLauncher {
    let units = units(address, folder).await;
    TransientLauncher::new(Arc::new(units), "prod", &folder.join("program"))
        .with_limits(HostLimits { rejoin: REJOIN, ..limits() })
        .in_a_test(
            Path::new(env!("CARGO_BIN_EXE_connect-migrator")),
            &folder.join("runtime"),
            hosted::trust(),
        )
}

fn apply(misdeed: Misdeed, folder: &Path) -> Invocation {
    invocation("hostile", Op::Apply, json!({"misdeed": misdeed}), folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fatal_misdeed_in_a_unit_fails_as_in_a_child() {
    let machine = Machine::boot().await;
    let units = transient(&machine.bus.address, machine.folder()).await;
    for misdeed in Misdeed::FATAL {
        let timeout = match misdeed {
            Misdeed::Wait | Misdeed::Hang | Misdeed::HangHard => Duration::from_millis(1500),
            _ => TIMEOUT,
        };
        let mut texts = Vec::new();
        for launcher in [&launcher() as &dyn connect_migrator::host::Launcher, &units] {
            let folder = tempfile::tempdir().unwrap();
            let call = apply(*misdeed, folder.path());
            let (result, ear) = told(launcher, &hostile(), call, timeout, CancellationToken::new()).await;
            let failure = result.map(|value| panic!("{misdeed:?} answered {value}")).unwrap_err();
            texts.push((failure.to_string(), ear.undo.lock().unwrap().clone()));
        }
        assert_eq!(texts[1], texts[0], "{misdeed:?}");
    }
    let left = machine.world(|world| world.units.keys().filter(|name| name.contains("-step-")).count());
    assert_eq!(left, 0, "units are left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_call_can_survive_it_survives_in_a_unit() {
    let machine = Machine::boot().await;
    let units = transient(&machine.bus.address, machine.folder()).await;
    for misdeed in Misdeed::SURVIVED {
        let folder = tempfile::tempdir().unwrap();
        let call = apply(*misdeed, folder.path());
        let (result, _) = told(&units, &hostile(), call, TIMEOUT, CancellationToken::new()).await;
        let value = result.unwrap_or_else(|failure| panic!("{misdeed:?}: {failure}"));
        assert_eq!(value["done"], "changed", "{misdeed:?}");
    }
}

fn step() -> PlannedStep {
    PlannedStep {
        id: "box".into(),
        plugin: hostile(),
        info: StepInfo::new("hostile", "Misbehaves").needs(Needs::nothing().network()),
        config: Value::Null,
        credentials: Default::default(),
        allow: vec![],
    }
}

/// Those that came after systemd 239.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_systemd_is_asked_without_what_it_does_not_know() {
    let machine = Machine::boot().await;
    let unknown = ["ProtectClock", "ProtectHostname", "ProtectKernelLogs"];
    machine.world(|world| world.unknown_properties = unknown.to_vec());
    let units = transient(&machine.bus.address, machine.folder()).await;
    let mut asked = Vec::new();
    for _ in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let call = apply(Misdeed::SURVIVED[0], folder.path());
        let (result, _) = told(&units, &hostile(), call, TIMEOUT, CancellationToken::new()).await;
        result.unwrap();
        let starts = |asked: &String| asked.starts_with("StartTransientUnit");
        asked.push(machine.world(|world| world.asked.iter().filter(|asked| starts(asked)).count()));
    }
    // Three refusals, then it is known.
    assert_eq!(asked, [4, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_systemd_that_cannot_do_what_a_step_relies_on_starts_none() {
    let machine = Machine::boot().await;
    machine.world(|world| world.unknown_properties = vec!["ExecStart"]);
    let units = transient(&machine.bus.address, machine.folder()).await;
    let folder = tempfile::tempdir().unwrap();
    let call = apply(Misdeed::SURVIVED[0], folder.path());
    let (result, _) = told(&units, &hostile(), call, TIMEOUT, CancellationToken::new()).await;
    assert!(result.unwrap_err().to_string().contains("ExecStart"));
}

const NUMBER: u64 = 17;
const UNIT: &str = "connect-migrator-step-prod.17.service";

fn called(misdeed: Misdeed, folder: &Path) -> Called {
    Called { number: Some(NUMBER), invocation: apply(misdeed, folder), timeout: TIMEOUT, next: Vec::new() }
}

/// What the daemon that is killed is told.
const ADDRESS: &str = "TRANSIENT_STEPS_BUS";
const FOLDER: &str = "TRANSIENT_STEPS_FOLDER";
const MISDEED: &str = "TRANSIENT_STEPS_MISDEED";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the daemon that other tests kill; it does nothing by itself"]
async fn acts_as_a_daemon() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let misdeed = serde_json::from_str(&std::env::var(MISDEED).unwrap()).unwrap();
    let launcher = Arc::new(transient(&address, &folder).await);
    let caller = HostCaller::surviving(&folder.join("calls"), launcher);
    let call = called(misdeed, &folder.join("state"));
    let result = caller.call(&step(), call, Arc::new(Ear::default()), CancellationToken::new()).await;
    panic!("the daemon was not killed: {result:?}");
}

/// A machine on which a daemon has begun a call.
struct Begun {
    machine: Machine,
    daemon: Child,
    misdeed: Misdeed,
}

impl Begun {
    async fn with(misdeed: Misdeed) -> Begun {
        let machine = Machine::boot().await;
        let state = machine.folder().join("state");
        std::fs::create_dir(&state).unwrap();
        let daemon = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "acts_as_a_daemon", "--ignored"])
            .env(ADDRESS, &machine.bus.address)
            .env(FOLDER, machine.folder())
            .env(MISDEED, serde_json::to_string(&misdeed).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Begun { machine, daemon, misdeed };
        until("the call has begun", || begun.has("begun") || begun.has("beat")).await;
        begun
    }

    fn state(&self) -> PathBuf {
        self.machine.folder().join("state")
    }

    fn has(&self, file: &str) -> bool {
        self.state().join(file).exists()
    }

    fn go(&self) {
        std::fs::write(self.state().join("go"), "").unwrap();
    }

    /// SIGKILL: no handler, no destructor.
    fn kill_daemon(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    fn unit_runs(&self) -> bool {
        self.machine.world(|world| world.units.get(UNIT).is_some_and(|unit| unit.is_running()))
    }

    /// As a daemon that is back.
    async fn learn(&self, cancel: CancellationToken) -> (Result<RealEnd, String>, Arc<Ear>) {
        let launcher = Arc::new(transient(&self.machine.bus.address, self.machine.folder()).await);
        launcher.clear(Some(NUMBER)).await.unwrap();
        let caller = HostCaller::surviving(&self.machine.folder().join("calls"), launcher);
        let ear = Arc::new(Ear::default());
        let call = called(self.misdeed, &self.state());
        let end = caller.await_end(&step(), call, Arc::clone(&ear) as _, cancel).await;
        (end, ear)
    }
}

fn done(end: Result<RealEnd, String>) {
    let answer = end.unwrap().expect("the outcome is learnt").unwrap();
    assert_eq!(answer["done"], "changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_ends_while_no_daemon_runs_leaves_how_it_ended() {
    let mut begun = Begun::with(Misdeed::WorksAlone).await;
    begun.kill_daemon();
    begun.go();
    until("the unit has ended", || !begun.unit_runs()).await;
    assert!(begun.has("done"));
    let (end, ear) = begun.learn(CancellationToken::new()).await;
    done(end);
    assert!(ear.undo.lock().unwrap().is_empty(), "all of it was recorded by the first daemon");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_back_takes_part_in_a_call_that_runs() {
    let mut begun = Begun::with(Misdeed::WorksAlone).await;
    begun.kill_daemon();
    let go = begun.state().join("go");
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        std::fs::write(go, "").unwrap();
    });
    let (end, ear) = begun.learn(CancellationToken::new()).await;
    done(end);
    assert_eq!(ear.lines()[0], "went on while no daemon ran; it is waited for");
    assert!(!begun.unit_runs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_call_records_waits_for_a_daemon_that_is_back() {
    let mut begun = Begun::with(Misdeed::RecordsLater).await;
    begun.kill_daemon();
    begun.go();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!begun.has("done"), "it changed something that nobody has written down");
    let (end, ear) = begun.learn(CancellationToken::new()).await;
    done(end);
    assert_eq!(*ear.undo.lock().unwrap(), [json!("done")]);
    assert_eq!(*ear.checkpoints.lock().unwrap(), [json!("done")]);
    assert!(begun.has("done"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_must_record_and_finds_no_daemon_ends_without_changing_more() {
    let mut begun = Begun::with(Misdeed::RecordsLater).await;
    begun.kill_daemon();
    begun.go();
    until("the unit has ended", || !begun.unit_runs()).await;
    assert!(!begun.has("done"), "it changed something that nobody has written down");
    let (end, _) = begun.learn(CancellationToken::new()).await;
    assert_eq!(end, Ok(None), "the world has to be looked at");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_went_on_ends_when_it_is_asked_to_or_else_is_killed() {
    for (misdeed, expected) in [(Misdeed::WorksAlone, true), (Misdeed::BeatsForEver, false)] {
        let mut begun = Begun::with(misdeed).await;
        begun.kill_daemon();
        let cancel = CancellationToken::new();
        cancel.cancel();
        let started = Instant::now();
        let (end, _) = begun.learn(cancel).await;
        let Failure { cancelled, why, .. } = end.unwrap().expect("it is known").unwrap_err();
        assert!(cancelled, "{why}");
        assert_eq!(why.contains("it was asked to stop"), expected, "{why}");
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(!begun.unit_runs());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_other_unit_of_the_instance_is_ended_before_anything_else_is_done() {
    let mut begun = Begun::with(Misdeed::BeatsForEver).await;
    begun.kill_daemon();
    let launcher = transient(&begun.machine.bus.address, begun.machine.folder()).await;
    launcher.clear(Some(NUMBER)).await.unwrap();
    assert!(begun.unit_runs(), "the one that is waited for is not ended");
    launcher.clear(None).await.unwrap();
    assert!(!begun.unit_runs());
    hosted::stands_still(&begun.state().join("beat")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_reads_and_does_not_end_is_in_nobodys_way_and_what_changes_things_is() {
    let mut machine = Machine::boot().await;
    let launcher = transient(&machine.bus.address, machine.folder()).await;
    let units = units(&machine.bus.address, machine.folder()).await;
    // Without a process that a signal would end.
    let hangs = async |name: &str| {
        let unit = Unit { active: "active".into(), sub: "running".into(), ..Unit::named(name) };
        machine.world(|world| world.add(unit));
        units.status(name).await.unwrap();
    };
    let reader = "connect-migrator-step-prod.r77-0.service";
    hangs(reader).await;
    assert_eq!(launcher.clear(None).await.unwrap(), [reader]);
    hangs("connect-migrator-step-prod.7.service").await;
    let error = launcher.clear(None).await.unwrap_err();
    assert!(matches!(&error, SurvivorError::StillRuns(unit) if unit.contains(".7.")), "{error}");
    machine.lose_bus().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_systemd_it_is_not_guessed_whether_a_call_runs() {
    let mut begun = Begun::with(Misdeed::WorksAlone).await;
    begun.kill_daemon();
    let child = HostCaller::new(Arc::new(launcher())).finding(&begun.machine.folder().join("calls"), None);
    let call = called(begun.misdeed, &begun.state());
    let end = child.await_end(&step(), call, Arc::new(Ear::default()), CancellationToken::new()).await;
    assert!(end.unwrap_err().starts_with("could not ask systemd whether apply of step `box` still runs"));
    begun.go();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_call_kills_its_unit() {
    let mut machine = Machine::boot().await;
    let launcher = transient(&machine.bus.address, machine.folder()).await;
    let folder = tempfile::tempdir().unwrap();
    // No number: as a round of the soak.
    let caller = HostCaller::surviving(&machine.folder().join("calls"), Arc::new(launcher));
    let call = Called { number: None, ..called(Misdeed::BeatsForEver, folder.path()) };
    let beat = folder.path().join("beat");
    let running = tokio::spawn(async move {
        caller.call(&step(), call, Arc::new(Ear::default()), CancellationToken::new()).await
    });
    hosted::until(Duration::from_secs(10), || beat.exists()).await;
    running.abort();
    hosted::stands_still(&beat).await;
    machine.lose_bus().await;
}
