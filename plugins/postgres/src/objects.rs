//! What stands in a database: to see that it is empty, to remember what a migration put there, and to take away no more than that.

use crate::connection::{DbError, Session};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What kind of object. The order is the one in which they can be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// `CREATE MATERIALIZED VIEW`
    MaterializedView,
    /// `CREATE VIEW`
    View,
    /// `CREATE FOREIGN TABLE`
    ForeignTable,
    /// `CREATE TABLE`, partitioned ones too.
    Table,
    /// `CREATE SEQUENCE`; those that belong to a column go with their table.
    Sequence,
    /// Functions, procedures, aggregates.
    Routine,
    /// Enumerations, domains, ranges, composite types.
    Type,
    /// `CREATE EXTENSION`
    Extension,
    /// `CREATE SCHEMA`
    Schema,
    /// A large object.
    LargeObject,
}

impl Class {
    fn from_code(code: &str) -> Option<Self> {
        Some(match code {
            "m" => Class::MaterializedView,
            "v" => Class::View,
            "f" => Class::ForeignTable,
            "r" | "p" => Class::Table,
            "S" => Class::Sequence,
            "routine" => Class::Routine,
            "type" => Class::Type,
            "extension" => Class::Extension,
            "schema" => Class::Schema,
            "lo" => Class::LargeObject,
            _ => return None,
        })
    }

    fn sql(self) -> &'static str {
        match self {
            Class::MaterializedView => "MATERIALIZED VIEW",
            Class::View => "VIEW",
            Class::ForeignTable => "FOREIGN TABLE",
            Class::Table => "TABLE",
            Class::Sequence => "SEQUENCE",
            Class::Routine => "ROUTINE",
            Class::Type => "TYPE",
            Class::Extension => "EXTENSION",
            Class::Schema => "SCHEMA",
            Class::LargeObject => "LARGE OBJECT",
        }
    }
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Object {
    /// Its kind.
    pub class: Class,
    /// Its number, unique within its kind: an object that was dropped and made anew has another.
    pub oid: u32,
    /// As SQL names it: quoted, with its schema.
    pub name: String,
    /// Its bare name.
    pub bare: String,
    /// Who owns it.
    pub owner: String,
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} (of {})", self.class.sql().to_lowercase(), self.name, self.owner)
    }
}

/// Everything in a database that its server did not bring along.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// Sorted.
    pub objects: Vec<Object>,
}

const SYSTEM: &str = "('pg_catalog', 'information_schema', 'pg_toast')";

fn inventory_sql() -> String {
    let foreign = |catalog: &str, alias: &str| {
        format!(
            "NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = '{catalog}'::regclass AND d.objid = {alias}.oid AND d.deptype = 'e')"
        )
    };
    format!(
        "SELECT c.relkind::text, c.oid, format('%I.%I', n.nspname, c.relname), c.relname::text, pg_get_userbyid(c.relowner)::text
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't'
            AND n.nspname NOT IN {SYSTEM} AND n.nspname !~ '^pg_(toast_)?temp_' AND {of_class}
            AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                             AND c.relkind = 'S' AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))
         UNION ALL
         SELECT 'routine', p.oid, format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
                p.proname::text, pg_get_userbyid(p.proowner)::text
           FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
          WHERE n.nspname NOT IN {SYSTEM} AND {of_proc}
         UNION ALL
         SELECT 'type', t.oid, format('%I.%I', n.nspname, t.typname), t.typname::text, pg_get_userbyid(t.typowner)::text
           FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
          WHERE (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND c.relkind = 'c')
            AND n.nspname NOT IN {SYSTEM} AND n.nspname !~ '^pg_(toast_)?temp_' AND {of_type}
         UNION ALL
         SELECT 'extension', e.oid, quote_ident(e.extname), e.extname::text, pg_get_userbyid(e.extowner)::text
           FROM pg_extension e
         UNION ALL
         SELECT 'schema', n.oid, quote_ident(n.nspname), n.nspname::text, pg_get_userbyid(n.nspowner)::text
           FROM pg_namespace n WHERE n.nspname NOT IN {SYSTEM} AND n.nspname !~ '^pg_' AND {of_schema}
         UNION ALL
         SELECT 'lo', l.oid, l.oid::text, l.oid::text, pg_get_userbyid(l.lomowner)::text FROM pg_largeobject_metadata l",
        of_class = foreign("pg_class", "c"),
        of_proc = foreign("pg_proc", "p"),
        of_type = foreign("pg_type", "t"),
        of_schema = foreign("pg_namespace", "n"),
    )
}

