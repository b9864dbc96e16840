//! Plugins that are linked into the daemon.

use crate::systemd::steps::{Start, Stop};
use connect_migrator_sdk::Plugin;

/// The built-in plugin of this name.
pub(super) fn find(name: &str) -> Option<Plugin> {
    [connect_migrator_sdk::plugin_of!(name = "systemd", Stop, Start)]
        .into_iter()
        .find(|plugin| plugin.name() == name)
}
