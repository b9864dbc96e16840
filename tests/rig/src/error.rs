use std::path::{Path, PathBuf};
use std::time::Duration;

/// What can go wrong around a machine. Each says what was tried, why it failed and, where there is something to do,
/// what to do now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host lacks programs and this user may not install them.
    #[error("this host lacks {missing}; install it with: {line}")]
    HostLacks {
        /// The programs.
        missing: String,
        /// The one command that installs them.
        line: String,
    },
    /// A program on the host failed or could not be started.
    #[error("{what} failed: `{program}` {why}")]
    Program {
        /// What it was started for.
        what: String,
        /// The program.
        program: String,
        /// Its exit status and the end of what it wrote.
        why: String,
    },
    /// A file or folder on the host.
    #[error("could not {what} {}: {source}", path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {} s; last seen: {last}", waited.as_secs())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// The last observation.
        last: String,
    },
    /// A command in the guest did not end with 0.
    #[error("in the machine, `{command}` ended with {status}\n{output}")]
    Command {
        /// The command.
        command: String,
        /// Its exit status.
        status: i32,
        /// What it wrote to stderr and stdout, the end of each.
        output: String,
    },
    /// The machine cannot be reached: it is off, it crashed, or its ssh does not answer.
    #[error("the machine does not answer: {why}")]
    Unreachable {
        /// What was seen.
        why: String,
    },
    /// qemu's control socket refused or broke off.
    #[error("qemu refused `{command}`: {why}")]
    Qemu {
        /// The command.
        command: String,
        /// Its answer.
        why: String,
    },
    /// A journal entry that cannot be read.
    #[error("journalctl wrote an entry that cannot be read ({why}): {line}")]
    Journal {
        /// The start of the line.
        line: String,
        /// Why.
        why: String,
    },
    /// The caller's own preparation of a snapshot failed.
    #[error("preparing the snapshot `{name}` failed: {source}")]
    Provision {
        /// The snapshot.
        name: String,
        /// What the caller's closure said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The self test saw something else than it should.
    #[error("self test: {0}")]
    SelfTest(String),
}

impl Error {
    pub(crate) fn io(what: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { what, path: path.as_ref().to_owned(), source }
    }
}
