//! A registry's API, as far as choosing an image needs it: manifests, and labels out of their configuration, without pulling.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>

use crate::challenge::{Challenge, Wanted, challenge};
use crate::credentials::Login;
use crate::reference::{host_and_repository, split};
use connect_migrator_sdk::Secret;
use reqwest::header::{ACCEPT, LINK, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT_SECONDS: u64 = 10;
/// How long one answer may take.
const ANSWER_TIMEOUT_SECONDS: u64 = 30;
/// No manifest is larger: registries accept none.
const MANIFEST_MAX_BYTES: usize = 4 * 1024 * 1024;
/// No configuration of an image is larger.
const CONFIG_MAX_BYTES: usize = 8 * 1024 * 1024;
/// How many pages of tags are read.
const TAG_PAGES_MAX: usize = 20;
const TAGS_A_PAGE: usize = 1000;
/// How much of a registry's words is shown.
const SHOWN_MAX_CHARS: usize = 200;
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// What a registry answered instead of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached.
    #[error("{host} cannot be reached: {why}")]
    Down {
        /// The registry.
        host: String,
        /// Why not.
        why: String,
    },
    /// It wants another login, or none helps.
    #[error("{host} refuses {reference} (status {status}): {said}")]
    Denied {
        /// The registry.
        host: String,
        /// What was asked for.
        reference: String,
        /// 401 or 403.
        status: u16,
        /// Its words.
        said: String,
    },
    /// It was asked too often.
    #[error("{host} has been asked too often (status 429){}", .wait.as_ref().map(|w| format!("; it says to wait {w}")).unwrap_or_default())]
    TooMany {
        /// The registry.
        host: String,
        /// How long it wants to be left alone.
        wait: Option<String>,
    },
    /// It is broken.
    #[error("{host} failed when asked for {reference} (status {status}): {said}")]
    Broken {
        /// The registry.
        host: String,
        /// What was asked for.
        reference: String,
        /// The status.
        status: u16,
        /// Its words.
        said: String,
    },
    /// The engine of this host does not tell whether it has it.
    #[error("this host does not tell whether it has {reference}: {why}")]
    Here {
        /// What was asked for.
        reference: String,
        /// The engine's words.
        why: String,
    },
    /// It does not have it.
    #[error("{reference} does not exist")]
    Missing {
        /// What was asked for.
        reference: String,
    },
    /// It has it for other platforms only.
    #[error("{reference} is for {}, and this machine is {wanted}", has.join(", "))]
    Platform {
        /// What was asked for.
        reference: String,
        /// This machine's platform.
        wanted: String,
        /// The platforms that it has it for.
        has: Vec<String>,
    },
    /// What it sent is not what the digest says.
    #[error("what {host} sent for {reference} has the digest {is}, and should have {should}")]
    Digest {
        /// The registry.
        host: String,
        /// What was asked for.
        reference: String,
        /// The digest of what came.
        is: String,
        /// The digest that was announced.
        should: String,
    },
    /// What it sent is no manifest.
    #[error("what {host} sent for {reference} makes no sense: {why}")]
    Malformed {
        /// The registry.
        host: String,
        /// What was asked for.
        reference: String,
        /// Why not.
        why: String,
    },
}

impl RegistryError {
    /// The key of a finding about it: each kind has its own.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            RegistryError::Down { .. } => "registry-unreachable",
            RegistryError::Denied { .. } => "registry-login",
            RegistryError::TooMany { .. } => "registry-limit",
            RegistryError::Broken { .. } => "registry-broken",
            RegistryError::Here { .. } => "image-unknown",
            RegistryError::Missing { .. } => "image-missing",
            RegistryError::Platform { .. } => "image-platform",
            RegistryError::Digest { .. } => "registry-digest",
            RegistryError::Malformed { .. } => "registry-answer",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            RegistryError::Down { .. } => {
                "see that this host reaches the registry (name, proxy, certificate); or name a mirror with `registries`, or an archive with `archive`"
            }
            RegistryError::Denied { .. } => {
                "log in (`podman login` or `docker login` as root, or `login` of this step), or correct the repository: some registries answer so for one that does not exist"
            }
            RegistryError::TooMany { .. } => {
                "wait, log in for a higher limit, or name a mirror with `registries`"
            }
            RegistryError::Broken { .. } => "try again later, or name another registry with `registries`",
            RegistryError::Here { .. } => {
                "see what ails the container engine of this host (its journal), and mend it"
            }
            RegistryError::Missing { .. } => {
                "name an image that exists; there is one for some patch releases only"
            }
            RegistryError::Platform { .. } => "build an image for this platform, or use a machine of another",
            RegistryError::Digest { .. } => {
                "do not use this registry or what stands before it (a proxy, a mirror) until it is known why"
            }
            RegistryError::Malformed { .. } => "see that this is the address of a container registry",
        }
    }
}

