//! What a copy takes of this host, however large the tree: descriptors by depth and threads, memory by entries.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

mod lab;

use lab::{Lab, settle};
use std::process::Command;

/// What is needed besides the entries: buffers, stacks, and the program itself.
const MEMORY_BYTES: u64 = 64 << 20;
const MEMORY_BYTES_AN_ENTRY: u64 = 100;
const THREADS: u32 = 16;
/// Each thread may be in a branch of its own: two folders below the root and a file, at the source and at the target.
const DESCRIPTORS: u32 = THREADS * 3 * 2 + DESCRIPTORS_BESIDES;
/// Standard streams, the manifest, and the roots.
const DESCRIPTORS_BESIDES: u32 = 16;

/// Folders in folders, as many at each level, with as many files in the last.
fn grow_wide(lab: &Lab, wide: u32) {
    let program = format!(
        "import os\nfor a in range({wide}):\n for b in range({wide}):\n  d = f'{}/{{a}}/{{b}}'\n  os.makedirs(d)\n  \
         for c in range({wide}): open(f'{{d}}/{{c}}', 'w').close()",
        lab.source.display()
    );
    lab::shell(&["python3", "-c", &program]);
    settle();
}

fn copier() -> &'static str {
    env!("CARGO_BIN_EXE_connect-migrator-copy")
}

#[test]
fn a_wide_tree_is_copied_copied_again_and_compared_with_few_descriptors() {
    let lab = Lab::new();
    grow_wide(&lab, 24);
    let (source, target, manifest) = (lab.source.display(), lab.target.display(), lab.manifest.display());
    let copy = format!("{} copy {source} {target} --manifest {manifest} --threads {THREADS}", copier());
    let verify = format!("{} verify {source} {target} --threads {THREADS}", copier());
    // Each file is new again for the second: all that is known is compared, and then replaced.
    let touch = format!("find {source} -type f -exec touch {{}} +; sleep 0.1");
    let limited = format!("set -e; ulimit -n {DESCRIPTORS}; {copy}; {touch}; {copy}; {verify}");
    lab::shell(&["sh", "-c", &limited]);
    lab.assert_same();
}

/// Runs the copier, and answers with the most memory it had at once, and how many entries it told.
fn measured(arguments: &[&str]) -> (u64, u64) {
    let program = "import resource, subprocess, sys\n\
                   said = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, check=True).stdout.decode()\n\
                   print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n\
                   print(said)";
    let out = Command::new("python3").args(["-c", program, copier()]).args(arguments).output().unwrap();
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    let out = String::from_utf8(out.stdout).unwrap();
    let (kilobytes, said) = out.split_once('\n').unwrap();
    let said: serde_json::Value = serde_json::from_str(said).unwrap();
    (kilobytes.parse::<u64>().unwrap() << 10, said["entries"].as_u64().unwrap())
}

#[test]
fn memory_is_bounded_by_the_number_of_entries() {
    let lab = Lab::new();
    grow_wide(&lab, 36);
    let [source, target, manifest] =
        [&lab.source, &lab.target, &lab.manifest].map(|path| path.to_str().unwrap());
    let copy = ["copy", source, target, "--manifest", manifest, "--threads", "64"];
    let verify = ["verify", source, target, "--threads", "64"];
    for (what, arguments) in [("first", &copy[..]), ("again", &copy[..]), ("compared", &verify[..])] {
        let (bytes, entries) = measured(arguments);
        assert!(entries > 40_000, "{entries}");
        println!("{what}: {} MiB for {entries} entries", bytes >> 20);
        assert!(
            bytes < MEMORY_BYTES + MEMORY_BYTES_AN_ENTRY * entries,
            "{what}: {bytes} bytes for {entries}"
        );
    }
}
