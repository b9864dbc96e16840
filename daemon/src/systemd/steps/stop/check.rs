//! Whether the source can be stopped, kept stopped, and started again.

use super::StopConfig;
use crate::systemd::processes::listed;
use crate::systemd::steps::Ground;
use crate::systemd::units::{UnitStatus, Units};
use connect_migrator_sdk::{Context, Finding, StepError};
use std::path::Path;

/// Folders whose files come before, or lie where, the link of a mask would be: `systemd.unit(5)`.
const UNMASKABLE: [&str; 5] = [
    "/etc/systemd/system/",
    "/etc/systemd/system.control/",
    "/run/systemd/system.control/",
    "/run/systemd/transient/",
    "/run/systemd/generator.early/",
];

/// See [`Step::check`](connect_migrator_sdk::Step::check).
///
/// # Errors
/// When the processes of this machine cannot be looked at.
pub async fn check(ground: &Ground, config: &StopConfig, cx: &Context) -> Result<Vec<Finding>, StepError> {
    let unit = config.unit(cx);
    let mut findings = Vec::new();
    let read = async {
        let units = ground.units().await?;
        let status = units.status(unit).await?;
        Ok::<_, StepError>((units, status))
    };
    match read.await {
        Ok((units, status)) => look(&mut findings, config, &units, &status)?,
        Err(error) => findings.push(Finding::blocker(
            "systemd-unreachable",
            format!("could not {}: {}", error.tried, error.why),
            if error.remedy.is_empty() { "see `systemctl status dbus`".into() } else { error.remedy },
        )),
    }
    let others = ground.connects_in_containers(unit)?;
    if !others.is_empty() {
        findings.push(Finding::blocker(
            "another-connect-runs",
            format!("a Connect already runs in a container on this host: {}", listed(&others)),
            "stop that container: on the way back this Connect is never started while another one runs",
        ));
    }
    Ok(findings)
}

fn look(
    findings: &mut Vec<Finding>,
    config: &StopConfig,
    units: &Units,
    status: &UnitStatus,
) -> Result<(), StepError> {
    let unit = &status.unit;
    match status.load_state.as_str() {
        "loaded" if status.unit_file_state != "masked" => {}
        "loaded" | "masked" => {
            findings.push(Finding::blocker(
                "unit-masked",
                format!("{unit} is masked; was this Connect already migrated?"),
                format!("if it lives on this host, run `systemctl unmask {unit}` and start it"),
            ));
            return Ok(());
        }
        "not-found" => {
            findings.push(Finding::blocker(
                "unit-not-found",
                format!("there is no unit {unit}"),
                "set `unit` of `[connect]` to the unit of Connect; `systemctl list-units --type=service` lists all",
            ));
            return Ok(());
        }
        other => {
            findings.push(Finding::blocker(
                "unit-broken",
                format!("systemd cannot load {unit}: {other}"),
                format!("run `systemd-analyze verify {unit}`"),
            ));
            return Ok(());
        }
    }
    if status.id != *unit && !status.id.is_empty() {
        findings.push(Finding::blocker(
            "unit-is-alias",
            format!("{unit} is only another name of {}", status.id),
            format!(
                "set `unit` of `[connect]` to `{}`: masking the other name would not keep it from starting",
                status.id
            ),
        ));
        return Ok(());
    }
    activity(findings, units, status)?;
    masking(findings, status);
    neighbours(findings, status);
    stopping(findings, config, status);
    Ok(())
}

