//! The API of docker, which podman speaks too, as far as the steps need it, with errors that say what was asked.

use crate::kind::Kind;
use bollard::Docker as Client;
use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerUpdateBody, ImageInspect, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, DownloadFromContainerOptionsBuilder,
    ImportImageOptionsBuilder, InspectContainerOptions, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions, StopContainerOptionsBuilder,
};
use bytes::Bytes;
use connect_migrator_sdk::StepError;
use futures_util::{Stream, StreamExt};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

/// What a stop may take longer than the container's own time to end.
const STOP_MARGIN_SECONDS: u64 = 30;
/// How long a pull may stand still before it counts as failed.
const PULL_SILENCE_SECONDS: u64 = 300;
/// How much of the file is handed over at a time.
const LOAD_CHUNK_BYTES: usize = 256 * 1024;
/// How long an engine that does not answer is left alone before it is asked again.
const RETRY_MILLIS: u64 = 500;
/// How much of a container's log is shown.
const LOG_LINES: usize = 20;
/// How much of it is read.
const LOG_MAX_BYTES: usize = 64 * 1024;
/// Files that are read out of a container are smaller.
const FILE_MAX_BYTES: usize = 1024 * 1024;

/// A call of the engine that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// It does not answer.
    #[error("the {kind} engine at {} does not answer: {why}", socket.display())]
    Away {
        /// Which engine.
        kind: Kind,
        /// Its socket.
        socket: PathBuf,
        /// Why not.
        why: String,
    },
    /// It refused.
    #[error("the {kind} engine would not {call}: {message} (status {status})")]
    Refused {
        /// Which engine.
        kind: Kind,
        /// What was asked, as it follows "would not".
        call: String,
        /// The HTTP status; 0 when the refusal came later.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// It took too long.
    #[error("the {kind} engine took more than {seconds} s to {call}")]
    Slow {
        /// Which engine.
        kind: Kind,
        /// What was asked.
        call: String,
        /// The limit.
        seconds: u64,
        /// The setting of the step that raises it.
        setting: Option<&'static str>,
    },
}

impl EngineError {
    /// Whether the thing asked for is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, EngineError::Refused { status: 404, .. })
    }

    /// Whether the engine itself cannot be reached, so that nothing is known.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, EngineError::Away { .. } | EngineError::Slow { .. })
    }

    /// As a step's error.
    #[must_use]
    pub fn step(self) -> StepError {
        let (tried, why, remedy) = match self {
            EngineError::Away { kind, socket, why } => {
                (format!("reach the {kind} engine at {}", socket.display()), why, kind.status())
            }
            EngineError::Refused { kind, call, status, message } => {
                let why = if status == 0 { message } else { format!("{message} (status {status})") };
                (call, why, kind.journal())
            }
            EngineError::Slow { kind, call, seconds, setting } => {
                let why = format!("the {kind} engine took more than {seconds} s");
                let raise = setting.map(|setting| format!("; if it only needs longer, raise `{setting}`"));
                let remedy = format!("{}{}", kind.journal(), raise.unwrap_or_default());
                return StepError::new(call).because(why).remedy(remedy);
            }
        };
        StepError::new(tried).because(why).remedy(remedy)
    }
}

/// Login for a registry.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password or token.
    pub password: connect_migrator_sdk::Secret,
}

/// An engine that has answered.
#[derive(Debug, Clone)]
pub struct Engine {
    client: Client,
    socket: PathBuf,
    /// What one call may take.
    call_timeout: Duration,
    /// Which engine.
    pub kind: Kind,
    /// Its version, `26.1.5`.
    pub version: String,
    /// The version of its API, `1.45`.
    pub api: String,
}

/// What the engine finds of an image in its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InRegistry {
    /// Its digest.
    pub digest: String,
    /// For which platforms there is one; empty when the registry does not tell.
    pub platforms: Vec<String>,
}

/// Bytes of a pull so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pulled {
    /// Bytes that have come.
    pub done: u64,
    /// Bytes of the layers that are known so far.
    pub total: u64,
}

impl Engine {
    /// Connects, and agrees on a version of the API. That and each later call may take `call_timeout`; starting, stopping, pulling
    /// and loading have limits of their own.
    ///
    /// # Errors
    /// When the engine does not answer in time.
    pub async fn connect(kind: Kind, socket: &Path, call_timeout: Duration) -> Result<Self, EngineError> {
        let away = |why: String| EngineError::Away { kind, socket: socket.into(), why };
        let path = socket.to_string_lossy();
        let hello = async {
            let seconds = call_timeout.as_secs();
            let client = Client::connect_with_unix(&path, seconds, bollard::API_DEFAULT_VERSION)?;
            let client = client.negotiate_version().await?;
            let about = client.version().await?;
            Ok::<_, Error>((client, about))
        };
        let (client, about) = tokio::time::timeout(call_timeout, hello)
            .await
            .map_err(|_| away(format!("no answer in {} s", call_timeout.as_secs())))?
            .map_err(|error| away(causes(&error)))?;
        Ok(Engine {
            client,
            socket: socket.into(),
            call_timeout,
            kind,
            version: about.version.unwrap_or_default(),
            api: about.api_version.unwrap_or_default(),
        })
    }

