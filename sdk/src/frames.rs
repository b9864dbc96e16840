//! What the daemon and a step host say to each other: JSON, one frame a line, over a socket.
//!
//! ```text
//! daemon                              step host
//!    ◄──────────────────────────────── hello
//!    call (or describe) ──────────────►
//!    ◄──────────────────────────────── log, progress        any number
//!    ◄──────────────────────────────── undo, checkpoint     each with an id, answered by ack or refused
//!    ◄──────────────────────────────── secret               with an id, answered by secret or refused
//!    cancel ──────────────────────────►                     at any time
//!    ◄──────────────────────────────── result (or not-loaded, bad-answer): the last frame
//! ```
//!
//! Which plugin is meant stands on the step host's command line. End of file means that the other side is gone: a step host
//! that reads it ends at once, in the middle of whatever it does, or where it runs in a unit of its own goes on with a call that
//! changes things and waits for the next daemon. Members that are not known are ignored; a frame whose `type`
//! is not known is a mistake of the other side. `include/frames.schema.json` is the schema, frozen per [`PROTOCOL`].

use crate::{Answer, Invocation, LogLevel, Progress};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::{Zeroize, Zeroizing};

/// Version of these frames. Both sides come from the same package; another number means a mixed installation.
pub const PROTOCOL: u16 = 1;

/// Longest frame that a step host may send, in bytes without the newline.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;

/// Longest frame that the daemon may send, in bytes without the newline: a rollback carries all undo records of a call.
pub const MAX_CALL_BYTES: usize = 64 * 1024 * 1024;

/// Longest log message; the rest is cut off by the step host.
pub const MAX_LOG_MESSAGE_BYTES: usize = 8 * 1024;

/// From the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToStepHost {
    /// Say what the plugin is. Answered by a `result` whose `ok` is a [`PluginDescription`](crate::PluginDescription).
    Describe,
    /// Carry out this call. The only one of this process.
    Call {
        /// The call.
        invocation: Box<Invocation>,
    },
    /// The undo record or checkpoint `id` is durable.
    Ack {
        /// Of the request.
        id: u64,
    },
    /// The request `id` is refused.
    Refused {
        /// Of the request.
        id: u64,
        /// Why.
        why: String,
    },
    /// The secret that was asked for.
    Secret {
        /// Of the request.
        id: u64,
        /// The value; wiped from memory when dropped.
        value: SecretText,
    },
    /// The call should end as soon as it safely can.
    Cancel,
}

/// From the step host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToDaemon {
    /// The first frame.
    Hello {
        /// [`PROTOCOL`].
        protocol: u16,
        /// Major version of the plugin boundary that this step host loads.
        abi_major: u16,
        /// Minor version of it.
        abi_minor: u16,
        /// Version of the step host.
        version: String,
    },
    /// A log line of the step.
    Log {
        /// How much it matters.
        level: LogLevel,
        /// The line. At most [`MAX_LOG_MESSAGE_BYTES`].
        message: String,
        /// Fields of a `tracing` event.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        fields: Map<String, Value>,
    },
    /// How far the call has come. The daemon keeps the newest.
    Progress {
        /// The report.
        progress: Progress,
    },
    /// Make this undo record durable.
    Undo {
        /// Chosen by the step host, unique within the call.
        id: u64,
        /// The record.
        data: Value,
    },
    /// Make this checkpoint durable.
    Checkpoint {
        /// Chosen by the step host, unique within the call.
        id: u64,
        /// The checkpoint.
        data: Value,
    },
    /// Hand out a secret.
    Secret {
        /// Chosen by the step host, unique within the call.
        id: u64,
        /// Its name.
        credential: String,
    },
    /// The call has ended. The last frame.
    Result {
        /// How.
        answer: Answer,
    },
    /// The plugin was not loaded: it is not trusted, or not made for this step host. The last frame.
    NotLoaded {
        /// What is wrong with it.
        why: String,
        /// What to do.
        remedy: String,
    },
    /// The plugin answered something that is no answer. The last frame.
    BadAnswer {
        /// What is wrong with it.
        why: String,
    },
}

/// A secret on its way: not shown by `{:?}`, wiped when dropped.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(…)")
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A frame that cannot be sent or is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Too long to be sent.
    #[error("a frame of {bytes} bytes is longer than the {limit} that are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not a frame.
    #[error("{why}: {shown}")]
    NotAFrame {
        /// What is wrong.
        why: String,
        /// How it begins.
        shown: String,
    },
}

/// Bytes of a line that an error shows.
const SHOWN_BYTES: usize = 80;

/// The frame as a line with its newline; wiped when dropped, because it may hold a secret.
///
/// # Errors
/// When it is longer than `limit` bytes.
pub fn to_line(frame: &impl Serialize, limit: usize) -> Result<Zeroizing<Vec<u8>>, FrameError> {
    let mut line = Zeroizing::new(Vec::new());
    serde_json::to_writer(&mut *line, frame)
        .map_err(|error| FrameError::NotAFrame { why: error.to_string(), shown: String::new() })?;
    if line.len() > limit {
        return Err(FrameError::TooLong { bytes: line.len(), limit });
    }
    line.push(b'\n');
    Ok(line)
}

