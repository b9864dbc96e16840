//! Our package is replaced, and its removal tried, wherever a migration may stand.

use super::{Scenario, one_with_all};
use crate::ensure;
use crate::lab::{COMMAND_DEADLINE, Lab, Runbook, Tried};

pub(super) const ALL: &[Scenario] = &[one_with_all(
    "upgraded, not downgraded, not removed: with a migration in its window, in its soak, parked, and waiting for an operator",
    in_each_state,
)];

/// Newer ones that differ, and one that is older.
const REPACK: &str = r"set -e
cd /root/lab && rm -rf repacked && dpkg-deb -R connect-migrator.deb repacked && rm -f repacked/DEBIAN/md5sums
for version in 0.0.1 98.0 99.0 100.0 101.0; do
    sed -i s/^Version:.*/Version:\ $version/ repacked/DEBIAN/control
    echo >>repacked/usr/bin/connect-migrator
    dpkg-deb -b -Zgzip -z1 --root-owner-group repacked $version.deb
done";

const DAEMON: &str =
    "systemctl show -P ActiveState -P SubState -P MainPID -P NRestarts connect-migrator@prod";

/// The package as an administrator finds it now; the daemon, if there is one, does not notice.
fn is_handled(lab: &Lab, state: &str, upgrade: &str) -> Tried {
    let before = lab.ask(DAEMON)?;
    let dpkg =
        |call: &str| lab.machine.run_within(&format!("cd /root/lab; dpkg {call} 2>&1"), COMMAND_DEADLINE);
    let upgraded = dpkg(&format!("-i {upgrade}.deb"))?;
    ensure!(upgraded.success(), "{state}: no upgrade:\n{}", upgraded.stdout);
    for call in ["-i 0.0.1.deb", "-r connect-migrator", "-P connect-migrator"] {
        let refused = dpkg(call)?;
        ensure!(!refused.success(), "{state}: `dpkg {call}` was done:\n{}", refused.stdout);
        let told = refused.stdout.contains("prod") && refused.stdout.contains("rollback");
        ensure!(told, "{state}: `dpkg {call}` does not say why not, and what to do:\n{}", refused.stdout);
    }
    let is = lab.ask("dpkg-query -W -f '${Version} ${db:Status-Status}' connect-migrator")?;
    ensure!(is == format!("{upgrade} installed"), "{state}: the package is {is}");
    let after = lab.ask(DAEMON)?;
    ensure!(after == before, "{state}: the daemon was {before} and is {after}");
    // The brackets keep the shell that asks from being counted.
    let daemons = lab.ask("pgrep -c -f '[c]onnect-migrator daemon'")?;
    ensure!(matches!(daemons.as_str(), "0" | "1"), "{state}: there are {daemons} daemons");
    Ok(())
}

fn in_each_state(lab: &Lab) -> Tried {
    lab.must(REPACK)?;

    let mut stuck = Runbook::tag("never-healthy").container(r#", start-timeout = "15s""#);
    stuck.head = "on-failure = \"pause\"".into();
    lab.write_runbook(&stuck.text())?;
    lab.start_migration()?;
    lab.wait_standing("waiting")?;
    lab.wait_for("the daemon to end", "! systemctl is-active -q connect-migrator@prod")?;
    is_handled(lab, "waiting", "98.0")?;
    lab.must("connect-migrator rollback prod --yes")?;
    lab.wait_standing("rolled-back")?;
    lab.assert_as_before()?;

    let slow = Runbook { soak: Runbook::that_waits().soak, ..Runbook::tag("slow") };
    lab.write_runbook(&slow.text())?;
    lab.must("systemctl start --no-block connect-migrator@prod")?;
    lab.wait_for(
        "Connect to be started in the container",
        r"docker top connect-prod -o pid,args 2>/dev/null | grep -Eq '^[0-9 ]+/opt/rstudio-connect/bin/connect'",
    )?;
    is_handled(lab, "in its window", "99.0")?;
    lab.wait_soak()?;
    lab.assert_moved()?;
    is_handled(lab, "in its soak", "100.0")?;
    lab.must("systemctl stop connect-migrator@prod")?;
    is_handled(lab, "parked", "101.0")?;
    // The version of now carries out what that of then began.
    ensure!(lab.start_migration()?, "it does not go on");
    lab.wait_soak()?;
    lab.must("connect-migrator commit prod --yes")?;
    lab.wait_standing("committed")?;
    lab.assert_moved()?;

    let removed = lab.machine.run_within("dpkg -P connect-migrator 2>&1", COMMAND_DEADLINE)?;
    ensure!(removed.success(), "after the end it cannot be purged:\n{}", removed.stdout);
    lab.assert_never_two()
}
