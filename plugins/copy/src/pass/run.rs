//! Beginning and ending a pass.

use super::{Pass, held};
use crate::attributes::{Refusals, Refused};
use crate::error::{CopyError, Failure, failed};
use crate::exclude::Exclude;
use crate::limits::{RateLimit, become_idle};
use crate::manifest::{FIRST_TEMPORARY, Header, Journal, Manifest, Record, claim_prefix};
use crate::options::{Options, Owners};
use crate::pool::Pool;
use crate::progress::{BATCH_MILLIS, Control, Counts, Ends, Over, PROGRESS_MILLIS, watching};
use crate::source::open_root;
use crate::stamp::{CLOCK_GRANULE_MILLIS, Kind, REMOTE_GRANULE_MILLIS, Seen, look_open};
use crate::target::{Target, is_remote};
use crate::watch::Watch;
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// What a pass did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Everything in view is at the target as it was when it was read: nothing failed, nothing was left out.
    pub whole: bool,
    /// Entries looked at in the source.
    pub entries: u64,
    /// Entries made, replaced or linked.
    pub written: u64,
    /// Files among them.
    pub files: u64,
    /// Entries removed from the target.
    pub removed: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Files that changed while they were read, however often they were read again, and folders that vanished while they were copied;
    /// the next pass settles them.
    pub unsettled: u64,
    /// How many entries failed.
    pub failed: u64,
    /// The first of them.
    pub failures: Vec<Failure>,
    /// What the target could not hold.
    pub refused: Vec<Refused>,
    /// Mount points that were not entered.
    pub mounts: Vec<String>,
    /// What others put at the target, and folders that are gone from the source and stay there because they hold such. It is met where
    /// a folder is removed, and where one is filled that an earlier pass had begun.
    pub foreign: Vec<String>,
    /// Operations at the target that cost a trip.
    pub trips: u64,
    /// How long it took.
    #[serde(serialize_with = "seconds")]
    pub elapsed: Duration,
}

fn seconds<S: serde::Serializer>(elapsed: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(elapsed.as_secs_f64())
}

/// Runs one pass: the first copies everything, later ones what has changed. Idempotent; goes on where an earlier one was cut
/// off. Needs root, and must be the only one with its manifest.
///
/// # Errors
/// When nothing can be done (wrong trees, a manifest of others), the target is full, or it was cancelled. What fails on single
/// entries is in the report instead.
pub fn run(options: &Options, control: &Control<'_>) -> Result<Report, CopyError> {
    let answer: Mutex<Option<Result<Report, CopyError>>> = Mutex::new(None);
    // A thread of its own: priorities are a thread's, and are inherited by those it starts.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let ran = if options.idle { become_idle() } else { Ok(()) };
            let ran = ran.and_then(|()| run_here(options, control));
            *held(&answer) = Some(ran);
        });
    });
    let answer = held(&answer).take();
    answer.unwrap_or(Err(CopyError::Cancelled))
}

/// Removes from the target what was put there, and nothing else; the manifest stays. What others put there is in the report, as
/// [`Report::foreign`]. Idempotent; needs root.
///
/// # Errors
/// As [`run`].
pub fn withdraw(options: &Options, control: &Control<'_>) -> Result<Report, CopyError> {
    run(&Options { withdraw: true, ..options.clone() }, control)
}

fn run_here(options: &Options, control: &Control<'_>) -> Result<Report, CopyError> {
    let started = Instant::now();
    raise_descriptor_limit();
    let (journal, manifest) = Journal::open(&options.manifest)?;
    if options.withdraw && manifest.header.is_none() {
        // The header is there before anything is put: nothing was.
        return Ok(Report { whole: true, ..Report::default() });
    }
    let pass = watching(control, || begin(options, control, journal, manifest))?;
    let (carried_out, over) = (Over::default(), Over::default());
    let done = std::thread::scope(|scope| {
        // Apart from what makes it last: a target that does not answer keeps that waiting, and must be told.
        scope.spawn(|| {
            over.every(PROGRESS_MILLIS, || {
                let waits = pass.waiting_millis();
                (control.on_progress)(&pass.counts.progress(control.total, started.elapsed(), waits));
            });
        });
        let _told_to_the_last = Ends(&over);
        let lasts = scope.spawn(|| {
            let mut batched = Instant::now();
            carried_out.every(PROGRESS_MILLIS, || {
                let much = pass.journal.waiting_bytes() > crate::manifest::BATCH_BYTES;
                if much || batched.elapsed() > Duration::from_millis(BATCH_MILLIS) {
                    pass.batch();
                    batched = Instant::now();
                }
            });
        });
        let done = {
            let _carried_out = Ends(&carried_out);
            pass.phases()
        };
        let _ = lasts.join();
        pass.batch();
        done
    });
    done?;
    if let Some(error) = held(&pass.fatal).take() {
        return Err(error);
    }
    if control.cancel.load(SeqCst) {
        return Err(CopyError::Cancelled);
    }
    let report = report(&pass, started.elapsed());
    pass.journal.write_now(&[Record::PassEnded { whole: report.failed == 0 && !options.withdraw }])?;
    (control.on_progress)(&pass.counts.progress(control.total, started.elapsed(), 0));
    drop(pass);
    if report.failed == 0 {
        // What a failed pass had begun is known by its claims only.
        Journal::compact(&options.manifest, report.entries)?;
    }
    Ok(report)
}

