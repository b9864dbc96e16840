//! One window for database, data and server beside the sum of the vendor's three procedures.

use super::table;
use super::window::{TELL_UPSTREAM, probed, seconds, starts_and_soaks};
use crate::artifacts::Artifacts;
use crate::ensure;
use crate::lab::{Lab, Runbook, Tried};
use crate::local::{self, Relocation};
use connect_migrator_rig::Suite;

const VENDOR: &str = include_str!("../guest/vendor-three.sh");
/// The procedures, and where users are served before and after each.
const PROCEDURES: [(&str, &str, &str); 3] =
    [("database", ":3939", ":3939"), ("storage", ":3939", ":3939"), ("container", ":3939", ":3940")];

pub(super) fn run(suite: Suite, artifacts: &Artifacts) -> Tried {
    let snapshot = local::snapshot(suite, artifacts)?;
    let fresh = || -> Tried<Lab> {
        let lab = Lab::fresh(&snapshot, artifacts)?;
        lab.machine.copy_to(&lab.artifacts.prober, "/root/lab/window-prober")?;
        lab.must(TELL_UPSTREAM)?;
        Ok(lab)
    };
    let lab = fresh()?;
    let rest = Runbook { caches_after_route: true, ..Runbook::default() };
    lab.write_runbook(&Relocation::default().runbook(rest).text())?;
    let ours = probed(&lab, ":3939", ":3940", || starts_and_soaks(&lab))?;
    lab.wait_standing("committed")?;
    drop(lab);

    let lab = fresh()?;
    lab.machine.write_file("/root/lab/vendor-three.sh", VENDOR)?;
    lab.must("bash /root/lab/vendor-three.sh prepare")?;
    let mut rows = vec![vec!["connect-migrator, one window for all of it".into(), seconds(ours)], Vec::new()];
    let mut theirs = 0.0;
    for (name, from, to) in PROCEDURES {
        let one =
            probed(&lab, from, to, || lab.must(&format!("bash /root/lab/vendor-three.sh {name}")).map(drop))?;
        rows.push(vec![format!("the vendor's procedure: {name}"), seconds(one)]);
        theirs += one;
    }
    rows.push(vec!["the vendor's three, summed".into(), seconds(theirs)]);
    println!("   SQLite and local disk to a container on PostgreSQL and NFS, seen through nginx every 10 ms");
    table(&rows);
    ensure!(ours <= theirs, "the window of {ours:.1} s is longer than the {theirs:.1} s of the three");
    Ok(())
}
