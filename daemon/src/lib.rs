//! connect-migrator: moves a Posit Connect server from its host into a container, and back if need be.
//!
//! `cli` and `bus` are thin faces of `engine`; `engine` does no I/O of its own but through the traits that `state` and `host`
//! implement. `service` puts them together under systemd.

pub mod bus;
pub mod cli;
pub mod engine;
pub mod host;
pub mod instance;
pub mod report;
pub mod runbook;
pub mod service;
pub mod state;
pub mod systemd;
