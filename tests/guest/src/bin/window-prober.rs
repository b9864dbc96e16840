//! Runs in the guest: measures the time without service as a client sees it.
//!
//! One request every few milliseconds, each on a connection of its own. A slow answer does not delay the next request, until many
//! wait at once: more of them would only keep a slow server from answering. A request is good when it is answered with 200 and nginx says that one of the two servers answered it. The
//! time without service lies between the times at which the last good request before, and the first good one after, a row of bad
//! ones were sent; its error is one interval, and the lateness of the requests, which is told. All such rows count.

use clap::Parser;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many requests wait for an answer at once.
const WAITING_MAX: u32 = 16;
/// How much of an answer is read: headers and a short body.
const ANSWER_BYTES: usize = 4096;

/// Measures the time without service; ends when the file `--until` appears, and prints JSON
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// Where to connect to
    #[arg(long, default_value = "127.0.0.1:80")]
    address: SocketAddr,
    /// The host name to ask for
    #[arg(long, default_value = "connect.example.com")]
    host: String,
    /// The path to ask for
    #[arg(long, default_value = "/__ping__")]
    path: String,
    /// The header in which nginx says which server answered
    #[arg(long, default_value = "x-upstream")]
    by: String,
    /// Time between two requests
    #[arg(long, default_value_t = 10)]
    interval_ms: u64,
    /// How long an answer may take
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
    /// The file whose appearance ends it
    #[arg(long)]
    until: std::path::PathBuf,
    /// How long it lasts at most
    #[arg(long, default_value_t = 600)]
    within_s: u64,
}

#[derive(Debug, Clone)]
struct Asked {
    sent: Duration,
    late: Duration,
    /// From the sending of the request to its answer.
    took: Duration,
    /// The server that answered well, or what went wrong.
    outcome: Result<String, String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let stop = Arc::new(AtomicBool::new(false));
    let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let interval = Duration::from_millis(arguments.interval_ms.max(1));
    let start = Instant::now() + Duration::from_millis(200);
    let threads: Vec<_> = (0..WAITING_MAX)
        .map(|first| {
            let (arguments, stop, asked) = (arguments.clone(), Arc::clone(&stop), Arc::clone(&asked));
            std::thread::spawn(move || {
                let mut due = start + interval * first;
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let sent = Instant::now();
                    let outcome = ask(&arguments);
                    let one = Asked {
                        sent: sent.duration_since(start),
                        late: sent.saturating_duration_since(due),
                        took: sent.elapsed(),
                        outcome,
                    };
                    asked.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                    // Those whose time is over are left out.
                    while due < Instant::now() {
                        due += interval * WAITING_MAX;
                    }
                }
            })
        })
        .collect();
    while !arguments.until.exists() && start.elapsed() < Duration::from_secs(arguments.within_s) {
        std::thread::sleep(Duration::from_millis(50));
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    let mut all = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
    all.sort_by_key(|one| one.sent);
    println!("{}", told(&all));
    ExitCode::SUCCESS
}

fn ask(arguments: &Arguments) -> Result<String, String> {
    let timeout = Duration::from_millis(arguments.timeout_ms);
    let end = Instant::now() + timeout;
    let word = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => "timeout".to_owned(),
        kind => kind.to_string(),
    };
    let mut stream = TcpStream::connect_timeout(&arguments.address, timeout).map_err(word)?;
    stream.set_write_timeout(Some(timeout)).map_err(word)?;
    let request =
        format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", arguments.path, arguments.host);
    stream.write_all(request.as_bytes()).map_err(word)?;
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    let mut part = [0; 1024];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("timeout".into());
        }
        stream.set_read_timeout(Some(left)).map_err(word)?;
        let read = stream.read(&mut part).map_err(word)?;
        answer.extend_from_slice(part.get(..read).unwrap_or_default());
        if read == 0 || answer.windows(4).any(|end| end == b"\r\n\r\n") || answer.len() >= ANSWER_BYTES {
            break;
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let mut lines = text.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("no answer").to_owned();
    let by = lines.take_while(|line| !line.is_empty()).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case(&arguments.by).then(|| value.trim().to_owned())
    });
    match (status.as_str(), by) {
        ("200", Some(by)) => Ok(by),
        ("200", None) => Err("200 from nobody".into()),
        _ => Err(format!("status {status}")),
    }
}

fn told(all: &[Asked]) -> serde_json::Value {
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut longest = (Duration::ZERO, "", "");
    let mut whole = Duration::ZERO;
    let (mut last_good, mut bad_since): (Option<&Asked>, bool) = (None, false);
    for one in all {
        match &one.outcome {
            Ok(by) => {
                *outcomes.entry(by).or_default() += 1;
                if let (Some(before), true) = (last_good, bad_since) {
                    let length = one.sent.saturating_sub(before.sent);
                    whole += length;
                    if length > longest.0 {
                        let from = before.outcome.as_ref().map_or("", String::as_str);
                        longest = (length, from, by);
                    }
                }
                (last_good, bad_since) = (Some(one), false);
            }
            Err(why) => {
                *outcomes.entry(why).or_default() += 1;
                bad_since = true;
            }
        }
    }
    let good = all.iter().filter(|one| one.outcome.is_ok());
    json!({
        "seconds": whole.as_secs_f64(),
        "longest_seconds": longest.0.as_secs_f64(),
        "from": longest.1,
        "to": longest.2,
        "ends_bad": bad_since,
        "requests": all.len(),
        "outcomes": outcomes,
        "late_ms": shares(all.iter().map(|one| one.late)),
        "answer_ms": shares(good.map(|one| one.took)),
    })
}

/// What half of them, and all but a hundredth of them, do not exceed, in milliseconds.
fn shares(times: impl Iterator<Item = Duration>) -> serde_json::Value {
    let mut sorted: Vec<f64> = times.map(|time| time.as_secs_f64() * 1000.0).collect();
    sorted.sort_by(f64::total_cmp);
    let at = |share: usize| sorted.get(sorted.len() * share / 100).copied().unwrap_or_default();
    json!({ "p50": at(50), "p99": at(99) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(outcomes: &[Result<&str, &str>]) -> Vec<Asked> {
        let one = |(tick, outcome): (usize, &Result<&str, &str>)| Asked {
            sent: Duration::from_millis(10 * tick as u64),
            late: Duration::ZERO,
            took: Duration::from_millis(tick as u64),
            outcome: outcome.map(str::to_owned).map_err(str::to_owned),
        };
        outcomes.iter().enumerate().map(one).collect()
    }

    #[test]
    fn the_window_lies_between_the_good_requests_around_rows_of_bad_ones() {
        let (old, new, bad) = (Ok("old"), Ok("new"), Err("status 503"));
        let told = told(&asked(&[old, bad, old, old, bad, bad, bad, new, new]));
        assert_eq!((&told["seconds"], &told["longest_seconds"]), (&json!(0.06), &json!(0.04)));
        assert_eq!((&told["from"], &told["to"]), (&json!("old"), &json!("new")));
        assert_eq!(told["outcomes"], json!({ "old": 3, "new": 2, "status 503": 4 }));
        assert_eq!(told["ends_bad"], false);
        assert_eq!(told["answer_ms"], json!({ "p50": 3.0, "p99": 8.0 }));
    }

    #[test]
    fn a_row_of_bad_requests_without_an_end_is_told() {
        assert_eq!(told(&asked(&[Ok("old"), Err("timeout")]))["ends_bad"], true);
    }
}
