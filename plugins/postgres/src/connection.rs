//! A session on the server.

use crate::settings::Settings;
use crate::tls::{self, TlsError};
use crate::url::{Host, PostgresUrl, SslMode};
use connect_migrator_sdk::{Secret, StepError};
use std::error::Error;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode as Wanted;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The name of our sessions, as the server shows it.
pub const APPLICATION_NAME: &str = "connect-migrator";
/// How long the server takes a session for alive whose network is gone.
const KEEPALIVE_SECONDS: u64 = 30;

/// Why there is no session, or why a statement failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing answers there.
    Unreachable,
    /// The server does not speak TLS, or its certificate is not trusted.
    Tls,
    /// Wrong user or password.
    Login,
    /// There is no such database.
    NoDatabase,
    /// It did not end in time.
    TimedOut,
    /// The server says no.
    Refused,
}

/// A failure of the database, in words that fit into a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not {doing}: {why}")]
pub struct DbError {
    /// What was tried.
    pub doing: String,
    /// Why it failed.
    pub why: String,
    /// What kind of failure it is.
    pub trouble: Trouble,
}

impl DbError {
    fn new(doing: impl Into<String>, trouble: Trouble, why: impl Into<String>) -> Self {
        DbError { doing: doing.into(), why: why.into(), trouble }
    }

    /// From the library's error.
    #[must_use]
    pub fn from_postgres(doing: impl Into<String>, error: &tokio_postgres::Error) -> Self {
        let trouble = match error.code() {
            Some(code) if *code == SqlState::INVALID_CATALOG_NAME => Trouble::NoDatabase,
            Some(code)
                if *code == SqlState::INVALID_PASSWORD
                    || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION =>
            {
                Trouble::Login
            }
            Some(code) if *code == SqlState::QUERY_CANCELED => Trouble::TimedOut,
            Some(_) => Trouble::Refused,
            None => {
                let text = in_full(error);
                if text.contains("TLS") || text.contains("certificate") || text.contains("tls") {
                    Trouble::Tls
                } else if text.contains("password") {
                    Trouble::Login
                } else {
                    Trouble::Unreachable
                }
            }
        };
        DbError::new(doing, trouble, in_full(error))
    }
}

impl From<DbError> for StepError {
    fn from(error: DbError) -> Self {
        let remedy = match error.trouble {
            Trouble::Unreachable => {
                "see that the server runs and that this host may reach it, then run the migration again"
            }
            Trouble::Tls => "see `connect-migrator check` about the server's certificate and `sslmode`",
            Trouble::Login => "correct the user in `url` and the stored password",
            Trouble::NoDatabase => "create the database",
            Trouble::TimedOut => {
                "see what keeps the server busy (pg_stat_activity), or set `statement-timeout` higher"
            }
            Trouble::Refused => "see the server's log",
        };
        StepError::new(error.doing).because(error.why).remedy(remedy)
    }
}

/// The library's message is "db error"; the server's words are one level below.
fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if text == "db error" {
            text.clone_from(&more);
        } else if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// An open session; ends when it is dropped.
