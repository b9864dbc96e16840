//! The product's own programs: run without a terminal, with a bound, their output kept without secrets.

use crate::backup::write_whole;
use connect_migrator_connect::secrets;
use connect_migrator_sdk::{Secret, StepError};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// Output that is kept; what comes after it is read and dropped.
const OUTPUT_MAX_BYTES: usize = 16 * 1024 * 1024;
/// A line is not longer; a longer one is cut into several.
const LINE_MAX_BYTES: u64 = 64 * 1024;
/// How long the rest of the output is waited for once the program has ended: a child of its own may keep it open.
const DRAIN_SECONDS: u64 = 2;
/// How long a program may take that only answers a question.
pub const ANSWER_SECONDS: u64 = 30;
/// Gives the program a session of its own: then it has no terminal to ask on, and can be ended with all its children.
const SETSID: &str = "setsid";
/// Begins only once it is told to: until then nobody knows of it, and whoever should end it could not find it.
const GATE: &str = r#"read -r go && exec "$0" "$@" </dev/null"#;
/// What is not said aloud.
const HIDDEN: &str = secrets::HIDDEN;

/// What a program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    /// It did not end in time and was killed.
    pub timed_out: bool,
    /// It was killed because the migration was asked to stop.
    pub cancelled: bool,
    /// Its last lines, without secrets.
    pub tail: Vec<String>,
}

impl Ran {
    /// Whether it ended by itself with status 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status == Some(0) && !self.timed_out && !self.cancelled
    }

    /// How it ended, for a sentence.
    #[must_use]
    pub fn ending(&self, limit: Duration) -> String {
        match self.status {
            _ if self.timed_out => format!("it did not end within {} s and was killed", limit.as_secs()),
            _ if self.cancelled => "it was killed because the migration was asked to stop".into(),
            Some(status) => format!("it ended with status {status}"),
            None => "a signal ended it".into(),
        }
    }
}

/// Lines that are remembered for the report.
const TAIL_LINES: usize = 10;

/// Writes the output to a file, without secrets.
struct Log<'a> {
    file: Option<File>,
    written: usize,
    hidden: &'a [Secret],
    tail: Vec<String>,
}

impl Log<'_> {
    fn line(&mut self, line: &str) -> String {
        let mut shown = secrets::redact_line(line);
        for secret in self.hidden.iter().filter(|secret| !secret.expose().is_empty()) {
            shown = shown.replace(secret.expose(), HIDDEN);
        }
        if let Some(file) = &mut self.file
            && self.written < OUTPUT_MAX_BYTES
        {
            self.written += shown.len() + 1;
            let more = if self.written < OUTPUT_MAX_BYTES { "" } else { "(the rest is not kept)\n" };
            // A full disk must not end the tool: its output is only for people.
            let _ = write!(file, "{shown}\n{more}");
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.remove(0);
        }
        self.tail.push(shown.clone());
        shown
    }
}

fn started(program: &Path, arguments: &[&str]) -> Result<Child, StepError> {
    let mut command = Command::new(SETSID);
    command
        .arg(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().map_err(|error| {
        StepError::new(format!("run {}", program.display()))
            .because(error)
            .remedy("see that `setsid` (util-linux) is installed")
    })
}

fn end(child: &Child) {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // Fails only when nothing is left of it.
        let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
    }
}

/// How a long-running program is watched.
#[derive(Debug)]
pub struct Watch<'a> {
    /// Where its output is kept, for root alone; an older one is replaced.
    pub log: &'a Path,
    /// Where its process id is kept while it runs, see [`end_leftover`].
    pub pid_file: &'a Path,
    /// Its bound.
    pub limit: Duration,
    /// What must not stand in the log.
    pub hidden: &'a [Secret],
}

