//! A host that has never seen this program.

use super::{Scenario, one};
use crate::ensure;
use crate::lab::{COMMAND_DEADLINE, Lab, Tried};

pub(super) const ALL: &[Scenario] =
    &[one("from apt install to a started migration with init, in five commands", five_commands)];

/// Nothing of ours is left on the machine.
const PURGE: &str = "DEBIAN_FRONTEND=noninteractive apt-get -qy purge connect-migrator 2>&1 && \
    rm -rf /etc/connect-migrator /var/lib/connect-migrator";

const INIT: &str = "connect-migrator init prod --registry 127.0.0.1:5000 --api-key-file /root/lab/keys/admin";

fn five_commands(lab: &Lab) -> Tried {
    lab.machine.check_within(PURGE, COMMAND_DEADLINE)?;
    lab.machine.check_within(
        "DEBIAN_FRONTEND=noninteractive apt-get -qy install /root/lab/connect-migrator.deb 2>&1",
        COMMAND_DEADLINE,
    )?;
    let told = lab.ask(INIT)?;
    // The third command is the one that init says, as it says it.
    let store =
        told.lines().map(str::trim).find(|line| line.starts_with("install -D -m 0600 /root/lab/keys/admin "));
    let Some(store) = store else {
        return Err(format!("init does not say how the key is stored:\n{told}").into());
    };
    lab.must(store)?;
    let check = lab.machine.run_within("connect-migrator check prod 2>&1", COMMAND_DEADLINE)?;
    ensure!(check.success(), "what init wrote does not pass its check:\n{told}\n{}", check.stdout);
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_soak()?;

    let again = lab.machine.run(INIT)?;
    ensure!(!again.success(), "init replaced a runbook that was there");
    lab.must("connect-migrator commit prod --yes")?;
    lab.wait_standing("committed")?;
    lab.assert_moved()?;
    let report = lab.ask("connect-migrator report prod --output -")?;
    ensure!(
        report.contains("</html>") && report.contains("class=\"window\""),
        "the report is no page:\n{report}"
    );
    Ok(())
}
