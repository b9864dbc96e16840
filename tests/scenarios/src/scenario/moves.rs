//! The main job.

use super::{Scenario, other_or_each};
use crate::ensure;
use crate::lab::{Lab, Tried};
use serde_json::Value;

pub(super) const ALL: &[Scenario] = &[other_or_each(
    "a server is moved: same content at the same URL, and no secret is seen anywhere",
    moves,
)];

/// Searches for the lab's secrets while the migration runs: command lines and environments of all processes, again and again.
const WATCH: &str = r"
cat /root/lab/keys/admin >/root/lab/secrets
echo lab-database-password >>/root/lab/secrets
while [ ! -e /root/lab/watched-enough ]; do
	grep -laF -f /root/lab/secrets /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null
	rounds=$((${rounds:-0} + 1)); echo $rounds >/root/lab/watched-rounds
done >/root/lab/seen-in-processes
";

fn moves(lab: &Lab) -> Tried {
    let check = lab.machine.run("connect-migrator check prod")?;
    ensure!(check.success(), "check answers {}:\n{}{}", check.status, check.stdout, check.stderr);
    lab.machine.write_file("/root/lab/watch.sh", WATCH)?;
    lab.must("systemd-run --quiet --unit=lab-watch bash /root/lab/watch.sh")?;

    ensure!(lab.start_migration()?, "it did not start");
    let status = lab.wait_standing("committed")?;
    lab.must("touch /root/lab/watched-enough; while systemctl is-active -q lab-watch; do sleep 0.1; done")?;
    lab.assert_moved()?;

    let seen = lab.ask("cat /root/lab/seen-in-processes")?;
    ensure!(seen.is_empty(), "a secret was seen in processes:\n{seen}");
    let rounds: u32 = lab.ask("cat /root/lab/watched-rounds")?.parse()?;
    ensure!(rounds > 3, "the processes were looked at {rounds} times only");
    let plan = "connect-migrator plan prod 2>&1 | grep -aF -f /root/lab/secrets; true";
    let seen = lab.ask(plan)?;
    ensure!(seen.is_empty(), "a secret stands in what `plan` prints:\n{seen}");
    // A search that finds nothing anywhere proves nothing: the same search finds the password where it belongs.
    lab.must("grep -qF -f /root/lab/secrets /etc/rstudio-connect/rstudio-connect.gcfg")?;

    let window = status.pointer("/windows/0/seconds").and_then(Value::as_f64);
    ensure!(window.is_some_and(|seconds| seconds > 0.0), "the report tells no window: {window:?}");
    let report = lab.ask("cat /var/lib/connect-migrator/prod/report.txt")?;
    ensure!(report.contains("committed"), "the report is\n{report}");
    let journal = lab.ask("journalctl INSTANCE=prod STEP=container PHASE=apply -o json --no-pager | jq -r .MIGRATION_ID | sort -u")?;
    ensure!(journal.len() == 36, "the journal's fields name the migration {journal:?}");
    Ok(())
}