    /// [`Engine::connect`], again and again until `limit`. Connecting also makes systemd start an engine with socket activation.
    ///
    /// # Errors
    /// The last refusal.
    pub async fn connect_within(kind: Kind, socket: &Path, limit: Duration) -> Result<Self, EngineError> {
        let deadline = Instant::now() + limit;
        loop {
            match Self::connect(kind, socket, limit).await {
                Ok(engine) => return Ok(engine),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(RETRY_MILLIS)).await,
            }
        }
    }

    fn failed(&self, call: impl Into<String>, error: Error) -> EngineError {
        self.failed_within(self.call_timeout, Some("engine-timeout"), call, error)
    }

    fn failed_within(
        &self,
        limit: Duration,
        setting: Option<&'static str>,
        call: impl Into<String>,
        error: Error,
    ) -> EngineError {
        let (call, kind) = (call.into(), self.kind);
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                EngineError::Refused { kind, call, status: status_code, message: message.trim().into() }
            }
            Error::DockerStreamError { error } => {
                EngineError::Refused { kind, call, status: 0, message: error }
            }
            Error::RequestTimeoutError => EngineError::Slow { kind, call, seconds: limit.as_secs(), setting },
            error @ (Error::HyperResponseError { .. }
            | Error::HyperLegacyError { .. }
            | Error::IOError { .. }
            | Error::SocketNotFoundError(_)) => {
                EngineError::Away { kind, socket: self.socket.clone(), why: causes(&error) }
            }
            error => EngineError::Refused { kind, call, status: 0, message: causes(&error) },
        }
    }

    /// What limits the engine sets on containers: `name=apparmor`, `name=rootless`, …
    ///
    /// # Errors
    /// When it does not say.
    pub async fn security_options(&self) -> Result<Vec<String>, EngineError> {
        let info = self.client.info().await.map_err(|error| self.failed("say how it is set up", error))?;
        Ok(info.security_options.unwrap_or_default())
    }

    /// A local image; `None` when it is not there.
    ///
    /// # Errors
    /// When the engine does not say.
    pub async fn image(&self, reference: &str) -> Result<Option<ImageInspect>, EngineError> {
        match self.client.inspect_image(reference).await {
            Ok(image) => Ok(Some(image)),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(self.failed(format!("look at the image {reference}"), error)),
        }
    }

    /// Asks the image's registry for it, without pulling it.
    ///
    /// # Errors
    /// When the registry does not have it, or cannot be asked.
    pub async fn in_registry(
        &self,
        reference: &str,
        login: Option<&Credentials>,
    ) -> Result<InRegistry, EngineError> {
        let call = format!("find {reference} in its registry");
        let found = self.client.inspect_registry_image(reference, credentials(login)).await;
        let found = found.map_err(|error| self.failed(&call, error))?;
        let platforms = found
            .platforms
            .iter()
            .filter_map(|p| Some(format!("{}/{}", p.os.as_deref()?, p.architecture.as_deref()?)))
            .collect();
        Ok(InRegistry { digest: found.descriptor.digest.unwrap_or_default(), platforms })
    }

    /// Pulls an image; tells how far it has come.
    ///
    /// # Errors
    /// When it cannot be pulled, or stands still for five minutes.
    pub async fn pull(
        &self,
        reference: &str,
        login: Option<&Credentials>,
        mut tell: impl FnMut(Pulled),
    ) -> Result<(), EngineError> {
        let call = format!("pull {reference}");
        let options = CreateImageOptionsBuilder::new().from_image(reference).build();
        // The stream ends when the pull does; silence is what must not last.
        let client = self.client.clone().with_timeout(Duration::from_secs(PULL_SILENCE_SECONDS));
        let mut stream = std::pin::pin!(client.create_image(Some(options), None, credentials(login)));
        let mut layers: BTreeMap<String, Pulled> = BTreeMap::new();
        loop {
            let next = tokio::time::timeout(Duration::from_secs(PULL_SILENCE_SECONDS), stream.next()).await;
            let Ok(next) = next else {
                let (kind, seconds) = (self.kind, PULL_SILENCE_SECONDS);
                return Err(EngineError::Slow { kind, call, seconds, setting: None });
            };
            let Some(line) = next else { return Ok(()) };
            let line = line.map_err(|error| self.failed(&call, error))?;
            if let Some(error) = line.error_detail {
                let message = error.message.unwrap_or_else(|| "it did not say why".into());
                return Err(EngineError::Refused { kind: self.kind, call, status: 0, message });
            }
            let (Some(id), Some(status)) = (line.id, line.status) else { continue };
            let layer = layers.entry(id).or_default();
            match (status.as_str(), line.progress_detail) {
                ("Downloading", Some(detail)) => {
                    let count = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
                    layer.done = count(detail.current).unwrap_or(layer.done);
                    layer.total = count(detail.total).unwrap_or(layer.total).max(layer.done);
                }
                ("Download complete" | "Pull complete", _) => layer.done = layer.total,
                _ => continue,
            }
            tell(layers.values().fold(Pulled::default(), |sum, layer| Pulled {
                done: sum.done + layer.done,
                total: sum.total + layer.total,
            }));
        }
    }

    /// Loads an image out of a file; tells how much of it has been read.
    ///
    /// # Errors
    /// When it cannot be read or loaded, or that takes longer than `limit`.
    pub async fn load(
        &self,
        path: &Path,
        limit: Duration,
        tell: impl Fn(Pulled) + Send + Sync + 'static,
    ) -> Result<(), EngineError> {
        let call = format!("load {}", path.display());
        let unreadable = |error: std::io::Error| EngineError::Refused {
            kind: self.kind,
            call: call.clone(),
            status: 0,
            message: error.to_string(),
        };
        let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let total = file.metadata().await.map_err(unreadable)?.len();
        let chunks = futures_util::stream::try_unfold((file, 0u64), move |(mut file, done)| {
            tell(Pulled { done, total });
            async move {
                let mut chunk = vec![0; LOAD_CHUNK_BYTES];
                let read = file.read(&mut chunk).await?;
                chunk.truncate(read);
                let next = (file, done + read as u64);
                Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(chunk), next)))
            }
        });
        let client = self.client.clone().with_timeout(limit);
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let mut stream = std::pin::pin!(client.import_image_stream(options, chunks, None));
        let deadline = Instant::now() + limit;
        loop {
            let next = tokio::time::timeout_at(deadline, stream.next()).await;
            match next.unwrap_or(Some(Err(Error::RequestTimeoutError))) {
                None => return Ok(()),
                Some(line) => {
                    line.map_err(|error| self.failed_within(limit, Some("pull-timeout"), &call, error))
                        .map(drop)?;
                }
            }
        }
    }

    /// A container; `None` when there is none of that name.
    ///
    /// # Errors
    /// When the engine does not say.
    pub async fn container(&self, name: &str) -> Result<Option<ContainerInspectResponse>, EngineError> {
        match self.client.inspect_container(name, None::<InspectContainerOptions>).await {
            Ok(container) => Ok(Some(container)),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(self.failed(format!("look at the container {name}"), error)),
        }
    }

    /// Creates a container and does not start it. Answers its id.
    ///
    /// # Errors
    /// When the engine refuses: a mount's source is missing, the name is taken, …
    pub async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<String, EngineError> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let created = self.client.create_container(Some(options), body).await;
        created.map(|c| c.id).map_err(|error| self.failed(format!("create the container {name}"), error))
    }

    /// Starts a container; one that runs stays as it is. The engine mounts what the container sees, which may take long.
    ///
    /// # Errors
    /// When it cannot be started, or not within `limit`, which `setting` raises: it may start later then.
    pub async fn start(
        &self,
        name: &str,
        limit: Duration,
        setting: Option<&'static str>,
    ) -> Result<(), EngineError> {
        let client = self.client.clone().with_timeout(limit);
        match client.start_container(name, None::<StartContainerOptions>).await {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 304, .. }) => Ok(()),
            Err(error) => {
                Err(self.failed_within(limit, setting, format!("start the container {name}"), error))
            }
        }
    }

    /// Asks a container's first process to end, and kills it after `limit`. One that does not run stays as it is.
    ///
    /// # Errors
    /// When the engine cannot.
    pub async fn stop(&self, name: &str, limit: Duration) -> Result<(), EngineError> {
        let seconds = i32::try_from(limit.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let limit = limit + Duration::from_secs(STOP_MARGIN_SECONDS);
        let client = self.client.clone().with_timeout(limit);
        match client.stop_container(name, Some(options)).await {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 304 | 404, .. }) => Ok(()),
            Err(error) => Err(self.failed_within(
                limit,
                Some("stop-timeout"),
                format!("stop the container {name}"),
                error,
            )),
        }
    }

    /// Removes a container that does not run, never a volume. One that is not there is fine.
    ///
    /// # Errors
    /// When it runs, or the engine cannot.
    pub async fn remove(&self, name: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new().v(false).force(false).build();
        match self.client.remove_container(name, Some(options)).await {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(error) => Err(self.failed(format!("remove the container {name}"), error)),
        }
    }

    /// Kills and removes a container that is there only to look at an image, with the volumes that it made. One that is not there is fine.
    ///
    /// # Errors
    /// When the engine cannot.
    pub async fn remove_by_force(&self, name: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new().v(true).force(true).build();
        match self.client.remove_container(name, Some(options)).await {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(error) => Err(self.failed(format!("remove the container {name}"), error)),
        }
    }

    /// Sets what the engine does when the container ends or the machine starts.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn restart_policy(&self, name: &str, policy: RestartPolicyNameEnum) -> Result<(), EngineError> {
        let call = format!("set the restart policy of {name} to {policy}");
        let policy = RestartPolicy { name: Some(policy), maximum_retry_count: None };
        let body = ContainerUpdateBody { restart_policy: Some(policy), ..Default::default() };
        self.client.update_container(name, body).await.map_err(|error| self.failed(call, error))
    }

    /// The last lines of a container's log; empty when there are none, or it cannot be read.
    pub async fn last_lines(&self, name: &str) -> Vec<String> {
        self.lines(name, LOG_LINES).await
    }

    /// So many lines of the end of a container's log; empty when there are none, or it cannot be read.
    pub async fn lines(&self, name: &str, most: usize) -> Vec<String> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(&most.to_string()).build();
        let bytes = collect(self.client.logs(name, Some(options)), LOG_MAX_BYTES).await;
        let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
        text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// The bytes of one file of a container, also of one that was never started.
    ///
    /// # Errors
    /// When it is not there, is no plain file, or is larger than 1 MiB.
    pub async fn file(&self, name: &str, path: &str) -> Result<Vec<u8>, EngineError> {
        let call = format!("hand out {path} of the container {name}");
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let archive = collect(self.client.download_from_container(name, Some(options)), FILE_MAX_BYTES)
            .await
            .map_err(|error| self.failed(&call, error))?;
        first_file(&archive).ok_or_else(|| EngineError::Refused {
            kind: self.kind,
            call,
            status: 0,
            message: format!("it is no plain file below {FILE_MAX_BYTES} bytes"),
        })
    }
}

