//! New folders are filled as they are walked; folders that a crash left half-filled too.

use crate::exclude::{At, Exclude};
use crate::folder::{Meta, Open, is_temporary};
use crate::manifest::{ROOT, Record, State};
use crate::pass::{Job, Pass};
use crate::progress::Counts;
use crate::put::{Entry, There};
use crate::source::{is_gone, join, list, open_below};
use crate::stamp::{Kind, Seen, file_clock, look, look_open};
use crate::walk::{Opened, Plan};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

/// So many entries of a folder make one job: a big folder is shared out, a small one costs no hand-over.
pub(crate) const JOB_ENTRIES: usize = 32;

/// Until a first pass is whole, only root may enter the target's root: so all in it is ours.
const CLOSED: u32 = 0o700;

/// A folder to be filled.
#[derive(Debug)]
pub(crate) struct Fill {
    pub(crate) parent: Arc<Open>,
    pub(crate) name: CString,
    pub(crate) seen: Seen,
    pub(crate) number: u32,
    pub(crate) exclude: Option<Arc<Exclude>>,
    /// It may hold something already.
    pub(crate) unfinished: bool,
}

impl Pass<'_> {
    /// Fills a folder that was just made, or that an earlier pass did not finish.
    pub(crate) fn fill(&self, fill: Fill, buffer: &mut [u8]) {
        let Fill { parent, name, seen, number, exclude, unfinished } = fill;
        let path: Arc<[u8]> = join(&parent.path, name.to_bytes()).into();
        let Some(dir) = &parent.source else { return };
        let opened = self.open_source(dir, &name, &seen, &path);
        if unfinished && self.manifest.folder(number).is_some_and(|folder| folder.done.is_some()) {
            return self.compare(number, path, opened, exclude);
        }
        let (source, now, read_from) = match opened {
            Opened::Folder(source, now, read_from) => (Some(source), now, read_from),
            Opened::Mount(now, read_from) => (None, now, read_from),
            // It stays as an unfinished folder in the manifest, and the next pass sees that it is gone.
            Opened::Vanished => return,
        };
        let target = match self.target().and_then(|target| target.open_dir(&parent.target, &name)) {
            Ok(target) => target,
            Err(errno) => return self.fail("open at the target the folder", &path, errno),
        };
        let meta = if unfinished {
            match self.looked_at(now, read_from, target.as_fd()) {
                Ok(meta) => meta,
                Err(errno) => return self.fail("look at the target's folder", &path, errno),
            }
        } else {
            let there = match self.target() {
                Ok(there) => there,
                Err(errno) => return self.fail("open the target for", &path, errno),
            };
            let owner = (seen.stamp.uid, seen.stamp.gid);
            Meta {
                seen: now,
                read_from,
                owner: if there.as_owner { owner } else { parent.owner_of_roots(there) },
                mode: parent.mode_of_new(&seen.stamp),
                may_have_xattrs: parent.meta.gives_acl,
                gives_acl: parent.meta.gives_acl,
            }
        };
        let open = Open {
            number,
            path,
            source,
            target,
            meta,
            exclude,
            exclusive: parent.exclusive,
            left: AtomicUsize::new(0),
            late: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        };
        self.fill_open(open, unfinished, buffer);
    }

    /// Fills the root: of a first pass, or of one that was cut off.
    pub(crate) fn fill_root(&self, unfinished: bool, buffer: &mut [u8]) {
        let opened = (|| {
            let read_from = file_clock();
            let source = self.at_source(|| open_below(&self.source_root, b"", true))?;
            let seen = self.at_source(|| look_open(&source))?;
            let target = self.target()?.open_below(b"")?;
            let mut meta = self.looked_at(seen, read_from, target.as_fd())?;
            if meta.mode != CLOSED {
                self.target()?.chmod_open(&target, CLOSED)?;
                meta.mode = CLOSED;
            }
            Ok::<_, Errno>((source, target, meta))
        })();
        let (source, target, meta) = match opened {
            Ok(opened) => opened,
            Err(errno) => return self.fail("open both roots", b"", errno),
        };
        let open = Open {
            number: ROOT,
            path: Vec::new().into(),
            source: Some(source),
            target,
            meta,
            exclude: self.exclude.clone(),
            exclusive: false,
            left: AtomicUsize::new(0),
            late: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        };
        self.fill_open(open, unfinished, buffer);
    }

    fn fill_open(&self, open: Open, unfinished: bool, buffer: &mut [u8]) {
        let wanted_from = open.source.as_ref().filter(|_| !self.options.withdraw);
        let names = match wanted_from.map_or(Ok(Vec::new()), |source| self.at_source(|| list(source))) {
            Ok(names) => names,
            // Like one that could not be opened any more; the root is never simply gone.
            Err(errno) if is_gone(errno) && open.number != ROOT => return self.note_unsettled(),
            Err(errno) => return self.fail("list the folder", &open.path, errno),
        };
        let there = if unfinished {
            match self.listed_there(&open) {
                Ok(there) => there,
                Err(errno) => return self.fail("list at the target the folder", &open.path, errno),
            }
        } else {
            HashMap::new()
        };
        let mut kept: HashSet<Vec<u8>> = HashSet::new();
        let mut entries = Vec::with_capacity(names.len());
        let mut wanted = 0;
        let mut found = there;
        for name in names {
            let excluded = open.exclude.as_ref().map(|exclude| exclude.at(name.to_bytes()));
            let Some(source) = open.source.as_ref().filter(|_| !matches!(excluded, Some(At::Excluded)))
            else {
                continue;
            };
            let seen = match self.at_source(|| look(source, &name)) {
                Ok(seen) => seen,
                Err(errno) if is_gone(errno) => continue,
                Err(errno) => {
                    self.fail("look at", &join(&open.path, name.to_bytes()), errno);
                    open.failed.store(true, std::sync::atomic::Ordering::SeqCst);
                    found.remove(&name);
                    kept.extend(unfinished.then(|| name.to_bytes().to_vec()));
                    continue;
                }
            };
            kept.extend(unfinished.then(|| name.to_bytes().to_vec()));
            wanted += 1;
            let Some(recorded) = found.remove(&name) else {
                entries.push(Entry::new(name, seen, There::Nothing));
                continue;
            };
            if let Some((State::Done, _, stamp)) = recorded
                && stamp == seen.stamp
                && seen.kind() != Kind::Directory
            {
                if seen.stamp.links > 1 {
                    self.remember_same_link(&open.path, &name, &seen);
                }
                continue;
            }
            let child = recorded.map_or(0, |(_, child, _)| child);
            entries.push(Entry::new(name, seen, There::Unknown(child)));
        }
        Counts::add(&self.counts.entries, wanted);
        // What is left stands only at the target.
        for (name, recorded) in found {
            let child = recorded.map(|(_, child, _)| child);
            if let Err(errno) = self.remove_left_over(&open, &name, child) {
                self.fail("remove from the target", &join(&open.path, name.to_bytes()), errno);
                kept.insert(name.to_bytes().to_vec());
            }
        }
        if unfinished {
            self.forget_all_but(&kept, open.number);
        }
        if let Err(error) = self.claim_to_fill(open.number, &mut entries) {
            return self.stop_for(error);
        }
        self.share_out(Arc::new(open), entries, buffer);
    }

    /// Of what was recorded or claimed in a folder, the rest is at the target no more.
    fn forget_all_but(&self, kept: &HashSet<Vec<u8>>, folder: u32) {
        let known = self.manifest.folder(folder).into_iter().flat_map(|folder| folder.items());
        let names: Vec<_> = known.map(|(name, _)| name).filter(|name| !kept.contains(*name)).collect();
        if !names.is_empty() {
            self.journal.add(&[Record::Gone { folder, names }]);
        }
    }

    /// What stands in a half-filled folder, with what was recorded of it.
    #[allow(clippy::type_complexity, reason = "made once, taken apart once")]
    fn listed_there(
        &self,
        open: &Open,
    ) -> rustix::io::Result<HashMap<CString, Option<(State, u32, crate::stamp::Stamp)>>> {
        let target = self.target()?;
        let ignored = |name: &CStr| {
            open.number == ROOT
                && self.options.ignore_at_root.iter().any(|ignored| ignored.as_bytes() == name.to_bytes())
        };
        let mut there: HashMap<_, _> = target
            .list(&open.target)?
            .into_iter()
            .filter(|name| !ignored(name))
            .map(|name| (name, None))
            .collect();
        let known = self.manifest.folder(open.number);
        for (name, item) in known.iter().flat_map(|folder| folder.items()) {
            if let Some(recorded) = CString::new(name).ok().and_then(|name| there.get_mut(&name)) {
                *recorded = Some((item.state, item.child, item.stamp));
            }
        }
        Ok(there)
    }

    /// Cuts the entries into jobs, and does the first here.
    pub(crate) fn share_out(&self, open: Arc<Open>, entries: Vec<Entry>, buffer: &mut [u8]) {
        let mut entries = entries.into_iter();
        let first: Vec<Entry> = entries.by_ref().take(JOB_ENTRIES).collect();
        let mut others: Vec<Vec<Entry>> = Vec::new();
        loop {
            let next: Vec<Entry> = entries.by_ref().take(JOB_ENTRIES).collect();
            if next.is_empty() {
                break;
            }
            others.push(next);
        }
        open.left.store(others.len() + 1, std::sync::atomic::Ordering::SeqCst);
        self.pool.push_all(others.into_iter().map(|entries| Job::Put { open: Arc::clone(&open), entries }));
        self.put_all(&open, first, buffer);
        self.job_ended(&open);
    }

    /// Carries out what was planned for a folder that was finished before.
    pub(crate) fn carry_out(&self, plan: Plan, buffer: &mut [u8]) {
        let source = match self.open_again(&plan.path, plan.is_mount) {
            Ok(source) => source,
            // What was planned stays claimed: the next pass removes it with the folder.
            Err(errno) if is_gone(errno) => return self.note_unsettled(),
            Err(errno) => return self.fail("open again the folder", &plan.path, errno),
        };
        let target = match self.target().and_then(|target| target.open_below(&plan.path)) {
            Ok(target) => target,
            Err(errno) => return self.fail("open again at the target the folder", &plan.path, errno),
        };
        let meta = if plan.done.unsure {
            let Meta { seen, read_from, .. } = plan.meta;
            match self.looked_at(seen, read_from, target.as_fd()) {
                Ok(meta) => meta,
                Err(errno) => return self.fail("look at the target's folder", &plan.path, errno),
            }
        } else {
            plan.meta
        };
        let open = Arc::new(Open {
            number: plan.number,
            path: plan.path,
            source,
            target,
            meta,
            exclude: plan.exclude,
            exclusive: true,
            left: AtomicUsize::new(0),
            late: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        self.remove_gone(&open, &plan.gone, &plan.entries);
        self.share_out(open, plan.entries, buffer);
    }

    /// Opens a folder of the source again; none for a mount point that is not entered.
    pub(crate) fn open_again(&self, path: &[u8], is_mount: bool) -> rustix::io::Result<Option<OwnedFd>> {
        if is_mount {
            return Ok(None);
        }
        self.at_source(|| open_below(&self.source_root, path, self.options.cross_mounts)).map(Some)
    }

    /// Removes temporary entries that a crash left in folders that were finished before.
    pub(crate) fn remove_temporaries(&self, path: &[u8]) {
        let removed = (|| {
            let target = self.target()?;
            let folder = match target.open_below(path) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                opened => opened?,
            };
            for name in target.list(&folder)? {
                if is_temporary(&name, &self.prefix) {
                    target.remove(folder.as_fd(), &name)?;
                }
            }
            Ok::<_, Errno>(())
        })();
        if let Err(errno) = removed {
            self.fail("remove what a crash left in", path, errno);
        }
    }
}
