//! What changes at the wrong moment: while a file is copied, between two looks at an inode, around a kill, or where something fails.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

mod lab;

use connect_migrator_copy::Control;
use connect_migrator_copy::withdraw;
use lab::{Lab, Mounted, settle, shell};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// After `before` and a pass, `change`, a pass that dies, `then` and a whole pass, for every operation at which it can die.
fn dying_anywhere(before: fn(&Lab), change: fn(&Lab), then: fn(&Lab)) {
    for operation in 1.. {
        let lab = Lab::new();
        before(&lab);
        settle();
        lab.pass();
        change(&lab);
        let died = lab.pass_dies_at(operation, &["--threads", "1"]);
        then(&lab);
        settle();
        lab.pass();
        lab.assert_same();
        assert_eq!(lab.pass().trips, 0, "killed at {operation}");
        if !died {
            assert!(operation > 2, "there was nothing to die at");
            return;
        }
    }
}

#[test]
fn a_folder_whose_attributes_turn_and_turn_back_around_a_kill_has_them_in_the_end() {
    dying_anywhere(
        |lab| lab.write("folder/file", "f"),
        |lab| {
            mode(&lab.source.join("folder"), 0o777);
            chown(lab.source.join("folder"), Some(1_001), Some(1_002)).unwrap();
            shell(&["setfacl", "-d", "-m", "u:1003:rwx", lab.source.join("folder").to_str().unwrap()]);
        },
        |lab| {
            shell(&["setfacl", "-b", lab.source.join("folder").to_str().unwrap()]);
            mode(&lab.source.join("folder"), 0o755);
            chown(lab.source.join("folder"), Some(0), Some(0)).unwrap();
        },
    );
}

#[test]
fn a_file_that_becomes_a_folder_and_goes_around_a_kill_is_gone_in_the_end() {
    dying_anywhere(
        |lab| {
            lab.write("folder/x", "file");
            lab.write("folder/y/z", "file");
        },
        |lab| {
            fs::remove_file(lab.source.join("folder/x")).unwrap();
            lab.write("folder/x/in", "folder");
            fs::remove_dir_all(lab.source.join("folder/y")).unwrap();
            lab.write("folder/y", "file");
        },
        |lab| {
            fs::remove_dir_all(lab.source.join("folder/x")).unwrap();
            fs::remove_file(lab.source.join("folder/y")).unwrap();
        },
    );
}

#[test]
fn what_could_not_be_removed_is_removed_by_the_next_pass() {
    let lab = Lab::new();
    lab.write("folder/gone/deep/file", "f");
    lab.write("folder/swapped/deep/file", "f");
    settle();
    lab.pass();
    for name in ["gone", "swapped"] {
        fs::remove_dir_all(lab.source.join("folder").join(name)).unwrap();
    }
    lab.write("folder/swapped", "a file");
    // What something is mounted on cannot be removed.
    let held = ["gone", "swapped"].map(|name| {
        let at = lab.target.join("folder").join(name).join("deep/file");
        Mounted::bind(&lab.source.join("folder/swapped"), &at)
    });
    let report = lab.try_pass(&lab.options()).unwrap();
    assert!(report.failed > 0 && !report.whole, "{report:?}");
    drop(held);
    settle();
    lab.pass();
    lab.assert_same();
}

#[test]
fn what_is_mounted_over_a_file_is_told_and_never_counts_as_copied() {
    let lab = Lab::new();
    lab.write("folder/file", "below");
    lab.write("other", "above");
    settle();
    let mounted = Mounted::bind(&lab.source.join("other"), &lab.source.join("folder/file"));
    let report = lab.try_pass(&lab.options()).unwrap();
    assert!(!report.whole && report.failed == 1, "{report:?}");
    assert!(report.failures[0].tried.contains("mounted over"), "{report:?}");
    drop(mounted);
    lab.pass();
    lab.assert_same();
}

