//! What is copied is the same, entry by entry.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

mod lab;

use connect_migrator_copy::{Durability, Owners};
use connect_migrator_copy_bench::{add_deep, add_odd, grow};
use lab::{Lab, Mounted, settle};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn grown() -> Lab {
    let lab = Lab::new();
    grow(&lab.source, 1_000, 1, 1, 1).unwrap();
    add_odd(&lab.source).unwrap();
    settle();
    lab
}

#[test]
fn a_tree_with_every_odd_entry_is_the_same_after_a_copy_by_chown() {
    let lab = grown();
    let mut options = lab.options();
    options.owners = Owners::Chown;
    lab.pass_with(&options);
    lab.assert_same();
}

#[test]
fn a_tree_with_every_odd_entry_is_the_same_after_a_copy_under_the_owners_ids() {
    let lab = grown();
    let mut options = lab.options();
    options.owners = Owners::AsOwner;
    options.threads = Some(64);
    options.durability = Durability::EachFile;
    lab.pass_with(&options);
    lab.assert_same();
}

#[test]
fn groups_and_setgid_are_right_where_the_target_gives_new_entries_the_group_of_their_folder() {
    for owners in [Owners::Chown, Owners::AsOwner] {
        let lab = Lab::new();
        for (folder, group, mode) in [
            ("plain", 500, 0o755),
            ("plain/below", 0, 0o755),
            ("open", 600, 0o777),
            ("setgid", 500, 0o2775),
            ("setgid/on", 500, 0o2775),
            ("setgid/on/off", 700, 0o755),
        ] {
            let at = lab.source.join(folder);
            std::fs::create_dir(&at).unwrap();
            std::os::unix::fs::chown(&at, None, Some(group)).unwrap();
            std::fs::set_permissions(&at, Permissions::from_mode(mode)).unwrap();
            for group in [0, 500, 600] {
                let file = at.join(format!("file{group}"));
                std::fs::write(&file, "x").unwrap();
                std::os::unix::fs::chown(&file, Some(group), Some(group)).unwrap();
                let link = at.join(format!("link{group}"));
                std::os::unix::fs::symlink("nowhere", &link).unwrap();
                std::os::unix::fs::lchown(&link, Some(group), Some(group)).unwrap();
            }
        }
        settle();
        let _disk = Mounted::ext4_with(&lab.target, &lab.dir().join("disk"), "loop,grpid");
        std::fs::remove_dir(lab.target.join("lost+found")).unwrap();
        let mut options = lab.options();
        options.owners = owners;
        lab.pass_with(&options);
        lab.assert_same();
        // Also what comes into folders that are there.
        for name in ["plain/new", "plain/below/new", "open/new", "setgid/on/new"] {
            lab.write(&format!("{name}/file"), "x");
        }
        settle();
        lab.pass_with(&options);
        lab.assert_same();
    }
}

#[test]
fn a_path_longer_than_path_max_is_copied_compared_and_removed_again() {
    let lab = Lab::new();
    add_deep(&lab.source).unwrap();
    settle();
    let first = lab.pass();
    assert_eq!(first.entries, 31);
    lab.assert_same();
    assert_eq!(lab.pass().trips, 0);
    let deep = std::fs::read_dir(&lab.source).unwrap().next().unwrap().unwrap().path();
    std::fs::rename(&deep, lab.source.join("deep-renamed")).unwrap();
    lab.pass();
    lab.assert_same();
}

#[test]
fn thousands_of_folders_inside_each_other_take_few_descriptors() {
    let lab = Lab::new();
    let program = format!(
        "import os; os.chdir('{}')\nfor i in range(3000): os.mkdir('d'); os.chdir('d')",
        lab.source.display()
    );
    lab::shell(&["python3", "-c", &program]);
    settle();
    let limited = format!(
        "ulimit -n 256; exec {} copy {} {} --manifest {}",
        env!("CARGO_BIN_EXE_connect-migrator-copy"),
        lab.source.display(),
        lab.target.display(),
        lab.manifest.display()
    );
    lab::shell(&["sh", "-c", &limited]);
    let count = |root: &std::path::Path| {
        let out = std::process::Command::new("find").arg(root).args(["-printf", "x"]).output().unwrap();
        out.stdout.len()
    };
    assert_eq!(count(&lab.target), 3001);
    // What std and rm cannot remove would stay in /tmp.
    for root in [&lab.source, &lab.target] {
        lab::shell(&["find", root.to_str().unwrap(), "-mindepth", "1", "-delete"]);
    }
}

#[test]
fn holes_stay_holes() {
    let lab = Lab::new();
    let file = std::fs::File::create(lab.source.join("sparse")).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"island", 32 << 20).unwrap();
    settle();
    lab.pass();
    lab.assert_same();
    let copy = std::fs::metadata(lab.target.join("sparse")).unwrap();
    assert!(copy.blocks() * 512 < 1 << 20, "{} blocks", copy.blocks());
}

#[test]
fn a_mount_in_the_source_is_an_empty_folder_unless_it_is_to_be_entered() {
    let lab = Lab::new();
    lab.write("file", "x");
    let _mount = Mounted::tmpfs(&lab.source.join("mounted"), "size=1m,mode=750");
    lab.write("mounted/inside", "y");
    settle();
    let report = lab.pass();
    assert_eq!(report.mounts, ["mounted"]);
    assert!(lab.target.join("mounted").is_dir());
    assert!(!lab.target.join("mounted/inside").exists());
    assert_eq!(lab.pass().trips, 0);

    let mut entered = lab;
    entered.manifest = entered.dir().join("second");
    entered.target = entered.dir().join("entered");
    std::fs::create_dir(&entered.target).unwrap();
    let mut options = entered.options();
    options.cross_mounts = true;
    entered.pass_with(&options);
    entered.assert_same();
}

#[test]
fn what_is_excluded_is_not_copied_and_what_is_excluded_later_is_removed() {
    let lab = grown();
    let mut options = lab.options();
    options.exclude = vec!["packrat".into()];
    let report = lab.pass_with(&options);
    assert!(!lab.target.join("packrat").exists());
    assert!(lab.target.join("python-environments").exists());
    assert!(!report.failures.iter().any(|failure| failure.path.starts_with("packrat")));
    options.exclude = vec!["packrat".into(), "python-environments/pip".into()];
    lab.pass_with(&options);
    assert!(lab.target.join("python-environments").exists());
    assert!(!lab.target.join("python-environments/pip").exists());
    options.exclude = Vec::new();
    lab.pass_with(&options);
    lab.assert_same();
}

#[test]
fn a_small_file_costs_three_trips_and_the_whole_tree_less_than_3_7_a_file() {
    let lab = Lab::new();
    grow(&lab.source, 3_000, 2, 1, 1).unwrap();
    add_odd(&lab.source).unwrap();
    settle();
    let mut options = lab.options();
    options.owners = Owners::AsOwner;
    let report = lab.pass_with(&options);
    let per_file = report.trips as f64 / report.files as f64;
    println!("{} trips for {} files: {per_file:.2} a file", report.trips, report.files);
    assert!(per_file <= 3.7, "{per_file}");
}
