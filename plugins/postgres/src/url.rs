//! `Postgres.URL`: what the product reads from it.
//!
//! `postgres://user:password@host:port/database?option=value&…`, see <https://docs.posit.co/connect/admin/database/postgres/>. Options that
//! the client does not know are run-time parameters of the server (`search_path`).

use connect_migrator_connect::secrets;
use std::path::PathBuf;

/// The port when none is given.
const DEFAULT_PORT: u16 = 5432;

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server can.
    Prefer,
    /// Encrypted, to whoever answers.
    Require,
    /// Encrypted, to a server whose certificate a trusted authority signed.
    VerifyCa,
    /// The same, and the certificate names the host.
    VerifyFull,
}

impl SslMode {
    /// As it stands in a URL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

/// A place of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name or address, and a port.
    Tcp(String, u16),
    /// The folder of a socket, and the port that is part of the socket's name.
    Socket(PathBuf, u16),
}

/// A URL, taken apart and decoded.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    /// As it was given.
    text: String,
    /// The user.
    pub user: String,
    /// The password, should somebody have put it there.
    pub password: Option<String>,
    /// Where the server is, in the order in which to try.
    pub hosts: Vec<Host>,
    /// The database.
    pub database: String,
    /// `sslmode`; [`SslMode::Require`] when it is not given.
    pub ssl_mode: SslMode,
    /// `sslrootcert`: authorities to trust instead of the system's.
    pub root_cert: Option<PathBuf>,
    /// `sslcert` and `sslkey`: a certificate of the client's own.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Run-time parameters of the session.
    pub parameters: Vec<(String, String)>,
}

impl std::fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresUrl({})", self.shown())
    }
}

/// Why a URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(pub String);

impl PostgresUrl {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// When it is none, with what is wrong; never with the password.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let wrong = |why: String| Err(UrlError(why));
        if has_placeholder(text) {
            return wrong("it holds the placeholder `{$}`, which Connect no longer knows".into());
        }
        let Some(rest) = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"))
        else {
            return wrong("it does not begin with `postgres://`".into());
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = match rest.rsplit_once('@') {
            // A password may hold `/`, though it should not.
            Some((userinfo, tail)) => {
                let (hosts, database) = tail.split_once('/').unwrap_or((tail, ""));
                (Some((userinfo, hosts)), database)
            }
            None => (None, rest.split_once('/').map_or("", |(_, database)| database)),
        };
        let (userinfo, hosts) =
            authority.unwrap_or_else(|| ("", rest.split_once('/').map_or(rest, |(hosts, _)| hosts)));
        let (user, password) = match userinfo.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (userinfo, None),
        };
        for (what, part) in [("user", user), ("password", password.unwrap_or_default())] {
            if part.contains(['/', '@', '#', '?', ' ']) {
                return wrong(format!("its {what} holds special characters that are not percent-encoded"));
            }
        }
        let mut url = PostgresUrl {
            text: text.to_owned(),
            user: decoded("user", user)?,
            password: password.map(|p| decoded("password", p)).transpose()?,
            hosts: Vec::new(),
            database: decoded("database", database)?,
            ssl_mode: SslMode::Require,
            root_cert: None,
            client_cert: None,
            parameters: Vec::new(),
        };
        let mut places: Vec<(String, Option<u16>)> = Vec::new();
        for host in hosts.split(',').filter(|host| !host.is_empty()) {
            places.push(place(host)?);
        }
        url.options(query, &mut places)?;
        if places.is_empty() {
            places.push(("localhost".into(), None));
        }
        url.hosts = places
            .into_iter()
            .map(|(host, port)| match host.starts_with('/') {
                true => Host::Socket(host.into(), port.unwrap_or(DEFAULT_PORT)),
                false => Host::Tcp(host, port.unwrap_or(DEFAULT_PORT)),
            })
            .collect();
        if url.user.is_empty() {
            return wrong("it names no user".into());
        }
        if url.database.is_empty() {
            return wrong("it names no database".into());
        }
        Ok(url)
    }

    fn options(&mut self, query: &str, places: &mut Vec<(String, Option<u16>)>) -> Result<(), UrlError> {
        let (mut cert, mut key) = (None, None);
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let Some((name, value)) = option.split_once('=') else {
                return Err(UrlError(format!("its option `{option}` has no value")));
            };
            let value = decoded(name, value)?;
            match name {
                "sslmode" => {
                    self.ssl_mode = match value.as_str() {
                        "disable" => SslMode::Disable,
                        "allow" | "prefer" => SslMode::Prefer,
                        "require" => SslMode::Require,
                        "verify-ca" => SslMode::VerifyCa,
                        "verify-full" => SslMode::VerifyFull,
                        _ => {
                            return Err(UrlError(format!(
                                "it has `sslmode={value}`, which is none of disable, prefer, require, verify-ca, verify-full"
                            )));
                        }
                    }
                }
                "sslrootcert" => self.root_cert = Some(value.into()),
                "sslcert" => cert = Some(PathBuf::from(value)),
                "sslkey" => key = Some(PathBuf::from(value)),
                "user" => self.user = value,
                "dbname" => self.database = value,
                "password" => self.password = Some(value),
                "host" => *places = value.split(',').map(|host| (host.to_owned(), None)).collect(),
                "port" => {
                    let port =
                        value.parse().map_err(|_| UrlError(format!("its port `{value}` is no port")))?;
                    for place in places.iter_mut() {
                        place.1 = Some(port);
                    }
                }
                // How the client goes about it, not where it goes.
                "connect_timeout" | "fallback_application_name" | "sslinline" | "sslsni" => {}
                _ => self.parameters.push((name.to_owned(), value)),
            }
        }
        self.client_cert = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(UrlError("it has only one of `sslcert` and `sslkey`".into())),
        };
        Ok(())
    }

    /// As it was given.
    #[must_use]
    pub fn as_given(&self) -> &str {
        &self.text
    }

    /// As it may be shown.
    #[must_use]
    pub fn shown(&self) -> String {
        secrets::redact_urls(&self.text)
    }

    /// `database on host:port`, for sentences.
    #[must_use]
    pub fn place(&self) -> String {
        let hosts: Vec<String> = self
            .hosts
            .iter()
            .map(|host| match host {
                Host::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
                Host::Tcp(host, port) => format!("{host}:{port}"),
                Host::Socket(dir, port) => format!("{}/.s.PGSQL.{port}", dir.display()),
            })
            .collect();
        format!("{} on {}", self.database, hosts.join(", "))
    }

    /// Whether it leads to the same database as another.
    #[must_use]
    pub fn same_database(&self, other: &Self) -> bool {
        self.hosts == other.hosts && self.database == other.database
    }
}

