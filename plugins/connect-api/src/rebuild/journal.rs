//! What was submitted and what became of it, one line an event at the end of a file, so that a rebuild that is cut off goes
//! on where it stopped. Writing costs the same however many items there are.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How much may be lost in a power cut: lines reach the kernel at once, and the disk at least this often. Then what was
/// finished in between is built again.
const SYNC_EVERY_MILLIS: u64 = 1_000;
/// The longest line that is read. Errors are cut before they are written.
const LINE_MAX_BYTES: u64 = 64 * 1024;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// The first line: whose file it is.
    Began {
        /// The migration.
        migration: String,
    },
    /// The server accepted a build.
    Submitted {
        /// The content.
        guid: String,
        /// The bundle that is built.
        bundle: String,
        /// The task that builds.
        task: String,
    },
    /// It was built.
    Built {
        /// The content.
        guid: String,
        /// The bundle that was built.
        bundle: String,
    },
    /// It failed.
    Failed {
        /// The content.
        guid: String,
        /// The bundle.
        bundle: String,
        /// Why.
        error: String,
        /// Whether trying again makes sense.
        again: bool,
    },
}

/// How far an earlier call came with an item.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Earlier {
    /// The bundle that all of this is about.
    pub bundle: String,
    /// It is built.
    pub built: bool,
    /// The task that may still be building it.
    pub task: Option<String>,
    /// How often it failed.
    pub failed: u32,
    /// Why, the last time.
    pub error: String,
    /// Whether trying again makes sense.
    pub again: bool,
}

/// The file.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    synced: Instant,
    unsynced: bool,
}

/// The file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the journal {}: {why}", path.display())]
pub struct JournalError {
    /// Where it is.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub why: std::io::Error,
}

impl Journal {
    /// Opens the journal of `migration` and answers what it says, by content id. One of another migration is started anew. A
    /// last line that was cut off is taken out.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(path: &Path, migration: &str) -> Result<(Journal, HashMap<String, Earlier>), JournalError> {
        let fail = |why| JournalError { path: path.into(), why };
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
        let (ours, good, earlier) = replay(&mut file, migration).map_err(fail)?;
        file.set_len(good).and_then(|()| file.seek(SeekFrom::End(0))).map_err(fail)?;
        let mut journal = Journal { file, path: path.into(), synced: Instant::now(), unsynced: false };
        if !ours {
            journal.write(&Event::Began { migration: migration.into() })?;
            journal.sync()?;
        }
        Ok((journal, earlier))
    }

    /// Appends an event. It is safe from a crash of this process at once, and from one of the machine a second later.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, event: &Event) -> Result<(), JournalError> {
        let fail = |why| JournalError { path: self.path.clone(), why };
        let mut line = serde_json::to_vec(event).map_err(|error| fail(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(fail)?;
        self.unsynced = true;
        if self.synced.elapsed() >= Duration::from_millis(SYNC_EVERY_MILLIS) { self.sync() } else { Ok(()) }
    }

    /// Returns once all events are durable.
    ///
    /// # Errors
    /// When they cannot be made durable.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        if std::mem::take(&mut self.unsynced) {
            self.file.sync_data().map_err(|why| JournalError { path: self.path.clone(), why })?;
        }
        self.synced = Instant::now();
        Ok(())
    }
}

type Replayed = (bool, u64, HashMap<String, Earlier>);

