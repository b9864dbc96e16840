//! The run as everybody on the system bus sees it.

use super::{Scenario, one_with_all};
use crate::ensure;
use crate::lab::{COMMAND_DEADLINE, Lab, Runbook, Tried, standing};

pub(super) const ALL: &[Scenario] = &[one_with_all(
    "on the bus an ordinary user may watch and not touch, and root may do both, from a unit that has next to nothing",
    bus,
)];

const OBJECT: &str = "org.connect_migrator.prod /org/connect_migrator/migration";
const INTERFACE: &str = "org.connect_migrator.Migration1";
/// What `systemd-analyze security` may say of the daemon's unit at most.
const EXPOSURE_AT_MOST: f64 = 3.0;

fn as_user(busctl: &str) -> String {
    format!("runuser -u watcher -- busctl --system --no-pager {busctl}")
}

fn bus(lab: &Lab) -> Tried {
    lab.must("id -u watcher >/dev/null 2>&1 || useradd --create-home watcher")?;
    lab.write_runbook(&Runbook::that_waits().text())?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_soak()?;
    lab.must(
        "systemd-run --quiet --unit=lab-monitor --collect --property=StandardOutput=truncate:/root/lab/monitored \
         busctl --system monitor org.connect_migrator.prod",
    )?;

    let shown = lab.must(&as_user(&format!("introspect {OBJECT}")))?;
    for member in [".Check", ".Commit", ".Park", ".Report", ".Rollback", ".Phase", ".WindowSeconds", ".Event"]
    {
        ensure!(shown.contains(member), "introspection does not show {member}:\n{shown}");
    }
    let phase = lab.must(&as_user(&format!("get-property {OBJECT} {INTERFACE} Phase")))?;
    ensure!(phase.trim() == "s \"soak\"", "the user reads the phase {phase}");
    for method in ["Rollback", "Commit", "Park", "Check"] {
        let call = lab.machine.run(&as_user(&format!("call {OBJECT} {INTERFACE} {method}")))?;
        ensure!(!call.success(), "an ordinary user called {method}:\n{}", call.stdout);
        ensure!(
            call.stderr.contains("org.connect-migrator."),
            "{method} does not name its action: {}",
            call.stderr
        );
    }
    let status = lab.status()?;
    ensure!(standing(&status) == "running", "after that it is {}", standing(&status));

    let check = lab.machine.check_within(
        &format!("busctl --system --timeout=900 call {OBJECT} {INTERFACE} Check"),
        COMMAND_DEADLINE,
    )?;
    ensure!(check.contains("nginx-active"), "the check on the bus did not look at nginx:\n{check}");
    let security = lab.must(
        "systemd-analyze security --no-pager connect-migrator@prod.service | grep -oE 'prod.service: [0-9.]+' | grep -oE '[0-9.]+$'",
    )?;
    println!("     the daemon's unit: an exposure of {} (`systemd-analyze security`)", security.trim());
    ensure!(security.trim().parse::<f64>()? <= EXPOSURE_AT_MOST, "an exposure of {security}");

    lab.must(&format!("busctl --system call {OBJECT} {INTERFACE} Commit"))?;
    lab.wait_standing("committed")?;
    let monitored = lab.must("systemctl stop lab-monitor; cat /root/lab/monitored")?;
    ensure!(
        monitored.contains("Member=Event") && monitored.contains("Member=PropertiesChanged"),
        "no signal told of the commit:\n{monitored}"
    );
    lab.assert_moved()
}
