//! The route-nginx step plugin.

pub mod conf;
pub mod endpoint;
pub mod listen;
pub mod locate;
pub mod nginx;
pub mod page;
pub mod probe;
pub mod replace;
pub mod settings;
pub mod stage;
pub mod systemd;
