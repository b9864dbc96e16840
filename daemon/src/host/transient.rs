//! Starts step hosts as transient units: each with a sandbox, a control group and limits of its own, and alive when the daemon is
//! not.
//!
//! The units are in no dependency with the daemon's and with the machine's shutdown: the daemon must be able to start steps while
//! it is being stopped, until users are served again. They are ended by the daemon, or by their own `RuntimeMaxSec=`.

use super::launcher::{exited, signalled};
use super::sandbox::{self, Property, text, texts};
use super::{HostLimits, Launcher, NotLaunched, Running, Start, StepProcess, Trust};
use crate::systemd::journal;
use crate::systemd::units::{Ended, LastRun, UnitError, Units};
use futures_util::future::BoxFuture;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::net::{UnixStream, unix::pipe};
use tokio::time::Instant;
use zbus::{Fd, Variant};

/// What the name of every step's unit begins with. A drop-in in `connect-migrator-step-.service.d` applies to all of them.
const PREFIX: &str = "connect-migrator-step-";

/// How long a unit may take to end by itself whose process has said its last word.
const BY_ITSELF_MILLIS: u64 = 500;

/// How long a running step host may take to answer on the socket where it is found again.
const FOUND_SECS: u64 = 2;

/// How often that is tried.
const FOUND_POLL_MILLIS: u64 = 20;

/// `notice` of syslog(3).
const LOG_NOTICE: i32 = 5;

/// From here on systemd's own: the process could not be set up and has not begun.
const EXIT_STATUS_OF_SYSTEMD: i32 = 200;

/// A step's unit of an earlier start of the daemon stands in the way.
#[derive(Debug, thiserror::Error)]
pub enum SurvivorError {
    /// systemd cannot be asked.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// It does not end.
    #[error(
        "{0} of an earlier start still runs, and does not end although it was sent SIGKILL: its process hangs in the kernel; see \
         `systemctl status {0}`, mend what it hangs on (a mount, a disk), then start again"
    )]
    StillRuns(String),
}

/// Starts step hosts as transient units of an instance.
#[derive(Debug)]
pub struct TransientLauncher {
    units: Arc<Units>,
    instance: String,
    program: Option<PathBuf>,
    /// Where the program is kept when the installed one is another by now.
    keep: PathBuf,
    run_dir: PathBuf,
    limits: HostLimits,
    trust: Trust,
    readers: AtomicU64,
    /// Properties that this systemd was found not to know.
    unknown: Mutex<BTreeSet<&'static str>>,
}

impl TransientLauncher {
    /// For the steps of `instance`. `keep` is a folder of root's, for a copy of the running program should the installed one be
    /// replaced.
    #[must_use]
    pub fn new(units: Arc<Units>, instance: &str, keep: &Path) -> Self {
        TransientLauncher {
            units,
            instance: instance.into(),
            program: None,
            keep: keep.into(),
            run_dir: "/run".into(),
            limits: HostLimits::default(),
            trust: Trust::default(),
            readers: AtomicU64::new(1),
            unknown: Mutex::default(),
        }
    }

    /// Sets the bounds.
    #[must_use]
    pub fn with_limits(mut self, limits: HostLimits) -> Self {
        self.limits = limits;
        self
    }

    /// For tests: another program, another /run, other files that may be loaded.
    #[doc(hidden)]
    #[must_use]
    pub fn in_a_test(mut self, program: &Path, run_dir: &Path, trust: Trust) -> Self {
        self.program = Some(program.into());
        self.run_dir = run_dir.into();
        self.trust = trust;
        self
    }

    /// The unit of a call with a seat. No instance's name has a dot.
    #[must_use]
    pub fn unit_of(&self, number: u64) -> String {
        format!("{PREFIX}{}.{number}.service", self.instance)
    }

    fn socket_of(&self, unit: &str) -> PathBuf {
        self.run_dir.join(unit.trim_end_matches(".service")).join("socket")
    }

