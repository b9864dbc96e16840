//! The second engine: the container is a unit of systemd.

use super::after::{cannot_be_started, old_is_down};
use super::{Scenario, each_with_all, one_or_each};
use crate::ensure;
use crate::lab::{Lab, Runbook, Tried};
use std::time::Duration;

pub(super) const ALL: &[Scenario] = &[
    one_or_each(
        "with podman a server is moved into a unit that alone comes up after a reboot",
        moves_and_reboots,
    ),
    each_with_all(
        "the podman container does not come up after a reboot beside a unit that somebody unmasked",
        beside_an_unmasked_unit,
    ),
    each_with_all(
        "a podman container that never gets healthy is rolled back, and everything is as before",
        goes_back,
    ),
];

/// The lab's database knows docker's networks; podman's is another one. The socket is off, also where a Debian has it on from the
/// boot: who finds it off leaves it off.
pub(super) const GROUND: &str = r"set -e
cd /
systemctl stop podman.socket podman.service
hba=$(runuser -u postgres -- psql -qAtc 'show hba_file')
echo 'host connect connect 10.88.0.0/16 scram-sha-256' >>$hba
runuser -u postgres -- psql -qAtc 'select pg_reload_conf()'";
/// Longer than systemd waits between two tries.
const TRIES: Duration = Duration::from_secs(25);

/// Moved, and committed.
fn moved(lab: &Lab) -> Tried {
    lab.must(GROUND)?;
    lab.write_runbook(&Runbook::that_waits().podman().text())?;
    let check = lab.machine.run("connect-migrator check prod")?;
    ensure!(check.success(), "check answers {}:\n{}{}", check.status, check.stdout, check.stderr);
    let plan = lab.must("connect-migrator plan prod")?;
    let quadlet = lab.ask("ls /usr/lib/systemd/system-generators/podman-system-generator")?;
    let file = if quadlet.is_empty() {
        "/etc/systemd/system/connect-prod.service"
    } else {
        "/etc/containers/systemd/connect-prod.container"
    };
    ensure!(plan.contains(file), "the plan does not name {file}:\n{plan}");
    let socket = lab.ask("systemctl is-active podman.socket")?;
    ensure!(socket == "inactive", "check and plan leave podman.socket {socket}");

    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_soak()?;
    lab.must(&format!("test -e {file}"))?;
    lab.assert_moved()?;
    cannot_be_started(lab)?;
    old_is_down(lab)?;
    let printed = lab.ask("journalctl -u connect-prod -o cat --no-pager")?;
    ensure!(printed.contains("Posit Connect"), "the journal has nothing of Connect:\n{printed}");
    lab.must("connect-migrator commit prod --yes")?;
    lab.wait_standing("committed")?;
    let start = lab.machine.run("systemctl start rstudio-connect")?;
    ensure!(!start.success(), "after the commit the old unit could be started");
    ensure!(start.stderr.contains("is masked"), "it does not say why: {}", start.stderr);
    Ok(())
}

fn moves_and_reboots(lab: &Lab) -> Tried {
    moved(lab)?;
    lab.machine.reboot()?;
    let serves = "curl -fs -m 5 -o /dev/null http://connect.example.com/__ping__";
    lab.wait_for("the container to serve after the reboot", serves)?;
    old_is_down(lab)?;
    lab.assert_moved()
}

/// Somebody unmasks the unit by hand. At the next boot it starts, and the container must not.
fn beside_an_unmasked_unit(lab: &Lab) -> Tried {
    moved(lab)?;
    lab.must("systemctl unmask rstudio-connect && systemctl enable rstudio-connect")?;
    lab.machine.reboot()?;
    lab.wait_for(
        "the old unit to be up",
        "systemctl is-active -q rstudio-connect && curl -fs -m 5 -o /dev/null http://127.0.0.1:3939/__ping__",
    )?;
    std::thread::sleep(TRIES);
    let container = lab.ask("curl -s -m 5 -o /dev/null -w '%{http_code}' http://127.0.0.1:3940/__ping__")?;
    ensure!(container == "000", "the container answers {container} beside the unmasked unit");
    let start = lab.machine.run("systemctl start connect-prod")?;
    ensure!(!start.success(), "the container could be started beside the unmasked unit");
    let printed = lab.ask("journalctl -b -u connect-prod -o cat --no-pager")?;
    ensure!(printed.contains("is not masked"), "its journal does not say why:\n{printed}");
    lab.assert_never_two()
}

fn goes_back(lab: &Lab) -> Tried {
    lab.must(GROUND)?;
    let runbook = Runbook::tag("never-healthy").podman().container(r#", start-timeout = "40s""#);
    lab.write_runbook(&runbook.text())?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_standing("rolled-back")?;
    let report = lab.ask("cat /var/lib/connect-migrator/prod/report.txt")?;
    ensure!(report.contains("does not answer at"), "the report does not say why:\n{report}");
    lab.assert_as_before()
}
