//! How a call ended, as its step host leaves it behind: written before it is reported, so that a daemon that was cut off
//! meanwhile learns it afterwards.

use connect_migrator_sdk::frames::MAX_FRAME_BYTES;
use connect_migrator_sdk::{Answer, Invocation, Op};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The file in a [`Seat`].
const FILE: &str = "outcome.json";

/// What the file may have beside the answer, in bytes.
const AROUND_BYTES: usize = 64 * 1024;

/// The place of a call that may go on when the daemon is gone: the number in the journal, and a folder of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The call's number in the migration.
    pub number: u64,
    /// Where its outcome is left.
    pub folder: PathBuf,
}

/// Which call an outcome belongs to. Numbers begin anew with every migration; these tell them apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallKey {
    /// The migration's id.
    pub migration: String,
    /// The step's id.
    pub step: String,
    /// The call.
    pub op: Op,
    /// For rollback: the call in question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Op>,
    /// Which try.
    pub attempt: u32,
}

impl CallKey {
    /// Of this call.
    #[must_use]
    pub fn of(invocation: &Invocation) -> Self {
        CallKey {
            migration: invocation.migration.id.clone(),
            step: invocation.step.clone(),
            op: invocation.op,
            of: invocation.of,
            attempt: invocation.attempt,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Outcome {
    /// Which start of the machine. What was changed before a power cut may not have reached the disk, and this file has.
    boot: String,
    call: CallKey,
    answer: Answer,
}

fn this_boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Writes the outcome; it is durable when this returns.
pub(super) fn leave(folder: &Path, call: &CallKey, answer: &Answer) -> io::Result<()> {
    let text =
        serde_json::to_vec(&Outcome { boot: this_boot(), call: call.clone(), answer: answer.clone() })?;
    let beside = folder.join(format!("{FILE}.part"));
    let mut file = File::create(&beside)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&beside, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

/// Reads the outcome of `call`; `None` if it left none since the machine was started.
///
/// # Errors
/// When it cannot be read, or belongs to another call.
pub fn found(folder: &Path, call: &CallKey) -> io::Result<Option<Answer>> {
    let file = match File::open(folder.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take((MAX_FRAME_BYTES + AROUND_BYTES) as u64).read_to_end(&mut text)?;
    let outcome: Outcome = serde_json::from_slice(&text)?;
    if outcome.call != *call {
        let why = format!("{} holds the outcome of another call", folder.join(FILE).display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok((outcome.boot == this_boot()).then_some(outcome.answer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key() -> CallKey {
        CallKey { migration: "m".into(), step: "box".into(), op: Op::Apply, of: None, attempt: 1 }
    }

    #[test]
    fn an_outcome_is_found_by_the_call_that_left_it_and_by_no_other() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(found(folder.path(), &key()).unwrap(), None);
        let answer = Answer::Ok(json!({"done": "changed"}));
        leave(folder.path(), &key(), &answer).unwrap();
        assert_eq!(found(folder.path(), &key()).unwrap(), Some(answer));
        let other = CallKey { attempt: 2, ..key() };
        assert!(found(folder.path(), &other).unwrap_err().to_string().contains("another call"));
    }

    #[test]
    fn an_outcome_from_before_a_power_cut_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = Outcome { boot: "another".into(), call: key(), answer: Answer::Ok(json!(1)) };
        fs::write(folder.path().join(FILE), serde_json::to_vec(&outcome).unwrap()).unwrap();
        assert_eq!(found(folder.path(), &key()).unwrap(), None);
    }

    #[test]
    fn an_outcome_that_was_cut_off_is_an_error_and_no_outcome() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{\"call\":{").unwrap();
        assert!(found(folder.path(), &key()).is_err());
        fs::remove_file(folder.path().join(FILE)).unwrap();
        fs::write(folder.path().join(format!("{FILE}.part")), "{").unwrap();
        assert_eq!(found(folder.path(), &key()).unwrap(), None);
    }
}
