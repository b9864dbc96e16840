//! The journal: structured entries with our own fields, sent in journald's native protocol.
//!
//! | field | holds |
//! |---|---|
//! | `MIGRATION_ID` | the migration |
//! | `INSTANCE` | the name after the `@` |
//! | `STEP` | the step's id in the runbook |
//! | `PLUGIN` | the plugin that the step is of |
//! | `PHASE` | the part of the run |
//! | `MESSAGE_ID` | what kind of event it is: [`ids`] |
//!
//! Beside them only `MESSAGE`, `PRIORITY` and `SYSLOG_IDENTIFIER` are sent: no text of a plugin can name a field. Without a
//! journal, entries go to standard error with the prefixes of `sd-daemon(3)` (`<3>`), or plainly when a person looks on.

pub mod catalog;
pub mod ids;
mod sink;
mod tracing_layer;

pub use ids::MessageId;
pub use sink::Sink;

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::OnceLock;

/// The longest message; what is longer is cut, and says so.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// The longest value of a field.
const MAX_FIELD_BYTES: usize = 256;
/// The name under which entries stand, for `journalctl -t`.
const IDENTIFIER: &str = "connect-migrator";

/// How much an entry matters: the levels of `syslog(3)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// 3
    Error,
    /// 4
    Warning,
    /// 5: normal, but worth knowing.
    Notice,
    /// 6
    Info,
    /// 7: not shown by default.
    Debug,
}

impl Priority {
    /// The number of `syslog(3)`.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Priority::Error => 3,
            Priority::Warning => 4,
            Priority::Notice => 5,
            Priority::Info => 6,
            Priority::Debug => 7,
        }
    }
}

/// Where entries go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Started by systemd: to the journal; to standard error with `<N>` prefixes if there is none. Started by hand: as
    /// [`Mode::Foreground`].
    Daemon,
    /// To standard error, for a person, without entries for authors.
    Foreground,
}

static SINK: OnceLock<Sink> = OnceLock::new();

/// Decides, once for the process, where entries go, and takes over `tracing` events of libraries. A second call does nothing.
pub fn init(mode: Mode) {
    let sink = match mode {
        Mode::Daemon if started_by_systemd() => Sink::journal(),
        Mode::Daemon | Mode::Foreground => Sink::person(),
    };
    if SINK.set(sink).is_ok() {
        tracing_layer::install();
    }
}

/// A terminal comes first: a desktop's shell inherits these variables from its session's service.
fn started_by_systemd() -> bool {
    let set = |name| std::env::var_os(name).is_some();
    !std::io::stderr().is_terminal() && (set("JOURNAL_STREAM") || set("INVOCATION_ID"))
}

/// Where entries go; before [`init`] to standard error.
fn sink() -> &'static Sink {
    SINK.get_or_init(Sink::person)
}

/// Writes an entry that belongs to an instance but to no moment of its run.
pub fn say(instance: &str, message_id: MessageId, priority: Priority, message: &str) {
    Entry { priority, message, instance, message_id: Some(message_id), ..Entry::default() }.send();
}

/// One entry. Fields that are empty are not sent.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// How much it matters.
    pub priority: Priority,
    /// The text; line ends are kept, other control characters are not. No secrets.
    pub message: &'a str,
    /// The name after the `@`.
    pub instance: &'a str,
    /// UUIDv7.
    pub migration_id: Option<&'a str>,
    /// The step's id.
    pub step: Option<&'a str>,
    /// The plugin's name.
    pub plugin: Option<&'a str>,
    /// The part of the run.
    pub phase: Option<&'a str>,
    /// What kind of event it is.
    pub message_id: Option<MessageId>,
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Entry {
            priority: Priority::Info,
            message: "",
            instance: "",
            migration_id: None,
            step: None,
            plugin: None,
            phase: None,
            message_id: None,
        }
    }
}

impl Entry<'_> {
    /// Sends the entry where [`init`] has decided. Never fails and waits for a second at most: the state is the record of a
    /// migration, the journal only tells of it.
    pub fn send(&self) {
        sink().write(self);
    }

    /// Sends the entry there.
    pub fn send_to(&self, sink: &Sink) {
        sink.write(self);
    }

    /// The entry in journald's native protocol, see <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.
    fn native(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.message.len().min(MAX_MESSAGE_BYTES) + 512);
        let mut id = String::new();
        if let Some(message_id) = self.message_id {
            let _ = write!(id, "{message_id}");
        }
        put(&mut out, "PRIORITY", &self.priority.number().to_string());
        put(&mut out, "SYSLOG_IDENTIFIER", IDENTIFIER);
        let fields = [
            ("MIGRATION_ID", self.migration_id.unwrap_or_default()),
            ("INSTANCE", self.instance),
            ("STEP", self.step.unwrap_or_default()),
            ("PLUGIN", self.plugin.unwrap_or_default()),
            ("PHASE", self.phase.unwrap_or_default()),
            ("MESSAGE_ID", id.as_str()),
        ];
        for (name, value) in fields {
            if !value.is_empty() {
                put(&mut out, name, &clean(value, MAX_FIELD_BYTES, false));
            }
        }
        put(&mut out, "MESSAGE", &clean(self.message, MAX_MESSAGE_BYTES, true));
        out
    }

    /// The entry as lines of text; each begins with `<N>` when `prefixed`.
    fn lines(&self, prefixed: bool) -> String {
        let mut out = String::new();
        let place = match self.step {
            Some(step) if !step.is_empty() => format!("{}: ", clean(step, MAX_FIELD_BYTES, false)),
            _ => String::new(),
        };
        for line in clean(self.message, MAX_MESSAGE_BYTES, true).lines() {
            let _ = match prefixed {
                true => writeln!(out, "<{}>{place}{line}", self.priority.number()),
                false => writeln!(out, "{place}{line}"),
            };
        }
        out
    }
}

/// A field: `NAME=value`, or with its length in front when it has line ends.
fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&u64::try_from(value.len()).unwrap_or(0).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// Bounded, and without control characters that could confuse a terminal.
fn clean(text: &str, max: usize, lines: bool) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for c in text.trim_end().chars() {
        if out.len() + c.len_utf8() > max {
            out.push_str("… (cut)");
            break;
        }
        match c {
            '\n' | '\t' if lines => out.push(c),
            '\r' if lines => {}
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
