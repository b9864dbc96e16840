//! Killed, full, cancelled: it goes on where it was, and nothing half-written counts as done.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

mod lab;

use connect_migrator_copy::{Content, Control, CopyError, run, verify};
use connect_migrator_copy_bench::{add_odd, change, grow};
use lab::{Lab, Mounted, settle, shell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Starts a copy by the command and kills it after so long. False when it ended by itself.
fn killed_after(lab: &Lab, wait: Duration) -> bool {
    let mut child = Command::new(env!("CARGO_BIN_EXE_connect-migrator-copy"))
        .arg("copy")
        .args([&lab.source, &lab.target])
        .arg("--manifest")
        .arg(&lab.manifest)
        .args(["--threads", "8", "--bytes-per-second", "20000000"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + wait;
    while Instant::now() < end {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

#[test]
fn killed_again_and_again_in_the_first_copy_it_ends_with_the_same_tree() {
    let lab = Lab::new();
    grow(&lab.source, 1_200, 2, 1, 7).unwrap();
    add_odd(&lab.source).unwrap();
    settle();
    let mut kills = 0;
    for round in 0..12_u64 {
        kills += u32::from(killed_after(&lab, Duration::from_millis(20 + round * 37)));
        // Meanwhile the source lives on: what was half-copied may be gone.
        if round % 3 == 0 {
            change(&lab.source, round).unwrap();
        }
    }
    assert!(kills >= 4, "only {kills} of the kills came in the middle");
    settle();
    lab.pass();
    lab.assert_same();
    assert_eq!(lab.pass().trips, 0);
}

#[test]
fn killed_in_later_passes_it_ends_with_the_same_tree_and_leaves_no_temporary_names() {
    let lab = Lab::new();
    grow(&lab.source, 1_200, 1, 0, 8).unwrap();
    settle();
    lab.pass();
    let mut kills = 0;
    for round in 0..10_u64 {
        for seed in 0..8 {
            change(&lab.source, round * 10 + seed).unwrap();
        }
        kills += u32::from(killed_after(&lab, Duration::from_millis(8 + round * 6)));
    }
    assert!(kills >= 3, "only {kills} of the kills came in the middle");
    settle();
    lab.pass();
    lab.assert_same();
    let left = Command::new("find").arg(&lab.target).args(["-name", ".connect-migrator-*"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}

/// The folder that goes and comes back.
fn grow_folder(lab: &Lab) {
    for name in ["f1", "f2", "deep/g1", "deep/g2"] {
        lab.write(&format!("pkg/help/{name}"), name.repeat(100));
    }
    lab.write("pkg/other", "o");
}

/// A folder goes, a pass dies, it comes back, a pass dies again. Answers whether both died.
fn goes_and_comes_back(folder: &Path, first: u64, second: u64) -> (bool, bool) {
    let lab = Lab::within(folder);
    grow_folder(&lab);
    settle();
    lab.pass();
    let (here, away) = (lab.source.join("pkg/help"), lab.source.join("pkg/help.renamed"));
    fs::rename(&here, &away).unwrap();
    let first_died = lab.pass_dies_at(first, &["--threads", "1"]);
    fs::rename(&away, &here).unwrap();
    let second_died = lab.pass_dies_at(second, &["--threads", "1"]);
    // Whatever was put under which number: these go, too.
    if second.is_multiple_of(2) {
        fs::remove_file(here.join("f2")).unwrap();
        fs::remove_file(here.join("deep/g1")).unwrap();
    }
    settle();
    lab.pass();
    lab.assert_same();
    assert_eq!(lab.pass().trips, 0, "killed at {first} and {second}");
    (first_died, second_died)
}

#[test]
fn a_folder_that_goes_and_comes_back_between_two_passes_killed_at_any_operation_is_whole_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Mounted::tmpfs(dir.path(), "size=64m,mode=700");
    let (next, ended, pairs) = (AtomicU64::new(1), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !ended.load(SeqCst) {
                    let first = next.fetch_add(1, SeqCst);
                    for second in 1.. {
                        let (first_died, second_died) = goes_and_comes_back(dir.path(), first, second);
                        pairs.fetch_add(u64::from(first_died && second_died), SeqCst);
                        ended.fetch_or(!first_died, SeqCst);
                        if !second_died {
                            break;
                        }
                    }
                }
            });
        }
    });
    drop(memory);
    let pairs = pairs.load(SeqCst);
    println!("{pairs} pairs of kills");
    assert!(pairs > 200, "only {pairs} pairs of kills came in the middle");
}

#[test]
fn a_folder_that_goes_and_comes_back_while_a_first_copy_is_killed_again_is_whole_in_the_end() {
    let begun = |operation: u64, more: &[&str]| {
        let lab = Lab::new();
        grow_folder(&lab);
        settle();
        let died = lab.pass_dies_at(operation, &[&["--threads", "1"], more].concat());
        (lab, died)
    };
    // The very last makes all of it last.
    let last = (1..).find(|operation| !begun(*operation, &[]).1).unwrap() - 2;
    let killed_at = |later: u64| {
        // The folder is recorded as done, and the root is not.
        let (lab, _) = begun(last, &["--dies-late"]);
        let (here, away) = (lab.source.join("pkg/help"), lab.source.join("pkg/help.renamed"));
        fs::rename(&here, &away).unwrap();
        let died = lab.pass_dies_at(later, &["--threads", "1"]);
        fs::rename(&away, &here).unwrap();
        settle();
        lab.pass();
        lab.assert_same();
        died
    };
    let killed = std::thread::scope(|scope| {
        let runs: Vec<_> = (1..40).map(|later| scope.spawn(move || killed_at(later))).collect();
        runs.into_iter().map(|run| u32::from(run.join().unwrap())).sum::<u32>()
    });
    assert!(killed > 10, "only {killed} of the kills came in the middle");
}

#[test]
fn until_the_first_copy_is_whole_others_cannot_enter_the_target() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    grow(&lab.source, 600, 2, 0, 9).unwrap();
    settle();
    let begun = || fs::read_dir(&lab.target).unwrap().next().is_some();
    while !begun() {
        assert!(killed_after(&lab, Duration::from_millis(60)));
    }
    assert_eq!(fs::metadata(&lab.target).unwrap().permissions().mode() & 0o7777, 0o700);
    lab.pass();
    lab.assert_same();
}

#[test]
fn a_full_target_is_told_and_the_copy_goes_on_when_there_is_room() {
    let lab = Lab::new();
    grow(&lab.source, 1_000, 1, 0, 10).unwrap();
    settle();
    let disk = Mounted::tmpfs(&lab.target, "size=3m,mode=755");
    let error = lab.try_pass(&lab.options()).unwrap_err();
    assert!(matches!(error, CopyError::Full { .. }), "{error}");
    let error = lab.try_pass(&lab.options()).unwrap_err();
    assert!(error.is_full(), "{error}");
    disk.remount("size=100m");
    lab.pass();
    lab.assert_same();
}

#[test]
fn a_target_without_inodes_left_is_told_as_full() {
    let lab = Lab::new();
    grow(&lab.source, 600, 0, 0, 11).unwrap();
    settle();
    let disk = Mounted::tmpfs(&lab.target, "nr_inodes=200,mode=755");
    let error = lab.try_pass(&lab.options()).unwrap_err();
    assert!(matches!(error, CopyError::Full { .. }), "{error}");
    disk.remount("nr_inodes=100000");
    lab.pass();
    lab.assert_same();
}

#[test]
fn an_attribute_that_does_not_fit_beside_its_file_fails_that_file_and_is_not_told_as_a_full_target() {
    let lab = Lab::new();
    let large = Mounted::tmpfs(&lab.source, "size=10m,mode=755");
    let small = Mounted::ext4(&lab.target, &lab.dir().join("image"));
    lab.write("one", "1");
    lab.write("other", "2");
    let value = "v".repeat(8_000);
    shell(&["setfattr", "-n", "trusted.large", "-v", &value, lab.source.join("one").to_str().unwrap()]);
    settle();
    let report = lab.try_pass(&lab.options()).unwrap();
    let told = report.failures.iter().map(ToString::to_string).collect::<String>();
    assert!(report.failed == 1 && told.contains("extended attributes"), "{report:?}");
    assert_eq!(fs::read_to_string(lab.target.join("other")).unwrap(), "2");
    shell(&["setfattr", "-x", "trusted.large", lab.source.join("one").to_str().unwrap()]);
    settle();
    lab.pass();
    assert_eq!(fs::read_to_string(lab.target.join("one")).unwrap(), "1");
    drop((large, small));
}

#[test]
fn a_cancelled_copy_ends_soon_and_goes_on_later() {
    let lab = Lab::new();
    grow(&lab.source, 1_000, 4, 0, 12).unwrap();
    settle();
    let mut options = lab.options();
    options.bytes_per_second = Some(4 << 20);
    let cancel = AtomicBool::new(false);
    let asked = std::sync::Mutex::new(None);
    let on_progress = |progress: &connect_migrator_copy::Progress| {
        if progress.bytes > 0 && !cancel.swap(true, SeqCst) {
            *asked.lock().unwrap() = Some(Instant::now());
        }
    };
    let ended = run(&options, &Control { cancel: &cancel, on_progress: &on_progress, total: None });
    assert!(matches!(ended, Err(CopyError::Cancelled)), "{ended:?}");
    let took = asked.lock().unwrap().unwrap().elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    lab.pass();
    lab.assert_same();
}

/// A first copy that was killed when it had made some folders, and what others put at its target meanwhile.
fn cut_off_with_what_is_foreign(seed: u64) -> (Lab, Vec<String>) {
    let lab = Lab::new();
    grow(&lab.source, 600, 2, 0, seed).unwrap();
    settle();
    let folders = || -> Vec<PathBuf> {
        let made = fs::read_dir(&lab.target).unwrap().map(|entry| entry.unwrap().path());
        made.filter(|path| path.is_dir()).collect()
    };
    while folders().is_empty() {
        assert!(killed_after(&lab, Duration::from_millis(60)));
    }
    let mut foreign = vec!["foreign".to_owned()];
    fs::write(lab.target.join("foreign"), "theirs").unwrap();
    for folder in folders() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        fs::create_dir(folder.join("theirs")).unwrap();
        fs::write(folder.join("theirs/file"), "theirs").unwrap();
        foreign.push(format!("{name}/theirs/file"));
    }
    (lab, foreign)
}

