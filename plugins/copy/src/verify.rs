//! Two trees compared: attributes always, content as chosen.

use crate::attributes::{Xattrs, is_refused, kind_of, without_acl_of};
use crate::data::{BUFFER_BYTES, read_at};
use crate::error::{CopyError, failed};
use crate::exclude::{At, Exclude};
use crate::options::{Options, THREADS_MAX};
use crate::pool::Pool;
use crate::progress::{Control, Counts, PROGRESS_MILLIS, watching};
use crate::source::{join, list, open_below, open_dir, open_file, open_root, read_link};
use crate::stamp::{Kind, Seen, look};
use crate::target::{Target, Trips, is_remote};
use crate::watch::Watch;
use rustix::fs::Advice;
use rustix::io::Errno;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So many differences are told one by one; the others are counted.
const DIFFERENCES_MAX: usize = 200;

/// Which files' content is read on both sides and compared by BLAKE3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Content {
    /// None: attributes only.
    None,
    /// One file in so many, chosen by inode: always the same ones.
    Sample(u64),
    /// Every file.
    #[default]
    All,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The entry, relative to the tree.
    pub path: String,
    /// What differs, as a sentence.
    pub what: String,
}

/// What a comparison found.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// Entries compared.
    pub entries: u64,
    /// Files whose content was compared.
    pub files_read: u64,
    /// Bytes read on each side.
    pub bytes_read: u64,
    /// How many differences.
    pub different: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// Names at the target that the source has not, in folders that both have.
    pub extra: Vec<String>,
    /// Names in the source that the target has not, in folders that both have, the first of them; the times of those folders are not
    /// compared.
    pub missing: Vec<String>,
    /// Operations at the target that cost a trip.
    pub trips: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Verified {
    /// Whether the target is as the source.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.missing.is_empty() && self.holds_all_of_target()
    }

    /// Whether all that the target has is in the source as it is there.
    #[must_use]
    pub fn holds_all_of_target(&self) -> bool {
        self.different == 0 && self.extra.is_empty()
    }
}

/// Device and number.
type Inode = (u64, u64);

#[derive(Debug)]
struct Pair {
    source: Arc<OwnedFd>,
    target: Arc<OwnedFd>,
    name: CString,
    path: Arc<[u8]>,
    exclude: Option<Arc<Exclude>>,
}

struct Verify<'a> {
    options: &'a Options,
    content: Content,
    source_root: OwnedFd,
    target: Target,
    pool: Pool<Job>,
    counts: Counts,
    files_read: AtomicU64,
    bytes_read: AtomicU64,
    different: AtomicU64,
    differences: Mutex<Vec<Difference>>,
    extra: Mutex<Vec<String>>,
    missing: Mutex<Vec<String>>,
    links: Mutex<HashMap<Inode, HashSet<Inode>>>,
    control: &'a Control<'a>,
}

