//! Commands in the guest, over one ssh connection that every command shares.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::machine::Output;
use crate::{Error, program};

/// How much longer than the command itself the connection may take, on a busy host.
const CONNECTION_GRACE: Duration = Duration::from_secs(30);
/// How long one try to connect may take.
const CONNECT_TRY: Duration = Duration::from_secs(20);
/// What is kept of each of a command's outputs, in bytes; the rest is read and dropped.
const OUTPUT_LIMIT_BYTES: u64 = 64 << 20;
/// How often a child is looked at while it is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Goes before the exit status on the last line of stderr, so that a status of 255 is not mistaken for a broken connection.
const STATUS_MARK: &str = "\nrig-exit-status ";

/// How to reach the guest of the machine in `folder`.
#[derive(Debug, Clone)]
pub(crate) struct Ssh {
    folder: PathBuf,
}

impl Ssh {
    /// Writes the ssh configuration for a port into the machine's folder.
    pub(crate) fn configure(folder: &Path, key: &Path, port: u16) -> Result<Self, Error> {
        let text = format!(
            "Host rig\n\
             HostName 127.0.0.1\nPort {port}\nUser root\nIdentityFile \"{}\"\nIdentitiesOnly yes\n\
             PreferredAuthentications publickey\nBatchMode yes\nLogLevel ERROR\n\
             StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nGlobalKnownHostsFile /dev/null\n\
             UpdateHostKeys no\nServerAliveInterval 15\nServerAliveCountMax 8\n",
            key.display()
        );
        let path = folder.join("ssh.conf");
        std::fs::write(&path, text).map_err(|e| Error::io("write", &path, e))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The line to type to log in.
    pub(crate) fn hint(&self) -> String {
        format!("ssh -F {} rig", program::quote(&self.folder.join("ssh.conf").to_string_lossy()))
    }

    /// Opens the shared connection; an error when the guest does not answer now.
    pub(crate) fn connect(&self) -> Result<(), Error> {
        self.disconnect();
        let mut child = self
            .ssh(&["-o", "ControlMaster=yes", "-o", "ConnectTimeout=15", "-N", "-f", "rig"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| unreachable_because(&format!("ssh could not be started: {e}")))?;
        let mut stderr = child.stderr.take();
        let status = wait(&mut child, Instant::now() + CONNECT_TRY);
        if status == Some(0) {
            return Ok(());
        }
        let mut said = String::new();
        if let (Some(pipe), Some(_)) = (stderr.as_mut(), status) {
            let _ = pipe.read_to_string(&mut said);
        }
        Err(unreachable_because(if said.is_empty() { "ssh does not connect" } else { said.trim() }))
    }

    /// Closes the shared connection.
    pub(crate) fn disconnect(&self) {
        if self.folder.join("ssh.ctl").exists() {
            let closed = self.ssh(&["-O", "exit", "rig"]).stdin(Stdio::null()).output();
            drop(closed);
            let _ = std::fs::remove_file(self.folder.join("ssh.ctl"));
        }
    }

    /// Runs a command with `bash -c`, ended by force when it takes longer than `within`.
    pub(crate) fn run(&self, command: &str, within: Duration, input: Option<File>) -> Result<Output, Error> {
        let seconds = within.as_secs_f64();
        let remote = format!(
            "timeout --kill-after=5 {seconds:.1} bash -c {}; printf '{}%d\\n' $? >&2",
            program::quote(command),
            STATUS_MARK.replace('\n', "\\n")
        );
        let mut child = self
            .ssh(&["-o", "ControlMaster=no", "rig", "--", &remote])
            .stdin(input.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| unreachable_because(&format!("ssh could not be started: {e}")))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let started = Instant::now();
        let (ended, stdout, stderr) = std::thread::scope(|scope| {
            let stdout = scope.spawn(|| stdout.map(drain).unwrap_or_default());
            let stderr = scope.spawn(|| stderr.map(drain).unwrap_or_default());
            // Waited for here and not in the threads' ends: a killed ssh closes both pipes.
            let ended = wait(&mut child, started + within + CONNECTION_GRACE);
            (ended, stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default())
        });
        let Some((said, status)) = split_status(&stderr) else {
            let why = if ended.is_none() { "it did not come back" } else { "the connection broke" };
            return Err(unreachable_because(&format!("`{}`: {why}; {}", short(command), stderr.trim())));
        };
        if matches!(status, 124 | 137) && started.elapsed() >= within {
            return Err(Error::Timeout {
                what: format!("the end of `{}` in the machine", short(command)),
                waited: within,
                last: format!("{}{}", program::tail(&stdout), program::tail(said)),
            });
        }
        Ok(Output { status, stderr: said.to_owned(), stdout })
    }

    fn ssh(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = program::command("ssh");
        // Relative to the folder: a socket's path may have 107 bytes only.
        command
            .current_dir(&self.folder)
            .args(["-F", "ssh.conf", "-o", "ControlPath=ssh.ctl"])
            .args(arguments);
        command
    }
}

/// The exit status of a child; `None` when it had to be killed at `until` or was killed by a signal.
fn wait(child: &mut Child, until: Instant) -> Option<i32> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.code(),
            Ok(None) if Instant::now() < until => std::thread::sleep(POLL_INTERVAL),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

/// Reads a pipe to its end and keeps the first part.
fn drain(mut pipe: impl Read) -> String {
    let mut kept = Vec::new();
    let _ = pipe.by_ref().take(OUTPUT_LIMIT_BYTES).read_to_end(&mut kept);
    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}

/// Takes the exit status off the end of stderr. A process that the command left behind may write after it.
fn split_status(stderr: &str) -> Option<(&str, i32)> {
    let (said, rest) = stderr.rsplit_once(STATUS_MARK)?;
    let digits = rest.split_once('\n').map_or(rest, |(line, _)| line);
    Some((said, digits.parse().ok()?))
}

fn unreachable_because(why: &str) -> Error {
    Error::Unreachable { why: why.into() }
}

/// The start of a command, for messages.
pub(crate) fn short(command: &str) -> String {
    let line: String = command.trim().chars().take(160).collect();
    if line.len() < command.trim().len() { format!("{line} …") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_is_taken_off_stderr() {
        assert_eq!(split_status("\nrig-exit-status 0\n"), Some(("", 0)));
        assert_eq!(split_status("warning\n\nrig-exit-status 255\n"), Some(("warning\n", 255)));
        assert_eq!(split_status("a\nrig-exit-status 3\nlate\n"), Some(("a", 3)));
    }

    #[test]
    fn a_connection_that_broke_has_no_exit_status() {
        assert_eq!(split_status("Connection closed by remote host\n"), None);
    }
}
