//! Whether the Connect in the container serves, and is the one that it should be.

use crate::world::Subject;
use connect_migrator_connect::api::Api;
use connect_migrator_connect::gcfg::Gcfg;
use connect_migrator_connect::secrets;
use connect_migrator_connect::version::Version;
use connect_migrator_sdk::{Context, Progress, Secret, StepError};
use std::time::Duration;
use tokio::time::Instant;

/// How often it is asked.
const POLL_MILLIS: u64 = 50;
/// How long one question may take.
const PING_TIMEOUT_MILLIS: u64 = 2_000;
/// After how many questions it is asked whether the container still runs.
const STATE_EVERY: u32 = 4;
/// Shorter values are no secrets worth hiding, and would blot out words.
const SECRET_MIN_CHARS: usize = 4;

/// A server that answers as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthy {
    /// The version that it reports, or else that of its image.
    pub version: Option<Version>,
    /// The version was reported by the server itself.
    pub reported: bool,
}

/// Why a server is not (yet) taken for healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unwell {
    /// It may come.
    NotYet(String),
    /// Waiting does not help.
    Wrong(StepError),
}

/// What is expected of the server.
#[derive(Debug)]
pub struct Expected {
    /// The source's version.
    pub source: Option<Version>,
    /// What the image says.
    pub image: Option<Version>,
    with_key: Api,
    without_key: Api,
}

impl Expected {
    /// Prepares to ask the container's address, under the name that users know.
    ///
    /// # Errors
    /// When the address or the key cannot be used.
    pub fn new(
        subject: &Subject<'_>,
        public: Option<&str>,
        key: Option<Secret>,
        source: Option<Version>,
        image: Option<Version>,
    ) -> Result<Self, StepError> {
        let address = subject.address();
        let local = format!("http://{address}");
        let api = |key: Option<Secret>| {
            Api::with_address(public.unwrap_or(&local), &address, key)
                .map_err(|error| StepError::new(format!("ask the container at {address}")).because(error))
        };
        Ok(Expected { source, image, with_key: api(key)?, without_key: api(None)? })
    }

    /// Looks once.
    ///
    /// # Errors
    /// See [`Unwell`].
    pub async fn look(&self, subject: &Subject<'_>) -> Result<Healthy, Unwell> {
        self.ask(subject, Duration::from_millis(PING_TIMEOUT_MILLIS)).await
    }

    /// Looks again and again until `limit` is over: a server that is at work may leave a question unanswered.
    ///
    /// # Errors
    /// See [`Unwell`].
    pub async fn look_patiently(&self, subject: &Subject<'_>, limit: Duration) -> Result<Healthy, Unwell> {
        let deadline = Instant::now() + limit;
        // So that it is asked twice at least.
        let ping = limit.min(subject.settings.answer_timeout.duration()) / 2;
        loop {
            match self.ask(subject, ping).await {
                Err(Unwell::NotYet(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(POLL_MILLIS)).await;
                }
                end => return end,
            }
        }
    }

    async fn ask(&self, subject: &Subject<'_>, ping: Duration) -> Result<Healthy, Unwell> {
        self.without_key.ping_within(ping).await.map_err(|error| Unwell::NotYet(error.to_string()))?;
        let settings = match self.with_key.server_settings().await {
            // Everybody gets them; whether the key is good is for others to say.
            Err(error) if matches!(error.status(), Some(401 | 403)) => {
                self.without_key.server_settings().await
            }
            other => other,
        };
        let settings = settings.map_err(|error| Unwell::NotYet(error.to_string()))?;
        let (name, address) = (&subject.names.container, subject.address());
        if let Some(hostname) = settings.hostname.as_deref().filter(|h| *h != subject.names.hostname) {
            return Err(Unwell::Wrong(
                StepError::new(format!("reach the container {name} at {address}"))
                    .because(format!(
                        "a server answers there that says its host is `{hostname}`, and the container's is `{}`",
                        subject.names.hostname
                    ))
                    .remedy("find out which program listens there, or choose another `publish`"),
            ));
        }
        let reported = settings.version.as_deref().and_then(Version::find);
        let version = reported.or(self.image);
        match (version, self.source.or(self.image)) {
            (Some(is), Some(should)) if !is.same_release(&should) => Err(Unwell::Wrong(
                StepError::new(format!("take the container {name} for the new server"))
                    .because(format!("it has version {is}, and the source has {should}"))
                    .remedy(format!(
                        "name an image of {should}; an upgrade comes before the move or after it"
                    )),
            )),
            _ => Ok(Healthy { version, reported: reported.is_some() }),
        }
    }
}

