//! The built-in steps on their way there, on a private bus with a double of systemd.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what goes wrong here is a failed test"
)]

mod systemd_double;

use connect_migrator::systemd::steps::{Span, Start, Stop, start, stop};
use connect_migrator_sdk::{Done, Op, Role, Severity, Step, Verdict};
use start::StartConfig;
use std::time::Duration;
use stop::{StopConfig, StopUndo};
use systemd_double::scene::{CONNECT, Scene, keys};
use systemd_double::world::Unit;
use systemd_double::{MAIN_PID, UNIT, until};

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
        [Op::Prepare, Op::Apply, Op::Apply, Op::Rollback]
    );
    assert!(changes[1].what.contains("active (running), processes: 2;"), "{}", changes[1].what);
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
async fn apply_twice_changes_nothing_more() {
    let scene = Scene::new().await;
    scene.apply().await.unwrap();
    let asked = scene.machine.asked();
    assert_eq!(scene.apply_again().await.unwrap().done, Done::AlreadyDone);
    assert_eq!(scene.machine.asked(), asked);
    // Another migration would take a masked source for its own work, and start a second container.
    let error = scene.apply().await.unwrap_err();
    assert!(error.why.contains("not by this migration"), "{error}");
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
    let planned = start::plan(&ground, &config).await.unwrap();
    assert_eq!(
        planned.iter().map(|change| change.when).collect::<Vec<_>>(),
        [Op::Apply, Op::Apply, Op::Rollback]
    );
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
