//! The route-nginx step plugin.

pub mod conf;
pub mod endpoint;
pub mod locate;
pub mod settings;
