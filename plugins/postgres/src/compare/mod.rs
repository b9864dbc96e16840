//! Whether PostgreSQL holds what SQLite held: our own look at both, independent of the tool that copied.
//!
//! Of every table the number of rows, and a digest of its rows: of all, or of a sample spread over the table by its key. The sum of the
//! rows' digests does not depend on their order. And of every sequence whether it stands behind the numbers that are already taken.

pub mod canonical;
pub mod rows;
pub mod tables;
pub mod time;

use crate::connection::{DbError, Session};
use crate::settings::{Compare, Settings, Which};
use crate::sqlite_files::{self, SqliteError};
use rows::{Digests, Pair};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tables::{LiteTable, PgTable};

/// Rows that differ and are named.
const NAMED_ROWS: usize = 3;

/// Why the databases could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// SQLite's side.
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
    /// PostgreSQL's side.
    #[error(transparent)]
    Postgres(#[from] DbError),
    /// The thread that reads SQLite is gone.
    #[error("could not read SQLite: {0}")]
    Thread(String),
}

/// What is compared, and how closely.
#[derive(Debug, Clone)]
pub struct Depth {
    /// Rows of a larger table that are compared; `None`: all.
    pub sample_rows: Option<u32>,
    /// Tables that are left out, lower case.
    pub ignored: BTreeSet<String>,
    /// Bound of reading one table of SQLite.
    pub limit: Duration,
}

impl Depth {
    /// By the settings.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Depth {
            sample_rows: (settings.compare == Compare::Sample).then_some(settings.sample_rows.max(1)),
            ignored: settings.ignore_tables.iter().map(|name| name.to_lowercase()).collect(),
            limit: settings.statement_timeout.duration(),
        }
    }
}

/// One table that was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TableReport {
    /// Its name in SQLite.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// How many of them were compared by content.
    pub compared: u64,
    /// The sum of their digests, in hexadecimal.
    pub digest: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Tables that are equal, as far as they were compared.
    pub equal: Vec<TableReport>,
    /// What differs, a sentence each.
    pub differences: Vec<String>,
    /// What an operator should know: tables left out, tables of PostgreSQL that SQLite does not know.
    pub notes: Vec<String>,
}

impl Report {
    /// Rows in all.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.equal.iter().map(|table| table.rows).sum()
    }

    /// Rows compared by content in all.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.equal.iter().map(|table| table.compared).sum()
    }
}

/// A database to compare with.
#[derive(Debug)]
pub struct Target<'a> {
    /// Which.
    pub which: Which,
    /// A session in it.
    pub session: &'a Session,
}

/// Compares the tables of SQLite files, none of which is in use, with the targets. Reads only. `may_stay_behind`: a file none of whose
/// tables is in a target is no difference (usage history that an older tool cannot carry).
///
/// # Errors
/// When either side cannot be read.
pub async fn compare(
    files: &[PathBuf],
    targets: &[Target<'_>],
    depth: &Depth,
    may_stay_behind: bool,
    mut progress: impl FnMut(&str, u64, u64),
) -> Result<Report, CompareError> {
    let mut report = Report::default();
    let mut of_targets = Vec::new();
    for target in targets {
        of_targets.push(tables::of_postgres(target.session).await?);
    }
    let mut unknown: Vec<BTreeSet<String>> = of_targets.iter().map(|t| t.keys().cloned().collect()).collect();
    let mut read = Vec::new();
    for path in files {
        let owned = path.clone();
        let found = blocking(move || {
            let connection = sqlite_files::open_at_rest(&owned)?;
            tables::of_sqlite(&connection, &owned)
        })
        .await?;
        read.push((path, found));
    }
    let total = read.iter().map(|(_, tables)| tables.len() as u64).sum();
    let mut done = 0;
    for (path, lite_tables) in &read {
        let at = home_of(lite_tables, targets, &of_targets, path);
        let (Some(target), Some(pg_tables), Some(unknown)) =
            (targets.get(at), of_targets.get(at), unknown.get_mut(at))
        else {
            continue;
        };
        let shared = lite_tables.iter().any(|table| pg_tables.contains_key(&table.name.to_lowercase()));
        if !shared && may_stay_behind && files.len() > 1 {
            report.notes.push(format!("{} was left behind: the tool does not carry it", path.display()));
            continue;
        }
        for lite in lite_tables {
            progress(&lite.name, done, total);
            done += 1;
            let lower = lite.name.to_lowercase();
            unknown.remove(&lower);
            if depth.ignored.contains(&lower) {
                report.notes.push(format!("the table {} was not compared, as the runbook says", lite.name));
                continue;
            }
            table(path, lite, pg_tables.get(&lower), target.session, depth, &mut report).await?;
        }
    }
    for (target, unknown) in targets.iter().zip(&unknown) {
        if !unknown.is_empty() {
            let names: Vec<&str> = unknown.iter().map(String::as_str).collect();
            report.notes.push(format!("{} also has the tables {}", target.which, names.join(", ")));
        }
        sequences(target.session, &mut report).await?;
    }
    Ok(report)
}

/// Which target a file went to: the one that has more of its tables.
fn home_of(
    lite: &[LiteTable],
    targets: &[Target<'_>],
    of_targets: &[BTreeMap<String, PgTable>],
    path: &Path,
) -> usize {
    let named =
        path.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().contains("instrument"));
    let by_name = if named { Which::Instrumentation } else { Which::Core };
    (0..targets.len())
        .max_by_key(|at| {
            let known = of_targets.get(*at);
            let shared =
                lite.iter().filter(|t| known.is_some_and(|k| k.contains_key(&t.name.to_lowercase())));
            (shared.count(), targets.get(*at).is_some_and(|target| target.which == by_name))
        })
        .unwrap_or(0)
}

async fn blocking<T: Send + 'static, E: Into<CompareError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, CompareError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(CompareError::Thread(error.to_string())),
    }
}