    /// The call of this number that goes on without a daemon, if it does. Where it does not answer, it is ended.
    ///
    /// # Errors
    /// When it is not known whether it runs, or it cannot be ended.
    pub async fn find(&self, number: u64) -> Result<Option<Running>, SurvivorError> {
        let unit = self.unit_of(number);
        if !self.units.hold(&unit).await? {
            return Ok(None);
        }
        let process = UnitProcess { units: Arc::clone(&self.units), unit: unit.clone(), gone: false };
        let deadline = Instant::now() + Duration::from_secs(FOUND_SECS);
        let path = self.socket_of(&unit);
        while self.units.is_running(&unit).await? && Instant::now() < deadline {
            if let Ok(socket) = UnixStream::connect(&path).await {
                return Ok(Some(Running { socket, outputs: Vec::new(), process: Box::new(process) }));
            }
            tokio::time::sleep(Duration::from_millis(FOUND_POLL_MILLIS)).await;
        }
        drop(process);
        self.end(&unit).await?;
        Ok(None)
    }

    /// Ends the call of this number, if it runs.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub async fn end_call(&self, number: u64) -> Result<(), SurvivorError> {
        self.end(&self.unit_of(number)).await
    }

    /// Ends every unit of this instance's steps but that of call `but`. Answers those that do not end and are in nobody's way: they
    /// only read.
    ///
    /// # Errors
    /// When another one cannot be ended.
    pub async fn clear(&self, but: Option<u64>) -> Result<Vec<String>, SurvivorError> {
        let kept = but.map(|number| self.unit_of(number));
        let pattern = format!("{PREFIX}{}.*.service", self.instance);
        let readers = format!("{PREFIX}{}.r", self.instance);
        let mut hanging = Vec::new();
        for unit in self.units.running(&pattern).await? {
            if Some(&unit) == kept.as_ref() {
                continue;
            }
            match self.end(&unit).await {
                Err(SurvivorError::StillRuns(unit)) if unit.starts_with(&readers) => hanging.push(unit),
                end => end?,
            }
        }
        Ok(hanging)
    }

    async fn end(&self, unit: &str) -> Result<(), SurvivorError> {
        if !self.units.is_running(unit).await? {
            return Ok(());
        }
        self.units.kill(unit, Signal::SIGKILL).await?;
        match self.units.await_end(unit, self.limits.exit_grace).await? {
            true => Ok(()),
            false => Err(SurvivorError::StillRuns(unit.into())),
        }
    }

    /// The running program: where it is installed, or a copy when another one is installed there by now.
    fn program(&self) -> std::io::Result<PathBuf> {
        if let Some(program) = &self.program {
            return Ok(program.clone());
        }
        let ours = std::fs::metadata("/proc/self/exe")?;
        let same = |path: &Path| {
            std::fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (ours.dev(), ours.ino()))
        };
        let installed = std::env::current_exe()?;
        if same(&installed) {
            return Ok(installed);
        }
        let copy = self.keep.join(format!("connect-migrator-{}", std::process::id()));
        if !copy.exists() {
            std::fs::create_dir_all(&self.keep)?;
            let beside = copy.with_extension("part");
            std::fs::copy("/proc/self/exe", &beside)?;
            std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755))?;
            std::fs::rename(&beside, &copy)?;
        }
        Ok(copy)
    }

    async fn start(&self, start: &Start) -> Result<Running, NotLaunched> {
        let program = self.program().map_err(|error| NotLaunched {
            program: "connect-migrator".into(),
            why: format!("the running program cannot be found: {error}"),
        })?;
        let wrong = |why: String| NotLaunched { program: program.clone(), why };
        let unit = match &start.seat {
            Some(seat) => self.unit_of(seat.number),
            None => {
                let reader = self.readers.fetch_add(1, Ordering::Relaxed);
                format!("{PREFIX}{}.r{}-{reader}.service", self.instance, std::process::id())
            }
        };
        let mut again = true;
        loop {
            let mut ends = Ends::new().map_err(|error| wrong(error.to_string()))?;
            let mut properties = self.properties(start, &unit, &program).map_err(wrong)?;
            self.leave_out_what_is_unknown(&mut properties);
            properties.append(&mut ends.theirs);
            match self.units.start_transient(&unit, &properties).await {
                Ok(()) => {
                    let process = Box::new(UnitProcess { units: Arc::clone(&self.units), unit, gone: false });
                    // Our copies of their ends must close, or the end of theirs would not be seen.
                    drop(properties);
                    return ends.running(process).map_err(|error| wrong(error.to_string()));
                }
                // It may have been started all the same.
                Err(error) if error.is_lost() && again => {
                    again = false;
                    self.end(&unit).await.map_err(|error| wrong(error.to_string()))?;
                }
                // Nothing was started. Distributions carry properties back to older versions: only an attempt tells.
                Err(error) if self.learn_of_unknown(&error) => {}
                Err(error) => return Err(wrong(error.to_string())),
            }
        }
    }

    fn leave_out_what_is_unknown(&self, properties: &mut Vec<Property>) {
        let unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        properties.retain(|(name, _)| !unknown.contains(name));
    }

    /// Whether the refusal was for a property that a step can be started without, and that was not known to be unknown.
    fn learn_of_unknown(&self, error: &UnitError) -> bool {
        let Some(name) = error.unknown_property(&sandbox::MAY_BE_UNKNOWN) else { return false };
        let new = self.unknown.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        if new {
            let told = format!("this systemd does not know `{name}`: steps run without it");
            journal::say(&self.instance, journal::ids::SANDBOX_REDUCED, journal::Priority::Warning, &told);
        }
        new
    }

    fn properties(&self, start: &Start, unit: &str, program: &Path) -> Result<Vec<Property>, String> {
        let mut words: Vec<OsString> = vec!["connect-migrator".into(), "step-host".into()];
        words.extend(start.plugin.arguments());
        words.extend(self.trust.arguments());
        let mut properties = sandbox::always();
        let mut own: Vec<PathBuf> = start.state_dir.iter().cloned().collect();
        if let Some(seat) = &start.seat {
            words.extend(["--seat".into(), seat.folder.clone().into()]);
            words.extend(["--rejoin".into(), self.socket_of(unit).into()]);
            let within = self.limits.rejoin.as_millis().to_string();
            words.extend(["--rejoin-within-millis".into(), within.into()]);
            own.push(seat.folder.clone());
            properties.push(("RuntimeDirectory", texts([unit.trim_end_matches(".service").to_owned()])));
            properties.push(("RuntimeDirectoryMode", Variant::from(0o700_u32)));
        }
        let words: Vec<String> = words
            .into_iter()
            // systemd takes `$` for the name of a variable.
            .map(|word| match word.into_string() {
                Ok(word) => Ok(word.replace('$', "$$")),
                Err(word) => Err(format!("`{}` is not UTF-8", word.display())),
            })
            .collect::<Result<_, _>>()?;
        let program = program.to_str().ok_or("its path is not UTF-8")?.to_owned();
        match &start.needs {
            Some(needs) => properties.extend(sandbox::of(needs, &start.settings, &own)?),
            // As children of the daemon have it: an export is tried in a mount namespace.
            None => properties.push(("RestrictNamespaces", Variant::from(sandbox::MOUNT_NAMESPACES))),
        }
        let lifetime = u64::try_from(start.lifetime.as_micros()).unwrap_or(u64::MAX);
        let terminate = u64::try_from(self.limits.terminate_grace.as_micros()).unwrap_or(u64::MAX);
        properties.extend([
            ("Description", text(&format!("connect-migrator {}: {}", self.instance, start.what))),
            ("ExecStart", Variant::new(vec![(program, words, false)])),
            ("Slice", text("system.slice")),
            ("DefaultDependencies", Variant::from(false)),
            ("CollectMode", text("inactive-or-failed")),
            ("AddRef", Variant::from(true)),
            ("KillMode", text("control-group")),
            ("TimeoutStopUSec", Variant::from(terminate)),
            ("RuntimeMaxUSec", Variant::from(lifetime)),
            // The daemon tells what steps do; systemd is to tell only what goes wrong.
            ("LogLevelMax", Variant::from(LOG_NOTICE)),
        ]);
        Ok(properties)
    }
}

