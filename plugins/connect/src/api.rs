//! The Connect Server API, as far as a migration needs it.
//!
//! Described at <https://docs.posit.co/connect/api/>. Statuses decide, never the product's own error numbers; the server's
//! `error` text is what people are shown.

mod array;
mod error;
mod shapes;

pub use array::{ITEM_MAX_BYTES, SplitError};
pub use error::ApiError;
pub use shapes::{ContentItem, Interpreter, Owner, RuntimeCache, ServerSettings, Task, User};

use array::Splitter;
use connect_migrator_sdk::Secret;
use reqwest::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, Response, Url};
use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a connection may take to be made.
pub const CONNECT_TIMEOUT_SECONDS: u64 = 10;
/// How long an answer may take, beyond the time that the server was asked to wait.
pub const ANSWER_TIMEOUT_SECONDS: u64 = 30;
/// How long the list of all content may take: the server sends it in one piece.
pub const CONTENT_LIST_TIMEOUT_SECONDS: u64 = 300;
/// The longest wait that the server accepts for a task.
pub const TASK_WAIT_MAX_SECONDS: u64 = 20;
/// The largest answer that is accepted, the list of all content apart.
pub const ANSWER_MAX_BYTES: usize = 8 * 1024 * 1024;
/// The largest list of all content that is accepted; about 100,000 items. It is read item by item, and never held as a whole.
pub const CONTENT_LIST_MAX_BYTES: usize = 256 * 1024 * 1024;
/// How much of an answer that is not JSON is shown in an error.
const SHOWN_MAX_CHARS: usize = 200;

/// The header in which the key is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KeyHeader {
    /// `Authorization`.
    #[default]
    Authorization,
    /// `X-RSC-Authorization`, for a server behind a proxy that keeps `Authorization` to itself.
    XRscAuthorization,
}

/// A client of one server. Cheap to clone; connections are kept and used again.
#[derive(Debug, Clone)]
pub struct Api {
    client: reqwest::Client,
    base: Url,
    host: Option<HeaderValue>,
    key: Option<HeaderValue>,
    key_header: KeyHeader,
    requests: Arc<AtomicU64>,
}

impl Api {
    /// A client of the server at `base_url` (`http://127.0.0.1:3939`, `https://connect.example.com/rsconnect/`). Connects only
    /// when something is asked. Redirects are not followed and the environment's proxies are not used: both would carry the
    /// key elsewhere.
    ///
    /// # Errors
    /// When the address or the key cannot be used.
    pub fn new(base_url: &str, key: Option<Secret>) -> Result<Api, ApiError> {
        Self::assemble(parse(base_url)?, None, key)
    }

    /// A client that connects to `address` (`host:port`, plain HTTP) and asks there as if it had come for `base_url`: the
    /// way to ask one of several servers that are to answer under one name. A path in `base_url` is left out: it is the
    /// proxy's, and not known to the server behind it.
    ///
    /// # Errors
    /// When one of the addresses or the key cannot be used.
    pub fn with_address(
        base_url: &str,
        address: impl std::fmt::Display,
        key: Option<Secret>,
    ) -> Result<Api, ApiError> {
        let named = parse(base_url)?;
        let mut host = named.host_str().unwrap_or_default().to_owned();
        if let Some(port) = named.port() {
            host = format!("{host}:{port}");
        }
        let host = HeaderValue::from_str(&host)
            .map_err(|error| ApiError::Url { url: base_url.into(), why: error.to_string() })?;
        Self::assemble(parse(&format!("http://{address}"))?, Some(host), key)
    }

