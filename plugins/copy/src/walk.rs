//! Folders that are known are only compared with what was recorded: the target is not asked.

use crate::exclude::{At, Exclude};
use crate::folder::Meta;
use crate::manifest::{Folder, FolderDone, State};
use crate::pass::{Job, Pass};
use crate::progress::Counts;
use crate::put::{Entry, There};
use crate::source::{is_gone, join, list, open_dir};
use crate::stamp::{Kind, Moment, Seen, Stamp, file_clock, look, look_open};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// What is to be done in a folder that was finished before.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) number: u32,
    pub(crate) path: Arc<[u8]>,
    pub(crate) is_mount: bool,
    pub(crate) exclude: Option<Arc<Exclude>>,
    pub(crate) meta: Meta,
    /// As it was recorded.
    pub(crate) done: FolderDone,
    pub(crate) entries: Vec<Entry>,
    /// Names that are no longer in the source, with the folder's number if it was one.
    pub(crate) gone: Vec<(CString, u32)>,
}

/// An open folder of the source; none for a mount point that is not entered.
pub(crate) enum Opened {
    Folder(OwnedFd, Seen, Moment),
    Mount(Seen, Moment),
    Vanished,
}

/// Whether a folder's own attributes are as they were.
fn is_same_folder(was: &Stamp, now: &Stamp) -> bool {
    (was.ino, was.modified, was.changed, was.mode, was.uid, was.gid)
        == (now.ino, now.modified, now.changed, now.mode, now.uid, now.gid)
}

