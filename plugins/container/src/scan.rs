//! A command of the operator's that looks through the image before anything goes on.

use crate::world::Subject;
use connect_migrator_sdk::{Context, Finding, StepError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// Default of `scan-timeout`: a first run fetches the scanner's list of vulnerabilities.
pub const DEFAULT_SCAN_TIMEOUT_SECONDS: u64 = 1800;
/// How much of what it says is kept in the report.
const OUTPUT_MAX_BYTES: usize = 64 * 1024;
/// How much of it is shown with an error.
const SHOWN_MAX_CHARS: usize = 2000;
/// Stands for the image in the command.
const PLACE: &str = "{image}";

/// What a scan means that does not end with 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScanFails {
    /// The migration ends before anything goes on.
    #[default]
    Block,
    /// It is told, and goes on.
    Warn,
}

/// What a scan said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scanned {
    /// The command as it ran.
    pub command: Vec<String>,
    /// How it ended; nothing when by a signal.
    pub status: Option<i32>,
    /// What it wrote, up to 64 KiB.
    pub output: String,
    /// It wrote more.
    pub cut: bool,
}

impl Scanned {
    /// In one sentence.
    #[must_use]
    pub fn evidence(&self) -> String {
        let program = self.command.first().map(String::as_str).unwrap_or_default();
        match self.status {
            Some(0) => format!("{program} found nothing that stands in the way"),
            Some(status) => format!("{program} ended with {status}, which `scan-fails = \"warn\"` lets pass"),
            None => format!("{program} was ended by a signal, which `scan-fails = \"warn\"` lets pass"),
        }
    }
}

/// Whether it could run.
#[must_use]
pub fn check(subject: &Subject<'_>) -> Option<Finding> {
    let command = subject.settings.scan.as_ref()?;
    let Some(program) = command.first().filter(|_| command.iter().any(|word| word.contains(PLACE))) else {
        return Some(Finding::blocker(
            "scan-command",
            format!("`scan` names no program, or nowhere `{PLACE}`"),
            "write it as [\"trivy\", \"image\", \"--exit-code\", \"1\", \"{image}\"]",
        ));
    };
    Some(match program_at(program) {
        Some(path) => Finding::ok("scan", format!("{} will look through the image", path.display())),
        None => Finding::blocker(
            "scan-missing",
            format!("`{program}`, which `scan` names, is not a program on this host"),
            "install it, or name it by its whole path",
        ),
    })
}

fn program_at(program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |path: &Path| {
        path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| runs(path));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| runs(path))
}

/// Runs it on an image. Nothing when the settings name none.
///
/// # Errors
/// When it cannot run, takes too long, or ends with something else than 0 and that blocks.
pub async fn run(subject: &Subject<'_>, cx: &Context, image: &str) -> Result<Option<Scanned>, StepError> {
    let Some(words) = &subject.settings.scan else { return Ok(None) };
    let command: Vec<String> = words.iter().map(|word| word.replace(PLACE, image)).collect();
    let [program, arguments @ ..] = command.as_slice() else { return Ok(None) };
    let doing = format!("scan {image} with {program}");
    cx.info(format!("{program} looks through {image}"));
    let cannot = |error: std::io::Error| {
        StepError::new(doing.clone()).because(error).remedy("see that `scan` names a program of this host")
    };
    let mut child = Command::new(program)
        .args(arguments)
        // Nobody but us needs to know where secrets are.
        .env_remove("CREDENTIALS_DIRECTORY")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot)?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(nix::unistd::Pid::from_raw);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let limit = subject.settings.scan_timeout;
    let all = async {
        let (out, err) = tokio::join!(begin_of(out), begin_of(err));
        child.wait().await.map(|status| (status, out, err))
    };
    let ended = tokio::select! {
        () = cx.cancelled() => Err(StepError::cancelled(doing.clone())),
        done = tokio::time::timeout(limit.duration(), all) => match done {
            Err(_) => Err(StepError::new(doing.clone())
                .because(format!("it took more than {limit}"))
                .remedy("run it by hand once, so that it fetches what it needs, or raise `scan-timeout`")),
            Ok(done) => done.map_err(cannot),
        },
    };
    let (status, (mut output, cut_out), (errors, cut_err)) = match ended {
        Ok(ended) => ended,
        Err(error) => {
            // What it started must not outlive it.
            if let Some(group) = group {
                let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            }
            return Err(error);
        }
    };
    output.push_str(&errors);
    let scanned = Scanned { status: status.code(), cut: cut_out || cut_err, output, command };
    if status.success() {
        return Ok(Some(scanned));
    }
    let how = scanned.status.map_or("was ended by a signal".to_owned(), |code| format!("ended with {code}"));
    let skipped = scanned.output.chars().count().saturating_sub(SHOWN_MAX_CHARS);
    let shown: String = scanned.output.chars().skip(skipped).collect();
    let why = format!("it {how}; the end of what it said:\n{}", shown.trim());
    if subject.settings.scan_fails == ScanFails::Warn {
        cx.warn(format!("{doing}: {why}"));
        return Ok(Some(scanned));
    }
    Err(StepError::new(doing).because(why).remedy(
        "mend the image, or let it pass with `scan-fails = \"warn\"` after looking at what was found",
    ))
}

/// Reads to the end and keeps the beginning.
async fn begin_of(stream: Option<impl AsyncRead + Unpin>) -> (String, bool) {
    let Some(mut stream) = stream else { return (String::new(), false) };
    let (mut kept, mut cut) = (Vec::new(), false);
    let mut piece = [0; 8192];
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        let room = OUTPUT_MAX_BYTES.saturating_sub(kept.len()).min(read);
        kept.extend_from_slice(piece.get(..room).unwrap_or_default());
        cut |= room < read;
    }
    (String::from_utf8_lossy(&kept).into_owned(), cut)
}
