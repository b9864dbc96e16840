//! The step against a real nginx on loopback, with two stand-ins behind it that only tell their names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(missing_debug_implementations, reason = "tests")]

mod check;
mod cycle;
mod machine;
mod rollback;
