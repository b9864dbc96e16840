//! What is refused before anything is touched, and tricks that lead nowhere.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

mod lab;

use connect_migrator_copy::{Control, CopyError, Options, withdraw};
use lab::{Lab, settle};
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

#[test]
fn a_target_that_is_not_empty_is_refused_and_left_as_it_is() {
    let lab = Lab::new();
    lab.write("a", "ours");
    fs::write(lab.target.join("theirs"), "x").unwrap();
    let before = fs::metadata(&lab.target).unwrap().permissions();
    let error = lab.try_pass(&lab.options()).unwrap_err();
    assert!(matches!(&error, CopyError::NotEmpty { what, .. } if what == "theirs"), "{error}");
    assert_eq!(fs::metadata(&lab.target).unwrap().permissions(), before);
    assert!(!lab.target.join("a").exists());
}

#[test]
fn trees_inside_each_other_are_refused() {
    let lab = Lab::new();
    fs::create_dir(lab.source.join("inside")).unwrap();
    for (source, target) in [(&lab.source, &lab.source.join("inside")), (&lab.source, &lab.source)] {
        let error = lab.try_pass(&Options::new(source, target, &lab.manifest)).unwrap_err();
        assert!(matches!(error, CopyError::Nested { .. }), "{error}");
    }
    let error =
        lab.try_pass(&Options::new(&lab.source, &lab.target, lab.target.join("manifest"))).unwrap_err();
    assert!(matches!(error, CopyError::Nested { .. }), "{error}");
}

#[test]
fn a_source_that_is_not_mounted_does_not_empty_the_target() {
    let lab = Lab::new();
    lab.write("a", "x");
    settle();
    lab.pass();
    fs::rename(&lab.source, lab.dir().join("away")).unwrap();
    fs::create_dir(&lab.source).unwrap();
    let error = lab.try_pass(&lab.options()).unwrap_err();
    assert!(matches!(error, CopyError::OtherTree { which: "source", .. }), "{error}");
    assert!(lab.target.join("a").exists());
}

#[test]
fn a_target_that_is_not_mounted_is_not_filled() {
    let lab = Lab::new();
    lab.write("a", "x");
    settle();
    lab.pass();
    fs::rename(&lab.target, lab.dir().join("away")).unwrap();
    fs::create_dir(&lab.target).unwrap();
    lab.write("b", "y");
    let error = lab.try_pass(&lab.options()).unwrap_err();
    assert!(matches!(error, CopyError::OtherTree { which: "target", .. }), "{error}");
    assert_eq!(fs::read_dir(&lab.target).unwrap().count(), 0);
}

#[test]
fn a_damaged_manifest_is_refused() {
    let lab = Lab::new();
    fs::write(&lab.manifest, b"this is no manifest at all").unwrap();
    let error = lab.try_pass(&lab.options()).unwrap_err();
    assert!(matches!(error, CopyError::BadManifest { .. }), "{error}");
}

#[test]
fn what_was_refused_before_anything_was_put_is_withdrawn_by_doing_nothing() {
    let lab = Lab::new();
    lab.write("a", "ours");
    fs::write(lab.target.join("theirs"), "x").unwrap();
    lab.try_pass(&lab.options()).unwrap_err();
    let cancel = AtomicBool::new(false);
    let control = Control { cancel: &cancel, on_progress: &|_| {}, total: None };
    assert!(withdraw(&lab.options(), &control).unwrap().whole);
    assert!(lab.target.join("theirs").exists());
    fs::remove_file(lab.target.join("theirs")).unwrap();
    // A power cut within the header: it counts as none.
    lab.pass();
    let header = fs::read(&lab.manifest).unwrap()[..50].to_vec();
    fs::remove_file(lab.target.join("a")).unwrap();
    for cut in [3, 50] {
        fs::write(&lab.manifest, &header[..cut]).unwrap();
        assert!(withdraw(&lab.options(), &control).unwrap().whole);
    }
    fs::write(&lab.manifest, &header).unwrap();
    settle();
    lab.pass();
    lab.assert_same();
}

#[test]
fn two_copies_with_one_manifest_do_not_run_at_once() {
    let lab = Lab::new();
    lab.write("a", vec![0_u8; 1 << 20]);
    let mut slow = lab.options();
    slow.bytes_per_second = Some(1 << 20);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| lab.try_pass(&slow));
        while !lab.manifest.exists() {
            std::thread::yield_now();
        }
        let second = lab.try_pass(&slow);
        let first = first.join().unwrap();
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    });
}

#[test]
fn a_folder_swapped_for_a_link_while_it_is_walked_leads_nowhere_else() {
    let lab = Lab::new();
    let secret = lab.dir().join("secret");
    fs::create_dir(&secret).unwrap();
    for number in 0..20 {
        fs::write(secret.join(format!("secret{number}")), "secret").unwrap();
        lab.write(&format!("folder/file{number}"), "public");
    }
    let (folder, link, away) = (lab.source.join("folder"), lab.source.join("link"), lab.source.join("away"));
    symlink(&secret, &link).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                fs::rename(&folder, &away).unwrap();
                fs::rename(&link, &folder).unwrap();
                fs::rename(&folder, &link).unwrap();
                fs::rename(&away, &folder).unwrap();
            }
        });
        for _ in 0..60 {
            lab.try_pass(&lab.options()).unwrap();
        }
        stop.store(true, SeqCst);
    });
    let found = std::process::Command::new("grep").args(["-rl", "secret"]).arg(&lab.target).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    settle();
    lab.pass();
    lab.assert_same();
}

#[test]
fn a_fifo_in_the_place_of_a_file_does_not_hang_the_copy() {
    let lab = Lab::new();
    lab.write("file", "x");
    let (file, fifo, away) = (lab.source.join("file"), lab.source.join("fifo"), lab.source.join("away"));
    lab::shell(&["mkfifo", fifo.to_str().unwrap()]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                fs::rename(&file, &away).unwrap();
                fs::rename(&fifo, &file).unwrap();
                fs::rename(&file, &fifo).unwrap();
                fs::rename(&away, &file).unwrap();
            }
        });
        for _ in 0..40 {
            lab.try_pass(&lab.options()).unwrap();
        }
        stop.store(true, SeqCst);
    });
    settle();
    lab.pass();
    lab.assert_same();
}
