//! `bakery.yaml`: the file in which Posit defines its images. Every tag follows from it, without asking anybody.
//!
//! The schema is that of <https://github.com/posit-dev/images-shared/tree/main/posit-bakery>. The vendor's own reader passes over keys
//! that it does not know; this one refuses them, for most are typing mistakes.

mod dependency;
mod fields;
mod jinja;
mod mistake;
mod model;
mod parts;
mod read;
mod targets;
mod yaml;

pub use dependency::{Available, Constraint, Dependency, DependencyConstraint, DependencyVersion};
pub use mistake::{Mistake, Mistakes};
pub use model::*;
pub use read::{BAKERY_MAX_BYTES, Read, ReadError, read, read_text};
pub use targets::{Kind, Target};