impl Pass<'_> {
    /// Opens a folder of the source. A failure is told, and answered like a vanished one.
    pub(crate) fn open_source(&self, dir: impl AsFd, name: &CStr, seen: &Seen, path: &[u8]) -> Opened {
        let read_from = file_clock();
        let opened = self.at_source(|| {
            open_dir(dir, name, self.options.cross_mounts)
                .and_then(|source| look_open(&source).map(|seen| (source, seen)))
        });
        match opened {
            Ok((source, seen)) => Opened::Folder(source, seen, read_from),
            Err(Errno::XDEV) => {
                self.note_mount(path);
                Opened::Mount(*seen, read_from)
            }
            Err(errno) if is_gone(errno) => {
                self.note_unsettled();
                Opened::Vanished
            }
            Err(errno) => {
                self.fail("open the folder", path, errno);
                Opened::Vanished
            }
        }
    }

    /// Compares a finished folder and sends others into its folders.
    pub(crate) fn compare(
        &self,
        number: u32,
        path: Arc<[u8]>,
        opened: Opened,
        exclude: Option<Arc<Exclude>>,
    ) {
        let (source, seen, read_from) = match opened {
            Opened::Folder(source, seen, read_from) => (Some(source), seen, read_from),
            Opened::Mount(seen, read_from) => (None, seen, read_from),
            Opened::Vanished => return,
        };
        let (Some(known), source) = (self.manifest.folder(number), source.map(Arc::new)) else { return };
        let Some(done) = known.done else { return };
        let Some((entries, gone)) = self.differences(known, &source, &path, exclude.as_ref()) else { return };
        let settled = !done.suspect && !done.unsure && is_same_folder(&done.stamp, &seen.stamp);
        if entries.is_empty() && gone.is_empty() && settled {
            return;
        }
        let meta = Meta::recorded(seen, read_from, &done);
        self.plan(Plan { number, path, is_mount: source.is_none(), exclude, meta, done, entries, gone });
    }

    #[allow(clippy::type_complexity, reason = "made once, taken apart once")]
    fn differences(
        &self,
        known: &Folder,
        source: &Option<Arc<OwnedFd>>,
        path: &Arc<[u8]>,
        exclude: Option<&Arc<Exclude>>,
    ) -> Option<(Vec<Entry>, Vec<(CString, u32)>)> {
        let names = match source {
            None => Vec::new(),
            Some(_) if self.options.withdraw => Vec::new(),
            Some(source) => match self.at_source(|| list(source)) {
                Ok(names) => names,
                Err(errno) if is_gone(errno) && !path.is_empty() => {
                    self.note_unsettled();
                    return None;
                }
                Err(errno) => {
                    self.fail("list the folder", path, errno);
                    return None;
                }
            },
        };
        let mut find = Finder { known, next: 0, index: None };
        let mut met = vec![false; known.len()];
        let mut entries = Vec::new();
        let mut gone = Vec::new();
        let mut folders = Vec::new();
        let mut count = 0;
        for name in names {
            let below = match exclude.map(|exclude| exclude.at(name.to_bytes())) {
                Some(At::Excluded) => continue,
                Some(At::Below(below)) => Some(below),
                _ => None,
            };
            let Some(source) = source else { break };
            let seen = match self.at_source(|| look(source, &name)) {
                Ok(seen) => seen,
                Err(errno) if is_gone(errno) => continue,
                Err(errno) => {
                    self.fail("look at", &join(path, name.to_bytes()), errno);
                    // What cannot be looked at must not count as gone.
                    if let Some(met) = find.at(name.to_bytes()).and_then(|at| met.get_mut(at)) {
                        *met = true;
                    }
                    continue;
                }
            };
            count += 1;
            let at = find.at(name.to_bytes());
            if let Some(met) = at.and_then(|at| met.get_mut(at)) {
                *met = true;
            }
            let item = at.and_then(|at| known.get(at)).map(|(_, item)| *item);
            let is_folder = seen.kind() == Kind::Directory;
            let entry = |there| Entry::new(name.clone(), seen, there);
            match item {
                None => entries.push(entry(There::Nothing)),
                Some(item) if item.state == State::Claimed => entries.push(entry(There::Unknown(item.child))),
                Some(item) if is_folder && item.child != 0 => {
                    if self.manifest.folder(item.child).is_some_and(|folder| folder.done.is_some()) {
                        folders.push((name, seen, item.child, below));
                    } else {
                        entries.push(entry(There::Unknown(item.child)));
                    }
                }
                Some(item) if is_folder || item.child != 0 => {
                    gone.push((name.clone(), item.child));
                    // It is removed first; whether it could be is seen then.
                    entries.push(entry(There::Unknown(item.child)));
                }
                Some(item) if item.state == State::Done && item.stamp == seen.stamp => {
                    if seen.stamp.links > 1 {
                        self.remember_same_link(path, &name, &seen);
                    }
                }
                Some(item) => entries.push(entry(There::Ours(item.stamp.kind(), 0))),
            }
        }
        let left = known.items().zip(&met).filter(|(_, met)| !**met);
        for ((name, item), _) in left {
            if let Ok(name) = CString::new(name) {
                gone.push((name, item.child));
            }
        }
        Counts::add(&self.counts.entries, count);
        self.pool.push_all(folders.into_iter().filter_map(|(name, seen, number, exclude)| {
            Some(Job::Compare {
                parent: Arc::clone(source.as_ref()?),
                path: Arc::clone(path),
                name,
                seen,
                number,
                exclude,
            })
        }));
        Some((entries, gone))
    }
}

/// Finds names in a recorded folder; free when the order is still the same.
struct Finder<'a> {
    known: &'a Folder,
    next: usize,
    index: Option<HashMap<&'a [u8], usize>>,
}

impl Finder<'_> {
    fn at(&mut self, name: &[u8]) -> Option<usize> {
        if self.known.get(self.next).is_some_and(|(have, _)| have == name) {
            self.next += 1;
            return Some(self.next - 1);
        }
        let known = self.known;
        let index = self
            .index
            .get_or_insert_with(|| known.items().enumerate().map(|(at, (name, _))| (name, at)).collect());
        let at = index.get(name).copied()?;
        self.next = at + 1;
        Some(at)
    }
}

/// A plan for a folder whose recorded state is known but of which nothing differs, to set its attributes again.
impl Plan {
    pub(crate) fn has_claims(&self) -> bool {
        !self.entries.is_empty() || !self.gone.is_empty()
    }
}