/// An image in a registry, for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteImage {
    /// As it was asked for.
    pub reference: String,
    /// By the digest of what the tag leads to: what is pulled from now on.
    pub pinned: String,
    /// The digest of the image's configuration: its id in an engine.
    pub id: String,
    /// `linux/amd64`.
    pub platform: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Folders for which it wants volumes.
    pub volumes: Vec<String>,
}

/// This machine's platform, as registries name it.
#[must_use]
pub fn platform() -> String {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{machine}")
}

/// What HTTP clients of this process take for TLS. The process may have one already; either is fine.
pub fn provide_cryptography() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client for any number of registries.
#[derive(Debug, Clone)]
pub struct Registries {
    client: Client,
    platform: String,
}

#[derive(Deserialize, Default)]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

#[derive(Deserialize, Default)]
struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    config: Option<Inner>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Inner {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    volumes: Option<BTreeMap<String, serde_json::Value>>,
}

/// Docker Hub answers with both names; no field may have two.
#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// One repository, and how to be let in.
struct Repository<'c> {
    client: &'c Client,
    host: String,
    name: String,
    base: String,
    login: Option<&'c Login>,
    pass: Pass,
}

/// What a request carries. The password goes out only once the registry has asked for it.
enum Pass {
    Nothing,
    Token(Secret),
    Password,
}

