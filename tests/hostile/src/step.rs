//! The step.
#![allow(unsafe_code, reason = "a crash and a stolen socket cannot be had without")]

use crate::Misdeed;
use connect_migrator_sdk::prelude::*;
use connect_migrator_sdk::{LogLevel, Progress};
use schemars::JsonSchema;
use serde::Deserialize;
use std::fs::File;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the runbook says under `with`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// What goes wrong.
    #[serde(default)]
    pub(crate) misdeed: Misdeed,
    /// A secret to fetch; its length is the answer.
    #[serde(default)]
    secret: Option<SecretRef>,
}

pub(crate) struct Hostile;

const FLOOD: u64 = 100_000;
const CHUNK_BYTES: usize = 1_000_000;
const BIG_FRAME_CHUNKS: usize = 100;
const FOR_EVER: Duration = Duration::from_secs(3600);

impl Step for Hostile {
    type Config = Settings;
    type Undo = String;

    fn info() -> StepInfo {
        StepInfo::new("hostile", "Misbehaves")
    }

    async fn check(_: &Settings, _: &Context) -> Result<Vec<Finding>, StepError> {
        Ok(vec![Finding::ok("hostile", "it is here")])
    }

    async fn apply(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        let mut outcome = Outcome::changed("done");
        if let Some(secret) = &config.secret {
            outcome = outcome.and(format!("a secret of {} bytes", cx.secret(secret)?.expose().len()));
        }
        commit(config.misdeed, cx).await?;
        Ok(outcome)
    }

    async fn rollback(_: &Settings, _: &Context, of: Op, undo: Vec<String>) -> Result<Undone, StepError> {
        Ok(Undone::restored(format!("{of}: {} records", undo.len())))
    }
}

#[allow(clippy::panic, reason = "this is what it is for")]
async fn commit(misdeed: Misdeed, cx: &Context) -> Result<(), StepError> {
    match misdeed {
        Misdeed::None => {
            cx.info("working");
            tracing::info!(layer = 3, "pulled");
            cx.record_undo(&"before")?;
            cx.checkpoint(&1)?;
        }
        Misdeed::Panic => panic!("I did not think of that"),
        Misdeed::PanicInTask => {
            let _ = tokio::spawn(async { panic!("nobody looks at me") }).await;
        }
        Misdeed::Abort => std::process::abort(),
        Misdeed::AbortAfterUndo => {
            cx.record_undo(&"before")?;
            std::process::abort();
        }
        Misdeed::Segfault => {
            let nowhere = std::hint::black_box(8_usize) as *const u64;
            // SAFETY: none; the crash is wanted.
            let read = unsafe { std::ptr::read_volatile(nowhere) };
            cx.info(read.to_string());
        }
        Misdeed::StackOverflow => cx.info(deep(0).to_string()),
        Misdeed::ExitZero => std::process::exit(0),
        Misdeed::ExitThree => std::process::exit(3),
        Misdeed::Wait => {
            cx.cancelled().await;
            return Err(StepError::cancelled("wait"));
        }
        Misdeed::ClaimsCancelled => return Err(StepError::cancelled("wait")),
        Misdeed::Hang => hang(),
        Misdeed::HangHard => {
            // SAFETY: the signal is ignored; no handler runs.
            let _ = unsafe {
                nix::sys::signal::signal(
                    nix::sys::signal::Signal::SIGTERM,
                    nix::sys::signal::SigHandler::SigIgn,
                )
            };
            hang();
        }
        Misdeed::FloodProgress => {
            for done in 1..=FLOOD {
                cx.progress(&Progress {
                    doing: "flooding".into(),
                    done: Some(done),
                    total: Some(FLOOD),
                    unit: None,
                });
            }
        }
        Misdeed::FloodLog => {
            for line in 0..FLOOD {
                cx.log(LogLevel::Info, format!("line {line}"));
            }
        }
        Misdeed::LongLogLine => cx.warn("x".repeat(10 * CHUNK_BYTES)),
        Misdeed::BigUndo => cx.record_undo(&"x".repeat(2 * CHUNK_BYTES))?,
        Misdeed::BigFrame => {
            let chunk = vec![b'x'; CHUNK_BYTES];
            let mut socket = socket()?;
            for _ in 0..BIG_FRAME_CHUNKS {
                socket
                    .write_all(&chunk)
                    .map_err(|error| StepError::new("write a big frame").because(error))?;
            }
        }
        Misdeed::JunkFrame => write_to_socket("this is no frame\n")?,
        Misdeed::AnswersTwice => write_to_socket("{\"type\":\"result\",\"answer\":{\"ok\":null}}\n")?,
        Misdeed::ClosesSocket => {
            for fd in sockets()? {
                let _ = nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Both);
            }
            hang();
        }
        Misdeed::JunkOnStdout => junk_on_stdout(),
        Misdeed::LeavesChild => drop(sleeper("31").spawn()),
        Misdeed::LeavesDaemon => drop(sleeper("30").process_group(0).spawn()),
        Misdeed::LeavesThreads => {
            for _ in 0..4 {
                let cx = cx.clone();
                std::thread::spawn(move || {
                    loop {
                        cx.info("still here");
                        let _ = cx.record_undo(&"late");
                    }
                });
            }
        }
        Misdeed::BeatsForEver => beat(cx)?,
        Misdeed::WorksAlone | Misdeed::RecordsLater => work(cx, misdeed == Misdeed::RecordsLater).await?,
        Misdeed::BigAnswer | Misdeed::NotJson | Misdeed::NotUtf8 | Misdeed::WrongShape | Misdeed::Empty => {}
    }
    Ok(())
}

