//! The docker step plugin.

pub mod engine;
pub mod reference;
pub mod settings;
