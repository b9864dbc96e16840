//! The C boundary between the step host and a plugin. Authors never see it: [`export_plugin!`](crate::export_plugin) writes it.
//!
//! A plugin is a shared library that exports one function for each major version of this boundary,
//! `connect_migrator_plugin_v1`. It returns a [`Descriptor`], which names the [`Vtable`]. Rules:
//!
//! * Only pointers, lengths and integers of fixed width cross. No Rust type, no panic, no future, no handle.
//! * Every struct begins with its size. New members are added at the end only, with a new minor version; the reader takes
//!   what fits into the size that the writer declared, and takes the rest as absent.
//! * Payloads are UTF-8 JSON. Whoever allocated a [`Buffer`] frees it.
//! * A library is loaded once per process, serves one `call` at a time, and is never unloaded.
//!
//! `include/connect_migrator_plugin.h` says the same in C; a test compiles it and compares the layouts.

mod layout;
mod plugin_side;

pub use layout::{Buffer, Descriptor, HostTable, Text, Vtable};
pub use plugin_side::{Exported, descriptor, vtable};

/// First member of every [`Descriptor`]: the bytes `CMPLUGIN`, read as a big-endian number.
pub const MAGIC: u64 = u64::from_be_bytes(*b"CMPLUGIN");

/// Members may change their meaning only with this, and the exported symbol changes its name.
pub const ABI_MAJOR: u16 = 1;

/// Grows with every member added at an end. 1.1 added [`Vtable::cancel`].
pub const ABI_MINOR: u16 = 1;

/// The symbol that a plugin of [`ABI_MAJOR`] exports.
pub const SYMBOL: &str = "connect_migrator_plugin_v1";

/// The compiler that built this SDK, and with it the plugin that contains it. For messages only.
pub const RUSTC: &str = env!("CONNECT_MIGRATOR_RUSTC");

/// The version of this SDK. For messages only.
pub const SDK_VERSION: &str = env!("CARGO_PKG_VERSION");
