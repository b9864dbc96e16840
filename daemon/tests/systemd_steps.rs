//! The built-in steps, on a private bus with a double of systemd.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what goes wrong here is a failed test"
)]

mod systemd_double;

use connect_migrator::systemd::steps::{Span, Start, Stop, start, stop};
use connect_migrator_sdk::testing::MemoryHost;
use connect_migrator_sdk::{
    Context, Done, Finding, Op, Role, Severity, Source, Step, StepError, Undone, Verdict,
};
use start::StartConfig;
use std::sync::Arc;
use std::time::Duration;
use stop::{StopConfig, StopUndo};
use systemd_double::world::Unit;
use systemd_double::{MAIN_PID, Machine, UNIT, until, web};

const CONNECT: &str = "/opt/rstudio-connect/bin/connect";

struct Scene {
    machine: Machine,
    host: Arc<MemoryHost>,
    config: StopConfig,
}

impl Scene {
    /// A Connect whose `/__ping__` answers like this.
    async fn with_answer(answer: &'static str) -> Scene {
        let machine = Machine::boot().await;
        let port = web::serve(&machine, answer).await;
        let gcfg = format!("[HTTP]\nListen = 127.0.0.1:{port}\n");
        std::fs::write(machine.folder().join("rstudio-connect.gcfg"), gcfg).unwrap();
        let config = StopConfig {
            leftover_timeout: Span(Duration::from_millis(300)),
            ping_timeout: Span(Duration::from_millis(1500)),
            ..StopConfig::default()
        };
        Scene { machine, host: MemoryHost::new(), config }
    }

    async fn new() -> Scene {
        Scene::with_answer("200 OK").await
    }

    fn cx(&self, op: Op) -> Context {
        let config = self.machine.folder().join("rstudio-connect.gcfg");
        self.host.context(op, self.machine.folder(), Source { config, ..Source::default() })
    }

    async fn check(&self) -> Vec<Finding> {
        stop::check(&self.machine.ground(), &self.config, &self.cx(Op::Check)).await.unwrap()
    }

    async fn apply(&self) -> Result<connect_migrator_sdk::Outcome, StepError> {
        stop::apply(&self.machine.ground(), &self.config, &self.cx(Op::Apply)).await
    }

    async fn prepare(&self) -> connect_migrator_sdk::Outcome {
        stop::prepare(&self.machine.ground(), &self.config, &self.cx(Op::Prepare)).await.unwrap()
    }

    /// Undoes `prepare`.
    async fn unprepare(&self) {
        let undo = self.undo().into_iter().filter(|undo| matches!(undo, StopUndo::Guarded { .. })).collect();
        let cx = self.cx(Op::Rollback);
        let undone =
            stop::rollback(&self.machine.ground(), &self.config, &cx, Op::Prepare, undo).await.unwrap();
        assert!(undone.left.is_empty());
    }

    fn drop_ins(&self) -> Vec<std::path::PathBuf> {
        self.machine.unit(|unit| unit.drop_ins.clone())
    }

    async fn verify(&self) -> Verdict {
        stop::verify(&self.machine.ground(), &self.config, &self.cx(Op::Verify)).await.unwrap()
    }

    fn undo(&self) -> Vec<StopUndo> {
        self.host.told().undo.into_iter().map(|record| serde_json::from_value(record).unwrap()).collect()
    }

    async fn rollback(&self) -> Result<Undone, StepError> {
        stop::rollback(&self.machine.ground(), &self.config, &self.cx(Op::Rollback), Op::Apply, self.undo())
            .await
    }

    fn serves_as_before(&self) -> bool {
        self.machine.unit(|unit| unit.is_running() && unit.enabled && !unit.mask_on_disk && !unit.mask_loaded)
    }
}

fn keys(findings: &[Finding], severity: Severity) -> Vec<&str> {
    findings.iter().filter(|f| f.severity == severity).map(|f| f.key.as_str()).collect()
}

