//! Processes of this machine, and whether they live in a container.

use std::io;
use std::path::{Path, PathBuf};

/// The longest part of a command line that is shown.
const MAX_COMMAND_CHARS: usize = 120;
/// Where the product lies in the vendor's images.
pub const CONNECT_IN_IMAGE: &str = "opt/rstudio-connect/bin/connect";

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id, as this namespace sees it.
    pub pid: u32,
    /// Its command line, shortened; its arguments hold no secrets in a sane system, but only the first two are taken.
    pub command: String,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.pid, self.command)
    }
}

/// A few processes in one line.
#[must_use]
pub fn listed(processes: &[Process]) -> String {
    const SHOWN: usize = 5;
    let mut text = processes.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if processes.len() > SHOWN {
        text.push_str(&format!(" and {} more", processes.len() - SHOWN));
    }
    text
}

/// The processes below `/proc`.
#[derive(Debug, Clone)]
pub struct Processes {
    proc_dir: PathBuf,
}

impl Default for Processes {
    fn default() -> Self {
        Processes::at(Path::new("/proc"))
    }
}

impl Processes {
    /// Those of another `/proc`.
    #[must_use]
    pub fn at(proc_dir: &Path) -> Self {
        Processes { proc_dir: proc_dir.into() }
    }

    /// A process by its id. Also one that has just ended.
    #[must_use]
    pub fn get(&self, pid: u32) -> Process {
        let dir = self.proc_dir.join(pid.to_string());
        let line = std::fs::read(dir.join("cmdline")).unwrap_or_default();
        let words: Vec<_> = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .take(2)
            .map(String::from_utf8_lossy)
            .collect();
        let mut command = words.join(" ");
        if command.is_empty() {
            command = std::fs::read_to_string(dir.join("comm")).unwrap_or_default();
        }
        let command = command.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
        let command: String = command.take(MAX_COMMAND_CHARS).collect();
        Process { pid, command: if command.is_empty() { "?".into() } else { command } }
    }

    /// Processes of this machine itself whose program lies below `dir`. Those in containers are left out: their paths are
    /// those of another file system.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn on_host_running_from(&self, dir: &Path) -> io::Result<Vec<Process>> {
        self.matching(|exe, place| {
            !place.other_namespace && !place.in_container_group() && exe.starts_with(dir)
        })
    }

    /// Connects that live in containers on this machine. What the unit `source` of this machine runs in namespaces of its own,
    /// such as content in a sandbox, is none.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn connects_in_containers(&self, source: &str) -> io::Result<Vec<Process>> {
        self.matching(|exe, place| {
            (place.other_namespace || place.in_container_group())
                && exe.ends_with(CONNECT_IN_IMAGE)
                && !place.groups.split(['/', '\n']).any(|part| part == source)
        })
    }

    fn matching(&self, wanted: impl Fn(&Path, &Place) -> bool) -> io::Result<Vec<Process>> {
        let ours = std::fs::read_link(self.proc_dir.join("self/ns/pid"))?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.proc_dir)? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let dir = self.proc_dir.join(pid.to_string());
            // A process may end while it is looked at; a kernel thread has no program.
            let Ok(exe) = std::fs::read_link(dir.join("exe")) else { continue };
            let Ok(theirs) = std::fs::read_link(dir.join("ns/pid")) else { continue };
            let groups = std::fs::read_to_string(dir.join("cgroup")).unwrap_or_default();
            if wanted(&without_deleted(exe), &Place { other_namespace: theirs != ours, groups }) {
                found.push(self.get(pid));
            }
        }
        found.sort_by_key(|process| process.pid);
        Ok(found)
    }
}

/// A program that was replaced by an upgrade is still that program.
fn without_deleted(exe: PathBuf) -> PathBuf {
    match exe.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => path.into(),
        None => exe,
    }
}

/// Where a process lives.
struct Place {
    /// Its process ids are others than this machine's.
    other_namespace: bool,
    /// Its control groups, as `/proc` shows them.
    groups: String,
}

impl Place {
    /// A container may share this machine's process ids; its control group still tells.
    fn in_container_group(&self) -> bool {
        ["/docker-", "/docker/", "/libpod-", "/containerd-", "/crio-", "/machine.slice/", "/kubepods"]
            .iter()
            .any(|mark| self.groups.contains(mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let machine = Machine(tempfile::tempdir().unwrap());
            std::fs::create_dir_all(machine.0.path().join("self/ns")).unwrap();
            symlink("pid:[1]", machine.0.path().join("self/ns/pid")).unwrap();
            machine
        }

        fn run(&self, pid: u32, exe: &str, namespace: &str, group: &str) {
            let dir = self.0.path().join(pid.to_string());
            std::fs::create_dir_all(dir.join("ns")).unwrap();
            symlink(exe, dir.join("exe")).unwrap();
            symlink(namespace, dir.join("ns/pid")).unwrap();
            std::fs::write(dir.join("cgroup"), format!("0::{group}\n")).unwrap();
            std::fs::write(dir.join("cmdline"), format!("{exe}\0--config\0/etc/secret\0")).unwrap();
        }

        fn processes(&self) -> Processes {
            Processes::at(self.0.path())
        }
    }

    const CONNECT: &str = "/opt/rstudio-connect/bin/connect";
    const UNIT: &str = "rstudio-connect.service";

    #[test]
    fn a_connect_of_the_host_is_told_from_one_in_a_container() {
        let machine = Machine::new();
        machine.run(10, CONNECT, "pid:[1]", "/system.slice/rstudio-connect.service");
        machine.run(11, CONNECT, "pid:[2]", "/system.slice/docker-abc.scope");
        machine.run(12, CONNECT, "pid:[1]", "/machine.slice/libpod-abc.scope/container");
        machine.run(13, "/opt/rstudio-connect/bin/connect (deleted)", "pid:[1]", "/");
        machine.run(14, "/usr/bin/R", "pid:[1]", "/system.slice/rstudio-connect.service");
        machine.run(15, "/opt/rstudio-connect/binary", "pid:[1]", "/");
        machine.run(16, CONNECT, "pid:[3]", "/system.slice/rstudio-connect.service/sandbox");
        let pids = |found: Vec<Process>| found.iter().map(|process| process.pid).collect::<Vec<_>>();
        let dir = Path::new("/opt/rstudio-connect/bin");
        assert_eq!(pids(machine.processes().on_host_running_from(dir).unwrap()), [10, 13]);
        assert_eq!(pids(machine.processes().connects_in_containers(UNIT).unwrap()), [11, 12]);
    }

    #[test]
    fn only_the_beginning_of_a_command_line_is_shown() {
        let machine = Machine::new();
        machine.run(10, CONNECT, "pid:[1]", "/");
        assert_eq!(machine.processes().get(10).to_string(), format!("10 ({CONNECT} --config)"));
        assert_eq!(machine.processes().get(99).to_string(), "99 (?)");
    }

    #[test]
    fn this_test_is_a_process_of_the_host() {
        let exe = std::env::current_exe().unwrap();
        let found = Processes::default().matching(|path, _| path == exe).unwrap();
        assert!(found.iter().any(|process| process.pid == std::process::id()), "{found:?}");
    }
}
