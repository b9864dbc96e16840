//! End-to-end scenarios: the packages as they are shipped, on a real machine that is thrown away.

pub mod artifacts;
