//! Where entries go.

use super::{Entry, Priority};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where journald listens.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// How long journald may take to accept an entry.
const SEND_TIMEOUT_MILLIS: u64 = 1000;

/// Where entries go.
#[derive(Debug)]
pub struct Sink(Kind);

#[derive(Debug)]
enum Kind {
    /// journald; standard error with prefixes when it does not take an entry.
    Journal { socket: UnixDatagram, path: PathBuf },
    /// Standard error, read by systemd.
    Prefixed,
    /// Standard error, read by a person.
    Person,
}

impl Sink {
    /// journald, or standard error with `<N>` prefixes if there is none.
    #[must_use]
    pub fn journal() -> Self {
        Sink::journal_at(Path::new(JOURNAL_SOCKET))
    }

    /// A journald that listens at `path`, or standard error with `<N>` prefixes if none does.
    #[must_use]
    pub fn journal_at(path: &Path) -> Self {
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.set_write_timeout(Some(Duration::from_millis(SEND_TIMEOUT_MILLIS)))?;
            Ok(socket)
        });
        match socket {
            Ok(socket) if path.exists() => Sink(Kind::Journal { socket, path: path.into() }),
            _ => Sink(Kind::Prefixed),
        }
    }

    /// Standard error, for a person.
    #[must_use]
    pub fn person() -> Self {
        Sink(Kind::Person)
    }

    pub(super) fn write(&self, entry: &Entry<'_>) {
        self.write_or(entry, &mut std::io::stderr().lock());
    }

    /// `fallback` stands for standard error.
    pub(super) fn write_or(&self, entry: &Entry<'_>, fallback: &mut dyn Write) {
        let prefixed = match &self.0 {
            Kind::Journal { socket, path } => {
                if socket.send_to(&entry.native(), path).is_ok() {
                    return;
                }
                true
            }
            Kind::Prefixed => true,
            Kind::Person if entry.priority >= Priority::Debug => return,
            Kind::Person => false,
        };
        let _ = fallback.write_all(entry.lines(prefixed).as_bytes());
    }
}
