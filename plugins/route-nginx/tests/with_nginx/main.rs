//! The step against a real nginx on loopback, with two stand-ins behind it that only tell their names.

mod check;
mod cycle;
mod machine;
mod rollback;
