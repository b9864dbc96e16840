//! The bytes of a manifest: frames of a length, a check sum and a payload; a torn last frame is recognised.

use super::{FolderDone, Header, State};
use crate::stamp::{Moment, Stamp};
use std::io::Read;

const FRAME_HEAD_BYTES: usize = 8;
/// No frame is longer; a longer one is damage.
pub(super) const FRAME_BYTES_MAX: usize = 64 << 20;
/// So many names make one frame at most: with the longest names it is still far shorter than that.
const FRAME_NAMES_MAX: usize = 50_000;

const HEADER: u8 = 1;
const ENTRIES: u8 = 2;
const GONE: u8 = 3;
const CLAIM: u8 = 4;
const FOLDER_DONE: u8 = 5;
const PASS_ENDED: u8 = 6;

/// One entry as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) state: State,
    pub(crate) child: u32,
    pub(crate) stamp: Stamp,
}

/// One thing that is written down.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record<'a> {
    Header(Header),
    Entries { folder: u32, entries: Vec<Entry<'a>> },
    Gone { folder: u32, names: Vec<&'a [u8]> },
    Claim { folder: u32, first_temporary: u32, names: Vec<&'a [u8]> },
    FolderDone { folder: u32, done: Option<FolderDone> },
    PassEnded { whole: bool },
}

fn put_name(out: &mut Vec<u8>, name: &[u8]) {
    out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(name.get(..usize::from(u16::MAX)).unwrap_or(name));
}

fn put_moment(out: &mut Vec<u8>, moment: Moment) {
    out.extend_from_slice(&moment.seconds.to_le_bytes());
    out.extend_from_slice(&moment.nanos.to_le_bytes());
}

fn put_stamp(out: &mut Vec<u8>, stamp: &Stamp) {
    out.extend_from_slice(&stamp.ino.to_le_bytes());
    out.extend_from_slice(&stamp.size.to_le_bytes());
    put_moment(out, stamp.modified);
    put_moment(out, stamp.changed);
    for number in [stamp.mode, stamp.uid, stamp.gid, stamp.links] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn count(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

/// Adds one frame whose payload `write` makes.
fn framed(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let head = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
    write(out);
    let payload = out.get(head + FRAME_HEAD_BYTES..).unwrap_or_default();
    let (length, check) = (count(payload.len()), check_sum(payload));
    if let Some(place) = out.get_mut(head..head + 4) {
        place.copy_from_slice(&length);
    }
    if let Some(place) = out.get_mut(head + 4..head + FRAME_HEAD_BYTES) {
        place.copy_from_slice(&check);
    }
}

fn check_sum(payload: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = *blake3::hash(payload).as_bytes();
    [a, b, c, d]
}

fn put_names(out: &mut Vec<u8>, names: &[&[u8]]) {
    out.extend_from_slice(&count(names.len()));
    names.iter().for_each(|name| put_name(out, name));
}

fn put_entries(out: &mut Vec<u8>, folder: u32, entries: &[Entry<'_>]) {
    framed(out, |out| {
        out.push(ENTRIES);
        out.extend_from_slice(&folder.to_le_bytes());
        out.extend_from_slice(&count(entries.len()));
        for entry in entries {
            put_name(out, entry.name);
            out.push(match entry.state {
                State::Done => 0,
                State::Suspect => 1,
                State::Claimed => 2,
            });
            out.extend_from_slice(&entry.child.to_le_bytes());
            put_stamp(out, &entry.stamp);
        }
    });
}

impl<'a> Record<'a> {
    /// Adds the record: as one frame, or as several when it names very much.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Record::Header(header) => framed(out, |out| {
                out.push(HEADER);
                out.extend_from_slice(&serde_json::to_vec(header).unwrap_or_default());
            }),
            Record::Entries { folder, entries } => {
                entries.chunks(FRAME_NAMES_MAX).for_each(|entries| put_entries(out, *folder, entries));
            }
            Record::Gone { folder, names } => names.chunks(FRAME_NAMES_MAX).for_each(|names| {
                framed(out, |out| {
                    out.push(GONE);
                    out.extend_from_slice(&folder.to_le_bytes());
                    put_names(out, names);
                });
            }),
            Record::Claim { folder, first_temporary, names } => {
                let mut first = *first_temporary;
                for names in names.chunks(FRAME_NAMES_MAX) {
                    framed(out, |out| {
                        out.push(CLAIM);
                        out.extend_from_slice(&folder.to_le_bytes());
                        out.extend_from_slice(&first.to_le_bytes());
                        put_names(out, names);
                    });
                    first = first.saturating_add(u32::try_from(names.len()).unwrap_or(u32::MAX));
                }
            }
            Record::FolderDone { folder, done } => framed(out, |out| {
                out.push(FOLDER_DONE);
                out.extend_from_slice(&folder.to_le_bytes());
                let flags = match done {
                    None => 0,
                    Some(done) => {
                        1 | u8::from(done.has_xattrs) << 1
                            | u8::from(done.suspect) << 2
                            | u8::from(done.unsure) << 3
                    }
                };
                out.push(flags);
                put_stamp(out, &done.map(|done| done.stamp).unwrap_or_default());
            }),
            Record::PassEnded { whole } => framed(out, |out| {
                out.push(PASS_ENDED);
                out.push(u8::from(*whole));
            }),
        }
    }

    pub(crate) fn decode(payload: &'a [u8]) -> Result<Self, &'static str> {
        let mut read = Reader(payload);
        let record = match read.byte()? {
            HEADER => {
                let header = serde_json::from_slice(read.0).map_err(|_| "its header is not understood")?;
                return Ok(Record::Header(header));
            }
            ENTRIES => {
                let folder = read.u32()?;
                let mut entries = Vec::new();
                for _ in 0..read.u32()? {
                    entries.push(Entry {
                        name: read.name()?,
                        state: match read.byte()? {
                            0 => State::Done,
                            1 => State::Suspect,
                            2 => State::Claimed,
                            _ => return Err("it knows a state that this version does not"),
                        },
                        child: read.u32()?,
                        stamp: read.stamp()?,
                    });
                }
                Record::Entries { folder, entries }
            }
            GONE => Record::Gone { folder: read.u32()?, names: read.names()? },
            CLAIM => {
                Record::Claim { folder: read.u32()?, first_temporary: read.u32()?, names: read.names()? }
            }
            FOLDER_DONE => {
                let folder = read.u32()?;
                let flags = read.byte()?;
                let stamp = read.stamp()?;
                let done = (flags & 1 != 0).then_some(FolderDone {
                    stamp,
                    has_xattrs: flags & 2 != 0,
                    suspect: flags & 4 != 0,
                    unsure: flags & 8 != 0,
                });
                Record::FolderDone { folder, done }
            }
            PASS_ENDED => Record::PassEnded { whole: read.byte()? != 0 },
            _ => return Err("it holds a record that this version does not know"),
        };
        if read.0.is_empty() { Ok(record) } else { Err("a record is longer than it should be") }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (head, rest) = self.0.split_at_checked(count).ok_or("a record is shorter than it should be")?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        self.take(N)?.try_into().map_err(|_| "a record is shorter than it should be")
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, &'static str> {
        self.array().map(i64::from_le_bytes)
    }

    fn name(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.array().map(u16::from_le_bytes)?;
        self.take(length.into())
    }

    fn names(&mut self) -> Result<Vec<&'a [u8]>, &'static str> {
        let count = self.u32()?;
        (0..count).map(|_| self.name()).collect()
    }

    fn moment(&mut self) -> Result<Moment, &'static str> {
        Ok(Moment { seconds: self.i64()?, nanos: self.u32()? })
    }

    fn stamp(&mut self) -> Result<Stamp, &'static str> {
        Ok(Stamp {
            ino: self.u64()?,
            size: self.u64()?,
            modified: self.moment()?,
            changed: self.moment()?,
            mode: self.u32()?,
            uid: self.u32()?,
            gid: self.u32()?,
            links: self.u32()?,
        })
    }
}

