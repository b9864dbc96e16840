//! What vanishes from the source while it is copied is no failure: users work there. The next pass settles it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

mod lab;

use connect_migrator_copy::{Report, survey};
use lab::{Lab, settle};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// So many folders, that some have their turn after the slow file, in whatever order they come.
const FOLDERS: usize = 20;
const SLOW_FILE_BYTES: usize = 4 << 20;

/// One slow pass on one thread; `meanwhile` happens as soon as one of `begun` at the target holds something.
fn slow_pass(lab: &Lab, begun: &[&str], meanwhile: impl FnOnce() + Send) -> Report {
    let is_begun = || begun.iter().any(|name| fs::metadata(lab.target.join(name)).is_ok_and(|m| m.len() > 0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !is_begun() {
                assert!(Instant::now() < deadline, "it is never copied");
                std::thread::sleep(Duration::from_millis(1));
            }
            meanwhile();
        });
        let mut options = lab.options();
        options.threads = Some(1);
        options.bytes_per_second = Some(SLOW_FILE_BYTES as u64 / 2);
        lab.try_pass(&options).unwrap()
    })
}

fn remove_folders(source: &Path) {
    for folder in 0..FOLDERS {
        fs::remove_dir_all(source.join(format!("folder{folder}"))).unwrap();
    }
}

#[test]
fn a_folder_that_vanishes_between_comparing_and_carrying_out_is_no_failure() {
    let lab = Lab::new();
    for folder in 0..FOLDERS {
        lab.write(&format!("folder{folder}/one"), "1");
    }
    lab.write("slow/one", "1");
    settle();
    lab.pass();
    for folder in 0..FOLDERS {
        lab.write(&format!("folder{folder}/two"), "2");
    }
    lab.write("slow/two", vec![7; SLOW_FILE_BYTES]);
    settle();
    let report = slow_pass(&lab, &["slow/two"], || remove_folders(&lab.source));
    assert_eq!(report.failed, 0, "{report:?}");
    settle();
    lab.pass();
    lab.assert_same();
    assert_eq!(lab.pass().trips, 0);
}

#[test]
fn folders_of_hard_links_that_vanish_before_they_are_linked_or_finished_are_no_failure() {
    let lab = Lab::new();
    for folder in 0..FOLDERS {
        lab.write(&format!("folder{folder}/one"), "1");
        fs::hard_link(
            lab.source.join(format!("folder{folder}/one")),
            lab.source.join(format!("folder{folder}/two")),
        )
        .unwrap();
    }
    // Of this one a name stays, whichever of them comes first.
    lab.write("folder0/stays", "x");
    fs::create_dir(lab.source.join("kept")).unwrap();
    fs::hard_link(lab.source.join("folder0/stays"), lab.source.join("kept/stays")).unwrap();
    lab.write("slow/one", vec![7; SLOW_FILE_BYTES]);
    fs::hard_link(lab.source.join("slow/one"), lab.source.join("slow/two")).unwrap();
    settle();
    let report = slow_pass(&lab, &["slow/one", "slow/two"], || remove_folders(&lab.source));
    assert_eq!(report.failed, 0, "{report:?}");
    assert!(!report.whole, "what vanished may still stand at the target");
    assert_eq!(fs::read_to_string(lab.target.join("kept/stays")).unwrap(), "x");
    settle();
    lab.pass();
    lab.assert_same();
    assert_eq!(lab.pass().trips, 0);
}

#[test]
fn whatever_comes_and_goes_while_it_is_copied_or_counted_is_no_failure() {
    let lab = Lab::new();
    lab.write("stays/file", "x");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (lab, stop) = (&lab, &stop);
            scope.spawn(move || {
                let top = lab.source.join(format!("comes-and-goes{thread}"));
                while !stop.load(SeqCst) {
                    for number in 0..8 {
                        let folder = top.join(format!("{number}/below"));
                        fs::create_dir_all(&folder).unwrap();
                        fs::write(folder.join("file"), "x").unwrap();
                        fs::hard_link(folder.join("file"), folder.join("linked")).unwrap();
                        std::os::unix::fs::symlink("file", folder.join("link")).unwrap();
                        nix::unistd::mkfifo(&folder.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
                    }
                    fs::remove_dir_all(&top).unwrap();
                }
            });
        }
        let ended = std::panic::catch_unwind(|| {
            for _ in 0..60 {
                let report = lab.try_pass(&lab.options()).unwrap();
                assert_eq!(report.failed, 0, "{report:?}");
                let counted = survey(&lab.options(), &AtomicBool::new(false)).unwrap();
                assert_eq!(counted.failed, [""; 0]);
            }
        });
        stop.store(true, SeqCst);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    settle();
    lab.pass();
    lab.assert_same();
}
