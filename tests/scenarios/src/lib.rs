//! End-to-end scenarios: the packages as they are shipped, on a real machine that is thrown away.
//!
//! [`artifacts`] builds what goes into the machine, [`lab`] makes a machine on which Connect serves content and asserts how it
//! must stand in the end, [`local`] the same with a Connect on SQLite and local disk, [`scenario`] has the scenarios and runs them, [`mod@bench`] measures.

pub mod artifacts;
pub mod bench;
pub mod lab;
pub mod local;
pub mod runbook;
pub mod scenario;