fn activity(findings: &mut Vec<Finding>, units: &Units, status: &UnitStatus) -> Result<(), StepError> {
    let unit = &status.unit;
    if !status.is_active() {
        findings.push(Finding::blocker(
            "unit-not-active",
            format!("{unit} is {}, so there is no running Connect to move", status.state_text()),
            format!("run `systemctl start {unit}` and see that Connect serves"),
        ));
        return Ok(());
    }
    findings.push(Finding::ok(
        "unit-active",
        format!("{unit} is {}, main process {}", status.state_text(), status.main_pid),
    ));
    // Without sight of the processes, an empty control group would prove nothing.
    let processes = units.processes_in(unit, &status.control_group)?;
    if processes.iter().any(|process| process.pid == status.main_pid) {
        let text = format!("{} processes in {}", processes.len(), status.control_group);
        findings.push(Finding::ok("unit-processes", text));
    } else {
        findings.push(Finding::blocker(
            "cgroup-not-visible",
            format!(
                "the main process {} of {unit} is not seen in its control group `{}`",
                status.main_pid, status.control_group
            ),
            "run on the host itself, as root, with /sys/fs/cgroup mounted",
        ));
    }
    Ok(())
}

fn masking(findings: &mut Vec<Finding>, status: &UnitStatus) {
    let unit = &status.unit;
    let Some(fragment) = &status.fragment_path else {
        findings.push(Finding::blocker(
            "unit-cannot-be-masked",
            format!("{unit} has no file of its own"),
            format!(
                "define {unit} by a file in /usr/local/lib/systemd/system, then run `systemctl daemon-reload`"
            ),
        ));
        return;
    };
    if UNMASKABLE.iter().any(|folder| fragment.starts_with(Path::new(folder))) {
        findings.push(Finding::blocker(
            "unit-cannot-be-masked",
            format!("{unit} is defined by {}, which lies where the mask would be", fragment.display()),
            format!(
                "run `install -D -m 0644 {0} /usr/local/lib/systemd/system/{unit} && rm {0} && systemctl daemon-reload`",
                fragment.display()
            ),
        ));
    } else {
        findings.push(Finding::ok(
            "unit-can-be-masked",
            format!("{unit} is defined by {} and {}", fragment.display(), status.unit_file_state),
        ));
    }
    if status.needs_reload {
        findings.push(Finding::warning(
            "unit-file-changed",
            format!("the files of {unit} were changed since systemd read them; on the way back it would start differently"),
            "run `systemctl daemon-reload`, restart Connect, and see that it serves",
        ));
    }
}

fn neighbours(findings: &mut Vec<Finding>, status: &UnitStatus) {
    let unit = &status.unit;
    if !status.triggered_by.is_empty() {
        findings.push(Finding::warning(
            "unit-is-triggered",
            format!(
                "{} would start {unit}; while it is masked they fail instead",
                status.triggered_by.join(", ")
            ),
            format!(
                "stop and disable them if nothing else needs them: `systemctl disable --now {}`",
                status.triggered_by.join(" ")
            ),
        ));
    }
    if !status.required_by.is_empty() {
        findings.push(Finding::warning(
            "unit-is-required",
            format!("{} cannot start without {unit}, and stop with it", status.required_by.join(", ")),
            "see whether they are still needed once Connect lives in a container",
        ));
    }
}

fn stopping(findings: &mut Vec<Finding>, config: &StopConfig, status: &UnitStatus) {
    let unit = &status.unit;
    let own = status.stop_timeout.map_or("no limit".into(), |own| format!("{} s", own.as_secs()));
    findings.push(Finding::ok(
        "unit-settings",
        format!(
            "{unit}: Type={}, Restart={}, KillMode={}, TimeoutStopSec={own}; the stop is waited for {} s",
            status.service_type,
            status.restart,
            status.kill_mode,
            config.bound(status).as_secs()
        ),
    ));
    if matches!(status.kill_mode.as_str(), "process" | "none") {
        findings.push(Finding::warning(
            "unit-leaves-processes",
            format!("KillMode={} of {unit} lets processes of content outlive the stop", status.kill_mode),
            format!(
                "migrate at a quiet hour: a process that still runs {} after the stop ends the migration; \
                 `leftover-timeout` of this step sets how long it may take",
                config.leftover_timeout
            ),
        ));
    }
}
