//! What was put at the target is removed there when the source no longer has it; what others put there stays.

use crate::exclude::{At, Exclude};
use crate::folder::{Open, c_name, is_temporary};
use crate::manifest::{Item, Record, State};
use crate::pass::Pass;
use crate::progress::Counts;
use crate::put::Entry;
use crate::source::join;
use crate::stamp::{Kind, look};
use rustix::io::{Errno, Result};
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::sync::Arc;

/// One folder of a tree that is to be removed.
#[derive(Debug)]
pub(crate) struct Doomed {
    pub(crate) path: Arc<[u8]>,
    /// We were about to put something else in its place.
    pub(crate) is_claimed: bool,
    /// What we put there and is no folder.
    pub(crate) names: Vec<CString>,
}

impl Pass<'_> {
    /// The folders of a recorded tree, parents before children.
    pub(crate) fn doomed(&self, path: Vec<u8>, number: u32, is_claimed: bool) -> Vec<Doomed> {
        let mut doomed = Vec::new();
        let mut folders: Vec<(Arc<[u8]>, u32, bool)> = vec![(path.into(), number, is_claimed)];
        while let Some((path, number, is_claimed)) = folders.pop() {
            let mut names = Vec::new();
            for (name, item) in self.manifest.folder(number).iter().flat_map(|folder| folder.items()) {
                if item.child != 0 {
                    folders.push((join(&path, name).into(), item.child, item.state == State::Claimed));
                } else if let Ok(name) = c_name(name) {
                    names.push(name);
                }
            }
            doomed.push(Doomed { path, is_claimed, names });
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
            self.note_not_removed(&doomed.path);
            self.fail("remove from the target what was in", &doomed.path, errno);
        }
    }

    /// Removes an emptied folder. One that holds what others put there stays, and is told. Where a claim says that something else was to
    /// come in its place, that may be there.
    pub(crate) fn remove_doomed(&self, path: &[u8], is_claimed: bool) {
        let (parent, name) = crate::folder::split(path);
        let removed = (|| {
            let target = self.target()?;
            let folder = match target.open_below(parent) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                opened => opened?,
            };
            let name = c_name(name)?;
            match target.remove_dir(&folder, &name) {
                Err(Errno::NOTDIR) if is_claimed => target.remove(&folder, &name),
                removed => removed,
            }
        })();
        match removed {
            Ok(()) => Counts::add(&self.counts.removed, 1),
            Err(Errno::NOTEMPTY | Errno::EXIST) => self.note_foreign(path),
            Err(errno) => {
                self.note_not_removed(path);
                self.fail("remove from the target the folder", path, errno);
            }
        }
    }

    /// Removes what a folder no longer has, folders by now empty ones excepted. What is made anew under its name stays claimed.
    pub(crate) fn remove_gone(&self, open: &Open, gone: &[(CString, u32)], anew: &[Entry]) {
        let anew: HashSet<&CStr> = anew.iter().map(|entry| entry.name.as_c_str()).collect();
        let mut names: Vec<&[u8]> = Vec::new();
        for (name, child) in gone {
            if *child == 0 {
                match self.target().and_then(|target| target.remove(&open.target, name)) {
                    Ok(()) => Counts::add(&self.counts.removed, 1),
                    // A folder in the place of what we put: empty, or others'.
                    Err(Errno::ISDIR) => {
                        let path = join(&open.path, name.to_bytes());
                        if let Err(errno) = self.remove_our_tree(&path, 0, None) {
                            self.fail("remove from the target", &path, errno);
                            continue;
                        }
                    }
                    Err(errno) => {
                        self.fail("remove from the target", &join(&open.path, name.to_bytes()), errno);
                        continue;
                    }
                }
            }
            // What could not be removed stays ours: the next pass tries again.
            let stays = *child != 0 && self.is_not_removed(&join(&open.path, name.to_bytes()));
            if !stays && !anew.contains(name.as_c_str()) {
                names.push(name.to_bytes());
            }
        }
        if !names.is_empty() {
            self.journal.add(&[Record::Gone { folder: open.number, names }]);
        }
    }

    /// Removes what stands only at the target in a folder that was being filled, if it is ours: recorded or claimed (`child` is its
    /// number, 0 for what is no folder), or half made; when all is withdrawn, also what the source has under the same name.
    pub(crate) fn remove_left_over(&self, open: &Open, name: &CStr, child: Option<u32>) -> Result<()> {
        let at = open.exclude.as_ref().map(|exclude| exclude.at(name.to_bytes()));
        let in_source = || {
            let has = open.source.as_ref().is_some_and(|source| look(source, name).is_ok());
            self.options.withdraw && !matches!(at, Some(At::Excluded)) && has
        };
        if child.is_none() && !is_temporary(name, &self.prefix) && !in_source() {
            self.note_foreign(&join(&open.path, name.to_bytes()));
            return Ok(());
        }
        let target = self.target()?;
        crate::target::Trips::look(&target.trips);
        let seen = match target.watched(|| look(&open.target, name)) {
            Err(Errno::NOENT) => return Ok(()),
            seen => seen?,
        };
        if seen.kind() == Kind::Directory {
            let below = match at {
                Some(At::Below(below)) => Some(below),
                _ => None,
            };
            self.remove_our_tree(&join(&open.path, name.to_bytes()), child.unwrap_or(0), below)
        } else {
            Counts::add(&self.counts.removed, 1);
            target.remove(open.target.as_fd(), name)
        }
    }

    /// Removes a tree as far as it is ours: what was recorded or claimed, and what the source has there, as a power cut may have kept it
    /// from being recorded. What others put there stays, and is told.
    pub(crate) fn remove_our_tree(
        &self,
        path: &[u8],
        number: u32,
        exclude: Option<Arc<Exclude>>,
    ) -> Result<()> {
        let target = self.target()?;
        if let Err(error) = self.unsettle(number) {
            self.stop_for(error);
            return Err(Errno::CANCELED);
        }
        let mut to_list = vec![(path.to_vec(), number, exclude)];
        let mut to_remove = Vec::new();
        let mut left_some = false;
        while let Some((path, number, exclude)) = to_list.pop() {
            let folder = target.open_below(&path)?;
            let known: HashMap<&[u8], u32> = self
                .manifest
                .folder(number)
                .into_iter()
                .flat_map(|folder| folder.items())
                .map(child_of)
                .collect();
            let mut source = None;
            for name in target.list(&folder)? {
                let at = exclude.as_ref().map(|exclude| exclude.at(name.to_bytes()));
                let mut in_source = || {
                    let source = source.get_or_insert_with(|| self.open_again(&path, false).ok().flatten());
                    !matches!(at, Some(At::Excluded))
                        && source.as_ref().is_some_and(|source| look(source, &name).is_ok())
                };
                let recorded = known.get(name.to_bytes()).copied();
                if recorded.is_none() && !is_temporary(&name, &self.prefix) && !in_source() {
                    self.note_foreign(&join(&path, name.to_bytes()));
                    left_some = true;
                    continue;
                }
                crate::target::Trips::look(&target.trips);
                if target.watched(|| look(&folder, &name))?.kind() == Kind::Directory {
                    let below = match at {
                        Some(At::Below(below)) => Some(below),
                        _ => None,
                    };
                    to_list.push((join(&path, name.to_bytes()), recorded.unwrap_or(0), below));
                } else {
                    target.remove(&folder, &name)?;
                    Counts::add(&self.counts.removed, 1);
                }
            }
            to_remove.push(path);
        }
        for path in to_remove.iter().rev() {
            let (parent, name) = crate::folder::split(path);
            match target.remove_dir(target.open_below(parent)?, &c_name(name)?) {
                Ok(()) => Counts::add(&self.counts.removed, 1),
                Err(Errno::NOTEMPTY | Errno::EXIST) if left_some => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

fn child_of<'a>((name, item): (&'a [u8], &Item)) -> (&'a [u8], u32) {
    (name, item.child)
}
