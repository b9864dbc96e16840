//! Our package is installed, upgraded, removed.

use super::{Scenario, each_with_all};
use crate::ensure;
use crate::lab::{COMMAND_DEADLINE, Lab, Runbook, Tried};

pub(super) const ALL: &[Scenario] = &[each_with_all(
    "the package is upgraded in mid-migration without a restart, not removed then, and purged cleanly",
    package,
)];

/// The same package with a higher version and another binary.
const REPACK: &str = r"set -e
cd /root/lab && rm -rf repacked && dpkg-deb -R connect-migrator.deb repacked
sed -i 's/^Version: .*/Version: 99.0/' repacked/DEBIAN/control
echo >>repacked/usr/bin/connect-migrator
rm -f repacked/DEBIAN/md5sums
dpkg-deb -b -Zgzip -z1 --root-owner-group repacked upgrade.deb";

const APT: &str = "DEBIAN_FRONTEND=noninteractive apt-get -qy";

/// Everything of ours, wherever it may lie.
const OURS: &str = "find / -xdev \\( -path /proc -o -path /sys -o -path /root -o -path /tmp -o -path /var/log/journal \
    -o -path /var/log/apt -o -path /var/lib/docker -o -path /usr/share/doc \\) -prune -o \
    \\( -name '*connect-migrator*' -o -name '*connect_migrator*' \\) -print";

fn refuses_removal(lab: &Lab) -> Tried {
    let removal = lab.machine.run_within(&format!("{APT} remove connect-migrator 2>&1"), COMMAND_DEADLINE)?;
    ensure!(!removal.success(), "it was removed while a migration was under way:\n{}", removal.stdout);
    ensure!(removal.stdout.contains("rollback"), "the refusal does not say what to do:\n{}", removal.stdout);
    Ok(())
}

fn package(lab: &Lab) -> Tried {
    lab.write_runbook(&Runbook::that_waits().text())?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_soak()?;

    let daemon = || lab.ask("systemctl show -P MainPID -P NRestarts connect-migrator@prod");
    let before = daemon()?;
    lab.must(REPACK)?;
    lab.machine.check_within(&format!("{APT} install /root/lab/upgrade.deb 2>&1"), COMMAND_DEADLINE)?;
    let version = lab.ask("dpkg-query -W -f '${Version}' connect-migrator")?;
    ensure!(version == "99.0", "the upgrade left version {version}");
    ensure!(daemon()? == before, "the upgrade restarted the daemon: {before} became {}", daemon()?);
    ensure!(lab.ask("systemctl is-active connect-migrator@prod")? == "active", "the daemon ended");

    refuses_removal(lab)?;
    ensure!(
        lab.ask("systemctl is-active connect-migrator@prod")? == "active",
        "the refused removal ended the daemon"
    );
    lab.must("systemctl stop connect-migrator@prod")?;
    refuses_removal(lab)?;
    lab.must(&format!("{APT} install /root/lab/upgrade.deb 2>&1; dpkg --configure -a"))?;

    // The new version carries out what the old one began.
    lab.must("connect-migrator rollback prod --yes")?;
    lab.wait_standing("rolled-back")?;
    lab.assert_as_before()?;

    lab.must(&format!("{APT} purge connect-migrator 2>&1"))?;
    let state = lab.ask("dpkg -l connect-migrator 2>/dev/null | tail -n 1 | cut -c1-2")?;
    ensure!(state.is_empty() || state == "un", "dpkg says {state}");
    let left = lab.ask(OURS)?;
    ensure!(left == "/etc/connect-migrator" || left.is_empty(), "purge left\n{left}");
    let left = lab.ask("ls /etc/connect-migrator")?;
    ensure!(
        left == "prod.toml",
        "purge left in /etc/connect-migrator, besides the administrator's own runbook:\n{left}"
    );
    let broken = lab.ask("systemctl list-units --failed --plain --no-legend")?;
    ensure!(broken.is_empty(), "units failed:\n{broken}");
    lab.assert_as_before()
}