/// The frame of a line, with or without its newline.
///
/// # Errors
/// When it is not UTF-8, not JSON or not a frame. The error shows the line's beginning: use it for frames without secrets.
pub fn from_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, FrameError> {
    let wrong = |why: String| {
        let start = String::from_utf8_lossy(line.get(..SHOWN_BYTES.min(line.len())).unwrap_or_default());
        let shown: String = start.trim_end().chars().filter(|letter| !letter.is_control()).collect();
        let more = if line.len() > SHOWN_BYTES { "…" } else { "" };
        FrameError::NotAFrame { why, shown: format!("`{shown}{more}`") }
    };
    let text = std::str::from_utf8(line).map_err(|_| wrong("a line that is not UTF-8".into()))?;
    serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => wrong(format!("a line that is not a frame ({error})")),
        _ => wrong("a line that is not JSON".into()),
    })
}

/// The schema of all frames, as it stands in `include/frames.schema.json`.
#[must_use]
pub fn schema() -> Value {
    serde_json::json!({
        "title": "Frames between the daemon and a step host",
        "description": format!("Protocol {PROTOCOL}. One JSON value a line, UTF-8, at most {MAX_FRAME_BYTES} bytes from a \
            step host and {MAX_CALL_BYTES} from the daemon."),
        "to-step-host": schemars::schema_for!(ToStepHost).to_value(),
        "to-daemon": schemars::schema_for!(ToDaemon).to_value(),
        "plugin-description": schemars::schema_for!(crate::PluginDescription).to_value(),
        "answers": {
            "check": schemars::schema_for!(Vec<crate::Finding>).to_value(),
            "plan": schemars::schema_for!(Vec<crate::Change>).to_value(),
            "prepare, enter-window, apply, finalize": schemars::schema_for!(crate::Outcome).to_value(),
            "verify": schemars::schema_for!(crate::Verdict).to_value(),
            "probe": schemars::schema_for!(crate::Probe).to_value(),
            "rollback": schemars::schema_for!(crate::Undone).to_value(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::tests::invocation;
    use crate::{Op, StepError};
    use serde_json::json;

    fn lines<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(frames: &[T]) -> String {
        let mut text = String::new();
        for frame in frames {
            let line = to_line(frame, MAX_FRAME_BYTES).unwrap();
            assert_eq!(&from_line::<T>(&line).unwrap(), frame);
            text.push_str(std::str::from_utf8(&line).unwrap());
        }
        text
    }

    #[test]
    fn the_frames_of_the_daemon_are_frozen() {
        insta::assert_snapshot!(lines(&[
            ToStepHost::Describe,
            ToStepHost::Call { invocation: Box::new(invocation("docker", Op::Apply, json!({"image": "x"}))) },
            ToStepHost::Ack { id: 1 },
            ToStepHost::Refused { id: 2, why: "the disk is full".into() },
            ToStepHost::Secret { id: 3, value: SecretText("hush".into()) },
            ToStepHost::Cancel,
        ]));
    }

    #[test]
    fn the_frames_of_the_step_host_are_frozen() {
        let progress =
            Progress { doing: "pulling".into(), done: Some(1), total: Some(7), unit: Some("layers".into()) };
        insta::assert_snapshot!(lines(&[
            ToDaemon::Hello { protocol: 1, abi_major: 1, abi_minor: 1, version: "0.1.0".into() },
            ToDaemon::Log { level: LogLevel::Warn, message: "careful".into(), fields: Map::new() },
            ToDaemon::Progress { progress },
            ToDaemon::Undo { id: 1, data: json!({"was": 1}) },
            ToDaemon::Checkpoint { id: 2, data: json!(7) },
            ToDaemon::Secret { id: 3, credential: "connect-api-key".into() },
            ToDaemon::Result { answer: Answer::Ok(json!([])) },
            ToDaemon::Result { answer: Answer::Error(StepError::new("pull").because("no route")) },
            ToDaemon::Result { answer: Answer::Panic("index out of bounds, at src/lib.rs:1:2".into()) },
            ToDaemon::NotLoaded { why: "it is writable by others".into(), remedy: "chmod".into() },
            ToDaemon::BadAnswer { why: "not JSON".into() },
        ]));
    }

    #[test]
    fn the_schema_beside_the_header_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/include/frames.schema.json");
        let current = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(path, &current).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == current,
            "the frames have changed: raise PROTOCOL if old readers cannot cope, then run \
            `UPDATE_SCHEMA=1 cargo test -p connect-migrator-sdk schema`"
        );
    }

    #[test]
    fn a_frame_that_is_too_long_is_not_sent() {
        let frame = ToStepHost::Refused { id: 1, why: "x".repeat(100) };
        assert_eq!(
            to_line(&frame, 50).unwrap_err().to_string(),
            "a frame of 134 bytes is longer than the 50 that are allowed"
        );
    }

    #[test]
    fn what_is_not_a_frame_is_shown() {
        let told: Vec<_> =
            [&b"\xff\xfe"[..], b"{", br#"{"type":"surprise"}"#, br#"{"type":"undo","id":"x"}"#]
                .iter()
                .map(|line| from_line::<ToDaemon>(line).unwrap_err().to_string())
                .collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        a line that is not UTF-8: `��`
        a line that is not JSON: `{`
        a line that is not a frame (unknown variant `surprise`, expected one of `hello`, `log`, `progress`, `undo`, `checkpoint`, `secret`, `result`, `not-loaded`, `bad-answer` at line 1 column 18): `{"type":"surprise"}`
        a line that is not a frame (invalid type: string "x", expected u64): `{"type":"undo","id":"x"}`
        "#);
    }

    #[test]
    fn a_secret_on_its_way_is_not_shown() {
        let frame = ToStepHost::Secret { id: 1, value: SecretText("hush".into()) };
        assert!(!format!("{frame:?}").contains("hush"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(line: Vec<u8>) {
            let _ = from_line::<ToDaemon>(&line);
            let _ = from_line::<ToStepHost>(&line);
        }
    }
}
