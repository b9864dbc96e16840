//! The nginx on this machine: what it says about a configuration, and how it is told to read it again.

use crate::settings::Settings;
use crate::workers::Workers;
use std::future::Future;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::Command;

/// The service that runs nginx. systemd in production; a seam for tests.
pub trait Service: Send + Sync {
    /// Whether nginx runs.
    fn is_active(&self) -> impl Future<Output = Result<bool, ServiceError>> + Send;

    /// nginx' main process, if it is known.
    fn main_pid(&self) -> impl Future<Output = Option<u32>> + Send;

    /// Tells nginx to read its configuration again, and returns once it was told. That it took the configuration over has to be seen
    /// by a request: nginx goes on with the old one when it cannot.
    fn reload(&self) -> impl Future<Output = Result<(), ServiceError>> + Send;
}

/// The service could not be asked, or did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not {tried} {unit}: {why}")]
pub struct ServiceError {
    /// The verb.
    pub tried: &'static str,
    /// The unit.
    pub unit: String,
    /// Why.
    pub why: String,
}

/// `nginx -t` refused a configuration, or could not be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TestError {
    /// The configuration is broken.
    #[error("{0}")]
    Refused(String),
    /// The binary could not be run.
    #[error("could not run {command}: {why}")]
    NotRun {
        /// What was run.
        command: String,
        /// Why it could not.
        why: String,
    },
}

/// How long the old workers may take to stop listening; requests tell the rest.
const OLD_WORKERS_TIMEOUT_SECONDS: u64 = 10;

/// Has nginx read its configuration, and returns once no process with the old one takes requests.
///
/// # Errors
/// As [`Service::reload`].
pub async fn reload(settings: &Settings, service: &impl Service) -> Result<(), ServiceError> {
    let old = Workers::now(service.main_pid().await);
    service.reload().await?;
    old.stopped(settings.verify_time().min(Duration::from_secs(OLD_WORKERS_TIMEOUT_SECONDS))).await;
    Ok(())
}

/// Runs `nginx -t` on the configuration that starts with `main`.
///
/// # Errors
/// When nginx refuses it, with the lines in which it says why; or when it could not be run.
pub async fn test(settings: &Settings, main: &Path) -> Result<(), TestError> {
    let mut command = Command::new(&settings.nginx);
    command.arg("-t").arg("-c").arg(main);
    if let Some(prefix) = &settings.prefix {
        command.arg("-p").arg(prefix);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let shown = format!("{} -t -c {}", settings.nginx.display(), main.display());
    let not_run = |why: String| TestError::NotRun { command: shown.clone(), why };
    let limit: Duration = settings.reload_time();
    let output = match tokio::time::timeout(limit, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(not_run(error.to_string())),
        Err(_) => {
            return Err(not_run(format!(
                "no answer within {} s; nginx resolves the names of upstream servers while it tests",
                limit.as_secs()
            )));
        }
    };
    if output.status.success() {
        return Ok(());
    }
    Err(TestError::Refused(said(&String::from_utf8_lossy(&output.stderr), output.status)))
}

/// The lines that matter of what `nginx -t` printed.
fn said(stderr: &str, status: ExitStatus) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let grave =
        |line: &&str| ["[emerg]", "[alert]", "[crit]", "[error]"].iter().any(|mark| line.contains(mark));
    let mut chosen: Vec<&str> = lines.iter().copied().filter(grave).collect();
    if chosen.is_empty() {
        chosen = lines;
    }
    if chosen.is_empty() { format!("nginx -t ended with {status}") } else { chosen.join("; ") }
}