#[derive(Debug)]
enum Job {
    Root(Option<Arc<Exclude>>),
    Folder(Pair),
    Entries(Arc<OwnedFd>, Arc<OwnedFd>, Arc<[u8]>, Vec<(CString, Seen)>),
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compares the target with the source: type, mode, owner, group, times, sizes, links, link targets, devices, extended attributes
/// and ACLs as far as the target holds them, and content as chosen. Reads only.
///
/// # Errors
/// When a root cannot be opened, or it was cancelled.
pub fn verify(options: &Options, content: Content, control: &Control<'_>) -> Result<Verified, CopyError> {
    let started = Instant::now();
    let (source_root, target, remote) = watching(control, || {
        let target = Target::open(&options.target, THREADS_MAX)?;
        let remote = is_remote(&target.root).map_err(|errno| failed("look at", &options.target, errno))?;
        Ok::<_, CopyError>((open_root(&options.source)?, target, remote))
    })?;
    let threads = options.threads(remote);
    let verify = Verify {
        options,
        content,
        source_root,
        target,
        pool: Pool::new(),
        counts: Counts::default(),
        files_read: AtomicU64::new(0),
        bytes_read: AtomicU64::new(0),
        different: AtomicU64::new(0),
        differences: Mutex::default(),
        extra: Mutex::default(),
        missing: Mutex::default(),
        links: Mutex::default(),
        control,
    };
    verify.pool.push(Job::Root(Exclude::of(options)?));
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let teller = scope.spawn(|| {
            while !over.load(SeqCst) {
                std::thread::park_timeout(Duration::from_millis(PROGRESS_MILLIS));
                let waiting = verify.target.waiting_millis();
                (control.on_progress)(&verify.counts.progress(control.total, started.elapsed(), waiting));
            }
        });
        let workers: Vec<_> = (0..threads)
            .map(|slot| {
                let verify = &verify;
                scope.spawn(move || {
                    Watch::enlist(slot);
                    let (mut ours, mut theirs) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
                    verify.pool.work(|job| verify.work(job, &mut ours, &mut theirs));
                })
            })
            .collect();
        for worker in workers {
            // A panic of a worker is passed on by the scope.
            let _ = worker.join();
        }
        over.store(true, SeqCst);
        teller.thread().unpark();
    });
    if control.cancel.load(SeqCst) {
        return Err(CopyError::Cancelled);
    }
    verify.check_links();
    let extra = held(&verify.extra).clone();
    let missing = held(&verify.missing).clone();
    let differences = held(&verify.differences).clone();
    Ok(Verified {
        entries: verify.counts.entries.load(SeqCst),
        files_read: verify.files_read.load(SeqCst),
        bytes_read: verify.bytes_read.load(SeqCst),
        different: verify.different.load(SeqCst),
        differences,
        extra,
        missing,
        trips: verify.target.trips.total(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

impl Verify<'_> {
    fn differ(&self, path: &[u8], what: impl Into<String>) {
        self.different.fetch_add(1, SeqCst);
        let mut differences = held(&self.differences);
        if differences.len() < DIFFERENCES_MAX {
            let path = if path.is_empty() { ".".into() } else { String::from_utf8_lossy(path).into_owned() };
            differences.push(Difference { path, what: what.into() });
        }
    }

    fn work(&self, job: Job, ours: &mut [u8], theirs: &mut [u8]) {
        if self.control.cancel.load(SeqCst) {
            return self.pool.clear();
        }
        match job {
            Job::Root(exclude) => {
                let opened = open_below(&self.source_root, b"", true)
                    .and_then(|source| Ok((source, self.target.open_below(b"")?)));
                match opened {
                    Ok((source, target)) => self.folder(source, target, Vec::new().into(), exclude),
                    Err(errno) => self.differ(b"", format!("cannot be opened: {errno}")),
                }
            }
            Job::Folder(pair) => {
                let path: Arc<[u8]> = join(&pair.path, pair.name.to_bytes()).into();
                let source = match open_dir(&pair.source, &pair.name, self.options.cross_mounts) {
                    Ok(source) => source,
                    // A mount point: copied as an empty folder.
                    Err(Errno::XDEV) => return,
                    Err(errno) => {
                        return self.differ(&path, format!("cannot be opened in the source: {errno}"));
                    }
                };
                match self.target.open_dir(&pair.target, &pair.name) {
                    Ok(target) => self.folder(source, target, path, pair.exclude),
                    Err(errno) => self.differ(&path, format!("cannot be opened at the target: {errno}")),
                }
            }
            Job::Entries(source, target, path, entries) => {
                for (name, seen) in entries {
                    self.entry(&source, &target, &join(&path, name.to_bytes()), &name, &seen, ours, theirs);
                }
            }
        }
    }

    fn folder(&self, source: OwnedFd, target: OwnedFd, path: Arc<[u8]>, exclude: Option<Arc<Exclude>>) {
        let listed = list(&source).and_then(|ours| Ok((ours, self.target.list(&target)?)));
        let (ours, theirs) = match listed {
            Ok(listed) => listed,
            Err(errno) => return self.differ(&path, format!("cannot be listed: {errno}")),
        };
        let ignored = |name: &CStr| {
            path.is_empty()
                && self.options.ignore_at_root.iter().any(|ignored| ignored.as_bytes() == name.to_bytes())
        };
        // Whoever put it there, on either side, changed the time of the root.
        let times = !ours.iter().chain(&theirs).any(|name| ignored(name));
        let mut lacks_some = false;
        let mut left: HashSet<CString> = theirs.into_iter().collect();
        let (source, target) = (Arc::new(source), Arc::new(target));
        let mut entries = Vec::new();
        for name in ours {
            let below = match exclude.as_ref().map(|exclude| exclude.at(name.to_bytes())) {
                Some(At::Excluded) => continue,
                Some(At::Below(below)) => Some(below),
                _ => None,
            };
            let seen = match look(&*source, &name) {
                Ok(seen) => seen,
                Err(errno) => {
                    self.differ(&join(&path, name.to_bytes()), format!("cannot be looked at: {errno}"));
                    continue;
                }
            };
            Counts::add(&self.counts.entries, 1);
            if !left.remove(&name) {
                let mut missing = held(&self.missing);
                if missing.len() < DIFFERENCES_MAX {
                    missing.push(String::from_utf8_lossy(&join(&path, name.to_bytes())).into_owned());
                }
                lacks_some = true;
                continue;
            }
            if seen.kind() == Kind::Directory {
                self.pool.push(Job::Folder(Pair {
                    source: Arc::clone(&source),
                    target: Arc::clone(&target),
                    name,
                    path: Arc::clone(&path),
                    exclude: below,
                }));
            } else {
                entries.push((name, seen));
            }
        }
        self.folder_itself(&source, &target, &path, times && !lacks_some);
        for name in left.into_iter().filter(|name| !ignored(name)) {
            held(&self.extra).push(String::from_utf8_lossy(&join(&path, name.to_bytes())).into_owned());
        }
        let jobs: Vec<Job> = entries
            .chunks(crate::fill::JOB_ENTRIES)
            .map(|entries| {
                Job::Entries(Arc::clone(&source), Arc::clone(&target), Arc::clone(&path), entries.to_vec())
            })
            .collect();
        self.pool.push_all(jobs);
    }

    fn folder_itself(&self, source: &OwnedFd, target: &OwnedFd, path: &[u8], times: bool) {
        let looked = crate::stamp::look_open(source)
            .and_then(|ours| Ok((ours, self.target.watched(|| crate::stamp::look_open(target))?)));
        match looked {
            Ok((ours, mut theirs)) => {
                if !times {
                    theirs.stamp.modified = ours.stamp.modified;
                }
                let xattrs = Xattrs::of_open(source);
                self.attributes(path, &ours, &theirs, xattrs, || Xattrs::of_open(target));
            }
            Err(errno) => self.differ(path, format!("cannot be looked at: {errno}")),
        }
    }

    fn attributes(
        &self,
        path: &[u8],
        ours: &Seen,
        theirs: &Seen,
        xattrs: rustix::io::Result<Xattrs>,
        read_theirs: impl FnOnce() -> rustix::io::Result<Xattrs>,
    ) {
        let (a, b) = (&ours.stamp, &theirs.stamp);
        if a.kind() != b.kind() || a.mode & 0o170_000 != b.mode & 0o170_000 {
            return self.differ(path, "is of another kind at the target");
        }
        let mut wanted_mode = a.permissions();
        match xattrs {
            // What the source has not is not looked for: that would be a trip for every entry.
            Ok(xattrs) if xattrs.is_empty() => {}
            Ok(xattrs) => {
                Trips::look(&self.target.trips);
                match self.target.watched(read_theirs) {
                    Ok(have) => wanted_mode = self.xattrs(path, &xattrs, &have, wanted_mode, b.permissions()),
                    Err(errno) => {
                        self.differ(path, format!("its attributes cannot be read at the target: {errno}"))
                    }
                }
            }
            Err(errno) => self.differ(path, format!("its attributes cannot be read: {errno}")),
        }
        if wanted_mode != b.permissions() && a.kind() != Kind::Symlink {
            self.differ(path, format!("has mode {:o}, not {wanted_mode:o}", b.permissions()));
        }
        if (a.uid, a.gid) != (b.uid, b.gid) {
            self.differ(path, format!("belongs to {}:{}, not {}:{}", b.uid, b.gid, a.uid, a.gid));
        }
        if a.modified != b.modified {
            self.differ(path, "has another modification time");
        }
        if a.kind() != Kind::Directory && a.size != b.size {
            self.differ(path, format!("has size {}, not {}", b.size, a.size));
        }
    }

    fn xattrs(&self, path: &[u8], wanted: &Xattrs, have: &Xattrs, mode: u32, mode_there: u32) -> u32 {
        let mut mode = mode;
        let mut kinds = BTreeSet::new();
        for (key, value) in &wanted.0 {
            match have.0.get(key) {
                Some(there) if there == value => {}
                // Nothing of this kind there, and the mode narrowed: the target refuses it, which the copy told.
                None if without_acl_of(key, value, mode).is_some_and(|narrow| narrow == mode_there) => {
                    mode = mode_there;
                }
                None if self.target.watched(|| is_refused(&self.target.root, key)) => {}
                _ => {
                    kinds.insert(kind_of(key));
                }
            }
        }
        for kind in kinds {
            self.differ(path, format!("has other {kind}"));
        }
        mode
    }

    #[allow(clippy::too_many_arguments, reason = "both sides of one entry, and both buffers")]
    fn entry(
        &self,
        source: &OwnedFd,
        target: &OwnedFd,
        path: &[u8],
        name: &CStr,
        ours: &Seen,
        our_buffer: &mut [u8],
        their_buffer: &mut [u8],
    ) {
        // The listing of the folder brought the attributes along.
        let theirs = match self.target.watched(|| look(target, name)) {
            Ok(theirs) => theirs,
            Err(errno) => return self.differ(path, format!("cannot be looked at at the target: {errno}")),
        };
        if ours.stamp.links > 1 {
            let (ours, theirs) = ((ours.device, ours.stamp.ino), (theirs.device, theirs.stamp.ino));
            held(&self.links).entry(ours).or_default().insert(theirs);
        }
        match ours.kind() {
            Kind::File => self.file(source, target, path, name, (ours, &theirs), our_buffer, their_buffer),
            Kind::Symlink => {
                self.attributes(path, ours, &theirs, Xattrs::of_entry(source.as_fd(), name), || {
                    Xattrs::of_entry(target.as_fd(), name)
                });
                Trips::look(&self.target.trips);
                let there = self.target.watched(|| read_link(target, name));
                if !read_link(source, name).is_ok_and(|here| there.is_ok_and(|there| here == there)) {
                    self.differ(path, "leads elsewhere");
                }
            }
            _ => self.attributes(path, ours, &theirs, Xattrs::of_entry(source.as_fd(), name), || {
                Xattrs::of_entry(target.as_fd(), name)
            }),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "both sides of one file, and both buffers")]
    fn file(
        &self,
        source: &OwnedFd,
        target: &OwnedFd,
        path: &[u8],
        name: &CStr,
        (ours, theirs): (&Seen, &Seen),
        our_buffer: &mut [u8],
        their_buffer: &mut [u8],
    ) {
        let here = match open_file(source, name, self.options.cross_mounts) {
            Ok((here, _)) => here,
            Err(errno) => return self.differ(path, format!("cannot be read: {errno}")),
        };
        let xattrs = Xattrs::of_open(&here);
        self.attributes(path, ours, theirs, xattrs, || Xattrs::of_entry(target.as_fd(), name));
        let is_read = match self.content {
            Content::None => false,
            Content::Sample(one_in) => ours.stamp.ino.is_multiple_of(one_in.max(1)),
            Content::All => true,
        };
        let size = ours.stamp.size;
        if !is_read || size == 0 || theirs.kind() != Kind::File || size != theirs.stamp.size {
            return;
        }
        Trips::open(&self.target.trips);
        let there = match self.target.watched(|| open_file(target, name, false)) {
            Ok((there, _)) => there,
            Err(errno) => return self.differ(path, format!("cannot be read at the target: {errno}")),
        };
        // Else this host's own memory would be compared, and not what the server holds.
        let _ = rustix::fs::fadvise(&there, 0, None, Advice::DontNeed);
        match self.is_same_content(&here, &there, size, our_buffer, their_buffer) {
            Ok(true) => {
                self.files_read.fetch_add(1, SeqCst);
                self.bytes_read.fetch_add(size, SeqCst);
                Counts::add(&self.counts.bytes, size);
            }
            Ok(false) => self.differ(path, "has other content"),
            Err(errno) => self.differ(path, format!("cannot be read: {errno}")),
        }
    }

    fn is_same_content(
        &self,
        here: &OwnedFd,
        there: &OwnedFd,
        size: u64,
        ours: &mut [u8],
        theirs: &mut [u8],
    ) -> rustix::io::Result<bool> {
        let (mut our_hash, mut their_hash) = (blake3::Hasher::new(), blake3::Hasher::new());
        let mut at = 0;
        while at < size {
            let want = usize::try_from(size - at).unwrap_or(usize::MAX).min(ours.len());
            let got = read_at(here, ours.get_mut(..want).unwrap_or_default(), at)?;
            let got_there =
                self.target.watched(|| read_at(there, theirs.get_mut(..want).unwrap_or_default(), at))?;
            Trips::read(&self.target.trips);
            our_hash.update(ours.get(..got).unwrap_or_default());
            their_hash.update(theirs.get(..got_there).unwrap_or_default());
            if got != got_there || got == 0 {
                return Ok(false);
            }
            at += got as u64;
        }
        Ok(our_hash.finalize() == their_hash.finalize())
    }

    /// One inode with several names must be one inode at the target.
    fn check_links(&self) {
        let mut seen: HashMap<(u64, u64), u64> = HashMap::new();
        let links = std::mem::take(&mut *held(&self.links));
        for (ours, theirs) in links {
            if theirs.len() > 1 {
                self.differ(
                    b"",
                    format!("inode {} of the source is {} inodes at the target", ours.1, theirs.len()),
                );
            }
            for there in theirs {
                if let Some(other) = seen.insert(there, ours.1) {
                    self.differ(
                        b"",
                        format!("inodes {other} and {} of the source are one at the target", ours.1),
                    );
                }
            }
        }
    }
}
