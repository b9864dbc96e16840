//! What an operator does.

use super::{Scenario, one};
use crate::ensure;
use crate::lab::{Lab, Runbook, Tried, standing};

pub(super) const ALL: &[Scenario] = &[one(
    "an operator parks, goes on, is refused a changed runbook, rolls back, begins anew and commits",
    operator,
)];

fn operator(lab: &Lab) -> Tried {
    let runbook = Runbook::that_waits();
    lab.write_runbook(&runbook.text())?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_soak()?;

    lab.must("systemctl stop connect-migrator@prod")?;
    let status = lab.status()?;
    ensure!(standing(&status) == "parked", "after `systemctl stop` it is {}", standing(&status));

    lab.write_runbook(&runbook.text().replace("parallelism = 4", "parallelism = 3"))?;
    ensure!(!lab.start_migration()?, "it went on with a changed runbook");
    let journal = lab.ask("journalctl -u connect-migrator@prod -n 30 -o cat --no-pager")?;
    let shown =
        journal.contains("-with = { parallelism = 4 }") && journal.contains("+with = { parallelism = 3 }");
    ensure!(shown, "the difference is not shown:\n{journal}");

    lab.write_runbook(&runbook.text())?;
    ensure!(lab.start_migration()?, "it did not go on");
    lab.wait_soak()?;
    // A soak that is over and waits for the operator commits nothing by itself.
    lab.wait_for(
        "the soak to be over",
        "systemctl show -P StatusText connect-migrator@prod | grep -q 'waits for'",
    )?;

    lab.must("connect-migrator rollback prod --yes")?;
    lab.wait_standing("rolled-back")?;
    lab.assert_as_before()?;

    ensure!(lab.start_migration()?, "it did not begin anew");
    lab.wait_soak()?;
    lab.must("connect-migrator commit prod --yes")?;
    lab.wait_standing("committed")?;
    lab.assert_moved()?;
    let late = lab.machine.run("connect-migrator rollback prod --yes")?;
    ensure!(!late.success(), "a committed migration was rolled back:\n{}", late.stdout);
    lab.assert_moved()
}
