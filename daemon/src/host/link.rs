//! The step host's end of the socket. When the daemon's end closes, this process ends, wherever it is.

use super::{lines, load};
use connect_migrator_sdk::frames::{
    self, FrameError, MAX_CALL_BYTES, MAX_FRAME_BYTES, MAX_LOG_MESSAGE_BYTES, SecretText, ToDaemon,
    ToStepHost,
};
use connect_migrator_sdk::{HostCalls, HostRefused, LogLevel, Progress, Secret};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{getpgrp, getpid};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a plugin waits for the daemon to make a record durable or to hand out a secret.
const REPLY_SECONDS: u64 = 60;

/// Exit status when the daemon is gone. Nobody is left to read it, but for a trace.
const DAEMON_GONE: i32 = 70;

/// The daemon's answer to a request.
enum Reply {
    Ack,
    Refused(String),
    Secret(SecretText),
}

/// Told when the daemon asks the call to end.
type OnCancel = Box<dyn Fn() + Send + Sync>;

/// The socket, shared by all threads of the step host.
pub(super) struct Link {
    /// `None` once the last frame is sent.
    writer: Mutex<Option<UnixStream>>,
    waiting: Mutex<HashMap<u64, SyncSender<Reply>>>,
    next_id: AtomicU64,
    cancelled: CancellationToken,
    on_cancel: OnceLock<OnCancel>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Starts to read. The first frame of the daemon comes out of the receiver.
    pub(super) fn start(socket: UnixStream) -> std::io::Result<(Arc<Self>, Receiver<ToStepHost>)> {
        let link = Arc::new(Link {
            writer: Mutex::new(Some(socket.try_clone()?)),
            waiting: Mutex::default(),
            next_id: AtomicU64::new(1),
            cancelled: CancellationToken::new(),
            on_cancel: OnceLock::new(),
        });
        let (first, received) = mpsc::sync_channel(1);
        let reader = Arc::clone(&link);
        std::thread::Builder::new()
            .name("daemon-watch".into())
            .spawn(move || reader.watch(socket, &first))?;
        Ok((link, received))
    }

    /// Reads until the daemon is gone. Does nothing that could block on the plugin.
    fn watch(&self, socket: UnixStream, first: &SyncSender<ToStepHost>) {
        let mut reader = BufReader::new(socket);
        let mut line = zeroize::Zeroizing::new(Vec::new());
        while let Ok(true) = lines::read_line(&mut reader, &mut line, MAX_CALL_BYTES) {
            // Both sides come from one package; what cannot be read here is a broken daemon, and there is nobody else to obey.
            let Ok(frame) = frames::from_line::<ToStepHost>(&line) else { break };
            match frame {
                ToStepHost::Describe | ToStepHost::Call { .. } => {
                    if first.try_send(frame).is_err() {
                        break;
                    }
                }
                ToStepHost::Ack { id } => self.answer(id, Reply::Ack),
                ToStepHost::Refused { id, why } => self.answer(id, Reply::Refused(why)),
                ToStepHost::Secret { id, value } => self.answer(id, Reply::Secret(value)),
                ToStepHost::Cancel => self.cancel(),
            }
            zeroize::Zeroize::zeroize(&mut *line);
        }
        die();
    }

    fn answer(&self, id: u64, reply: Reply) {
        // Gone when the plugin no longer waits.
        if let Some(waiting) = held(&self.waiting).remove(&id) {
            let _ = waiting.try_send(reply);
        }
    }

    fn cancel(&self) {
        self.cancelled.cancel();
        if let Some(on_cancel) = self.on_cancel.get() {
            on_cancel();
        }
    }

