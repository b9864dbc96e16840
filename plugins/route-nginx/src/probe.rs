//! Requests through nginx, and what they prove.

use crate::listen::Entry;
use crate::page::MARK;
use connect_migrator_sdk::Secret;
use reqwest::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderValue, RETRY_AFTER, UPGRADE};
use reqwest::{Client, Response, Url};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long one request may take.
const REQUEST_TIMEOUT_SECONDS: u64 = 5;
/// The pause between two requests.
const PAUSE_MILLIS: u64 = 20;
/// What is read of an answer.
const ANSWER_MAX_BYTES: usize = 512 * 1024;
/// Requests in a row that must end in the same place.
pub const IN_A_ROW: usize = 3;

/// Where a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// At a maintenance page: 503.
    Maintenance {
        /// Whether it is ours; nginx may put another one in its place (`proxy_intercept_errors`).
        ours: bool,
        /// Its `Retry-After`.
        retry_after: Option<String>,
    },
    /// At a Connect.
    Connect {
        /// The host name that it reports; it need not tell strangers.
        hostname: Option<String>,
    },
    /// Somewhere else.
    Other {
        /// The HTTP status.
        status: u16,
    },
    /// Nowhere.
    Failed {
        /// Why.
        why: String,
    },
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Maintenance { ours: true, .. } => write!(f, "the maintenance page"),
            End::Maintenance { ours: false, .. } => write!(f, "a 503 that is not our maintenance page"),
            End::Connect { hostname: Some(name) } => write!(f, "the Connect with the host name `{name}`"),
            End::Connect { hostname: None } => write!(f, "a Connect that does not tell its host name"),
            End::Other { status } => write!(f, "an answer with status {status}"),
            End::Failed { why } => write!(f, "no answer: {why}"),
        }
    }
}

/// A request could not be made ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not make requests to {url}: {why}")]
pub struct ProbeError {
    /// The URL that users type.
    pub url: String,
    /// Why.
    pub why: String,
}

/// Makes requests for the URL that users type, to a given address.
#[derive(Debug)]
pub struct Prober {
    client: Client,
    /// Scheme and authority that lead to the address.
    base: Url,
    path: String,
    host: HeaderValue,
    key: Option<Secret>,
}

