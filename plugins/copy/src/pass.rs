//! One pass over the source: walk, then carry out, then link, then set what must be set last.

mod run;

pub use run::{Report, run, withdraw};

use crate::aside::Aside;
use crate::attributes::Refusals;
use crate::data::BUFFER_BYTES;
use crate::error::{CopyError, Failure, failed, is_full, said};
use crate::exclude::Exclude;
use crate::fill::Fill;
use crate::folder::{Late, Open};
use crate::limits::RateLimit;
use crate::links::Member;
use crate::manifest::{FolderDone, Journal, Manifest, ROOT, Record};
use crate::options::{Durability, Options};
use crate::pool::Pool;
use crate::progress::Counts;
use crate::put::Entry;
use crate::remove::Doomed;
use crate::source::join;
use crate::stamp::{Kind, Seen, file_clock, look_open};
use crate::target::{Death, Target};
use crate::walk::{Opened, Plan};
use crate::watch::{Watch, over};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// So many failures are told one by one; the others are counted.
const FAILURES_MAX: usize = 100;
/// Stack of a thread; it goes no deeper in deep trees.
const STACK_BYTES: usize = 512 << 10;
/// Threads for comparing what is known, for each processor: that is local work.
const COMPARE_THREADS_PER_CPU: usize = 4;

/// Work for a thread.
#[derive(Debug)]
pub(crate) enum Job {
    /// Compare a finished folder with what was recorded.
    Compare {
        parent: Arc<OwnedFd>,
        path: Arc<[u8]>,
        name: CString,
        seen: Seen,
        number: u32,
        exclude: Option<Arc<Exclude>>,
    },
    /// Fill a folder.
    Fill(Fill),
    /// Fill the root.
    FillRoot {
        unfinished: bool,
    },
    /// Compare the root.
    CompareRoot,
    /// Make entries of a folder.
    Put {
        open: Arc<Open>,
        entries: Vec<Entry>,
    },
    /// Carry out what was planned for a finished folder.
    CarryOut(Plan),
    /// Remove what a crash left.
    Tidy(Vec<u8>),
    Empty(Doomed),
    /// Remove a folder that was emptied, or what was to come in its place.
    RemoveFolder {
        path: Arc<[u8]>,
        is_claimed: bool,
    },
    Link(Vec<Member>),
    Finish(Late),
}

/// A pass that runs.
pub(crate) struct Pass<'a> {
    pub(crate) options: &'a Options,
    pub(crate) source_root: OwnedFd,
    /// Of a source behind a network, as on the way back: it may not answer either.
    pub(crate) source_watch: Option<Watch>,
    target: OnceLock<Target>,
    threads: usize,
    target_ino: u64,
    as_owner: bool,
    pub(crate) manifest: Manifest,
    pub(crate) journal: Journal,
    pub(crate) prefix: String,
    pub(crate) exclude: Option<Arc<Exclude>>,
    pub(crate) granule_millis: i64,
    /// The same for regular files, see [`Options::young`].
    pub(crate) young_millis: i64,
    pub(crate) limit: Option<RateLimit>,
    pub(crate) pool: Pool<Job>,
    pub(crate) counts: Counts,
    pub(crate) refusals: Refusals,
    links: Mutex<HashMap<(u64, u64), Vec<Member>>>,
    plans: Mutex<Vec<Plan>>,
    late: Mutex<Vec<Late>>,
    failures: Mutex<Vec<Failure>>,
    failed: AtomicU64,
    mounts: Mutex<Vec<String>>,
    foreign: Mutex<Vec<String>>,
    /// Trees of which something could not be removed.
    not_removed: Mutex<Vec<Vec<u8>>>,
    /// Since when the target is being opened: a server that does not answer keeps that waiting, too.
    opening: Mutex<Option<Instant>>,
    fatal: Mutex<Option<CopyError>>,
    stop: AtomicBool,
    numbers: AtomicU32,
    temporaries: AtomicU32,
    cancel: &'a AtomicBool,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_longer_done<'a>(folder: u32) -> Record<'a> {
    Record::FolderDone { folder, done: None }
}

