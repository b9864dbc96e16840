//! The built-in steps: `systemd/stop` stops the source for as long as the container lives, `systemd/start` starts a unit.

mod ground;
mod span;
pub mod start;
pub mod stop;

pub use ground::Ground;
pub use span::Span;
pub use start::Start;
pub use stop::Stop;
