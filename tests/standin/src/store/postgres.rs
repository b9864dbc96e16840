//! PostgreSQL, with TLS unless the URL says otherwise.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls::{self, Check};
use super::{Row, Value};
use crate::failure::Failure;

/// How long connecting may take.
const CONNECT_SECONDS: u64 = 10;
/// How long one statement may take.
const STATEMENT_SECONDS: u64 = 30;

/// A checked `Postgres.URL` with its password.
#[derive(Debug, Clone)]
pub struct PgTarget {
    config: Config,
    name: String,
    tls: Option<(Check, Option<std::path::PathBuf>)>,
}

impl PgTarget {
    /// Reads `postgres://user@host:port/db?options`. A password given beside the URL needs no encoding.
    ///
    /// As the product does, this takes TLS for granted unless `sslmode` says otherwise; a socket needs none.
    ///
    /// # Errors
    /// The URL is not one, has an option that is not known, or names authorities that cannot be read.
    pub fn parse(url: &str, password: Option<String>) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::Config(format!("Postgres.URL: {why}"));
        if url.contains("{$}") {
            return Err(wrong("the {$} placeholder is no longer supported; set Postgres.Password".into()));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut mode, mut roots) = ("require", None);
        let mut kept = Vec::new();
        let mut search_path = None;
        for option in query.split('&').filter(|o| !o.is_empty()) {
            match option.split_once('=') {
                Some((
                    "sslmode",
                    value @ ("disable" | "allow" | "prefer" | "require" | "verify-ca" | "verify-full"),
                )) => mode = value,
                Some(("sslrootcert", path)) => roots = Some(std::path::PathBuf::from(path)),
                Some(("search_path", schema))
                    if schema.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ',') =>
                {
                    search_path = Some(schema.to_owned());
                }
                Some(("host" | "port" | "user" | "dbname" | "connect_timeout" | "application_name", _)) => {
                    kept.push(option);
                }
                _ => return Err(wrong(format!("option '{option}' is not supported"))),
            }
        }
        let check = match mode {
            "disable" => None,
            "verify-full" => Some(Check::Host),
            "verify-ca" => Some(Check::Authority),
            _ if roots.is_some() => Some(Check::Authority),
            _ => Some(Check::Nothing),
        };
        if let Some(check) = check {
            tls::client(check, roots.as_ref()).map_err(&wrong)?;
        }
        let url = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        let mut config: Config = url.parse().map_err(|e| wrong(format!("{e}")))?;
        if let Some(password) = password {
            config.password(password);
        }
        if let Some(schema) = search_path {
            config.options(format!("-c search_path={schema}"));
        }
        config.connect_timeout(Duration::from_secs(CONNECT_SECONDS));
        config.ssl_mode(match mode {
            "disable" => SslMode::Disable,
            "allow" | "prefer" => SslMode::Prefer,
            _ => SslMode::Require,
        });
        let on_socket = config.get_hosts().iter().any(|host| matches!(host, Host::Unix(_)));
        let tls = check.filter(|_| !on_socket).map(|check| (check, roots));
        if tls.is_none() {
            config.ssl_mode(SslMode::Disable);
        }
        let name = format!("{} on {:?}", config.get_dbname().unwrap_or("(default)"), config.get_hosts());
        Ok(PgTarget { config, name, tls })
    }
}

/// A connection that comes back after the server was restarted.
#[derive(Debug)]
pub struct Postgres {
    target: PgTarget,
    client: Mutex<Arc<Client>>,
}

impl Postgres {
    pub(crate) async fn connect(target: PgTarget) -> Result<Self, Failure> {
        let client = open(&target).await?;
        Ok(Postgres { target, client: Mutex::new(Arc::new(client)) })
    }

    async fn client(&self) -> Result<Arc<Client>, Failure> {
        let mut client = self.client.lock().await;
        if client.is_closed() {
            *client = Arc::new(open(&self.target).await?);
        }
        Ok(Arc::clone(&client))
    }

