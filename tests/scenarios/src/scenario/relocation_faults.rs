//! Database and data are on their way, and something fails: nothing is lost, and one of the two good states is reached.

use super::kills::kill;
use super::{On, Scenario, local};
use crate::ensure;
use crate::lab::{Lab, Runbook, Tried, standing};
use crate::local::{COMPARES, GCFG, OLD_DATA, Relocation};
use serde_json::Value;

pub(super) const ALL: &[Scenario] = &[
    local(
        "killed in the first copy and at each step of the window while files change and the NFS server is away: it ends moved",
        On::None,
        On::One,
        killed_and_starved,
    ),
    local(
        "the power is cut in the midst of the copy: it resumes and ends well, and is there after a reboot",
        On::None,
        On::One,
        power_cut,
    ),
    local(
        "the tool fails half-way, the disk of the target is full, the new server is never healthy: each time as before",
        On::None,
        On::One,
        rolled_back,
    ),
    local(
        "a quota is met in the midst of the first copy: told as one, as before; with more of it the same runbook ends moved",
        On::None,
        On::One,
        quota,
    ),
    local(
        "rollback after users worked on the new server: what they did is on the source, on PostgreSQL",
        On::None,
        On::One,
        after_traffic,
    ),
];

/// So slow that a first pass over the lab's data can be met in its midst.
const SLOWLY: &str = ", bytes-per-second = 1000000";
/// How long the NFS server is away.
const AWAY_SECONDS: u32 = 600;

const WRITER: &str = include_str!("../guest/writer.sh");

/// Starts a migration that is caught in the midst of its first copy.
fn in_the_first_copy(lab: &Lab, rest: Runbook) -> Tried {
    lab.write_runbook(&Relocation::storage(SLOWLY).runbook(rest).text())?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_for("the copy to be under way", "test $(find /srv/nfs/connect -name data | wc -l) -gt 3")
}

fn killed_and_starved(lab: &Lab) -> Tried {
    lab.watch_for_two()?;
    lab.can_compare()?;
    // As content does that runs: it writes what it likes, until it is stopped.
    lab.machine.write_file("/root/lab/writer.sh", WRITER)?;
    lab.must("systemd-run --quiet --collect --unit=lab-writer bash /root/lab/writer.sh")?;
    in_the_first_copy(lab, Runbook { after_stop: COMPARES.into(), ..Runbook::default() })?;

    // The server goes away in the midst: told, not a hang.
    lab.must("systemctl stop nfs-server")?;
    lab.wait_for(
        "the status to tell it",
        "systemctl show -P StatusText connect-migrator@prod | grep -q 'waiting for the NFS server since'",
    )?;
    lab.must("timeout 60 connect-migrator status prod")?;
    let journal = lab.ask("journalctl -q INSTANCE=prod STEP=storage -o cat --no-pager")?;
    ensure!(journal.contains("waiting for the NFS server since"), "the journal does not tell it:\n{journal}");
    std::thread::sleep(std::time::Duration::from_secs(AWAY_SECONDS.into()));
    let before = lab.doing()?;
    ensure!(before.contains("waiting for the NFS server since"), "after {AWAY_SECONDS} s it says {before:?}");
    // The time in which clients reclaim what they had is 90 s otherwise.
    lab.must("echo 10 >/proc/fs/nfsd/nfsv4gracetime; systemctl start nfs-server")?;
    lab.wait_for(
        "the copy to go on",
        "! systemctl show -P StatusText connect-migrator@prod | grep -q 'waiting for the NFS server'",
    )?;

    // Killed in the first copy, and then whenever a call of these begins.
    kill(lab, "--only 'apply database,apply storage,verify database' --after-ms 400,0,1500")?;
    lab.must("kill -9 $(systemctl show -P MainPID connect-migrator@prod)")?;
    let status = lab.wait_standing("committed")?;
    ensure!(standing(&status) == "committed", "it ended {}", standing(&status));
    let killed = lab.ask("cat /root/lab/killed")?;
    for need in ["apply database", "apply storage"] {
        ensure!(killed.lines().any(|line| line == need), "not killed at `{need}`, but at\n{killed}");
    }
    let compared = lab.compared_equal()?;
    println!("     {compared}");
    lab.never_two_seen()?;
    assert_served(lab)
}

