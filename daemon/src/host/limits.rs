//! How long a step host may take, and how much it may say.

use std::time::Duration;

/// Bounds of one call. The defaults suit any step; an engine may change them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLimits {
    /// From the start of the process to its first frame. Default 60 s: on a machine that is busy with a copy it takes its time.
    pub hello: Duration,
    /// From asking the call to end, because it was cancelled or its time is up, to SIGTERM. Default 30 s.
    pub cancel_grace: Duration,
    /// From SIGTERM to SIGKILL. Default 2 s.
    pub terminate_grace: Duration,
    /// From the last frame, or from SIGKILL, to the end of the process. Default 5 s.
    pub exit_grace: Duration,
    /// For `describe`, which does no I/O, beside the time for the first frame. Default 10 s.
    pub describe: Duration,
    /// For a frame to be taken by a step host. Default 10 s.
    pub write: Duration,
    /// For which a call that goes on without the daemon waits for one that writes down what it records, before it ends without
    /// changing more. Default 10 min.
    pub rejoin: Duration,
    /// Log lines per call, those on stdout and stderr included; more are counted and dropped. Default 10,000.
    pub log_lines: usize,
    /// Undo records and checkpoints per call; more are refused. Default 100,000.
    pub records: usize,
    /// Bytes of all undo records of a call, so that its rollback fits into one frame; more are refused. Default 32 MiB.
    pub undo_bytes: usize,
    /// Time between two progress reports that the engine hears of; the newest is kept. Default 100 ms.
    pub progress_interval: Duration,
}

impl HostLimits {
    /// How long the process of a call may live that may take `timeout`: whoever made the call has ended it long before then, and
    /// the process itself is not asked.
    pub(super) fn lifetime(&self, timeout: Duration) -> Duration {
        self.hello + timeout + self.cancel_grace + self.terminate_grace + self.exit_grace + self.rejoin
    }
}

impl Default for HostLimits {
    fn default() -> Self {
        HostLimits {
            hello: Duration::from_secs(60),
            cancel_grace: Duration::from_secs(30),
            terminate_grace: Duration::from_secs(2),
            exit_grace: Duration::from_secs(5),
            describe: Duration::from_secs(10),
            write: Duration::from_secs(10),
            rejoin: Duration::from_secs(600),
            log_lines: 10_000,
            records: 100_000,
            undo_bytes: 32 * 1024 * 1024,
            progress_interval: Duration::from_millis(100),
        }
    }
}