impl Launcher for TransientLauncher {
    fn launch<'a>(&'a self, start: &'a Start) -> BoxFuture<'a, Result<Running, NotLaunched>> {
        Box::pin(self.start(start))
    }

    fn limits(&self) -> &HostLimits {
        &self.limits
    }

    fn trust(&self) -> &Trust {
        &self.trust
    }
}

/// Both ends of what connects the daemon and a step host.
struct Ends {
    socket: StdUnixStream,
    outputs: Vec<(&'static str, OwnedFd)>,
    theirs: Vec<Property>,
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        let (socket, theirs) = StdUnixStream::pair()?;
        socket.set_nonblocking(true)?;
        let (stdout, their_stdout) = std::io::pipe()?;
        let (stderr, their_stderr) = std::io::pipe()?;
        let fd = |fd: OwnedFd| Variant::Fd(Fd::from(fd));
        Ok(Ends {
            socket,
            outputs: vec![("stdout", stdout.into()), ("stderr", stderr.into())],
            theirs: vec![
                ("StandardInputFileDescriptor", fd(theirs.into())),
                ("StandardOutputFileDescriptor", fd(their_stdout.into())),
                ("StandardErrorFileDescriptor", fd(their_stderr.into())),
            ],
        })
    }

    fn running(self, process: Box<dyn StepProcess>) -> std::io::Result<Running> {
        let mut outputs: Vec<(&'static str, Box<dyn AsyncRead + Send + Unpin>)> = Vec::new();
        for (name, output) in self.outputs {
            outputs.push((name, Box::new(pipe::Receiver::from_owned_fd(output)?)));
        }
        Ok(Running { socket: UnixStream::from_std(self.socket)?, outputs, process })
    }
}

/// A step host in a unit, with everything that it started.
struct UnitProcess {
    units: Arc<Units>,
    unit: String,
    gone: bool,
}

impl UnitProcess {
    /// Without waiting: nobody may wait here. What comes of it is seen when the end is waited for.
    fn signal(&self, signal: Signal) {
        let (units, unit) = (Arc::clone(&self.units), self.unit.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = units.kill(&unit, signal).await;
            });
        }
    }
}

