//! Reading lines of bounded length.

use std::io::{self, BufRead};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// Reads a line into `line`, without its newline, and says whether there was one. A last line without a newline is none: its
/// writer died within it.
///
/// # Errors
/// `InvalidData` when it is longer than `limit` bytes.
pub(super) fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    line.clear();
    loop {
        let available = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if available.is_empty() {
            return Ok(false);
        }
        let (used, ended) = take(available, line);
        reader.consume(used);
        if line.len() > limit {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if ended {
            return Ok(true);
        }
    }
}

/// Appends to `line` up to the newline; answers the bytes used and whether the newline was among them.
fn take(available: &[u8], line: &mut Vec<u8>) -> (usize, bool) {
    match available.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            line.extend_from_slice(available.get(..end).unwrap_or_default());
            (end + 1, true)
        }
        None => {
            line.extend_from_slice(available);
            (available.len(), false)
        }
    }
}

/// What [`Lines::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A whole line, without its newline.
    Whole(Vec<u8>),
    /// The first bytes of a line that is longer than allowed. The rest of it is skipped.
    TooLong(Vec<u8>),
    /// The writer is gone. What it had begun to write, if anything.
    End(Vec<u8>),
}

/// Lines of bounded length from an asynchronous reader. [`Lines::next`] may be dropped at any await without losing bytes.
pub(super) struct Lines<R> {
    reader: R,
    begun: Vec<u8>,
    skipping: bool,
    limit: usize,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R, limit: usize) -> Self {
        Lines { reader, begun: Vec::new(), skipping: false, limit }
    }

    /// The next line. A reader that fails counts as ended.
    pub(super) async fn next(&mut self) -> Line {
        loop {
            let available = match self.reader.fill_buf().await {
                Ok(available) if !available.is_empty() => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                _ => return Line::End(std::mem::take(&mut self.begun)),
            };
            let (used, ended) = take(available, &mut self.begun);
            self.reader.consume(used);
            if self.skipping {
                self.begun.clear();
                self.skipping = !ended;
            } else if self.begun.len() > self.limit {
                self.skipping = !ended;
                let mut start = std::mem::take(&mut self.begun);
                start.truncate(self.limit);
                return Line::TooLong(start);
            } else if ended {
                return Line::Whole(std::mem::take(&mut self.begun));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_at_the_limit_and_the_next_one_is_whole() {
        let text = b"one\n\n12345678\n123456789abcdef\nlast\nrest";
        // A small buffer, so that lines span several reads.
        let reader = tokio::io::BufReader::with_capacity(3, &text[..]);
        let mut lines = Lines::new(reader, 8);
        let mut seen = Vec::new();
        loop {
            let line = lines.next().await;
            let end = matches!(line, Line::End(_));
            seen.push(line);
            if end {
                break;
            }
        }
        assert_eq!(
            seen,
            [
                Line::Whole(b"one".to_vec()),
                Line::Whole(vec![]),
                Line::Whole(b"12345678".to_vec()),
                Line::TooLong(b"12345678".to_vec()),
                Line::Whole(b"last".to_vec()),
                Line::End(b"rest".to_vec()),
            ]
        );
    }

    #[test]
    fn a_line_that_is_too_long_or_cut_off_is_not_read() {
        let mut line = Vec::new();
        let mut reader = io::BufReader::with_capacity(2, &b"four\nfive5\n"[..]);
        assert!(read_line(&mut reader, &mut line, 4).unwrap());
        assert_eq!(line, b"four");
        assert_eq!(read_line(&mut reader, &mut line, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(!read_line(&mut &b"cut off"[..], &mut line, 10).unwrap());
    }
}
