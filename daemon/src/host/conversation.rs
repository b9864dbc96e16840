//! The daemon's side of one call: what is said, for how long, and how it ends.

use super::lines::{Line, Lines};
use super::link::shortened;
use super::output::{Outputs, Teller, with_fields};
use super::{
    CallFailure, HostLimits, Launcher, Listener, PluginRef, Running, Seat, Start, StepProcess, built_in,
    trusted,
};
use connect_migrator_sdk::frames::{
    self, FrameError, MAX_CALL_BYTES, MAX_FRAME_BYTES, PROTOCOL, ToDaemon, ToStepHost,
};
use connect_migrator_sdk::{Answer, Invocation, LogLevel, Needs, PluginDescription, Progress, Secret};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// How long the status of a process is waited for that closed its socket. It is set before the socket closes, so that only a
/// process which closed the socket itself is waited for.
const STATUS_MILLIS: u64 = 1000;

/// Bytes of the last line on stderr that the text of a crash shows.
const LAST_WORDS_BYTES: usize = 200;

/// A call to make.
#[derive(Debug, Clone, PartialEq)]
pub struct CallRequest {
    /// Whose step.
    pub plugin: PluginRef,
    /// The call.
    pub invocation: Invocation,
    /// How long it may take before it is asked to end.
    pub timeout: Duration,
    /// What the step needs of the machine. `None`: everything.
    pub needs: Option<Needs>,
    /// Where it is, if it may go on when the daemon is gone.
    pub seat: Option<Seat>,
}

impl CallRequest {
    /// A call that ends with the daemon, and needs everything.
    #[must_use]
    pub fn new(plugin: PluginRef, invocation: Invocation, timeout: Duration) -> Self {
        CallRequest { plugin, invocation, timeout, needs: None, seat: None }
    }

    /// The process that it is made in.
    #[must_use]
    pub fn start(&self, limits: &HostLimits) -> Start {
        Start {
            what: what(&self.invocation, &self.plugin),
            plugin: self.plugin.clone(),
            needs: self.needs.clone(),
            settings: self.invocation.config.clone(),
            state_dir: Some(self.invocation.state_dir.clone()),
            lifetime: limits.lifetime(self.timeout),
            seat: self.seat.clone(),
        }
    }
}

/// What a call is called in messages.
fn what(invocation: &Invocation, plugin: &PluginRef) -> String {
    format!("{} of the step `{}` (plugin {})", invocation.op, invocation.step, plugin.name())
}

/// Makes a call. Returns when the process in which it ran is gone, and no later than after the time-out and the graces of
/// [`HostLimits`]. Dropping the future kills that process.
///
/// After `cancel` the step is asked to end, and may still answer.
///
/// # Errors
/// See [`CallFailure`].
pub async fn call(
    launcher: &dyn Launcher,
    request: CallRequest,
    listener: Arc<dyn Listener>,
    cancel: CancellationToken,
) -> Result<Value, CallFailure> {
    let start = request.start(launcher.limits());
    let CallRequest { invocation, timeout, .. } = request;
    let first = ToStepHost::Call { invocation: Box::new(invocation) };
    let result = converse(launcher, &start, &first, timeout, listener, cancel.clone()).await;
    match result {
        // It was not asked to end: something of its own was. Taken at its word it would be called again without end.
        Err(CallFailure::Step(mut error)) if error.cancelled && !cancel.is_cancelled() => {
            error.cancelled = false;
            Err(CallFailure::Step(error))
        }
        result => result,
    }
}

/// Takes part in a call that a daemon before this one has made, and that went on without it. Otherwise as [`call`].
///
/// # Errors
/// See [`CallFailure`]; after `Crashed` and `Protocol` the call may have left its outcome.
pub async fn rejoin(
    launcher: &dyn Launcher,
    running: Running,
    request: CallRequest,
    listener: Arc<dyn Listener>,
    cancel: CancellationToken,
) -> Result<Value, CallFailure> {
    let call = what(&request.invocation, &request.plugin);
    let conversation =
        Conversation::with(launcher.limits(), &request.plugin, call, running, request.timeout, listener);
    conversation.through(None, &cancel).await
}

