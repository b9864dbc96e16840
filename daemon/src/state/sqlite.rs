//! The state file: SQLite, write-ahead log, every append flushed to the disk before it returns.

use super::{Event, Record, Store, StoreError};
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The layout of the file. A file with a higher number is refused.
const LAYOUT: i64 = 1;
/// How long to wait for a reader such as a backup.
const BUSY_TIMEOUT_SECS: u64 = 10;

const SCHEMA: &str = "
    CREATE TABLE event (
        seq       INTEGER PRIMARY KEY AUTOINCREMENT,
        migration TEXT NOT NULL,
        at        TEXT NOT NULL,
        body      TEXT NOT NULL
    ) STRICT;
    CREATE INDEX event_by_migration ON event (migration, seq);
    CREATE TRIGGER event_is_append_only_update BEFORE UPDATE ON event
        BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
    CREATE TRIGGER event_is_append_only_delete BEFORE DELETE ON event
        BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
";

/// The state of one instance: all its migrations, of which the newest is the current one.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl SqliteStore {
    /// Opens the file for writing, and makes it if there is none. The caller holds the [`InstanceLock`](super::InstanceLock).
    ///
    /// # Errors
    /// When it cannot be opened, is damaged, or was written by a newer version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path).map_err(|error| failed("open", path, &error))?;
        Self::settle(connection, path, true).map(|(store, _)| store)
    }

    /// Opens the file for reading beside a running daemon. `None` if there is no file.
    ///
    /// # Errors
    /// When it cannot be opened, is damaged, or was written by a newer version.
    pub fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        if !path.exists() {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(path, flags).map_err(|error| failed("open", path, &error))?;
        let (store, layout) = Self::settle(connection, path, false)?;
        // A start that was cut off has made the file, and no migration.
        Ok((layout > 0).then_some(store))
    }

    /// Answers the layout that was found, too.
    fn settle(connection: Connection, path: &Path, write: bool) -> Result<(Self, i64), StoreError> {
        let fail = |error: rusqlite::Error| failed("open", path, &error);
        connection.busy_timeout(Duration::from_secs(BUSY_TIMEOUT_SECS)).map_err(fail)?;
        let layout: i64 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fail)?;
        if layout > LAYOUT {
            return Err(StoreError {
                tried: "open",
                path: path.display().to_string(),
                why: format!("it has layout {layout}, and this version knows only up to {LAYOUT}"),
                remedy: "install the connect-migrator that wrote it, or a newer one".into(),
            });
        }
        if write {
            connection.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
            connection.pragma_update(None, "synchronous", "FULL").map_err(fail)?;
            if layout == 0 {
                connection
                    .execute_batch(&format!(
                        "BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {LAYOUT}; COMMIT;"
                    ))
                    .map_err(fail)?;
            }
        }
        Ok((SqliteStore { path: path.into(), connection: Mutex::new(connection) }, layout))
    }

    fn current(connection: &Connection) -> rusqlite::Result<Option<String>> {
        connection
            .query_row("SELECT migration FROM event ORDER BY seq DESC LIMIT 1", [], |row| row.get(0))
            .optional()
    }
}