/// The whole frames of a file, up to the first that is torn.
pub(super) struct Frames<R> {
    from: R,
    payload: Vec<u8>,
    good: u64,
    cut_off: bool,
}

impl<R: Read> Frames<R> {
    pub(super) fn new(from: R) -> Self {
        Frames { from, payload: Vec::new(), good: 0, cut_off: false }
    }

    /// How many bytes were whole frames.
    pub(super) fn good_bytes(&self) -> u64 {
        self.good
    }

    /// Whether the file ended where a frame begins, or within one; else what follows is damage.
    pub(super) fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    /// The next payload; `None` at the end, or where the file is torn or damaged.
    pub(super) fn next(&mut self) -> std::io::Result<Option<&[u8]>> {
        let mut head = [0; FRAME_HEAD_BYTES];
        if !filled(&mut self.from, &mut head)? {
            self.cut_off = true;
            return Ok(None);
        }
        let [a, b, c, d, check @ ..] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > FRAME_BYTES_MAX {
            return Ok(None);
        }
        self.payload.resize(length, 0);
        if !filled(&mut self.from, &mut self.payload)? {
            self.cut_off = true;
            return Ok(None);
        }
        if check_sum(&self.payload) != check {
            return Ok(None);
        }
        self.good += (FRAME_HEAD_BYTES + length) as u64;
        Ok(Some(&self.payload))
    }
}