/// Asks a plugin what it is. What is linked into the daemon is asked right here, a library in a step host.
///
/// # Errors
/// See [`CallFailure`].
pub async fn describe(launcher: &dyn Launcher, plugin: &PluginRef) -> Result<PluginDescription, CallFailure> {
    if let PluginRef::BuiltIn(name) = plugin
        && let Some(plugin) = built_in::find(name)
    {
        return Ok(plugin.describe());
    }
    // Right after a boot it is the start of the process that takes its time.
    let within = launcher.limits().hello + launcher.limits().describe;
    let start = Start {
        plugin: plugin.clone(),
        what: format!("the description of the plugin {}", plugin.name()),
        needs: Some(Needs::nothing()),
        settings: Value::Null,
        state_dir: None,
        lifetime: launcher.limits().lifetime(within),
        seat: None,
    };
    let (silent, never) = (Arc::new(Silent), CancellationToken::new());
    let value = converse(launcher, &start, &ToStepHost::Describe, within, silent, never).await?;
    serde_json::from_value(value).map_err(|error| CallFailure::Protocol {
        call: start.what,
        what: format!("a description of the wrong shape ({error})"),
    })
}

/// Nobody listens while a plugin describes itself; it has nothing to ask for either.
struct Silent;

impl Listener for Silent {
    fn log(&self, _: LogLevel, _: &str) {}
    fn progress(&self, _: Progress) {}
    fn record_undo(&self, _: Value) -> Result<(), String> {
        Err("a description changes nothing".into())
    }
    fn checkpoint(&self, _: Value) -> Result<(), String> {
        Err("a description changes nothing".into())
    }
    fn secret(&self, _: &str) -> Result<Secret, String> {
        Err("a description needs no secrets".into())
    }
}

async fn converse(
    launcher: &dyn Launcher,
    start: &Start,
    first: &ToStepHost,
    within: Duration,
    listener: Arc<dyn Listener>,
    cancel: CancellationToken,
) -> Result<Value, CallFailure> {
    if let PluginRef::File(path) = &start.plugin {
        trusted(launcher.trust(), path)?;
    }
    let call = start.what.clone();
    let first = frames::to_line(first, MAX_CALL_BYTES)
        .map_err(|error| CallFailure::TooLarge { call: call.clone(), why: error.to_string() })?;
    let running = launcher
        .launch(start)
        .await
        .map_err(|error| CallFailure::NotStarted { call: call.clone(), why: error.to_string() })?;
    let conversation = Conversation::with(launcher.limits(), &start.plugin, call, running, within, listener);
    conversation.through(Some(&first), &cancel).await
}

/// How long the call is still waited for.
enum Patience {
    /// Its own time.
    Running { until: Instant, given: Duration },
    /// It was asked to end.
    Asked { until: Instant, why: Why },
    /// SIGTERM was sent.
    Terminated { until: Instant, why: Why },
    /// SIGKILL was sent.
    Killed { until: Instant, why: Why },
}

/// Why a call was asked to end.
#[derive(Clone, Copy)]
enum Why {
    TimedOut { given: Duration },
    Cancelled,
}

/// How a conversation ended.
enum End {
    /// With a last frame.
    Answered(Answer),
    NotLoaded {
        why: String,
        remedy: String,
    },
    /// The step host said something it must not say.
    Wrong(String),
    /// It said nothing at all in the time that it has for its first frame.
    Silent,
    /// The socket closed before the last frame, or our patience ended.
    Gone,
}

struct Conversation<'a> {
    plugin: &'a PluginRef,
    call: String,
    limits: &'a HostLimits,
    frames: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
    /// `None` once both are closed.
    outputs: Option<Outputs>,
    process: Box<dyn StepProcess>,
    teller: Teller,
    patience: Patience,
    /// Until when the first frame must come; `None` once it has come.
    greeted: Option<Instant>,
    /// How long it has for that.
    greeting: Duration,
    records: usize,
    undo_bytes: usize,
    /// The last line on stderr.
    last_words: Option<String>,
}

