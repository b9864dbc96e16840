//! Rebuilding content: the step beside the vendor's own tool, against the same stand-in.

use super::{median, table};
use crate::artifacts::{self, Artifacts, target};
use crate::ensure;
use crate::lab::Tried;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Items of the main measurement, and what one build takes.
const ITEMS: u32 = 1_000;
const BUILD_MILLIS: u32 = 50;
const SLOTS: u32 = 8;
/// Items of the measurement of memory.
const MANY_ITEMS: u32 = 10_000;
/// How often the main measurement is made.
const ROUNDS: usize = 3;
/// From the first submit to the last finish, at most this times the physics.
const SPAN_LIMIT: f64 = 1.1;
/// Requests an item, at most.
const REQUESTS_LIMIT: f64 = 4.0;
/// Memory at ten times the items, at most this times as much and this many KiB more.
const MEMORY_FACTOR: f64 = 1.25;
const MEMORY_SLACK_KIB: f64 = 4096.0;
/// The vendor's tool.
const RSCONNECT: &str = "rsconnect-python==1.32.0";

/// A stand-in that serves many items from memory. Ends with this value.
struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(artifacts: &Artifacts, key: &Path, items: u32) -> Tried<Self> {
        // Told apart by its name: it is a program of several names.
        let standin = key.with_file_name("standin");
        if !standin.exists() {
            std::fs::copy(&artifacts.standin, &standin)?;
        }
        let mut child = Command::new(standin)
            .args(["bulk", "--items", &items.to_string(), "--build-ms", &BUILD_MILLIS.to_string()])
            .args(["--slots", &SLOTS.to_string(), "--admin-key-file"])
            .arg(key)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no output of the stand-in")?;
        let mut server = Server { child, address: String::new() };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").ok_or("the stand-in does not listen")?;
        server.address = format!("http://{address}");
        Ok(server)
    }

    /// What it saw.
    fn stats(&self) -> Tried<Value> {
        let out =
            Command::new("curl").args(["-fsS", &format!("{}/__standin__/stats", self.address)]).output()?;
        ensure!(
            out.status.success(),
            "the stand-in tells no figures: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(serde_json::from_slice(&out.stdout)?)
    }
}

/// What one run was like.
#[derive(Debug, Clone)]
struct Run {
    /// From the first submit to the last finish, as the server saw it.
    span: f64,
    /// From start to end of the client.
    all: f64,
    requests: f64,
    peak_kib: f64,
}

pub(super) fn run(artifacts: &Artifacts) -> Tried {
    let work = tempfile::tempdir()?;
    let key = work.path().join("key");
    std::fs::write(&key, "bench-key-of-an-administrator")?;
    let physics = f64::from(ITEMS) * f64::from(BUILD_MILLIS) / 1e3 / f64::from(SLOTS);
    println!(
        "   Rebuilding {ITEMS} items of {BUILD_MILLIS} ms on {SLOTS} slots; the physics is {physics:.2} s"
    );
    let rsconnect = venv();
    let mut rows = vec![
        ["", "span", "of the physics", "all of it", "requests an item", "peak memory"]
            .map(String::from)
            .to_vec(),
    ];
    let mut row = |name: String, run: &Run| {
        rows.push(vec![
            name,
            format!("{:.2} s", run.span),
            format!("{:.2}", run.span / physics),
            format!("{:.2} s", run.all),
            format!("{:.2}", run.requests),
            format!("{:.1} MiB", run.peak_kib / 1024.0),
        ]);
    };
    let mut runs = Vec::new();
    for round in 1..=ROUNDS {
        let run = ours(artifacts, &key, ITEMS, "0")?;
        row(format!("connect-migrator, {round}"), &run);
        runs.push(run);
    }
    row("connect-migrator, `submit-ahead = 2`".into(), &ours(artifacts, &key, ITEMS, "2")?);
    let theirs = match &rsconnect {
        Ok(program) => {
            let run = vendors(artifacts, &key, program)?;
            row("rsconnect content build run".into(), &run);
            Some(run)
        }
        Err(_) => None,
    };
    let many = ours(artifacts, &key, MANY_ITEMS, "0")?;
    rows.push(vec![
        format!("connect-migrator, {MANY_ITEMS} items"),
        format!("{:.2} s", many.span),
        format!("{:.2}", many.span / (physics * f64::from(MANY_ITEMS / ITEMS))),
        format!("{:.2} s", many.all),
        format!("{:.2}", many.requests),
        format!("{:.1} MiB", many.peak_kib / 1024.0),
    ]);
    table(&rows);
    if let Err(why) = rsconnect {
        println!("   rsconnect is not beside it: {why}");
    }
    let span = median(&runs.iter().map(|run| run.span).collect::<Vec<_>>());
    let requests = median(&runs.iter().map(|run| run.requests).collect::<Vec<_>>());
    let peak = median(&runs.iter().map(|run| run.peak_kib).collect::<Vec<_>>());
    if let Some(theirs) = theirs {
        println!("   the median is {:.1} times as fast as rsconnect", theirs.span / span);
    }
    ensure!(
        span <= physics * SPAN_LIMIT,
        "{span:.2} s are more than {SPAN_LIMIT} times the physics of {physics:.2} s"
    );
    ensure!(requests <= REQUESTS_LIMIT, "{requests:.2} requests an item are more than {REQUESTS_LIMIT}");
    ensure!(
        many.peak_kib <= peak * MEMORY_FACTOR + MEMORY_SLACK_KIB,
        "memory is not flat: {:.0} KiB at {MANY_ITEMS} items, {peak:.0} KiB at {ITEMS}",
        many.peak_kib
    );
    Ok(())
}