async fn table(
    path: &Path,
    lite: &LiteTable,
    pg: Option<&PgTable>,
    session: &Session,
    depth: &Depth,
    report: &mut Report,
) -> Result<(), CompareError> {
    let name = &lite.name;
    let (file, sql) = (path.to_owned(), format!("SELECT count(*) FROM {}", tables::quoted(name)));
    let here = blocking(move || {
        let connection = sqlite_files::open_at_rest(&file)?;
        connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).map_err(|why| SqliteError {
            doing: "count the rows of",
            path: file,
            why: why.to_string(),
        })
    })
    .await?
    .unsigned_abs();
    let Some(pg) = pg else {
        if here == 0 {
            report.notes.push(format!("the table {name} is empty, and PostgreSQL does not have it"));
        } else {
            report.differences.push(format!("PostgreSQL has no table {name}; SQLite has {here} rows in it"));
        }
        return Ok(());
    };
    let rows = session
        .rows(&format!("count the rows of {}", pg.quoted), &format!("SELECT count(*) FROM {}", pg.quoted))
        .await?;
    let there = rows.first().and_then(|row| row.try_get::<_, i64>(0).ok()).unwrap_or_default().unsigned_abs();
    let columns: Vec<_> = lite.columns.iter().map(|c| pg.columns.get(&c.to_lowercase()).cloned()).collect();
    let missing: Vec<&str> = lite
        .columns
        .iter()
        .zip(&columns)
        .filter(|(_, pg)| pg.is_none())
        .map(|(name, _)| name.as_str())
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        report.differences.push(format!("the table {name} of PostgreSQL has no column {missing}"));
        return Ok(());
    }
    let pair = Pair { lite: lite.clone(), pg: pg.clone(), columns: columns.into_iter().flatten().collect() };
    let sample = depth
        .sample_rows
        .map(u64::from)
        .filter(|most| here > *most && !pair.lite.key.is_empty() && here == there)
        .map(|most| (here.div_ceil(most), here));
    let (ours, theirs) = content(path, &pair, session, sample, depth.limit).await?;
    let same = ours.rounded.same(&theirs) || ours.cut.same(&theirs);
    if here == there && same {
        report.equal.push(TableReport {
            table: name.clone(),
            rows: here,
            compared: theirs.rows,
            digest: format!("{:032x}", theirs.sum),
        });
        return Ok(());
    }
    let (file, of_pair) = (path.to_owned(), pair.clone());
    let strays = if sample.is_none() {
        blocking(move || {
            let connection = sqlite_files::open_at_rest(&file)?;
            Ok::<_, SqliteError>(rows::strays(&connection, &of_pair, &theirs, NAMED_ROWS))
        })
        .await?
    } else {
        Vec::new()
    };
    let mut text = if here == there {
        format!("the table {name} has the same {here} rows in number, but not in content")
    } else {
        format!("the table {name} has {here} rows in SQLite and {there} in PostgreSQL")
    };
    if !strays.is_empty() {
        text.push_str(&format!("; not there, or different: {}", strays.join("; ")));
    }
    report.differences.push(text);
    Ok(())
}

/// Both sides at once: each waits for its own disk.
async fn content(
    path: &Path,
    pair: &Pair,
    session: &Session,
    sample: Option<(u64, u64)>,
    limit: Duration,
) -> Result<(rows::LiteRows, Digests), CompareError> {
    let (file, shared) = (path.to_owned(), Arc::new(pair.clone()));
    let lite = blocking(move || {
        let connection = sqlite_files::open_at_rest(&file)?;
        rows::of_sqlite(&connection, &file, &shared, sample, limit)
    });
    if sample.is_none() {
        let (lite, theirs) = tokio::join!(lite, rows::of_postgres(session, pair));
        return Ok((lite?, theirs?));
    }
    let lite = lite.await?;
    let theirs = rows::of_postgres_by_key(session, pair, &lite.keys).await?;
    Ok((lite, theirs))
}

/// A sequence that was not moved on would give a number a second time: the first thing that users make would fail.
async fn sequences(session: &Session, report: &mut Report) -> Result<(), CompareError> {
    let owned = session
        .rows(
            "list the sequences",
            "SELECT s.oid::regclass::text, d.refobjid::regclass::text, quote_ident(a.attname), pg_sequence_last_value(s.oid)
               FROM pg_class s JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid
                               AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
               JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE s.relkind = 'S'",
        )
        .await?;
    for row in owned {
        let get = |at: usize| row.try_get::<_, String>(at).unwrap_or_default();
        let (sequence, table, column) = (get(0), get(1), get(2));
        let last: Option<i64> = row.try_get(3).unwrap_or_default();
        let sql = format!("SELECT max({column})::bigint FROM {table}");
        let highest = session.rows(&format!("look at the numbers in {table}"), &sql).await?;
        let highest: Option<i64> = highest.first().and_then(|row| row.try_get(0).ok()).flatten();
        if let Some(highest) = highest
            && last.is_none_or(|last| last < highest)
        {
            let stands = last.map_or_else(|| "has not begun".to_owned(), |last| format!("stands at {last}"));
            report.differences.push(format!(
                "the sequence {sequence} {stands}, but {table}.{column} goes up to {highest}: new rows would collide"
            ));
        }
    }
    Ok(())
}