impl<'a> Conversation<'a> {
    fn with(
        limits: &'a HostLimits,
        plugin: &'a PluginRef,
        call: String,
        running: Running,
        within: Duration,
        listener: Arc<dyn Listener>,
    ) -> Self {
        let (read, write) = running.socket.into_split();
        Conversation {
            plugin,
            call,
            limits,
            frames: Lines::new(BufReader::new(read), MAX_FRAME_BYTES),
            write,
            outputs: Some(Outputs::read(running.outputs)),
            process: running.process,
            teller: Teller::new(listener, limits),
            patience: Patience::Running { until: Instant::now() + within, given: within },
            greeted: Some(Instant::now() + limits.hello.min(within)),
            greeting: limits.hello.min(within),
            records: 0,
            undo_bytes: 0,
            last_words: None,
        }
    }

    async fn through(
        mut self,
        first: Option<&[u8]>,
        cancel: &CancellationToken,
    ) -> Result<Value, CallFailure> {
        let end = self.talk(first, cancel).await;
        self.close(end).await
    }

    async fn talk(&mut self, first: Option<&[u8]>, cancel: &CancellationToken) -> End {
        if let Some(first) = first
            && let Err(why) = self.send_within(first, self.greeting, End::Silent).await
        {
            return why;
        }
        loop {
            let deadline = self.deadline();
            let progress_due = self.teller.progress_due();
            let asked = !matches!(self.patience, Patience::Running { .. });
            tokio::select! {
                // The clock and the operator come before what a flooding plugin says.
                biased;
                () = sleep_until(deadline) => if let Some(end) = self.lose_patience().await { return end },
                () = cancel.cancelled(), if !asked => {
                    if let Some(end) = self.ask_to_end(Why::Cancelled).await { return end }
                }
                () = due(progress_due) => self.teller.tell_progress().await,
                line = self.frames.next() => if let Some(end) = self.hear(line).await { return end },
                line = next_output(&mut self.outputs) => match line {
                    Some(line) => self.tell_output(line).await,
                    None => self.outputs = None,
                },
            }
        }
    }

    fn deadline(&self) -> Instant {
        let until = match self.patience {
            Patience::Running { until, .. }
            | Patience::Asked { until, .. }
            | Patience::Terminated { until, .. }
            | Patience::Killed { until, .. } => until,
        };
        self.greeted.map_or(until, |greeting| until.min(greeting))
    }

    /// Time is up for something.
    async fn lose_patience(&mut self) -> Option<End> {
        let now = Instant::now();
        if self.greeted.is_some_and(|until| now >= until) && matches!(self.patience, Patience::Running { .. })
        {
            return Some(End::Silent);
        }
        match self.patience {
            Patience::Running { given, .. } => return self.ask_to_end(Why::TimedOut { given }).await,
            Patience::Asked { why, .. } => {
                self.process.terminate();
                self.patience = Patience::Terminated { until: now + self.limits.terminate_grace, why };
            }
            Patience::Terminated { why, .. } => {
                self.process.kill();
                self.patience = Patience::Killed { until: now + self.limits.exit_grace, why };
            }
            // A process that even SIGKILL does not end hangs in the kernel; its socket will close when it returns from there.
            Patience::Killed { .. } => return Some(End::Gone),
        }
        None
    }

    async fn ask_to_end(&mut self, why: Why) -> Option<End> {
        self.greeted = None;
        self.patience = Patience::Asked { until: Instant::now() + self.limits.cancel_grace, why };
        self.send(&ToStepHost::Cancel).await.err()
    }

