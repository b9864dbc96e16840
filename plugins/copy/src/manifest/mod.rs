//! What was recorded when we copied: for each folder its entries with their stamps, in the order of the walk.

mod journal;
mod record;

pub(crate) use journal::{BATCH_BYTES, Journal, claim_prefix};
pub(crate) use record::{Entry, Record};

use crate::error::{CopyError, failed};
use crate::stamp::{Kind, Stamp};
use record::Frames;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// The number of the first temporary name; 0 in a claim says that it needs none.
pub(crate) const FIRST_TEMPORARY: u32 = 1;
/// The folder at the root of the tree.
pub(crate) const ROOT: u32 = 1;
/// Folders with more entries get an index while a manifest is read.
const INDEXED_FROM: usize = 32;
const READ_BYTES: usize = 1 << 20;

/// Where the entries of big folders stand, by a hash of folder and name.
#[derive(Debug, Default)]
struct Index {
    hasher: RandomState,
    places: HashMap<u64, u32>,
}

impl Index {
    fn hash(&self, folder: u32, name: &[u8]) -> u64 {
        self.hasher.hash_one((folder, name))
    }

    fn set(&mut self, folder: u32, name: &[u8], at: usize) {
        self.places.insert(self.hash(folder, name), u32::try_from(at).unwrap_or(u32::MAX));
    }
}

/// Which trees a manifest speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) version: u32,
    /// Names temporary entries, so that what a crash left can be told from what is others'.
    pub(crate) token: String,
    pub(crate) source: PathBuf,
    pub(crate) source_root: (u64, u64),
    pub(crate) target: PathBuf,
    pub(crate) target_ino: u64,
    /// The target is behind a network.
    pub(crate) remote: bool,
}

/// How an entry stands at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// As its stamp says.
    Done,
    /// Copied, but it changed so shortly before that it is to be copied again.
    Suspect,
    /// We were about to change it: whatever is there is ours, in an unknown state.
    Claimed,
}

/// One entry of a folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    name: (u32, u16),
    pub(crate) state: State,
    /// The folder's own number if it is one, else 0.
    pub(crate) child: u32,
    pub(crate) stamp: Stamp,
}

/// A folder that we made.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    /// Set once its attributes are set and all its direct entries are made.
    pub(crate) done: Option<FolderDone>,
    names: Vec<u8>,
    items: Vec<Item>,
}

/// A finished folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FolderDone {
    pub(crate) stamp: Stamp,
    pub(crate) has_xattrs: bool,
    /// It changed so shortly before it was looked at that it is to be looked at again.
    pub(crate) suspect: bool,
    /// We were about to change it: its attributes at the target are not known.
    pub(crate) unsure: bool,
}

impl Folder {
    /// The entries, in the order in which they were recorded.
    pub(crate) fn items(&self) -> impl Iterator<Item = (&[u8], &Item)> {
        self.items.iter().map(|item| (self.name(item), item))
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<(&[u8], &Item)> {
        self.items.get(index).map(|item| (self.name(item), item))
    }

    fn name(&self, item: &Item) -> &[u8] {
        let from = item.name.0 as usize;
        self.names.get(from..from + usize::from(item.name.1)).unwrap_or_default()
    }
}

/// The manifest in memory; about 85 bytes an entry.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    pub(crate) header: Option<Header>,
    /// By number; 0 stands for none.
    folders: Vec<Folder>,
    /// How many passes ended without a failure.
    pub(crate) passes: u32,
    /// Folders with changes that were begun and whose end is unknown, with the numbers of their temporary names.
    pub(crate) open_claims: Vec<(u32, u32, u32)>,
    pub(crate) next_temporary: u32,
    /// Bytes of frames that are still good.
    good_bytes: u64,
}

