//! A Connect on SQLite and local disk: database, data and server are moved in one window.

use super::{On, Scenario, local};
use crate::ensure;
use crate::lab::{Lab, Runbook, Tried};
use crate::local::{COMPARES, Relocation, window};

pub(super) const ALL: &[Scenario] = &[local(
    "SQLite and local disk to a container on PostgreSQL and NFS in one window: all of it is there, and equal",
    On::One,
    On::Each,
    one_window,
)];

fn one_window(lab: &Lab) -> Tried {
    lab.can_compare()?;
    let rest = Runbook { after_stop: COMPARES.into(), ..Runbook::default() };
    lab.write_runbook(&Relocation::default().runbook(rest).text())?;
    let check = lab.machine.run("connect-migrator check prod")?;
    ensure!(check.success(), "check answers {}:\n{}{}", check.status, check.stdout, check.stderr);
    lab.watch_for_two()?;
    ensure!(lab.start_migration()?, "it did not start");
    let status = lab.wait_standing("committed")?;
    let compared = lab.compared_equal()?;
    lab.never_two_seen()?;
    lab.assert_relocated()?;
    println!("     the window was {:.1} s with this in it: {compared}", window(&status));
    let secret = lab.ask(
        "grep -rlaF lab-database-password /var/lib/connect-migrator /etc/rstudio-connect /etc/connect-migrator/containers; \
         journalctl -q --no-pager -o export INSTANCE=prod | grep -qaF lab-database-password && echo journal; true",
    )?;
    ensure!(secret.is_empty(), "the password stands in {secret}");
    Ok(())
}
