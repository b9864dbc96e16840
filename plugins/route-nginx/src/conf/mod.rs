//! The administrator's nginx configuration, read without losing a byte.
//!
//! [`token`] cuts a file into tokens that cover every byte of it, [`tree`] reads a whole configuration with its includes, and
//! [`glob`] resolves the patterns that `include` takes. nginx itself (`nginx -t`) stays the judge of whether a configuration is
//! valid; this module only has to find things in a valid one.

pub mod glob;
pub mod token;
pub mod tree;

pub use tree::{ConfError, Configuration, Node, NodeId, Word};