impl Manifest {
    /// Reads a manifest; an empty one if there is none. A torn end (a crash) is dropped.
    pub(crate) fn load(path: &Path) -> Result<Self, CopyError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Manifest::default()),
            Err(error) => return Err(failed("read the manifest", path, error)),
        };
        let unreadable = |error| failed("read the manifest", path, error);
        let bad = |why: &str| CopyError::BadManifest { manifest: path.into(), why: why.to_owned() };
        let mut manifest = Manifest::default();
        let mut index = Index::default();
        let mut frames = Frames::new(BufReader::with_capacity(READ_BYTES, file));
        while let Some(payload) = frames.next().map_err(unreadable)? {
            manifest.apply(Record::decode(payload).map_err(bad)?, &mut index);
        }
        manifest.good_bytes = frames.good_bytes();
        // A header that was cut off while it was written is none: nothing was put before it was there.
        if manifest.header.is_none() && !frames.is_cut_off() {
            return Err(bad("it does not begin with a header"));
        }
        for folder in &mut manifest.folders {
            folder.names.shrink_to_fit();
            folder.items.shrink_to_fit();
        }
        Ok(manifest)
    }

    pub(crate) fn folder(&self, number: u32) -> Option<&Folder> {
        self.folders.get(number as usize).filter(|_| number != 0)
    }

    /// Whether an entry of a folder was about to be changed when the last pass ended.
    pub(crate) fn is_claimed(&self, folder: u32, name: &[u8]) -> bool {
        let mut items = self.folder(folder).into_iter().flat_map(Folder::items);
        items.any(|(have, item)| have == name && item.state == State::Claimed)
    }

    /// The numbers of a recorded folder and of all below it; none for 0.
    pub(crate) fn tree(&self, number: u32) -> Vec<u32> {
        let mut numbers = Vec::new();
        let mut folders = vec![number];
        while let Some(number) = folders.pop() {
            let Some(folder) = self.folder(number) else { continue };
            numbers.push(number);
            folders.extend(folder.items.iter().map(|item| item.child).filter(|child| *child != 0));
        }
        numbers
    }

    /// The number that the next new folder gets.
    pub(crate) fn next_folder(&self) -> u32 {
        u32::try_from(self.folders.len()).unwrap_or(u32::MAX).max(ROOT + 1)
    }

    /// Whether a first pass has ended: until then everything at the target is ours.
    pub(crate) fn is_complete(&self) -> bool {
        self.passes > 0
    }

    /// Entries recorded in all.
    pub(crate) fn entries(&self) -> u64 {
        let mut count = 0;
        let mut folders = vec![ROOT];
        while let Some(folder) = folders.pop().and_then(|number| self.folder(number)) {
            count += folder.len() as u64;
            folders.extend(folder.items().map(|(_, item)| item.child).filter(|child| *child != 0));
        }
        count
    }

    /// Entries that are at the target as recorded, and the bytes of the files among them, a hard-linked one once.
    pub(crate) fn copied(&self) -> (u64, u64) {
        let (mut entries, mut bytes, mut linked) = (0_u64, 0_u64, HashSet::new());
        let mut folders = vec![ROOT];
        while let Some(folder) = folders.pop().and_then(|number| self.folder(number)) {
            for (_, item) in folder.items().filter(|(_, item)| item.state != State::Claimed) {
                entries += 1;
                if item.child != 0 {
                    folders.push(item.child);
                } else if item.stamp.kind() == Kind::File
                    && (item.stamp.links < 2 || linked.insert(item.stamp.ino))
                {
                    bytes = bytes.saturating_add(item.stamp.size);
                }
            }
        }
        (entries, bytes)
    }

    fn folder_mut(&mut self, number: u32) -> &mut Folder {
        let at = number as usize;
        if self.folders.len() <= at {
            self.folders.resize_with(at + 1, Folder::default);
        }
        // The line above made sure that it is there.
        #[allow(clippy::indexing_slicing, reason = "resized above")]
        &mut self.folders[at]
    }

    fn apply(&mut self, record: Record<'_>, index: &mut Index) {
        match record {
            Record::Header(header) => {
                self.header = Some(header);
                self.folder_mut(ROOT);
            }
            Record::Entries { folder, entries } => {
                for entry in entries {
                    if entry.child != 0 {
                        self.folder_mut(entry.child);
                    }
                    self.put(folder, entry.name, entry.state, entry.child, entry.stamp, index);
                }
            }
            Record::Gone { folder, names } => {
                for name in names {
                    self.drop_item(folder, name, index);
                }
            }
            Record::Claim { folder, first_temporary, names } => {
                let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
                self.open_claims.push((folder, first_temporary, count));
                self.next_temporary = self.next_temporary.max(first_temporary.saturating_add(count));
                for name in names {
                    let known = self
                        .find(folder, name, index)
                        .and_then(|at| self.folder(folder).and_then(|folder| folder.items.get(at)).copied());
                    let (child, stamp) = known.map_or((0, Stamp::default()), |item| (item.child, item.stamp));
                    self.put(folder, name, State::Claimed, child, stamp, index);
                }
                // What was begun there changed the folder's times at the target.
                if let Some(done) = &mut self.folder_mut(folder).done {
                    done.unsure = true;
                }
            }
            Record::FolderDone { folder, done } => self.folder_mut(folder).done = done,
            Record::PassEnded { whole } => {
                if whole {
                    self.open_claims.clear();
                }
                self.passes = self.passes.saturating_add(u32::from(whole));
            }
        }
    }

    fn find(&self, folder: u32, name: &[u8], index: &Index) -> Option<usize> {
        let known = self.folder(folder)?;
        if known.items.len() >= INDEXED_FROM {
            let at = index.places.get(&index.hash(folder, name)).map(|at| *at as usize)?;
            if known.get(at).is_some_and(|(have, _)| have == name) {
                return Some(at);
            }
            // Two names with one hash.
        }
        known.items().position(|(have, _)| have == name)
    }

    fn put(&mut self, number: u32, name: &[u8], state: State, child: u32, stamp: Stamp, index: &mut Index) {
        let at = self.find(number, name, index);
        let folder = self.folder_mut(number);
        if let Some(item) = at.and_then(|at| folder.items.get_mut(at)) {
            *item = Item { name: item.name, state, child, stamp };
            return;
        }
        let from = u32::try_from(folder.names.len()).unwrap_or(u32::MAX);
        folder.names.extend_from_slice(name);
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        folder.items.push(Item { name: (from, length), state, child, stamp });
        let count = folder.items.len();
        if count > INDEXED_FROM {
            index.set(number, name, count - 1);
        } else if count == INDEXED_FROM {
            for (at, (have, _)) in folder.items().enumerate() {
                index.set(number, have, at);
            }
        }
    }

    fn drop_item(&mut self, number: u32, name: &[u8], index: &mut Index) {
        let Some(at) = self.find(number, name, index) else { return };
        let folder = self.folder_mut(number);
        if at >= folder.items.len() {
            return;
        }
        folder.items.swap_remove(at);
        let now = folder.items.len();
        let moved = folder.get(at).map(|(name, _)| name.to_vec());
        index.places.remove(&index.hash(number, name));
        if let Some(moved) = moved
            && now >= INDEXED_FROM
        {
            index.set(number, &moved, at);
        }
    }
}
