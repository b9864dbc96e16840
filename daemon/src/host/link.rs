//! The step host's end of the socket. When the daemon's end closes, this process ends, wherever it is; unless its call has a
//! seat ([`Survival`]): then it goes on as far as it can without the daemon, and lets a daemon that comes back take part again.

use super::outcome::{self, CallKey};
use super::{lines, load};
use connect_migrator_sdk::frames::{
    self, FrameError, MAX_CALL_BYTES, MAX_FRAME_BYTES, MAX_LOG_MESSAGE_BYTES, SecretText, ToDaemon,
    ToStepHost,
};
use connect_migrator_sdk::{HostCalls, HostRefused, LogLevel, Progress, Secret};
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{geteuid, getpgrp, getpid};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long a plugin waits for the daemon to make a record durable or to hand out a secret.
const REPLY_SECONDS: u64 = 60;

/// How often a plugin that waits looks whether the daemon is there.
const LOOK_MILLIS: u64 = 250;

/// Longest line of stdout or stderr that is read while the daemon does not.
const MAX_OUTPUT_LINE_BYTES: usize = 4 * 1024;

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

/// What a call needs to go on when the daemon is gone.
pub(super) struct Survival {
    /// Where a daemon that is back is awaited.
    pub(super) listener: UnixListener,
    /// Where the outcome is left.
    pub(super) folder: PathBuf,
    /// How long a request waits for a daemon to come back.
    pub(super) within: Duration,
    /// The reading ends of standard output and error: without them, writing there would be the end of whoever does, once the
    /// daemon is gone.
    pub(super) outputs: Vec<(&'static str, File)>,
}

/// Who hears what is sent.
enum Daemon {
    Here(UnixStream),
    Away(Instant),
    /// The last frame is sent.
    Done,
}

/// The socket, shared by all threads of the step host.
pub(super) struct Link {
    daemon: Mutex<Daemon>,
    /// Requests without an answer, each with its frame: a daemon that is back is asked again.
    waiting: Mutex<BTreeMap<u64, (SyncSender<Reply>, ToDaemon)>>,
    next_id: AtomicU64,
    cancelled: CancellationToken,
    on_cancel: OnceLock<OnCancel>,
    hello: ToDaemon,
    within: Duration,
    /// Where the outcome is left, and of which call. Set when a call that may survive has begun.
    seat: OnceLock<(PathBuf, CallKey)>,
    /// A record could not be made durable. How such a call ends says nothing about the world: the world is to be looked at.
    unrecorded: AtomicBool,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Greets, and starts to read. The first frame of the daemon comes out of the receiver.
    pub(super) fn start(
        socket: UnixStream,
        hello: ToDaemon,
        survival: Option<Survival>,
    ) -> std::io::Result<(Arc<Self>, Receiver<ToStepHost>)> {
        let link = Arc::new(Link {
            daemon: Mutex::new(Daemon::Here(socket.try_clone()?)),
            waiting: Mutex::default(),
            next_id: AtomicU64::new(1),
            cancelled: CancellationToken::new(),
            on_cancel: OnceLock::new(),
            within: survival.as_ref().map(|survival| survival.within).unwrap_or_default(),
            hello,
            seat: OnceLock::new(),
            unrecorded: AtomicBool::new(false),
        });
        let (first, received) = mpsc::sync_channel(1);
        let reader = Arc::clone(&link);
        std::thread::Builder::new()
            .name("daemon-watch".into())
            .spawn(move || watch(&reader, socket, &first, survival))?;
        let _ = link.send(&link.hello); // it is short
        Ok((link, received))
    }

    /// Reads until the daemon is gone. Does nothing that could block on the plugin.
    fn obey(&self, socket: UnixStream, first: &SyncSender<ToStepHost>, folder: Option<&PathBuf>) {
        let mut reader = BufReader::new(socket);
        let mut line = zeroize::Zeroizing::new(Vec::new());
        while let Ok(true) = lines::read_line(&mut reader, &mut line, MAX_CALL_BYTES) {
            // Both sides come from one package; what cannot be read here is a broken daemon, and there is nobody else to obey.
            let Ok(frame) = frames::from_line::<ToStepHost>(&line) else { die() };
            match frame {
                ToStepHost::Describe | ToStepHost::Call { .. } => {
                    if let (ToStepHost::Call { invocation }, Some(folder)) = (&frame, folder)
                        && invocation.op.changes()
                    {
                        // Set twice only by a second call, which ends this process.
                        let _ = self.seat.set((folder.clone(), CallKey::of(invocation)));
                    }
                    if first.try_send(frame).is_err() {
                        die();
                    }
                }
                ToStepHost::Ack { id } => self.answer(id, Reply::Ack),
                ToStepHost::Refused { id, why } => self.answer(id, Reply::Refused(why)),
                ToStepHost::Secret { id, value } => self.answer(id, Reply::Secret(value)),
                ToStepHost::Cancel => self.cancel(),
            }
            zeroize::Zeroize::zeroize(&mut *line);
        }
    }

    /// Waits for a daemon that is back, and tells it who speaks and what was asked and not answered.
    fn rejoined(&self, listener: &UnixListener) -> Option<UnixStream> {
        let (socket, _) = listener.accept().ok()?;
        let peer = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
        if peer.uid() != geteuid().as_raw() {
            return None;
        }
        let mut writing = socket.try_clone().ok()?;
        let waiting = held(&self.waiting);
        let mut daemon = held(&self.daemon);
        if matches!(*daemon, Daemon::Done) {
            return None;
        }
        for frame in std::iter::once(&self.hello).chain(waiting.values().map(|(_, frame)| frame)) {
            writing.write_all(&frames::to_line(frame, MAX_FRAME_BYTES).ok()?).ok()?;
        }
        *daemon = Daemon::Here(writing);
        Some(socket)
    }

