//! The small process that owns a machine; see `warden.sh` for why it exists.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::{Error, program};

const SCRIPT: &str = include_str!("warden.sh");

/// A running warden. Dropping it ends the machine and removes the machine's folder, and waits until both is done.
#[derive(Debug)]
pub(crate) struct Warden {
    folder: PathBuf,
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Warden {
    /// Starts a warden for `folder`, which it removes in the end. Until the machine is gone a shared lock is held
    /// on every file of `bases`.
    pub(crate) fn start(folder: &Path, bases: &[PathBuf]) -> Result<Self, Error> {
        let failed = |e: std::io::Error| failed("could not be started", &e);
        let mut command = program::command("env");
        for base in bases {
            command.args(["flock", "--no-fork", "--shared"]).arg(base);
        }
        let mut process = command
            .args(["sh", "-c", SCRIPT, "rig-warden"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C in the terminal reaches the foreground group only, and it must outlive that.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let orders = process.stdin.take();
        let Some(answers) = process.stdout.take() else {
            return Err(failed(std::io::ErrorKind::BrokenPipe.into()));
        };
        Ok(Self { folder: folder.to_owned(), process, orders, answers: BufReader::new(answers) })
    }

    /// Starts qemu from a script in the machine's folder, ending the one before. Answers its process id.
    pub(crate) fn start_qemu(&mut self, script: &str) -> Result<u32, Error> {
        let answer = self.order(&format!("start {script}"))?;
        answer
            .strip_prefix("started ")
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| failed("answered", &format!("unexpectedly: {answer}")))
    }

    /// Kills qemu as a power cut would, and waits until it is gone. Does nothing when it is gone already.
    pub(crate) fn kill_qemu(&mut self) -> Result<(), Error> {
        self.order("kill").map(drop)
    }

    /// Leaves the machine running until it is shut down from within or killed by hand.
    pub(crate) fn keep(mut self) -> Result<(), Error> {
        self.order("keep")?;
        self.orders = None;
        self.folder = PathBuf::new();
        Ok(())
    }

    fn order(&mut self, order: &str) -> Result<String, Error> {
        let Some(orders) = self.orders.as_mut() else { return Err(failed("is", &"gone")) };
        let mut answer = String::new();
        orders
            .write_all(format!("{order}\n").as_bytes())
            .and_then(|()| self.answers.read_line(&mut answer))
            .map_err(|e| failed("did not answer", &e))?;
        if answer.is_empty() {
            return Err(failed("ended by itself on the order", &order));
        }
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        self.orders = None;
        if !self.folder.as_os_str().is_empty() {
            let _ = self.process.wait();
        }
    }
}

fn failed(what: &str, why: &dyn std::fmt::Display) -> Error {
    Error::Program {
        what: "looking after the machine".into(),
        program: "warden".into(),
        why: format!("{what} {why}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn alive(id: u32) -> bool {
        std::fs::read_to_string(format!("/proc/{id}/stat"))
            .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or_default().starts_with('Z'))
    }

    fn sleeping(folder: &Path) -> (Warden, u32) {
        std::fs::write(folder.join("go"), "exec sleep 600").unwrap();
        let mut warden = Warden::start(folder, &[]).unwrap();
        let id = warden.start_qemu("go").unwrap();
        assert!(alive(id));
        (warden, id)
    }

    fn gone_soon(id: u32) {
        // A busy disk has kept a process for ten seconds.
        let deadline = Instant::now() + Duration::from_secs(60);
        while alive(id) {
            assert!(Instant::now() < deadline, "{id} still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn dropping_it_ends_the_machine_and_removes_its_folder() {
        let folder = tempfile::tempdir().unwrap().keep();
        let (warden, id) = sleeping(&folder);
        drop(warden);
        assert!(!alive(id) && !folder.exists());
    }

    #[test]
    fn a_kill_ends_the_machine_and_leaves_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (mut warden, id) = sleeping(folder.path());
        warden.kill_qemu().unwrap();
        assert!(!alive(id) && folder.path().exists());
        let again = warden.start_qemu("go").unwrap();
        assert!(alive(again));
        warden.kill_qemu().unwrap();
        warden.kill_qemu().unwrap();
    }

    #[test]
    fn the_machine_ends_when_its_owner_is_killed_outright() {
        let folder = tempfile::tempdir().unwrap().keep();
        let (mut warden, id) = sleeping(&folder);
        // What the kernel does with the pipes of a killed process: it closes them.
        warden.orders = None;
        gone_soon(id);
        drop(warden);
        assert!(!folder.exists());
    }

    #[test]
    fn the_machine_ends_when_the_warden_itself_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let (mut warden, id) = sleeping(folder.path());
        warden.process.kill().unwrap();
        gone_soon(id);
    }

    #[test]
    fn a_kept_machine_outlives_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let (warden, id) = sleeping(folder.path());
        warden.keep().unwrap();
        assert!(alive(id) && folder.path().exists());
        // Until then it is a shell that does not heed SIGTERM yet.
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.trim() != "sleep") {
            assert!(Instant::now() < deadline, "{id} never begins");
            std::thread::sleep(Duration::from_millis(5));
        }
        program::output("ending the kept machine", "kill", &[id.to_string()]).unwrap();
        gone_soon(id);
    }

    #[test]
    fn the_locks_on_the_bases_are_held_while_the_machine_lives() {
        let folder = tempfile::tempdir().unwrap().keep();
        let bases = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
        std::fs::write(folder.join("go"), "exec sleep 600").unwrap();
        let paths = bases.each_ref().map(|base| base.path().to_owned());
        let mut warden = Warden::start(&folder, &paths).unwrap();
        warden.start_qemu("go").unwrap();
        let free = |path: &PathBuf| {
            let arguments = ["-n".as_ref(), path.as_os_str(), "true".as_ref()];
            program::output("trying the lock", "flock", &arguments).is_ok()
        };
        assert_eq!(paths.each_ref().map(free), [false, false]);
        drop(warden);
        assert_eq!(paths.each_ref().map(free), [true, true]);
    }
}
