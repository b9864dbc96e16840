//! The cache folder: what is expensive to make lies here under a key, and nothing of the rig lies anywhere else.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};

use crate::Error;

/// How long to wait for another process that builds the same thing. A build takes minutes on a slow host.
const BUILD_LOCK_DEADLINE: Duration = Duration::from_secs(45 * 60);
/// How long to wait for one of the places for running machines.
const PLACE_DEADLINE: Duration = Duration::from_secs(45 * 60);
/// How old a machine's folder without an owner must be to count as left behind.
const ORPHAN_AGE: Duration = Duration::from_secs(60);
/// How often a lock is tried while it is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How many characters of a key name its folder.
const KEY_CHARS: usize = 12;
/// The file in every finished entry on which its users hold a shared lock.
const IN_USE: &str = "in-use";

/// The cache folder, and where progress is told. Cheap to clone.
#[derive(Clone)]
pub struct Cache {
    folder: PathBuf,
    machines: usize,
    progress: Arc<dyn Fn(&str) + Send + Sync>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("folder", &self.folder).field("machines", &self.machines).finish()
    }
}

impl Cache {
    /// A cache in this folder, which is made when needed. Progress goes to stderr, one line a step. At most
    /// as many machines run at once, over all processes that use this folder, as the host has processors
    /// (but one at least and two at most).
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            folder: folder.into(),
            machines: cores.clamp(1, 2),
            progress: Arc::new(|line| eprintln!("rig: {line}")),
        }
    }

    /// The workspace's own cache, `target/rig` (or `rig` below `CARGO_TARGET_DIR`).
    pub fn of_workspace() -> Self {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
        Self::new(target.join("rig"))
    }

    /// Tells progress to `tell` instead of stderr.
    pub fn with_progress(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.progress = Arc::new(tell);
        self
    }

    /// How many machines may run at once; the next one waits for its place.
    pub fn with_machines(mut self, at_once: usize) -> Self {
        self.machines = at_once.max(1);
        self
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Tells one line of progress.
    pub fn say(&self, line: impl AsRef<str>) {
        (self.progress)(line.as_ref());
    }

    /// Removes everything that no running machine uses, and says what stayed.
    pub fn clean(&self) -> Result<(), Error> {
        self.remove_orphans(&self.folder)?;
        for name in self.entries()? {
            if !self.remove_unused(&name)? {
                self.say(format!("{name} stays: a machine or a build uses it"));
            }
        }
        Ok(())
    }

    /// The entry `name-key`, made by `build` in a folder beside it when it is not there yet. Two processes do not build
    /// the same name at once, and nobody sees half an entry. Older entries of the same name are removed once
    /// nobody uses them.
    pub(crate) fn entry<F>(&self, name: &str, key: &Key, build: F) -> Result<Entry, Error>
    where
        F: FnOnce(&Path) -> Result<(), Error>,
    {
        let folder = self.made()?;
        let entry = folder.join(format!("{name}-{}", key.short()));
        if let Some(found) = Entry::open(&entry)? {
            return Ok(found);
        }
        let _lock = self.lock_build(&folder, name)?;
        if let Some(found) = Entry::open(&entry)? {
            return Ok(found);
        }
        let unfinished = format!("{name}-building-");
        for left in list(&folder)?.into_iter().filter(|other| other.starts_with(&unfinished)) {
            // Whoever made it was killed: nobody else can hold the lock.
            remove(&folder.join(left))?;
        }
        let fresh = tempfile::Builder::new()
            .prefix(&unfinished)
            .tempdir_in(&folder)
            .map_err(|e| Error::io("make a folder in", &folder, e))?;
        build(fresh.path())?;
        create(&fresh.path().join(IN_USE))?;
        let made = fresh.keep();
        std::fs::rename(&made, &entry).map_err(|e| Error::io("move a finished build to", &entry, e))?;
        let built = Entry::open(&entry)?.ok_or_else(|| {
            Error::io("find the finished build", &entry, std::io::ErrorKind::NotFound.into())
        })?;
        for old in self.entries()?.into_iter().filter(|old| is_of(old, name)) {
            if folder.join(&old) != entry {
                self.remove_unused(&old)?;
            }
        }
        Ok(built)
    }

    /// Waits for one of the places for running machines; dropping the answer frees it.
    pub(crate) fn place(&self) -> Result<Flock<File>, Error> {
        let folder = self.made()?;
        let until = Instant::now() + PLACE_DEADLINE;
        let mut told = false;
        loop {
            for number in 0..self.machines {
                if let Some(lock) = try_lock(&folder.join(format!("place-{number}.lock")))? {
                    return Ok(lock);
                }
            }
            if Instant::now() >= until {
                return Err(Error::Timeout {
                    what: "a free place for a machine".into(),
                    waited: PLACE_DEADLINE,
                    last: format!("{} machines run already", self.machines),
                });
            }
            if !told {
                self.say(format!("{} machines run already, waiting for one to end", self.machines));
                told = true;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// A new folder for one running machine. Folders whose machine and warden were both killed are removed.
    pub(crate) fn machine_folder(&self) -> Result<PathBuf, Error> {
        let folder = self.made()?;
        self.remove_orphans(&folder)?;
        tempfile::Builder::new()
            .prefix("machine-")
            .tempdir_in(&folder)
            .map(tempfile::TempDir::keep)
            .map_err(|e| Error::io("make a folder in", &folder, e))
    }

    fn remove_orphans(&self, folder: &Path) -> Result<(), Error> {
        for name in list(folder)?.into_iter().filter(|name| name.starts_with("machine-")) {
            let path = folder.join(name);
            let owned = path.join("owned");
            let age = owned.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            // A warden creates the file a moment before it locks it.
            if age.is_some_and(|age| age > ORPHAN_AGE)
                && let Some(_lock) = try_lock(&owned)?
            {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn made(&self) -> Result<PathBuf, Error> {
        std::fs::create_dir_all(&self.folder).map_err(|e| Error::io("make", &self.folder, e))?;
        self.folder.canonicalize().map_err(|e| Error::io("find", &self.folder, e))
    }

    fn lock_build(&self, folder: &Path, name: &str) -> Result<Flock<File>, Error> {
        let path = folder.join(format!("{name}.lock"));
        let until = Instant::now() + BUILD_LOCK_DEADLINE;
        let mut told = false;
        loop {
            if let Some(lock) = try_lock(&path)? {
                return Ok(lock);
            }
            if Instant::now() >= until {
                return Err(Error::Timeout {
                    what: format!("another process' build of {name}"),
                    waited: BUILD_LOCK_DEADLINE,
                    last: format!("{} is locked", path.display()),
                });
            }
            if !told {
                self.say(format!("another process builds {name}, waiting for it"));
                told = true;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn entries(&self) -> Result<Vec<String>, Error> {
        let mut names = list(&self.folder)?;
        names.retain(|name| self.folder.join(name).join(IN_USE).exists());
        Ok(names)
    }

    /// Whether it could be removed.
    fn remove_unused(&self, name: &str) -> Result<bool, Error> {
        let path = self.folder.join(name);
        if !path.join(IN_USE).exists() {
            return Ok(true);
        }
        let Some(_lock) = try_lock(&path.join(IN_USE))? else { return Ok(false) };
        remove(&path)?;
        Ok(true)
    }
}

/// A finished entry. It is not removed while this or a clone of it lives.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    folder: PathBuf,
    _in_use: Arc<Flock<File>>,
}

impl Entry {
    /// `None` when it is not there.
    fn open(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(IN_USE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", &path, e)),
        };
        let lock =
            Flock::lock(file, FlockArg::LockShared).map_err(|(_, e)| Error::io("lock", &path, e.into()))?;
        // Somebody may have been removing it.
        Ok(path.exists().then(|| Self { folder: folder.to_owned(), _in_use: Arc::new(lock) }))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file on which a shared lock keeps it from being removed.
    pub(crate) fn in_use(&self) -> PathBuf {
        self.folder.join(IN_USE)
    }
}

fn list(folder: &Path) -> Result<Vec<String>, Error> {
    let read = match std::fs::read_dir(folder) {
        Ok(read) => read,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", folder, e)),
    };
    Ok(read.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn remove(folder: &Path) -> Result<(), Error> {
    std::fs::remove_dir_all(folder).map_err(|e| Error::io("remove", folder, e))
}

/// Whether an entry's folder belongs to this name: what follows is exactly one key.
fn is_of(folder: &str, name: &str) -> bool {
    folder
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|key| key.len() == KEY_CHARS && key.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn create(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| Error::io("create", path, e))
}

fn try_lock(path: &Path) -> Result<Option<Flock<File>>, Error> {
    match Flock::lock(create(path)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(Error::io("lock", path, e.into())),
    }
}

/// What a cached thing was made from. Equal parts give an equal key; any other part another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// A key over parts, in order. Where one part ends and the next begins counts too.
    pub fn of<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            let part = part.as_ref();
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// All 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn short(&self) -> &str {
        self.0.get(..KEY_CHARS).unwrap_or(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(folder: &Path) -> Cache {
        Cache::new(folder).with_progress(|_| ())
    }

    #[test]
    fn a_key_depends_on_every_part_and_on_where_parts_end() {
        let key = Key::of(["ab", "c"]);
        assert_eq!(key, Key::of(["ab", "c"]));
        assert_ne!(key, Key::of(["a", "bc"]));
        assert_ne!(key, Key::of(["ab", "c", ""]));
        assert_eq!(key.as_str().len(), 64);
    }

    #[test]
    fn an_entry_is_built_once() {
        let folder = tempfile::tempdir().unwrap();
        let cache = quiet(folder.path());
        let key = Key::of(["1"]);
        let first = cache.entry("image", &key, |at| {
            std::fs::write(at.join("disk"), "x").unwrap();
            Ok(())
        });
        let second = cache.entry("image", &key, |_| Err(Error::SelfTest("built again".into()))).unwrap();
        assert_eq!(first.unwrap().folder, second.folder);
        assert_eq!(std::fs::read_to_string(second.path("disk")).unwrap(), "x");
    }

    #[test]
    fn a_failed_build_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let cache = quiet(folder.path());
        cache.entry("image", &Key::of(["1"]), |_| Err(Error::SelfTest("no".into()))).unwrap_err();
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["image.lock"]);
    }

    /// Makes an entry that nobody uses then.
    fn made(cache: &Cache, name: &str, key: &str) -> PathBuf {
        cache.entry(name, &Key::of([key]), |_| Ok(())).unwrap().folder
    }

    #[test]
    fn a_new_entry_replaces_the_old_one_of_its_name_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = quiet(folder.path());
        let (old, other) = (made(&cache, "image", "1"), made(&cache, "image-demo", "1"));
        let new = made(&cache, "image", "2");
        assert!(!old.exists() && other.exists() && new.exists());
    }

    #[test]
    fn an_entry_in_use_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = quiet(folder.path());
        let old = cache.entry("image", &Key::of(["1"]), |_| Ok(())).unwrap();
        made(&cache, "image", "2");
        cache.clean().unwrap();
        let path = old.path("");
        assert!(path.exists());
        drop(old);
        cache.clean().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_build_left_is_removed_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join("image-building-abc");
        std::fs::create_dir(&left).unwrap();
        made(&quiet(folder.path()), "image", "1");
        assert!(!left.exists());
    }

    #[test]
    fn two_builders_of_one_entry_build_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let built = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    quiet(folder.path())
                        .entry("image", &Key::of(["1"]), |_| {
                            built.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            Ok(())
                        })
                        .unwrap();
                });
            }
        });
        assert_eq!(built.into_inner(), 1);
    }

    #[test]
    fn no_more_machines_get_a_place_than_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = quiet(folder.path()).with_machines(2);
        let (first, second) = (cache.place().unwrap(), cache.place().unwrap());
        let free = |n: usize| try_lock(&folder.path().join(format!("place-{n}.lock"))).unwrap().is_some();
        assert!(!free(0) && !free(1));
        drop(first);
        assert!(free(0) && !free(1));
        drop(second);
    }
}