impl Store for SqliteStore {
    fn append(&self, event: &Event) -> Result<Record, StoreError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let fail = |error: rusqlite::Error| failed("append to", &self.path, &error);
        let migration = match event {
            Event::Started { migration, .. } => migration.clone(),
            _ => Self::current(&connection).map_err(fail)?.ok_or_else(|| StoreError {
                tried: "append to",
                path: self.path.display().to_string(),
                why: "no migration has been started in it".into(),
                remedy: "start one".into(),
            })?,
        };
        let at = Timestamp::now();
        let body = serde_json::to_string(event).map_err(|error| StoreError {
            tried: "append to",
            path: self.path.display().to_string(),
            why: error.to_string(),
            remedy: "report this as a defect".into(),
        })?;
        connection
            .execute(
                "INSERT INTO event (migration, at, body) VALUES (?1, ?2, ?3)",
                params![migration, at.to_string(), body],
            )
            .map_err(fail)?;
        Ok(Record {
            seq: u64::try_from(connection.last_insert_rowid()).unwrap_or(0),
            at,
            event: event.clone(),
        })
    }

    fn load(&self) -> Result<Vec<Record>, StoreError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let fail = |error: rusqlite::Error| failed("read", &self.path, &error);
        let Some(migration) = Self::current(&connection).map_err(fail)? else { return Ok(Vec::new()) };
        let mut query = connection
            .prepare("SELECT seq, at, body FROM event WHERE migration = ?1 ORDER BY seq")
            .map_err(fail)?;
        let rows = query
            .query_map([migration], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
            })
            .map_err(fail)?;
        let mut records = Vec::new();
        for row in rows {
            let (seq, at, body) = row.map_err(fail)?;
            let damaged = |why: String| {
                StoreError {
                tried: "read",
                path: self.path.display().to_string(),
                why: format!("event {seq}: {why}"),
                remedy: "the file was written by another version or is damaged; keep a copy of it and do not start again"
                    .into(),
            }
            };
            records.push(Record {
                seq: u64::try_from(seq).unwrap_or(0),
                at: at.parse().map_err(|error: jiff::Error| damaged(error.to_string()))?,
                event: serde_json::from_str(&body).map_err(|error| damaged(error.to_string()))?,
            });
        }
        Ok(records)
    }
}

fn failed(tried: &'static str, path: &Path, error: &rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode;
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "free space on its disk, then start again: nothing was lost",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program has it open for writing: close that, then start again"
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "it is damaged: keep a copy of it and do not delete it; it says what has to be put back"
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            "run as root, and check that its folder exists and is writable"
        }
        _ => "nothing was changed",
    };
    StoreError { tried, path: path.display().to_string(), why: error.to_string(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::End;

    fn started(migration: &str) -> Event {
        Event::Started {
            migration: migration.into(),
            instance: "prod".into(),
            runbook: String::new(),
            runbook_digest: String::new(),
            plugins: Default::default(),
            version: "0".into(),
            outline: Default::default(),
        }
    }

    #[test]
    fn what_was_appended_is_read_again_by_a_reader_beside_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let store = SqliteStore::open(&path).unwrap();
        store.append(&started("a")).unwrap();
        store.append(&Event::Closed { end: End::Blocked }).unwrap();
        let reader = SqliteStore::read(&path).unwrap().unwrap();
        assert_eq!(reader.load().unwrap(), store.load().unwrap());
        assert_eq!(reader.load().unwrap().len(), 2);
    }

    #[test]
    fn a_file_that_a_start_was_cut_off_from_holds_no_migration() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        std::fs::write(&path, "").unwrap();
        assert!(SqliteStore::read(&path).unwrap().is_none());
        SqliteStore::open(&path).unwrap();
        assert!(SqliteStore::read(&path).unwrap().unwrap().load().unwrap().is_empty());
    }

    #[test]
    fn only_the_newest_migration_is_the_current_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("state.db")).unwrap();
        store.append(&started("a")).unwrap();
        store.append(&started("b")).unwrap();
        assert_eq!(store.load().unwrap().len(), 1);
    }

    #[test]
    fn events_cannot_be_changed_or_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("state.db")).unwrap();
        store.append(&started("a")).unwrap();
        let connection = store.connection.lock().unwrap();
        assert!(connection.execute("DELETE FROM event", []).is_err());
        assert!(connection.execute("UPDATE event SET body = ''", []).is_err());
    }

    #[test]
    fn a_file_of_a_newer_layout_and_a_file_that_is_no_database_are_refused_with_their_own_message() {
        let dir = tempfile::tempdir().unwrap();
        let newer = dir.path().join("newer.db");
        Connection::open(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(SqliteStore::open(&newer).unwrap_err().to_string().contains("layout 99"));
        let noise = dir.path().join("noise.db");
        std::fs::write(&noise, "this is not a database at all, but long enough to look like one".repeat(20))
            .unwrap();
        assert!(SqliteStore::open(&noise).unwrap_err().to_string().contains("damaged"));
    }
}
