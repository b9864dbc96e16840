//! What there is to copy, without copying it.

use crate::attributes::{Xattrs, kind_of};
use crate::error::{CopyError, failed};
use crate::exclude::{At, Exclude};
use crate::manifest::Manifest;
use crate::options::Options;
use crate::pool::Pool;
use crate::source::{is_gone, join, list, open_below, open_dir, open_root};
use crate::stamp::{Kind, look};
use crate::{Refused, XattrKind};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

const EXAMPLES_MAX: usize = 20;
/// The walk is local and mostly waits for the disk.
const THREADS: usize = 8;

/// What there is to copy.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Survey {
    /// Entries in all, the root not counted.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Folders among them.
    pub folders: u64,
    /// Bytes that the files take on disk, each hard-linked file once.
    pub bytes: u64,
    /// Bytes of the largest file.
    pub largest: u64,
    /// Entries with extended attributes, by kind.
    pub xattrs: Vec<Refused>,
    /// Owners and groups.
    pub owners: BTreeSet<(u32, u32)>,
    /// Mount points that are not entered.
    pub mounts: Vec<String>,
    /// Folders at the root that are ignored though they hold something.
    pub ignored: Vec<String>,
    /// Entries that could not be looked at.
    pub failed: Vec<String>,
}

#[derive(Debug, Default)]
struct Found {
    survey: Survey,
    xattrs: BTreeMap<XattrKind, (u64, Vec<String>)>,
    linked: HashSet<(u64, u64)>,
}

type Job = (Arc<OwnedFd>, CString, Arc<[u8]>, Option<Arc<Exclude>>);

/// Walks the source and counts. Reads only; extended attributes are looked at on every entry.
///
/// # Errors
/// When the source cannot be opened, or it was cancelled.
pub fn survey(options: &Options, cancel: &AtomicBool) -> Result<Survey, CopyError> {
    let root = open_root(&options.source)?;
    let root =
        open_below(&root, b"", true).map_err(|errno| failed("open the folder", &options.source, errno))?;
    let exclude = Exclude::of(options)?;
    let found = Mutex::new(Found::default());
    let pool: Pool<Job> = Pool::new();
    let walk = Walk { options, found: &found, pool: &pool, cancel };
    walk.folder(root, Vec::new().into(), exclude.as_ref());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| pool.work(|job| walk.enter(job)));
        }
    });
    if cancel.load(SeqCst) {
        return Err(CopyError::Cancelled);
    }
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let xattrs = found.xattrs.into_iter();
    let xattrs = xattrs.map(|(kind, (entries, examples))| Refused { kind, entries, examples }).collect();
    Ok(Survey { xattrs, ..found.survey })
}

/// Entries and bytes that passes so far have put at the target, by their manifest. Looks at neither tree.
///
/// # Errors
/// When the manifest cannot be read.
pub fn copied_so_far(options: &Options) -> Result<(u64, u64), CopyError> {
    Manifest::load(&options.manifest).map(|manifest| manifest.copied())
}

struct Walk<'a> {
    options: &'a Options,
    found: &'a Mutex<Found>,
    pool: &'a Pool<Job>,
    cancel: &'a AtomicBool,
}

impl Walk<'_> {
    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, path: &[u8], errno: Errno) {
        let mut found = self.found();
        if found.survey.failed.len() < EXAMPLES_MAX {
            found.survey.failed.push(format!("{}: {errno}", String::from_utf8_lossy(path)));
        }
    }

    fn enter(&self, (parent, name, path, exclude): Job) {
        if self.cancel.load(SeqCst) {
            return self.pool.clear();
        }
        let path = join(&path, name.to_bytes());
        match open_dir(&*parent, &name, self.options.cross_mounts) {
            Ok(dir) => self.folder(dir, path.into(), exclude.as_ref()),
            Err(Errno::XDEV) => {
                self.found().survey.mounts.push(String::from_utf8_lossy(&path).into_owned());
            }
            Err(errno) if is_gone(errno) => {}
            Err(errno) => self.failed(&path, errno),
        }
    }

    fn folder(&self, dir: OwnedFd, path: Arc<[u8]>, exclude: Option<&Arc<Exclude>>) {
        let names = match list(&dir) {
            Ok(names) => names,
            Err(errno) if is_gone(errno) && !path.is_empty() => return,
            Err(errno) => return self.failed(&path, errno),
        };
        let dir = Arc::new(dir);
        let mut own = Survey::default();
        let mut jobs = Vec::new();
        let mut linked = Vec::new();
        for name in names {
            let below = match exclude.map(|exclude| exclude.at(name.to_bytes())) {
                Some(At::Excluded) => {
                    if path.is_empty() {
                        self.note_ignored(&dir, &name);
                    }
                    continue;
                }
                Some(At::Below(below)) => Some(below),
                _ => None,
            };
            let seen = match look(&*dir, &name) {
                Ok(seen) => seen,
                Err(errno) if is_gone(errno) => continue,
                Err(errno) => {
                    self.failed(&join(&path, name.to_bytes()), errno);
                    continue;
                }
            };
            own.entries += 1;
            own.owners.insert((seen.stamp.uid, seen.stamp.gid));
            match Xattrs::of_entry(dir.as_fd(), &name) {
                Ok(xattrs) if !xattrs.is_empty() => self.note_xattrs(&xattrs, &join(&path, name.to_bytes())),
                _ => {}
            }
            match seen.kind() {
                Kind::Directory => {
                    own.folders += 1;
                    jobs.push((Arc::clone(&dir), name, Arc::clone(&path), below));
                }
                Kind::File => {
                    own.files += 1;
                    own.largest = own.largest.max(seen.stamp.size);
                    let bytes = seen.blocks.saturating_mul(512);
                    if seen.stamp.links > 1 {
                        linked.push(((seen.device, seen.stamp.ino), bytes));
                    } else {
                        own.bytes += bytes;
                    }
                }
                _ => {}
            }
        }
        self.pool.push_all(jobs);
        let mut found = self.found();
        for (inode, bytes) in linked {
            if found.linked.insert(inode) {
                own.bytes += bytes;
            }
        }
        let all = &mut found.survey;
        all.entries += own.entries;
        all.files += own.files;
        all.folders += own.folders;
        all.bytes += own.bytes;
        all.largest = all.largest.max(own.largest);
        all.owners.append(&mut own.owners);
    }

    fn note_ignored(&self, root: &OwnedFd, name: &CStr) {
        let Ok(text) = name.to_str() else { return };
        let holds = || open_dir(root, name, true).and_then(list).is_ok_and(|names| !names.is_empty());
        if self.options.ignore_at_root.iter().any(|ignored| ignored == text) && holds() {
            self.found().survey.ignored.push(text.to_owned());
        }
    }

    fn note_xattrs(&self, xattrs: &Xattrs, path: &[u8]) {
        let kinds: BTreeSet<XattrKind> = xattrs.0.keys().map(|key| kind_of(key)).collect();
        let mut found = self.found();
        for kind in kinds {
            let (count, examples) = found.xattrs.entry(kind).or_default();
            *count += 1;
            if examples.len() < EXAMPLES_MAX {
                examples.push(String::from_utf8_lossy(path).into_owned());
            }
        }
    }
}
