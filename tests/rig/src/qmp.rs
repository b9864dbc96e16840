//! qemu's control socket (QMP).

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Error;

/// qemu creates its socket first thing; this long is allowed on a busy host.
const SOCKET_DEADLINE: Duration = Duration::from_secs(30);
/// An answer comes at once, except while qemu writes out a disk's caches.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// How often a state is asked for while it is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A connection to a qemu. qemu serves one at a time.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to the socket `qmp` in a machine's folder, waiting until qemu has made it.
    pub(crate) fn connect(folder: &Path) -> Result<Self, Error> {
        let until = Instant::now() + SOCKET_DEADLINE;
        loop {
            match Self::try_connect(folder) {
                Ok(qmp) => return Ok(qmp),
                Err(Error::Qemu { command, why }) if Instant::now() >= until => {
                    let log = std::fs::read_to_string(folder.join("qemu.log")).unwrap_or_default();
                    return Err(Error::Qemu {
                        command,
                        why: format!("{why}\n{}", crate::program::tail(&log)),
                    });
                }
                Err(Error::Qemu { .. }) => std::thread::sleep(POLL_INTERVAL),
                Err(other) => return Err(other),
            }
        }
    }

    /// One try; refused at once where no qemu listens.
    pub(crate) fn try_connect(folder: &Path) -> Result<Self, Error> {
        let failed = |e: std::io::Error| refused("connect", &e.to_string());
        // A socket's path may have 107 bytes only; through the folder's descriptor every depth will do.
        let descriptor = std::fs::File::open(folder).map_err(|e| Error::io("open", folder, e))?;
        let path = format!("/proc/self/fd/{}/qmp", descriptor.as_raw_fd());
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE)).map_err(failed)?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE)).map_err(failed)?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        qmp.line("greeting")?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs one command and answers its `return`.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Error> {
        let request = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.stream
            .get_mut()
            .write_all(request.as_bytes())
            .map_err(|e| refused(command, &format!("it could not be sent: {e}")))?;
        loop {
            let mut answer = self.line(command)?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(refused(
                    command,
                    error.get("desc").and_then(Value::as_str).unwrap_or("no reason given"),
                ));
            }
            // Everything else is an event.
        }
    }

    /// Runs a command of the human monitor and answers what it printed.
    pub(crate) fn human(&mut self, line: &str) -> Result<String, Error> {
        let answer = self.execute("human-monitor-command", json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// The run state, `running`, `paused`, `inmigrate`, `internal-error` …
    pub(crate) fn status(&mut self) -> Result<String, Error> {
        let answer = self.execute("query-status", json!({}))?;
        Ok(answer.get("status").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Lets a machine go on that was restored from a saved state, once all of it is read.
    pub(crate) fn resume(&mut self, within: Duration) -> Result<(), Error> {
        let until = Instant::now() + within;
        loop {
            match self.status()?.as_str() {
                "running" => return Ok(()),
                "inmigrate" if Instant::now() < until => std::thread::sleep(POLL_INTERVAL),
                "paused" | "postmigrate" => drop(self.execute("cont", json!({}))?),
                state => return Err(refused("cont", &format!("the restored machine is in state `{state}`"))),
            }
        }
    }

    /// Stops the machine, writes its memory and devices to `file` and its disk to the disk, and ends qemu.
    pub(crate) fn save(mut self, file: &Path, within: Duration) -> Result<(), Error> {
        self.execute("stop", json!({}))?;
        self.execute("migrate-set-parameters", json!({ "max-bandwidth": 1u64 << 40 }))?;
        let target = format!("exec:cat >{}", crate::program::quote(&file.to_string_lossy()));
        self.execute("migrate", json!({ "uri": target }))?;
        let until = Instant::now() + within;
        loop {
            let answer = self.execute("query-migrate", json!({}))?;
            match answer.get("status").and_then(Value::as_str) {
                Some("completed") => break,
                Some("failed" | "cancelled") => return Err(refused("migrate", &answer.to_string())),
                _ if Instant::now() >= until => {
                    return Err(Error::Timeout {
                        what: "saving the machine's state".into(),
                        waited: within,
                        last: answer.to_string(),
                    });
                }
                _ => std::thread::sleep(POLL_INTERVAL),
            }
        }
        self.execute("quit", json!({})).map(drop)
    }

    /// The host's port that is forwarded to this port of the guest.
    pub(crate) fn forwarded_port(&mut self, guest_port: u16) -> Result<Option<u16>, Error> {
        Ok(forwarded_port(&self.human("info usernet")?, guest_port))
    }

    fn line(&mut self, command: &str) -> Result<Value, Error> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                refused(command, &format!("no answer within {} s", ANSWER_DEADLINE.as_secs()))
            }
            _ => refused(command, &e.to_string()),
        })?;
        if read == 0 {
            return Err(refused(command, "it ended"));
        }
        serde_json::from_str(&line).map_err(|e| refused(command, &format!("unreadable answer: {e}")))
    }
}

fn refused(command: &str, why: &str) -> Error {
    Error::Qemu { command: command.into(), why: why.into() }
}

/// Finds a forwarding in what the monitor's `info usernet` prints:
/// `  TCP[HOST_FORWARD]  12        127.0.0.1 40123       10.0.2.15    22     0     0`.
fn forwarded_port(text: &str, guest_port: u16) -> Option<u16> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        if words.next()? != "TCP[HOST_FORWARD]" {
            return None;
        }
        let mut words = words.skip(2);
        let host = words.next()?.parse().ok()?;
        let guest: u16 = words.nth(1)?.parse().ok()?;
        (guest == guest_port).then_some(host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forwarded_port_is_found_by_the_guests_port() {
        let text = "Hub -1 (n0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                    TCP[HOST_FORWARD]  13       127.0.0.1 40123       10.0.2.15    22     0     0\r\n  \
                    TCP[HOST_FORWARD]  14       127.0.0.1 40124       10.0.2.15    80     0     0\r\n  \
                    TCP[ESTABLISHED]   15       127.0.0.1 40123       10.0.2.15    81     0     0\r\n";
        assert_eq!(forwarded_port(text, 22), Some(40123));
        assert_eq!(forwarded_port(text, 80), Some(40124));
        assert_eq!(forwarded_port(text, 81), None);
    }
}