/// What is left to say when files of the source were changed on purpose before it was stopped.
fn assert_served(lab: &Lab) -> Tried {
    let unit = lab.ask("systemctl is-active rstudio-connect; systemctl is-enabled rstudio-connect")?;
    ensure!(unit == "inactive\nmasked", "the old unit is {unit:?}");
    let (now, before) = (lab.content_now()?, &lab.before.content);
    ensure!(now.trim() == before.trim(), "content is not served as before:\n{now}\nwas\n{before}");
    lab.assert_never_two()
}

fn power_cut(lab: &Lab) -> Tried {
    lab.can_compare()?;
    in_the_first_copy(lab, Runbook { after_stop: COMPARES.into(), ..Runbook::default() })?;
    lab.machine.power_cut()?;
    let state = lab.machine.boot()?;
    ensure!(matches!(state.as_str(), "running" | "degraded"), "the machine came up {state}");
    let end = lab.assert_good_relocation()?;
    ensure!(end == "committed", "it ended {end}");
    println!("     {}", lab.compared_equal()?);
    lab.machine.reboot()?;
    lab.wait_for(
        "the container to serve after a reboot",
        "curl -fs -m 5 -o /dev/null http://connect.example.com/__ping__",
    )?;
    lab.assert_relocated()
}

fn rolled_back(lab: &Lab) -> Tried {
    lab.watch_for_two()?;
    // The tool.
    lab.must("echo 'migrate-fault = \"fail\"' >>/opt/rstudio-connect/standin.toml")?;
    lab.start_another(&Relocation::default().runbook(Runbook::default()).text())?;
    back_because(lab, "database", "unexpected EOF")?;
    lab.must("sed -i /migrate-fault/d /opt/rstudio-connect/standin.toml")?;
    lab.assert_as_before()?;

    // The disk, filled once the checks found room.
    lab.must(
        "systemd-run --quiet --collect --unit=lab-full bash -ec '/root/lab/state-watcher await prepare storage
         fallocate -l $(( $(df --output=avail -B1 /srv/nfs/connect | tail -n 1) - 3000000 )) /srv/nfs/connect/lost+found/full'",
    )?;
    lab.start_another(&Relocation::default().runbook(Runbook::default()).text())?;
    let status = back_because(lab, "storage", "No space left")?;
    let windows = status.get("windows").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(windows == 0, "users were not served for a while: {status}");
    lab.must("rm /srv/nfs/connect/lost+found/full")?;
    lab.assert_as_before()?;

    // The new server, when database and data are there already.
    let rest = Runbook::tag("never-healthy").container(r#", start-timeout = "15s""#);
    lab.start_another(&Relocation::default().runbook(rest).text())?;
    back_because(lab, "container", "does not answer")?;
    lab.assert_as_before()?;
    lab.never_two_seen()
}

/// An export with a quota that also binds root: a subvolume of btrfs.
const EXPORT_WITH_QUOTA: &str =
    "set -e; modprobe btrfs; truncate -s 512M /srv/quota.img; mkfs.btrfs -q /srv/quota.img
     mkdir /srv/quota; mount -o loop /srv/quota.img /srv/quota; btrfs quota enable /srv/quota
     btrfs subvolume create /srv/quota/connect >/dev/null; btrfs qgroup limit 3M /srv/quota/connect
     exportfs -o rw,no_root_squash,no_subtree_check,fsid=3 127.0.0.1:/srv/quota/connect";

fn quota(lab: &Lab) -> Tried {
    lab.must(EXPORT_WITH_QUOTA)?;
    let storage = Relocation { export: "127.0.0.1:/srv/quota/connect".into(), ..Relocation::default() };
    let runbook = storage.runbook(Runbook::default()).text();
    lab.start_another(&runbook)?;
    let status = back_because(lab, "storage", "quota")?;
    let windows = status.get("windows").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(windows == 0, "users were not served for a while: {status}");
    let left = lab.ask("find /srv/quota/connect -mindepth 1 | wc -l")?;
    ensure!(left == "0", "{left} entries of ours were left at the target");
    lab.assert_as_before()?;

    lab.must("btrfs qgroup limit none /srv/quota/connect")?;
    lab.can_compare()?;
    let rest = Runbook { after_stop: COMPARES.into(), ..Runbook::default() };
    lab.start_another(&storage.runbook(rest).text())?;
    lab.wait_standing("committed")?;
    println!("     {}", lab.compared_equal()?);
    lab.assert_relocated()
}

/// Waits for the end of a rollback, and asserts why it was made and that nothing was left.
fn back_because(lab: &Lab, step: &str, why: &str) -> Tried<Value> {
    let status = lab.wait_standing("rolled-back")?;
    let cause =
        |key: &str| status.pointer(&format!("/cause/{key}")).and_then(Value::as_str).unwrap_or_default();
    ensure!(
        cause("step") == step && cause("why").contains(why),
        "rolled back because of `{}`: {}; expected `{step}` and something with `{why}`",
        cause("step"),
        cause("why")
    );
    ensure!(!cause("remedy").is_empty(), "no remedy is told for: {}", cause("why"));
    let left = status.get("left").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(left == 0, "something was left: {status}");
    Ok(status)
}

fn after_traffic(lab: &Lab) -> Tried {
    lab.watch_for_two()?;
    lab.can_compare()?;
    let rest = Runbook { after_stop: COMPARES.into(), ..Runbook::that_waits() };
    lab.write_runbook(&Relocation::default().runbook(rest).text())?;
    // Said beforehand.
    let plan = lab.ask("connect-migrator plan prod")?;
    let plan: Vec<&str> = plan.split_whitespace().collect();
    ensure!(plan.join(" ").contains("the source comes back on PostgreSQL"), "the plan does not say it");
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_soak()?;
    println!("     {}", lab.compared_equal()?);
    // Users work on the new server: a file is written, one is changed, one is gone; and a row is.
    lab.must(
        "cd /mnt/connect/apps/archive && echo new >written-by-users && echo changed >1/note-1 && rm 2/note-2 && rm -r 3 &&
         cd / && runuser -u postgres -- psql -qAtc \"insert into settings values ('lab.users', 'worked here')\" connect",
    )?;
    lab.must("connect-migrator rollback prod --yes")?;
    let status = lab.wait_standing("rolled-back")?;
    lab.never_two_seen()?;
    let left = status.get("left").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(left == 0, "something was left: {status}");

    let (here, there) = (lab.ask("hostname")?, lab.served_by()?);
    ensure!(here == there, "the URL is served by {there}, not by the host");
    let gcfg = lab.must(&format!("cat {GCFG}"))?;
    ensure!(
        gcfg.contains("Provider = postgres") && gcfg.contains(&format!("DataDir = {OLD_DATA}")),
        "the configuration is\n{gcfg}"
    );
    lab.must(&format!(
        "set -e; cd {OLD_DATA}/apps/archive
         test \"$(cat written-by-users)\" = new; test \"$(cat 1/note-1)\" = changed; test ! -e 2/note-2; test ! -e 3
         # What that replaced is kept, under numbers that a list explains.
         cd {OLD_DATA}.before-rollback-*; grep -q '/3/data$' list
         test \"$(cat $(grep '/2/note-2$' list | cut -f 1))\" = 'note 2 2'"
    ))?;
    let row = lab.ask("cd /; runuser -u postgres -- psql -qAtc \"select value from settings where name = 'lab.users'\" connect")?;
    ensure!(row == "worked here", "the row that users made is {row:?}");
    let now = lab.content_now()?;
    ensure!(now.trim() == lab.before.content.trim(), "content is not served as before:\n{now}");
    let report = lab.ask("cat /var/lib/connect-migrator/prod/report.txt")?;
    ensure!(
        report.split_whitespace().collect::<Vec<_>>().join(" ").contains("comes back on PostgreSQL"),
        "the report does not say it:\n{report}"
    );
    lab.assert_never_two()
}
