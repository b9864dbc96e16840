//! Everything an author of a connect-migrator step plugin needs, and nothing else.
//!
//! A plugin implements [`Step`] for a type of its own, names the type in [`export_plugin!`], and is built as a `cdylib`.
//! It writes settings, a check, an apply and a rollback; it never sees the boundary between it and the daemon.
//!
//! ```
//! use connect_migrator_sdk::prelude::*;
//!
//! #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     /// Where the balancer's API answers.
//!     url: String,
//! }
//!
//! struct Balancer;
//!
//! impl Step for Balancer {
//!     type Config = Settings;
//!     type Undo = String;
//!
//!     fn info() -> StepInfo {
//!         StepInfo::new("balancer", "Moves the pool of the site's balancer to the container").routes()
//!     }
//!
//!     async fn check(config: &Settings, _cx: &Context) -> Result<Vec<Finding>, StepError> {
//!         Ok(vec![Finding::ok("balancer-reachable", format!("{} answers", config.url))])
//!     }
//!
//!     async fn apply(_config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
//!         cx.record_undo(&"pool-a".to_string())?; // durable before anything changes
//!         Ok(Outcome::changed("pool-a now points at the container"))
//!     }
//!
//!     async fn rollback(_: &Settings, _: &Context, _of: Op, undo: Vec<String>) -> Result<Undone, StepError> {
//!         Ok(Undone::restored(format!("pool put back: {}", undo.join(", "))))
//!     }
//! }
//! connect_migrator_sdk::export_plugin!(Balancer);
//! # fn main() {}
//! ```
//!
//! The order of calls, and what each may do, stands at [`Step`].
//!
//! # From a crate to an installed plugin
//!
//! * `Cargo.toml`: `crate-type = ["cdylib", "rlib"]` (the second for the crate's own tests), beside this crate `serde` (with
//!   `derive`) and `schemars` 1, and `panic = "unwind"`, which is the default: a panic then is a failed step; with `abort` it is a
//!   crashed one.
//! * Install the library as `/usr/local/lib/connect-migrator/plugins/<plugin>.so` (packages: `/usr/lib/…`), owned by root and
//!   writable by nobody else, as is every folder above it. Anything else is not loaded. The file's name, without cargo's `lib`, is
//!   the plugin's in runbooks: lowercase letters, digits and `-`. `connect-migrator plugins verify` tells what is wrong.
//! * In the runbook: `uses = "<plugin>"` for the step of the plugin's own name, `uses = "<plugin>/<step>"` for others.
//! * Say with [`StepInfo::needs`] what the step needs of the machine: everything else is taken away from it where steps run in
//!   units of their own.
//! * What a step writes with [`tracing`] reaches the journal from level INFO on; what it writes to stdout or stderr does too,
//!   but that is for strays.
//! * Other languages implement `include/connect_migrator_plugin.h`.
#![deny(missing_docs)]

pub mod boundary;
pub mod context;
pub mod error;
pub mod facts;
pub mod finding;
mod forward;
pub mod frames;
pub mod needs;
pub mod outcome;
pub mod plugin;
pub mod secret;
pub mod span;
pub mod step;
pub mod testing;

pub use context::{Context, HostCalls, HostRefused, Invocation, LogLevel, Progress};
pub use error::StepError;
pub use facts::{Migration, Source, Target};
pub use finding::{Finding, Severity};
pub use needs::Needs;
pub use outcome::{Change, Done, Outcome, Probe, Undone, Verdict};
pub use plugin::{Answer, Plugin, PluginDescription};
pub use secret::{Secret, SecretRef};
pub use span::Span;
pub use step::{Op, Role, Step, StepInfo};

/// What an author imports.
pub mod prelude {
    pub use crate::{
        Change, Context, Finding, Needs, Op, Outcome, Probe, Role, Secret, SecretRef, Severity, Source, Step,
        StepError, StepInfo, Target, Undone, Verdict,
    };
}

/// Exports the steps of a plugin: given the types that implement [`Step`].
///
/// The plugin is named after its crate, without `connect-migrator-` in front; `export_plugin!(name = "other", A, B)` names it
/// otherwise. The crate must be built with `crate-type = ["cdylib"]` (add `"rlib"` for tests). One binary may contain one
/// exporting crate at most: all export the same symbol.
#[macro_export]
macro_rules! export_plugin {
    (name = $name:expr, $($step:ty),+ $(,)?) => {
        const _: () = {
            struct Export;
            impl $crate::boundary::Exported for Export {
                const NAME: &'static str = $name;
                fn plugin() -> $crate::Plugin {
                    $crate::plugin_of!(name = $name, $($step),+)
                }
            }
            static VTABLE: $crate::boundary::Vtable = $crate::boundary::vtable::<Export>();
            static DESCRIPTOR: $crate::boundary::Descriptor = $crate::boundary::descriptor::<Export>(&VTABLE);
            #[unsafe(no_mangle)]
            extern "C" fn connect_migrator_plugin_v1() -> *const $crate::boundary::Descriptor {
                &raw const DESCRIPTOR
            }
        };
    };
    ($($step:ty),+ $(,)?) => {
        $crate::export_plugin!(name = $crate::plugin::name_of_crate(env!("CARGO_PKG_NAME")), $($step),+);
    };
}

/// The same steps as a [`Plugin`] in this process, without a boundary: for steps that are linked into the daemon, and for
/// tests of a whole plugin. `plugin_of!(A, B)` or `plugin_of!(name = "other", A, B)`.
#[macro_export]
macro_rules! plugin_of {
    (name = $name:expr, $($step:ty),+ $(,)?) => {
        $crate::Plugin::new($name, env!("CARGO_PKG_VERSION"))$(.with::<$step>())+
    };
    ($($step:ty),+ $(,)?) => {
        $crate::plugin_of!(name = $crate::plugin::name_of_crate(env!("CARGO_PKG_NAME")), $($step),+)
    };
}