/// Runs a program to its end, without standard input. `cancelled` ends it early.
///
/// # Errors
/// When it cannot be started or its log cannot be made.
pub async fn run_watched(
    program: &Path,
    arguments: &[&str],
    watch: &Watch<'_>,
    cancelled: impl Future<Output = ()>,
    mut on_line: impl FnMut(&str),
) -> Result<Ran, StepError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(watch.log);
    let file = file.map_err(|error| {
        StepError::new(format!("write {}", watch.log.display()))
            .because(error)
            .remedy("see that the disk is not full")
    })?;
    let mut log = Log { file: Some(file), written: 0, hidden: watch.hidden, tail: Vec::new() };
    let path = program.to_string_lossy();
    let gated: Vec<&str> = ["-c", GATE, path.as_ref()].into_iter().chain(arguments.iter().copied()).collect();
    let mut child = started(Path::new("/bin/sh"), &gated)?;
    let id = child.id().unwrap_or_default();
    // Should this process be killed, the next one ends what is left. If it is killed before this is written, the program never begins.
    let noted = format!("{id} {}", start_time(id).unwrap_or_default());
    if let Err(error) = write_whole(watch.pid_file, noted.as_bytes()) {
        end(&child);
        return Err(StepError::new("note the process of the program").because(error));
    }
    if let Some(mut gate) = child.stdin.take() {
        // Fails only when it has ended already, which is told below.
        let _ = gate.write_all(b"go\n").await;
    }
    let (lines, mut received) = tokio::sync::mpsc::channel(64);
    for pipe in [
        child.stdout.take().map(|p| Box::new(p) as Box<dyn AsyncRead + Unpin + Send>),
        child.stderr.take().map(|p| Box::new(p) as Box<dyn AsyncRead + Unpin + Send>),
    ]
    .into_iter()
    .flatten()
    {
        tokio::spawn(read_lines(pipe, lines.clone()));
    }
    drop(lines);
    let mut ran = Ran { status: None, timed_out: false, cancelled: false, tail: Vec::new() };
    let deadline = tokio::time::sleep(watch.limit);
    tokio::pin!(deadline, cancelled);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.ok(),
            Some(line) = received.recv() => on_line(&log.line(&line)),
            () = &mut deadline, if !ran.timed_out && !ran.cancelled => { ran.timed_out = true; end(&child) }
            () = &mut cancelled, if !ran.timed_out && !ran.cancelled => { ran.cancelled = true; end(&child) }
        }
    };
    let rest = async {
        while let Some(line) = received.recv().await {
            on_line(&log.line(&line));
        }
    };
    if tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS), rest).await.is_err() {
        // Children of it that outlive it would go on writing into the database.
        let _ = i32::try_from(id).map(|id| killpg(Pid::from_raw(id), Signal::SIGKILL));
    }
    std::fs::remove_file(watch.pid_file).ok();
    ran.status = status.and_then(|status| status.code());
    log.line(&format!("({})", ran.ending(watch.limit)));
    log.tail.pop();
    if let Some(file) = &log.file {
        file.sync_all().ok();
    }
    ran.tail = log.tail;
    Ok(ran)
}

