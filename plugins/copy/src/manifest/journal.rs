//! Writing a manifest: what is done is collected, and becomes durable in batches, after the target itself.

use super::record::Record;
use super::{Header, Manifest};
use crate::error::{CopyError, failed};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More than this waiting asks for a batch to be written before its time.
pub(crate) const BATCH_BYTES: usize = 4 << 20;
/// A manifest is written anew when it holds more than this and mostly what no longer counts.
const COMPACT_FROM_BYTES: u64 = 1 << 20;
/// What an entry takes in a compact manifest, to tell what no longer counts.
const ENTRY_BYTES: u64 = 90;

/// The names of our temporary entries begin like this.
pub(crate) fn claim_prefix(token: &str) -> String {
    format!(".connect-migrator-copy-{token}-")
}

/// The manifest's file, open for writing by this process alone.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// One writes at a time; none waits while what was written is made to last.
    writing: Mutex<()>,
    waiting: Mutex<Vec<u8>>,
    /// Something could not be written or made to last: what comes after it must not count.
    broken: AtomicBool,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    /// Opens the manifest and reads it. Fails at once when another process has it open for a pass.
    pub(crate) fn open(path: &Path) -> Result<(Self, Manifest), CopyError> {
        let file = locked(path)?;
        let manifest = Manifest::load(path)?;
        file.set_len(manifest.good_bytes).map_err(|error| failed("drop the torn end of", path, error))?;
        Ok((
            Journal {
                path: path.into(),
                file,
                writing: Mutex::default(),
                waiting: Mutex::default(),
                broken: AtomicBool::new(false),
            },
            manifest,
        ))
    }

    /// Writes the header of a new manifest and makes it last, with its name.
    pub(crate) fn begin(&self, header: Header) -> Result<(), CopyError> {
        self.write_now(&[Record::Header(header)])?;
        sync_parent(&self.path)
    }

    /// Adds records that become durable with the next batch.
    pub(crate) fn add(&self, records: &[Record<'_>]) {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        held(&self.waiting).extend_from_slice(&bytes);
    }

    /// How many bytes wait for the next batch.
    pub(crate) fn waiting_bytes(&self) -> usize {
        held(&self.waiting).len()
    }

    /// Makes records last at once: what is written down before a change.
    pub(crate) fn write_now(&self, records: &[Record<'_>]) -> Result<(), CopyError> {
        self.write_soon(records)?;
        self.make_last()
    }

    /// Writes records, which last with the next batch: a kill does not lose them, only a power cut may.
    pub(crate) fn write_soon(&self, records: &[Record<'_>]) -> Result<(), CopyError> {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        self.write(&bytes)
    }

    /// Makes what waits last: first the target by `sync_target`, then the records. Nothing waiting: does nothing.
    pub(crate) fn batch(&self, sync_target: impl FnOnce() -> Result<(), CopyError>) -> Result<(), CopyError> {
        let bytes = std::mem::take(&mut *held(&self.waiting));
        if bytes.is_empty() {
            return Ok(());
        }
        self.whole()?;
        // An error is told once: what was written to the target before it is lost, and the next synchronisation would not say so.
        sync_target().inspect_err(|_| self.broken.store(true, SeqCst))?;
        self.write(&bytes)?;
        self.make_last()
    }

    fn write(&self, bytes: &[u8]) -> Result<(), CopyError> {
        let _one = held(&self.writing);
        self.whole()?;
        (&self.file).write_all(bytes).map_err(|error| self.breaks(error))
    }

    fn make_last(&self) -> Result<(), CopyError> {
        self.file.sync_data().map_err(|error| self.breaks(error))
    }

    fn breaks(&self, error: std::io::Error) -> CopyError {
        self.broken.store(true, SeqCst);
        failed("write the manifest", &self.path, error)
    }

    fn whole(&self) -> Result<(), CopyError> {
        if self.broken.load(SeqCst) {
            let error = std::io::Error::other("an earlier write to it or to the target has failed");
            return Err(failed("write the manifest", &self.path, error));
        }
        Ok(())
    }

    /// Writes the manifest anew when most of it no longer counts.
    /// `entries` is about how many there are.
    pub(crate) fn compact(path: &Path, entries: u64) -> Result<(), CopyError> {
        let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
        if size < COMPACT_FROM_BYTES || size < entries.saturating_mul(ENTRY_BYTES).saturating_mul(2) {
            return Ok(());
        }
        let (journal, manifest) = Journal::open(path)?;
        if size < manifest.entries().saturating_mul(ENTRY_BYTES).saturating_mul(2) {
            return Ok(());
        }
        let beside = path.with_extension("new");
        let wrote = write_whole(&beside, &manifest)
            .and_then(|()| std::fs::rename(&beside, path))
            .map_err(|error| failed("write anew the manifest", path, error));
        drop(journal);
        wrote?;
        sync_parent(path)
    }
}

// A program that is being started by another thread holds our descriptors until its exec: closing alone would leave the lock
// with it for that moment.
impl Drop for Journal {
    fn drop(&mut self) {
        // It goes with the descriptor in any case.
        let _ = rustix::fs::flock(&self.file, rustix::fs::FlockOperation::Unlock);
    }
}

/// The manifest's file, locked, and still the one that has its name.
fn locked(path: &Path) -> Result<File, CopyError> {
    loop {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| failed("open the manifest", path, error))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            CopyError::Setting(format!(
                "another copy is running with the manifest {}; wait for it to end",
                path.display()
            ))
        })?;
        // It may have been written anew, under the same name, between the opening and the lock.
        let opened = file.metadata().map_err(|error| failed("look at the manifest", path, error))?;
        if std::fs::metadata(path)
            .is_ok_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino()))
        {
            return Ok(file);
        }
    }
}

fn sync_parent(path: &Path) -> Result<(), CopyError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| failed("make last the name of", path, error))
}

fn write_whole(path: &Path, manifest: &Manifest) -> std::io::Result<()> {
    let mut out = Vec::new();
    if let Some(header) = &manifest.header {
        Record::Header(header.clone()).encode(&mut out);
    }
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    let mut folders = vec![super::ROOT];
    while let Some(number) = folders.pop() {
        let Some(folder) = manifest.folder(number) else { continue };
        let entries: Vec<_> = folder
            .items()
            .map(|(name, item)| super::record::Entry {
                name,
                state: item.state,
                child: item.child,
                stamp: item.stamp,
            })
            .collect();
        folders.extend(entries.iter().map(|entry| entry.child).filter(|child| *child != 0));
        Record::Entries { folder: number, entries }.encode(&mut out);
        Record::FolderDone { folder: number, done: folder.done }.encode(&mut out);
        if out.len() > BATCH_BYTES {
            file.write_all(&out)?;
            out.clear();
        }
    }
    if manifest.is_complete() {
        Record::PassEnded { whole: true }.encode(&mut out);
    }
    file.write_all(&out)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::failed;
    use crate::manifest::{FolderDone, ROOT};

    #[test]
    fn after_a_synchronisation_that_failed_nothing_more_is_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(&dir.path().join("manifest")).unwrap();
        let records = || [Record::FolderDone { folder: ROOT, done: None::<FolderDone> }];
        journal.add(&records());
        let full = || Err(failed("sync", dir.path(), std::io::Error::from_raw_os_error(28)));
        journal.batch(full).unwrap_err();
        // Copied before the failure, recorded after it.
        journal.add(&records());
        journal.batch(|| Ok(())).unwrap_err();
        journal.write_now(&records()).unwrap_err();
        assert_eq!(std::fs::metadata(dir.path().join("manifest")).unwrap().len(), 0);
    }
}
