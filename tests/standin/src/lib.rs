//! A stand-in for Posit Connect, for tests of connect-migrator. The product is proprietary and needs a licence; this
//! program behaves like it where a migration touches it, and is as strict where the product is strict.
//!
//! One program, told apart by the name it is called with: `connect`, `rscadmin`, `migrate`, `license-manager`, and
//! `standin` for what tests need (seed data, violations). See `package/` for the Debian package and the image.

pub mod api;
pub mod builds;
pub mod caches;
pub mod cli;
pub mod content;
pub mod failure;
pub mod gcfg;
pub mod live;
pub mod log;
pub mod release;
pub mod runtimes;
pub mod secret;
pub mod seed;
pub mod server;
pub mod settings;
pub mod startup;
pub mod store;
pub mod tasks;
pub mod tuning;
pub mod users;

pub use failure::Failure;
pub use server::{Checks, Launch, Server};