    async fn hear(&mut self, line: Line) -> Option<End> {
        let line = match line {
            Line::Whole(line) => line,
            Line::TooLong(_) => {
                return Some(End::Wrong(format!("a frame of more than {MAX_FRAME_BYTES} bytes")));
            }
            Line::End(begun) if begun.is_empty() => return Some(End::Gone),
            Line::End(_) => return Some(End::Gone),
        };
        let frame = match frames::from_line::<ToDaemon>(&line) {
            Ok(frame) => frame,
            Err(error) => return Some(End::Wrong(wrong_frame(&error))),
        };
        if let ToDaemon::Hello { protocol, version, .. } = &frame {
            if *protocol != PROTOCOL {
                return Some(End::Wrong(format!(
                    "frames of version {protocol} (it is step host {version}), and this daemon speaks {PROTOCOL}"
                )));
            }
            return match self.greeted.take() {
                Some(_) => None,
                None if matches!(self.patience, Patience::Running { .. }) => {
                    Some(End::Wrong("a second greeting".into()))
                }
                None => None, // asked to end before it greeted
            };
        }
        if self.greeted.is_some() {
            return Some(End::Wrong("something before its greeting".into()));
        }
        match frame {
            ToDaemon::Hello { .. } => None,
            ToDaemon::Log { level, message, fields } => {
                self.teller.log(level, with_fields(message, &fields)).await;
                None
            }
            ToDaemon::Progress { progress } => {
                self.teller.progress(progress).await;
                None
            }
            ToDaemon::Undo { id, data } => {
                self.undo_bytes = self.undo_bytes.saturating_add(line.len());
                let done = if self.undo_bytes > self.limits.undo_bytes {
                    Err(format!(
                        "the undo records of one call may have {} bytes in all",
                        self.limits.undo_bytes
                    ))
                } else {
                    self.record(move |listener| listener.record_undo(data)).await
                };
                self.acknowledge(id, done).await
            }
            ToDaemon::Checkpoint { id, data } => {
                let done = self.record(move |listener| listener.checkpoint(data)).await;
                self.acknowledge(id, done).await
            }
            ToDaemon::Secret { id, credential } => {
                let secret = self.teller.with(move |listener| listener.secret(&credential)).await;
                let reply = match secret.unwrap_or_else(|| Err("the daemon is ending".into())) {
                    Ok(secret) => {
                        ToStepHost::Secret { id, value: frames::SecretText(secret.expose().into()) }
                    }
                    Err(why) => ToStepHost::Refused { id, why },
                };
                self.send(&reply).await.err()
            }
            ToDaemon::Result { answer } => Some(End::Answered(answer)),
            ToDaemon::NotLoaded { why, remedy } => Some(End::NotLoaded { why, remedy }),
            ToDaemon::BadAnswer { why } => Some(End::Wrong(why)),
        }
    }

    async fn record(
        &mut self,
        work: impl FnOnce(&dyn Listener) -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        self.records += 1;
        if self.records > self.limits.records {
            return Err(format!("one call may record {} times", self.limits.records));
        }
        self.teller.with(work).await.unwrap_or_else(|| Err("the daemon is ending".into()))
    }

    async fn acknowledge(&mut self, id: u64, done: Result<(), String>) -> Option<End> {
        let reply = match done {
            Ok(()) => ToStepHost::Ack { id },
            Err(why) => ToStepHost::Refused { id, why },
        };
        self.send(&reply).await.err()
    }

    async fn send(&mut self, frame: &ToStepHost) -> Result<(), End> {
        match frames::to_line(frame, MAX_CALL_BYTES) {
            Ok(line) => self.send_line(&line).await,
            Err(error) => Err(End::Wrong(format!("a request whose answer cannot be sent ({error})"))),
        }
    }

    async fn send_line(&mut self, line: &[u8]) -> Result<(), End> {
        self.send_within(line, self.limits.write, End::Wrong("nothing, and read nothing either".into())).await
    }

    /// `or` is what it means when the process does not read it in time. Of the first line that is as long as it has to say something:
    /// a long one fills the socket before the process begins.
    async fn send_within(&mut self, line: &[u8], limit: Duration, or: End) -> Result<(), End> {
        // A closed socket is met again when it is read, after what the step host said before it went.
        timeout(limit, self.write.write_all(line)).await.map_or(Err(or), |_| Ok(()))
    }

    /// Ends the process, tells what is left to tell, and makes an answer of it all.
    async fn close(mut self, end: End) -> Result<Value, CallFailure> {
        let mut result = self.settle(end).await;
        if !self.process.finish(self.limits.exit_grace).await {
            match &result {
                // It has said how it ended, and what it leaves behind is no longer part of it.
                Ok(_) | Err(CallFailure::Step(_) | CallFailure::Refused { .. }) => {
                    let left = "what the step leaves behind was killed and is still there";
                    self.teller.log(LogLevel::Error, left.into()).await;
                }
                Err(_) => result = Err(CallFailure::StillRuns { call: self.call.clone() }),
            }
        }
        if let Some(outputs) = self.outputs.take() {
            for line in outputs.rest().await {
                self.tell_output(line).await;
            }
        }
        if let (Err(CallFailure::Crashed { how, .. }), Some(words)) = (&mut result, &self.last_words) {
            how.push_str(&format!(" (its last words: `{words}`)"));
        }
        self.teller.finish().await;
        result
    }

