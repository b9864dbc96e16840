//! The step host itself: the process in which one call is made.

use super::fit::Misfit;
use super::link::{Link, Survival};
use super::load::{self, Loaded};
use super::{PluginRef, Trust, built_in};
use connect_migrator_sdk::boundary::{ABI_MAJOR, ABI_MINOR};
use connect_migrator_sdk::frames::{PROTOCOL, ToDaemon, ToStepHost};
use connect_migrator_sdk::plugin::own_the_process;
use connect_migrator_sdk::{Answer, HostCalls, Invocation};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use serde_json::json;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The command line or standard input is not that of a step host. Somebody called it by hand.
const EXIT_USAGE: u8 = 64;

/// What the command line says.
struct Task {
    plugin: PluginRef,
    trust: Trust,
    survives: Option<Survives>,
}

/// That the call may go on without the daemon.
struct Survives {
    /// Where the outcome is left.
    folder: PathBuf,
    /// Where a daemon that is back finds the step host.
    socket: PathBuf,
    /// How long a request waits for it.
    within: Duration,
}

/// Everything that `connect-migrator step-host` does. To be called first thing in `main`: before any runtime, thread or
/// subscriber. Does not return when a call was made.
#[must_use]
pub fn step_host_main() -> ExitCode {
    let started = task().and_then(|task| Ok((task, socket()?)));
    let (task, socket) = match started {
        Ok(started) => started,
        Err(why) => {
            eprintln!("connect-migrator step-host is started by the daemon, not by hand: {why}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    // There may be secrets in memory: no core dump, no debugger. Neither is worth failing for.
    let _ = prctl::set_dumpable(false);
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    match serve(&task, socket) {
        Ok(()) => load::exit_now(0),
        Err(why) => {
            eprintln!("connect-migrator step-host: {why}");
            load::exit_now(i32::from(EXIT_USAGE))
        }
    }
}

/// `--file <path>` or `--built-in <name>`; for a call that may go on without the daemon `--seat <folder> --rejoin <socket>
/// --rejoin-within-millis <number>`; in tests also `--trusted-owner <uid> --trusted-below <folder>`.
fn task() -> Result<Task, String> {
    let mut words = std::env::args_os().skip(2);
    let (mut plugin, mut owner, mut below) = (None, None, None);
    let (mut folder, mut socket, mut within) = (None, None, None);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("`{}` wants a value", word.display()))?;
        match word.to_str() {
            Some("--file") => plugin = Some(PluginRef::File(value.into())),
            Some("--built-in") => plugin = Some(PluginRef::BuiltIn(value.to_string_lossy().into_owned())),
            Some("--seat") => folder = Some(PathBuf::from(value)),
            Some("--rejoin") => socket = Some(PathBuf::from(value)),
            Some("--rejoin-within-millis") => within = value.to_str().and_then(|millis| millis.parse().ok()),
            Some("--trusted-owner") => owner = value.to_str().and_then(|uid| uid.parse().ok()),
            Some("--trusted-below") => below = Some(PathBuf::from(value)),
            _ => return Err(format!("`{}` is not known", word.display())),
        }
    }
    let trust = match (owner, below) {
        (Some(owner), Some(below)) => Trust::in_a_test(owner, &below),
        _ => Trust::default(),
    };
    let survives = match (folder, socket, within.map(Duration::from_millis)) {
        (Some(folder), Some(socket), Some(within)) => Some(Survives { folder, socket, within }),
        _ => None,
    };
    Ok(Task { plugin: plugin.ok_or("no plugin is named")?, trust, survives })
}

/// The socket, which stands in for standard input; what the plugin starts must not inherit it.
fn socket() -> Result<UnixStream, String> {
    let stdin = std::io::stdin();
    let wrong = |why: &dyn std::fmt::Display| format!("standard input is no socket of the daemon ({why})");
    let socket = UnixStream::from(stdin.as_fd().try_clone_to_owned().map_err(|error| wrong(&error))?);
    socket.peer_addr().map_err(|error| wrong(&error))?;
    let null = File::open("/dev/null").map_err(|error| format!("/dev/null cannot be opened: {error}"))?;
    nix::unistd::dup2_stdin(&null).map_err(|error| format!("standard input cannot be replaced: {error}"))?;
    Ok(socket)
}

/// What can be called.
enum Code {
    Library(Loaded),
    Linked(connect_migrator_sdk::Plugin),
}

impl Survives {
    fn prepare(&self) -> Result<Survival, String> {
        let listener = UnixListener::bind(&self.socket)
            .map_err(|error| format!("it cannot listen on {}: {error}", self.socket.display()))?;
        // Pipes can be opened anew for reading. What cannot be is no pipe, and needs no reader.
        let outputs = [("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")]
            .into_iter()
            .filter_map(|(name, path)| Some((name, File::open(path).ok()?)))
            .collect();
        Ok(Survival { listener, folder: self.folder.clone(), within: self.within, outputs })
    }
}

fn serve(task: &Task, socket: UnixStream) -> Result<(), String> {
    let survival = task.survives.as_ref().map(Survives::prepare).transpose()?;
    let hello = ToDaemon::Hello {
        protocol: PROTOCOL,
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let (link, first) =
        Link::start(socket, hello, survival).map_err(|error| format!("it cannot start a thread: {error}"))?;
    // Before anything is asked: this process may have been started ahead of its call.
    let code = code(task);
    // Bounded by the daemon's patience: when it goes, this process ends.
    let asked = first.recv().map_err(|error| error.to_string())?;
    let last = match code {
        Err(misfit) => ToDaemon::NotLoaded { why: misfit.why, remedy: misfit.remedy },
        Ok(code) => match asked {
            ToStepHost::Call { invocation } => code.call(*invocation, &link),
            _ => code.describe(),
        },
    };
    if let Err(error) = link.send_last(&last) {
        let why = format!("an answer that cannot be sent: {error}");
        link.send_last(&ToDaemon::BadAnswer { why }).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn code(task: &Task) -> Result<Code, Misfit> {
    match &task.plugin {
        PluginRef::BuiltIn(name) => built_in::find(name).map(Code::Linked).ok_or_else(|| {
            Misfit::new(format!("no plugin `{name}` is built in"), "install the connect-migrator that has it")
        }),
        PluginRef::File(path) => {
            let file = task
                .trust
                .open(path)
                .map_err(|untrusted| Misfit::new(untrusted.to_string(), untrusted.remedy()))?;
            load::load(file, path).map(Code::Library)
        }
    }
}

impl Code {
    fn describe(&self) -> ToDaemon {
        match self {
            Code::Library(library) => answer_of(library.describe()),
            Code::Linked(plugin) => ToDaemon::Result { answer: Answer::Ok(json!(plugin.describe())) },
        }
    }

    fn call(&self, invocation: Invocation, link: &Arc<Link>) -> ToDaemon {
        match self {
            Code::Library(library) => {
                let library = *library;
                // On a thread of its own: the plugin's `cancel` may block, and the reader of the socket must not.
                link.when_cancelled(Box::new(move || {
                    let _ = std::thread::Builder::new().spawn(move || library.cancel());
                }));
                match serde_json::to_vec(&invocation) {
                    Ok(request) => answer_of(library.call(&request, link)),
                    Err(error) => {
                        ToDaemon::BadAnswer { why: format!("a call that cannot be written: {error}") }
                    }
                }
            }
            Code::Linked(plugin) => {
                let host: Arc<dyn HostCalls> = Arc::clone(link) as _;
                own_the_process(&host);
                ToDaemon::Result { answer: plugin.call(invocation, host) }
            }
        }
    }
}

/// Bytes of an answer that a message shows.
const SHOWN_ANSWER_BYTES: usize = 80;

fn answer_of(bytes: Result<Vec<u8>, String>) -> ToDaemon {
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(why) => return ToDaemon::BadAnswer { why },
    };
    let bad = |what: String| {
        let start = String::from_utf8_lossy(bytes.get(..SHOWN_ANSWER_BYTES).unwrap_or(&bytes));
        let shown: String = start.chars().filter(|letter| !letter.is_control()).collect();
        ToDaemon::BadAnswer { why: format!("{what}: `{shown}`") }
    };
    let Ok(text) = std::str::from_utf8(&bytes) else { return bad("an answer that is not UTF-8".into()) };
    match serde_json::from_str(text) {
        Ok(answer) => ToDaemon::Result { answer },
        Err(error) if error.is_data() => bad(format!("an answer of the wrong shape ({error})")),
        Err(_) => bad("an answer that is not JSON".into()),
    }
}