fn credentials(login: Option<&Credentials>) -> Option<DockerCredentials> {
    login.map(|login| DockerCredentials {
        username: Some(login.user.clone()),
        password: Some(login.password.expose().to_owned()),
        ..Default::default()
    })
}

async fn collect<T: AsRef<[u8]>>(
    stream: impl Stream<Item = Result<T, Error>>,
    most: usize,
) -> Result<Vec<u8>, Error> {
    let mut stream = std::pin::pin!(stream);
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(chunk?.as_ref());
        if bytes.len() > most {
            bytes.truncate(most);
            break;
        }
    }
    Ok(bytes)
}

/// The first plain file of a tar archive.
fn first_file(archive: &[u8]) -> Option<Vec<u8>> {
    const BLOCK: usize = 512;
    let mut at = 0;
    loop {
        let header = archive.get(at..at + BLOCK)?;
        let size = std::str::from_utf8(header.get(124..136)?).ok()?;
        let size = usize::from_str_radix(size.trim_matches(['\0', ' ']), 8).ok()?;
        let body = at + BLOCK;
        match header.get(156)? {
            b'0' | 0 => return archive.get(body..body.checked_add(size)?).map(<[u8]>::to_vec),
            // Extended headers stand before the file.
            b'x' | b'g' | b'L' => at = body.checked_add(size.div_ceil(BLOCK).checked_mul(BLOCK)?)?,
            _ => return None,
        }
    }
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut header = vec![0u8; 512];
        header[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
        header[156] = kind;
        header.extend_from_slice(body);
        header.resize(512 + body.len().div_ceil(512) * 512, 0);
        header
    }

    #[test]
    fn the_file_of_an_archive_is_found_behind_extended_headers() {
        let archive = [entry(b'x', &[7; 600]), entry(b'0', b"root:x:0:0\n")].concat();
        assert_eq!(first_file(&archive).unwrap(), b"root:x:0:0\n");
        assert_eq!(first_file(&entry(b'2', b"")), None);
        assert_eq!(first_file(&archive[..700]), None);
        assert_eq!(first_file(&[0xff; 600]), None);
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_named() {
        let error = Engine::connect(Kind::Docker, Path::new("/nowhere/docker.sock"), Duration::from_secs(9))
            .await
            .unwrap_err();
        assert!(error.is_away());
        assert!(error.to_string().contains("/nowhere/docker.sock"), "{error}");
    }
}