fn assert_theirs(lab: &Lab, foreign: &[String]) {
    for name in foreign {
        assert_eq!(fs::read_to_string(lab.target.join(name)).unwrap(), "theirs", "{name}");
    }
}

#[test]
fn what_others_put_at_the_target_of_a_first_copy_that_was_cut_off_stays_and_is_told() {
    let (lab, foreign) = cut_off_with_what_is_foreign(14);
    let report = lab.try_pass(&lab.options()).unwrap();
    assert_eq!(report.failed, 0, "{report:?}");
    assert!(!report.whole && report.foreign.contains(&"foreign".to_owned()), "{report:?}");
    assert_theirs(&lab, &foreign);
    for name in &foreign {
        let path = lab.target.join(name.strip_suffix("/file").unwrap_or(name));
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    lab.pass();
    let cancel = AtomicBool::new(false);
    let control = Control { cancel: &cancel, on_progress: &|_| {}, total: None };
    let found = verify(&lab.options(), Content::All, &control).unwrap();
    // Whoever put it there changed the times of the folders.
    let other = found.differences.iter().find(|found| found.what != "has another modification time");
    assert!(found.extra.is_empty() && other.is_none(), "{found:?}");
}

#[test]
fn what_vanished_from_the_source_after_a_first_copy_was_cut_off_goes_and_what_others_put_beside_it_stays() {
    let (lab, foreign) = cut_off_with_what_is_foreign(15);
    for entry in fs::read_dir(&lab.source).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    let report = lab.try_pass(&lab.options()).unwrap();
    assert_eq!(report.failed, 0, "{report:?}");
    assert_theirs(&lab, &foreign);
    let left = Command::new("find").arg(&lab.target).args(["-type", "f"]).output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&left).lines().count(), foreign.len(), "only theirs is left");
}

#[test]
fn what_was_put_is_withdrawn_after_a_whole_and_after_a_cut_off_copy_and_nothing_else() {
    for cut_off in [false, true] {
        let (lab, foreign) = cut_off_with_what_is_foreign(13);
        if !cut_off {
            lab.try_pass(&lab.options()).unwrap();
        }
        let cancel = AtomicBool::new(false);
        let control = Control { cancel: &cancel, on_progress: &|_| {}, total: None };
        let report = connect_migrator_copy::withdraw(&lab.options(), &control).unwrap();
        assert_eq!(report.failed, 0, "{report:?}");
        assert_theirs(&lab, &foreign);
        let left = Command::new("find").arg(&lab.target).args(["!", "-type", "d"]).output().unwrap().stdout;
        assert_eq!(String::from_utf8_lossy(&left).lines().count(), foreign.len(), "only theirs is left");
    }
}
