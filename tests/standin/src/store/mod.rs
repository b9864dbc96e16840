//! The database: SQLite or PostgreSQL behind one small face.
//!
//! Both speak the same SQL here: every column is TEXT or BIGINT, parameters are `$1`, `$2`, ...

mod postgres;
mod schema;
mod sqlite;
mod tls;

pub use postgres::PgTarget;
pub use schema::{TABLES, Table, VISITS};

use crate::failure::Failure;
use crate::secret::{SecretKey, looks_encrypted};
use crate::settings::{Provider, Settings};

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL
    Null,
    /// BIGINT
    Int(i64),
    /// TEXT
    Text(String),
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Value::Int(n)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Value::Int(i64::from(b))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// A row of an answer, columns by their place in the SELECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(pub Vec<Value>);

impl Row {
    /// The text in a column; empty if it holds none.
    #[must_use]
    pub fn text(&self, column: usize) -> String {
        self.opt_text(column).unwrap_or_default()
    }

    /// The text in a column, or `None` for NULL.
    #[must_use]
    pub fn opt_text(&self, column: usize) -> Option<String> {
        match self.0.get(column) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    /// The number in a column; 0 if it holds none.
    #[must_use]
    pub fn int(&self, column: usize) -> i64 {
        self.opt_int(column).unwrap_or_default()
    }

    /// The number in a column, or `None` for NULL.
    #[must_use]
    pub fn opt_int(&self, column: usize) -> Option<i64> {
        match self.0.get(column) {
            Some(Value::Int(n)) => Some(*n),
            _ => None,
        }
    }
}

/// An open database.
#[derive(Debug)]
pub enum Store {
    /// A file, or memory.
    Sqlite(sqlite::Sqlite),
    /// A server.
    Postgres(Box<postgres::Postgres>),
}

impl Store {
    /// Opens the database that the settings name and makes its tables where they are missing.
    ///
    /// # Errors
    /// The database cannot be reached, or an encrypted password does not fit `secret.key`.
    pub async fn open(settings: &Settings) -> Result<Self, Failure> {
        match settings.provider {
            Provider::Sqlite => Self::open_sqlite(settings).await,
            Provider::Postgres => Self::open_postgres(settings).await,
        }
    }

    /// The SQLite database, whatever the provider.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub async fn open_sqlite(settings: &Settings) -> Result<Self, Failure> {
        let store = Store::Sqlite(sqlite::Sqlite::open(&sqlite::file_of(settings))?);
        store.make_tables().await?;
        Ok(store)
    }

