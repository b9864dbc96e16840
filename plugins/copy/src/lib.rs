//! Copies a tree to where round trips are dear, and catches up with a source that goes on changing.
//!
//! A network file system is bound by round trips, so many entries are copied at once and each costs few operations: a file is
//! made with its final mode under its owner's ids, written, and given its times. What was copied is written down in a
//! *manifest*, so that a later pass walks only the source and touches the target only for what has changed; when nothing has,
//! it makes no trip at all.
//!
//! ```no_run
//! # use connect_migrator_copy::{Control, Options, run};
//! # use std::sync::atomic::AtomicBool;
//! let options = Options::new("/var/lib/rstudio-connect", "/mnt/connect", "/var/lib/migration/manifest");
//! let control = Control { cancel: &AtomicBool::new(false), on_progress: &|progress| println!("{}", progress.line()), total: None };
//! let report = run(&options, &control)?;
//! assert!(report.whole, "{:?}", report.failures);
//! # Ok::<_, connect_migrator_copy::CopyError>(())
//! ```
//!
//! # What is promised
//!
//! * Carried are owner and group by number, mode, times to the nanosecond, symbolic and hard links, holes, extended attributes,
//!   ACLs, capabilities, fifos, sockets, devices, any name, any depth. What the target refuses is told ([`Report::refused`]).
//! * Symbolic links are never followed, mounts are not entered unless [`Options::cross_mounts`] says so, and each step down is
//!   made from an open folder, so that renaming folders meanwhile leads nowhere else.
//! * An entry counts as copied only after it is durable at the target ([`Durability`]); a half-written one never does, whatever
//!   was cut off. In a first pass everything is made straight, in a target that was empty and is closed to all but root until
//!   the pass is whole. Later, what is replaced is made beside and renamed.
//! * At the target only what was put there is removed.
//! * A file that changes while it is read is read again, and again in the next pass if it does not settle. One that changed
//!   in the clock tick of its copy is copied again in the next pass.
//! * Memory: a buffer for each thread, and less than 100 bytes an entry. Descriptors: by depth and threads.

mod aside;
mod attributes;
mod back;
mod data;
mod error;
mod exclude;
mod fill;
mod folder;
mod limits;
mod links;
mod manifest;
mod options;
mod pass;
mod pool;
mod probe;
mod progress;
mod put;
mod remove;
mod source;
mod stamp;
mod survey;
mod target;
mod verify;
mod walk;
mod watch;

pub use aside::is_mount_of_its_own;
pub use attributes::{Refused, XattrKind};
pub use back::{BackChange, BackChanges, BackKind, changes_since, options_back};
pub use error::{CopyError, Failure};
pub use options::{
    CHANGING_RETRIES, Durability, MAPPED_WRITES_SECONDS, Options, Owners, THREADS_MAX, THREADS_PER_CPU_LOCAL,
    THREADS_REMOTE,
};
pub use pass::{Report, run, withdraw};
pub use probe::{Ability, Found, Probed, clock_of, probe};
pub use progress::{Control, PROGRESS_MILLIS, Progress, STALL_MILLIS, watching};
pub use source::kernel_suffices;
pub use stamp::{Kind, Moment, Stamp};
pub use survey::{Survey, copied_so_far, survey};
pub use verify::{Content, Difference, Verified, verify};
