//! The events that a migration consists of.

use connect_migrator_sdk::Op;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// An event with its place in the row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Ascending within the file.
    pub seq: u64,
    /// When it was appended.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

/// Something that happened. Old files are read by newer daemons: variants and fields are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A migration began. What it was decided on is pinned here.
    Started {
        /// UUIDv7.
        migration: String,
        /// The name after the `@`.
        instance: String,
        /// The runbook as it was.
        runbook: String,
        /// Its SHA-256.
        runbook_digest: String,
        /// SHA-256 of each plugin file.
        plugins: BTreeMap<String, String>,
        /// The daemon's version.
        version: String,
        /// The steps and their order.
        outline: super::Outline,
    },
    /// A call is about to be made. Without an outcome after it, it is not known what it did.
    Intent {
        /// Ascending within the migration.
        call: u64,
        /// Index in the program (forward), or of the call that is undone (rollback).
        place: usize,
        /// The step's id.
        step: String,
        /// The call.
        op: Op,
        /// For rollback and probe: the call in question.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<Op>,
        /// 1 for the first try.
        attempt: u32,
    },
    /// A call wrote down how to put back what it changes next.
    Undo {
        /// Which call.
        call: u64,
        /// The step's own record.
        data: Value,
    },
    /// A call wrote down how far it has come.
    Checkpoint {
        /// Which call.
        call: u64,
        /// The step's own record.
        data: Value,
    },
    /// A call ended, or a probe found out how it had ended.
    Outcome {
        /// Which call.
        call: u64,
        /// How.
        result: CallResult,
    },
    /// The soak began.
    SoakStarted,
    /// From here on the way leads back.
    RollbackDecided {
        /// Why.
        cause: Cause,
    },
    /// An operator asked for the end of the soak: it ends as soon as one more round of verification holds.
    CommitAsked,
    /// The operator paused the run instead.
    CommitTakenBack,
    /// An operator asked for a pause: it stands still as soon as it can, and until somebody resumes it.
    PauseAsked,
    /// The pause is over before it stood still, or while it did.
    PauseTakenBack,
    /// From here on there is no way back.
    CommitDecided {
        /// `operator`, or `the soak time is over`.
        by: String,
    },
    /// The daemon was asked to stop at a safe point; the next start goes on by itself.
    Parked,
    /// The daemon was started again after [`Event::Parked`].
    Unparked,
    /// The run cannot go on by itself.
    Stopped {
        /// Why.
        why: String,
        /// What the operator may do now.
        may: Vec<MayDo>,
    },
    /// An operator started the run again after [`Event::Stopped`].
    Resumed,
    /// The end.
    Closed {
        /// Which.
        end: End,
    },
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum CallResult {
    /// It answered.
    Answered {
        /// The step's answer.
        answer: Value,
        /// Not the call itself but a probe found this out.
        #[serde(default)]
        probed: bool,
    },
    /// It failed.
    Failed(Failure),
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One sentence.
    pub why: String,
    /// What to do about it.
    #[serde(default)]
    pub remedy: String,
    /// It ended because the daemon asked it to.
    #[serde(default)]
    pub cancelled: bool,
    /// The process of the call ended without an answer: what it did is not known.
    #[serde(default)]
    pub crashed: bool,
}

/// Why the way leads back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Cause {
    /// The step that failed, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The call that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<Op>,
    /// One sentence.
    pub why: String,
    /// What to do before trying again.
    #[serde(default)]
    pub remedy: String,
}

/// What an operator may do after the run stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MayDo {
    /// Start the unit again: the run goes on where it stopped.
    Resume,
    /// `connect-migrator rollback`.
    Rollback,
    /// `connect-migrator commit`.
    Commit,
}

/// How a migration ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum End {
    /// Connect lives in the container.
    Committed,
    /// Connect is back on the host.
    RolledBack {
        /// What could not be put back; each names what to do.
        left: Vec<String>,
    },
    /// A check found a blocker; nothing was touched.
    Blocked,
}
