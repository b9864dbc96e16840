//! Readiness, status and watchdog: the protocol of `sd_notify(3)`.
//!
//! The environment is only read: removing a variable is not safe in a process with threads.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// The longest status line that is sent; systemd keeps it in memory and `systemctl status` shows it on one line.
const MAX_STATUS_BYTES: usize = 1024;
/// How long systemd may take to accept a message. It is a datagram: this is only reached when its queue is full.
const SEND_TIMEOUT_MILLIS: u64 = 1000;
/// Where systemd says that it wants to be told.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Tells systemd how the service is. Without a systemd that listens every call does nothing; none of them fails, because a run
/// must not end for the lack of a listener.
#[derive(Debug)]
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// As the environment says, which systemd has set.
    #[must_use]
    pub fn from_environment() -> Self {
        Notify::new(std::env::var_os(SOCKET_VARIABLE), sd_notify::watchdog_enabled())
    }

    /// To this socket (a path, or `@name` in the abstract namespace), with this watchdog.
    #[must_use]
    pub fn new(socket: Option<OsString>, watchdog: Option<Duration>) -> Self {
        let to = socket.and_then(|name| {
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_write_timeout(Some(Duration::from_millis(SEND_TIMEOUT_MILLIS))).ok()?;
            Some((socket, address(&name)?))
        });
        Notify { to, watchdog }
    }

    /// A listener is there.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// How often [`Notify::watchdog`] must be called: half of what systemd waits. `None` without a watchdog.
    #[must_use]
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// The service has started.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The service is about to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// What the service is doing, on one line. Anything more is cut off.
    pub fn status(&self, text: &str) {
        let mut line = String::with_capacity(text.len().min(MAX_STATUS_BYTES) + 16);
        line.push_str("STATUS=");
        for c in text.chars() {
            if line.len() + c.len_utf8() > MAX_STATUS_BYTES {
                line.push('…');
                break;
            }
            // A line end would begin another assignment.
            line.push(if c.is_control() { ' ' } else { c });
        }
        self.send(&line);
    }

    /// A sign of life.
    pub fn watchdog(&self) {
        if self.watchdog.is_some() {
            self.send("WATCHDOG=1");
        }
    }

    /// Asks systemd to wait with its time-outs for start and stop at least this long from now.
    pub fn extend_timeout(&self, by: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()));
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.to {
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

fn address(name: &OsStr) -> Option<SocketAddr> {
    match name.as_bytes().split_first()? {
        (b'@', name) => SocketAddr::from_abstract_name(name).ok(),
        (b'/', _) => SocketAddr::from_pathname(Path::new(name)).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn systemd_hears_what_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::new(Some(path.into()), Some(Duration::from_secs(60)));
        assert!(notify.is_heard());
        notify.ready();
        assert_eq!(heard(&socket), "READY=1");
        notify.watchdog();
        assert_eq!(heard(&socket), "WATCHDOG=1");
        notify.extend_timeout(Duration::from_secs(90));
        assert_eq!(heard(&socket), "EXTEND_TIMEOUT_USEC=90000000");
        notify.stopping();
        assert_eq!(heard(&socket), "STOPPING=1");
        assert_eq!(notify.watchdog_interval(), Some(Duration::from_secs(30)));
    }

    #[test]
    fn an_abstract_socket_is_found() {
        let name = format!("connect-migrator-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Notify::new(Some(format!("@{name}").into()), None).ready();
        assert_eq!(heard(&socket), "READY=1");
    }

    #[test]
    fn a_status_is_one_bounded_line_and_can_assign_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::new(Some(path.into()), None);
        notify.status("pulling\nMAINPID=1");
        assert_eq!(heard(&socket), "STATUS=pulling MAINPID=1");
        notify.status(&"é".repeat(5000));
        let status = heard(&socket);
        assert!(
            status.len() <= MAX_STATUS_BYTES + '…'.len_utf8() && status.ends_with('…'),
            "{}",
            status.len()
        );
    }

    #[test]
    fn without_a_listener_nothing_happens() {
        let folder = tempfile::tempdir().unwrap();
        for name in [None, Some(""), Some("relative"), Some("/"), folder.path().join("gone").to_str()] {
            let notify = Notify::new(name.map(Into::into), None);
            notify.ready();
            notify.status("x");
            notify.watchdog();
            assert_eq!(notify.watchdog_interval(), None);
        }
    }
}