/// Fills the buffer; false at the end of the file.
fn filled(from: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            ino: 7,
            size: 1 << 40,
            modified: Moment { seconds: -5, nanos: 999_999_999 },
            changed: Moment { seconds: 4_200_000_000, nanos: 1 },
            mode: 0o104_755,
            uid: 2_000_000_001,
            gid: 3,
            links: 2,
        }
    }

    fn all() -> Vec<Record<'static>> {
        let done = FolderDone { stamp: stamp(), has_xattrs: true, suspect: false, unsure: true };
        vec![
            Record::Entries {
                folder: 1,
                entries: vec![Entry { name: b"\xff\n", state: State::Suspect, child: 9, stamp: stamp() }],
            },
            Record::Gone { folder: 2, names: vec![b"a", b"bb"] },
            Record::Claim { folder: 2, first_temporary: 17, names: vec![b"c"] },
            Record::FolderDone { folder: 3, done: Some(done) },
            Record::FolderDone { folder: 3, done: None },
            Record::PassEnded { whole: true },
        ]
    }

    #[test]
    fn every_record_reads_back_as_it_was_written() {
        let mut bytes = Vec::new();
        all().iter().for_each(|record| record.encode(&mut bytes));
        let mut frames = Frames::new(&bytes[..]);
        for record in all() {
            assert_eq!(Record::decode(frames.next().unwrap().unwrap()).unwrap(), record);
        }
        assert!(frames.next().unwrap().is_none());
        assert_eq!(frames.good_bytes(), bytes.len() as u64);
    }

    #[test]
    fn a_folder_of_very_many_long_names_is_written_in_frames_that_are_read_again() {
        let long: Vec<String> = (0..260_000).map(|number| format!("{number:0255}")).collect();
        let names: Vec<&[u8]> = long.iter().map(|name| name.as_bytes()).collect();
        let entry = |name| Entry { name, state: State::Done, child: 0, stamp: stamp() };
        let mut bytes = Vec::new();
        Record::Entries { folder: 1, entries: names.iter().map(|name| entry(*name)).collect() }
            .encode(&mut bytes);
        Record::Gone { folder: 2, names: names.clone() }.encode(&mut bytes);
        Record::Claim { folder: 3, first_temporary: 5, names: names.clone() }.encode(&mut bytes);
        let mut frames = Frames::new(&bytes[..]);
        let (mut entries, mut gone, mut claimed) = (0, 0, 0);
        while let Some(payload) = frames.next().unwrap() {
            match Record::decode(payload).unwrap() {
                Record::Entries { folder: 1, entries: more } => entries += more.len(),
                Record::Gone { folder: 2, names } => gone += names.len(),
                Record::Claim { folder: 3, first_temporary, names } => {
                    assert_eq!(first_temporary as usize, 5 + claimed, "each name keeps its temporary one");
                    claimed += names.len();
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(frames.good_bytes(), bytes.len() as u64);
        assert_eq!([entries, gone, claimed], [names.len(); 3]);
    }

    #[test]
    fn a_torn_end_is_dropped_at_every_byte_and_the_rest_kept() {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for record in all() {
            record.encode(&mut bytes);
            ends.push(bytes.len());
        }
        for cut in 0..bytes.len() {
            let mut frames = Frames::new(&bytes[..cut]);
            while frames.next().unwrap().is_some() {}
            let whole = ends.iter().rev().find(|end| **end <= cut).unwrap();
            assert_eq!(frames.good_bytes(), *whole as u64, "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_good_part() {
        let mut bytes = Vec::new();
        all().iter().for_each(|record| record.encode(&mut bytes));
        bytes[20] ^= 1;
        let mut frames = Frames::new(&bytes[..]);
        assert!(frames.next().unwrap().is_none());
        assert_eq!(frames.good_bytes(), 0);
    }
}