/// Whether the file is `migration`'s, how many bytes of it are good, what it says.
fn replay(file: &mut File, migration: &str) -> std::io::Result<Replayed> {
    let mut reader = BufReader::new(file);
    let mut earlier: HashMap<String, Earlier> = HashMap::new();
    let (mut good, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let read = reader.by_ref().take(LINE_MAX_BYTES).read_until(b'\n', &mut line)?;
        let event = serde_json::from_slice::<Event>(&line);
        let (Some(b'\n'), Ok(event)) = (line.last(), event) else { break };
        match event {
            Event::Began { migration: theirs } if good == 0 && theirs == migration => {}
            _ if good == 0 => return Ok((false, 0, HashMap::new())),
            Event::Began { .. } => {}
            Event::Submitted { guid, bundle, task } => {
                let entry = about(&mut earlier, guid, bundle);
                entry.task = Some(task);
            }
            Event::Built { guid, bundle } => {
                let entry = about(&mut earlier, guid, bundle);
                (entry.built, entry.task) = (true, None);
            }
            Event::Failed { guid, bundle, error, again } => {
                let entry = about(&mut earlier, guid, bundle);
                (entry.task, entry.error, entry.again) = (None, error, again);
                entry.failed += 1;
            }
        }
        good += read as u64;
    }
    Ok((good > 0, good, earlier))
}

/// The entry of an item; a new one when what was known is about another bundle.
fn about(earlier: &mut HashMap<String, Earlier>, guid: String, bundle: String) -> &mut Earlier {
    let entry = earlier.entry(guid).or_default();
    if entry.bundle != bundle {
        *entry = Earlier { bundle, ..Earlier::default() };
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submitted(guid: &str, bundle: &str, task: &str) -> Event {
        Event::Submitted { guid: guid.into(), bundle: bundle.into(), task: task.into() }
    }

    fn built(guid: &str, bundle: &str) -> Event {
        Event::Built { guid: guid.into(), bundle: bundle.into() }
    }

    fn failed(guid: &str, again: bool) -> Event {
        Event::Failed { guid: guid.into(), bundle: "1".into(), error: "no".into(), again }
    }

    fn written(path: &Path, events: &[Event]) {
        let (mut journal, _) = Journal::open(path, "m").unwrap();
        for event in events {
            journal.write(event).unwrap();
        }
    }

    #[test]
    fn what_was_written_is_known_to_the_next_call() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        written(&path, &[submitted("a", "1", "t1"), submitted("b", "1", "t2"), built("a", "1")]);
        written(&path, &[submitted("c", "1", "t3"), failed("c", true), submitted("c", "1", "t4")]);
        let (_, earlier) = Journal::open(&path, "m").unwrap();
        assert!(earlier["a"].built && earlier["a"].task.is_none());
        assert_eq!(earlier["b"].task.as_deref(), Some("t2"));
        assert_eq!((earlier["c"].task.as_deref(), earlier["c"].failed), (Some("t4"), 1));
    }

    #[test]
    fn wherever_the_last_line_is_cut_the_lines_before_it_stay_and_writing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        written(&path, &[built("a", "1")]);
        let whole = std::fs::read(&path).unwrap();
        let mut longer = whole.clone();
        longer.extend(serde_json::to_vec(&built("b", "1")).unwrap());
        for cut in whole.len()..=longer.len() {
            std::fs::write(&path, &longer[..cut]).unwrap();
            written(&path, &[built("c", "1")]);
            let (_, earlier) = Journal::open(&path, "m").unwrap();
            let mut names: Vec<_> = earlier.keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, ["a", "c"], "cut at {cut}");
        }
    }

    #[test]
    fn the_journal_of_another_migration_and_rubbish_are_started_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        written(&path, &[built("a", "1")]);
        assert!(Journal::open(&path, "other").unwrap().1.is_empty());
        assert!(Journal::open(&path, "m").unwrap().1.is_empty());
        std::fs::write(&path, b"\xff\xfe rubbish").unwrap();
        written(&path, &[built("b", "1")]);
        assert!(Journal::open(&path, "m").unwrap().1.contains_key("b"));
    }

    #[test]
    fn what_is_known_of_an_older_bundle_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        written(&path, &[built("a", "1"), submitted("a", "2", "t")]);
        let (_, earlier) = Journal::open(&path, "m").unwrap();
        assert_eq!((earlier["a"].built, earlier["a"].bundle.as_str()), (false, "2"));
    }
}
