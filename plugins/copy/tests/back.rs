//! The way back: what changed at the target since the cutover, and nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

mod lab;

use connect_migrator_copy::{
    BackChanges, BackKind, Content, Control, changes_since, clock_of, options_back, run, verify,
};
use connect_migrator_copy_bench::{change, differences, grow};
use lab::{Lab, Mounted, settle};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;

struct Way {
    lab: Lab,
    since: connect_migrator_copy::Moment,
    back: PathBuf,
    aside: PathBuf,
}

impl Way {
    fn after_a_copy_of(lab: Lab) -> Self {
        settle();
        lab.pass();
        settle();
        let since = clock_of(&lab.target).unwrap();
        let (back, aside) = (lab.dir().join("back"), lab.dir().join("aside"));
        settle();
        Way { lab, since, back, aside }
    }

    fn list(&self) -> BackChanges {
        let cancel = AtomicBool::new(false);
        let control = Control { cancel: &cancel, on_progress: &|_| {}, total: None };
        changes_since(&self.lab.options(), self.since, &self.back, &control).unwrap()
    }

    fn go(&self) {
        let cancel = AtomicBool::new(false);
        let control = Control { cancel: &cancel, on_progress: &|_| {}, total: None };
        let report = run(&options_back(&self.lab.options(), &self.back, &self.aside), &control).unwrap();
        assert!(report.whole, "{report:?}");
    }
}

fn small() -> Lab {
    let lab = Lab::new();
    for name in ["a", "b", "folder/c", "folder/sub/d", "other/e"] {
        lab.write(name, format!("content of {name}"));
    }
    lab
}

#[test]
fn nothing_changed_lists_nothing_and_changes_nothing() {
    let way = Way::after_a_copy_of(small());
    assert!(way.list().is_empty());
    way.go();
    way.lab.assert_same();
    assert_eq!(fs::read_dir(&way.aside).map(Iterator::count).unwrap_or(0), 0);
}

#[test]
fn each_change_is_listed_and_copied_back_and_what_it_replaced_is_kept() {
    let way = Way::after_a_copy_of(small());
    let target = &way.lab.target;
    fs::write(target.join("a"), "users wrote this").unwrap();
    fs::create_dir_all(target.join("new/inside")).unwrap();
    fs::write(target.join("new/inside/file"), "new").unwrap();
    fs::remove_file(target.join("b")).unwrap();
    fs::remove_dir_all(target.join("folder")).unwrap();
    fs::write(target.join("folder"), "a file now").unwrap();
    let changes = way.list();
    let has = |kind, path: &str| changes.told.iter().any(|change| change.kind == kind && change.path == path);
    assert!(has(BackKind::Changed, "a") && has(BackKind::Created, "new"), "{changes:?}");
    assert!(has(BackKind::Removed, "b") && has(BackKind::Changed, "folder"), "{changes:?}");
    assert!(!has(BackKind::Changed, "other/e"));
    // Listing changes nothing.
    assert_eq!(fs::read_to_string(way.lab.source.join("a")).unwrap(), "content of a");
    way.go();
    way.lab.assert_same();
    let kept: Vec<String> = fs::read_dir(&way.aside)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    for old in ["content of a", "content of b", "content of folder/c", "content of folder/sub/d"] {
        assert!(kept.iter().any(|content| content == old), "{old}: {kept:?}");
    }
}

#[test]
fn what_came_into_the_source_meanwhile_stays_and_is_no_difference_of_the_target() {
    let way = Way::after_a_copy_of(small());
    way.lab.write("renewed.lic", "l");
    way.lab.write("folder/note", "n");
    fs::write(way.lab.target.join("a"), "changed by a user").unwrap();
    fs::write(way.lab.target.join("folder/made"), "by a user").unwrap();
    assert!(!way.list().is_empty());
    way.go();
    let cancel = AtomicBool::new(false);
    let control = Control { cancel: &cancel, on_progress: &|_| {}, total: None };
    let mut verified = verify(&way.lab.options(), Content::All, &control).unwrap();
    verified.missing.sort();
    assert_eq!(verified.missing, ["folder/note", "renewed.lic"]);
    assert!(verified.holds_all_of_target() && !verified.is_same(), "{verified:?}");
    assert_eq!(fs::read_to_string(way.lab.source.join("a")).unwrap(), "changed by a user");
    assert_eq!(fs::read_to_string(way.lab.source.join("folder/made")).unwrap(), "by a user");
}

#[test]
fn a_folder_of_which_only_the_extended_attributes_changed_is_listed_and_copied_back() {
    let way = Way::after_a_copy_of(small());
    let set = |path: &std::path::Path| {
        lab::shell(&["setfattr", "-n", "user.k", "-v", "v", path.to_str().unwrap()]);
    };
    set(&way.lab.target.join("other"));
    lab::shell(&["setfacl", "-m", "u:1005:rx", way.lab.target.join("folder/sub").to_str().unwrap()]);
    let changes = way.list();
    let told: Vec<_> = changes.told.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(told, ["folder/sub", "other"]);
    way.go();
    way.lab.assert_same();
}