async fn read_lines(pipe: impl AsyncRead + Unpin, to: tokio::sync::mpsc::Sender<String>) {
    let mut reader = BufReader::new(pipe);
    loop {
        let mut line = Vec::new();
        match (&mut reader).take(LINE_MAX_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        if to.send(text).await.is_err() {
            return;
        }
    }
}

/// Runs a program that answers at once: gives it `input` and returns its standard output and standard error.
///
/// # Errors
/// When it cannot be started, or takes longer than [`ANSWER_SECONDS`].
pub async fn ask(
    program: &Path,
    arguments: &[&str],
    input: &[u8],
) -> Result<(Ran, String, String), StepError> {
    let mut child = started(program, arguments)?;
    let limit = Duration::from_secs(ANSWER_SECONDS);
    let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let work = async {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let write = async {
            if let Some(mut stdin) = stdin {
                // A program that does not read closes it early.
                stdin.write_all(input).await.ok();
            }
        };
        let read_out = async {
            if let Some(out) = out {
                out.take(LINE_MAX_BYTES).read_to_end(&mut stdout).await.ok();
            }
        };
        let read_err = async {
            if let Some(err) = err {
                err.take(LINE_MAX_BYTES).read_to_end(&mut stderr).await.ok();
            }
        };
        tokio::join!(write, read_out, read_err);
        (child.wait().await, stdout, stderr)
    };
    let Ok((status, stdout, stderr)) = tokio::time::timeout(limit, work).await else {
        end(&child);
        return Err(StepError::new(format!("run {} {}", program.display(), arguments.join(" ")))
            .because(format!("it did not end within {ANSWER_SECONDS} s and was killed")));
    };
    let status = status.ok().and_then(|status| status.code());
    let ran = Ran { status, timed_out: false, cancelled: false, tail: Vec::new() };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((ran, text(stdout), text(stderr)))
}

/// When a process was started, in the kernel's ticks: tells it from a later one of the same number.
fn start_time(id: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Ends a program that a killed call of ours left running. Answers whether there was one.
#[must_use]
pub fn end_leftover(pid_file: &PathBuf) -> bool {
    let Ok(text) = std::fs::read_to_string(pid_file) else { return false };
    let mut words = text.split_whitespace();
    let id = words.next().and_then(|word| word.parse::<u32>().ok());
    let begun = words.next().and_then(|word| word.parse::<u64>().ok());
    let ended = match (id, begun) {
        (Some(id), Some(begun)) if start_time(id) == Some(begun) => {
            // Until setsid has run there is no group, only the process.
            let ended = |id| {
                let id = Pid::from_raw(id);
                killpg(id, Signal::SIGKILL).or_else(|_| kill(id, Signal::SIGKILL)).is_ok()
            };
            i32::try_from(id).is_ok_and(ended)
        }
        _ => false,
    };
    // Last: killed before, the next call finds it.
    std::fs::remove_file(pid_file).ok();
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh() -> &'static Path {
        Path::new("/bin/sh")
    }

    async fn run(script: &str, limit: Duration, dir: &Path) -> (Ran, String) {
        let (log, pid) = (dir.join("log"), dir.join("pid"));
        let hidden = [Secret::new("hunter2".into())];
        let watch = Watch { log: &log, pid_file: &pid, limit, hidden: &hidden };
        let ran = run_watched(sh(), &["-c", script], &watch, std::future::pending(), |_| {}).await.unwrap();
        assert!(!pid.exists());
        (ran, std::fs::read_to_string(&log).unwrap())
    }

    #[tokio::test]
    async fn output_is_kept_whole_and_without_secrets_and_there_is_no_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo to out; echo password=hunter2 >&2; echo postgres://u:hunter2@h/d; (true </dev/tty) 2>/dev/null || echo no tty; exit 3";
        let (ran, log) = run(script, Duration::from_secs(20), dir.path()).await;
        assert_eq!((ran.status, ran.timed_out), (Some(3), false));
        assert!(log.contains("to out") && log.contains("no tty") && log.contains("status 3"), "{log}");
        assert!(!log.contains("hunter2"), "{log}");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let begun = std::time::Instant::now();
        let script = "echo here; sleep 300 & sleep 300";
        let (ran, log) = run(script, Duration::from_millis(300), dir.path()).await;
        assert!(ran.timed_out && !ran.succeeded() && log.contains("here"));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_program_whose_call_is_killed_before_it_is_noted_never_begins() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("begun");
        let touch = format!("touch {}", mark.display());
        let begin = || started(sh(), &["-c", GATE, "/bin/sh", "-c", &touch]).unwrap();
        let mut killed = begin();
        // As the end of the call closes it.
        drop(killed.stdin.take());
        assert!(!killed.wait().await.unwrap().success());
        assert!(!mark.exists());
        let mut told = begin();
        told.stdin.take().unwrap().write_all(b"go\n").await.unwrap();
        assert!(told.wait().await.unwrap().success() && mark.exists());
    }

    #[tokio::test]
    async fn what_a_killed_call_left_running_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = started(sh(), &["-c", "sleep 300"]).unwrap();
        let id = child.id().unwrap();
        let pid = dir.path().join("pid");
        std::fs::write(&pid, format!("{id} {}", start_time(id).unwrap() + 1)).unwrap();
        assert!(!end_leftover(&pid), "a later process of the same number is not touched");
        // Until setsid has run, the group does not exist.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while nix::unistd::getpgid(Some(Pid::from_raw(i32::try_from(id).unwrap()))).unwrap().as_raw()
            != i32::try_from(id).unwrap()
        {
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::fs::write(&pid, format!("{id} {}", start_time(id).unwrap())).unwrap();
        assert!(end_leftover(&pid) && !pid.exists());
        assert_eq!(child.wait().await.unwrap().code(), None);
    }

    #[tokio::test]
    async fn an_answer_comes_from_standard_input_not_from_arguments() {
        let (ran, out, err) = ask(sh(), &["-c", "cat; echo prompt >&2"], b"value").await.unwrap();
        assert!(ran.succeeded());
        assert_eq!((out.as_str(), err.as_str()), ("value", "prompt\n"));
    }
}
