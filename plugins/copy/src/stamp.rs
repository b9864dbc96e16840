//! What a system call says about an entry, and the part of it that tells whether the entry has changed.

use rustix::fs::{AtFlags, Statx, StatxFlags, StatxTimestamp, Timespec, Timestamps};
use std::ffi::CStr;
use std::os::fd::AsFd;

/// How coarse the kernel's clock for file times may be, and then some: a file that changed this shortly before it was
/// read could change again without its times showing it.
pub(crate) const CLOCK_GRANULE_MILLIS: i64 = 20;
/// The same for a source that is itself a network file system: its times come from another clock.
pub(crate) const REMOTE_GRANULE_MILLIS: i64 = 2_000;
/// The same where a time has no fraction: file systems with small inodes (ext3, small ext4) keep whole seconds.
const WHOLE_SECONDS_MILLIS: i64 = 2_000;

/// A moment as a file system keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment {
    /// Seconds since 1970; negative before.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

impl Moment {
    /// The moment in milliseconds since 1970.
    #[must_use]
    pub fn millis(self) -> i64 {
        self.seconds.saturating_mul(1_000).saturating_add(i64::from(self.nanos / 1_000_000))
    }

    fn of(time: StatxTimestamp) -> Self {
        Moment { seconds: time.tv_sec, nanos: time.tv_nsec }
    }

    fn timespec(self) -> Timespec {
        Timespec { tv_sec: self.seconds, tv_nsec: self.nanos.into() }
    }
}

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A fifo, socket or device.
    Special,
}

const TYPE: u32 = 0o170_000;

impl Kind {
    pub(crate) fn of_mode(mode: u32) -> Kind {
        match mode & TYPE {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Directory,
            0o120_000 => Kind::Symlink,
            _ => Kind::Special,
        }
    }
}

/// What tells whether an entry has changed. The change time moves with every change of content or attributes and cannot
/// be set back, so a rewrite of the same size with the old modification time is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// The inode's number.
    pub ino: u64,
    /// Bytes; for a device, its number.
    pub size: u64,
    /// Last change of the content.
    pub modified: Moment,
    /// Last change of content or attributes.
    pub changed: Moment,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of the inode.
    pub links: u32,
}

impl Stamp {
    /// The entry's kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::of_mode(self.mode)
    }

    /// Permissions with setuid, setgid and sticky.
    #[must_use]
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Whether the entry may have changed again since `read_from` without its times showing it.
    pub(crate) fn is_racy(&self, read_from: Moment, granule_millis: i64) -> bool {
        let is_whole = self.changed.nanos == 0;
        let granule_millis = if is_whole { granule_millis.max(WHOLE_SECONDS_MILLIS) } else { granule_millis };
        self.changed.millis().saturating_add(granule_millis) >= read_from.millis()
    }
}

/// A stamp, and what else is needed to copy the entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) stamp: Stamp,
    pub(crate) accessed: Moment,
    pub(crate) device: u64,
    pub(crate) blocks: u64,
}

impl Seen {
    pub(crate) fn kind(&self) -> Kind {
        self.stamp.kind()
    }

    /// Whether the file takes less room than its size.
    pub(crate) fn has_holes(&self) -> bool {
        self.blocks.saturating_mul(512) < self.stamp.size
    }

    /// The times to give to the copy.
    pub(crate) fn times(&self) -> Timestamps {
        Timestamps {
            last_access: self.accessed.timespec(),
            last_modification: self.stamp.modified.timespec(),
        }
    }
}

impl From<Statx> for Seen {
    fn from(x: Statx) -> Self {
        let mode = u32::from(x.stx_mode);
        let is_device = matches!(mode & TYPE, 0o020_000 | 0o060_000);
        Seen {
            stamp: Stamp {
                ino: x.stx_ino,
                size: if is_device {
                    rustix::fs::makedev(x.stx_rdev_major, x.stx_rdev_minor)
                } else {
                    x.stx_size
                },
                modified: Moment::of(x.stx_mtime),
                changed: Moment::of(x.stx_ctime),
                mode,
                uid: x.stx_uid,
                gid: x.stx_gid,
                links: x.stx_nlink,
            },
            accessed: Moment::of(x.stx_atime),
            device: rustix::fs::makedev(x.stx_dev_major, x.stx_dev_minor),
            blocks: x.stx_blocks,
        }
    }
}

/// Looks at `name` in `dir` without following it.
pub(crate) fn look(dir: impl AsFd, name: &CStr) -> rustix::io::Result<Seen> {
    rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).map(Seen::from)
}

/// Looks at an open file.
pub(crate) fn look_open(file: impl AsFd) -> rustix::io::Result<Seen> {
    rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map(Seen::from)
}

/// The clock that the kernel stamps local files with.
pub(crate) fn file_clock() -> Moment {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Moment { seconds: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_in_the_tick_of_the_reading_is_racy_and_an_older_one_is_not() {
        let read = Moment { seconds: 100, nanos: 500_000_000 };
        let at = |millis: i64| Stamp {
            changed: Moment { seconds: millis / 1000, nanos: (millis % 1000) as u32 * 1_000_000 },
            ..Stamp::default()
        };
        assert!(at(100_495).is_racy(read, CLOCK_GRANULE_MILLIS));
        assert!(at(100_700).is_racy(read, CLOCK_GRANULE_MILLIS), "a clock that was set back");
        assert!(!at(100_400).is_racy(read, CLOCK_GRANULE_MILLIS));
    }

    #[test]
    fn where_times_are_whole_seconds_a_change_in_the_second_of_the_reading_is_racy() {
        let read = Moment { seconds: 100, nanos: 500_000_000 };
        let at = |seconds: i64| Stamp { changed: Moment { seconds, nanos: 0 }, ..Stamp::default() };
        assert!(at(100).is_racy(read, CLOCK_GRANULE_MILLIS));
        assert!(at(99).is_racy(read, CLOCK_GRANULE_MILLIS));
        assert!(!at(98).is_racy(read, CLOCK_GRANULE_MILLIS));
    }
}
