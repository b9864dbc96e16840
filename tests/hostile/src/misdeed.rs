//! The catalogue.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Misdeed {
    /// Nothing.
    #[default]
    None,
    /// Panics in the step's own future.
    Panic,
    /// Panics in a task that nobody waits for, and goes on.
    PanicInTask,
    /// Aborts.
    Abort,
    /// Reads from where nothing is.
    Segfault,
    /// Calls itself until the stack ends.
    StackOverflow,
    /// Ends the process as if all were well.
    ExitZero,
    /// Ends the process with status 3.
    ExitThree,
    /// Waits for ever, but hears when it is cancelled.
    Wait,
    /// Waits for ever on a thread that hears nothing.
    Hang,
    /// As `hang`, and ignores SIGTERM.
    HangHard,
    /// Reports progress 100,000 times.
    FloodProgress,
    /// Logs 100,000 lines.
    FloodLog,
    /// Logs a line of 10 MB.
    LongLogLine,
    /// Writes 100 MB without a newline to the socket.
    BigFrame,
    /// Answers with 100 MB.
    BigAnswer,
    /// Records an undo record of 2 MB.
    BigUndo,
    /// Answers with a text that is not JSON.
    NotJson,
    /// Answers with bytes that are not UTF-8.
    NotUtf8,
    /// Answers with JSON of the wrong shape.
    WrongShape,
    /// Answers with nothing.
    Empty,
    /// Writes a line to the socket that is no frame.
    JunkFrame,
    /// Writes a result to the socket itself, and then answers.
    AnswersTwice,
    /// Closes the socket, and goes on.
    ClosesSocket,
    /// Writes to stdout and stderr, also bytes that are not UTF-8 and a line without end.
    JunkOnStdout,
    /// Starts a process that holds stdout open, and answers.
    LeavesChild,
    /// As `leaves-child`, with a process that leaves the group.
    LeavesDaemon,
    /// Starts threads that log and record for ever, and answers.
    LeavesThreads,
    /// Records an undo record, then aborts.
    AbortAfterUndo,
    /// Writes a growing number to the file `beat`, for ever, hearing nothing; a child does so with `childs-beat`.
    BeatsForEver,
    /// Writes `begun`, waits for the file `go` (or to be cancelled), fills stdout, and writes `done`.
    WorksAlone,
    /// As `works-alone`, but has to record something before it writes `done`.
    RecordsLater,
    /// Says that it was asked to stop, and was not.
    ClaimsCancelled,
}

impl Misdeed {
    /// Those in which the call itself must fail.
    pub const FATAL: &[Misdeed] = &[
        Misdeed::Panic,
        Misdeed::Abort,
        Misdeed::Segfault,
        Misdeed::StackOverflow,
        Misdeed::ExitZero,
        Misdeed::ExitThree,
        Misdeed::Wait,
        Misdeed::Hang,
        Misdeed::HangHard,
        Misdeed::BigFrame,
        Misdeed::BigAnswer,
        Misdeed::BigUndo,
        Misdeed::NotJson,
        Misdeed::NotUtf8,
        Misdeed::WrongShape,
        Misdeed::Empty,
        Misdeed::JunkFrame,
        Misdeed::AnswersTwice,
        Misdeed::ClosesSocket,
        Misdeed::AbortAfterUndo,
    ];

    /// Those that a call survives.
    pub const SURVIVED: &[Misdeed] = &[
        Misdeed::None,
        Misdeed::PanicInTask,
        Misdeed::FloodProgress,
        Misdeed::FloodLog,
        Misdeed::LongLogLine,
        Misdeed::JunkOnStdout,
        Misdeed::LeavesChild,
        Misdeed::LeavesDaemon,
        Misdeed::LeavesThreads,
    ];
}