impl Inventory {
    /// Reads it.
    ///
    /// # Errors
    /// The database's.
    pub async fn read(session: &Session) -> Result<Self, DbError> {
        let doing = "list the tables";
        let rows = session.rows(doing, &inventory_sql()).await?;
        let mut objects = Vec::with_capacity(rows.len());
        for row in rows {
            let read = |error: tokio_postgres::Error| DbError::from_postgres(doing, &error);
            let code: String = row.try_get(0).map_err(read)?;
            let Some(class) = Class::from_code(&code) else { continue };
            objects.push(Object {
                class,
                oid: row.try_get(1).map_err(read)?,
                name: row.try_get(2).map_err(read)?,
                bare: row.try_get(3).map_err(read)?,
                owner: row.try_get(4).map_err(read)?,
            });
        }
        objects.sort();
        Ok(Inventory { objects })
    }

    /// What makes a database not empty: everything but schemas and extensions.
    pub fn content(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(|object| !matches!(object.class, Class::Schema | Class::Extension))
    }

    /// Whether an object is in it.
    #[must_use]
    pub fn has(&self, object: &Object) -> bool {
        self.objects.iter().any(|o| (o.class, o.oid) == (object.class, object.oid))
    }

    /// What is in this one and not in `before`.
    #[must_use]
    pub fn since(&self, before: &Inventory) -> Inventory {
        Inventory { objects: self.objects.iter().filter(|o| !before.has(o)).cloned().collect() }
    }
}

/// How to tell whose an object is that was not there before the migration.
#[derive(Debug, Clone)]
pub enum Ours {
    /// The product's tool has ended, and this is what it had put there.
    Exactly(Inventory),
    /// The tool was cut off before that could be written down: objects of its user, and among tables those whose name SQLite knows.
    Likely {
        /// The user of `Postgres.URL`.
        user: String,
        /// Lower case.
        tables: BTreeSet<String>,
    },
}

impl Ours {
    /// Whether an object is the migration's.
    #[must_use]
    pub fn owns(&self, object: &Object) -> bool {
        match self {
            Ours::Exactly(put) => put.has(object),
            Ours::Likely { user, tables } => {
                let named = match object.class {
                    Class::Table => tables.contains(&object.bare.to_lowercase()),
                    Class::MaterializedView | Class::View | Class::ForeignTable | Class::LargeObject => false,
                    _ => true,
                };
                named && object.owner == *user
            }
        }
    }
}

/// Why a database was not emptied. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum NotEmptied {
    /// Something else is there.
    #[error("the database {place} holds what this migration did not put there: {}", list(strangers))]
    Strangers {
        /// The database.
        place: String,
        /// Objects that are not ours.
        strangers: Vec<Object>,
    },
    /// The database's error.
    #[error(transparent)]
    Database(#[from] DbError),
}

/// Some of them, for a sentence.
#[must_use]
pub fn list(objects: &[Object]) -> String {
    const SHOWN: usize = 5;
    let mut text = objects.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if objects.len() > SHOWN {
        text.push_str(&format!(" and {} more", objects.len() - SHOWN));
    }
    text
}

/// How long dropping waits for somebody else's lock.
const LOCK_WAIT_SECONDS: u64 = 30;

/// Drops what is ours and was not there before, all of it or, when there is something else, nothing. Answers how many objects were
/// dropped. Idempotent.
///
/// # Errors
/// See [`NotEmptied`].
pub async fn empty(session: &Session, before: &Inventory, ours: &Ours) -> Result<usize, NotEmptied> {
    session.run("begin", &format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_WAIT_SECONDS}s'")).await?;
    let result = drop_ours(session, before, ours).await;
    let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
    session.run("end the transaction", end).await?;
    result
}

