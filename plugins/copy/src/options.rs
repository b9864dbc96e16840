//! What can be chosen about a copy.

use std::path::PathBuf;
use std::time::Duration;

/// Threads for a target behind a network: NFS 4.1 has 64 slots a session by default.
pub const THREADS_REMOTE: usize = 64;
/// Threads for a local target, for each processor.
pub const THREADS_PER_CPU_LOCAL: usize = 4;
/// The most threads that may be asked for.
pub const THREADS_MAX: usize = 256;
/// Writes through a memory map show in a file's times only when its pages were clean before: for so long after a change another one
/// can go unseen. Linux writes pages out after 30 s unless it is told otherwise (`vm.dirty_expire_centisecs`).
pub const MAPPED_WRITES_SECONDS: u64 = 60;
/// How often a file that changes while it is read is copied again within one pass.
pub const CHANGING_RETRIES: u32 = 3;

/// When what was copied is made to last at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// In batches: the target's file system is synchronised before the manifest says "done".
    #[default]
    Batch,
    /// Each file is synchronised by itself before it is closed.
    EachFile,
    /// Never: a power cut can lose what the manifest says is done. For trees that can be thrown away.
    None,
}

/// Whether new entries are made under their owner's ids, which saves a trip each and also works where root is squashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owners {
    /// Under the owner's ids when the target is behind a network, else by chown.
    #[default]
    Auto,
    /// Always under the owner's ids, chown where that fails.
    AsOwner,
    /// Always by chown.
    Chown,
}

/// What can be chosen about a pass. [`Options::new`] has the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The tree to copy; never changed.
    pub source: PathBuf,
    /// Where to. Exists; empty at first, or filled by earlier passes with the same manifest.
    pub target: PathBuf,
    /// The file that keeps what was copied. Not in either tree. Made by the first pass.
    pub manifest: PathBuf,
    /// Folders and files that are left out, as paths relative to the source; each with all below it.
    pub exclude: Vec<PathBuf>,
    /// `None`: [`THREADS_REMOTE`] or [`THREADS_PER_CPU_LOCAL`], by the target's file system.
    pub threads: Option<usize>,
    /// See [`Durability`].
    pub durability: Durability,
    /// See [`Owners`].
    pub owners: Owners,
    /// A file whose last change is younger than this when it is read is copied once more by the next pass. Zero by default; for a tree
    /// in which programs are at work, [`MAPPED_WRITES_SECONDS`].
    pub young: Duration,
    /// At most so many bytes a second.
    pub bytes_per_second: Option<u64>,
    /// Read and write at idle I/O priority and the lowest processor priority.
    pub idle: bool,
    /// Go into other file systems that are mounted in the source. Else a mount point is copied as an empty folder.
    pub cross_mounts: bool,
    /// Names at the root of either side that are nobody's business: not copied, not removed, and a target that holds them is empty.
    pub ignore_at_root: Vec<String>,
    /// What a pass replaces or removes at the target is kept in this folder on the target's file system. Made if need be.
    pub keep_aside: Option<PathBuf>,
    /// For tests: die as by SIGKILL right before this operation at the target, counted from 1.
    #[doc(hidden)]
    pub dies_at_operation: Option<u64>,
    /// For tests: before that, wait until what was done so far was made to last.
    #[doc(hidden)]
    pub dies_late: bool,
    /// Remove what was put instead.
    pub(crate) withdraw: bool,
}

impl Options {
    /// A copy with the defaults.
    pub fn new(source: impl Into<PathBuf>, target: impl Into<PathBuf>, manifest: impl Into<PathBuf>) -> Self {
        Options {
            source: source.into(),
            target: target.into(),
            manifest: manifest.into(),
            exclude: Vec::new(),
            threads: None,
            durability: Durability::default(),
            owners: Owners::default(),
            young: Duration::ZERO,
            bytes_per_second: None,
            idle: false,
            cross_mounts: false,
            ignore_at_root: vec!["lost+found".into(), ".snapshot".into(), crate::probe::CLOCK.into()],
            keep_aside: None,
            dies_at_operation: None,
            dies_late: false,
            withdraw: false,
        }
    }

    /// The number of threads to use.
    #[must_use]
    pub fn threads(&self, target_is_remote: bool) -> usize {
        let default = if target_is_remote {
            THREADS_REMOTE
        } else {
            let cpus = std::thread::available_parallelism().map_or(2, usize::from);
            cpus.saturating_mul(THREADS_PER_CPU_LOCAL)
        };
        self.threads.unwrap_or(default).clamp(1, THREADS_MAX)
    }
}
