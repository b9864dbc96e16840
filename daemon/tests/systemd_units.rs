//! Units, on a private bus with a double of systemd.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what goes wrong here is a failed test"
)]

mod systemd_double;

use connect_migrator::systemd::cgroup::Cgroups;
use connect_migrator::systemd::units::{BusAddress, UnitError, Units};
use std::time::{Duration, Instant};
use systemd_double::world::{Told, Unit};
use systemd_double::{MAIN_PID, Machine, UNIT, until};

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_stop_that_is_done_leaves_the_unit_inactive_and_empty() {
    let machine = Machine::boot().await;
    let stopped = machine.units().await.stop(UNIT, LONG).await.unwrap();
    assert_eq!(stopped.status.active_state, "inactive");
    assert_eq!(stopped.status.main_pid, 0);
    assert_eq!(machine.asked(), [format!("StopUnit {UNIT}")]);
}

#[tokio::test]
async fn signals_are_asked_for_before_a_job_is_made() {
    let machine = Machine::boot().await;
    let units = machine.units().await;
    assert_eq!(machine.world(|world| world.subscribers.len()), 1);
    // The double tells nobody who did not subscribe; a stop would then take until a second look at the job.
    let started = Instant::now();
    units.stop(UNIT, LONG).await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
}

#[tokio::test]
async fn only_done_counts() {
    for result in ["failed", "timeout", "canceled", "dependency", "skipped", "something-new"] {
        let machine = Machine::boot().await;
        machine.unit(|unit| unit.behaviour.result = result.into());
        let error = machine.units().await.stop(UNIT, LONG).await.unwrap_err();
        assert!(matches!(&error, UnitError::Job { result: told, .. } if told == result), "{error}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("could not stop {UNIT}: ")), "{text}");
        assert!(text.contains(result) && text.contains("journalctl -u"), "{text}");
    }
}

#[tokio::test]
async fn an_end_that_is_told_late_twice_early_or_after_another_is_understood() {
    for told in [Told::Once, Told::Twice, Told::BeforeReply, Told::AfterAnother] {
        for takes in [0, 300] {
            let machine = Machine::boot().await;
            machine.unit(|unit| {
                unit.behaviour.told = told;
                unit.behaviour.takes = Duration::from_millis(takes);
            });
            let stopped = machine.units().await.stop(UNIT, LONG).await;
            assert!(stopped.is_ok(), "{told:?} after {takes} ms: {stopped:?}");
        }
    }
}

#[tokio::test]
async fn a_job_that_does_not_end_is_given_up_at_the_deadline() {
    let machine = Machine::boot().await;
    machine.unit(|unit| unit.behaviour.endless = true);
    let started = Instant::now();
    let error = machine.units().await.stop(UNIT, Duration::from_millis(400)).await.unwrap_err();
    assert!(matches!(error, UnitError::JobTimedOut { .. }), "{error}");
    assert!(started.elapsed() >= Duration::from_millis(400) && started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn an_end_that_nobody_told_is_judged_by_the_unit_itself() {
    let machine = Machine::boot().await;
    machine.unit(|unit| unit.behaviour.told = Told::Never);
    assert!(machine.units().await.stop(UNIT, LONG).await.is_ok());

    let machine = Machine::boot().await;
    machine.unit(|unit| {
        unit.behaviour.told = Told::Never;
        unit.behaviour.effective = false;
    });
    let error = machine.units().await.stop(UNIT, LONG).await.unwrap_err();
    assert!(matches!(error, UnitError::State { .. }), "{error}");
}

#[tokio::test]
async fn done_is_not_believed_when_the_unit_is_in_another_state() {
    let machine = Machine::boot().await;
    machine.unit(|unit| unit.behaviour.effective = false);
    let units = machine.units().await;
    let error = units.stop(UNIT, LONG).await.unwrap_err();
    assert!(matches!(&error, UnitError::State { state, .. } if state == "active (running)"), "{error}");

    // A start that a condition prevents ends with `done`.
    machine.unit(|unit| {
        unit.active = "inactive".into();
        unit.sub = "dead".into();
    });
    let error = units.start(UNIT, LONG).await.unwrap_err();
    assert!(error.to_string().contains("the unit is inactive (dead)"), "{error}");
}

#[tokio::test]
async fn a_stop_waits_for_the_last_process() {
    let machine = Machine::boot().await;
    machine.unit(|unit| unit.behaviour.leaves = vec![MAIN_PID + 1]);
    let units = machine.units().await;
    let stop = tokio::spawn(async move { units.stop(UNIT, LONG).await });
    until("the unit is inactive", || machine.unit(|unit| unit.active == "inactive")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!stop.is_finished());
    machine.world(|world| {
        let unit = world.units.get_mut(UNIT).unwrap();
        unit.pids.clear();
        let unit = unit.clone();
        world.show_processes(&unit);
    });
    assert!(stop.await.unwrap().is_ok());
}

#[tokio::test]
async fn processes_that_are_left_are_named() {
    let machine = Machine::boot().await;
    machine.unit(|unit| unit.behaviour.leaves = vec![MAIN_PID + 1]);
    let units = machine.units().await.leftover_timeout(Duration::from_millis(300));
    let error = units.stop(UNIT, LONG).await.unwrap_err();
    let UnitError::LeftOver { processes, .. } = &error else { panic!("{error}") };
    assert_eq!(processes.len(), 1);
    let text = error.to_string();
    assert!(text.contains("4243 (/opt/rstudio-connect/bin/connect --config)"), "{text}");
}

#[tokio::test]
async fn start_restart_and_reload_end_with_an_active_unit() {
    let machine = Machine::boot().await;
    machine.world(|world| world.add(Unit::named("other.service")));
    let units = machine.units().await;
    units.start("other.service", LONG).await.unwrap();
    units.restart("other.service", LONG).await.unwrap();
    units.reload("other.service", LONG).await.unwrap();
    assert!(units.status("other.service").await.unwrap().is_active());
    let asked = ["StartUnit other.service", "RestartUnit other.service", "ReloadUnit other.service"];
    assert_eq!(machine.asked(), asked);
}

#[tokio::test]
async fn a_masked_unit_cannot_be_started_until_it_is_unmasked() {
    let machine = Machine::boot().await;
    let units = machine.units().await;
    units.stop(UNIT, LONG).await.unwrap();
    units.mask(UNIT).await.unwrap();
    units.mask(UNIT).await.unwrap();
    let masked = units.status(UNIT).await.unwrap();
    assert!(masked.is_masked() && !masked.is_enabled());
    let error = units.start(UNIT, LONG).await.unwrap_err();
    assert!(
        matches!(&error, UnitError::Refused { .. }) && error.to_string().contains("is masked"),
        "{error}"
    );
    units.unmask(UNIT).await.unwrap();
    assert!(units.status(UNIT).await.unwrap().is_enabled());
    units.start(UNIT, LONG).await.unwrap();
}

#[tokio::test]
async fn enabling_and_disabling_changes_the_unit_file_state() {
    let machine = Machine::boot().await;
    let units = machine.units().await;
    units.disable(UNIT).await.unwrap();
    assert_eq!(units.status(UNIT).await.unwrap().unit_file_state, "disabled");
    units.enable(UNIT).await.unwrap();
    assert_eq!(units.status(UNIT).await.unwrap().unit_file_state, "enabled");
}

#[tokio::test]
async fn a_file_in_the_way_of_the_mask_is_explained() {
    let machine = Machine::boot().await;
    machine.unit(|unit| unit.fragment = format!("/etc/systemd/system/{UNIT}"));
    let text = machine.units().await.mask(UNIT).await.unwrap_err().to_string();
    assert!(text.contains("/usr/local/lib/systemd/system"), "{text}");
}

#[tokio::test]
async fn the_status_says_everything_that_systemd_does() {
    let machine = Machine::boot().await;
    machine.unit(|unit| {
        unit.triggered_by = vec!["connect.timer".into()];
        unit.required_by = vec!["reports.service".into()];
        unit.stop_micros = u64::MAX;
        unit.needs_reload = true;
        unit.job = Some(7);
    });
    let status = machine.units().await.status(UNIT).await.unwrap();
    assert_eq!((status.id.as_str(), status.load_state.as_str()), (UNIT, "loaded"));
    assert_eq!(status.state_text(), "active (running)");
    assert_eq!(status.main_pid, MAIN_PID);
    assert_eq!(status.control_group, format!("/{}", systemd_double::GROUP));
    assert_eq!(status.fragment_path.unwrap(), std::path::Path::new("/lib/systemd/system").join(UNIT));
    assert_eq!(status.triggered_by, ["connect.timer"]);
    assert_eq!(status.required_by, ["reports.service"]);
    assert_eq!((status.service_type.as_str(), status.restart.as_str()), ("simple", "always"));
    assert_eq!((status.stop_timeout, status.start_timeout), (None, Some(Duration::from_secs(90))));
    assert!(status.needs_reload);
    assert_eq!(status.job.as_deref(), Some("/org/freedesktop/systemd1/job/7"));
}

#[tokio::test]
async fn a_unit_that_is_not_there_is_told_as_such() {
    let machine = Machine::boot().await;
    let units = machine.units().await;
    assert_eq!(units.status("nothing.service").await.unwrap().load_state, "not-found");
    assert!(matches!(units.start("nothing.service", LONG).await, Err(UnitError::Refused { .. })));
}

#[tokio::test]
async fn after_a_lost_bus_it_is_connected_anew() {
    let mut machine = Machine::boot().await;
    let units = machine.units().await;
    assert!(units.status(UNIT).await.unwrap().is_active());
    machine.lose_bus().await;
    machine.find_bus().await;
    assert!(units.status(UNIT).await.unwrap().is_active());
    // Subscribed again too.
    let started = Instant::now();
    units.stop(UNIT, LONG).await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_connection_that_is_cut_while_a_job_runs_does_not_end_the_stop() {
    let mut machine = Machine::boot().await;
    machine.unit(|unit| unit.behaviour.endless = true);
    let units = machine.units().await;
    let stop = tokio::spawn(async move { units.stop(UNIT, LONG).await });
    until("the job is made", || machine.unit(|unit| unit.job.is_some())).await;
    machine.unit(|unit| unit.behaviour.endless = false);
    machine.lose_bus().await;
    machine.find_bus().await;
    let stopped = stop.await.unwrap();
    assert!(stopped.is_ok(), "{stopped:?}");
}

#[tokio::test]
async fn without_a_bus_or_a_systemd_the_error_says_what_to_look_at() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix:path={}", folder.path().join("nobody").display());
    let nobody = Units::connect(BusAddress::At(address), Cgroups::default()).await.unwrap_err().to_string();
    assert!(nobody.starts_with("could not reach systemd over D-Bus: "), "{nobody}");
    assert!(nobody.ends_with("see `systemctl status dbus`"), "{nobody}");

    let bus = systemd_double::bus::Bus::start(folder.path());
    let address = BusAddress::At(bus.address.clone());
    let alone = Units::connect(address, Cgroups::default()).await.unwrap_err().to_string();
    assert!(alone.contains("systemd must be what started this machine"), "{alone}");
}
