//! What a call may say to the operator, within bounds: log lines, stray output, progress.

use super::lines::{Line, Lines};
use super::{HostLimits, Listener};
use connect_migrator_sdk::frames::MAX_LOG_MESSAGE_BYTES;
use connect_migrator_sdk::{LogLevel, Progress};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Longest line of stdout or stderr that is kept.
const MAX_OUTPUT_LINE_BYTES: usize = 4 * 1024;

/// Lines of stdout and stderr that wait for the log.
const OUTPUT_QUEUE_LINES: usize = 64;

/// How long stdout and stderr are read after the end of the process; a process that left the group may hold them open.
const OUTPUT_DRAIN_MILLIS: u64 = 200;

/// Stdout and stderr of a step host, as log lines.
pub(super) struct Outputs {
    tasks: JoinSet<()>,
    lines: mpsc::Receiver<String>,
}

impl Outputs {
    pub(super) fn read(outputs: Vec<(&'static str, Box<dyn AsyncRead + Send + Unpin>)>) -> Self {
        let (sender, lines) = mpsc::channel(OUTPUT_QUEUE_LINES);
        let mut tasks = JoinSet::new();
        for (name, output) in outputs {
            tasks.spawn(forward(name, output, sender.clone()));
        }
        Outputs { tasks, lines }
    }

    /// The next line; `None` when both are closed.
    pub(super) async fn next(&mut self) -> Option<String> {
        self.lines.recv().await
    }

    /// The lines that are left once the process has ended.
    pub(super) async fn rest(mut self) -> Vec<String> {
        let mut rest = Vec::new();
        let deadline = Instant::now() + Duration::from_millis(OUTPUT_DRAIN_MILLIS);
        while let Ok(Some(line)) = tokio::time::timeout_at(deadline, self.lines.recv()).await {
            rest.push(line);
        }
        self.tasks.abort_all();
        rest
    }
}

async fn forward(name: &'static str, output: Box<dyn AsyncRead + Send + Unpin>, lines: mpsc::Sender<String>) {
    let mut reader = Lines::new(BufReader::new(output), MAX_OUTPUT_LINE_BYTES);
    loop {
        let (bytes, more, last) = match reader.next().await {
            Line::Whole(bytes) => (bytes, "", false),
            Line::TooLong(bytes) => (bytes, "…", false),
            Line::End(bytes) if bytes.is_empty() => return,
            Line::End(bytes) => (bytes, "", true),
        };
        let text = String::from_utf8_lossy(&bytes);
        if lines.send(format!("{name}: {}{more}", text.trim_end())).await.is_err() || last {
            return;
        }
    }
}

/// Hands log lines and progress on to the listener, no more than the limits allow.
pub(super) struct Teller {
    listener: Arc<dyn Listener>,
    lines_left: usize,
    dropped: u64,
    progress_interval: Duration,
    /// The newest report that has not been handed on.
    progress: Option<Progress>,
    progress_due: Instant,
}

impl Teller {
    pub(super) fn new(listener: Arc<dyn Listener>, limits: &HostLimits) -> Self {
        Teller {
            listener,
            lines_left: limits.log_lines,
            dropped: 0,
            progress_interval: limits.progress_interval,
            progress: None,
            progress_due: Instant::now(),
        }
    }

    /// Runs `work` with the listener where it may block.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Listener) -> T + Send + 'static,
    ) -> Option<T> {
        let listener = Arc::clone(&self.listener);
        // Fails only when the runtime ends or the listener panics.
        tokio::task::spawn_blocking(move || work(listener.as_ref())).await.ok()
    }

    pub(super) async fn log(&mut self, level: LogLevel, message: String) {
        match self.lines_left.checked_sub(1) {
            Some(left) => self.lines_left = left,
            None => {
                self.dropped += 1;
                return;
            }
        }
        self.with(move |listener| listener.log(level, &message)).await;
    }

    pub(super) async fn progress(&mut self, progress: Progress) {
        self.progress = Some(progress);
        if Instant::now() >= self.progress_due {
            self.tell_progress().await;
        }
    }

    /// When [`Teller::tell_progress`] is to be called; `None` when there is nothing to tell.
    pub(super) fn progress_due(&self) -> Option<Instant> {
        self.progress.as_ref().map(|_| self.progress_due)
    }

    pub(super) async fn tell_progress(&mut self) {
        if let Some(progress) = self.progress.take() {
            self.with(move |listener| listener.progress(progress)).await;
            self.progress_due = Instant::now() + self.progress_interval;
        }
    }

    /// Tells what is left.
    pub(super) async fn finish(mut self) {
        self.tell_progress().await;
        if self.dropped > 0 {
            let message = format!("… {} lines dropped: the call logged more than is kept", self.dropped);
            self.with(move |listener| listener.log(LogLevel::Warn, &message)).await;
        }
    }
}

/// A message with its fields, as one line of text.
pub(super) fn with_fields(mut message: String, fields: &Map<String, Value>) -> String {
    for (name, value) in fields {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if message.len() + name.len() + value.len() > MAX_LOG_MESSAGE_BYTES {
            message.push_str(" …");
            break;
        }
        message.push_str(&format!(" {name}={value}"));
    }
    message
}
