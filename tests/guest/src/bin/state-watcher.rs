//! Runs in the guest: follows the state of a migration as it is written, to hit a running call exactly.
//!
//! A poll of `connect-migrator status` would be too slow for calls of a few milliseconds.

use clap::{Parser, Subcommand};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often the state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long systemd may take to start a killed daemon again.
const NEXT_START: Duration = Duration::from_secs(20);
/// How long to wait for a reader or writer of the state.
const BUSY: Duration = Duration::from_secs(5);

/// Follows the state of a migration
#[derive(Debug, Parser)]
struct Arguments {
    /// The state file
    #[arg(long, default_value = "/var/lib/connect-migrator/prod/state.db")]
    state: PathBuf,
    /// How long to wait at most, in seconds: as long as a whole migration may take
    #[arg(long, default_value_t = 900)]
    within: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Wait until a call begins, such as `apply container` or `rollback container apply`, or until an event such as `soak-started`
    Await {
        /// The call, or the event
        what: Vec<String>,
    },
    /// Kill the daemon with -9 whenever something is seen for the first time, until the migration is over
    Kill {
        /// The control group of the daemon
        #[arg(
            long,
            default_value = "/sys/fs/cgroup/system.slice/system-connect\\x2dmigrator.slice/connect-migrator@prod.service"
        )]
        cgroup: PathBuf,
        /// Only what begins with one of these
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// How long after it, in milliseconds; several are taken in turn
        #[arg(long, value_delimiter = ',', default_value = "0")]
        after_ms: Vec<u64>,
    },
}

type Tried<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("state-watcher: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Tried<()> {
    let until = Instant::now() + Duration::from_secs(arguments.within);
    let mut state = Follower::new(&arguments.state);
    match &arguments.command {
        Command::Await { what } => {
            let what = what.join(" ");
            while Instant::now() < until {
                if state.news()?.contains(&what) {
                    return Ok(());
                }
                std::thread::sleep(LOOK_EVERY);
            }
            Err(format!("`{what}` was not seen").into())
        }
        Command::Kill { cgroup, only, after_ms } => {
            // From here on nothing is missed.
            println!("watching");
            let mut seen = BTreeSet::new();
            let mut delays = after_ms.iter().cycle();
            while Instant::now() < until {
                for name in state.news()? {
                    let wanted = only.is_empty() || only.iter().any(|start| name.starts_with(start.as_str()));
                    if wanted && !seen.contains(&name) {
                        std::thread::sleep(Duration::from_millis(delays.next().copied().unwrap_or(0)));
                        // A daemon that is gone already meets this event again when it has resumed.
                        if kill_daemon(cgroup)? {
                            println!("{name}");
                            seen.insert(name.clone());
                        }
                    }
                    if name == "closed" {
                        // The kill before may have hit this very moment: then the next start is killed, which has only
                        // to wrap up.
                        let soon = Instant::now() + NEXT_START;
                        while wanted && !seen.contains(&name) && Instant::now() < soon {
                            if kill_daemon(cgroup)? {
                                println!("{name}");
                                seen.insert(name.clone());
                            }
                        }
                        return Ok(());
                    }
                }
                std::thread::sleep(LOOK_EVERY);
            }
            Err("the migration did not end".into())
        }
    }
}

/// Reads what is new in the state.
struct Follower {
    path: PathBuf,
    connection: Option<Connection>,
    last: i64,
}

impl Follower {
    /// Passes over what is there already.
    fn new(path: &Path) -> Self {
        let mut this = Follower { path: path.into(), connection: None, last: 0 };
        let _ = this.news();
        this
    }

    /// The names of new events; for the beginning of a call `<op> <step>`, with what is undone or probed behind it.
    fn news(&mut self) -> Tried<Vec<String>> {
        if self.connection.is_none() {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
            let Ok(connection) = Connection::open_with_flags(&self.path, flags) else {
                return Ok(Vec::new());
            };
            connection.busy_timeout(BUSY)?;
            self.connection = Some(connection);
        }
        let Some(connection) = &self.connection else { return Ok(Vec::new()) };
        // The table comes a moment after the file.
        let Ok(mut query) =
            connection.prepare_cached("SELECT seq, body FROM event WHERE seq > ?1 ORDER BY seq")
        else {
            self.connection = None;
            return Ok(Vec::new());
        };
        let rows =
            query.query_map([self.last], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
        let mut names = Vec::new();
        for row in rows {
            let (seq, body) = row?;
            self.last = seq;
            names.push(name(&serde_json::from_str(&body)?));
        }
        Ok(names)
    }
}

fn name(event: &Value) -> String {
    let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("event") != "intent" {
        return text("event").to_owned();
    }
    format!("{} {} {}", text("op"), text("step"), text("of")).trim_end().to_owned()
}

/// Whether there was one. Only the daemon itself is killed; that its children go with it is systemd's business.
fn kill_daemon(cgroup: &Path) -> Tried<bool> {
    let Ok(processes) = std::fs::read_to_string(cgroup.join("cgroup.procs")) else { return Ok(false) };
    for id in processes.lines() {
        let command = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        if command.split(|byte| *byte == 0).nth(1) == Some(b"daemon") {
            return Ok(std::process::Command::new("/bin/kill").args(["-9", id]).output()?.status.success());
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_beginning_of_a_call_is_named_by_what_is_called() {
        let intent =
            json!({ "event": "intent", "call": 7, "step": "route", "op": "rollback", "of": "enter-window" });
        assert_eq!(name(&intent), "rollback route enter-window");
        assert_eq!(name(&json!({ "event": "intent", "step": "stop", "op": "apply" })), "apply stop");
        assert_eq!(name(&json!({ "event": "soak-started" })), "soak-started");
    }

    #[test]
    fn what_was_there_before_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let writer = Connection::open(&path).unwrap();
        writer.execute_batch("CREATE TABLE event (seq INTEGER PRIMARY KEY, body TEXT)").unwrap();
        let add = |event: &str| {
            writer
                .execute("INSERT INTO event (body) VALUES (?1)", [format!(r#"{{"event":"{event}"}}"#)])
                .unwrap()
        };
        add("started");
        let mut follower = Follower::new(&path);
        assert!(follower.news().unwrap().is_empty());
        add("closed");
        assert_eq!(follower.news().unwrap(), ["closed"]);
        assert!(follower.news().unwrap().is_empty());
    }
}
