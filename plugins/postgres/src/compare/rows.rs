//! Rows as numbers: a digest a row, and their sum, which does not depend on the order.

use super::canonical::{Fine, Kind};
use super::tables::{LiteTable, PgColumn, PgTable, quoted};
use crate::connection::{DbError, Session};
use crate::sqlite_files::SqliteError;
use futures_util::TryStreamExt;
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio_postgres::binary_copy::BinaryCopyOutStream;
use tokio_postgres::types::{ToSql, Type};

/// Rows whose digests are kept one by one, to name those that differ.
const KEPT_ROWS: usize = 50_000;
/// Keys that one statement asks for.
const KEYS_PER_STATEMENT: usize = 1_000;
/// Rows between two looks at the clock.
const ROWS_PER_LOOK: u64 = 10_000;

/// The digest of a set of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digests {
    /// How many rows.
    pub rows: u64,
    /// The sum of their digests.
    pub sum: u128,
    /// Each one, while there are few.
    each: HashMap<u128, u32>,
}

impl Digests {
    fn add(&mut self, digest: u128) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(digest);
        if self.rows <= KEPT_ROWS as u64 {
            *self.each.entry(digest).or_default() += 1;
        } else if !self.each.is_empty() {
            self.each = HashMap::new();
        }
    }

    /// Whether both stand for the same rows.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        (self.rows, self.sum) == (other.rows, other.sum)
    }

    fn kept(&self) -> bool {
        self.rows <= KEPT_ROWS as u64
    }
}

/// The rows of SQLite, in both spellings of times.
#[derive(Debug, Clone, Default)]
pub struct LiteRows {
    /// Rounded times.
    pub rounded: Digests,
    /// Cut times.
    pub cut: Digests,
    /// The keys of the rows as PostgreSQL reads them, one list a column of the key; only of a sample.
    pub keys: Vec<Vec<String>>,
}

