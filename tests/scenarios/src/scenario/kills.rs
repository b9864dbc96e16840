//! The daemon is killed, the power is cut: it goes on by itself and ends well.

use super::{Scenario, one, one_with_all};
use crate::ensure;
use crate::lab::{Lab, MIGRATION_DEADLINE, Runbook, Tried};
use std::time::Duration;

pub(super) const ALL: &[Scenario] = &[
    one_with_all(
        "killed with -9 in every phase, at every new call: it resumes by itself and ends moved",
        on_the_way,
    ),
    one_with_all(
        "killed with -9 at every call of a rollback: it resumes by itself and ends as before",
        on_the_way_back,
    ),
    one_with_all(
        "killed with -9 in the midst of a step: the step goes on, and its real end is learnt",
        goes_on,
    ),
    one_with_all(
        "the machine is rebooted in the window: it goes on after the boot by itself and ends well",
        rebooted,
    ),
    one("the power is cut while the container starts: it resumes after the boot and ends well", power_cut),
];

/// A product that crashes over and over is given up by systemd after 20 starts in 10 minutes; here every crash is ours.
const NO_LIMIT: &str = "mkdir -p /run/systemd/system/connect-migrator@.service.d
    printf '[Unit]\\nStartLimitIntervalSec=0\\n' >/run/systemd/system/connect-migrator@.service.d/lab.conf
    systemctl daemon-reload";

/// How long a migration may take whose daemon is killed some forty times: each time systemd waits a second, and the next start
/// takes several in the emulated machine. The watcher kills no longer than that.
const KILLED_DEADLINE: Duration = Duration::from_secs(1500);

/// Starts the watcher that kills, in the background. It watches when this returns.
pub(super) fn kill(lab: &Lab, arguments: &str) -> Tried {
    lab.must(NO_LIMIT)?;
    lab.must(&format!(
        "systemd-run --quiet --unit=lab-kill --property=StandardOutput=file:/root/lab/killed \
         /root/lab/state-watcher --within {} kill {arguments}",
        KILLED_DEADLINE.as_secs()
    ))?;
    lab.wait_for("the watcher to watch", "grep -qx watching /root/lab/killed")
}

/// What was killed; every one of `needed` must be among it.
fn killed(lab: &Lab, needed: &[&str]) -> Tried<Vec<String>> {
    let killed: Vec<String> = lab.ask("cat /root/lab/killed")?.lines().map(str::to_owned).collect();
    for need in needed {
        ensure!(killed.iter().any(|kill| kill == need), "not killed at `{need}`; killed at {killed:?}");
    }
    Ok(killed)
}

fn on_the_way(lab: &Lab) -> Tried {
    // At once, so that the call may not have begun; and a while later, in the midst of it.
    kill(lab, "--after-ms 0,60,300")?;
    // The first start fails: its daemon is killed before it is ready.
    lab.start_migration()?;
    let end = lab.assert_good_end_within(KILLED_DEADLINE)?;
    let killed = killed(
        lab,
        &[
            "started",
            "check stop",
            "prepare container",
            "enter-window route",
            "apply stop",
            "apply container",
            "apply caches",
            "apply route",
            "verify container",
            "soak-started",
            "commit-decided",
            "closed",
        ],
    )?;
    ensure!(end == "committed", "after {} kills it ended {end}", killed.len());
    ended_once(lab)
}

/// Asserts that a daemon which was cut off at the end did not begin another migration.
fn ended_once(lab: &Lab) -> Tried {
    lab.wait_for("the daemon to end", "! systemctl is-active -q connect-migrator@prod")?;
    let count = "sqlite3 -readonly /var/lib/connect-migrator/prod/state.db 'select count(distinct migration) from event'";
    let migrations = lab.ask(count)?;
    ensure!(migrations == "1", "{migrations} migrations were begun, one was asked for");
    let left = lab.ask("systemctl is-enabled connect-migrator@prod")?;
    ensure!(left == "disabled", "the unit was armed for the time of the migration and stays {left}");
    Ok(())
}

fn on_the_way_back(lab: &Lab) -> Tried {
    lab.write_runbook(&Runbook::that_waits().text())?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_soak()?;
    kill(lab, "--only rollback,probe,closed --after-ms 0,60,300")?;
    lab.must("connect-migrator rollback prod --yes --no-wait")?;
    let end = lab.assert_good_end_within(KILLED_DEADLINE)?;
    ensure!(end == "rolled-back", "it ended {end}");
    killed(
        lab,
        &[
            "rollback-decided",
            "rollback route apply",
            "rollback caches apply",
            "rollback container apply",
            "rollback stop apply",
            "rollback route enter-window",
            "closed",
        ],
    )?;
    ended_once(lab)
}