impl Registries {
    /// A client that chooses images for `platform`.
    ///
    /// # Errors
    /// When this machine's certificates cannot be used.
    pub fn new(platform: &str) -> Result<Self, RegistryError> {
        provide_cryptography();
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(CONNECT_TIMEOUT_SECONDS))
            .timeout(Duration::from_secs(ANSWER_TIMEOUT_SECONDS))
            .user_agent(concat!("connect-migrator/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| RegistryError::Down { host: "a registry".into(), why: causes(&error) })?;
        Ok(Registries { client, platform: platform.into() })
    }

    fn repository<'c>(&'c self, name: &str, login: Option<&'c Login>) -> Repository<'c> {
        let (host, name) = host_and_repository(name);
        let address = if host == "docker.io" { "registry-1.docker.io" } else { host.as_str() };
        let bare = address.rsplit_once(':').map_or(address, |(bare, _)| bare);
        // As docker and podman have it, a registry on this machine needs no TLS.
        let local = bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let base = format!("{}://{address}", if local { "http" } else { "https" });
        Repository { client: &self.client, host, name, base, login, pass: Pass::Nothing }
    }

    /// Finds an image for this machine's platform and reads its labels. Pulls nothing.
    ///
    /// # Errors
    /// What the registry answered instead.
    pub async fn find(&self, reference: &str, login: Option<&Login>) -> Result<RemoteImage, RegistryError> {
        let (name, tag) = split(reference);
        let mut repository = self.repository(name, login);
        let asked = tag.unwrap_or("latest");
        let (digest, mut manifest) = repository.manifest(asked, reference).await?;
        if manifest.config.is_none() {
            let named = |d: &Descriptor| d.platform.as_ref().map(|p| format!("{}/{}", p.os, p.architecture));
            let mine = manifest.manifests.iter().find(|d| named(d).as_deref() == Some(&self.platform));
            let Some(mine) = mine else {
                let mut has: Vec<String> = manifest.manifests.iter().filter_map(named).collect();
                has.retain(|platform| !platform.starts_with("unknown"));
                return Err(self.other_platform(reference, has));
            };
            let digest = mine.digest.clone();
            manifest = repository.manifest(&digest, reference).await?.1;
        }
        let malformed = |why: &str| repository.malformed(reference, why);
        let id = manifest.config.ok_or_else(|| malformed("a manifest without configuration"))?.digest;
        let config = repository.blob(&id, reference).await?;
        let config: Config = serde_json::from_slice(&config)
            .map_err(|error| repository.malformed(reference, &error.to_string()))?;
        let platform = format!("{}/{}", config.os, config.architecture);
        if platform != self.platform {
            return Err(self.other_platform(reference, vec![platform]));
        }
        let inner = config.config.unwrap_or_default();
        Ok(RemoteImage {
            reference: reference.into(),
            pinned: format!("{name}@{digest}"),
            id,
            platform,
            labels: inner.labels.unwrap_or_default(),
            volumes: inner.volumes.unwrap_or_default().into_keys().collect(),
        })
    }

    fn other_platform(&self, reference: &str, has: Vec<String>) -> RegistryError {
        let has = if has.is_empty() { vec!["no platform at all".into()] } else { has };
        RegistryError::Platform { reference: reference.into(), wanted: self.platform.clone(), has }
    }

    /// The tags of a repository, up to twenty thousand.
    ///
    /// # Errors
    /// What the registry answered instead.
    pub async fn tags(&self, name: &str, login: Option<&Login>) -> Result<Vec<String>, RegistryError> {
        let mut repository = self.repository(name, login);
        let mut url = format!("{}/v2/{}/tags/list?n={TAGS_A_PAGE}", repository.base, repository.name);
        let mut all = Vec::new();
        for _ in 0..TAG_PAGES_MAX {
            let response = repository.get(&url, "", name).await?;
            let next = response.headers().get(LINK).and_then(|v| v.to_str().ok()).and_then(next_page);
            let body = repository.body(response, name, MANIFEST_MAX_BYTES).await?;
            let page: Tags = serde_json::from_slice(&body)
                .map_err(|error| repository.malformed(name, &error.to_string()))?;
            all.extend(page.tags.unwrap_or_default());
            match next {
                // Only further pages of the same registry.
                Some(path) if path.starts_with('/') => url = format!("{}{path}", repository.base),
                _ => break,
            }
        }
        Ok(all)
    }
}

/// `</v2/a/tags/list?last=x>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (path, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| path.to_owned())
}

