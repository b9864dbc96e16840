//! A machine prepared once, from which fresh ones start in seconds.

use std::path::PathBuf;
use std::time::Instant;

use crate::cache::{Cache, Entry, Key};
use crate::machine::Machine;
use crate::{Error, Image};

/// A running machine put away: its memory as a file, its disk as what was written on top of the image. Machines
/// that start from it only read it; each has a disk of its own on top.
#[derive(Debug, Clone)]
pub struct Snapshot {
    image: Image,
    key: Key,
    entry: Entry,
    /// The snapshots between it and the image.
    below: Vec<Entry>,
}

impl Snapshot {
    /// The image, booted and settled, nothing else. From the cache, or made in about one boot.
    pub fn booted(cache: &Cache, image: &Image) -> Result<Self, Error> {
        let key = Key::of([image.key().as_str(), &Machine::kind(cache, image)?]);
        let name = format!("{}-booted", image.suite());
        let entry = cache.entry(&name, &key, |folder| {
            let started = Instant::now();
            cache.say(format!("booting the {} image for the first time", image.suite()));
            let machine = Machine::boot_image(cache, image)?;
            let failed = machine.check("systemctl list-units --failed --plain --no-legend")?;
            if !failed.is_empty() {
                return Err(Error::Unreachable {
                    why: format!("units of the fresh image failed:\n{failed}"),
                });
            }
            machine.save_into(folder)?;
            cache.say(format!("booted and put away after {} s", started.elapsed().as_secs()));
            Ok(())
        })?;
        Ok(Self { image: image.clone(), key, entry, below: Vec::new() })
    }

    /// This snapshot, prepared further: `provision` gets a fresh machine from it, and what it leaves running and lying
    /// there is put away. From the cache when it was made before under the same `name` and `key`; `key` must
    /// change whenever `provision` would do something else (a hash over what it copies in, say). An older
    /// snapshot of the same name is removed.
    pub fn prepared<F, E>(&self, cache: &Cache, name: &str, key: &Key, provision: F) -> Result<Self, Error>
    where
        F: FnOnce(&Machine) -> Result<(), E>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let key = Key::of([self.key.as_str(), name, key.as_str()]);
        let full_name = format!("{}-{name}", self.image.suite());
        let entry = cache.entry(&full_name, &key, |folder| {
            let started = Instant::now();
            cache.say(format!("preparing the snapshot {full_name}"));
            let machine = Machine::from_snapshot(cache, self)?;
            provision(&machine)
                .map_err(|e| Error::Provision { name: full_name.clone(), source: e.into() })?;
            machine.save_into(folder)?;
            cache.say(format!("snapshot {full_name} put away after {} s", started.elapsed().as_secs()));
            Ok(())
        })?;
        let below = std::iter::once(&self.entry).chain(&self.below).cloned().collect();
        Ok(Self { image: self.image.clone(), key, entry, below })
    }

    /// The image below it.
    pub fn image(&self) -> &Image {
        &self.image
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.entry.path("disk.qcow2")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.entry.path("state")
    }

    /// The files whose locks keep all of it from being removed.
    pub(crate) fn in_use(&self) -> Vec<PathBuf> {
        let entries = std::iter::once(&self.entry).chain(&self.below);
        entries.map(Entry::in_use).chain([self.image.in_use()]).collect()
    }
}
