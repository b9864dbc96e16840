//! The bytes of a file, with its holes.

use crate::limits::RateLimit;
use crate::stamp::Seen;
use crate::target::Target;
use crate::watch::{Watch, over};
use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, Result};
use std::os::fd::{AsFd, BorrowedFd};

/// What one thread reads at once.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;

/// Reads into `buffer` at `offset`; less than its length only at the end of the file.
pub(crate) fn read_at(file: impl AsFd, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file.as_fd(), rest, offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

/// The parts of a file that hold data, as (from, to).
pub(crate) fn data_parts(file: impl AsFd, size: u64) -> Result<Vec<(u64, u64)>> {
    let file = file.as_fd();
    let mut parts = Vec::new();
    let mut at = 0;
    while at < size {
        let from = match seek(file, SeekFrom::Data(at)) {
            Ok(from) => from,
            // There are no more data.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        // A file system without holes answers as if all were data.
        let to = seek(file, SeekFrom::Hole(from)).unwrap_or(size).min(size);
        if from >= to {
            break;
        }
        parts.push((from, to));
        at = to;
    }
    Ok(parts)
}

/// An open file of the source.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub(crate) file: BorrowedFd<'a>,
    pub(crate) seen: &'a Seen,
    /// Where it is behind a network.
    pub(crate) watch: Option<&'a Watch>,
}

/// Copies the content of an open file into an empty one, unless it is to stop. Answers with the bytes written.
pub(crate) fn copy_content(
    from: Reading<'_>,
    target: &Target,
    to: BorrowedFd<'_>,
    buffer: &mut [u8],
    limit: Option<&RateLimit>,
    stopped: &dyn Fn() -> bool,
) -> std::result::Result<u64, Failed> {
    let Reading { file, seen, watch } = from;
    let size = seen.stamp.size;
    let has_holes = seen.has_holes();
    let parts = if has_holes {
        over(watch, || data_parts(file, size)).map_err(Failed::Read)?
    } else {
        vec![(0, size)]
    };
    let mut written = 0;
    let mut end = 0;
    for (start, stop) in parts {
        let mut at = start;
        while at < stop {
            let want = usize::try_from(stop - at).unwrap_or(usize::MAX).min(buffer.len());
            let Some(piece) = buffer.get_mut(..want) else { break };
            let got = over(watch, || read_at(file, piece, at)).map_err(Failed::Read)?;
            let piece = piece.get(..got).unwrap_or_default();
            if got == 0 {
                break;
            }
            if let Some(limit) = limit {
                limit.take(got as u64, stopped);
            }
            if stopped() {
                return Err(Failed::Stopped);
            }
            target.write(to, piece, at).map_err(Failed::Write)?;
            at += got as u64;
            written += got as u64;
            end = at;
            if got < want {
                break;
            }
        }
    }
    if has_holes && end < size {
        target.truncate(to, size).map_err(Failed::Write)?;
    }
    target.wrote(written);
    Ok(written)
}

/// Which side failed, if one did.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Failed {
    Read(Errno),
    Write(Errno),
    /// The pass is to end: however large the file, it is not waited for.
    Stopped,
}