    /// What to do when the daemon asks the call to end. Must return at once.
    pub(super) fn when_cancelled(&self, action: OnCancel) {
        let _ = self.on_cancel.set(action); // there is one call, so it is set once
        if self.cancelled.is_cancelled() {
            self.cancel();
        }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When it is too long. A socket that is closed is no error: the reader ends this process.
    pub(super) fn send(&self, frame: &ToDaemon) -> Result<(), FrameError> {
        let line = frames::to_line(frame, MAX_FRAME_BYTES)?;
        if let Some(socket) = held(&self.writer).as_mut() {
            let _ = socket.write_all(&line);
        }
        Ok(())
    }

    /// Sends the last frame; what threads of the plugin say later is dropped.
    pub(super) fn send_last(&self, frame: &ToDaemon) -> Result<(), FrameError> {
        let line = frames::to_line(frame, MAX_FRAME_BYTES)?;
        if let Some(mut socket) = held(&self.writer).take() {
            let _ = socket.write_all(&line);
        }
        Ok(())
    }

    fn ask(&self, frame: impl FnOnce(u64) -> ToDaemon) -> Result<Reply, String> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::sync_channel(1);
        held(&self.waiting).insert(id, sender);
        if let Err(error) = self.send(&frame(id)) {
            held(&self.waiting).remove(&id);
            return Err(error.to_string());
        }
        let reply = receiver.recv_timeout(Duration::from_secs(REPLY_SECONDS));
        held(&self.waiting).remove(&id);
        match reply {
            Ok(Reply::Refused(why)) => Err(why),
            Ok(reply) => Ok(reply),
            Err(_) => Err(format!("it did not answer within {REPLY_SECONDS} s")),
        }
    }

    /// Returns once the daemon has made the record durable.
    pub(super) fn ask_undo(&self, data: Value) -> Result<(), String> {
        self.ask(|id| ToDaemon::Undo { id, data }).and_then(durable)
    }

    /// Returns once the daemon has made the checkpoint durable.
    pub(super) fn ask_checkpoint(&self, data: Value) -> Result<(), String> {
        self.ask(|id| ToDaemon::Checkpoint { id, data }).and_then(durable)
    }

    /// Fetches a secret.
    pub(super) fn ask_secret(&self, credential: &str) -> Result<SecretText, String> {
        match self.ask(|id| ToDaemon::Secret { id, credential: credential.into() })? {
            Reply::Secret(value) => Ok(value),
            Reply::Ack | Reply::Refused(_) => Err("it answered something else".into()),
        }
    }
}

fn durable(reply: Reply) -> Result<(), String> {
    match reply {
        Reply::Ack => Ok(()),
        Reply::Secret(_) | Reply::Refused(_) => Err("it answered something else".into()),
    }
}

/// Ends this process and everything that the plugin started in its group. Nothing of them may go on changing the world when
/// no daemon writes down what they do.
fn die() -> ! {
    // Only a group of our own: somebody may have started the step host by hand.
    if getpgrp() == getpid() {
        let _ = killpg(getpgrp(), Signal::SIGKILL);
    }
    load::exit_now(DAEMON_GONE)
}

/// `text`, at most `limit` bytes of it.
pub(super) fn shortened(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

impl HostCalls for Link {
    fn log(&self, level: LogLevel, message: &str, fields: &Map<String, Value>) {
        let message = shortened(message, MAX_LOG_MESSAGE_BYTES).to_string();
        let frame = ToDaemon::Log { level, message, fields: fields.clone() };
        if self.send(&frame).is_err()
            && let ToDaemon::Log { message, .. } = frame
        {
            // Only the fields can be too long.
            let _ = self.send(&ToDaemon::Log { level, message, fields: Map::new() });
        }
    }

    fn progress(&self, progress: &Progress) {
        let _ = self.send(&ToDaemon::Progress { progress: progress.clone() }); // too long: not worth a failed step
    }

    fn record_undo(&self, record: &Value) -> Result<(), HostRefused> {
        self.ask_undo(record.clone())
            .map_err(|why| HostRefused { what: "confirmation of an undo record".into(), why })
    }

    fn checkpoint(&self, checkpoint: &Value) -> Result<(), HostRefused> {
        self.ask_checkpoint(checkpoint.clone())
            .map_err(|why| HostRefused { what: "confirmation of a checkpoint".into(), why })
    }

    fn secret(&self, credential: &str) -> Result<Secret, HostRefused> {
        self.ask_secret(credential)
            .map(|value| Secret::new(value.0.clone()))
            .map_err(|why| HostRefused { what: format!("the secret `{credential}`"), why })
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    fn cancellation(&self) -> Option<CancellationToken> {
        Some(self.cancelled.clone())
    }
}