#[derive(Debug)]
pub struct Session {
    client: Client,
    task: JoinHandle<()>,
    /// `connect on db.example.com:5432`.
    pub place: String,
    limit: Duration,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where to, and how.
#[derive(Debug, Clone)]
pub struct Door {
    /// The place.
    pub url: PostgresUrl,
    /// The password.
    pub password: Option<Secret>,
    /// Bound of reaching the server.
    pub connect_timeout: Duration,
    /// Bound of a statement.
    pub statement_timeout: Duration,
}

impl Door {
    /// By the settings.
    #[must_use]
    pub fn new(url: PostgresUrl, password: Option<Secret>, settings: &Settings) -> Self {
        Door {
            url,
            password,
            connect_timeout: settings.connect_timeout.duration(),
            statement_timeout: settings.statement_timeout.duration(),
        }
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config.user(&self.url.user).dbname(&self.url.database);
        if let Some(password) = &self.password {
            config.password(password.expose());
        } else if let Some(password) = &self.url.password {
            config.password(password);
        }
        for host in &self.url.hosts {
            match host {
                Host::Tcp(host, port) => config.host(host).port(*port),
                Host::Socket(dir, port) => config.host_path(dir).port(*port),
            };
        }
        let mut options =
            format!("-c statement_timeout={}", self.statement_timeout.as_millis().min(i32::MAX as u128));
        for (name, value) in &self.url.parameters {
            if name == "application_name" {
                continue;
            }
            let escaped = value.replace('\\', "\\\\").replace(' ', "\\ ");
            options.push_str(&format!(" -c {name}={escaped}"));
        }
        config
            .options(options)
            .application_name(APPLICATION_NAME)
            .connect_timeout(self.connect_timeout)
            .keepalives_idle(Duration::from_secs(KEEPALIVE_SECONDS))
            .ssl_mode(match self.url.ssl_mode {
                SslMode::Disable => Wanted::Disable,
                SslMode::Prefer => Wanted::Prefer,
                SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Wanted::Require,
            });
        config
    }

    /// Opens a session.
    ///
    /// # Errors
    /// When the server is not reached, does not speak TLS as asked, or does not let the user in.
    pub async fn open(&self) -> Result<Session, DbError> {
        let place = self.url.place();
        let doing = format!("connect to the database {place}");
        let config = self.config();
        let on_socket = self.url.hosts.iter().any(|host| matches!(host, Host::Socket(..)));
        let timed_out = |_| {
            let seconds = self.connect_timeout.as_secs();
            DbError::new(&doing, Trouble::Unreachable, format!("no answer within {seconds} s"))
        };
        let failed = |error: tokio_postgres::Error| DbError::from_postgres(&doing, &error);
        let (client, task) = if self.url.ssl_mode == SslMode::Disable || on_socket {
            let mut config = config;
            config.ssl_mode(Wanted::Disable);
            let opening = tokio::time::timeout(self.connect_timeout, config.connect(NoTls));
            let (client, connection) = opening.await.map_err(timed_out)?.map_err(failed)?;
            (client, tokio::spawn(async move { drop(connection.await) }))
        } else {
            let tls = tls::client(&self.url)
                .map_err(|error: TlsError| DbError::new(&doing, Trouble::Tls, error.to_string()))?;
            let opening =
                tokio::time::timeout(self.connect_timeout, config.connect(MakeRustlsConnect::new(tls)));
            let (client, connection) = opening.await.map_err(timed_out)?.map_err(failed)?;
            (client, tokio::spawn(async move { drop(connection.await) }))
        };
        // The server bounds each statement; this is for a server that no longer answers at all.
        let limit = self.statement_timeout + self.connect_timeout;
        Ok(Session { client, task, place, limit })
    }
}

impl Session {
    /// The library's client, for streams; the caller bounds them.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits for a statement, but not for ever.
    ///
    /// # Errors
    /// The statement's, or that it did not end in time.
    pub async fn bounded<T>(
        &self,
        doing: &str,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, DbError> {
        let doing = || format!("{doing} in the database {}", self.place);
        match tokio::time::timeout(self.limit, work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(DbError::from_postgres(doing(), &error)),
            Err(_) => {
                let why = format!("no answer within {} s", self.limit.as_secs());
                Err(DbError::new(doing(), Trouble::TimedOut, why))
            }
        }
    }

    /// Rows of a query without parameters.
    ///
    /// # Errors
    /// As [`Session::bounded`].
    pub async fn rows(&self, doing: &str, sql: &str) -> Result<Vec<tokio_postgres::Row>, DbError> {
        self.bounded(doing, self.client.query(sql, &[])).await
    }

    /// Statements without an answer.
    ///
    /// # Errors
    /// As [`Session::bounded`].
    pub async fn run(&self, doing: &str, sql: &str) -> Result<(), DbError> {
        self.bounded(doing, self.client.batch_execute(sql)).await
    }
}