async fn drop_ours(session: &Session, before: &Inventory, ours: &Ours) -> Result<usize, NotEmptied> {
    let added = Inventory::read(session).await?.since(before);
    let strangers: Vec<Object> = added.objects.iter().filter(|o| !ours.owns(o)).cloned().collect();
    if !strangers.is_empty() {
        return Err(NotEmptied::Strangers { place: session.place.clone(), strangers });
    }
    // One statement a kind, without CASCADE: tables may refer to each other, but nothing that is not on the list goes with them.
    for class in added.objects.iter().map(|o| o.class).collect::<BTreeSet<_>>() {
        let of_class: Vec<&Object> = added.objects.iter().filter(|o| o.class == class).collect();
        if class == Class::LargeObject {
            for object in of_class {
                session.run("remove a large object", &format!("SELECT lo_unlink({})", object.oid)).await?;
            }
            continue;
        }
        let names: Vec<&str> = of_class.iter().map(|o| o.name.as_str()).collect();
        let sql = format!("DROP {} {} RESTRICT", class.sql(), names.join(", "));
        session.run(&format!("drop {}", names.join(", ")), &sql).await?;
    }
    Ok(added.objects.len())
}

/// Sessions of others in the same database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Others {
    /// Programs that are connected.
    pub clients: Vec<String>,
    /// Sessions of other users of which the server does not say whether they are programs or its own helpers: only superusers and
    /// members of `pg_read_all_stats` are told.
    pub unsure: Vec<String>,
}

impl Others {
    /// Nobody else is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.unsure.is_empty()
    }
}

impl std::fmt::Display for Others {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<&str> = self.clients.iter().chain(&self.unsure).map(String::as_str).collect();
        f.write_str(&all.join(", "))
    }
}

/// Who else is in the same database.
///
/// # Errors
/// The database's.
pub async fn other_sessions(session: &Session) -> Result<Others, DbError> {
    let rows = session
        .rows(
            "look for other sessions",
            "SELECT format('%s (user %s%s)', coalesce(nullif(application_name, ''), 'a program'), usename,
                           CASE WHEN backend_type IS NULL THEN ''
                                ELSE ', from ' || coalesce(client_addr::text, 'this machine') END),
                    backend_type IS NULL
               FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid()
                AND (backend_type = 'client backend' OR backend_type IS NULL AND usesysid IS NOT NULL)",
        )
        .await?;
    let mut others = Others::default();
    for row in rows {
        let (Ok(who), Ok(unsure)) = (row.try_get::<_, String>(0), row.try_get::<_, bool>(1)) else {
            continue;
        };
        if unsure { others.unsure.push(who) } else { others.clients.push(who) }
    }
    Ok(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(class: Class, oid: u32, bare: &str, owner: &str) -> Object {
        Object { class, oid, name: format!("public.{bare}"), bare: bare.into(), owner: owner.into() }
    }

    #[test]
    fn schemas_and_extensions_do_not_make_a_database_full() {
        let inventory = Inventory {
            objects: vec![
                object(Class::Schema, 1, "public", "p"),
                object(Class::Extension, 2, "plpgsql", "p"),
            ],
        };
        assert_eq!(inventory.content().count(), 0);
    }

    #[test]
    fn a_table_made_anew_under_an_old_name_is_not_ours() {
        let put = Inventory { objects: vec![object(Class::Table, 7, "users", "connect")] };
        let ours = Ours::Exactly(put);
        assert!(ours.owns(&object(Class::Table, 7, "users", "connect")));
        assert!(!ours.owns(&object(Class::Table, 8, "users", "connect")));
    }

    #[test]
    fn after_a_cut_only_known_tables_of_our_user_are_ours() {
        let ours = Ours::Likely { user: "connect".into(), tables: ["users".to_owned()].into() };
        assert!(ours.owns(&object(Class::Table, 1, "Users", "connect")));
        assert!(ours.owns(&object(Class::Sequence, 1, "users_id_seq", "connect")));
        assert!(!ours.owns(&object(Class::Table, 1, "users", "somebody")));
        assert!(!ours.owns(&object(Class::Table, 1, "payroll", "connect")));
        assert!(!ours.owns(&object(Class::View, 1, "users", "connect")));
    }
}