    pub(crate) async fn execute(&self, sql: &str, values: &[Value]) -> Result<u64, Failure> {
        let client = self.client().await?;
        bounded(sql, client.execute(sql, &references(values))).await
    }

    pub(crate) async fn query(&self, sql: &str, values: &[Value]) -> Result<Vec<Row>, Failure> {
        let client = self.client().await?;
        let rows = bounded(sql, client.query(sql, &references(values))).await?;
        rows.iter()
            .map(|row| {
                (0..row.len())
                    .map(|i| read(row, i).map_err(|e| Failure::database(sql, e)))
                    .collect::<Result<_, _>>()
                    .map(Row)
            })
            .collect()
    }
}

async fn open(target: &PgTarget) -> Result<Client, Failure> {
    let doing = || format!("connect to {}", target.name);
    let limit = Duration::from_secs(CONNECT_SECONDS);
    let late = |_| Failure::database(doing(), format!("no answer in {CONNECT_SECONDS} s"));
    let failed = |e: tokio_postgres::Error| {
        let why = in_full(&e);
        // The words of the product's own client.
        let none = why.contains("does not support TLS");
        let why = if none { "pq: SSL is not enabled on the server".to_owned() } else { why };
        Failure::database(doing(), why)
    };
    let Some((check, roots)) = &target.tls else {
        let opening = tokio::time::timeout(limit, target.config.connect(NoTls));
        let (client, connection) = opening.await.map_err(late)?.map_err(failed)?;
        tokio::spawn(connection);
        return Ok(client);
    };
    let config = tls::client(*check, roots.as_ref()).map_err(|why| Failure::database(doing(), why))?;
    let opening = tokio::time::timeout(limit, target.config.connect(MakeRustlsConnect::new(config)));
    let (client, connection) = opening.await.map_err(late)?.map_err(failed)?;
    tokio::spawn(connection);
    Ok(client)
}

async fn bounded<T>(
    sql: &str,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Failure> {
    tokio::time::timeout(Duration::from_secs(STATEMENT_SECONDS), work)
        .await
        .map_err(|_| Failure::database(sql, format!("no answer in {STATEMENT_SECONDS} s")))?
        .map_err(|e| Failure::database(sql, in_full(&e)))
}

/// The library's message is "db error"; the server's words are one level below.
fn in_full(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn references(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|v| v as &(dyn ToSql + Sync)).collect()
}

fn read(row: &tokio_postgres::Row, column: usize) -> Result<Value, tokio_postgres::Error> {
    let kind = row.columns().get(column).map(tokio_postgres::Column::type_);
    Ok(match kind {
        Some(&Type::INT8) => row.try_get::<_, Option<i64>>(column)?.into(),
        Some(&Type::INT4) => row.try_get::<_, Option<i32>>(column)?.map(i64::from).into(),
        Some(&Type::BOOL) => row.try_get::<_, Option<bool>>(column)?.into(),
        _ => row.try_get::<_, Option<String>>(column)?.into(),
    })
}

impl ToSql for Value {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut tokio_postgres::types::private::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Int(n) => n.to_sql_checked(ty, out),
            Value::Text(text) => text.to_sql_checked(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::TEXT | Type::VARCHAR)
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_taken_for_granted_and_unknown_options_are_refused() {
        let parse = |url: &str| PgTarget::parse(url, None).map_err(|e| e.to_string());
        assert_eq!(parse("postgres://c@127.0.0.1/connect").unwrap().tls, Some((Check::Nothing, None)));
        assert_eq!(parse("postgres://c@127.0.0.1/connect?sslmode=disable").unwrap().tls, None);
        assert!(parse("postgres://c@h/d?sslmode=verify-full").unwrap_err().contains("sslrootcert"));
        assert!(parse("postgresql://c@127.0.0.1:5432/connect?sslmode=require&search_path=connect").is_ok());
        assert_eq!(parse("postgres:///connect?host=/run/postgresql").unwrap().tls, None);
        assert!(parse("postgres://c@h/d?sslmode=disable&foo=1").unwrap_err().contains("foo"));
        assert!(parse("postgres://c:{$}@h/d?sslmode=disable").is_err());
    }
}
