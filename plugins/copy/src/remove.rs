//! What was put at the target is removed there when the source no longer has it; what others put there stays.

use crate::folder::{Open, c_name};
use crate::manifest::Record;
use crate::pass::Pass;
use crate::progress::Counts;
use crate::source::join;
use crate::stamp::{Kind, look};
use rustix::io::{Errno, Result};
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::sync::Arc;

/// One folder of a tree that is to be removed.
#[derive(Debug)]
pub(crate) struct Doomed {
    pub(crate) path: Arc<[u8]>,
    /// What we put there and is no folder.
    pub(crate) names: Vec<CString>,
}

impl Pass<'_> {
    /// The folders of a recorded tree, parents before children.
    pub(crate) fn doomed(&self, path: Vec<u8>, number: u32) -> Vec<Doomed> {
        let mut doomed = Vec::new();
        let mut folders: Vec<(Arc<[u8]>, u32)> = vec![(path.into(), number)];
        while let Some((path, number)) = folders.pop() {
            let mut names = Vec::new();
            for (name, item) in self.manifest.folder(number).iter().flat_map(|folder| folder.items()) {
                if item.child != 0 {
                    folders.push((join(&path, name).into(), item.child));
                } else if let Ok(name) = c_name(name) {
                    names.push(name);
                }
            }
            doomed.push(Doomed { path, names });
        }
        doomed
    }

    /// Removes the entries of one folder of a doomed tree.
    pub(crate) fn empty_doomed(&self, doomed: &Doomed) {
        if doomed.names.is_empty() {
            return;
        }
        let emptied = (|| {
            let target = self.target()?;
            let folder = match target.open_below(&doomed.path) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                opened => opened?,
            };
            for name in &doomed.names {
                if self.stopped() {
                    return Ok(());
                }
                match target.remove(&folder, name) {
                    // Somebody else put a folder there.
                    Err(Errno::ISDIR) => {}
                    removed => removed?,
                }
                Counts::add(&self.counts.removed, 1);
            }
            Ok::<_, Errno>(())
        })();
        if let Err(errno) = emptied {
            self.fail("remove from the target what was in", &doomed.path, errno);
        }
    }

    /// Removes an emptied folder. One that holds what others put there stays, and is told.
    pub(crate) fn remove_doomed(&self, path: &[u8]) {
        let (parent, name) = crate::folder::split(path);
        let removed = (|| {
            let target = self.target()?;
            let folder = match target.open_below(parent) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                opened => opened?,
            };
            target.remove_dir(&folder, &c_name(name)?)
        })();
        match removed {
            Ok(()) => Counts::add(&self.counts.removed, 1),
            Err(Errno::NOTEMPTY | Errno::EXIST) => self.note_foreign(path),
            Err(errno) => self.fail("remove from the target the folder", path, errno),
        }
    }

    /// Removes what a folder no longer has, folders by now empty ones excepted.
    pub(crate) fn remove_gone(&self, open: &Open, gone: &[(CString, u32)]) {
        let mut names: Vec<&[u8]> = Vec::new();
        for (name, child) in gone {
            if *child == 0 {
                match self.target().and_then(|target| target.remove(&open.target, name)) {
                    Ok(()) => Counts::add(&self.counts.removed, 1),
                    // A claim that became a folder: with all that is in it.
                    Err(Errno::ISDIR) => {
                        if let Err(errno) = self.remove_tree_by_listing(&join(&open.path, name.to_bytes())) {
                            self.fail("remove from the target", &join(&open.path, name.to_bytes()), errno);
                            continue;
                        }
                    }
                    Err(errno) => {
                        self.fail("remove from the target", &join(&open.path, name.to_bytes()), errno);
                        continue;
                    }
                }
            }
            names.push(name.to_bytes());
        }
        if !names.is_empty() {
            self.journal.add(&[Record::Gone { folder: open.number, names }]);
        }
    }

    /// Removes one entry of a folder in which everything is ours.
    pub(crate) fn remove_by_listing(&self, open: &Open, name: &CStr) -> Result<()> {
        let target = self.target()?;
        crate::target::Trips::look(&target.trips);
        let seen = match target.watched(|| look(&open.target, name)) {
            Err(Errno::NOENT) => return Ok(()),
            seen => seen?,
        };
        if seen.kind() == Kind::Directory {
            self.remove_tree_by_listing(&join(&open.path, name.to_bytes()))
        } else {
            Counts::add(&self.counts.removed, 1);
            target.remove(open.target.as_fd(), name)
        }
    }

    /// Removes a tree in which everything is ours: one that was being filled.
    pub(crate) fn remove_tree_by_listing(&self, path: &[u8]) -> Result<()> {
        let target = self.target()?;
        let mut to_list = vec![path.to_vec()];
        let mut to_remove = Vec::new();
        while let Some(path) = to_list.pop() {
            let folder = target.open_below(&path)?;
            for name in target.list(&folder)? {
                crate::target::Trips::look(&target.trips);
                if target.watched(|| look(&folder, &name))?.kind() == Kind::Directory {
                    to_list.push(join(&path, name.to_bytes()));
                } else {
                    target.remove(&folder, &name)?;
                    Counts::add(&self.counts.removed, 1);
                }
            }
            to_remove.push(path);
        }
        for path in to_remove.iter().rev() {
            let (parent, name) = crate::folder::split(path);
            target.remove_dir(target.open_below(parent)?, &c_name(name)?)?;
            Counts::add(&self.counts.removed, 1);
        }
        Ok(())
    }
}