#[allow(unconditional_recursion, reason = "the stack shall end")]
fn deep(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 1024]);
    deep(depth + 1) + frame.iter().sum::<u64>()
}

fn hang() {
    loop {
        std::thread::sleep(FOR_EVER);
    }
}

/// A child for that many seconds: each misdeed has its own number, so that a test can tell them apart.
fn sleeper(seconds: &str) -> Command {
    let mut command = Command::new("sleep");
    // Ends by itself in the end: a test that fails leaves nothing for long.
    command.arg(seconds).stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    command
}

fn junk_on_stdout() {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(b"{\"type\":\"result\",\"answer\":{\"ok\":null}}\n\xff\xfe\n");
    let _ = stdout.write_all(&[b'y'; 20_000]);
    let _ = stdout.flush();
    eprintln!("and to stderr");
}

fn beat(cx: &Context) -> Result<(), StepError> {
    let path = cx.state_dir().join("beat");
    // What the step has started must not go on either.
    let _child = Command::new("sh")
        .args(["-c", "while :; do echo beat >> \"$0\"; sleep 0.01; done"])
        .arg(cx.state_dir().join("childs-beat"))
        .spawn()
        .map_err(|error| StepError::new("start sh").because(error))?;
    for number in 0_u64.. {
        std::fs::write(&path, number.to_string())
            .map_err(|error| StepError::new(format!("write {}", path.display())).because(error))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// How often a step that waits for a file looks.
const LOOK: Duration = Duration::from_millis(5);

async fn work(cx: &Context, records: bool) -> Result<(), StepError> {
    let file = |name: &str| cx.state_dir().join(name);
    let write = |name: &str| {
        std::fs::write(file(name), "").map_err(|error| StepError::new(format!("write {name}")).because(error))
    };
    cx.record_undo(&"begun")?;
    write("begun")?;
    while !file("go").exists() {
        if cx.is_cancelled() {
            return Err(StepError::cancelled("work"));
        }
        tokio::time::sleep(LOOK).await;
    }
    // More than a pipe holds, by ourselves and by a program.
    println!("{}", "z".repeat(CHUNK_BYTES));
    let shouting = Command::new("sh").args(["-c", "seq 1 100000 >&2"]).status();
    shouting.map_err(|error| StepError::new("run seq").because(error))?;
    if records {
        cx.record_undo(&"done")?;
        cx.checkpoint(&"done")?;
    }
    write("done")
}

/// The step host's sockets, which are none of a plugin's business.
fn sockets() -> Result<Vec<RawFd>, StepError> {
    let entries = std::fs::read_dir("/proc/self/fd")
        .map_err(|error| StepError::new("list open files").because(error))?;
    let is_socket = |path: &std::path::Path| {
        std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    Ok(entries
        .flatten()
        .filter(|entry| is_socket(&entry.path()))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

fn socket() -> Result<ManuallyDrop<File>, StepError> {
    // The runtime has a socket pair for signals; the step host's own was there first.
    let fd = sockets()?.into_iter().min().ok_or_else(|| StepError::new("find the socket"))?;
    // SAFETY: the descriptor is open; it is not closed here.
    Ok(ManuallyDrop::new(unsafe { File::from_raw_fd(fd) }))
}

fn write_to_socket(line: &str) -> Result<(), StepError> {
    let mut socket = socket()?;
    socket.write_all(line.as_bytes()).map_err(|error| StepError::new("write to the socket").because(error))
}
