//! What several steps must know about a Posit Connect installation: its configuration grammar, its versions, its data
//! directory, what must change in a container's configuration, its server API, and how configuration files are replaced.

pub mod api;
pub mod config_file;
pub mod container;
pub mod environment_file;
pub mod gcfg;
mod gcfg_scan;
pub mod installation;
pub mod secrets;
pub mod source_edits;
pub mod version;