    fn answer(&self, id: u64, reply: Reply) {
        // Gone when the plugin no longer waits.
        if let Some((waiting, _)) = held(&self.waiting).remove(&id) {
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

    /// Sends a frame; while the daemon is away, it is lost.
    ///
    /// # Errors
    /// When it is too long. A socket that is closed is no error: the reader sees it.
    pub(super) fn send(&self, frame: &ToDaemon) -> Result<(), FrameError> {
        let line = frames::to_line(frame, MAX_FRAME_BYTES)?;
        if let Daemon::Here(socket) = &mut *held(&self.daemon) {
            let _ = socket.write_all(&line);
        }
        Ok(())
    }

    /// Leaves the outcome where it survives the daemon, then sends the last frame; what threads of the plugin say later is
    /// dropped.
    pub(super) fn send_last(&self, frame: &ToDaemon) -> Result<(), FrameError> {
        let line = frames::to_line(frame, MAX_FRAME_BYTES)?;
        if let (ToDaemon::Result { answer }, Some((folder, call))) = (frame, self.seat.get())
            && (matches!(answer, connect_migrator_sdk::Answer::Ok(_))
                || !self.unrecorded.load(Ordering::SeqCst))
            && let Err(error) = outcome::leave(folder, call, answer)
        {
            // Then a daemon that is cut off now looks at the world, as without a seat.
            let message = format!("the outcome could not be left in {}: {error}", folder.display());
            self.log(LogLevel::Warn, &message, &Map::new());
        }
        if let Daemon::Here(mut socket) = std::mem::replace(&mut *held(&self.daemon), Daemon::Done) {
            let _ = socket.write_all(&line);
            // At once: others may hold this socket open for a moment longer.
            let _ = socket.shutdown(std::net::Shutdown::Write);
        }
        Ok(())
    }

    fn ask(&self, frame: impl FnOnce(u64) -> ToDaemon) -> Result<Reply, String> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::sync_channel(1);
        let frame = frame(id);
        {
            // Sent while the list is held, so that a daemon that comes back right now is not asked twice.
            let mut waiting = held(&self.waiting);
            if let Err(error) = self.send(&frame) {
                return Err(error.to_string());
            }
            waiting.insert(id, (sender, frame));
        }
        let look = Duration::from_millis(LOOK_MILLIS);
        let mut left = Duration::from_secs(REPLY_SECONDS);
        let reply = loop {
            match receiver.recv_timeout(look) {
                Err(RecvTimeoutError::Timeout) => match &*held(&self.daemon) {
                    // Nothing may change that nobody has written down.
                    Daemon::Away(since) if since.elapsed() >= self.within => die(),
                    Daemon::Away(_) => {}
                    Daemon::Here(_) | Daemon::Done => {
                        left = left.saturating_sub(look);
                        if left.is_zero() {
                            break None;
                        }
                    }
                },
                reply => break reply.ok(),
            }
        };
        held(&self.waiting).remove(&id);
        match reply {
            Some(Reply::Refused(why)) => Err(why),
            Some(reply) => Ok(reply),
            None => Err(format!("it did not answer within {REPLY_SECONDS} s")),
        }
    }

    fn ask_durable(&self, frame: impl FnOnce(u64) -> ToDaemon) -> Result<(), String> {
        let done = self.ask(frame).and_then(durable);
        if done.is_err() {
            self.unrecorded.store(true, Ordering::SeqCst);
        }
        done
    }

    /// Returns once the daemon has made the record durable.
    pub(super) fn ask_undo(&self, data: Value) -> Result<(), String> {
        self.ask_durable(|id| ToDaemon::Undo { id, data })
    }

    /// Returns once the daemon has made the checkpoint durable.
    pub(super) fn ask_checkpoint(&self, data: Value) -> Result<(), String> {
        self.ask_durable(|id| ToDaemon::Checkpoint { id, data })
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

/// Serves one daemon after the other.
fn watch(
    link: &Arc<Link>,
    mut socket: UnixStream,
    first: &SyncSender<ToStepHost>,
    survival: Option<Survival>,
) {
    let folder = survival.as_ref().map(|survival| survival.folder.clone());
    link.obey(socket, first, folder.as_ref());
    // Only a call that has begun and that changes things goes on; all others are made again at no cost.
    let Some(Survival { listener, outputs, .. }) = survival.filter(|_| link.seat.get().is_some()) else {
        die()
    };
    for (name, output) in outputs {
        let link = Arc::clone(link);
        let _ = std::thread::Builder::new().spawn(move || forward(&link, name, output));
    }
    loop {
        {
            let mut daemon = held(&link.daemon);
            match *daemon {
                Daemon::Here(_) => *daemon = Daemon::Away(Instant::now()),
                Daemon::Away(_) => {}
                Daemon::Done => return,
            }
        }
        match link.rejoined(&listener) {
            Some(joined) => socket = joined,
            None => {
                // A stranger, or one that was gone at once; not a reason to turn in circles.
                std::thread::sleep(Duration::from_millis(LOOK_MILLIS));
                continue;
            }
        }
        link.obey(socket, first, folder.as_ref());
    }
}

/// Reads what nobody else reads any more.
fn forward(link: &Link, name: &'static str, output: File) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        match lines::read_line(&mut reader, &mut line, MAX_OUTPUT_LINE_BYTES) {
            Ok(false) => return,
            Err(error) if error.kind() != std::io::ErrorKind::InvalidData => return,
            Ok(true) | Err(_) => {
                let text = String::from_utf8_lossy(&line);
                let text = shortened(&text, MAX_OUTPUT_LINE_BYTES).trim_end();
                link.log(LogLevel::Warn, &format!("{name}: {text}"), &Map::new());
            }
        }
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
