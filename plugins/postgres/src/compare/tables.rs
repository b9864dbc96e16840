//! The tables of both databases, and which belongs to which.

use super::canonical::Kind;
use crate::connection::{DbError, Session};
use crate::sqlite_files::SqliteError;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;

/// A column of PostgreSQL.
#[derive(Debug, Clone)]
pub struct PgColumn {
    /// As SQL names it.
    pub quoted: String,
    /// What it is for.
    pub kind: Kind,
    /// Its type as SQL names it, for a cast.
    pub type_sql: String,
}

/// A table of PostgreSQL.
#[derive(Debug, Clone, Default)]
pub struct PgTable {
    /// As SQL names it, with its schema.
    pub quoted: String,
    /// By their names in lower case.
    pub columns: BTreeMap<String, PgColumn>,
}

/// The tables that the session sees without naming a schema, by their names in lower case.
///
/// # Errors
/// The database's.
pub async fn of_postgres(session: &Session) -> Result<BTreeMap<String, PgTable>, DbError> {
    let doing = "list the columns";
    let rows = session
        .rows(
            doing,
            "SELECT lower(c.relname), format('%I.%I', n.nspname, c.relname), lower(a.attname), quote_ident(a.attname),
                    coalesce(b.typname, t.typname)::text, format_type(a.atttypid, NULL)
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype
              WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = ANY (current_schemas(false))
              ORDER BY array_position(current_schemas(false), n.nspname) DESC",
        )
        .await?;
    let mut tables: BTreeMap<String, PgTable> = BTreeMap::new();
    for row in rows {
        let get = |at: usize| row.try_get::<_, String>(at).map_err(|e| DbError::from_postgres(doing, &e));
        let quoted = get(1)?;
        let table = tables.entry(get(0)?).or_default();
        // A schema that comes earlier in the search path hides this one.
        if table.quoted != quoted {
            *table = PgTable { quoted, columns: BTreeMap::new() };
        }
        let column = PgColumn { quoted: get(3)?, kind: Kind::of(&get(4)?), type_sql: get(5)? };
        table.columns.insert(get(2)?, column);
    }
    Ok(tables)
}

/// A table of SQLite.
#[derive(Debug, Clone)]
pub struct LiteTable {
    /// Its name.
    pub name: String,
    /// Its columns in order.
    pub columns: Vec<String>,
    /// The columns of its key, as positions in `columns`; empty when it has none.
    pub key: Vec<usize>,
}

/// A name as SQLite's SQL takes it.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The tables of a SQLite file, sorted by name.
///
/// # Errors
/// SQLite's.
pub fn of_sqlite(connection: &Connection, path: &Path) -> Result<Vec<LiteTable>, SqliteError> {
    let read = || -> rusqlite::Result<Vec<LiteTable>> {
        let mut names = connection.prepare(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
        )?;
        let names = names.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        let mut columns = connection.prepare("SELECT name, pk FROM pragma_table_info(?1) ORDER BY cid")?;
        let mut tables = Vec::with_capacity(names.len());
        for name in names {
            let found: Vec<(String, i64)> = columns
                .query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let mut key: Vec<(i64, usize)> = found
                .iter()
                .enumerate()
                .filter(|(_, (_, pk))| *pk > 0)
                .map(|(at, (_, pk))| (*pk, at))
                .collect();
            key.sort_unstable();
            tables.push(LiteTable {
                name,
                columns: found.into_iter().map(|(column, _)| column).collect(),
                key: key.into_iter().map(|(_, at)| at).collect(),
            });
        }
        Ok(tables)
    };
    read().map_err(|why| SqliteError { doing: "list the tables of", path: path.into(), why: why.to_string() })
}