/// Whether a URL holds the password placeholder of old releases.
#[must_use]
pub fn has_placeholder(text: &str) -> bool {
    text.contains("{$}") || text.to_ascii_lowercase().contains("%7b$%7d") || text.contains("%7B%24%7D")
}

fn place(text: &str) -> Result<(String, Option<u16>), UrlError> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address.to_owned(), rest.strip_prefix(':').unwrap_or("")),
        None => {
            let (host, port) = text.split_once(':').unwrap_or((text, ""));
            (decoded("host", host)?, port)
        }
    };
    if port.is_empty() {
        return Ok((host, None));
    }
    let number = port.parse().map_err(|_| UrlError(format!("`{port}` is no port")))?;
    Ok((host, Some(number)))
}

fn decoded(what: &str, text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(UrlError(format!(
                "its {what} holds a `%` that is not followed by two hexadecimal digits"
            )));
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(bytes).map_err(|_| UrlError(format!("its {what} is not UTF-8 once it is decoded")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> PostgresUrl {
        PostgresUrl::parse(text).unwrap()
    }

    #[test]
    fn user_hosts_database_and_options_are_decoded() {
        let url = parse(
            "postgres://con%40nect@db.example.com:5433/co%2Fnnect?sslmode=verify-full&sslrootcert=/etc/ca.pem&search_path=a",
        );
        assert_eq!((url.user.as_str(), url.database.as_str()), ("con@nect", "co/nnect"));
        assert_eq!(url.hosts, [Host::Tcp("db.example.com".into(), 5433)]);
        assert_eq!(url.ssl_mode, SslMode::VerifyFull);
        assert_eq!(url.root_cert.as_deref(), Some("/etc/ca.pem".as_ref()));
        assert_eq!(url.parameters, [("search_path".to_owned(), "a".to_owned())]);
        assert_eq!(parse("postgresql://c@[::1]/d").hosts, [Host::Tcp("::1".into(), 5432)]);
        let socket = parse("postgres:///connect?host=/run/postgresql&user=c&sslmode=disable");
        assert_eq!(socket.hosts, [Host::Socket("/run/postgresql".into(), 5432)]);
        assert_eq!(parse("postgres://c@h1,h2:6000/d").hosts.len(), 2);
    }

    #[test]
    fn tls_is_taken_for_granted() {
        assert_eq!(parse("postgres://c@h/d").ssl_mode, SslMode::Require);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (text, what) in [
            ("mysql://c@h/d", "postgres://"),
            ("postgres://h/d", "no user"),
            ("postgres://c@h", "no database"),
            ("postgres://c@h/", "no database"),
            ("postgres://c:{$}@h/d", "{$}"),
            ("postgres://c:top/secret@h/d", "percent-encoded"),
            ("postgres://c:top%zzsecret@h/d", "hexadecimal"),
            ("postgres://c@h:x/d", "no port"),
            ("postgres://c@h/d?sslmode=on", "sslmode"),
            ("postgres://c@h/d?sslcert=/a", "sslkey"),
        ] {
            let error = PostgresUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains(what) && !error.contains("secret"), "{text}: {error}");
        }
        let url = parse("postgres://c:topsecret@h/d");
        assert!(!format!("{url:?}").contains("topsecret"));
        assert_eq!(url.password.as_deref(), Some("topsecret"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(postgres://)?[a-z%@:/?&=\\[\\],{}$#0-9]{0,40}") {
            let _ = PostgresUrl::parse(&text);
        }
    }
}
