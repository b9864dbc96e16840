//! Rebuilds all content of a server with the code of the step, and prints what it took: seconds, requests an item, peak memory.
//!
//! ```text
//! cargo run --release -p connect-migrator-connect-api --example rebuild-bench -- http://127.0.0.1:3939 --parallelism 8
//! ```

use clap::Parser;
use connect_migrator_connect_api::Rebuild;
use connect_migrator_sdk::testing::MemoryHost;
use connect_migrator_sdk::{Op, SecretRef, Source, Step};
use serde_json::json;
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

const CREDENTIAL: &str = "connect-api-key";

/// Rebuilds all content of a server and prints what it took.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the server answers.
    url: String,
    /// A file that holds the API key. Without it a key that means nothing is sent.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// How many builds run at once.
    #[arg(long, default_value_t = 8)]
    parallelism: usize,
    /// How many more are submitted.
    #[arg(long, default_value_t = 0)]
    submit_ahead: usize,
    /// An empty folder for the step's files. Default: a new one, removed afterwards.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let scratch = tempfile::tempdir()?;
    let state_dir = arguments.state_dir.as_deref().unwrap_or(scratch.path());
    let key = match &arguments.key_file {
        Some(path) => std::fs::read_to_string(path)?.trim().to_owned(),
        None => "none".to_owned(),
    };
    let host = MemoryHost::new();
    host.store_secret(CREDENTIAL, &key);
    let cx = host.context(Op::Apply, state_dir, Source::default());
    let mut settings: <Rebuild as Step>::Config = serde_json::from_value(json!({
        "url": arguments.url,
        "parallelism": arguments.parallelism,
        "submit-ahead": arguments.submit_ahead,
    }))?;
    settings.api_key = Some(SecretRef { credential: CREDENTIAL.into() });
    let rss_before = memory_kib("VmRSS:")?;
    let began = Instant::now();
    let outcome = Rebuild::apply(&settings, &cx).await?;
    let all_seconds = began.elapsed().as_secs_f64();
    let figures = outcome.facts.get("rebuild").cloned().unwrap_or_default();
    let number = |name: &str| figures.get(name).and_then(serde_json::Value::as_f64).unwrap_or_default();
    let items = number("total").max(1.0);
    let result = json!({
        "items": number("total"),
        "complete": number("complete"),
        "failed": number("failed"),
        "parallelism": arguments.parallelism,
        "submit-ahead": arguments.submit_ahead,
        "seconds": number("seconds"),
        "seconds-with-list": (all_seconds * 1000.0).round() / 1000.0,
        "requests-per-item": (number("requests") / items * 1000.0).round() / 1000.0,
        "rss-start-kib": rss_before,
        "rss-peak-kib": memory_kib("VmHWM:")?,
        "cpu-ms-per-item": (cpu_millis()? / items * 1000.0).round() / 1000.0,
    });
    if arguments.json {
        println!("{result}");
    } else {
        for (name, value) in result.as_object().into_iter().flatten() {
            println!("{name:20} {value}");
        }
        outcome.evidence.iter().for_each(|line| println!("{line}"));
    }
    if number("complete") + number("failed") < number("total") {
        Err("not all items ended".into())
    } else {
        Ok(())
    }
}

fn memory_kib(field: &str) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("no such field")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// User and system time of this process so far.
fn cpu_millis() -> Result<f64, Box<dyn Error>> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
    let millis = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3;
    Ok(millis(usage.user_time()) + millis(usage.system_time()))
}
