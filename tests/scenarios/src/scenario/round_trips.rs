//! What a copied file costs on the wire: it does not depend on how fast the machine is.

use super::{On, Scenario, local};
use crate::artifacts;
use crate::ensure;
use crate::lab::{Lab, Tried};
use serde_json::Value;

pub(super) const ALL: &[Scenario] = &[local(
    "a copied file costs at most 5.4 calls on real NFS 4.2, and a pass that finds nothing changed none",
    On::None,
    On::One,
    round_trips,
)];

/// Open, write, set its attributes, close; folders and links have a share in it.
const CALLS_A_FILE: f64 = 5.4;
/// Looking at the root and making the manifest's promise last.
const CALLS_AGAIN: f64 = 60.0;

const MEASURE: &str = include_str!("../guest/round-trips.sh");

fn round_trips(lab: &Lab) -> Tried {
    lab.machine.copy_to(&lab.artifacts.copier, "/root/lab/copier")?;
    lab.machine.copy_to(&artifacts::grow_tree()?, "/root/lab/grow-tree")?;
    lab.machine.write_file("/root/lab/round-trips.sh", MEASURE)?;
    let measured: Value = serde_json::from_str(&lab.must("bash /root/lab/round-trips.sh")?)?;
    let number = |key: &str| measured.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let a_file = number("calls") / number("files");
    println!(
        "     {} calls for {} files ({} entries): {a_file:.2} a file; the second pass made {}",
        number("calls"),
        number("files"),
        number("entries"),
        number("again")
    );
    ensure!(number("files") > 1000.0, "too few files to say anything: {measured}");
    ensure!(a_file <= CALLS_A_FILE, "{a_file:.2} calls a file, {CALLS_A_FILE} at most: {measured}");
    ensure!(
        number("again") <= CALLS_AGAIN,
        "a pass that finds nothing changed made {} calls",
        number("again")
    );
    // Where NFS does not take an access list the mode gives the group what the list gave it, and no more.
    let refused = measured.get("refused").and_then(Value::as_array).into_iter().flatten();
    let told: Vec<&str> = refused
        .flat_map(|refused| refused.get("examples").and_then(Value::as_array).into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    let seen = lab.ask("cat /root/lab/round-trips.differences")?;
    // Permissions and extended attributes only; rsync would name content, times or owners with other letters.
    let by_refusal = |what: &str| what.chars().skip(2).all(|letter| matches!(letter, '.' | 'p' | 'x'));
    let is_told = |line: &&str| {
        line.split_once(' ').is_some_and(|(what, name)| {
            what.starts_with('.') && by_refusal(what) && told.contains(&name.trim_end_matches('/'))
        })
    };
    let untold: Vec<&str> = seen.lines().filter(|line| !is_told(line)).collect();
    ensure!(
        untold.is_empty(),
        "rsync sees differences that were not told:\n{}\n{measured}",
        untold.join("\n")
    );
    Ok(())
}
