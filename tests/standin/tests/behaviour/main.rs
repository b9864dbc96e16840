//! What the stand-in does, seen from outside: over HTTP on loopback, with SQLite or PostgreSQL below.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test with a line number"
)]

mod api;
mod caches;
mod commands;
mod copies;
mod pages;
mod postgres;
mod scene;
mod starts;
mod tasks;
