//! The control groups of units: which processes a unit still has.

use super::processes::{Process, Processes};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// The deepest nesting that is followed.
const MAX_DEPTH: usize = 32;

/// The tree of control groups, whichever version the machine has.
#[derive(Debug, Clone)]
pub struct Cgroups {
    root: PathBuf,
    processes: Processes,
}

impl Default for Cgroups {
    fn default() -> Self {
        Cgroups::at(Path::new("/sys/fs/cgroup"), Processes::default())
    }
}

impl Cgroups {
    /// Another tree.
    #[must_use]
    pub fn at(root: &Path, processes: Processes) -> Self {
        Cgroups { root: root.into(), processes }
    }

    /// The folders in which systemd may keep the group: version 2, the hybrid of both, version 1.
    fn folders(&self, group: &str) -> [PathBuf; 3] {
        let group = group.trim_start_matches('/');
        [self.root.join(group), self.root.join("unified").join(group), self.root.join("systemd").join(group)]
    }

    /// Whether the group can be seen at all.
    #[must_use]
    pub fn exists(&self, group: &str) -> bool {
        !group.trim_matches('/').is_empty() && self.folders(group).iter().any(|folder| folder.is_dir())
    }

    /// The processes in the group and below it. A group that is gone has none.
    ///
    /// # Errors
    /// When the group is there and cannot be read.
    pub fn processes(&self, group: &str) -> io::Result<Vec<Process>> {
        if group.trim_matches('/').is_empty() {
            return Ok(Vec::new());
        }
        let mut pids = BTreeSet::new();
        for folder in self.folders(group) {
            if populated(&folder) != Some(false) {
                collect(&folder, MAX_DEPTH, &mut pids)?;
            }
        }
        Ok(pids.into_iter().map(|pid| self.processes.get(pid)).collect())
    }
}

/// What the kernel says (version 2): whether any process lives in the group or below it.
fn populated(folder: &Path) -> Option<bool> {
    let events = std::fs::read_to_string(folder.join("cgroup.events")).ok()?;
    let value = events.lines().find_map(|line| line.strip_prefix("populated "))?;
    Some(value.trim() != "0")
}

fn collect(folder: &Path, depth: usize, pids: &mut BTreeSet<u32>) -> io::Result<()> {
    let gone = |error: io::Error| {
        // ENODEV: the group was removed while it was open.
        let gone = error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV);
        if gone { Ok(()) } else { Err(error) }
    };
    match std::fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.trim().parse::<u32>().ok())),
        Err(error) => gone(error)?,
    }
    if depth == 0 {
        return Ok(());
    }
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return gone(error),
    };
    for entry in entries {
        let Ok(entry) = entry else { continue };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), depth - 1, pids)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "/system.slice/rstudio-connect.service";

    fn tree() -> (tempfile::TempDir, Cgroups) {
        let root = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::at(root.path(), Processes::at(root.path()));
        (root, cgroups)
    }

    fn put(root: &Path, below: &str, procs: &str) {
        let folder = root.join(below).join(GROUP.trim_start_matches('/'));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("cgroup.procs"), procs).unwrap();
    }

    fn pids(cgroups: &Cgroups) -> Vec<u32> {
        cgroups.processes(GROUP).unwrap().iter().map(|process| process.pid).collect()
    }

    #[test]
    fn processes_are_found_in_both_versions_and_below() {
        let (root, cgroups) = tree();
        assert!(!cgroups.exists(GROUP));
        assert!(pids(&cgroups).is_empty());
        for below in ["", "unified", "systemd"] {
            put(root.path(), below, "12\n7\n");
            assert!(cgroups.exists(GROUP));
            assert_eq!(pids(&cgroups), [7, 12]);
            let child = root.path().join(below).join(GROUP.trim_start_matches('/')).join("content");
            std::fs::create_dir(&child).unwrap();
            std::fs::write(child.join("cgroup.procs"), "30\n").unwrap();
            assert_eq!(pids(&cgroups), [7, 12, 30]);
            std::fs::remove_dir_all(child).unwrap();
            put(root.path(), below, "");
            assert!(pids(&cgroups).is_empty());
        }
    }

    #[test]
    fn the_kernels_word_that_a_group_is_empty_is_taken() {
        let (root, cgroups) = tree();
        put(root.path(), "", "5\n");
        let events = root.path().join(GROUP.trim_start_matches('/')).join("cgroup.events");
        std::fs::write(&events, "populated 0\nfrozen 0\n").unwrap();
        assert!(pids(&cgroups).is_empty());
        std::fs::write(&events, "populated 1\nfrozen 0\n").unwrap();
        assert_eq!(pids(&cgroups), [5]);
    }

    #[test]
    fn the_root_of_the_tree_is_nobodys_group() {
        let (_root, cgroups) = tree();
        assert!(cgroups.processes("").unwrap().is_empty() && cgroups.processes("/").unwrap().is_empty());
        assert!(!cgroups.exists("") && !cgroups.exists("/"));
    }
}
