//! The SQLite files of an installation: found by looking into them, read without touching them.

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How every SQLite file begins. <https://www.sqlite.org/fileformat.html>
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Byte of the header that says 2 for a file with a write-ahead log.
const WRITE_VERSION_AT: usize = 18;
/// What SQLite puts beside a file.
pub const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];
/// How long reading waits for a lock of Connect's.
const BUSY_SECONDS: u64 = 10;
/// Pages that are copied between two looks at the clock.
const PAGES_PER_STEP: i32 = 2048;
/// How long making a copy of a file in use may take.
const COPY_SECONDS: u64 = 600;
/// Instructions of SQLite between two looks at the clock.
const PROGRESS_OPS: i32 = 100_000;
/// How long the check of a copy's integrity may take.
const INTEGRITY_SECONDS: u64 = 600;

/// Why a SQLite file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("could not {doing} {}: {why}", path.display())]
pub struct SqliteError {
    /// The verb.
    pub doing: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub why: String,
}

fn failed<E: std::fmt::Display>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> SqliteError {
    let path = path.to_owned();
    move |why| SqliteError { doing, path, why: why.to_string() }
}

/// One database of SQLite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqliteFile {
    /// Where.
    pub path: PathBuf,
    /// Its own size and that of its sidecars, in bytes.
    pub bytes: u64,
    /// Last change, in nanoseconds since 1970, of the file or a sidecar.
    pub changed_ns: i128,
    /// Whether it keeps a write-ahead log.
    pub wal: bool,
}

impl SqliteFile {
    /// The sidecars that are there.
    #[must_use]
    pub fn sidecars(&self) -> Vec<PathBuf> {
        SIDECARS.iter().map(|end| beside(&self.path, end)).filter(|path| path.exists()).collect()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

/// The SQLite files in a folder, not below it, sorted by name. Reads only. An empty file is none.
///
/// # Errors
/// When the folder or a file in it cannot be read.
pub fn find(dir: &Path) -> Result<Vec<SqliteFile>, SqliteError> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).map_err(failed("read", dir))?;
    for entry in entries {
        let path = entry.map_err(failed("read", dir))?.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if !metadata.is_file() {
            continue;
        }
        if let Some(file) = look(&path).map_err(failed("read", &path))? {
            found.push(file);
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Looks at one file; `None` when it is no SQLite file.
///
/// # Errors
/// When it cannot be read.
pub fn look(path: &Path) -> io::Result<Option<SqliteFile>> {
    let mut header = [0_u8; 100];
    let mut file = File::open(path)?;
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    if !header.starts_with(MAGIC) {
        return Ok(None);
    }
    let stamp = |m: &fs::Metadata| i128::from(m.mtime()) * 1_000_000_000 + i128::from(m.mtime_nsec());
    let metadata = file.metadata()?;
    let (mut bytes, mut changed_ns) = (metadata.len(), stamp(&metadata));
    for end in SIDECARS {
        // The index of the log is made anew whenever the file is opened: it says nothing about the data.
        if let Ok(sidecar) = fs::symlink_metadata(beside(path, end)) {
            bytes += sidecar.len();
            if end != "-shm" {
                changed_ns = changed_ns.max(stamp(&sidecar));
            }
        }
    }
    let wal = header.get(WRITE_VERSION_AT).is_some_and(|version| *version == 2);
    Ok(Some(SqliteFile { path: path.into(), bytes, changed_ns, wal }))
}

/// Opens a file that nobody else has open, for reading; without a log it is not even locked, so nothing appears beside it. `path` is
/// a copy of ours when there is a log.
///
/// # Errors
/// SQLite's.
pub fn open_at_rest(path: &Path) -> Result<Connection, SqliteError> {
    let log = fs::metadata(beside(path, "-wal")).is_ok_and(|m| m.len() > 0);
    let journal = fs::metadata(beside(path, "-journal")).is_ok_and(|m| m.len() > 0);
    if log || journal {
        return Connection::open(path).map_err(failed("open", path));
    }
    let uri = format!("file:{}?immutable=1", escaped(path));
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags).map_err(failed("open", path))
}

fn escaped(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                text.push(char::from(*byte))
            }
            byte => text.push_str(&format!("%{byte:02x}")),
        }
    }
    text
}

