//! The daemon of an instance, as commands find it: asked over the bus, started by its unit, and seen to be gone.

use super::status;
use crate::bus;
use crate::instance::Instance;
use crate::systemd::units::{UnitError, UnitStatus, Units};
use std::time::{Duration, Instant};

/// How long a daemon that is starting may take to be on the bus, or one that is ending to be gone.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is looked for meanwhile.
const SETTLE_POLL: Duration = Duration::from_millis(200);
/// How long a start may take when its unit does not say: the checks come first.
const START_TIMEOUT: Duration = Duration::from_secs(3600);
/// systemd itself ends a start that takes too long, and says so: it must come first.
const START_GRACE: Duration = Duration::from_secs(30);
/// How often it is looked whether the run has come to a standstill.
const STANDSTILL_POLL: Duration = Duration::from_secs(2);

/// What the daemon says to a method of its object; `Ok(None)` when none runs. One that has just been started is waited for.
pub(super) async fn ask(instance: &Instance, method: &str) -> Result<Option<String>, String> {
    let since = Instant::now();
    loop {
        if let Some(answer) = bus::ask(instance, method).await? {
            return Ok(Some(answer));
        }
        let unit = unit(instance).await;
        if !may_still_come(unit.as_ref(), since.elapsed())? {
            return Ok(None);
        }
        tokio::time::sleep(SETTLE_POLL).await;
    }
}

/// Whether a daemon that is not on the bus yet is to be waited for.
fn may_still_come(unit: Option<&UnitStatus>, waited: Duration) -> Result<bool, String> {
    let Some(unit) = unit.filter(|unit| !unit.is_inactive()) else { return Ok(false) };
    if waited < SETTLE_TIMEOUT {
        return Ok(true);
    }
    Err(format!(
        "could not ask the daemon: {0} is {1}, but has not been on the bus for {2} s; nothing was changed. Try again, and see \
         `journalctl -u {0}`; `systemctl stop {0}` parks the run without the bus",
        unit.unit,
        unit.state_text(),
        SETTLE_TIMEOUT.as_secs()
    ))
}

/// The unit, if systemd can be asked.
async fn unit(instance: &Instance) -> Option<UnitStatus> {
    Units::system().await.ok()?.status(&instance.unit()).await.ok()
}

/// Starts the unit, once an earlier run of it that is ending has ended. Ends when the checks have passed, as `systemctl start` does.
pub(super) async fn start(instance: &Instance) -> Result<(), UnitError> {
    let units = Units::system().await?;
    let since = Instant::now();
    let mut status = units.status(&instance.unit()).await?;
    while !status.is_inactive() && since.elapsed() < SETTLE_TIMEOUT {
        tokio::time::sleep(SETTLE_POLL).await;
        status = units.status(&instance.unit()).await?;
    }
    units.start(&instance.unit(), start_timeout(&status)).await
}

fn start_timeout(status: &UnitStatus) -> Duration {
    status.start_timeout.map_or(START_TIMEOUT, |timeout| timeout + START_GRACE)
}

/// Ends, with what is to be said, once no daemon runs, none is about to, and the state does not move.
pub(super) async fn standstill(instance: &Instance, watcher: Option<&bus::Watcher>) -> String {
    let mut seen = None;
    loop {
        tokio::time::sleep(STANDSTILL_POLL).await;
        // Where systemd cannot be asked, it is not known that it stands still.
        let idle = unit(instance).await.filter(UnitStatus::is_inactive);
        let runs = match watcher {
            Some(watcher) => watcher.progress().await.is_some(),
            None => false,
        };
        let (Some(unit), false) = (idle, runs) else {
            seen = None;
            continue;
        };
        let view = status::read(instance).ok().flatten();
        if seen.as_ref() == Some(&view) {
            let parked = view.is_some_and(|view| view.parked);
            return words_for_standstill(instance, &unit, parked);
        }
        seen = Some(view);
    }
}

fn words_for_standstill(instance: &Instance, unit: &UnitStatus, parked: bool) -> String {
    let why = if parked { "it is parked".to_owned() } else { format!("its unit is {}", unit.state_text()) };
    let again = match unit.result.as_str() {
        "start-limit-hit" => {
            format!("see why in `journalctl -u {0}`, then `systemctl reset-failed {0}` and ", unit.unit)
        }
        _ => String::new(),
    };
    format!(
        "the migration of `{0}` has not ended, and does not go on: {why}; {again}`connect-migrator resume {0}` goes on with what was \
         decided",
        instance.name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active: &str, result: &str) -> UnitStatus {
        UnitStatus {
            unit: "connect-migrator@prod.service".into(),
            active_state: active.into(),
            sub_state: "x".into(),
            result: result.into(),
            ..UnitStatus::default()
        }
    }

    #[test]
    fn a_daemon_that_starts_is_waited_for_and_not_for_ever() {
        for active in ["activating", "active", "deactivating"] {
            let unit = unit(active, "");
            assert_eq!(may_still_come(Some(&unit), Duration::ZERO), Ok(true), "{active}");
            let error = may_still_come(Some(&unit), SETTLE_TIMEOUT).unwrap_err();
            assert!(error.contains(active) && error.contains("systemctl stop"), "{error}");
        }
        for unit in [None, Some(unit("inactive", "")), Some(unit("failed", "exit-code"))] {
            assert_eq!(may_still_come(unit.as_ref(), Duration::ZERO), Ok(false));
        }
    }

    #[test]
    fn a_start_is_waited_for_as_long_as_systemd_does() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let unit = UnitStatus { start_timeout: Some(minutes(15)), ..UnitStatus::default() };
        assert!(start_timeout(&unit) > minutes(15));
        assert!(start_timeout(&UnitStatus::default()) > minutes(15));
    }

    #[test]
    fn a_standstill_names_its_cause_and_the_way_on() {
        let instance = Instance::named("prod").unwrap();
        let said = |result, parked| words_for_standstill(&instance, &unit("failed", result), parked);
        insta::assert_snapshot!(
            [said("success", true), said("exit-code", false), said("start-limit-hit", false)].join("\n")
        );
    }
}
