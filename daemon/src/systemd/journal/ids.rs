//! The kinds of events that entries tell of: one table, so that scripts can wait for them with `journalctl MESSAGE_ID=…`.

use std::fmt;

/// A kind of event, written as 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId(pub u128);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $subject:literal;)+) => {
        $($(#[$doc])* pub const $name: MessageId = MessageId($id);)+

        /// All of them, each with its subject in the catalog.
        pub const ALL: &[(MessageId, &str)] = &[$(($name, $subject)),+];
    };
}

ids! {
    /// A migration has begun.
    STARTED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a01, "A migration of Posit Connect has begun";
    /// A blocker was found, nothing was touched.
    BLOCKED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a02, "A migration of Posit Connect is blocked by its checks";
    /// Users are not served from here on.
    WINDOW_OPENED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a03, "Posit Connect is not served";
    /// Users are served again.
    WINDOW_CLOSED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a04, "Posit Connect is served again";
    /// A step has failed.
    STEP_FAILED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a05, "A step of a migration has failed";
    /// The way back has begun.
    ROLLBACK_STARTED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a06, "A migration is rolled back";
    /// Everything is as before.
    ROLLED_BACK = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a07, "A migration was rolled back";
    /// Something waits for an operator.
    NEEDS_OPERATOR = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a08, "A migration needs an operator";
    /// The migration is over.
    COMMITTED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a09, "A migration was committed";
    /// The run was parked by `systemctl stop`.
    PARKED = 0x6f2d_31c1_93b0_4f0e_9a54_0b7c_5d1e_8a0a, "A migration is parked";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_id_is_unique_and_has_32_hex_digits() {
        let texts: BTreeSet<String> = ALL.iter().map(|(id, _)| id.to_string()).collect();
        assert_eq!(texts.len(), ALL.len());
        for text in texts {
            assert!(text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit()), "{text}");
        }
    }
}
