//! SQLite: `SQLite.Dir`/connect.db.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::{Row, Value};
use crate::failure::Failure;
use crate::settings::Settings;

/// How long a statement waits for another program's lock.
const BUSY_SECONDS: u64 = 10;

/// An open SQLite database.
#[derive(Debug)]
pub struct Sqlite(Mutex<Connection>);

pub(crate) fn file_of(settings: &Settings) -> PathBuf {
    settings.sqlite_dir.join("connect.db")
}

impl Sqlite {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Failure::file("create", parent))?;
        }
        // It holds hashes of keys: SQLite gives its other files the mode of this one.
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(Failure::file("open", path))?;
        Self::prepare(Connection::open(path), &format!("open {}", path.display()))
    }

    pub(crate) fn in_memory() -> Result<Self, Failure> {
        Self::prepare(Connection::open_in_memory(), "open a database in memory")
    }

    fn prepare(connection: rusqlite::Result<Connection>, doing: &str) -> Result<Self, Failure> {
        let failed = |e| Failure::database(doing, e);
        let connection = connection.map_err(failed)?;
        connection.busy_timeout(Duration::from_secs(BUSY_SECONDS)).map_err(failed)?;
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
            .map_err(failed)?;
        Ok(Sqlite(Mutex::new(connection)))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn execute(&self, sql: &str, values: &[Value]) -> Result<u64, Failure> {
        let connection = self.connection();
        let run = || {
            let mut statement = connection.prepare_cached(&numbered(sql))?;
            statement.execute(rusqlite::params_from_iter(values))
        };
        run().map(|n| n as u64).map_err(|e| Failure::database(sql, e))
    }

    pub(crate) fn query(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>, Failure> {
        let connection = self.connection();
        let run = || -> rusqlite::Result<Vec<Row>> {
            let mut statement = connection.prepare_cached(&numbered(sql))?;
            let columns = statement.column_count();
            let rows = statement.query_map(rusqlite::params_from_iter(values), |row| {
                (0..columns).map(|i| Ok(from_ref(row.get_ref(i)?))).collect::<rusqlite::Result<_>>().map(Row)
            })?;
            rows.collect()
        };
        run().map_err(|e| Failure::database(sql, e))
    }
}

/// `$1` of PostgreSQL is `?1` here.
fn numbered(sql: &str) -> String {
    sql.replace('$', "?")
}

fn from_ref(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Integer(n) => Value::Int(n),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        _ => Value::Null,
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Int(n) => ValueRef::Integer(*n),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}