impl Pass<'_> {
    /// The target; opened when it is first needed, so that a pass without changes makes no trip.
    pub(crate) fn target(&self) -> rustix::io::Result<&Target> {
        if let Some(target) = self.target.get() {
            return Ok(target);
        }
        held(&self.opening).get_or_insert_with(Instant::now);
        let opened = Target::open(&self.options.target, self.threads)
            .map_err(|_| Errno::NOENT)
            .and_then(|target| look_open(&target.root).map(|there| (target, there)));
        *held(&self.opening) = None;
        let (mut target, there) = opened?;
        if there.stamp.ino != self.target_ino {
            self.stop_for(CopyError::OtherTree {
                manifest: self.options.manifest.clone(),
                which: "target",
                why: format!("{} is another folder now (is it mounted?)", self.options.target.display()),
            });
            return Err(Errno::STALE);
        }
        target.as_owner = self.as_owner;
        target.death = Death::new(self.options);
        if let Some(aside) = &self.options.keep_aside {
            match Aside::open(aside, &self.prefix) {
                Ok(aside) => target.aside = Some(aside),
                Err(error) => {
                    self.stop_for(error);
                    return Err(Errno::NOENT);
                }
            }
        }
        Ok(self.target.get_or_init(|| target))
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(SeqCst) || self.cancel.load(SeqCst)
    }

    pub(crate) fn stop_for(&self, error: CopyError) {
        held(&self.fatal).get_or_insert(error);
        self.stop.store(true, SeqCst);
    }

    /// Tells a failure and goes on, unless the target is full.
    pub(crate) fn fail(&self, tried: &str, path: &[u8], errno: Errno) {
        let why = std::io::Error::from(errno);
        if is_full(&why) {
            return self.stop_for(CopyError::Full { why });
        }
        self.failed.fetch_add(1, SeqCst);
        let mut failures = held(&self.failures);
        if failures.len() < FAILURES_MAX {
            failures.push(Failure {
                tried: tried.into(),
                path: String::from_utf8_lossy(path).into_owned(),
                why: said(errno),
            });
        }
    }

    /// Something vanished from the source while it was copied: what the target has of it is the next pass's business.
    pub(crate) fn note_unsettled(&self) {
        Counts::add(&self.counts.unsettled, 1);
    }

    pub(crate) fn note_mount(&self, path: &[u8]) {
        held(&self.mounts).push(String::from_utf8_lossy(path).into_owned());
    }

    pub(crate) fn note_foreign(&self, path: &[u8]) {
        held(&self.foreign).push(String::from_utf8_lossy(path).into_owned());
    }

    pub(crate) fn note_not_removed(&self, path: &[u8]) {
        held(&self.not_removed).push(path.to_vec());
    }

    /// Whether something at this path or below it could not be removed.
    pub(crate) fn is_not_removed(&self, path: &[u8]) -> bool {
        let is_below = |left: &[u8]| {
            left.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        held(&self.not_removed).iter().any(|left| is_below(left))
    }

    pub(crate) fn push_late(&self, late: Late) {
        held(&self.late).push(late);
    }

    pub(crate) fn plan(&self, plan: Plan) {
        held(&self.plans).push(plan);
    }

    pub(crate) fn links(&self) -> MutexGuard<'_, HashMap<(u64, u64), Vec<Member>>> {
        held(&self.links)
    }

    pub(crate) fn new_number(&self) -> u32 {
        self.numbers.fetch_add(1, SeqCst)
    }

    pub(crate) fn new_temporary(&self) -> u32 {
        self.temporaries.fetch_add(1, SeqCst)
    }

    fn work(&self, job: Job, buffer: &mut [u8]) {
        if self.stopped() {
            return self.pool.clear();
        }
        match job {
            Job::Compare { parent, path, name, seen, number, exclude } => {
                let path: Arc<[u8]> = join(&path, name.to_bytes()).into();
                let opened = self.open_source(&*parent, &name, &seen, &path);
                drop(parent);
                self.compare(number, path, opened, exclude);
            }
            Job::Fill(fill) => self.fill(fill, buffer),
            Job::FillRoot { unfinished } => self.fill_root(unfinished, buffer),
            Job::CompareRoot => self.compare_root(),
            Job::Put { open, entries } => {
                self.put_all(&open, entries, buffer);
                self.job_ended(&open);
            }
            Job::CarryOut(plan) => self.carry_out(plan, buffer),
            Job::Tidy(path) => self.remove_temporaries(&path),
            Job::Empty(doomed) => self.empty_doomed(&doomed),
            Job::RemoveFolder { path, is_claimed } => self.remove_doomed(&path, is_claimed),
            Job::Link(members) => self.join_links(members, buffer),
            Job::Finish(late) => self.finish_late(&late),
        }
    }

    fn compare_root(&self) {
        let read_from = file_clock();
        let opened = self.at_source(|| {
            crate::source::open_below(&self.source_root, b"", true)
                .and_then(|source| look_open(&source).map(|seen| (source, seen)))
        });
        match opened {
            Ok((source, seen)) => {
                let root = Opened::Folder(source, seen, read_from);
                self.compare(ROOT, Vec::new().into(), root, self.exclude.clone());
            }
            Err(errno) => self.fail("open the folder", b"", errno),
        }
    }

    /// Runs jobs, and those they make, on threads.
    fn phase(&self, threads: usize, jobs: Vec<Job>) {
        if jobs.is_empty() || self.stopped() {
            return;
        }
        self.pool.push_all(jobs);
        std::thread::scope(|scope| {
            for slot in 0..threads {
                let run = move || {
                    Watch::enlist(slot);
                    // A mask of its own, so that files get the mode they are made with.
                    let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS);
                    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
                    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
                    let mut buffer = vec![0; BUFFER_BYTES];
                    self.pool.work(|job| self.work(job, &mut buffer));
                };
                let builder = std::thread::Builder::new().name("copy".into()).stack_size(STACK_BYTES);
                if let Err(error) = builder.spawn_scoped(scope, run) {
                    if slot == 0 {
                        self.stop_for(failed("start a thread for", &self.options.source, error));
                        self.pool.clear();
                    }
                    break;
                }
            }
        });
    }

    fn phases(&self) -> Result<(), CopyError> {
        let threads = self.threads;
        self.tidy();
        if self.manifest.is_complete() {
            let cpus = std::thread::available_parallelism().map_or(2, usize::from);
            self.phase(threads.min(cpus * COMPARE_THREADS_PER_CPU), vec![Job::CompareRoot]);
        } else {
            let unfinished = self.manifest.folder(ROOT).is_some();
            self.phase(threads, vec![Job::FillRoot { unfinished }]);
        }
        if self.stopped() {
            return Ok(());
        }
        // Carrying out may come upon folders that a crash left half-filled, and below them finished ones with plans of their own.
        loop {
            let mut plans = std::mem::take(&mut *held(&self.plans));
            if plans.is_empty() || self.stopped() {
                break;
            }
            self.claim(&mut plans)?;
            let mut doomed = Vec::new();
            for plan in &plans {
                for (name, child) in plan.gone.iter().filter(|(_, child)| *child != 0) {
                    let is_claimed = self.manifest.is_claimed(plan.number, name.to_bytes());
                    doomed.extend(self.doomed(join(&plan.path, name.to_bytes()), *child, is_claimed));
                }
            }
            self.remove_doomed_trees(doomed);
            self.phase(threads, plans.into_iter().map(Job::CarryOut).collect());
        }
        let links = std::mem::take(&mut *self.links());
        let is_changed = |members: &Vec<Member>| members.iter().any(|member| member.change.is_some());
        self.phase(threads, links.into_values().filter(is_changed).map(Job::Link).collect());
        let late = std::mem::take(&mut *held(&self.late));
        let (root, late): (Vec<_>, Vec<_>) = late.into_iter().partition(|late| late.number == ROOT);
        self.phase(threads, late.into_iter().map(Job::Finish).collect());
        let is_whole = self.failed.load(SeqCst) == 0 || self.manifest.is_complete();
        if is_whole && !self.options.withdraw {
            // Until a first pass is whole the root stays closed to all but root.
            self.phase(1, root.into_iter().map(Job::Finish).collect());
        }
        Ok(())
    }

    fn tidy(&self) {
        if self.manifest.open_claims.is_empty() {
            return;
        }
        // A folder that was being filled is listed in any case, and a finished one has no temporary name of that time.
        let claims = self.manifest.open_claims.iter().filter(|(_, first, _)| *first != 0);
        let claimed: std::collections::HashSet<u32> = claims.map(|(folder, _, _)| *folder).collect();
        if claimed.is_empty() {
            return;
        }
        let mut jobs = Vec::new();
        let mut folders = vec![(Vec::new(), ROOT)];
        while let Some((path, number)) = folders.pop() {
            let Some(folder) = self.manifest.folder(number) else { continue };
            let below = folder.items().filter(|(_, item)| item.child != 0);
            folders.extend(below.map(|(name, item)| (join(&path, name), item.child)));
            if claimed.contains(&number) {
                jobs.push(Job::Tidy(path));
            }
        }
        self.phase(self.threads, jobs);
    }

    /// Writes down what will be changed, before anything is.
    fn claim(&self, plans: &mut [Plan]) -> Result<(), CopyError> {
        for plan in plans.iter_mut() {
            for entry in &mut plan.entries {
                entry.temporary = self.new_temporary();
                if entry.needs_number() {
                    entry.number = self.new_number();
                }
            }
        }
        let mut claims: Vec<Record<'_>> = plans
            .iter()
            .filter(|plan| plan.has_claims())
            .map(|plan| Record::Claim {
                folder: plan.number,
                first_temporary: plan.entries.first().map_or(0, |entry| entry.temporary),
                names: (plan.entries.iter().map(|entry| &entry.name))
                    .chain(plan.gone.iter().map(|(name, _)| name))
                    .map(|name| name.to_bytes())
                    .collect(),
            })
            .collect();
        claims.extend(plans.iter().filter_map(|plan| {
            let numbered = plan.entries.iter().filter(|entry| entry.number != 0);
            let entries: Vec<_> = numbered.map(Entry::claimed).collect();
            (!entries.is_empty()).then_some(Record::Entries { folder: plan.number, entries })
        }));
        claims.extend(plans.iter().map(|plan| Record::FolderDone {
            folder: plan.number,
            done: Some(FolderDone { unsure: true, ..plan.done }),
        }));
        let gone = plans.iter().flat_map(|plan| &plan.gone);
        claims.extend(gone.flat_map(|(_, child)| self.manifest.tree(*child)).map(no_longer_done));
        if claims.is_empty() { Ok(()) } else { self.journal.write_now(&claims) }
    }

    /// Makes last that nothing in a recorded tree is known any more, before any of it is removed: cut off in the midst of that, what is
    /// left must be looked at should the source have the tree again.
    pub(crate) fn unsettle(&self, number: u32) -> Result<(), CopyError> {
        let records: Vec<_> = self.manifest.tree(number).into_iter().map(no_longer_done).collect();
        if records.is_empty() { Ok(()) } else { self.journal.write_now(&records) }
    }

    /// Writes down what a folder is about to be filled with, so that what a cut-off pass left can be told from what others put there.
    /// A power cut may lose it: then what the source still has counts as ours, and the rest is left and told.
    pub(crate) fn claim_to_fill(&self, folder: u32, entries: &mut [Entry]) -> Result<(), CopyError> {
        for entry in entries.iter_mut().filter(|entry| entry.needs_number()) {
            entry.number = self.new_number();
        }
        let (folders, others): (Vec<&Entry>, Vec<&Entry>) =
            entries.iter().partition(|entry| entry.seen.kind() == Kind::Directory);
        let numbered: Vec<_> =
            folders.iter().filter(|entry| entry.number != 0).map(|entry| entry.claimed()).collect();
        let names: Vec<_> = others.iter().map(|entry| entry.name.to_bytes()).collect();
        let mut claims = Vec::new();
        if !numbered.is_empty() {
            claims.push(Record::Entries { folder, entries: numbered });
        }
        if !names.is_empty() {
            claims.push(Record::Claim { folder, first_temporary: 0, names });
        }
        if claims.is_empty() { Ok(()) } else { self.journal.write_soon(&claims) }
    }

    fn remove_doomed_trees(&self, doomed: Vec<Doomed>) {
        let depth = |path: &[u8]| path.iter().filter(|byte| **byte == b'/').count();
        let mut levels: Vec<Vec<Job>> = Vec::new();
        for doomed in &doomed {
            let depth = depth(&doomed.path);
            if levels.len() <= depth {
                levels.resize_with(depth + 1, Vec::new);
            }
            if let Some(level) = levels.get_mut(depth) {
                let Doomed { path, is_claimed, .. } = doomed;
                level.push(Job::RemoveFolder { path: Arc::clone(path), is_claimed: *is_claimed });
            }
        }
        self.phase(self.threads, doomed.into_iter().map(Job::Empty).collect());
        for level in levels.into_iter().rev() {
            self.phase(self.threads, level);
        }
    }

    fn batch(&self) {
        let synced = self.journal.batch(|| {
            if self.options.durability == Durability::None {
                return Ok(());
            }
            let Some(target) = self.target.get() else { return Ok(()) };
            target.sync_all().map_err(|errno| {
                match failed("make last what was written to", &self.options.target, errno) {
                    CopyError::System { why, .. } if is_full(&why) => CopyError::Full { why },
                    other => other,
                }
            })
        });
        // The manifest's own disk may be the full one: that is told as it is.
        if let Err(error) = synced {
            self.stop_for(error);
        }
    }

    fn waiting_millis(&self) -> u64 {
        let opening = held(&self.opening).map_or(0, |since| since.elapsed().as_millis());
        let running = self.target.get().map_or(0, Target::waiting_millis);
        let reading = self.source_watch.as_ref().map_or(0, Watch::waiting_millis);
        running.max(reading).max(u64::try_from(opening).unwrap_or(u64::MAX))
    }

    /// Runs an operation at the source, which is watched where it is behind a network.
    pub(crate) fn at_source<T>(&self, operation: impl FnOnce() -> T) -> T {
        over(self.source_watch.as_ref(), operation)
    }
}