#[test]
fn the_roles_are_those_that_the_order_of_a_runbook_rests_on() {
    assert_eq!(Stop::info().role, Role::StopsSource);
    assert_eq!(Stop::info().name, "stop");
    assert_eq!(Start::info().role, Role::Other);
    assert_eq!(Start::info().name, "start");
}

#[test]
fn settings_are_written_as_in_the_rest_of_the_runbook() {
    let read = |value| serde_json::from_value::<StopConfig>(value);
    let config = read(serde_json::json!({ "timeout": "1h30m", "ping-timeout": "90s" })).unwrap();
    assert_eq!((config.timeout.0.as_secs(), config.ping_timeout.0.as_secs()), (5400, 90));
    assert_eq!(read(serde_json::json!({})).unwrap(), StopConfig::default());
    for wrong in [
        serde_json::json!({ "timeout": 5 }),
        serde_json::json!({ "timeout": "5" }),
        serde_json::json!({ "timeout": "0s" }),
        serde_json::json!({ "time-out": "5m" }),
    ] {
        assert!(read(wrong.clone()).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn the_check_of_a_serving_connect_finds_no_blocker_and_changes_nothing() {
    let scene = Scene::new().await;
    let findings = scene.check().await;
    assert_eq!(keys(&findings, Severity::Blocker), [""; 0]);
    assert_eq!(keys(&findings, Severity::Warning), [""; 0]);
    assert!(keys(&findings, Severity::Ok).contains(&"unit-can-be-masked"));
    assert!(scene.machine.asked().is_empty());
    assert!(scene.host.told().undo.is_empty());
}

#[tokio::test]
async fn each_broken_prerequisite_is_a_blocker_of_its_own_with_a_remedy() {
    type Break = fn(&mut Unit);
    let cases: [(&str, Break); 8] = [
        ("unit-masked", |unit| (unit.mask_on_disk, unit.mask_loaded) = (true, true)),
        ("unit-masked", |unit| unit.mask_on_disk = true),
        ("unit-not-found", |unit| unit.loaded = false),
        ("unit-is-alias", |unit| unit.id = "posit-connect.service".into()),
        ("unit-not-active", |unit| unit.active = "failed".into()),
        ("unit-cannot-be-masked", |unit| unit.fragment = format!("/etc/systemd/system/{UNIT}")),
        ("unit-cannot-be-masked", |unit| unit.fragment = String::new()),
        ("cgroup-not-visible", |unit| unit.group = "/elsewhere".into()),
    ];
    for (key, breaks) in cases {
        let scene = Scene::new().await;
        scene.machine.unit(breaks);
        let findings = scene.check().await;
        assert_eq!(keys(&findings, Severity::Blocker), [key]);
        assert!(findings.iter().all(|f| f.severity == Severity::Ok || !f.remedy.is_empty()), "{findings:?}");
        assert!(scene.machine.asked().is_empty());
    }
}

#[tokio::test]
async fn what_an_operator_should_know_is_a_warning() {
    let scene = Scene::new().await;
    scene.machine.unit(|unit| {
        unit.kill_mode = "process".into();
        unit.triggered_by = vec!["connect.timer".into()];
        unit.required_by = vec!["reports.service".into()];
        unit.needs_reload = true;
    });
    let findings = scene.check().await;
    assert_eq!(
        keys(&findings, Severity::Warning),
        ["unit-file-changed", "unit-is-triggered", "unit-is-required", "unit-leaves-processes"]
    );
    assert_eq!(keys(&findings, Severity::Blocker), [""; 0]);
}

#[tokio::test]
async fn without_a_bus_the_check_says_so() {
    let mut scene = Scene::new().await;
    scene.machine.lose_bus().await;
    let findings = scene.check().await;
    assert_eq!(keys(&findings, Severity::Blocker), ["systemd-unreachable"]);
}

#[tokio::test]
async fn a_connect_in_a_container_is_a_blocker_before_the_migration() {
    let scene = Scene::new().await;
    scene.machine.world(|world| world.run(900, CONNECT, "pid:[2]"));
    let findings = scene.check().await;
    assert_eq!(keys(&findings, Severity::Blocker), ["another-connect-runs"]);
    assert!(findings.last().unwrap().text.contains("900"));
}

#[tokio::test]
async fn the_plan_says_what_will_be_stopped_and_masked() {
    let scene = Scene::new().await;
    let changes = stop::plan(&scene.machine.ground(), &scene.config, &scene.cx(Op::Plan)).await.unwrap();
    assert_eq!(
        changes.iter().map(|change| change.when).collect::<Vec<_>>(),
        [Op::Prepare, Op::Apply, Op::Apply]
    );
    assert!(changes[1].what.contains("active (running) with 2 processes"), "{}", changes[1].what);
    assert!(changes[2].what.contains("/dev/null"), "{}", changes[2].what);
    assert!(scene.machine.asked().is_empty());
}

#[tokio::test]
async fn apply_records_the_unit_then_stops_then_masks_it() {
    let scene = Scene::new().await;
    let outcome = scene.apply().await.unwrap();
    assert_eq!(outcome.done, Done::Changed);
    let asked = [format!("StopUnit {UNIT}"), format!("MaskUnitFiles {UNIT}"), "Reload".into()];
    assert_eq!(scene.machine.asked(), asked);
    let undo = scene.undo();
    let [StopUndo::Stopped(before)] = undo.as_slice() else { panic!("{undo:?}") };
    assert_eq!((before.active_state.as_str(), before.unit_file_state.as_str()), ("active", "enabled"));
    assert!(scene.machine.unit(|unit| !unit.is_running() && unit.mask_loaded));
    assert!(matches!(scene.verify().await, Verdict::Holds { .. }));
}

#[tokio::test]
async fn a_prepared_mask_counts_without_reading_unit_files_in_the_window() {
    let scene = Scene::new().await;
    assert_eq!(scene.prepare().await.done, Done::Changed);
    assert_eq!(scene.prepare().await.done, Done::AlreadyDone);
    assert_eq!(scene.drop_ins().len(), 1);
    assert!(scene.machine.unit(|unit| unit.is_running()));
    let before = scene.machine.asked().len();
    scene.apply().await.unwrap();
    assert_eq!(
        scene.machine.asked()[before..],
        [format!("StopUnit {UNIT}"), format!("MaskUnitFiles {UNIT}")]
    );
    assert!(matches!(scene.verify().await, Verdict::Holds { .. }));
    // Nobody can start it, though systemd has not read the mask.
    assert!(scene.machine.unit(|unit| !unit.mask_loaded));
    let started = scene.machine.units().await.start(UNIT, Duration::from_secs(20)).await.unwrap_err();
    assert!(started.to_string().contains("assert"), "{started}");
    assert!(matches!(scene.verify().await, Verdict::Holds { .. }));
    assert_eq!(scene.apply().await.unwrap().done, Done::AlreadyDone);
}

#[tokio::test]
async fn a_prepared_stop_is_undone_without_a_trace() {
    for read in [false, true] {
        let scene = Scene::new().await;
        scene.prepare().await;
        scene.apply().await.unwrap();
        if read {
            // Somebody, such as an upgrade, makes systemd read all unit files meanwhile.
            scene.machine.world(|world| world.reload());
            assert!(matches!(scene.verify().await, Verdict::Holds { .. }));
        }
        let undone = scene.rollback().await.unwrap();
        assert!(scene.serves_as_before(), "{undone:?} {:?}", scene.machine.asked());
        scene.unprepare().await;
        scene.unprepare().await;
        assert!(scene.serves_as_before() && scene.drop_ins().is_empty());
        assert_eq!(std::fs::read_dir(scene.machine.runtime_units()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn after_a_reboot_the_mask_counts_without_the_drop_in() {
    let scene = Scene::new().await;
    scene.prepare().await;
    scene.apply().await.unwrap();
    std::fs::remove_dir_all(scene.machine.runtime_units()).unwrap();
    scene.machine.world(|world| world.reload());
    assert!(matches!(scene.verify().await, Verdict::Holds { .. }));
    scene.rollback().await.unwrap();
    scene.unprepare().await;
    assert!(scene.serves_as_before());
}

#[tokio::test]
async fn at_commit_the_drop_in_goes_and_the_mask_stays() {
    let scene = Scene::new().await;
    scene.prepare().await;
    scene.apply().await.unwrap();
    let finalize =
        || async { stop::finalize(&scene.machine.ground(), &scene.config, &scene.cx(Op::Finalize)).await };
    assert_eq!(finalize().await.unwrap().done, Done::Changed);
    assert_eq!(finalize().await.unwrap().done, Done::AlreadyDone);
    assert!(scene.drop_ins().is_empty());
    assert!(scene.machine.unit(|unit| unit.mask_on_disk && unit.mask_loaded));
}

#[tokio::test]
async fn a_drop_in_that_was_removed_before_the_window_only_costs_time() {
    let scene = Scene::new().await;
    scene.prepare().await;
    std::fs::remove_dir_all(scene.machine.runtime_units()).unwrap();
    scene.machine.world(|world| world.reload());
    scene.apply().await.unwrap();
    assert_eq!(scene.machine.asked().last().map(String::as_str), Some("Reload"));
    assert!(matches!(scene.verify().await, Verdict::Holds { .. }));
}

#[tokio::test]
async fn apply_twice_changes_nothing_more() {
    let scene = Scene::new().await;
    scene.apply().await.unwrap();
    let asked = scene.machine.asked();
    assert_eq!(scene.apply().await.unwrap().done, Done::AlreadyDone);
    assert_eq!(scene.machine.asked(), asked);
}

#[tokio::test]
async fn apply_goes_on_after_a_crash_between_stop_and_mask() {
    let scene = Scene::new().await;
    scene.machine.world(|world| world.carry_out(UNIT, "StopUnit"));
    assert_eq!(scene.apply().await.unwrap().done, Done::Changed);
    assert!(matches!(scene.verify().await, Verdict::Holds { .. }));
}

#[tokio::test]
async fn the_way_back_sees_a_mask_that_a_crash_left_on_the_disk_or_in_memory() {
    for (on_disk, loaded) in [(true, false), (false, true)] {
        let scene = Scene::new().await;
        scene.apply().await.unwrap();
        scene.machine.unit(|unit| (unit.mask_on_disk, unit.mask_loaded) = (on_disk, loaded));
        scene.rollback().await.unwrap();
        assert!(scene.serves_as_before(), "on disk {on_disk}, in memory {loaded}");
    }
}

#[tokio::test]
async fn a_unit_that_somebody_starts_before_the_mask_is_stopped_again() {
    let scene = Scene::new().await;
    scene.machine.unit(|unit| unit.behaviour.started_in_the_gap = 1);
    scene.apply().await.unwrap();
    assert!(matches!(scene.verify().await, Verdict::Holds { .. }));
    let stops = scene.machine.asked().iter().filter(|asked| asked.starts_with("StopUnit")).count();
    assert_eq!(stops, 2);
    assert!(scene.host.told().log.iter().any(|(_, line)| line.contains("started again")));
}

#[tokio::test]
async fn a_unit_that_is_started_again_and_again_is_an_error() {
    let scene = Scene::new().await;
    scene.machine.unit(|unit| unit.behaviour.started_in_the_gap = 100);
    let error = scene.apply().await.unwrap_err();
    assert!(error.why.contains("something has started it"), "{error}");
    scene.machine.unit(|unit| unit.behaviour.started_in_the_gap = 0);
    scene.rollback().await.unwrap();
    assert!(scene.serves_as_before());
}

#[tokio::test]
async fn processes_that_outlive_the_stop_fail_it_and_the_way_back_works() {
    let scene = Scene::new().await;
    scene.machine.unit(|unit| unit.behaviour.leaves = vec![MAIN_PID + 1]);
    let error = scene.apply().await.unwrap_err();
    assert!(error.why.contains("4243"), "{error}");
    scene.machine.unit(|unit| unit.behaviour.leaves.clear());
    scene.rollback().await.unwrap();
    assert!(scene.serves_as_before());
}

#[tokio::test]
async fn a_stop_that_fails_is_rolled_back() {
    let scene = Scene::new().await;
    scene.machine.unit(|unit| unit.behaviour.result = "timeout".into());
    let error = scene.apply().await.unwrap_err();
    assert!(error.remedy.contains("journalctl"), "{error}");
    scene.machine.unit(|unit| unit.behaviour.result = "done".into());
    scene.rollback().await.unwrap();
    assert!(scene.serves_as_before());
}

#[tokio::test]
async fn the_units_own_stop_timeout_is_not_cut_short() {
    let mut scene = Scene::new().await;
    scene.config.timeout = Span(Duration::from_millis(100));
    scene.machine.unit(|unit| {
        unit.stop_micros = 2_000_000;
        unit.behaviour.takes = Duration::from_millis(800);
    });
    scene.apply().await.unwrap();
    // Without a limit of its own the setting counts.
    let mut scene = Scene::new().await;
    scene.config.timeout = Span(Duration::from_millis(100));
    scene.machine.unit(|unit| {
        unit.stop_micros = u64::MAX;
        unit.behaviour.endless = true;
    });
    assert!(scene.apply().await.unwrap_err().why.contains("did not end within"));
}

#[tokio::test]
async fn a_stop_that_is_cancelled_ends_at_once_and_can_be_rolled_back() {
    let scene = Scene::new().await;
    scene.machine.unit(|unit| unit.behaviour.endless = true);
    let apply = async { scene.apply().await };
    let cancel = async {
        until("the stop is under way", || !scene.machine.asked().is_empty()).await;
        scene.host.cancel();
    };
    let (result, ()) = tokio::join!(apply, cancel);
    assert!(result.unwrap_err().cancelled);
    assert_eq!(scene.undo().len(), 1);
}

#[tokio::test]
async fn verify_sees_what_changed_since() {
    let scene = Scene::new().await;
    scene.apply().await.unwrap();
    let broken = |verdict: Verdict| match verdict {
        Verdict::Broken { why, remedy } => {
            assert!(!remedy.is_empty());
            why
        }
        Verdict::Holds { evidence } => panic!("holds: {evidence}"),
    };
    // A Connect that somebody started by hand, outside of the unit.
    scene.machine.world(|world| world.run(700, CONNECT, "pid:[1]"));
    assert!(broken(scene.verify().await).contains("700"));
    scene.machine.world(|world| world.end(700));
    // The one in the container is the new server.
    scene.machine.world(|world| world.run(701, CONNECT, "pid:[2]"));
    assert!(matches!(scene.verify().await, Verdict::Holds { .. }));
    scene.machine.unit(|unit| (unit.mask_on_disk, unit.mask_loaded) = (false, false));
    assert!(broken(scene.verify().await).contains("not masked"));
    scene.machine.unit(|unit| unit.active = "active".into());
    assert!(broken(scene.verify().await).contains("active"));
}

#[tokio::test]
async fn the_way_back_unmasks_starts_and_sees_connect_answer() {
    let scene = Scene::new().await;
    scene.apply().await.unwrap();
    let undone = scene.rollback().await.unwrap();
    assert!(undone.left.is_empty(), "{undone:?}");
    assert!(undone.evidence.iter().any(|line| line.contains("/__ping__")), "{undone:?}");
    assert!(scene.serves_as_before());
    // Again: nothing to do, and the same answer.
    let asked = scene.machine.asked();
    assert!(scene.rollback().await.unwrap().left.is_empty());
    assert_eq!(scene.machine.asked(), asked);
}

#[tokio::test]
async fn the_first_record_knows_the_unit_as_it_was() {
    let scene = Scene::new().await;
    scene.apply().await.unwrap();
    scene.machine.unit(|unit| (unit.mask_on_disk, unit.mask_loaded) = (false, false));
    // Run again after a crash: records the unit as stopped.
    scene.apply().await.unwrap();
    assert_eq!(scene.undo().len(), 2);
    scene.rollback().await.unwrap();
    assert!(scene.serves_as_before());
}

#[tokio::test]
async fn a_unit_that_was_not_active_is_not_started() {
    let scene = Scene::new().await;
    scene.machine.world(|world| world.carry_out(UNIT, "StopUnit"));
    scene.apply().await.unwrap();
    scene.rollback().await.unwrap();
    assert!(scene.machine.unit(|unit| !unit.is_running() && !unit.mask_loaded && unit.enabled));
}

#[tokio::test]
async fn links_that_somebody_removed_meanwhile_are_made_again() {
    let scene = Scene::new().await;
    scene.apply().await.unwrap();
    scene.machine.unit(|unit| unit.enabled = false);
    scene.rollback().await.unwrap();
    assert!(scene.serves_as_before());
}

#[tokio::test]
async fn the_source_is_never_started_beside_another_connect() {
    let scene = Scene::new().await;
    scene.apply().await.unwrap();
    scene.machine.world(|world| world.run(901, CONNECT, "pid:[2]"));
    let asked = scene.machine.asked();
    let error = scene.rollback().await.unwrap_err();
    assert!(error.why.contains("901") && error.remedy.starts_with("needs you"), "{error}");
    // Not even unmasked: a reboot must not start it.
    assert_eq!(scene.machine.asked(), asked);
    assert!(scene.machine.unit(|unit| unit.mask_on_disk));
    scene.machine.world(|world| world.end(901));
    scene.rollback().await.unwrap();
    assert!(scene.serves_as_before());
}

#[tokio::test]
async fn a_container_that_has_just_been_stopped_is_waited_for() {
    let scene = Scene::new().await;
    scene.apply().await.unwrap();
    scene.machine.world(|world| world.run(902, CONNECT, "pid:[2]"));
    let world = Arc::clone(&scene.machine.world);
    let end = async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.lock().unwrap().end(902);
    };
    let (undone, ()) = tokio::join!(scene.rollback(), end);
    undone.unwrap();
    assert!(scene.serves_as_before());
}

#[tokio::test]
async fn a_connect_that_does_not_answer_in_time_is_an_error() {
    let scene = Scene::with_answer("503 Service Unavailable").await;
    scene.apply().await.unwrap();
    let error = scene.rollback().await.unwrap_err();
    assert!(error.why.contains("not within") && error.why.contains("503"), "{error}");
    assert!(error.remedy.contains("journalctl"), "{error}");
}

#[tokio::test]
async fn a_connect_without_its_licence_is_told_to_the_operator() {
    let scene = Scene::with_answer("402 Payment Required").await;
    scene.apply().await.unwrap();
    let undone = scene.rollback().await.unwrap();
    assert_eq!(undone.left.len(), 1);
    assert!(undone.left[0].contains("licence"), "{undone:?}");
}

#[tokio::test]
async fn a_unit_that_ends_after_its_start_is_an_error_at_once() {
    let mut scene = Scene::with_answer("503 Service Unavailable").await;
    scene.config.ping_timeout = Span(Duration::from_secs(60));
    scene.apply().await.unwrap();
    let end = async {
        until("the unit is started", || scene.machine.unit(|unit| unit.is_running())).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        scene.machine.unit(|unit| unit.active = "failed".into());
    };
    let (result, ()) = tokio::join!(scene.rollback(), end);
    assert!(result.unwrap_err().why.contains("has ended"));
}

#[tokio::test]
async fn nothing_is_undone_for_calls_that_change_nothing() {
    let scene = Scene::new().await;
    let cx = scene.cx(Op::Rollback);
    let undone = stop::rollback(&scene.machine.ground(), &scene.config, &cx, Op::Prepare, scene.undo()).await;
    assert!(undone.unwrap().left.is_empty());
    assert!(scene.machine.asked().is_empty());
}

const OTHER: &str = "other.service";

fn starting(unit: &str) -> StartConfig {
    StartConfig { unit: unit.into(), timeout: Span(Duration::from_secs(20)) }
}

#[tokio::test]
async fn start_enables_and_starts_and_its_way_back_undoes_both() {
    let scene = Scene::new().await;
    scene.machine.world(|world| world.add(Unit::named(OTHER)));
    let (ground, config) = (scene.machine.ground(), starting(OTHER));
    let findings = start::check(&ground, &config, &scene.cx(Op::Check)).await.unwrap();
    assert_eq!(keys(&findings, Severity::Ok), ["unit-can-start"]);
    assert_eq!(start::plan(&ground, &config).await.unwrap().len(), 2);
    assert_eq!(start::apply(&ground, &config, &scene.cx(Op::Apply)).await.unwrap().done, Done::Changed);
    assert!(matches!(start::verify(&ground, &config).await.unwrap(), Verdict::Holds { .. }));
    let again = start::apply(&ground, &config, &scene.cx(Op::Apply)).await.unwrap();
    assert_eq!(again.done, Done::AlreadyDone);
    for _ in 0..2 {
        let undo: Vec<_> = scene
            .host
            .told()
            .undo
            .into_iter()
            .map(|record| serde_json::from_value(record).unwrap())
            .collect();
        start::rollback(&ground, &config, &scene.cx(Op::Rollback), Op::Apply, undo).await.unwrap();
        assert!(scene.machine.world(|world| !world.units[OTHER].is_running() && !world.units[OTHER].enabled));
    }
    assert!(matches!(start::verify(&ground, &config).await.unwrap(), Verdict::Broken { .. }));
}

#[tokio::test]
async fn start_leaves_a_unit_running_that_ran_before() {
    let scene = Scene::new().await;
    scene.machine.world(|world| {
        world.add(Unit { active: "active".into(), sub: "running".into(), ..Unit::named(OTHER) });
    });
    let (ground, config) = (scene.machine.ground(), starting(OTHER));
    start::apply(&ground, &config, &scene.cx(Op::Apply)).await.unwrap();
    let undo: Vec<_> =
        scene.host.told().undo.into_iter().map(|record| serde_json::from_value(record).unwrap()).collect();
    start::rollback(&ground, &config, &scene.cx(Op::Rollback), Op::Apply, undo).await.unwrap();
    assert!(scene.machine.world(|world| world.units[OTHER].is_running() && !world.units[OTHER].enabled));
}

#[tokio::test]
async fn start_refuses_the_source_and_units_that_cannot_start() {
    let scene = Scene::new().await;
    let ground = scene.machine.ground();
    scene.machine.world(|world| {
        world.add(Unit { mask_on_disk: true, mask_loaded: true, ..Unit::named(OTHER) });
    });
    for (unit, key) in [(UNIT, "start-is-source"), (OTHER, "unit-masked"), ("none.service", "unit-not-found")]
    {
        let findings = start::check(&ground, &starting(unit), &scene.cx(Op::Check)).await.unwrap();
        assert_eq!(keys(&findings, Severity::Blocker), [key]);
    }
    assert!(start::apply(&ground, &starting(UNIT), &scene.cx(Op::Apply)).await.is_err());
    assert!(scene.machine.asked().is_empty());
}
