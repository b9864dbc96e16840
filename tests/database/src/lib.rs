//! What the tests of the postgres step stand on: a PostgreSQL server with TLS, an installation of the stand-in on SQLite, and the calls of
//! the step as a daemon would make them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "this library is for tests only"
)]

pub mod cluster;
pub mod host;
pub mod scene;
