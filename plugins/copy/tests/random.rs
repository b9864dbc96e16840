//! Any run of changes between passes, whole and killed ones, ends with the same tree.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

mod lab;

use lab::{Lab, settle};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    MakeFolder(usize),
    Remove(usize),
    Rename(usize, usize),
    HardLink(usize, usize),
    Symlink(usize, usize),
    Mode(usize, u32),
    Owner(usize, u32),
    Xattr(usize, u8),
    Pass,
    /// A pass that dies right before this operation at the target.
    Died(u64),
}

const NAMES: usize = 14;

/// Few names in few folders, so that changes meet.
fn path(root: &Path, number: usize) -> PathBuf {
    let names =
        ["a", "b", "c", "f/a", "f/b", "f/g/a", "f/g/b", "h", "h/a", "h/i/a", "f", "f/g", "h/i", "b/a"];
    root.join(names[number % NAMES])
}

fn apply(root: &Path, change: &Change) {
    // What cannot be done (no such file, a folder in the way) is simply not done.
    let at = |number: &usize| path(root, *number);
    let _ = match change {
        Change::Write(to, content) => fs::write(at(to), content),
        Change::MakeFolder(to) => fs::create_dir_all(at(to)),
        Change::Remove(what) => {
            let path = at(what);
            if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
        }
        Change::Rename(from, to) => fs::rename(at(from), at(to)),
        Change::HardLink(from, to) => fs::hard_link(at(from), at(to)),
        Change::Symlink(from, to) => symlink(at(from), at(to)),
        Change::Mode(what, mode) if !at(what).is_symlink() => {
            fs::set_permissions(at(what), fs::Permissions::from_mode(*mode))
        }
        Change::Owner(what, id) => std::os::unix::fs::lchown(at(what), Some(*id), Some(id + 1)),
        Change::Xattr(what, value) if !at(what).is_symlink() => {
            rustix::fs::setxattr(at(what), "user.k", &[*value], rustix::fs::XattrFlags::empty())
                .map_err(Into::into)
        }
        _ => Ok(()),
    };
    let _ = chown(root, Some(0), Some(0));
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let name = || 0..NAMES;
    let one = prop_oneof![
        4 => (name(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(to, content)| Change::Write(to, content)),
        2 => name().prop_map(Change::MakeFolder),
        2 => name().prop_map(Change::Remove),
        3 => (name(), name()).prop_map(|(from, to)| Change::Rename(from, to)),
        3 => (name(), name()).prop_map(|(from, to)| Change::HardLink(from, to)),
        1 => (name(), name()).prop_map(|(from, to)| Change::Symlink(from, to)),
        1 => (name(), prop::sample::select(vec![0o600_u32, 0o644, 0o4755, 0o2775, 0o1777, 0]))
            .prop_map(|(what, mode)| Change::Mode(what, mode)),
        1 => (name(), 1_000..1_003_u32).prop_map(|(what, id)| Change::Owner(what, id)),
        1 => (name(), any::<u8>()).prop_map(|(what, value)| Change::Xattr(what, value)),
        2 => Just(Change::Pass),
        3 => (1..40_u64).prop_map(Change::Died),
    ];
    prop::collection::vec(one, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn after_any_changes_and_kills_a_pass_makes_the_trees_the_same(changes in changes(), as_owner in any::<bool>()) {
        let lab = Lab::new();
        let mut options = lab.options();
        options.threads = Some(4);
        if as_owner {
            options.owners = connect_migrator_copy::Owners::AsOwner;
        }
        for change in &changes {
            match change {
                Change::Pass => {
                    let report = lab.try_pass(&options).unwrap();
                    prop_assert_eq!(report.failed, 0, "{:?}", report);
                }
                Change::Died(at) => {
                    let owners = if as_owner { "as-owner" } else { "chown" };
                    lab.pass_dies_at(*at, &["--threads", "2", "--owners", owners]);
                }
                change => apply(&lab.source, change),
            }
        }
        settle();
        let report = lab.try_pass(&options).unwrap();
        prop_assert!(report.whole, "{:?}", report);
        lab.assert_same();
        prop_assert_eq!(lab.pass_with(&options).trips, 0);
    }
}
