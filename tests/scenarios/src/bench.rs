//! What is measured, as a table: never more than one thing at a time.

use crate::artifacts::Artifacts;
use crate::lab::Tried;

/// Runs all benches and prints their figures.
///
/// # Errors
/// When one cannot be run.
pub fn run(_artifacts: &Artifacts) -> Tried {
    Ok(())
}