    fn assemble(base: Url, host: Option<HeaderValue>, key: Option<Secret>) -> Result<Api, ApiError> {
        // The process may have one already; either is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(CONNECT_TIMEOUT_SECONDS))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("connect-migrator/", env!("CARGO_PKG_VERSION")));
        if base.scheme() != "https" {
            // Reading all the system's certificates takes longer than all the rest of it, and none is needed.
            client = client.tls_certs_only([]);
        }
        let client = client.build().map_err(|error| ApiError::Client { why: causes(&error) })?;
        let key = match key {
            Some(key) => {
                let mut value = HeaderValue::from_str(&format!("Key {}", key.expose().trim()))
                    .map_err(|_| ApiError::Key)?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Api { client, base, host, key, key_header: KeyHeader::default(), requests: Arc::default() })
    }

    /// Sends the key in another header.
    #[must_use]
    pub fn key_in(mut self, header: KeyHeader) -> Api {
        self.key_header = header;
        self
    }

    /// The address that is asked, for messages.
    #[must_use]
    pub fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// How many requests this client and its clones have sent.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// `GET /__ping__`: whether the server serves. Needs no key.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub async fn ping(&self) -> Result<(), ApiError> {
        self.ping_within(Duration::from_secs(ANSWER_TIMEOUT_SECONDS)).await
    }

    /// [`ping`](Api::ping) with a time-out of the caller's, for those who ask often.
    ///
    /// # Errors
    /// When it does not answer 200 in time.
    pub async fn ping_within(&self, timeout: Duration) -> Result<(), ApiError> {
        let call = Call { key: false, timeout, ..Call::get("__ping__") };
        let (name, response) = self.send(&call).await?;
        read(&name, response, ANSWER_MAX_BYTES).await.map(drop)
    }

    /// `GET /__api__/server_settings`. Answers without a key too, with less.
    ///
    /// # Errors
    /// When there is no such answer.
    pub async fn server_settings(&self) -> Result<ServerSettings, ApiError> {
        self.ask(&Call::get("__api__/server_settings")).await
    }

    /// `GET /__api__/v1/user`: whom the key belongs to.
    ///
    /// # Errors
    /// 401 when the key is not valid.
    pub async fn user(&self) -> Result<User, ApiError> {
        self.ask(&Call::get("__api__/v1/user")).await
    }

    /// `GET /__api__/v1/server_settings/{language}`, language one of `r`, `python`, `quarto`: the interpreters of the server.
    ///
    /// # Errors
    /// [`ApiError::NoEndpoint`] on versions without it.
    pub async fn interpreters(&self, language: &str) -> Result<Vec<Interpreter>, ApiError> {
        let call = Call::get(&format!("__api__/v1/server_settings/{}", segment(language)));
        Ok(self.ask::<shapes::Interpreters>(&call).await?.installations)
    }

    /// `GET /__api__/v1/system/caches/runtime`: all runtime caches. For administrators.
    ///
    /// # Errors
    /// [`ApiError::NoEndpoint`] on versions without it, 403 for others than administrators.
    pub async fn caches(&self) -> Result<Vec<RuntimeCache>, ApiError> {
        Ok(self.ask::<shapes::Caches>(&Call::get(CACHES)).await?.caches)
    }

    /// `DELETE /__api__/v1/system/caches/runtime`: deletes one cache, or with `dry_run` only says whether that could be done.
    /// Answers the id of the task that deletes; `None` for a dry run.
    ///
    /// # Errors
    /// 404 when there is no such cache (any more), 403 for others than administrators.
    pub async fn delete_cache(
        &self,
        cache: &RuntimeCache,
        dry_run: bool,
    ) -> Result<Option<String>, ApiError> {
        let body = json!({
            "language": cache.language,
            "version": cache.version,
            "image_name": cache.image_name,
            "dry_run": dry_run,
        });
        let call = Call { method: Method::DELETE, body: Some(body), ..Call::get(CACHES) };
        Ok(self.ask::<shapes::Started>(&call).await?.task_id)
    }