#[test]
fn an_access_list_that_the_other_side_cannot_hold_outlives_a_change_of_the_content_there() {
    let lab = small();
    let disk = Mounted::ramfs(&lab.target);
    for name in ["a", "b"] {
        lab::shell(&["setfacl", "-m", "u:1005:r", lab.source.join(name).to_str().unwrap()]);
    }
    let way = Way::after_a_copy_of(lab);
    fs::write(way.lab.target.join("a"), "users wrote this").unwrap();
    fs::set_permissions(way.lab.target.join("b"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(way.list().changed, 2);
    way.go();
    let acl = |name: &str| {
        let out = Command::new("getfacl").args(["-n", "-p"]).arg(way.lab.source.join(name)).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(fs::read_to_string(way.lab.source.join("a")).unwrap(), "users wrote this");
    assert!(acl("a").contains("user:1005:r--"), "{}", acl("a"));
    assert!(!acl("b").contains("user:1005"), "its permissions were set anew: {}", acl("b"));
    assert_eq!(fs::metadata(way.lab.source.join("b")).unwrap().permissions().mode() & 0o7777, 0o600);
    let cancel = AtomicBool::new(false);
    let control = Control { cancel: &cancel, on_progress: &|_| {}, total: None };
    let verified = verify(&way.lab.options(), Content::All, &control).unwrap();
    drop(disk);
    assert!(verified.is_same(), "{verified:?}");
}

#[test]
fn a_lived_in_tree_is_the_same_on_both_sides_after_the_way_back() {
    let lab = Lab::new();
    grow(&lab.source, 800, 1, 1, 20).unwrap();
    let way = Way::after_a_copy_of(lab);
    change(&way.lab.target, 21).unwrap();
    let changes = way.list();
    assert!(changes.created > 0 && changes.changed > 0 && changes.removed > 0, "{changes:?}");
    way.go();
    way.lab.assert_same();
}

#[test]
fn what_is_excluded_stays_out_of_the_way_back() {
    let lab = small();
    lab.write("caches/old", "of this host");
    settle();
    let mut options = lab.options();
    options.exclude = vec!["caches".into()];
    lab.pass_with(&options);
    settle();
    let since = clock_of(&lab.target).unwrap();
    settle();
    fs::create_dir(lab.target.join("caches")).unwrap();
    fs::write(lab.target.join("caches/new"), "of the container").unwrap();
    let cancel = AtomicBool::new(false);
    let control = Control { cancel: &cancel, on_progress: &|_| {}, total: None };
    let back = lab.dir().join("back");
    let changes = changes_since(&options, since, &back, &control).unwrap();
    assert!(changes.told.iter().all(|change| change.path == "."), "{changes:?}");
    run(&options_back(&options, &back, &lab.dir().join("aside")), &control).unwrap();
    assert_eq!(fs::read_to_string(lab.source.join("caches/old")).unwrap(), "of this host");
    assert!(!lab.source.join("caches/new").exists());
}

#[test]
fn what_the_source_got_meanwhile_under_the_same_name_is_not_overwritten() {
    let way = Way::after_a_copy_of(small());
    fs::write(way.lab.target.join("new"), "from the new server").unwrap();
    fs::write(way.lab.source.join("new"), "from this host").unwrap();
    way.list();
    let cancel = AtomicBool::new(false);
    let control = Control { cancel: &cancel, on_progress: &|_| {}, total: None };
    let report = run(&options_back(&way.lab.options(), &way.back, &way.aside), &control).unwrap();
    assert_eq!(report.failed, 1, "{report:?}");
    assert_eq!(fs::read_to_string(way.lab.source.join("new")).unwrap(), "from this host");
    assert!(!differences(&way.lab.source, &way.lab.target).is_empty());
}

#[test]
fn what_is_nobodys_business_at_the_root_of_the_target_is_not_carried_back() {
    let lab = small();
    lab.pass();
    let mut options = lab.options();
    options.ignore_at_root.push(".guard".into());
    let since = clock_of(&lab.target).unwrap();
    for name in [".guard", "lost+found/7", ".snapshot/old"] {
        let path = lab.target.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "not data").unwrap();
    }
    fs::write(lab.target.join("by-a-user"), "data").unwrap();
    let (back, cancel) = (lab.dir().join("back"), AtomicBool::new(false));
    let control = Control { cancel: &cancel, on_progress: &|_| {}, total: None };
    changes_since(&options, since, &back, &control).unwrap();
    let report = run(&options_back(&options, &back, &lab.dir().join("aside")), &control).unwrap();
    assert!(report.whole, "{report:?}");
    assert_eq!(fs::read_to_string(lab.source.join("by-a-user")).unwrap(), "data");
    for name in [".guard", "lost+found", ".snapshot"] {
        assert!(!lab.source.join(name).exists(), "{name} was carried back");
    }
    // And both sides count as the same, whatever time its root has.
    assert!(verify(&options, Content::All, &control).unwrap().is_same());
}
