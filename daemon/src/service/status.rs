//! Where a migration stands, for those who ask while a daemon may run: printed by `status --json`, and answered by the daemon on the bus
//! to those who may not read the state.

use super::Live;
use crate::report::Report;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a migration stands, with what only a running daemon knows: what `status --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The durable part.
    #[serde(flatten)]
    pub report: Report,
    /// Whether the daemon of this instance runs.
    pub daemon_runs: bool,
    /// How far the running call has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
}
