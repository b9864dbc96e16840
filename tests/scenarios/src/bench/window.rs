//! The window of our migration beside that of the vendor's manual steps, and what the daemon itself costs.

use super::{median, table};
use crate::ensure;
use crate::lab::{Lab, MIGRATION_DEADLINE, Runbook, Tried};
use serde_json::Value;

/// How often each is measured, in turn.
const ROUNDS: usize = 3;
/// How much longer our window may be than the vendor's: two intervals of the prober.
const TOLERANCE_SECONDS: f64 = 0.02;
/// How often a step host is started to measure it.
const CALLS: u32 = 10;

const VENDOR: &str = include_str!("../guest/vendor.sh");

/// nginx tells which server answered.
pub(super) const TELL_UPSTREAM: &str = r#"sed -i 's|^    location / {|    add_header X-Upstream "$upstream_addr";\n&|' /etc/nginx/sites-available/connect
    nginx -tq && systemctl reload nginx"#;

pub(super) fn run(lab: &Lab) -> Tried {
    lab.machine.copy_to(&lab.artifacts.prober, "/root/lab/window-prober")?;
    lab.machine.write_file("/root/lab/vendor.sh", VENDOR)?;
    lab.must(TELL_UPSTREAM)?;
    lab.must("bash /root/lab/vendor.sh prepare")?;

    // The vendor's steps clear the caches when users are served again; by default ours are cleared before.
    let head =
        ["round", "ours, in the vendor's order", "vendor's steps", "ratio", "ours, caches cleared first"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut went = Vec::new();
    let (mut ours, mut theirs, mut ratios, mut cleared) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let first = there_and_back(lab, false)?;
        let mine = there_and_back(lab, true)?;
        if round == ROUNDS {
            went = where_it_goes(lab)?;
        }
        let vendor = probed(lab, ":3939", ":3940", || lab.must("bash /root/lab/vendor.sh move").map(drop))?;
        lab.must("bash /root/lab/vendor.sh undo")?;
        let ratio = format!("{:.2}", mine / vendor);
        rows.push(vec![round.to_string(), seconds(mine), seconds(vendor), ratio, seconds(first)]);
        ours.push(mine);
        theirs.push(vendor);
        ratios.push(mine / vendor);
        cleared.push(first);
    }
    let (mine, vendor) = (median(&ours), median(&theirs));
    let ratio = format!("{:.2}", median(&ratios));
    rows.push(vec!["median".into(), seconds(mine), seconds(vendor), ratio, seconds(median(&cleared))]);
    println!("   The window, seen through nginx every 10 ms");
    table(&rows);
    println!("\n   The calls of the last round, from the maintenance page on");
    table(&went);
    println!();
    at_rest(lab)?;
    lab.assert_never_two()?;
    ensure!(
        mine <= vendor + TOLERANCE_SECONDS,
        "the window of {mine:.2} s is longer than the {vendor:.2} s of the vendor's steps"
    );
    Ok(())
}

/// One migration whose soak ends in a rollback, so that the next round finds the same machine. Answers its window.
fn there_and_back(lab: &Lab, caches_after_route: bool) -> Tried<f64> {
    let soak = r#"{ for = "1s", then = "rollback", every = "1s" }"#.into();
    lab.write_runbook(&Runbook { soak, caches_after_route, ..Runbook::default() }.text())?;
    let window = probed(lab, ":3939", ":3940", || starts_and_soaks(lab))?;
    lab.wait_standing("rolled-back")?;
    lab.must("journalctl --rotate -q; journalctl --vacuum-time=1s -q 2>/dev/null")?;
    Ok(window)
}

/// Starts the migration and waits for its soak. It reads the journal: to ask for the status would take part in what is measured.
pub(super) fn starts_and_soaks(lab: &Lab) -> Tried {
    ensure!(lab.start_migration()?, "it did not start");
    let told = |what: &str| format!("journalctl -q INSTANCE=prod --no-pager -o cat -n 200 | grep -q {what}");
    lab.machine.wait_for(
        "the soak, or the way back",
        MIGRATION_DEADLINE,
        &told("-e 'the soak begins' -e 'rolls back because'"),
    )?;
    ensure!(lab.machine.run(&told("'the soak begins'"))?.success(), "it was rolled back");
    Ok(())
}