/// Whether a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs, or is on its way.
    Runs,
    /// It does not, and why: "it ended with status 1".
    Ended(String),
}

/// What runs the container: an engine, or systemd.
pub trait Runner: Sync {
    /// Whether it runs.
    ///
    /// # Errors
    /// When it cannot be told.
    fn state(&self) -> impl Future<Output = Result<State, StepError>> + Send;

    /// The last lines that it printed; empty when there are none, or they cannot be read.
    fn last_lines(&self) -> impl Future<Output = Vec<String>> + Send;
}

/// Waits until the server is healthy.
///
/// # Errors
/// When the container ends, another version or server answers, the time is over, or the call is cancelled; with the container's last
/// log lines.
pub async fn wait(
    subject: &Subject<'_>,
    cx: &Context,
    runner: &impl Runner,
    expected: &Expected,
) -> Result<Healthy, StepError> {
    let name = &subject.names.container;
    let started = Instant::now();
    let deadline = started + subject.settings.start_timeout.duration();
    let mut round: u32 = 0;
    loop {
        let why = match expected.look(subject).await {
            Ok(healthy) => return Ok(healthy),
            Err(Unwell::Wrong(error)) => return Err(error),
            Err(Unwell::NotYet(why)) => why,
        };
        if round.is_multiple_of(STATE_EVERY) {
            if let State::Ended(why) = runner.state().await? {
                let lines = log_of(subject, runner).await;
                let remedy = remedy_for(&lines);
                return Err(StepError::new(format!("start Connect in the container {name}"))
                    .because(why + &lines)
                    .remedy(remedy));
            }
            cx.progress(&Progress {
                doing: format!(
                    "waiting for Connect to answer at {} ({} s)",
                    subject.address(),
                    started.elapsed().as_secs()
                ),
                ..Progress::default()
            });
        }
        if cx.is_cancelled() {
            return Err(StepError::cancelled(format!("wait for the container {name}")));
        }
        if Instant::now() >= deadline {
            return Err(StepError::new(format!("start Connect in the container {name}"))
                .because(format!(
                    "it does not answer at {} after {}: {why}{}",
                    subject.address(),
                    subject.settings.start_timeout,
                    log_of(subject, runner).await
                ))
                .remedy("see its log lines; if it only needs longer, raise `start-timeout`"));
        }
        round += 1;
        tokio::time::sleep(Duration::from_millis(POLL_MILLIS)).await;
    }
}

/// What the product's own words mean.
fn remedy_for(lines: &str) -> &'static str {
    if lines.contains("Unable to launch a sandbox") {
        "the sandbox lacks privileges: leave `privileges` at \"privileged\", or see which security module denies `unshare` and `mount`"
    } else if lines.contains("unknown user") {
        "the image does not know the user that runs content: set `run-as-ids = \"keep\"`, or use an image that does"
    } else if lines.contains("Unable to obtain a valid license") {
        "see that the licence file is valid, and not bound to this host"
    } else if lines.contains("Could not locate a Python installation") {
        "the configuration names a Python that the image does not have; see `connect-migrator plan`"
    } else {
        "see its log lines above"
    }
}

/// The container's last log lines, secrets hidden.
pub async fn log_of(subject: &Subject<'_>, runner: &impl Runner) -> String {
    let lines = runner.last_lines().await;
    if lines.is_empty() {
        return "; it printed nothing".into();
    }
    let known = known_secrets(subject);
    let shown: Vec<String> = lines.iter().map(|line| hide(line, &known)).collect();
    format!("; its last lines:\n{}", shown.join("\n"))
}

fn known_secrets(subject: &Subject<'_>) -> Vec<String> {
    let bytes = std::fs::read(subject.staged_config()).unwrap_or_default();
    let Ok(gcfg) = Gcfg::parse(&bytes) else { return Vec::new() };
    gcfg.settings()
        .filter_map(|s| Some((s.key, s.value?)))
        .filter(|(key, value)| secrets::redact_value(key, value) == secrets::HIDDEN)
        .map(|(_, value)| value.to_owned())
        .filter(|value| value.len() >= SECRET_MIN_CHARS)
        .collect()
}

fn hide(line: &str, known: &[String]) -> String {
    known.iter().fold(secrets::redact_line(line), |line, secret| line.replace(secret, secrets::HIDDEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_lose_their_secrets() {
        let known = vec!["hunter2".to_string()];
        let line = hide("dial postgres://c:abc@db/x with hunter2", &known);
        assert!(!line.contains("hunter2") && !line.contains("abc"), "{line}");
        assert_eq!(hide("Starting Posit Connect v2026.03.1", &known), "Starting Posit Connect v2026.03.1");
    }
}