/// How the unit ended, as it follows "the step host".
fn how(run: &LastRun) -> String {
    match (run.main, run.result.as_str()) {
        (_, "oom-kill") => "was ended for lack of memory: the step may have half of the machine's".into(),
        (_, "timeout") => "ran longer than any call may, and was ended".into(),
        (Some(Ended::Exited(status)), _) if status >= EXIT_STATUS_OF_SYSTEMD => {
            format!("could not be set up by systemd (exit status {status}); the journal of the unit says why")
        }
        (Some(Ended::Exited(status)), _) => exited(status),
        (Some(Ended::Killed(signal)), _) => match Signal::try_from(signal) {
            Ok(signal) => signalled(signal),
            Err(_) => format!("was ended by signal {signal}"),
        },
        (None, result) => format!("did not begin (systemd's word is `{result}`)"),
    }
}

impl StepProcess for UnitProcess {
    fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
    }

    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
    }

    fn ended(&mut self, within: Duration) -> BoxFuture<'_, Option<String>> {
        Box::pin(async move {
            if !self.units.await_end(&self.unit, within).await.ok()? {
                return None;
            }
            self.units.last_run(&self.unit).await.ok()?.as_ref().map(how)
        })
    }

    fn finish(&mut self, within: Duration) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let by_itself = Duration::from_millis(BY_ITSELF_MILLIS).min(within);
            let mut gone = matches!(self.units.await_end(&self.unit, by_itself).await, Ok(true));
            if !gone {
                let _ = self.units.kill(&self.unit, Signal::SIGKILL).await;
                gone = matches!(self.units.await_end(&self.unit, within).await, Ok(true));
            }
            self.gone = gone;
            self.units.let_go(&self.unit).await;
            gone
        })
    }
}

impl Drop for UnitProcess {
    /// When a call is dropped halfway.
    fn drop(&mut self) {
        if !self.gone {
            self.signal(Signal::SIGKILL);
        }
    }
}
