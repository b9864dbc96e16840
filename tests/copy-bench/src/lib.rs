//! What tests and benches of the copier share: trees like Connect's with every odd entry, changes as a live Connect makes
//! them, and a comparison of two trees by programs that are not ours.

mod compare;
mod odd;
mod place;
mod tree;

pub use compare::{differences, need};
pub use odd::{add_deep, add_odd};
pub use place::{Place, timed};
pub use tree::{Changed, Dice, Made, change, grow};
