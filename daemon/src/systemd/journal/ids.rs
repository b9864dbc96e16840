//! The kinds of events that entries tell of: one table, from which the catalog is made, so that scripts can wait for them with
//! `journalctl MESSAGE_ID=…` and people have each explained by `journalctl -x`.

use std::fmt;

/// The identity of a kind of event, written as 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId(pub u128);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A kind of event with all that the catalog says of it.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its identity.
    pub id: MessageId,
    /// `step-failed`: how signals on the bus name it.
    pub name: &'static str,
    /// One line. May hold `@INSTANCE@`, and `@STEP@` if every such event is of a step.
    pub subject: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What the reader should do.
    pub remedy: &'static str,
}

/// The kind of this identity.
#[must_use]
pub fn kind(id: MessageId) -> Option<&'static Kind> {
    ALL.iter().find(|kind| kind.id == id)
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $word:literal, $subject:literal, $meaning:literal, $remedy:literal;)+) => {
        $($(#[$doc])* pub const $name: MessageId = MessageId($id);)+

        /// All of them.
        pub const ALL: &[Kind] =
            &[$(Kind { id: $name, name: $word, subject: $subject, meaning: $meaning, remedy: $remedy }),+];
    };
}

// An identity is for ever: scripts wait for it. New kinds go to the end.
kinds! {
    /// A migration has begun.
    STARTED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a01, "started",
        "A migration of Posit Connect has begun (@INSTANCE@)",
        "The run begins with the checks of every step, which only read. Connect is served as before until the window opens.",
        "Nothing. Follow it with `connect-migrator status @INSTANCE@`; until commit, `connect-migrator rollback @INSTANCE@` goes back.";
    /// A blocker was found, nothing was touched.
    BLOCKED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a02, "blocked",
        "A migration of Posit Connect is blocked by its checks (@INSTANCE@)",
        "A check found something with which the migration would not succeed. Nothing was touched: Connect serves as before.",
        "Do what the message says for each blocker, see that `connect-migrator check @INSTANCE@` finds no more, then start the \
         unit again.";
    /// Users are not served from here on.
    WINDOW_OPENED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a03, "window-opened",
        "Posit Connect is not served (@INSTANCE@)",
        "The window has opened: from here until the new server answers, or the old one does again, users get the maintenance page.",
        "Nothing. A stop of the unit waits until users are served again; if a step fails, the run goes back by itself unless the \
         runbook says otherwise.";
    /// Users are served again.
    WINDOW_CLOSED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a04, "window-closed",
        "Posit Connect is served again (@INSTANCE@)",
        "The window has closed: users are sent to a Connect that was seen to answer. The message says how long it lasted.",
        "Nothing.";
    /// A step has failed.
    STEP_FAILED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a05, "step-failed",
        "Step @STEP@ of a migration has failed (@INSTANCE@)",
        "A call of the step ended with an error, in time or by its time limit. What it had changed is written down and can be put \
         back.",
        "Read the cause and the remedy in the message. By default the run goes back by itself; with `on-failure = \"pause\"` it \
         waits, and `connect-migrator status @INSTANCE@` says what you may do.";
    /// The way back has begun.
    ROLLBACK_STARTED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a06, "rollback-started",
        "A migration is being rolled back (@INSTANCE@)",
        "A step failed, the soak found the new server broken, or an operator asked for it. Every change is put back, the newest \
         first, until Connect serves on the host again.",
        "Wait for its end. Mend the cause in the message before you start again.";
    /// Everything is as before.
    ROLLED_BACK = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a07, "rolled-back",
        "A migration was rolled back (@INSTANCE@)",
        "Connect is on the host as before, and everything that the migration had changed was put back.",
        "See `connect-migrator status @INSTANCE@` for the cause, mend it, and start the unit again for a new migration.";
    /// Something waits for an operator.
    NEEDS_OPERATOR = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a08, "needs-operator",
        "A migration needs an operator (@INSTANCE@)",
        "The run has stopped, because going on would have been a guess. Nothing is done until somebody decides.",
        "Look at what the message names, then do one of what `connect-migrator status @INSTANCE@` offers: start the unit again to \
         go on, or `connect-migrator rollback @INSTANCE@`.";
    /// The migration is over.
    COMMITTED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a09, "committed",
        "A migration was committed (@INSTANCE@)",
        "Connect lives in the container. What only a rollback needed was removed; there is no way back by this program any more.",
        "Keep the unit of the old Connect masked. The report lies in /var/lib/connect-migrator/@INSTANCE@.";
    /// The run was parked by `systemctl stop`.
    PARKED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a0a, "parked",
        "A migration is parked (@INSTANCE@)",
        "The run was asked to stop and did so at a safe point. Users are served; the state is durable.",
        "Start the unit again to go on from here, or go back with `connect-migrator rollback @INSTANCE@`.";
    /// A call of a step begins that may change something.
    CALL_STARTED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a0b, "call-started",
        "Step @STEP@ of a migration is at work (@INSTANCE@)",
        "A call of the step begins that may change something. How to undo it is written down before it changes anything.",
        "Nothing.";
    /// A call of a step has ended well.
    CALL_ENDED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a0c, "call-ended",
        "Step @STEP@ of a migration has done its work (@INSTANCE@)",
        "A call of the step has ended well. The message says what was seen or changed.",
        "Nothing.";
    /// A step was done, but what it did does not hold.
    VERIFY_BROKEN = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a0d, "verify-broken",
        "What step @STEP@ did does not hold (@INSTANCE@)",
        "After each step the world is looked at again. It is not as the step had left it, or as it had said.",
        "Look at what the message names. By default the run goes back by itself.";
    /// A call was asked to end.
    CALL_CANCELLED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a0e, "call-cancelled",
        "Step @STEP@ of a migration was asked to end (@INSTANCE@)",
        "The run was parked, or is being rolled back, while the step did something that can be cut off and done again.",
        "Nothing.";
    /// The soak began.
    SOAK_STARTED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a0f, "soak-started",
        "The new Posit Connect is being watched (@INSTANCE@)",
        "All steps are done. The new server is watched for as long as the runbook says; until commit everything can be rolled back.",
        "Try the new server. Then `connect-migrator commit @INSTANCE@`, unless the runbook commits by itself, or \
         `connect-migrator rollback @INSTANCE@`.";
    /// The soak has found something wrong.
    SOAK_BROKEN = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a10, "soak-broken",
        "The new Posit Connect is not as it should be (@INSTANCE@)",
        "A look at the new server during the soak found something wrong. When that happens several times in a row, it counts as a \
         failed step.",
        "Look at what the message names: the container's state and log, the proxy, the storage.";
    /// A commit was decided on.
    COMMIT_DECIDED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a11, "commit-decided",
        "A migration is being committed (@INSTANCE@)",
        "An operator decided it, or the soak time is over and the runbook says so. From here there is no way back.",
        "Wait for its end.";
    /// An operator asked for the end of the soak.
    COMMIT_ASKED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a19, "commit-asked",
        "The end of a migration's soak was asked for (@INSTANCE@)",
        "An operator asked to commit, or took that back by a pause. The new server is verified once more; if that holds, it is committed.",
        "Wait for it. If it does not hold, the soak goes on, and the messages say what is wrong.";
    /// A parked run goes on.
    UNPARKED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a12, "unparked",
        "A parked migration goes on (@INSTANCE@)",
        "The unit was started again after a stop, and goes on where it was.",
        "Nothing.";
    /// A run that waited for an operator goes on.
    RESUMED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a13, "resumed",
        "A migration that had waited goes on (@INSTANCE@)",
        "An operator started the unit again after the run had stopped. What failed is tried once more.",
        "Nothing.";
    /// Rolled back, but something is left.
    ROLLED_BACK_IN_PART = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a14, "rolled-back-in-part",
        "A migration was rolled back, but something is left to do (@INSTANCE@)",
        "Connect is on the host again. What the message lists could not be put back as it was.",
        "Do what the message says for each; nothing does it later by itself.";
    /// The daemon cannot do its work.
    DAEMON_FAILED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a15, "daemon-failed",
        "The daemon of a migration cannot do its work (@INSTANCE@)",
        "Something outside of any step is wrong: the runbook, the state, a plugin's file, the bus. What had been begun is durable, \
         and is gone on with at the next start.",
        "Do what the message says, then start the unit again.";
    /// Somebody asked the unit to stop.
    ASKED_TO_STOP = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a16, "asked-to-stop",
        "A migration was asked to stop (@INSTANCE@)",
        "`systemctl stop`, or a shutdown of the host. The run parks at the next safe point: at once outside the window, else when \
         users are served again.",
        "Wait. Do not kill it: the next start would have to find out what was under way.";
    /// Something around the run could not be done.
    AROUND_FAILED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a17, "around-failed",
        "Something around a migration could not be done (@INSTANCE@)",
        "The run itself is not affected. The unit could not be enabled, or disabled again, for the time of the migration, or files \
         that are no longer needed could not be removed.",
        "Read the message. If the unit is not enabled and the host is restarted, start the unit by hand: the run goes on.";
    /// This systemd cannot take away from steps all that they do not need.
    SANDBOX_REDUCED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a18, "sandbox-reduced",
        "This systemd cannot sandbox the steps of a migration fully (@INSTANCE@)",
        "systemd is older than some of the properties of the units in which steps run. They run without these; their work is the \
         same.",
        "Nothing. A newer systemd closes them off better.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_id_is_unique_and_has_32_hex_digits() {
        let texts: BTreeSet<String> = ALL.iter().map(|kind| kind.id.to_string()).collect();
        assert_eq!(texts.len(), ALL.len());
        for text in texts {
            assert!(text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit()), "{text}");
        }
    }

    #[test]
    fn every_kind_has_a_name_of_its_own_and_words_for_people() {
        let names: BTreeSet<&str> = ALL.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), ALL.len());
        for kind in ALL {
            assert!(kind.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", kind.name);
            for text in [kind.subject, kind.meaning, kind.remedy] {
                assert!(
                    !text.is_empty() && !text.contains('\n') && !text.contains("  "),
                    "{}: {text}",
                    kind.name
                );
            }
        }
    }
}
