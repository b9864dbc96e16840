//! Processes of a container, found without the engine: they outlive it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often it is looked whether they have ended.
const POLL_MILLIS: u64 = 100;
/// How long killed processes may take to go.
const KILLED_WITHIN_SECONDS: u64 = 10;
/// Ids of containers are this long; a shorter one could match something else.
const ID_CHARS: usize = 64;

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number on this host.
    pub pid: i32,
    /// Its name.
    pub name: String,
}

/// By what a container's control group is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group<'a> {
    /// By the container's full id.
    Container(&'a str),
    /// By the unit in which it runs.
    Unit(&'a str),
}

impl Group<'_> {
    /// Whether it can be told from every other.
    fn is_exact(self) -> bool {
        match self {
            Group::Container(id) => id.len() == ID_CHARS && id.bytes().all(|b| b.is_ascii_hexdigit()),
            Group::Unit(unit) => unit.len() > ".service".len() && !unit.contains('/'),
        }
    }

    fn holds(self, groups: &str) -> bool {
        match self {
            Group::Container(id) => groups.contains(id),
            Group::Unit(unit) => groups.lines().any(|line| line.split('/').any(|part| part == unit)),
        }
    }
}

/// The processes of a container.
#[must_use]
pub fn of(proc: &Path, group: Group<'_>) -> Vec<Process> {
    if !group.is_exact() {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(proc) else { return Vec::new() };
    let mut found: Vec<Process> = entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
            let groups = std::fs::read_to_string(entry.path().join("cgroup")).ok()?;
            if !group.holds(&groups) {
                return None;
            }
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            Some(Process { pid, name: name.trim().into() })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Asks processes to end, and waits.
///
/// Answers those that are left after `limit`.
pub async fn end(proc: &Path, group: Group<'_>, only: Option<&str>, limit: Duration) -> Vec<Process> {
    signal(proc, group, only, Signal::SIGTERM);
    wait(proc, group, only, limit).await
}

/// Kills the processes of a container, and waits. Answers those that are left.
pub async fn slay(proc: &Path, group: Group<'_>) -> Vec<Process> {
    signal(proc, group, None, Signal::SIGKILL);
    wait(proc, group, None, Duration::from_secs(KILLED_WITHIN_SECONDS)).await
}

fn wanted(proc: &Path, group: Group<'_>, only: Option<&str>) -> Vec<Process> {
    let mut found = of(proc, group);
    found.retain(|process| only.is_none_or(|name| process.name == name));
    found
}

fn signal(proc: &Path, group: Group<'_>, only: Option<&str>, signal: Signal) {
    for process in wanted(proc, group, only) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(process.pid), signal);
    }
}

async fn wait(proc: &Path, group: Group<'_>, only: Option<&str>, limit: Duration) -> Vec<Process> {
    let deadline = Instant::now() + limit;
    loop {
        let left = wanted(proc, group, only);
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(POLL_MILLIS)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_found_by_their_control_group() {
        let dir = tempfile::tempdir().unwrap();
        let id = "ab".repeat(32);
        for (pid, group) in [
            ("12", format!("0::/system.slice/docker-{id}.scope\n")),
            ("7", format!("3:cpu:/docker/{id}\n")),
            ("9", "0::/user.slice\n".into()),
            ("20", "0::/system.slice/connect-prod.service/libpod-payload-1/x\n".into()),
            ("21", "0::/system.slice/old-connect-prod.service\n".into()),
        ] {
            std::fs::create_dir(dir.path().join(pid)).unwrap();
            std::fs::write(dir.path().join(pid).join("cgroup"), group).unwrap();
            std::fs::write(dir.path().join(pid).join("comm"), "connect\n").unwrap();
        }
        std::fs::create_dir(dir.path().join("self")).unwrap();
        let pids: Vec<i32> = of(dir.path(), Group::Container(&id)).iter().map(|p| p.pid).collect();
        assert_eq!(pids, [7, 12]);
        let of_unit = |unit| of(dir.path(), Group::Unit(unit)).iter().map(|p| p.pid).collect::<Vec<_>>();
        assert_eq!((of_unit("connect-prod.service"), of_unit(".service")), (vec![20], vec![]));
        // Too short an id could match anything.
        for id in ["", "ab", "docker", &"x".repeat(64)] {
            assert_eq!(of(dir.path(), Group::Container(id)), []);
        }
    }
}
