//! The way back: what changed at the target since a moment is listed first, and then copied to the source. What it replaces or
//! removes there is kept aside.
//!
//! Listing writes a manifest of the way back, in which what is as it was carries its stamp of now and what has changed does not
//! fit; an ordinary pass from the target to the source with that manifest then does exactly what was listed.

use crate::attributes::{Xattrs, is_refused};
use crate::error::{CopyError, failed};
use crate::exclude::{At, Exclude};
use crate::manifest::{BATCH_BYTES, Entry, FolderDone, Header, Journal, Manifest, ROOT, Record, State};
use crate::options::Options;
use crate::pool::Pool;
use crate::progress::{Control, Counts, Ends, Over, PROGRESS_MILLIS, watching};
use crate::source::{join, open_below, open_dir, open_root};
use crate::stamp::{Kind, Moment, Seen, Stamp, look, look_open};
use crate::target::{Target, is_remote};
use crate::watch::Watch;
use rustix::io::Errno;
use serde::Serialize;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// So many changes are told one by one; all are counted.
const TOLD_MAX: usize = 1_000;

/// How an entry has changed at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackKind {
    /// It is new; a folder with all below it.
    Created,
    /// Its content or attributes are other.
    Changed,
    /// It is gone; a folder with all below it.
    Removed,
}

/// One change at the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackChange {
    /// What.
    pub kind: BackKind,
    /// The entry, relative to the tree.
    pub path: String,
}

/// What changed at the target since a moment.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BackChanges {
    /// How many are new, folders with all below them counted once.
    pub created: u64,
    /// How many have changed.
    pub changed: u64,
    /// How many are gone.
    pub removed: u64,
    /// The first of them, by path.
    pub told: Vec<BackChange>,
}

impl BackChanges {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.created + self.changed + self.removed == 0
    }
}

type Job = (Arc<OwnedFd>, CString, Arc<[u8]>, u32, Option<Arc<Exclude>>);

struct Back<'a> {
    options: &'a Options,
    manifest: &'a Manifest,
    since: Moment,
    journal: &'a Journal,
    source: OwnedFd,
    target: Target,
    counts: Counts,
    pool: Pool<Job>,
    found: Mutex<BackChanges>,
    failed: Mutex<Option<CopyError>>,
    control: &'a Control<'a>,
}

/// Lists what has changed at the target since `since` (by the target's clock, see [`clock_of`](crate::clock_of)), and writes the
/// manifest `back` for copying it back with [`options_back`]. Reads both trees only. `options` are those of the copy.
///
/// # Errors
/// When the copy was never whole, or a tree cannot be read.
pub fn changes_since(
    options: &Options,
    since: Moment,
    back: &Path,
    control: &Control<'_>,
) -> Result<BackChanges, CopyError> {
    let manifest = Manifest::load(&options.manifest)?;
    let Some(header) = manifest.header.clone().filter(|_| manifest.is_complete()) else {
        return Err(CopyError::Setting(format!(
            "the copy with the manifest {} was never whole: there is nothing to go back from",
            options.manifest.display()
        )));
    };
    let started = Instant::now();
    let threads = options.threads(header.remote);
    let stamp_of =
        |root: &OwnedFd, path: &Path| look_open(root).map_err(|errno| failed("look at", path, errno));
    let source = open_root(&options.source)?;
    let here = stamp_of(&source, &options.source)?;
    let (target, there) = watching(control, || {
        let target = Target::open(&options.target, threads)?;
        let there = stamp_of(&target.root, &options.target)?;
        Ok::<_, CopyError>((target, there))
    })?;
    if there.stamp.ino != header.target_ino || here.stamp.ino != header.source_root.1 {
        return Err(CopyError::OtherTree {
            manifest: options.manifest.clone(),
            which: "pair of folders",
            why: "one of them is another folder now (is it mounted?)".into(),
        });
    }
    match std::fs::remove_file(back) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed("remove the old", back, error));
        }
        _ => {}
    }
    let (journal, _) = Journal::open(back)?;
    journal.begin(Header {
        source: options.target.clone(),
        source_root: (there.device, there.stamp.ino),
        target: options.source.clone(),
        target_ino: here.stamp.ino,
        remote: is_remote(&source).unwrap_or(false),
        ..header
    })?;
    let listing = Back {
        options,
        manifest: &manifest,
        since,
        journal: &journal,
        source,
        target,
        counts: Counts::default(),
        pool: Pool::new(),
        found: Mutex::default(),
        failed: Mutex::default(),
        control,
    };
    let exclude = Exclude::of(options)?;
    let over = Over::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            over.every(PROGRESS_MILLIS, || {
                let waits = listing.target.waiting_millis();
                (control.on_progress)(&listing.counts.progress(control.total, started.elapsed(), waits));
                // Not all of it at once in memory; the mark that it is whole comes at the end.
                if journal.waiting_bytes() > BATCH_BYTES
                    && let Err(error) = journal.batch(|| Ok(()))
                {
                    listing.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
        });
        let _over = Ends(&over);
        match listing.target.open_below(b"") {
            Ok(root) => listing.folder(root, there, Vec::new().into(), ROOT, exclude),
            Err(errno) => listing.fail("open the folder", b"", errno),
        }
        std::thread::scope(|scope| {
            for slot in 0..threads {
                let listing = &listing;
                scope.spawn(move || {
                    Watch::enlist(slot);
                    listing.pool.work(|job| listing.enter(job));
                });
            }
        });
    });
    if control.cancel.load(SeqCst) {
        return Err(CopyError::Cancelled);
    }
    if let Some(error) = listing.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    journal.add(&[Record::PassEnded { whole: true }]);
    journal.batch(|| Ok(()))?;
    let mut found = listing.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.told.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The options of a pass that copies back what [`changes_since`] listed into `back`. `aside` is a folder on the source's file