    /// `GET /__api__/v1/content?include=owner`: hands every content item of the server to `each`, in the server's order, as it
    /// arrives. An administrator sees all; others see theirs.
    ///
    /// # Errors
    /// When the list cannot be read to its end; then `each` has seen a part of it. When `each` failed.
    pub async fn each_content<E: From<ApiError>>(
        &self,
        mut each: impl FnMut(ContentItem) -> Result<(), E>,
    ) -> Result<(), E> {
        let timeout = Duration::from_secs(CONTENT_LIST_TIMEOUT_SECONDS);
        let plain = Call { timeout, ..Call::get("__api__/v1/content") };
        let with_owners = Call { query: &[("include", "owner")], ..plain.clone() };
        let (call, mut response) = match self.send(&with_owners).await {
            // Versions that do not know `include` may refuse it.
            Err(ApiError::Refused { status: 400, .. }) => self.send(&plain).await?,
            other => other?,
        };
        let mut splitter = Splitter::default();
        let mut seen = 0;
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&call, &error))? {
            seen += chunk.len();
            if seen > CONTENT_LIST_MAX_BYTES {
                return Err(ApiError::TooLarge { call, limit_bytes: CONTENT_LIST_MAX_BYTES }.into());
            }
            splitter
                .push(&chunk, |item| match serde_json::from_slice(item) {
                    Ok(item) => each(item).map_err(Stop::Caller),
                    Err(error) => Err(Stop::Shape(error.to_string())),
                })
                .map_err(|stop| match stop {
                    Stop::Caller(error) => error,
                    Stop::Shape(why) => ApiError::Shape { call: call.clone(), why }.into(),
                })?;
        }
        splitter.end().map_err(|error| ApiError::Shape { call, why: error.to_string() }.into())
    }

    /// `GET /__api__/v1/content/{guid}`.
    ///
    /// # Errors
    /// 404 when there is no such item.
    pub async fn content_item(&self, guid: &str) -> Result<ContentItem, ApiError> {
        self.ask(&Call::get(&format!("__api__/v1/content/{}", segment(guid)))).await
    }

    /// `POST /__api__/v1/content/{guid}/build`: builds the environment of the item's bundle without publishing it again.
    /// Answers the id of the task that builds.
    ///
    /// # Errors
    /// 404 when there is no such item; 403 when it may not be built.
    pub async fn build(&self, guid: &str, bundle_id: Option<&str>) -> Result<String, ApiError> {
        let path = format!("__api__/v1/content/{}/build", segment(guid));
        let body = json!({ "bundle_id": bundle_id });
        let call = Call { method: Method::POST, body: Some(body), ..Call::get(&path) };
        let started: shapes::Started = self.ask(&call).await?;
        started.task_id.ok_or_else(|| ApiError::Shape { call: self.name(&call), why: "no `task_id`".into() })
    }

    /// `GET /__api__/v1/tasks/{id}`: the task's lines from `first` on. The server answers as soon as there are any or the task
    /// has ended, after `wait_seconds` at the latest (at most [`TASK_WAIT_MAX_SECONDS`]).
    ///
    /// # Errors
    /// 404 when the server has no such task (any more).
    pub async fn task(&self, id: &str, first: u64, wait_seconds: u64) -> Result<Task, ApiError> {
        let wait = wait_seconds.min(TASK_WAIT_MAX_SECONDS);
        let (first, wait_text) = (first.to_string(), wait.to_string());
        let call = Call {
            query: &[("first", &first), ("wait", &wait_text)],
            timeout: Duration::from_secs(wait + ANSWER_TIMEOUT_SECONDS),
            ..Call::get(&format!("__api__/v1/tasks/{}", segment(id)))
        };
        self.ask(&call).await
    }

    fn url(&self, call: &Call<'_>) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}", self.base.path(), call.path));
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        url
    }

    fn name(&self, call: &Call<'_>) -> String {
        format!("{} {}", call.method, self.url(call))
    }

    async fn ask<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, ApiError> {
        let (name, response) = self.send(call).await?;
        let body = read(&name, response, ANSWER_MAX_BYTES).await?;
        serde_json::from_slice(&body).map_err(|error| ApiError::Shape { call: name, why: error.to_string() })
    }

    /// Sends a call and sorts out every answer but a good one.
    async fn send(&self, call: &Call<'_>) -> Result<(String, Response), ApiError> {
        let name = self.name(call);
        let mut request = self.client.request(call.method.clone(), self.url(call)).timeout(call.timeout);
        if let Some(host) = &self.host {
            request = request.header(HOST, host);
        }
        if let Some(key) = self.key.as_ref().filter(|_| call.key) {
            request = request.header(self.key_header.name(), key);
        }
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let response = request.send().await.map_err(|error| unreachable(&name, &error))?;
        let status = response.status();
        if status.is_success() {
            return Ok((name, response));
        }
        if status.is_redirection() {
            let to = response.headers().get(LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()).into());
            let to = to.unwrap_or_else(|| "nowhere".to_owned());
            return Err(ApiError::Redirected { call: name, status: status.as_u16(), to });
        }
        let body = read(&name, response, ANSWER_MAX_BYTES).await.unwrap_or_default();
        let said = serde_json::from_slice::<Value>(&body).ok();
        Err(match said {
            None if status.as_u16() == 404 => ApiError::NoEndpoint { call: name },
            Some(Value::Object(said)) => {
                let text = said.get("error").and_then(Value::as_str).unwrap_or_default();
                ApiError::Refused { call: name, status: status.as_u16(), text: shown(text) }
            }
            _ => {
                let text = shown(&String::from_utf8_lossy(&body));
                ApiError::Refused { call: name, status: status.as_u16(), text }
            }
        })
    }
}