impl Repository<'_> {
    fn malformed(&self, reference: &str, why: &str) -> RegistryError {
        RegistryError::Malformed { host: self.host.clone(), reference: reference.into(), why: shown(why) }
    }

    /// A manifest and its digest, which is compared with what was sent.
    async fn manifest(&mut self, tag: &str, reference: &str) -> Result<(String, Manifest), RegistryError> {
        let url = format!("{}/v2/{}/manifests/{tag}", self.base, self.name);
        let response = self.get(&url, MANIFESTS, reference).await?;
        let announced = response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok());
        let should =
            if tag.starts_with("sha256:") { Some(tag.to_owned()) } else { announced.map(str::to_owned) };
        let body = self.body(response, reference, MANIFEST_MAX_BYTES).await?;
        let digest = self.same(&body, should.as_deref(), reference)?;
        let manifest =
            serde_json::from_slice(&body).map_err(|error| self.malformed(reference, &error.to_string()))?;
        Ok((digest, manifest))
    }

    async fn blob(&mut self, digest: &str, reference: &str) -> Result<Vec<u8>, RegistryError> {
        let url = format!("{}/v2/{}/blobs/{digest}", self.base, self.name);
        let response = self.get(&url, "", reference).await?;
        let body = self.body(response, reference, CONFIG_MAX_BYTES).await?;
        self.same(&body, Some(digest), reference)?;
        Ok(body)
    }

    fn same(&self, body: &[u8], should: Option<&str>, reference: &str) -> Result<String, RegistryError> {
        let is = sha256(body);
        match should.filter(|should| should.starts_with("sha256:") && **should != is) {
            None => Ok(is),
            Some(should) => Err(RegistryError::Digest {
                host: self.host.clone(),
                reference: reference.into(),
                is,
                should: should.into(),
            }),
        }
    }

    async fn body(
        &self,
        mut response: Response,
        reference: &str,
        most: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.down(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > most {
                return Err(self.malformed(reference, &format!("an answer of more than {most} bytes")));
            }
        }
        Ok(body)
    }

    fn down(&self, error: &reqwest::Error) -> RegistryError {
        RegistryError::Down { host: self.host.clone(), why: causes(error) }
    }

    /// Asks, and asks again with a token or the password where the registry wants one.
    async fn get(&mut self, url: &str, accept: &str, reference: &str) -> Result<Response, RegistryError> {
        let response = self.send(url, accept).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !matches!(self.pass, Pass::Nothing) {
            return self.sorted(response, reference).await;
        }
        let wanted = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
        self.pass = match challenge(wanted) {
            Challenge::Token(wanted) => Pass::Token(self.fetch_token(&wanted, reference).await?),
            Challenge::Password if self.login.is_some() => Pass::Password,
            Challenge::Password => return self.sorted(response, reference).await,
        };
        let response = self.send(url, accept).await?;
        self.sorted(response, reference).await
    }

    async fn send(&self, url: &str, accept: &str) -> Result<Response, RegistryError> {
        let mut request = self.client.get(url);
        if !accept.is_empty() {
            request = request.header(ACCEPT, accept);
        }
        request = match (&self.pass, self.login) {
            (Pass::Token(token), _) => request.bearer_auth(token.expose()),
            (Pass::Password, Some(login)) => request.basic_auth(&login.user, Some(login.password.expose())),
            _ => request,
        };
        request.send().await.map_err(|error| self.down(&error))
    }

    async fn fetch_token(&self, wanted: &Wanted, reference: &str) -> Result<Secret, RegistryError> {
        let malformed = |why: String| self.malformed(reference, &why);
        let mut realm = reqwest::Url::parse(&wanted.realm)
            .map_err(|error| malformed(format!("it sends to `{}` for a token: {error}", wanted.realm)))?;
        if realm.scheme() != "https" && self.base.starts_with("https") {
            return Err(malformed(format!("it sends to {realm} for a token, without TLS")));
        }
        let scope = wanted.scope.clone().unwrap_or_else(|| format!("repository:{}:pull", self.name));
        realm.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = &wanted.service {
            realm.query_pairs_mut().append_pair("service", service);
        }
        let mut request = self.client.get(realm);
        if let Some(login) = self.login {
            request = request.basic_auth(&login.user, Some(login.password.expose()));
        }
        let response = request.send().await.map_err(|error| self.down(&error))?;
        let response = self.sorted(response, reference).await?;
        let body = self.body(response, reference, MANIFEST_MAX_BYTES).await?;
        let token: Token = serde_json::from_slice(&body).map_err(|error| malformed(error.to_string()))?;
        let token = token.token.or(token.access_token).filter(|token| !token.is_empty());
        token.map(Secret::new).ok_or_else(|| malformed("it answers without a token".into()))
    }

    /// Sorts out every answer but a good one.
    async fn sorted(&self, response: Response, reference: &str) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let (host, reference) = (self.host.clone(), reference.to_owned());
        let wait = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).map(|text| {
            if text.chars().all(|c| c.is_ascii_digit()) {
                format!("{text} s")
            } else {
                format!("until {text}")
            }
        });
        let body = self.body(response, &reference, MANIFEST_MAX_BYTES).await.unwrap_or_default();
        let said = words(&body);
        let status_code = status.as_u16();
        Err(match status_code {
            401 | 403 => RegistryError::Denied { host, reference, status: status_code, said },
            404 => RegistryError::Missing { reference },
            429 => RegistryError::TooMany { host, wait },
            _ => RegistryError::Broken { host, reference, status: status_code, said },
        })
    }
}

/// The message of a registry's error, or the beginning of what it sent.
fn words(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = json.as_ref().and_then(|json| {
        let first = json.get("errors")?.get(0)?;
        first.get("message").or_else(|| first.get("code"))?.as_str()
    });
    let text = message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    if text.trim().is_empty() { "it does not say why".into() } else { shown(text.trim()) }
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_MAX_CHARS).collect()
}

/// `sha256:…` of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::from("sha256:"), |text, byte| text + &format!("{byte:02x}"))
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