/// system that keeps what is replaced or removed there: outside of the source, or below a name that is ignored at its root.
#[must_use]
pub fn options_back(options: &Options, back: &Path, aside: &Path) -> Options {
    Options {
        source: options.target.clone(),
        target: options.source.clone(),
        manifest: back.into(),
        keep_aside: Some(aside.into()),
        ..options.clone()
    }
}

impl Back<'_> {
    fn note(&self, kind: BackKind, path: &[u8]) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        *match kind {
            BackKind::Created => &mut found.created,
            BackKind::Changed => &mut found.changed,
            BackKind::Removed => &mut found.removed,
        } += 1;
        if found.told.len() < TOLD_MAX {
            let path = if path.is_empty() { ".".into() } else { String::from_utf8_lossy(path).into_owned() };
            found.told.push(BackChange { kind, path });
        }
    }

    fn fail(&self, tried: &'static str, path: &[u8], errno: Errno) {
        use std::os::unix::ffi::OsStrExt;
        let path = self.options.target.join(std::ffi::OsStr::from_bytes(path));
        let mut failure = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(failed(tried, path, errno));
    }

    fn enter(&self, (parent, name, path, number, exclude): Job) {
        if self.control.cancel.load(SeqCst) {
            return self.pool.clear();
        }
        let path: Arc<[u8]> = join(&path, name.to_bytes()).into();
        let opened = self
            .target
            .watched(|| open_dir(&*parent, &name, false).and_then(|dir| Ok((look_open(&dir)?, dir))));
        match opened {
            Ok((seen, dir)) => self.folder(dir, seen, path, number, exclude),
            Err(errno) => self.fail("open the folder", &path, errno),
        }
    }

    /// Whether an entry of the target is still as the pass left it.
    fn is_as_it_was(&self, was: &Stamp, now: &Seen) -> bool {
        let now = &now.stamp;
        let of = |stamp: &Stamp| (stamp.kind(), stamp.modified, stamp.uid, stamp.gid);
        let size = |stamp: &Stamp| if stamp.kind() == Kind::Directory { 0 } else { stamp.size };
        now.changed < self.since && of(was) == of(now) && size(was) == size(now)
    }

    fn folder(&self, dir: OwnedFd, seen: Seen, path: Arc<[u8]>, number: u32, exclude: Option<Arc<Exclude>>) {
        let Some(known) = self.manifest.folder(number) else { return };
        let names = match self.target.list(&dir) {
            Ok(names) => names,
            Err(errno) => return self.fail("list the folder", &path, errno),
        };
        let dir = Arc::new(dir);
        let mut recorded: HashMap<&[u8], _> = known.items().collect();
        let mut entries: Vec<(CString, u32, Stamp)> = Vec::new();
        for name in names {
            let below = match exclude.as_ref().map(|exclude| exclude.at(name.to_bytes())) {
                Some(At::Excluded) => continue,
                Some(At::Below(below)) => Some(below),
                _ => None,
            };
            let Some(item) = recorded.remove(name.to_bytes()) else {
                self.note(BackKind::Created, &join(&path, name.to_bytes()));
                continue;
            };
            Counts::add(&self.counts.entries, 1);
            let now = match self.target.watched(|| look(&*dir, &name)) {
                Ok(now) => now,
                Err(errno) => return self.fail("look at", &join(&path, name.to_bytes()), errno),
            };
            let is_folder = now.kind() == Kind::Directory;
            if is_folder && item.child != 0 {
                self.pool.push((Arc::clone(&dir), name.clone(), Arc::clone(&path), item.child, below));
                entries.push((name, item.child, now.stamp));
            } else if self.is_as_it_was(&item.stamp, &now) {
                entries.push((name, item.child, now.stamp));
            } else {
                self.note(BackKind::Changed, &join(&path, name.to_bytes()));
                self.record_removed(item.child);
                // The old kind, and nothing that fits.
                entries.push((name, item.child, Stamp { mode: item.stamp.mode, ..Stamp::default() }));
            }
        }
        for (name, item) in recorded {
            let excluded = exclude.as_ref().is_some_and(|exclude| matches!(exclude.at(name), At::Excluded));
            if let (false, Ok(c_name)) = (excluded, CString::new(name)) {
                self.note(BackKind::Removed, &join(&path, name));
                entries.push((c_name, item.child, item.stamp));
                self.record_removed(item.child);
            }
        }
        self.record(number, &entries);
        self.record_folder(number, &path, &dir, &seen);
    }

    /// A folder's own attributes: as they were, or as the source's folder still has them.
    fn record_folder(&self, number: u32, path: &[u8], dir: &OwnedFd, now: &Seen) {
        let Some(was) = self.manifest.folder(number).and_then(|folder| folder.done) else { return };
        let of = |stamp: &Stamp| (stamp.modified, stamp.permissions(), stamp.uid, stamp.gid);
        // Changed since, and by nothing that shows: then its extended attributes are looked at.
        let same = of(&was.stamp) == of(&now.stamp)
            && (now.stamp.changed < self.since || !self.has_other_xattrs(path, dir));
        if !same {
            self.note(BackKind::Changed, path);
        }
        let stamp = if same { now.stamp } else { Stamp { ino: 0, ..was.stamp } };
        let done = FolderDone { stamp, has_xattrs: was.has_xattrs, suspect: false, unsure: false };
        self.journal.add(&[Record::FolderDone { folder: number, done: Some(done) }]);
    }

    /// Whether a folder's extended attributes are others than those that it still has in the source.
    fn has_other_xattrs(&self, path: &[u8], dir: &OwnedFd) -> bool {
        let here = open_below(&self.source, path, false).and_then(Xattrs::of_open);
        let there = self.target.watched(|| Xattrs::of_open(dir));
        let refuses = |key: &CStr| self.target.watched(|| is_refused(&self.target.root, key));
        match (here, there) {
            (Ok(here), Ok(there)) => here.differ_at(&there, refuses),
            _ => true,
        }
    }

    /// What is below a removed folder is ours to remove from the source.
    fn record_removed(&self, number: u32) {
        let mut folders = vec![number];
        while let Some(number) = folders.pop().filter(|number| *number != 0) {
            let Some(folder) = self.manifest.folder(number) else { continue };
            let entries: Vec<_> = folder
                .items()
                .filter_map(|(name, item)| Some((CString::new(name).ok()?, item.child, item.stamp)))
                .collect();
            folders.extend(entries.iter().map(|(_, child, _)| *child).filter(|child| *child != 0));
            self.record(number, &entries);
        }
    }

    fn record(&self, folder: u32, entries: &[(CString, u32, Stamp)]) {
        let entries = entries
            .iter()
            .map(|(name, child, stamp)| Entry {
                name: name.to_bytes(),
                state: State::Done,
                child: *child,
                stamp: *stamp,
            })
            .collect();
        self.journal.add(&[Record::Entries { folder, entries }]);
    }
}