fn report(pass: &Pass<'_>, elapsed: Duration) -> Report {
    let failed = pass.failed.load(SeqCst);
    let foreign = held(&pass.foreign).clone();
    let unsettled = pass.counts.unsettled.load(SeqCst);
    Report {
        whole: failed == 0 && foreign.is_empty() && unsettled == 0,
        entries: pass.counts.entries.load(SeqCst),
        written: pass.counts.written.load(SeqCst),
        files: pass.counts.files.load(SeqCst),
        removed: pass.counts.removed.load(SeqCst),
        bytes: pass.counts.bytes.load(SeqCst),
        unsettled,
        failed,
        failures: held(&pass.failures).clone(),
        refused: pass.refusals.told(),
        mounts: held(&pass.mounts).clone(),
        foreign,
        trips: pass.target.get().map_or(0, |target| target.trips.total()),
        elapsed,
    }
}

/// Descriptors are bounded by depth and threads; a default limit of 1024 may still be too few.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Without it the copy works as well, on shallower trees.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn begin<'a>(
    options: &'a Options,
    control: &Control<'a>,
    journal: Journal,
    manifest: Manifest,
) -> Result<Pass<'a>, CopyError> {
    let source_root = open_root(&options.source)?;
    let source = look_open(&source_root).map_err(|errno| failed("look at", &options.source, errno))?;
    let mut manifest = manifest;
    let header = match manifest.header.clone() {
        Some(header) => header,
        None => begin_first(options, &source, &journal)?,
    };
    let other = |which, why| CopyError::OtherTree { manifest: options.manifest.clone(), which, why };
    if header.source != options.source {
        return Err(other("source", format!("it is {}", header.source.display())));
    }
    if header.source_root.1 != source.stamp.ino {
        let why = format!("{} is another folder now (is it mounted?)", options.source.display());
        return Err(other("source", why));
    }
    if header.target != options.target {
        return Err(other("target", format!("it is {}", header.target.display())));
    }
    let source_is_remote = is_remote(&source_root).unwrap_or(true);
    let granule_millis = if source_is_remote { REMOTE_GRANULE_MILLIS } else { CLOCK_GRANULE_MILLIS };
    let young_millis = i64::try_from(options.young.as_millis()).unwrap_or(i64::MAX).max(granule_millis);
    let threads = options.threads(header.remote);
    manifest.header.get_or_insert_with(|| header.clone());
    Ok(Pass {
        options,
        source_root,
        target: OnceLock::new(),
        threads,
        source_watch: source_is_remote.then(|| Watch::new(threads)),
        target_ino: header.target_ino,
        as_owner: match options.owners {
            Owners::Auto => header.remote,
            Owners::AsOwner => true,
            Owners::Chown => false,
        },
        prefix: claim_prefix(&header.token),
        exclude: Exclude::of(options)?,
        granule_millis,
        young_millis,
        limit: options.bytes_per_second.map(RateLimit::new),
        pool: Pool::new(),
        counts: Counts::default(),
        refusals: Refusals::default(),
        links: Mutex::default(),
        plans: Mutex::default(),
        late: Mutex::default(),
        failures: Mutex::default(),
        failed: AtomicU64::new(0),
        mounts: Mutex::default(),
        foreign: Mutex::default(),
        not_removed: Mutex::default(),
        opening: Mutex::default(),
        fatal: Mutex::default(),
        stop: AtomicBool::new(false),
        numbers: AtomicU32::new(manifest.next_folder()),
        temporaries: AtomicU32::new(manifest.next_temporary.max(FIRST_TEMPORARY)),
        cancel: control.cancel,
        manifest,
        journal,
    })
}

/// Claims an empty target: from here on all in it is ours until the first pass has ended.
fn begin_first(options: &Options, source: &Seen, journal: &Journal) -> Result<Header, CopyError> {
    refuse_nested(options)?;
    let target = Target::open(&options.target, 1)?;
    let names = target.list(&target.root).map_err(|errno| failed("list", &options.target, errno))?;
    let others = names
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .find(|name| !options.ignore_at_root.contains(name));
    if let Some(what) = others {
        return Err(CopyError::NotEmpty { target: options.target.clone(), what });
    }
    let there = look_open(&target.root).map_err(|errno| failed("look at", &options.target, errno))?;
    if (there.device, there.stamp.ino) == (source.device, source.stamp.ino) || there.kind() != Kind::Directory
    {
        return Err(CopyError::Nested {
            source_root: options.source.clone(),
            target: options.target.clone(),
        });
    }
    let header = Header {
        version: 1,
        token: token()?,
        source: options.source.clone(),
        source_root: (source.device, source.stamp.ino),
        target: options.target.clone(),
        target_ino: there.stamp.ino,
        remote: is_remote(&target.root).map_err(|errno| failed("look at", &options.target, errno))?,
    };
    journal.begin(header.clone())?;
    Ok(header)
}

fn token() -> Result<String, CopyError> {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| failed("get random numbers for", Path::new("the manifest"), errno))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn refuse_nested(options: &Options) -> Result<(), CopyError> {
    let real =
        |path: &Path| std::fs::canonicalize(path).map_err(|error| failed("find the folder", path, error));
    let (source, target) = (real(&options.source)?, real(&options.target)?);
    let manifest = options
        .manifest
        .parent()
        .map(|parent| real(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }));
    let manifest = manifest.transpose()?.unwrap_or_default();
    let nested = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
    if nested(&source, &target) {
        return Err(CopyError::Nested { source_root: source, target });
    }
    for tree in [&source, &target] {
        if manifest.starts_with(tree) {
            return Err(CopyError::Nested { source_root: tree.clone(), target: options.manifest.clone() });
        }
    }
    Ok(())
}