fn ours(artifacts: &Artifacts, key: &Path, items: u32, submit_ahead: &str) -> Tried<Run> {
    let bench = artifacts::rebuild_bench()?;
    let server = Server::start(artifacts, key, items)?;
    let out = Command::new(bench)
        .args([&server.address, "--parallelism", &SLOTS.to_string(), "--submit-ahead", submit_ahead])
        .args(["--json", "--key-file"])
        .arg(key)
        .output()?;
    ensure!(out.status.success(), "the bench failed: {}", String::from_utf8_lossy(&out.stderr));
    let told: Value = serde_json::from_slice(&out.stdout)?;
    let figure =
        |name: &str| told.get(name).and_then(Value::as_f64).ok_or(format!("no figure `{name}`: {told}"));
    let stats = server.stats()?;
    Ok(Run {
        span: span(&stats)?,
        all: figure("seconds-with-list")?,
        requests: figure("requests-per-item")?,
        peak_kib: figure("rss-peak-kib")?,
    })
}

fn vendors(artifacts: &Artifacts, key: &Path, program: &Path) -> Tried<Run> {
    let server = Server::start(artifacts, key, ITEMS)?;
    let home = tempfile::tempdir()?;
    let api_key = std::fs::read_to_string(key)?;
    let command = |words: &[&str]| {
        let mut command = Command::new(program);
        command.args(["content", "build"]).args(words);
        command.env("HOME", home.path()).env("CONNECT_CONTENT_BUILD_DIR", home.path().join("build"));
        command.env("CONNECT_SERVER", &server.address).env("CONNECT_API_KEY", api_key.trim());
        command
    };
    let mut listed = Command::new("curl");
    listed.args(["-fsS", "-H", &format!("Authorization: Key {}", api_key.trim())]);
    let list = listed.arg(format!("{}/__api__/v1/content", server.address)).output()?;
    let list: Value = serde_json::from_slice(&list.stdout)?;
    let guids =
        list.as_array().into_iter().flatten().filter_map(|item| item.get("guid").and_then(Value::as_str));
    let words: Vec<&str> = std::iter::once("add").chain(guids.flat_map(|guid| ["-g", guid])).collect();
    let added = command(&words).output()?;
    ensure!(added.status.success(), "rsconnect could not add: {}", String::from_utf8_lossy(&added.stderr));
    let before = requests(&server.stats()?);
    let began = Instant::now();
    let mut ran = command(&["run", "--parallelism", &SLOTS.to_string()]);
    let mut child = ran.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut peak_kib: f64 = 0.0;
    let status = loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        peak_kib = peak_kib.max(peak.trim().trim_end_matches("kB").trim().parse().unwrap_or(0.0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    let all = began.elapsed().as_secs_f64();
    ensure!(status.success(), "rsconnect content build run ended with {status}");
    let stats = server.stats()?;
    Ok(Run { span: span(&stats)?, all, requests: (requests(&stats) - before) / f64::from(ITEMS), peak_kib })
}

fn span(stats: &Value) -> Tried<f64> {
    stats
        .get("first_submit_to_last_finish_s")
        .and_then(Value::as_f64)
        .ok_or_else(|| format!("no span: {stats}").into())
}

fn requests(stats: &Value) -> f64 {
    let routes = stats.get("requests").and_then(Value::as_object);
    routes.map_or(f64::NAN, |routes| routes.values().filter_map(Value::as_f64).sum())
}

/// The vendor's tool in an environment of its own below `target`.
fn venv() -> Result<PathBuf, String> {
    let folder = target().join("tools/rsconnect");
    let program = folder.join("bin/rsconnect");
    if program.exists() {
        return Ok(program);
    }
    let run = |command: &mut Command| match command.output() {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => {
            let said = String::from_utf8_lossy(&out.stderr);
            Err(format!("{command:?}: {}", said.lines().last().unwrap_or("it failed")))
        }
        Err(error) => Err(format!("{command:?}: {error}")),
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", RSCONNECT]))?;
    Ok(program)
}
