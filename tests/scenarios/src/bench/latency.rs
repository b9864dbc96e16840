//! What users notice while the data are copied: how long answers take at rest, and beside each way of copying.

use super::{median, table};
use crate::artifacts::{self, Artifacts};
use crate::ensure;
use crate::lab::{Lab, Tried};
use crate::local::{self, OLD_DATA};
use connect_migrator_rig::Suite;
use serde_json::Value;

/// How often each is measured, in turn.
const ROUNDS: usize = 3;
/// Files of the tree that is copied.
const FILES: u32 = 1_500;
/// How long answers are measured at rest.
const REST_SECONDS: u32 = 15;
/// The rate that a runbook may set.
const BYTES_PER_SECOND: u32 = 2_000_000;

/// A tree to copy, an export with room for it, and an item of content whose page lies in the data directory.
const PREPARE: &str = "set -e; mkdir -p /srv/latency /mnt/latency
     exportfs -o rw,no_root_squash,no_subtree_check,fsid=4 127.0.0.1:/srv/latency
     mount -t nfs4 -o vers=4.2,hard,lookupcache=pos,noatime 127.0.0.1:/srv/latency /mnt/latency";
/// Published, and plain enough to be answered without a session.
const ITEM: &str = r#"curl -fsS -H @/root/lab/keys/admin.header http://connect.example.com/__api__/v1/content |
     jq -r '[.[] | select(.bundle_id != null and .app_mode != "shiny" and .access_type == "all") | .guid][0]'"#;

struct Row {
    what: String,
    command: String,
    seconds: Vec<f64>,
    half: Vec<f64>,
    most: Vec<f64>,
}

pub(super) fn run(suite: Suite, artifacts: &Artifacts) -> Tried {
    let lab = Lab::fresh(&local::snapshot(suite, artifacts)?, artifacts)?;
    lab.machine.copy_to(&lab.artifacts.prober, "/root/lab/window-prober")?;
    lab.machine.copy_to(&lab.artifacts.copier, "/root/lab/copier")?;
    lab.machine.copy_to(&artifacts::grow_tree()?, "/root/lab/grow-tree")?;
    lab.must(super::window::TELL_UPSTREAM)?;
    lab.must(PREPARE)?;
    lab.must(&format!("/root/lab/grow-tree {OLD_DATA}/apps/grown {FILES} >/dev/null"))?;
    let item = lab.ask(ITEM)?;
    ensure!(item.len() > 8, "no item of content for all: {item:?}");
    let ours =
        format!("/root/lab/copier copy --manifest /root/lab/latency.manifest {OLD_DATA} /mnt/latency/copy");
    let rsync = format!("rsync -aHAX --numeric-ids {OLD_DATA}/ /mnt/latency/copy/");
    let mut rows: Vec<Row> = [
        ("nothing is copied".to_owned(), format!("sleep {REST_SECONDS}")),
        ("rsync".into(), rsync.clone()),
        ("rsync, `nice -n 19 ionice -c 3`".into(), format!("nice -n 19 ionice -c 3 {rsync}")),
        ("ours, `idle = false`".into(), ours.clone()),
        ("ours, as it is set (`idle = true`)".into(), format!("{ours} --idle")),
        (
            format!("ours, `bytes-per-second = {BYTES_PER_SECOND}`"),
            format!("{ours} --idle --bytes-per-second {BYTES_PER_SECOND}"),
        ),
    ]
    .into_iter()
    .map(|(what, command)| Row { what, command, seconds: vec![], half: vec![], most: vec![] })
    .collect();
    for _ in 0..ROUNDS {
        for row in &mut rows {
            row.measure(&lab, &item)?;
        }
    }
    println!(
        "   A page of content asked for through nginx every 50 ms while {FILES} files and the lab's own are copied to NFS"
    );
    let mut told =
        vec![["", "copied in", "answers: half of them", "all but 1 %"].map(str::to_owned).to_vec()];
    told.extend(rows.iter().map(Row::told));
    table(&told);
    Ok(())
}

impl Row {
    fn measure(&mut self, lab: &Lab, item: &str) -> Tried {
        // Ends with 3 or 23 where NFS does not take an access list.
        let text = lab.must(&format!(
            "set -e; rm -rf /mnt/latency/copy /root/lab/latency.manifest* /root/lab/latency-enough; mkdir /mnt/latency/copy
             sync; echo 3 >/proc/sys/vm/drop_caches
             /root/lab/window-prober --interval-ms 50 --timeout-ms 5000 --path /content/{item}/ --until /root/lab/latency-enough >/root/lab/latency.json &
             sleep 1; began=$(date +%s%N); status=0
             {} >/dev/null 2>&1 || status=$?
             ended=$(date +%s%N); touch /root/lab/latency-enough; wait
             [ $status = 0 ] || [ $status = 3 ] || [ $status = 23 ]
             jq -c --argjson copied $(( ended - began )) '. + {{copied: $copied}}' /root/lab/latency.json",
            self.command
        ))?;
        let measured: Value = serde_json::from_str(&text)?;
        let number = |at: &str| measured.pointer(at).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let good: u64 = measured.get("outcomes").and_then(Value::as_object).map_or(0, |outcomes| {
            outcomes.iter().filter(|(by, _)| by.contains(':')).filter_map(|(_, n)| n.as_u64()).sum()
        });
        ensure!(good > 20, "too few good answers: {measured}");
        self.seconds.push(number("/copied") / 1e9);
        self.half.push(number("/answer_ms/p50"));
        self.most.push(number("/answer_ms/p99"));
        Ok(())
    }

    fn told(&self) -> Vec<String> {
        vec![
            self.what.clone(),
            format!("{:.1} s", median(&self.seconds)),
            format!("{:.0} ms", median(&self.half)),
            format!("{:.0} ms", median(&self.most)),
        ]
    }
}
