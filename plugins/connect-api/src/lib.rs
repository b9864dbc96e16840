//! The connect-api step plugin: what is done to a Connect server through its own API.
//!
//! * `connect-api/clear-caches` deletes all runtime caches: they were built on the old distribution.
//! * `connect-api/rebuild` builds the environment of every content item, so that no visitor has to wait for it.

pub mod clear;
pub mod connection;
pub mod follow;
pub mod rebuild;

pub use clear::ClearCaches;
pub use rebuild::Rebuild;

connect_migrator_sdk::export_plugin!(ClearCaches, Rebuild);
