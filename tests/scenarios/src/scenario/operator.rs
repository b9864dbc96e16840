//! What an operator does.

use super::{Scenario, one_with_all};
use crate::artifacts::workspace;
use crate::ensure;
use crate::lab::{Lab, Runbook, Tried, standing};
use serde_json::Value;

pub(super) const ALL: &[Scenario] = &[
    one_with_all(
        "an operator parks, goes on, is refused a changed runbook, rolls back, begins anew and commits",
        operator,
    ),
    one_with_all(
        "by commands alone: pause, resume, a rollback that asks, and status that follows it to its end",
        by_commands,
    ),
];

fn operator(lab: &Lab) -> Tried {
    let runbook = Runbook::that_waits();
    lab.write_runbook(&runbook.text())?;
    is_as_published(lab, "status")?;
    is_as_published(lab, "check")?;
    is_as_published(lab, "plan")?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_soak()?;
    is_as_published(lab, "status")?;
    is_as_published(lab, "report")?;

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
    is_as_published(lab, "report")?;
    lab.assert_moved()
}

fn by_commands(lab: &Lab) -> Tried {
    lab.write_runbook(&Runbook::that_waits().text())?;
    // Before the unit counts as started: systemd must not take the end of the daemon for a failure and start it again.
    lab.must(
        "/root/lab/state-watcher await check stop & watcher=$!
         systemctl start --no-block connect-migrator@prod; wait $watcher; connect-migrator pause prod",
    )?;
    lab.wait_for(
        "the run to park in its checks",
        "systemctl show -P SubState connect-migrator@prod | grep -qx dead",
    )?;
    let told = lab.ask("systemctl show -P Result -P NRestarts connect-migrator@prod")?;
    ensure!(
        told.lines().collect::<Vec<_>>() == ["success", "0"],
        "after a pause in the checks systemd says {told:?}"
    );
    ensure!(standing(&lab.status()?) == "parked", "after a pause in the checks it is not parked");
    lab.must("connect-migrator resume prod")?;
    lab.wait_soak()?;
    lab.must("connect-migrator pause prod")?;
    lab.wait_for("the run to park", "! systemctl is-active -q connect-migrator@prod")?;
    let status = lab.status()?;
    ensure!(standing(&status) == "parked", "after `pause` it is {}", standing(&status));
    let enabled = "systemctl is-enabled connect-migrator@prod || true";
    ensure!(lab.ask(enabled)? == "disabled", "a reboot would go on with what was paused");
    lab.must("connect-migrator resume prod")?;
    lab.wait_soak()?;
    ensure!(lab.ask(enabled)? == "enabled", "a reboot would not go on with what runs");

    let asked = lab.machine.run("connect-migrator rollback prod </dev/null")?;
    ensure!(!asked.success(), "rollback did not ask");
    ensure!(standing(&lab.status()?) == "running", "a rollback that nobody agreed to was begun");
    for (unit, form) in [("lab-follow-lines", ""), ("lab-follow-objects", " --json")] {
        lab.must(&format!(
            "systemd-run --quiet --unit={unit} --property=StandardOutput=truncate:/root/lab/{unit} \
             --property=RemainAfterExit=yes connect-migrator status prod --follow{form}"
        ))?;
    }
    lab.must("connect-migrator rollback prod --yes")?;
    lab.wait_standing("rolled-back")?;
    followed(lab)?;
    lab.assert_as_before()
}

/// What `status --follow` told in a pipe, and with which exit codes it ended: as the migration did.
fn followed(lab: &Lab) -> Tried {
    for unit in ["lab-follow-lines", "lab-follow-objects"] {
        lab.wait_for(
            "`status --follow` to end",
            &format!("systemctl show -P SubState {unit} | grep -qE 'failed|exited'"),
        )?;
        let code = lab.ask(&format!("systemctl show -P ExecMainStatus {unit}"))?;
        ensure!(code == "3", "it ended with {code}, not with the 3 of a rollback");
    }
    let lines = lab.ask("cat /root/lab/lab-follow-lines")?;
    ensure!(lines.contains("route") && lines.contains("roll"), "it told\n{lines}");
    ensure!(!lines.contains('\u{1b}'), "in a pipe it paints: {lines:?}");
    let objects = lab.ask("cat /root/lab/lab-follow-objects")?;
    let mut last = Value::Null;
    for line in objects.lines() {
        last = serde_json::from_str(line).map_err(|error| format!("{error} in the line {line:?}"))?;
    }
    ensure!(objects.lines().count() > 1, "it told one object only:\n{objects}");
    ensure!(standing(&last) == "rolled-back", "the last object is {last}");
    Ok(())
}

/// What a command prints with `--json` is what its published schema says.
fn is_as_published(lab: &Lab, command: &str) -> Tried {
    let path = workspace().join(format!("packaging/schema/{command}.schema.json"));
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    let schema = jsonschema::draft202012::options().should_validate_formats(true).build(&schema)?;
    let printed = lab.ask(&format!("connect-migrator {command} prod --json"))?;
    let printed: Value = serde_json::from_str(&printed)
        .map_err(|error| format!("`{command} --json` printed no JSON ({error}):\n{printed}"))?;
    let wrong: Vec<String> =
        schema.iter_errors(&printed).map(|error| format!("{}: {error}", error.instance_path())).collect();
    ensure!(wrong.is_empty(), "`{command} --json` is not as {} says:\n{}", path.display(), wrong.join("\n"));
    Ok(())
}