/// Keeps a copy of every step's unit, which is there for a moment only.
const KEEP_UNITS: &str = "mkdir -p /root/lab/units
    systemd-run --quiet --unit=lab-units sh -c 'while :; do
        cp -n /run/systemd/transient/connect-migrator-step-*.service /root/lab/units/ 2>/dev/null; sleep 0.05; done'";

/// The unit in which the container is started.
const CONTAINERS_UNIT: &str =
    "systemctl list-units --plain --no-legend 'connect-migrator-step-prod.*.service' |
    awk '/apply of the step `container`/ { print $1 }'";

/// What systemd thinks of the daemon and of every step's unit that was kept: the figure, and whose it is.
const FIGURES: &str = r#"cd /root/lab/units && systemctl stop lab-units
    systemd-analyze security --no-pager connect-migrator@prod | sed -n 's/^.*level for //p'
    for unit in *.service; do
        what=$(sed -n 's/^Description=[^:]*: //p' $unit | sed 's/^[a-z-]* of the step/step/')
        echo "$what: $(systemd-analyze security --no-pager --offline=true ./$unit | sed -n 's/^.*level for [^:]*: //p')"
    done | sort -u"#;

fn goes_on(lab: &Lab) -> Tried {
    // With no more than Connect needs, on a host with AppArmor.
    lab.write_runbook(&Runbook::tag("slow").container(r#", privileges = "sys-admin""#).text())?;
    lab.must(KEEP_UNITS)?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_for("the step that starts the container", &format!("{CONTAINERS_UNIT} | grep -q ."))?;
    let unit = lab.ask(CONTAINERS_UNIT)?;
    let main = format!("systemctl show -P MainPID {unit}");
    let before = lab.must(&main)?;
    lab.must("kill -9 $(systemctl show -P MainPID connect-migrator@prod)")?;
    ensure!(lab.must(&main)? == before, "the step did not go on without the daemon");
    let end = lab.assert_good_end()?;
    ensure!(end == "committed", "it ended {end}");
    // Made once, and not looked for in the world: the next daemon took part in it, or found how it had ended.
    let count = |what: &str| {
        lab.ask(&format!(
            "sqlite3 -readonly /var/lib/connect-migrator/prod/state.db \
             \"select count(*) from event where body ->> 'event' = 'intent' and body ->> 'step' = 'container' and body ->> 'op' = '{what}'\""
        ))
    };
    let (made, probed) = (count("apply")?, count("probe")?);
    ensure!(
        (made.as_str(), probed.as_str()) == ("1", "0"),
        "{made} applies and {probed} probes of the container"
    );
    let privileged = lab.must("docker inspect --format '{{.HostConfig.Privileged}}' connect-prod")?;
    ensure!(privileged.trim() == "false", "the container has all privileges");
    lab.assert_moved()?;
    let figures = lab.must(FIGURES)?;
    ensure!(figures.lines().count() > 8, "too few figures of units:\n{figures}");
    println!("{figures}");
    ended_once(lab)
}

/// A migration whose Connect has just been started in the container, and takes 20 s for it.
fn in_the_window(lab: &Lab) -> Tried {
    lab.write_runbook(&Runbook::tag("slow").text())?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.machine.wait_for(
        "Connect to be started in the container",
        MIGRATION_DEADLINE,
        // Before that a shell waits in it, whose arguments name Connect too.
        r"docker top connect-prod -o pid,args 2>/dev/null | grep -Eq '^[0-9 ]+/opt/rstudio-connect/bin/connect'",
    )?;
    Ok(())
}

fn rebooted(lab: &Lab) -> Tried {
    in_the_window(lab)?;
    let state = lab.machine.reboot()?;
    ensure!(matches!(state.as_str(), "running" | "degraded"), "the machine came up {state}");
    let end = lab.assert_good_end()?;
    println!("     it ended {end}");
    ended_once(lab)
}

fn power_cut(lab: &Lab) -> Tried {
    in_the_window(lab)?;
    lab.machine.power_cut()?;
    let state = lab.machine.boot()?;
    ensure!(matches!(state.as_str(), "running" | "degraded"), "the machine came up {state}");
    lab.assert_good_end()?;
    ended_once(lab)
}