/// The calls from the maintenance page to the proxy's last one: when each began, and how long it took.
fn where_it_goes(lab: &Lab) -> Tried<Vec<Vec<String>>> {
    let told = lab.ask(
        "connect-migrator status prod --json | jq -r '[.steps[] | .id as $id | .calls[] | select(.of == null and .seconds != null) \
         | {id: $id, op, started, seconds}] | sort_by(.started) | .[] | \"\\(.id) \\(.op) \\(.started) \\(.seconds)\"'",
    )?;
    let rows = told.lines().map(|line| line.split(' ').map(str::to_owned).collect());
    Ok(rows
        .skip_while(|row: &Vec<String>| row.get(1).is_none_or(|op| op != "enter-window"))
        .take(12)
        .collect())
}

pub(super) fn seconds(value: f64) -> String {
    format!("{value:.2} s")
}

/// How long users were not served while this was done, between answers of the servers `from` and `to`.
pub(super) fn probed(lab: &Lab, from: &str, to: &str, work: impl FnOnce() -> Tried) -> Tried<f64> {
    lab.must(
        "rm -f /root/lab/probed-enough; systemd-run --quiet --unit=lab-probe --collect \
         --property=StandardOutput=truncate:/root/lab/probed /root/lab/window-prober --timeout-ms 5000 \
         --until /root/lab/probed-enough; sleep 1",
    )?;
    let done = work();
    // Some good answers from the new server belong to it.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let text = lab.must(
        "touch /root/lab/probed-enough; while systemctl is-active -q lab-probe; do sleep 0.1; done; cat /root/lab/probed",
    )?;
    done?;
    let probed: Value = serde_json::from_str(&text)?;
    let word = |key: &str| probed.get(key).and_then(Value::as_str).unwrap_or_default();
    ensure!(
        word("from").ends_with(from) && word("to").ends_with(to),
        "the prober did not see a time without service between {from} and {to}: {probed}"
    );
    probed.get("seconds").and_then(Value::as_f64).ok_or_else(|| format!("no figure: {probed}").into())
}

/// What the daemon costs while nothing is to be done.
fn at_rest(lab: &Lab) -> Tried {
    lab.write_runbook(&Runbook::that_waits().text())?;
    ensure!(lab.start_migration()?, "it did not start");
    lab.wait_soak()?;
    lab.must("systemctl stop connect-migrator@prod")?;
    let began = std::time::Instant::now();
    ensure!(lab.start_migration()?, "it did not go on");
    let start = began.elapsed().as_secs_f64();
    lab.wait_soak()?;
    let timing = lab.ask(
        "systemctl show connect-migrator@prod -P ExecMainStartTimestampMonotonic -P ActiveEnterTimestampMonotonic",
    )?;
    let stamps: Vec<f64> = timing.lines().filter_map(|line| line.parse().ok()).collect();
    let ready = match stamps.as_slice() {
        [began, ready] => (ready - began) / 1e6,
        _ => return Err(format!("systemd tells no times: {timing:?}").into()),
    };
    let memory = lab.ask(
        "awk '/VmRSS|RssAnon/ { print $2 }' /proc/$(systemctl show -P MainPID connect-migrator@prod)/status",
    )?;
    let memory: Vec<f64> = memory.lines().filter_map(|line| line.parse().ok()).collect();
    let (rss, anonymous) = match memory.as_slice() {
        [rss, anonymous] => (rss / 1024.0, anonymous / 1024.0),
        _ => return Err(format!("the daemon's memory is not known: {memory:?}").into()),
    };
    let calls: f64 = lab
        .ask(&format!(
            "t0=$(date +%s%N); for i in $(seq {CALLS}); do connect-migrator status prod --json >/dev/null; done; \
             t1=$(date +%s%N); echo $(( (t1 - t0) / {CALLS} ))"
        ))?
        .parse()?;
    let verify = lab.ask(
        "connect-migrator status prod --json | jq '[.steps[].calls[] | select(.op == \"verify\" and .seconds != null) | .seconds] | min'",
    )?;
    let verify: f64 = verify.parse().unwrap_or(f64::NAN);
    table(&[
        vec![
            "the daemon at rest, resident memory".into(),
            format!("{rss:.1} MiB, of it its own {anonymous:.1} MiB"),
        ],
        vec!["from its start until it is ready, state recovered".into(), format!("{:.0} ms", ready * 1e3)],
        vec!["`systemctl start` of a parked migration".into(), format!("{:.0} ms", start * 1e3)],
        vec!["`connect-migrator status`, start to end".into(), format!("{:.0} ms", calls / 1e6)],
        vec![
            "a step's call: host started, plugin loaded, called".into(),
            format!("{:.0} ms (the shortest verify)", verify * 1e3),
        ],
    ]);
    lab.must("connect-migrator rollback prod --yes")?;
    lab.wait_standing("rolled-back").map(drop)
}
