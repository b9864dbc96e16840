//! After the move nothing brings the old server back by accident.

use super::{Scenario, one_with_all};
use crate::ensure;
use crate::lab::{COMMAND_DEADLINE, Lab, Runbook, Tried};

pub(super) const ALL: &[Scenario] = &[one_with_all(
    "while the container lives neither a start, nor an upgrade, nor a reboot brings the old server back",
    never_two,
)];

/// The package of Connect with a higher version: its postinst enables and starts the unit, as the product's does.
const UPGRADE: &str = r"set -e
cd /root/lab && rm -rf newer && dpkg-deb -R rstudio-connect.deb newer
sed -i 's/^Version: .*/Version: 2026.03.2/' newer/DEBIAN/control
dpkg-deb -b -Zgzip -z1 --root-owner-group newer newer.deb
DEBIAN_FRONTEND=noninteractive apt-get install -qy -o Dpkg::Options::=--force-confold /root/lab/newer.deb 2>&1";

pub(super) fn old_is_down(lab: &Lab) -> Tried {
    let unit = lab.ask("systemctl is-active rstudio-connect; systemctl is-enabled rstudio-connect")?;
    ensure!(unit == "inactive\nmasked", "the old unit is {unit:?}");
    let running = lab.ask(
        "pgrep -fx '/opt/rstudio-connect/bin/connect --config .*' | while read id; do
        grep -qE 'docker|libpod' /proc/$id/cgroup || echo $id; done",
    )?;
    ensure!(running.is_empty(), "a Connect runs outside of the container: {running}");
    lab.assert_never_two()
}

/// Asserts that the old unit cannot be started while a migration is open, and that systemd says why.
pub(super) fn cannot_be_started(lab: &Lab) -> Tried {
    let start = lab.machine.run("systemctl start rstudio-connect")?;
    ensure!(!start.success(), "the old unit could be started");
    // Where systemd has read the mask already, it says that.
    let status = lab.machine.run("systemctl status rstudio-connect")?;
    let why = status.stdout.contains("connect-migrator status prod") || start.stderr.contains("is masked");
    ensure!(why, "it does not say why: {}\n{}", start.stderr, status.stdout);
    Ok(())
}

fn never_two(lab: &Lab) -> Tried {
    lab.write_runbook(&Runbook::that_waits().text())?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_soak()?;

    cannot_be_started(lab)?;
    old_is_down(lab)?;
    lab.machine.check_within(UPGRADE, COMMAND_DEADLINE)?;
    old_is_down(lab)?;
    lab.must("connect-migrator commit prod --yes")?;
    lab.wait_standing("committed")?;

    let state = lab.machine.reboot()?;
    ensure!(state == "running", "after the reboot the machine is {state}");
    let serves = "curl -fs -m 5 -o /dev/null http://connect.example.com/__ping__";
    lab.wait_for("the container to serve after the reboot", serves)?;
    old_is_down(lab)?;
    let (here, there) = (lab.ask("hostname")?, lab.served_by()?);
    ensure!(here != there, "after the reboot the host itself serves");

    // Somebody unmasks the unit by hand. At the next boot it starts, and the container must not.
    lab.must("systemctl unmask rstudio-connect && systemctl enable rstudio-connect")?;
    lab.machine.reboot()?;
    lab.wait_for(
        "the old unit to be up",
        "systemctl is-active -q rstudio-connect && curl -fs -m 5 -o /dev/null http://127.0.0.1:3939/__ping__",
    )?;
    // Longer than any wait between two tries of a restart policy that has just begun.
    std::thread::sleep(std::time::Duration::from_secs(20));
    let container = lab.ask("curl -s -m 5 -o /dev/null -w '%{http_code}' http://127.0.0.1:3940/__ping__")?;
    ensure!(container == "000", "the container answers {container} beside the unmasked unit");
    lab.assert_never_two()
}