/// Makes a consistent copy of a file, whether Connect has it open or not. Nothing is left beside the file.
///
/// # Errors
/// When it cannot be read, the copy cannot be written, or the file is written to without end.
pub fn copy_consistent(file: &SqliteFile, to: &Path) -> Result<(), SqliteError> {
    let in_use = beside(&file.path, "-shm").exists();
    if file.wal && !in_use {
        // Opening it would make a log and its index beside it.
        return copy_at_rest(file, to);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(&file.path, flags).map_err(failed("open", &file.path))?;
    source.busy_timeout(Duration::from_secs(BUSY_SECONDS)).map_err(failed("open", &file.path))?;
    let mut copy = Connection::open(to).map_err(failed("write", to))?;
    let backup = Backup::new(&source, &mut copy).map_err(failed("copy", &file.path))?;
    let deadline = Instant::now() + Duration::from_secs(COPY_SECONDS);
    loop {
        use rusqlite::backup::StepResult;
        match backup.step(PAGES_PER_STEP).map_err(failed("copy", &file.path))? {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
        if Instant::now() > deadline {
            return Err(failed("copy", &file.path)(format!(
                "it is written to without end ({COPY_SECONDS} s)"
            )));
        }
    }
}

fn copy_at_rest(file: &SqliteFile, to: &Path) -> Result<(), SqliteError> {
    fs::copy(&file.path, to).map_err(failed("copy", &file.path))?;
    let log = beside(&file.path, "-wal");
    if log.exists() {
        fs::copy(&log, beside(to, "-wal")).map_err(failed("copy", &log))?;
    }
    let again = look(&file.path).map_err(failed("read", &file.path))?;
    if again.as_ref().map(|f| f.changed_ns) != Some(file.changed_ns) {
        return Err(failed("copy", &file.path)("it was changed meanwhile; try again"));
    }
    Ok(())
}

/// What SQLite finds wrong with a copy; empty when it is whole.
///
/// # Errors
/// When it cannot be read at all, or not in time.
pub fn integrity(copy: &Path) -> Result<Vec<String>, SqliteError> {
    let mut connection = open_at_rest(copy)?;
    let deadline = Instant::now() + Duration::from_secs(INTEGRITY_SECONDS);
    connection
        .progress_handler(PROGRESS_OPS, Some(move || Instant::now() > deadline))
        .map_err(failed("check", copy))?;
    let mut statement =
        connection.prepare("PRAGMA integrity_check(5)").map_err(failed("check the integrity of", copy))?;
    let lines = statement
        .query_map([], |row| row.get::<_, String>(0))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed("check the integrity of", copy))?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// The names of its tables, in lower case.
///
/// # Errors
/// SQLite's.
pub fn table_names(connection: &Connection, path: &Path) -> Result<BTreeSet<String>, SqliteError> {
    let sql = "SELECT lower(name) FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let mut statement = connection.prepare(sql).map_err(failed("read", path))?;
    let names = statement.query_map([], |row| row.get(0)).map_err(failed("read", path))?;
    names.collect::<Result<_, _>>().map_err(failed("read", path))
}

/// The names of the tables of a file that Connect may have open. Leaves nothing beside the file.
///
/// # Errors
/// SQLite's, or that it cannot be copied where that is needed.
pub fn tables_in_use(file: &SqliteFile) -> Result<BTreeSet<String>, SqliteError> {
    let path = &file.path;
    let log = fs::metadata(beside(path, "-wal")).is_ok_and(|m| m.len() > 0);
    if file.wal && log && !beside(path, "-shm").exists() {
        let dir = tempfile::tempdir().map_err(failed("copy", path))?;
        let copy = dir.path().join("copy");
        copy_at_rest(file, &copy)?;
        return table_names(&open_at_rest(&copy)?, &copy);
    }
    let journal = fs::metadata(beside(path, "-journal")).is_ok_and(|m| m.len() > 0);
    if !journal && (!file.wal || !log) {
        // The schema of a file without a log stands in the file itself, also while it is in use.
        return table_names(&open_at_rest(path)?, path);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed("open", path))?;
    connection.busy_timeout(Duration::from_secs(BUSY_SECONDS)).map_err(failed("open", path))?;
    table_names(&connection, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(path: &Path, wal: bool) -> Connection {
        let connection = Connection::open(path).unwrap();
        if wal {
            connection.execute_batch("PRAGMA journal_mode = WAL").unwrap();
        }
        connection
            .execute_batch("CREATE TABLE Users (id INTEGER); INSERT INTO Users VALUES (1), (2)")
            .unwrap();
        connection
    }

    fn listing(dir: &Path) -> Vec<(OsString, u64)> {
        let mut all: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.file_name(), e.metadata().unwrap().len()))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn files_are_told_by_their_first_bytes_not_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        drop(made(&dir.path().join("state"), false));
        fs::write(dir.path().join("fake.db"), "no database").unwrap();
        fs::write(dir.path().join("empty.db"), "").unwrap();
        let found = find(dir.path()).unwrap();
        assert_eq!(found.iter().map(SqliteFile::name).collect::<Vec<_>>(), ["state"]);
    }

    #[test]
    fn a_copy_of_a_file_in_use_has_what_is_only_in_the_log_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("connect.db");
        let writer = made(&path, true);
        let before = listing(dir.path());
        assert!(before.iter().any(|(name, len)| name == "connect.db-wal" && *len > 0));
        let out = tempfile::tempdir().unwrap();
        let copy = out.path().join("copy");
        copy_consistent(&look(&path).unwrap().unwrap(), &copy).unwrap();
        assert_eq!(listing(dir.path()), before);
        drop(writer);
        let count: i64 =
            open_at_rest(&copy).unwrap().query_row("SELECT count(*) FROM users", [], |r| r.get(0)).unwrap();
        assert_eq!(count, 2);
        assert_eq!(integrity(&copy).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn reading_a_file_at_rest_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("connect.db");
        drop(made(&path, true));
        let before = listing(dir.path());
        assert_eq!(before.len(), 1);
        let connection = open_at_rest(&path).unwrap();
        assert!(table_names(&connection, &path).unwrap().contains("users"));
        let out = tempfile::tempdir().unwrap();
        copy_consistent(&look(&path).unwrap().unwrap(), &out.path().join("copy")).unwrap();
        assert_eq!(listing(dir.path()), before);
    }

    #[test]
    fn a_damaged_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("connect.db");
        let connection = made(&path, false);
        connection.execute_batch("CREATE INDEX i ON Users (id)").unwrap();
        for n in 0..2000 {
            connection.execute("INSERT INTO Users VALUES (?1)", [n]).unwrap();
        }
        drop(connection);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() - 4096 - 2000;
        bytes[at..at + 1000].fill(0xff);
        fs::write(&path, bytes).unwrap();
        let found = integrity(&path);
        assert!(found.is_err() || !found.unwrap().is_empty());
    }
}