const CACHES: &str = "__api__/v1/system/caches/runtime";

#[derive(Debug, Clone)]
struct Call<'a> {
    method: Method,
    path: String,
    query: &'a [(&'a str, &'a str)],
    body: Option<Value>,
    key: bool,
    timeout: Duration,
}

impl Call<'_> {
    fn get(path: &str) -> Self {
        Call {
            method: Method::GET,
            path: path.into(),
            query: &[],
            body: None,
            key: true,
            timeout: Duration::from_secs(ANSWER_TIMEOUT_SECONDS),
        }
    }
}

impl KeyHeader {
    fn name(self) -> HeaderName {
        match self {
            KeyHeader::Authorization => AUTHORIZATION,
            KeyHeader::XRscAuthorization => HeaderName::from_static("x-rsc-authorization"),
        }
    }
}

enum Stop<E> {
    Caller(E),
    Shape(String),
}

impl<E> From<SplitError> for Stop<E> {
    fn from(error: SplitError) -> Self {
        Stop::Shape(error.to_string())
    }
}

fn parse(url: &str) -> Result<Url, ApiError> {
    let wrong = |why: &str| ApiError::Url { url: without_login(url), why: why.into() };
    let mut parsed = Url::parse(url.trim()).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(wrong("it starts with neither http:// nor https://"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(wrong("it holds a name or password; the API key is all that is needed"));
    }
    parsed.set_query(None);
    parsed.set_fragment(None);
    if !parsed.path().ends_with('/') {
        let path = format!("{}/", parsed.path());
        parsed.set_path(&path);
    }
    Ok(parsed)
}

fn without_login(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            let (before, after) = (url.get(..scheme).unwrap_or(""), url.get(at + 1..).unwrap_or(""));
            format!("{before}://…@{after}")
        }
        _ => url.into(),
    }
}

/// An id as one segment of a path, whatever the server put into it.
fn segment(id: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'.');
    if !id.is_empty() && id.bytes().all(safe) && id.bytes().any(|byte| byte != b'.') {
        return id.into();
    }
    id.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn read(call: &str, mut response: Response, limit_bytes: usize) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(call, &error))? {
        if body.len() + chunk.len() > limit_bytes {
            return Err(ApiError::TooLarge { call: call.into(), limit_bytes });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unreachable(call: &str, error: &reqwest::Error) -> ApiError {
    let timed_out = error.is_timeout() && !error.is_connect();
    ApiError::Unreachable { call: call.into(), why: causes(error), timed_out }
}

/// The causes of an error without its own text, which repeats the address.
fn causes(error: &reqwest::Error) -> String {
    let mut cause = std::error::Error::source(error);
    let mut text = String::new();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = if text.is_empty() { next } else { format!("{text}: {next}") };
        }
        cause = error.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}

/// Foreign text as one short line.
fn shown(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_MAX_CHARS) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests;