    async fn tell_output(&mut self, line: String) {
        if let Some(words) = line.strip_prefix("stderr: ").filter(|words| !words.is_empty()) {
            self.last_words = Some(shortened(words, LAST_WORDS_BYTES).to_string());
        }
        self.teller.log(LogLevel::Warn, line).await;
    }

    async fn settle(&mut self, end: End) -> Result<Value, CallFailure> {
        let call = self.call.clone();
        let said_more = match &end {
            End::Answered(_) | End::NotLoaded { .. } => self.await_silence().await,
            End::Wrong(_) | End::Silent | End::Gone => None,
        };
        if let Some(what) = said_more {
            return Err(CallFailure::Protocol { call, what });
        }
        match end {
            End::Answered(Answer::Ok(value)) => Ok(value),
            End::Answered(Answer::Error(error)) => Err(match (error.cancelled, self.asked()) {
                (true, Some(Why::TimedOut { given })) => {
                    CallFailure::TimedOut { call, after: given, ignored_cancel_for: None }
                }
                _ => CallFailure::Step(error),
            }),
            End::Answered(Answer::Panic(text)) => Err(CallFailure::Panicked { call, text }),
            End::NotLoaded { why, remedy } => {
                Err(CallFailure::Refused { plugin: self.plugin.to_string(), why, remedy })
            }
            End::Wrong(what) => Err(CallFailure::Protocol { call, what }),
            End::Silent => Err(CallFailure::Silent { call, after: self.greeting }),
            End::Gone => Err(self.gone(call).await),
        }
    }

    fn asked(&self) -> Option<Why> {
        match self.patience {
            Patience::Running { .. } => None,
            Patience::Asked { why, .. } | Patience::Terminated { why, .. } | Patience::Killed { why, .. } => {
                Some(why)
            }
        }
    }

    /// After the last frame nothing may follow but the end of the process.
    async fn await_silence(&mut self) -> Option<String> {
        match timeout(self.limits.exit_grace, self.frames.next()).await {
            Ok(Line::End(begun)) if begun.is_empty() => None,
            Ok(Line::Whole(line)) => Some(match frames::from_line::<ToDaemon>(&line) {
                Ok(ToDaemon::Result { .. }) => "a second result".into(),
                Ok(_) => "something after its result".into(),
                Err(error) => format!("something after its result: {}", wrong_frame(&error)),
            }),
            Ok(Line::End(_) | Line::TooLong(_)) => Some("something after its result".into()),
            Err(_) => Some("its result, and did not end".into()),
        }
    }

    /// The socket closed without a last frame.
    async fn gone(&mut self, call: String) -> CallFailure {
        let grace = self.limits.cancel_grace;
        match &self.patience {
            Patience::Terminated { why, .. } | Patience::Killed { why, .. } => match *why {
                Why::TimedOut { given } => {
                    CallFailure::TimedOut { call, after: given, ignored_cancel_for: Some(grace) }
                }
                Why::Cancelled => CallFailure::IgnoredCancel { call, ignored_for: grace },
            },
            Patience::Running { .. } | Patience::Asked { .. } => {
                let how = self.process.ended(Duration::from_millis(STATUS_MILLIS)).await;
                let how =
                    how.unwrap_or_else(|| "closed its socket before it answered, and was killed".into());
                CallFailure::Crashed { call, how }
            }
        }
    }
}

fn wrong_frame(error: &FrameError) -> String {
    error.to_string()
}

async fn due(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

async fn next_output(outputs: &mut Option<Outputs>) -> Option<String> {
    match outputs {
        Some(outputs) => outputs.next().await,
        None => std::future::pending().await,
    }
}
