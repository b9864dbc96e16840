//! The way back of `systemd/stop`, on a private bus with a double of systemd.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what goes wrong here is a failed test"
)]

mod systemd_double;

use connect_migrator::systemd::steps::{Span, stop};
use connect_migrator_sdk::{Done, Op, Verdict};
use std::sync::Arc;
use std::time::Duration;
use systemd_double::scene::{CONNECT, Scene};
use systemd_double::{UNIT, until};

#[tokio::test]
async fn a_prepared_mask_counts_without_reading_unit_files_in_the_window() {
    let scene = Scene::new().await;
    assert_eq!(scene.prepare().await.done, Done::Changed);
    assert_eq!(scene.prepare().await.done, Done::AlreadyDone);
    assert_eq!(scene.drop_ins().len(), 1);
    // Who wonders why the unit cannot be started reads its title.
    let title = std::fs::read_to_string(&scene.drop_ins()[0]).unwrap();
    let instance = scene.cx(Op::Prepare).migration().instance.clone();
    assert!(
        !instance.is_empty() && title.contains(&format!("see \"connect-migrator status {instance}\"\n")),
        "{title}"
    );
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
    assert_eq!(scene.apply_again().await.unwrap().done, Done::AlreadyDone);
    // Not even when the mask is gone.
    scene.machine.unit(|unit| unit.mask_on_disk = false);
    let started = scene.machine.units().await.start(UNIT, Duration::from_secs(20)).await.unwrap_err();
    assert!(started.to_string().contains("assert"), "{started}");
    scene.machine.unit(|unit| unit.behaviour.effective = true);
    scene.rollback().await.unwrap();
    assert!(scene.machine.unit(|unit| unit.is_running()));
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
