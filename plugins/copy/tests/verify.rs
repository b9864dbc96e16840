//! A comparison finds every difference, and none where there is none.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

mod lab;

use connect_migrator_copy::{Content, Control, Verified, XattrKind, survey, verify};
use connect_migrator_copy_bench::{add_deep, add_odd, grow};
use lab::{Lab, settle};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::sync::atomic::AtomicBool;

fn verified(lab: &Lab, content: Content) -> Verified {
    let cancel = AtomicBool::new(false);
    verify(&lab.options(), content, &Control { cancel: &cancel, on_progress: &|_| {}, total: None }).unwrap()
}

#[test]
fn a_copied_tree_with_every_odd_entry_is_the_same() {
    let lab = Lab::new();
    let made = grow(&lab.source, 600, 1, 1, 30).unwrap();
    add_odd(&lab.source).unwrap();
    add_deep(&lab.source).unwrap();
    settle();
    lab.pass();
    // What rsync and find say, first: a comparison that sees nothing would agree with anything.
    lab.assert_same();
    let all = verified(&lab, Content::All);
    assert!(all.is_same(), "{all:?}");
    assert!(all.files_read >= made.files * 9 / 10, "{all:?}");
    let per_file = all.trips as f64 / made.files as f64;
    println!("{per_file:.2} trips a file");
    assert!(per_file <= 2.7, "{per_file}");
    let some = verified(&lab, Content::Sample(10));
    assert!(some.is_same() && some.files_read > 0 && some.files_read < all.files_read / 3, "{some:?}");
    let none = verified(&lab, Content::None);
    assert!(none.is_same() && none.files_read == 0, "{none:?}");
}

#[test]
fn what_the_file_system_keeps_at_the_root_of_either_side_is_none_of_the_copy() {
    let lab = Lab::new();
    for root in [&lab.source, &lab.target] {
        fs::create_dir(root.join("lost+found")).unwrap();
    }
    lab.write("lost+found/7", "left by a repair");
    lab.write("folder/lost+found/file", "below the root it is a name like any other");
    fs::create_dir(lab.source.join(".snapshot")).unwrap();
    settle();
    let surveyed = survey(&lab.options(), &AtomicBool::new(false)).unwrap();
    assert_eq!((surveyed.ignored, surveyed.entries), (vec!["lost+found".to_owned()], 3));
    for content in ["once", "again"] {
        lab.write("folder/changes", content);
        settle();
        lab.pass();
        assert_eq!(fs::read_dir(lab.target.join("lost+found")).unwrap().count(), 0);
        assert!(lab.target.join("folder/lost+found/file").exists() && !lab.target.join(".snapshot").exists());
        let found = verified(&lab, Content::All);
        assert!(found.is_same(), "{found:?}");
    }
}

#[test]
fn every_kind_of_difference_is_found() {
    let lab = Lab::new();
    for name in ["content", "mode", "owner", "time", "missing", "xattr", "folder/x", "kind", "linked"] {
        lab.write(name, format!("content of {name}"));
    }
    symlink("here", lab.source.join("link")).unwrap();
    fs::hard_link(lab.source.join("linked"), lab.source.join("linked2")).unwrap();
    lab::shell(&["setfattr", "-n", "user.k", "-v", "v", lab.source.join("xattr").to_str().unwrap()]);
    settle();
    lab.pass();
    assert!(verified(&lab, Content::All).is_same());
    let at = |name: &str| lab.target.join(name);
    let time = fs::metadata(at("content")).unwrap().modified().unwrap();
    fs::write(at("content"), "CONTENT of content").unwrap();
    fs::File::options().write(true).open(at("content")).unwrap().set_modified(time).unwrap();
    fs::set_permissions(at("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    chown(at("owner"), Some(7), Some(8)).unwrap();
    fs::File::options()
        .write(true)
        .open(at("time"))
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
    fs::remove_file(at("missing")).unwrap();
    lab::shell(&["setfattr", "-x", "user.k", at("xattr").to_str().unwrap()]);
    fs::write(at("folder/extra"), "x").unwrap();
    fs::remove_file(at("kind")).unwrap();
    fs::create_dir(at("kind")).unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("away", at("link")).unwrap();
    let held = fs::read(at("linked2")).unwrap();
    fs::remove_file(at("linked2")).unwrap();
    fs::write(at("linked2"), held).unwrap();
    let found = verified(&lab, Content::All);
    for (path, what) in [
        ("content", "has other content"),
        ("mode", "has mode 600, not 644"),
        ("owner", "belongs to 7:8, not 0:0"),
        ("time", "has another modification time"),
        ("xattr", "has other user extended attributes"),
        ("kind", "is of another kind at the target"),
        ("link", "leads elsewhere"),
    ] {
        let told = found.differences.iter().any(|found| found.path == path && found.what == what);
        assert!(told, "{path} {what}: {:#?}", found.differences);
    }
    assert!(found.differences.iter().any(|found| found.what.contains("inodes at the target")));
    assert_eq!(found.extra, ["folder/extra"]);
    assert_eq!(found.missing, ["missing"]);
    assert!(!verified(&lab, Content::None).differences.iter().any(|found| found.path == "content"));
}

#[test]
fn a_survey_counts_what_a_copy_copies_and_names_what_some_targets_refuse() {
    let lab = Lab::new();
    grow(&lab.source, 600, 1, 1, 31).unwrap();
    add_odd(&lab.source).unwrap();
    settle();
    let found = survey(&lab.options(), &AtomicBool::new(false)).unwrap();
    let report = lab.pass();
    assert_eq!(found.entries, report.entries);
    assert!(found.owners.contains(&(2_000_000_001, 2_000_000_002)));
    for kind in [XattrKind::Acl, XattrKind::User, XattrKind::Capability] {
        assert!(found.xattrs.iter().any(|told| told.kind == kind && !told.examples.is_empty()), "{kind}");
    }
    // Holes take no room.
    assert!(found.bytes < 64 << 20, "{}", found.bytes);
}
