//! What a call of a step costs beside what the step does: `step-overhead PROGRAM PLUGIN [CALLS]`.
//!
//! PROGRAM is `connect-migrator`, PLUGIN the library of the plugin `honest`. Each call starts a step host, which looks at the
//! file's owner, loads it, makes the call and ends. Prints milliseconds.

use connect_migrator::host::{CallRequest, ChildLauncher, Listener, PluginRef, call};
use connect_migrator_sdk::{Invocation, LogLevel, Migration, Op, Progress, Secret, Source};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const CALLS: usize = 200;

struct Deaf;

impl Listener for Deaf {
    fn log(&self, _: LogLevel, _: &str) {}
    fn progress(&self, _: Progress) {}
    fn record_undo(&self, _: Value) -> Result<(), String> {
        Ok(())
    }
    fn checkpoint(&self, _: Value) -> Result<(), String> {
        Ok(())
    }
    fn secret(&self, credential: &str) -> Result<Secret, String> {
        Err(format!("no credential `{credential}` is stored"))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(program), Some(plugin)) = (words.next(), words.next()) else {
        return Err("usage: step-overhead PROGRAM PLUGIN [CALLS]".into());
    };
    let calls = words.next().map_or(Ok(CALLS), |calls| calls.parse())?.max(1);
    let launcher = ChildLauncher::default().program(Path::new(&program));
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let invocation = Invocation {
            step: "box".into(),
            uses: "honest".into(),
            op: Op::Check,
            of: None,
            attempt: 1,
            config: json!({ "text": "x" }),
            migration: Migration { id: "m".into(), instance: "bench".into() },
            source: Source::default(),
            state_dir: std::env::temp_dir(),
            facts: Map::new(),
            routed: None,
            checkpoint: None,
            undo: Vec::new(),
        };
        let plugin = PluginRef::File(PathBuf::from(&plugin));
        let began = Instant::now();
        let request = CallRequest::new(plugin, invocation, CALL_TIMEOUT);
        call(&launcher, request, Arc::new(Deaf), CancellationToken::new()).await?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times.get((times.len() - 1) * share / 100).copied().unwrap_or_default();
    println!("{}", json!({ "calls": calls, "median-ms": at(50), "p99-ms": at(99), "least-ms": at(0) }));
    Ok(())
}
