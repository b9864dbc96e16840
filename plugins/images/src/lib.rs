//! Which image of Posit Connect: the vendor's bakery files, registries, archives, and what an image has inside.

pub mod archive;
pub mod bakery;
mod challenge;
pub mod choice;
pub mod contents;
pub mod credentials;
pub mod reference;
pub mod registry;
pub mod search;