#[test]
fn a_temporary_name_of_a_pass_that_was_killed_is_removed_also_while_the_first_copy_is_not_whole() {
    for operation in 1.. {
        let lab = Lab::new();
        for name in ["folder/file", "folder/other", "broken/file", "above"] {
            lab.write(name, name);
        }
        settle();
        let mounted = Mounted::bind(&lab.source.join("above"), &lab.source.join("broken/file"));
        assert!(!lab.try_pass(&lab.options()).unwrap().whole);
        lab.write("folder/file", "changed");
        settle();
        let died = lab.pass_dies_at(operation, &["--threads", "1"]);
        settle();
        assert!(!lab.try_pass(&lab.options()).unwrap().whole);
        drop(mounted);
        settle();
        lab.pass();
        lab.assert_same();
        if !died {
            break;
        }
    }
}

#[test]
fn what_is_copied_after_a_first_copy_was_withdrawn_is_copied_whole() {
    for operation in [1, 5, 12, 1_000] {
        let lab = Lab::new();
        for name in ["folder/file", "folder/deep/file", "other"] {
            lab.write(name, name);
        }
        settle();
        lab.pass_dies_at(operation, &["--threads", "1"]);
        let cancel = AtomicBool::new(false);
        let control = Control { cancel: &cancel, on_progress: &|_| {}, total: None };
        assert!(withdraw(&lab.options(), &control).unwrap().whole);
        assert_eq!(fs::read_dir(&lab.target).unwrap().count(), 0, "withdrawn after {operation}");
        lab.pass();
        lab.assert_same();
    }
}

#[test]
fn a_file_whose_owner_and_mode_change_with_its_content_while_it_is_copied_has_the_last_of_them() {
    let lab = Lab::new();
    let file = lab.source.join("file");
    lab.write("file", vec![7; 2 << 20]);
    mode(&file, 0o600);
    settle();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !fs::metadata(lab.target.join("file")).is_ok_and(|meta| meta.len() > 0) {
                assert!(Instant::now() < deadline, "it is never copied");
                std::thread::sleep(Duration::from_millis(1));
            }
            lab.write("file", vec![8; 1 << 20]);
            chown(&file, Some(1_001), Some(1_002)).unwrap();
            mode(&file, 0o644);
        });
        let mut options = lab.options();
        options.bytes_per_second = Some(2 << 20);
        lab.try_pass(&options).unwrap();
    });
    settle();
    lab.pass();
    lab.assert_same();
    assert_eq!(lab.pass().trips, 0);
}

#[test]
fn a_hard_link_that_changes_between_two_looks_at_its_names_is_the_same_in_the_end() {
    /// So many that looking at them takes long enough to come between.
    const FOLDERS: usize = 20;
    const FILES: usize = 1_500;
    const ROUNDS: u32 = 16;
    let lab = Lab::new();
    for folder in 0..FOLDERS {
        for file in 0..FILES {
            lab.write(&format!("folder{folder}/file{file}"), "");
        }
    }
    lab.write("folder0/name", "0");
    for folder in 1..FOLDERS {
        fs::hard_link(lab.source.join("folder0/name"), lab.source.join(format!("folder{folder}/name")))
            .unwrap();
    }
    let mut options = lab.options();
    options.threads = Some(1);
    settle();
    lab.pass_with(&options);
    let whole = lab.pass_with(&options).elapsed;
    let mut between = 0;
    for round in 0..ROUNDS {
        let report = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(whole * round / ROUNDS);
                lab.write("folder0/name", round.to_string());
            });
            lab.try_pass(&options).unwrap()
        });
        assert_eq!(report.failed, 0, "{report:?}");
        between += u32::from(!matches!(report.written, 0 | 20));
        settle();
        lab.pass();
        lab.pass();
        for folder in 0..FOLDERS {
            let copied = fs::read_to_string(lab.target.join(format!("folder{folder}/name"))).unwrap();
            assert_eq!(copied, round.to_string(), "folder{folder}");
        }
    }
    println!("{between} of {ROUNDS} changes came between two looks");
    lab.assert_same();
    assert_eq!(lab.pass().trips, 0);
}