impl Prober {
    /// Requests that carry the host of `url` and connect to `entry`. `key` is only ever sent to an address of this machine, and only
    /// when Connect does not tell its host name without.
    ///
    /// # Errors
    /// When `url` is not an http or https URL with a host.
    pub fn new(url: &str, entry: &Entry, key: Option<Secret>) -> Result<Self, ProbeError> {
        let failed = |why: &dyn std::fmt::Display| ProbeError { url: url.into(), why: why.to_string() };
        // Fails only when there is one already, which is as good.
        rustls::crypto::ring::default_provider().install_default().ok();
        let parsed = Url::parse(url).map_err(|error| failed(&error))?;
        let name = parsed.host_str().ok_or_else(|| failed(&"it names no host"))?.to_owned();
        let authority = match parsed.port() {
            Some(port) => format!("{name}:{port}"),
            None => name.clone(),
        };
        // A name must stay in the URL for TLS' server name; without TLS, and for an IP address, it would only be in the way.
        let is_name = parsed.domain().is_some();
        let base = if entry.tls && is_name {
            format!("https://{name}:{}", entry.address.port())
        } else {
            format!("{}://{}", if entry.tls { "https" } else { "http" }, entry.address)
        };
        let client = Client::builder()
            .resolve(&name, entry.address)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            // Every request on a connection of its own: an old one would stay with an old process of nginx.
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(REQUEST_TIMEOUT_SECONDS))
            // The question is which server answers behind nginx on this machine; whether users trust its certificate is not
            // what changes here.
            .tls_danger_accept_invalid_certs(true)
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Prober {
            client,
            base: Url::parse(&base).map_err(|error| failed(&error))?,
            path: parsed.path().trim_end_matches('/').to_owned(),
            host: HeaderValue::from_str(&authority).map_err(|error| failed(&error))?,
            key: key.filter(|_| is_own(entry.address)),
        })
    }

    /// Makes one request and tells where it ended.
    pub async fn end(&self) -> End {
        match self.server_settings(None).await {
            End::Connect { hostname: None } if self.key.is_some() => {
                self.server_settings(self.key.as_ref()).await
            }
            end => end,
        }
    }

    /// Makes requests until [`IN_A_ROW`] of them end as `wanted` says. With a `limit` of zero the first that does not is the last.
    ///
    /// # Errors
    /// Where the last one ended, when it did not end as wanted and `limit` is over.
    pub async fn until(&self, limit: Duration, wanted: impl Fn(&End) -> bool) -> Result<End, End> {
        let deadline = Instant::now() + limit;
        let mut in_a_row = 0;
        loop {
            let end = self.end().await;
            if wanted(&end) {
                in_a_row += 1;
                if in_a_row >= IN_A_ROW {
                    return Ok(end);
                }
            } else if Instant::now() >= deadline {
                return Err(end);
            } else {
                in_a_row = 0;
            }
            tokio::time::sleep(Duration::from_millis(PAUSE_MILLIS)).await;
        }
    }

    /// The status with which a websocket upgrade of `path` is answered: 101 when all is well.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn upgrade(&self, path: &str) -> Result<u16, String> {
        let request = self
            .client
            .get(self.at(path))
            .header(HOST, self.host.clone())
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header("Sec-WebSocket-Version", "13")
            // Any 16 bytes in base64: they guard nothing here.
            .header("Sec-WebSocket-Key", "Y29ubmVjdC1taWdyYXRvcg==");
        let answer = request.send().await.map_err(|error| cause(&error))?;
        Ok(answer.status().as_u16())
    }

    async fn server_settings(&self, key: Option<&Secret>) -> End {
        let mut url = self.at("/__api__/server_settings");
        // A cache in between must not answer in Connect's place.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        url.set_query(Some(&format!("_={now}")));
        let mut request = self.client.get(url).header(HOST, self.host.clone());
        if let Some(key) = key {
            let Ok(mut value) = HeaderValue::from_str(&format!("Key {}", key.expose())) else {
                return End::Failed { why: "the API key has bytes that no header can carry".into() };
            };
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        match request.send().await {
            Ok(answer) => read(answer).await,
            Err(error) => End::Failed { why: cause(&error) },
        }
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        url.set_path(&format!("{}/{}", self.path, path.trim_start_matches('/')));
        url.set_query(query);
        url
    }
}

async fn read(mut answer: Response) -> End {
    let status = answer.status().as_u16();
    let text = |headers: &HeaderMap, name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
    if status == 503 {
        let ours = text(answer.headers(), MARK).as_deref() == Some("maintenance");
        return End::Maintenance { ours, retry_after: text(answer.headers(), RETRY_AFTER.as_str()) };
    }
    if status != 200 {
        return End::Other { status };
    }
    let mut body = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_MAX_BYTES => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Ok(Some(_)) => {
                return End::Failed { why: format!("the answer is longer than {ANSWER_MAX_BYTES} bytes") };
            }
            Err(error) => return End::Failed { why: cause(&error) },
        }
    }
    match serde_json::from_slice::<serde_json::Value>(&body) {
        Ok(serde_json::Value::Object(settings)) => {
            let hostname =
                settings.get("hostname").and_then(|name| name.as_str()).filter(|name| !name.is_empty());
            End::Connect { hostname: hostname.map(str::to_owned) }
        }
        // A login page in front of it, a default page of nginx, …
        _ => End::Other { status },
    }
}

/// The innermost causes say more than "error sending request".
fn cause(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    match (text.is_empty(), error.is_timeout()) {
        (_, true) => format!("no answer within {REQUEST_TIMEOUT_SECONDS} s"),
        (true, false) => error.to_string(),
        (false, false) => text,
    }
}

fn is_own(address: SocketAddr) -> bool {
    address.ip().is_loopback() || UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_ok()
}