    /// The instrumentation data of SQLite, beside the core data. `None` when there are none and `create` is not said.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub async fn open_visits_sqlite(settings: &Settings, create: bool) -> Result<Option<Self>, Failure> {
        let path = settings.sqlite_dir.join("instrumentation.db");
        if !create && !path.exists() {
            return Ok(None);
        }
        let store = Store::Sqlite(sqlite::Sqlite::open(&path)?);
        store.execute(&VISITS.create(), &[]).await?;
        Ok(Some(store))
    }

    /// The instrumentation data of PostgreSQL, where `Postgres.InstrumentationURL` says.
    ///
    /// # Errors
    /// See [`Store::open_postgres`].
    pub async fn open_visits_postgres(settings: &Settings) -> Result<Self, Failure> {
        let mut elsewhere = settings.clone();
        elsewhere.postgres_url.clone_from(&settings.instrumentation_url);
        elsewhere.postgres_password.clone_from(&settings.instrumentation_password);
        let target = Self::postgres_target(&elsewhere)?;
        let store = Store::Postgres(Box::new(postgres::Postgres::connect(target).await?));
        store.execute(&VISITS.create(), &[]).await?;
        Ok(store)
    }

    /// A database that lives as long as the value.
    ///
    /// # Errors
    /// SQLite's.
    pub async fn in_memory() -> Result<Self, Failure> {
        let store = Store::Sqlite(sqlite::Sqlite::in_memory()?);
        store.make_tables().await?;
        Ok(store)
    }

    /// The PostgreSQL database, whatever the provider.
    ///
    /// # Errors
    /// No or a wrong URL, the server does not answer, the password does not decrypt.
    pub async fn open_postgres(settings: &Settings) -> Result<Self, Failure> {
        let store =
            Store::Postgres(Box::new(postgres::Postgres::connect(Self::postgres_target(settings)?).await?));
        store.make_tables().await?;
        Ok(store)
    }

    /// Where PostgreSQL is, by `Postgres.URL` and `Postgres.Password`.
    ///
    /// # Errors
    /// See [`Store::open_postgres`].
    pub fn postgres_target(settings: &Settings) -> Result<PgTarget, Failure> {
        let url = settings.postgres_url.as_deref().ok_or_else(|| {
            Failure::Config("Database.Provider is postgres, but Postgres.URL is not set".into())
        })?;
        let password = match settings.postgres_password.as_deref() {
            Some(value) if looks_encrypted(value) => {
                let path = settings.secret_key();
                let key = SecretKey::read(&path)?.ok_or_else(|| {
                    Failure::Refused(format!(
                        "Unable to decrypt Postgres.Password: secret key file {} does not exist",
                        path.display()
                    ))
                })?;
                Some(key.decrypt(value).ok_or_else(|| {
                    Failure::Refused(format!(
                        "Unable to decrypt Postgres.Password with secret key file {}",
                        path.display()
                    ))
                })?)
            }
            other => other.map(str::to_owned),
        };
        PgTarget::parse(url, password)
    }

    async fn make_tables(&self) -> Result<(), Failure> {
        for table in TABLES {
            self.execute(&table.create(), &[]).await?;
        }
        Ok(())
    }

    /// Runs one statement and tells how many rows it touched.
    ///
    /// # Errors
    /// The database's.
    pub async fn execute(&self, sql: &str, values: &[Value]) -> Result<u64, Failure> {
        match self {
            Store::Sqlite(db) => db.execute(sql, values),
            Store::Postgres(db) => db.execute(sql, values).await,
        }
    }

    /// Runs one query.
    ///
    /// # Errors
    /// The database's.
    pub async fn query(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>, Failure> {
        match self {
            Store::Sqlite(db) => db.query(sql, values),
            Store::Postgres(db) => db.query(sql, values).await,
        }
    }

    /// Inserts a whole row; `false` if a row with that key is there already.
    ///
    /// # Errors
    /// The database's.
    pub async fn insert(&self, table: &str, values: &[Value]) -> Result<bool, Failure> {
        let Some(known) = TABLES.iter().chain([&VISITS]).find(|t| t.name == table) else {
            return Err(Failure::database(format!("insert into {table}"), "no such table"));
        };
        Ok(self.execute(&known.insert(), values).await? == 1)
    }

    /// Compares and keeps the signature of `secret.key`: makes both on a fresh installation.
    ///
    /// # Errors
    /// The database knows a key and the file is missing, unreadable or another one.
    pub async fn claim_secret_key(&self, settings: &Settings) -> Result<SecretKey, Failure> {
        let path = settings.secret_key();
        let known = self.query("SELECT value FROM settings WHERE name = 'key-signature'", &[]).await?;
        let known = known.first().map(|row| row.text(0));
        let key = match (SecretKey::read(&path)?, &known) {
            (Some(key), _) => key,
            (None, None) => SecretKey::create(&path)?,
            (None, Some(_)) => {
                return Err(Failure::Refused(format!(
                    "Unable to load secret key: the database was used with a secret key, but {} does not exist",
                    path.display()
                )));
            }
        };
        match known {
            None => {
                self.insert("settings", &["key-signature".into(), key.signature().into()]).await?;
            }
            Some(signature) if signature == key.signature() => {}
            Some(_) => {
                return Err(Failure::Refused(format!(
                    "Unable to load secret key: {} is not the key that the database was used with",
                    path.display()
                )));
            }
        }
        Ok(key)
    }
}
