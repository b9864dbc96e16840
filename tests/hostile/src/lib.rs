//! A plugin that misbehaves in every way that the daemon must survive. Which one, its setting `misdeed` says; without it, it is
//! a plugin as it should be.
//!
//! The daemon's tests load it (`daemon/tests/hostile_plugins.rs`). It comes to them as a dev-dependency: building that builds
//! the shared library too, beside the tests' own executables.

mod misdeed;
mod step;
mod vtable;

pub use misdeed::Misdeed;
