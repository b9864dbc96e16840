//! The docker step plugin.