fn digest_of<'a>(values: impl Iterator<Item = Option<std::borrow::Cow<'a, str>>>) -> u128 {
    let mut hasher = Sha256::new();
    for value in values {
        match value {
            None => hasher.update([0]),
            Some(text) => {
                hasher.update([1]);
                hasher.update((text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
    }
    let digest = hasher.finalize();
    digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// What is read of a table: its columns on both sides, in the same order.
#[derive(Debug, Clone)]
pub struct Pair {
    /// SQLite's.
    pub lite: LiteTable,
    /// PostgreSQL's.
    pub pg: PgTable,
    /// PostgreSQL's columns in SQLite's order.
    pub columns: Vec<PgColumn>,
}

impl Pair {
    fn kinds(&self) -> Vec<Kind> {
        self.columns.iter().map(|column| column.kind).collect()
    }

    fn lite_select(&self) -> String {
        let names: Vec<String> = self.lite.columns.iter().map(|name| quoted(name)).collect();
        format!("SELECT {} FROM {}", names.join(", "), quoted(&self.lite.name))
    }

    fn pg_select(&self) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|column| column.kind.expression(&column.quoted)).collect();
        format!("SELECT {} FROM {}", columns.join(", "), self.pg.quoted)
    }
}

/// Reads the rows of SQLite: all, or every `step`-th and the last of `total`.
///
/// # Errors
/// SQLite's, or that it takes longer than `limit`.
pub fn of_sqlite(
    connection: &Connection,
    path: &Path,
    pair: &Pair,
    sample: Option<(u64, u64)>,
    limit: Duration,
) -> Result<LiteRows, SqliteError> {
    let failed = |why: String| SqliteError { doing: "read the rows of", path: path.into(), why };
    let kinds = pair.kinds();
    let has_times = kinds.iter().any(|kind| kind.is_time());
    let deadline = Instant::now() + limit;
    let mut read = LiteRows { keys: vec![Vec::new(); pair.lite.key.len()], ..LiteRows::default() };
    let mut work = || -> Result<(), String> {
        let text = |e: rusqlite::Error| e.to_string();
        let mut statement = connection.prepare(&pair.lite_select()).map_err(text)?;
        let mut rows = statement.query([]).map_err(text)?;
        let mut number = 0_u64;
        while let Some(row) = rows.next().map_err(text)? {
            let at = number;
            number += 1;
            if at.is_multiple_of(ROWS_PER_LOOK) && Instant::now() > deadline {
                return Err(format!("it takes longer than {} s", limit.as_secs()));
            }
            if let Some((step, total)) = sample {
                if !at.is_multiple_of(step) && at + 1 != total {
                    continue;
                }
                for (key, column) in read.keys.iter_mut().zip(&pair.lite.key) {
                    key.push(as_input(row.get_ref(*column).map_err(text)?));
                }
            }
            let values = kinds
                .iter()
                .enumerate()
                .map(|(at, _)| row.get_ref(at).map_err(text))
                .collect::<Result<Vec<_>, _>>()?;
            let spelled = |fine: Fine| {
                digest_of(kinds.iter().zip(&values).map(|(kind, value)| kind.from_sqlite(*value, fine)))
            };
            read.rounded.add(spelled(Fine::Rounded));
            if has_times {
                read.cut.add(spelled(Fine::Cut));
            }
        }
        Ok(())
    };
    work().map_err(failed)?;
    if !has_times {
        read.cut = read.rounded.clone();
    }
    Ok(read)
}

/// A value as PostgreSQL reads it from text.
fn as_input(value: rusqlite::types::ValueRef<'_>) -> String {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Blob(bytes) => format!("\\x{}", super::canonical::hex(bytes)),
    }
}

/// Reads all rows of PostgreSQL.
///
/// # Errors
/// The database's.
pub async fn of_postgres(session: &Session, pair: &Pair) -> Result<Digests, DbError> {
    let kinds = pair.kinds();
    let work = async {
        let copy = format!("COPY ({}) TO STDOUT (FORMAT binary)", pair.pg_select());
        let stream = session.client().copy_out(&copy).await?;
        let types = vec![Type::TEXT; kinds.len()];
        let mut rows = pin!(BinaryCopyOutStream::new(stream, &types));
        let mut digests = Digests::default();
        while let Some(row) = rows.try_next().await? {
            let values =
                (0..kinds.len()).map(|at| row.try_get::<Option<&str>>(at)).collect::<Result<Vec<_>, _>>()?;
            digests.add(digest_of(kinds.iter().zip(values).map(|(kind, v)| Some(kind.from_postgres(v?)))));
        }
        Ok(digests)
    };
    session.bounded(&format!("read the table {}", pair.pg.quoted), work).await
}

/// Reads those rows of PostgreSQL that have the keys of a sample.
///
/// # Errors
/// The database's; also when it cannot read a key as its column's type.
pub async fn of_postgres_by_key(
    session: &Session,
    pair: &Pair,
    keys: &[Vec<String>],
) -> Result<Digests, DbError> {
    let kinds = pair.kinds();
    let columns: Vec<&PgColumn> = pair.lite.key.iter().filter_map(|at| pair.columns.get(*at)).collect();
    let names: Vec<&str> = columns.iter().map(|column| column.quoted.as_str()).collect();
    let arrays: Vec<String> =
        columns.iter().enumerate().map(|(at, c)| format!("${}::text[]::{}[]", at + 1, c.type_sql)).collect();
    let sql = format!(
        "{} WHERE ({}) IN (SELECT * FROM unnest({}))",
        pair.pg_select(),
        names.join(", "),
        arrays.join(", ")
    );
    let doing = format!("read a sample of the table {}", pair.pg.quoted);
    let statement = session.bounded(&doing, session.client().prepare(&sql)).await?;
    let mut digests = Digests::default();
    let total = keys.first().map_or(0, Vec::len);
    for from in (0..total).step_by(KEYS_PER_STATEMENT) {
        let to = total.min(from + KEYS_PER_STATEMENT);
        let parts: Vec<&[String]> = keys.iter().map(|key| key.get(from..to).unwrap_or_default()).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> = parts.iter().map(|p| p as &(dyn ToSql + Sync)).collect();
        let rows = session.bounded(&doing, session.client().query(&statement, &parameters)).await?;
        for row in rows {
            let values = (0..kinds.len())
                .map(|at| row.try_get::<_, Option<&str>>(at))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| DbError::from_postgres(&doing, &error))?;
            digests.add(digest_of(kinds.iter().zip(values).map(|(kind, v)| Some(kind.from_postgres(v?)))));
        }
    }
    Ok(digests)
}

/// Names a few rows of SQLite that PostgreSQL does not have like that; by their key, or by their place when there is none.
#[must_use]
pub fn strays(connection: &Connection, pair: &Pair, theirs: &Digests, most: usize) -> Vec<String> {
    let mut found = Vec::new();
    if !theirs.kept() {
        return found;
    }
    let kinds = pair.kinds();
    let Ok(mut statement) = connection.prepare(&pair.lite_select()) else { return found };
    let Ok(mut rows) = statement.query([]) else { return found };
    let mut number = 0_u64;
    while let Ok(Some(row)) = rows.next() {
        number += 1;
        let known = [Fine::Rounded, Fine::Cut].into_iter().any(|fine| {
            let values = kinds
                .iter()
                .enumerate()
                .map(|(at, kind)| row.get_ref(at).ok().and_then(|value| kind.from_sqlite(value, fine)));
            theirs.each.contains_key(&digest_of(values))
        });
        if known {
            continue;
        }
        let key: Vec<String> = pair
            .lite
            .key
            .iter()
            .filter_map(|at| {
                let name = pair.lite.columns.get(*at)?;
                Some(format!("{name} {}", as_input(row.get_ref(*at).ok()?)))
            })
            .collect();
        found.push(if key.is_empty() { format!("row {number}") } else { key.join(", ") });
        if found.len() >= most {
            break;
        }
    }
    found
}
