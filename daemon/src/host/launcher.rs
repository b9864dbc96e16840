//! How a step host is started. A seam: the same conversation runs with a plain child and with a transient unit.

use super::{HostLimits, PluginRef, Seat, Trust};
use connect_migrator_sdk::Needs;
use futures_util::future::BoxFuture;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// Where a step host looks for programs: the daemon's own environment is not handed on.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// So that programs which a plugin starts answer in English and UTF-8.
pub(super) const LANG: &str = "C.UTF-8";

/// How often the end of a process is looked for that is about to end.
const END_POLL_MILLIS: u64 = 2;

/// What is to be started.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// Whose code.
    pub plugin: PluginRef,
    /// What for, as in "apply of the step `container` (plugin docker)".
    pub what: String,
    /// What it needs of the machine. `None`: everything.
    pub needs: Option<Needs>,
    /// The settings that [`Needs::writes_beside`](field@Needs::writes_beside) speaks of.
    pub settings: serde_json::Value,
    /// The folder that it may write in any case.
    pub state_dir: Option<PathBuf>,
    /// After this time the process is ended by whatever means the launcher has, also when the daemon is gone.
    pub lifetime: Duration,
    /// Set for a call that may go on when the daemon is gone.
    pub seat: Option<Seat>,
}

/// Starts step hosts.
pub trait Launcher: Send + Sync {
    /// Starts the process in which the plugin's code will run.
    fn launch<'a>(&'a self, start: &'a Start) -> BoxFuture<'a, Result<Running, NotLaunched>>;
    /// Bounds of the calls.
    fn limits(&self) -> &HostLimits;
    /// Which files may be loaded.
    fn trust(&self) -> &Trust;
}

/// A process could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{program} cannot be started: {why}")]
pub struct NotLaunched {
    /// What was to be started.
    pub program: PathBuf,
    /// What the system said.
    pub why: String,
}

/// A step host that was started.
pub struct Running {
    /// Our end of its socket.
    pub socket: UnixStream,
    /// What it writes to standard output and standard error, each with its name.
    pub outputs: Vec<(&'static str, Box<dyn AsyncRead + Send + Unpin>)>,
    /// The process. Dropping it kills it.
    pub process: Box<dyn StepProcess>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

/// A step host's process and everything that it started.
pub trait StepProcess: Send {
    /// Asks them to end (SIGTERM).
    fn terminate(&mut self);
    /// Ends them (SIGKILL).
    fn kill(&mut self);
    /// How the process ended, as it follows "the step host"; `None` if it has not within `within`.
    fn ended(&mut self, within: Duration) -> BoxFuture<'_, Option<String>>;
    /// Kills what is left and waits until the process is gone. `false` when it is not within `within`.
    fn finish(&mut self, within: Duration) -> BoxFuture<'_, bool>;
}

/// Starts step hosts as children, each in a process group of its own.
#[derive(Debug, Clone)]
pub struct ChildLauncher {
    program: Option<PathBuf>,
    limits: HostLimits,
    trust: Trust,
}

impl Default for ChildLauncher {
    /// This very program, default bounds, files that only root can have changed.
    fn default() -> Self {
        ChildLauncher { program: None, limits: HostLimits::default(), trust: Trust::default() }
    }
}

impl ChildLauncher {
    /// Sets the program that has the subcommand `step-host`. Without it, the running program.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Sets the bounds.
    #[must_use]
    pub fn with_limits(mut self, limits: HostLimits) -> Self {
        self.limits = limits;
        self
    }

    /// For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn trusting(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    fn start(&self, plugin: &PluginRef) -> Result<Running, NotLaunched> {
        // Not the path that `current_exe` reads: that one is gone when the package is upgraded meanwhile.
        let program = self.program.clone().unwrap_or_else(|| "/proc/self/exe".into());
        let wrong =
            |why: &dyn std::fmt::Display| NotLaunched { program: program.clone(), why: why.to_string() };
        let (ours, theirs) = StdUnixStream::pair().map_err(|error| wrong(&error))?;
        ours.set_nonblocking(true).map_err(|error| wrong(&error))?;
        let mut command = Command::new(&program);
        command.arg0("connect-migrator").arg("step-host");
        command
            .args(plugin.arguments())
            .args(self.trust.arguments())
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", LANG)
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().map_err(|error| wrong(&error))?;
        // The command holds their end of the socket, which must close with the child.
        drop(command);
        let socket = UnixStream::from_std(ours).map_err(|error| wrong(&error))?;
        let mut outputs: Vec<(&'static str, Box<dyn AsyncRead + Send + Unpin>)> = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            outputs.push(("stdout", Box::new(stdout)));
        }
        if let Some(stderr) = child.stderr.take() {
            outputs.push(("stderr", Box::new(stderr)));
        }
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Running { socket, outputs, process: Box::new(ChildProcess { child, group }) })
    }
}

impl Launcher for ChildLauncher {
    fn launch<'a>(&'a self, start: &'a Start) -> BoxFuture<'a, Result<Running, NotLaunched>> {
        Box::pin(async move { self.start(&start.plugin) })
    }

    fn limits(&self) -> &HostLimits {
        &self.limits
    }

    fn trust(&self) -> &Trust {
        &self.trust
    }
}

struct ChildProcess {
    child: Child,
    /// The process, which leads its group. `None` once it has been waited for: the number may then belong to somebody else.
    group: Option<Pid>,
}

impl ChildProcess {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            let _ = killpg(group, signal); // fails only when nothing is left of it
        }
    }

    /// How the process ended, without waiting for it: until then its number cannot be given to another.
    fn peek(&self) -> Option<String> {
        let group = self.group?;
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(group), flags) {
            Ok(WaitStatus::Exited(_, status)) => Some(exited(status)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(signalled(signal)),
            Err(Errno::ECHILD) => Some("ended".into()),
            _ => None,
        }
    }
}

impl PluginRef {
    /// As a step host's command line says it.
    pub(super) fn arguments(&self) -> [std::ffi::OsString; 2] {
        match self {
            PluginRef::BuiltIn(name) => ["--built-in".into(), name.into()],
            PluginRef::File(path) => ["--file".into(), path.into()],
        }
    }
}

/// How a process ended by itself, as it follows "the step host".
pub(super) fn exited(status: i32) -> String {
    format!("ended with exit status {status} before it answered")
}

/// How a process was ended by a signal, as it follows "the step host".
pub(super) fn signalled(signal: Signal) -> String {
    match signal {
        Signal::SIGKILL => {
            "was ended by signal 9 (SIGKILL): it lost its socket, or was killed by somebody, or for lack of memory".into()
        }
        signal => format!("was ended by signal {} ({})", signal as i32, signal.as_str()),
    }
}

impl StepProcess for ChildProcess {
    fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
    }

    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
    }

    fn ended(&mut self, within: Duration) -> BoxFuture<'_, Option<String>> {
        Box::pin(async move {
            let deadline = tokio::time::Instant::now() + within;
            loop {
                let how = self.peek();
                if how.is_some() || tokio::time::Instant::now() >= deadline {
                    return how;
                }
                tokio::time::sleep(Duration::from_millis(END_POLL_MILLIS)).await;
            }
        })
    }

    fn finish(&mut self, within: Duration) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            self.kill();
            let gone = tokio::time::timeout(within, self.child.wait()).await.is_ok();
            if gone {
                self.group = None;
            }
            gone
        })
    }
}

impl Drop for ChildProcess {
    /// When a call is dropped halfway. The runtime waits for the child.
    fn drop(&mut self) {
        self.kill();
    }
}
