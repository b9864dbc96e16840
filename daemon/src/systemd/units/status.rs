//! A unit as systemd describes it.

use super::UnitError;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;
use zbus::{OwnedVariant, Variant};

/// The path of "no job".
const NO_JOB: &str = "/";

/// A unit as systemd describes it: `org.freedesktop.systemd1(5)`. What a unit does not have is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitStatus {
    /// The name that was asked for.
    pub unit: String,
    /// The unit's own name; another one if `unit` is an alias.
    pub id: String,
    /// What systemd has in memory: `loaded`, `not-found`, `masked`, `bad-setting`, `error`.
    pub load_state: String,
    /// `active`, `reloading`, `inactive`, `failed`, `activating`, `deactivating`.
    pub active_state: String,
    /// Finer, by kind of unit: `running`, `dead`, `exited`, …
    pub sub_state: String,
    /// What lies on the disk: `enabled`, `disabled`, `static`, `masked`, …
    pub unit_file_state: String,
    /// The file that defines it.
    pub fragment_path: Option<PathBuf>,
    /// The files that change the definition.
    pub drop_in_paths: Vec<PathBuf>,
    /// The files on the disk differ from what systemd has read.
    pub needs_reload: bool,
    /// Units that start this one.
    pub triggered_by: Vec<String>,
    /// Units that fail without this one.
    pub required_by: Vec<String>,
    /// The job that is under way.
    pub job: Option<String>,
    /// The control group, from the root of the tree. Empty when it has no processes.
    pub control_group: String,
    /// The main process; 0 if there is none.
    pub main_pid: u32,
    /// `Type=`
    pub service_type: String,
    /// `Restart=`
    pub restart: String,
    /// `KillMode=`
    pub kill_mode: String,
    /// How the last run ended: `success`, `exit-code`, `timeout`, …
    pub result: String,
    /// How long systemd waits for a stop before it kills. `None`: for ever, or no service.
    pub stop_timeout: Option<Duration>,
    /// How long systemd waits for a start. `None`: for ever, or no service.
    pub start_timeout: Option<Duration>,
}

impl UnitStatus {
    pub(super) fn of(unit: &str, all: &HashMap<String, OwnedVariant>) -> Result<Self, UnitError> {
        let text = |property: &str| match all.get(property).map(|value| &**value) {
            Some(Variant::Str(text)) => text.to_string(),
            _ => String::new(),
        };
        let must = |property: &'static str| match text(property) {
            text if text.is_empty() => Err(UnitError::Property { unit: unit.into(), property }),
            text => Ok(text),
        };
        let texts = |property: &str| match all.get(property).map(|value| &**value) {
            Some(Variant::Array(array)) => array
                .iter()
                .filter_map(|item| match item {
                    Variant::Str(text) => Some(text.to_string()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        let span = |property: &str| match all.get(property).map(|value| &**value) {
            Some(Variant::U64(micros)) if *micros != u64::MAX => Some(Duration::from_micros(*micros)),
            _ => None,
        };
        let fragment = text("FragmentPath");
        Ok(UnitStatus {
            unit: unit.into(),
            id: text("Id"),
            load_state: must("LoadState")?,
            active_state: must("ActiveState")?,
            sub_state: text("SubState"),
            unit_file_state: text("UnitFileState"),
            fragment_path: (!fragment.is_empty()).then(|| fragment.into()),
            drop_in_paths: texts("DropInPaths").into_iter().map(PathBuf::from).collect(),
            needs_reload: matches!(
                all.get("NeedDaemonReload").map(|value| &**value),
                Some(Variant::Bool(true))
            ),
            triggered_by: texts("TriggeredBy"),
            required_by: [texts("RequiredBy"), texts("RequisiteOf"), texts("BoundBy")].concat(),
            job: job(all),
            control_group: text("ControlGroup"),
            main_pid: match all.get("MainPID").map(|value| &**value) {
                Some(Variant::U32(pid)) => *pid,
                _ => 0,
            },
            service_type: text("Type"),
            restart: text("Restart"),
            kill_mode: text("KillMode"),
            result: text("Result"),
            stop_timeout: span("TimeoutStopUSec"),
            start_timeout: span("TimeoutStartUSec"),
        })
    }

    /// It serves: also while it reads its configuration again.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self.active_state.as_str(), "active" | "reloading" | "refreshing")
    }

    /// It does not run and is not about to.
    #[must_use]
    pub fn is_inactive(&self) -> bool {
        matches!(self.active_state.as_str(), "inactive" | "failed")
    }

    /// Nothing can start it, also after a reboot.
    #[must_use]
    pub fn is_masked(&self) -> bool {
        self.load_state == "masked" && self.unit_file_state == "masked"
    }

    /// It starts when the machine does.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.unit_file_state == "enabled"
    }

    /// `active (running)`
    #[must_use]
    pub fn state_text(&self) -> String {
        let mut text = format!("{} ({})", self.active_state, self.sub_state);
        if !matches!(self.result.as_str(), "" | "success") {
            text.push_str(&format!(", result {}", self.result));
        }
        text
    }
}

fn job(all: &HashMap<String, OwnedVariant>) -> Option<String> {
    let Some(Variant::Structure(job)) = all.get("Job").map(|value| &**value) else { return None };
    match job.fields() {
        [_, Variant::ObjectPath(path)] if path.as_str() != NO_JOB => Some(path.to_string()),
        _ => None,
    }
}
