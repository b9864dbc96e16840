//! The trait that an author implements, and what a step says about itself.

use crate::{Change, Context, Finding, Needs, Outcome, Probe, StepError, Undone, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::future::Future;

/// One kind of change to the world that a runbook can ask for.
///
/// # Order of calls
///
/// ```text
/// check*            reads only; may be called at any time, any number of times
/// plan*             reads only; says what would be done
/// prepare           Connect still serves; everything that need not wait
/// enter_window      last moment before the source is stopped (drain, show a maintenance page)
/// apply, verify     in runbook order
/// verify*           again and again during the soak
/// finalize          at commit: drop what only rollback needed
/// rollback(of)      newest first, once for each of prepare, enter_window, apply that recorded an undo record
/// probe(of)         after a crash: was that call carried out?
/// ```
///
/// Every call runs in a process of its own. Nothing in memory survives from one call to the next; what must survive goes into
/// [`Context::checkpoint`], [`Context::record_undo`], a fact of the [`Outcome`], or a file in [`Context::state_dir`].
///
/// # The contract
///
/// * Doing it twice is the same as doing it once: `prepare`, `enter_window`, `apply`, `rollback` and `finalize` are idempotent.
/// * [`Context::record_undo`] comes *before* the change it undoes. A call that recorded no undo record is taken to have
///   changed nothing, and is not rolled back.
/// * An undo record may describe a change that was never made (the crash came first): `rollback` looks at the world.
/// * `verify` reads the world again and never trusts what `apply` returned.
pub trait Step: 'static {
    /// The settings under `with` in the runbook. Use `#[serde(deny_unknown_fields)]`, so that a typing mistake is found.
    type Config: DeserializeOwned + JsonSchema + Send + Sync + 'static;
    /// What `rollback` needs to put back one change.
    type Undo: Serialize + DeserializeOwned + Send + 'static;

    /// Name, one-line summary and role. Called without settings; must not fail and must not do I/O.
    fn info() -> StepInfo;

    /// Looks whether this step could be carried out. Reads only.
    ///
    /// # Errors
    /// Only when the check itself cannot be made; the daemon reports that as a blocker.
    fn check(
        config: &Self::Config,
        cx: &Context,
    ) -> impl Future<Output = Result<Vec<Finding>, StepError>> + Send;

    /// Says what the step will change, for `connect-migrator plan`. Reads only.
    ///
    /// # Errors
    /// When it cannot be told.
    fn plan(
        _config: &Self::Config,
        _cx: &Context,
    ) -> impl Future<Output = Result<Vec<Change>, StepError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Does everything that can be done while Connect still serves. Idempotent.
    ///
    /// # Errors
    /// Ends the migration; what was prepared is rolled back.
    fn prepare(
        _config: &Self::Config,
        _cx: &Context,
    ) -> impl Future<Output = Result<Outcome, StepError>> + Send {
        async { Ok(Outcome::already_done("nothing to prepare")) }
    }

    /// The last moment before the source is stopped: drain a balancer, show a maintenance page. Idempotent, and quick:
    /// the window is open.
    ///
    /// # Errors
    /// Ends the migration; everything is rolled back.
    fn enter_window(
        _config: &Self::Config,
        _cx: &Context,
    ) -> impl Future<Output = Result<Outcome, StepError>> + Send {
        async { Ok(Outcome::already_done("nothing to do before the window")) }
    }

    /// Makes the change. Idempotent.
    ///
    /// # Errors
    /// Ends the migration; everything is rolled back or paused, as the runbook says.
    fn apply(config: &Self::Config, cx: &Context) -> impl Future<Output = Result<Outcome, StepError>> + Send;

    /// Reads the world again: is it as `apply` was to make it? Reads only. Called after `apply`, after the last step, and
    /// repeatedly during the soak.
    ///
    /// # Errors
    /// When it cannot be told; treated like [`Verdict::Broken`].
    fn verify(
        _config: &Self::Config,
        _cx: &Context,
    ) -> impl Future<Output = Result<Verdict, StepError>> + Send {
        async { Ok(Verdict::holds("this step has nothing to verify")) }
    }

    /// Looks at the world after a call of `of` was cut off (crash, power cut) with an unknown outcome. Reads only.
    ///
    /// The default, [`Probe::RunAgain`], is right for every step that keeps the contract of idempotence.
    ///
    /// # Errors
    /// Treated like [`Probe::Unknown`]: the daemon stops and asks.
    fn probe(
        _config: &Self::Config,
        _cx: &Context,
        _of: Op,
    ) -> impl Future<Output = Result<Probe, StepError>> + Send {
        async { Ok(Probe::RunAgain) }
    }

    /// Puts back what the call `of` changed, from its undo records (oldest first). Idempotent. Never called while another call
    /// of the migration runs; calls are undone newest first.
    ///
    /// # Errors
    /// The rest is still rolled back; the operator is told what could not be.
    fn rollback(
        config: &Self::Config,
        cx: &Context,
        of: Op,
        undo: Vec<Self::Undo>,
    ) -> impl Future<Output = Result<Undone, StepError>> + Send;

    /// At commit: removes what was kept only for rollback. Idempotent.
    ///
    /// # Errors
    /// Reported; the migration is committed all the same.
    fn finalize(
        _config: &Self::Config,
        _cx: &Context,
    ) -> impl Future<Output = Result<Outcome, StepError>> + Send {
        async { Ok(Outcome::already_done("nothing to finalize")) }
    }
}

/// A call that the daemon makes to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// [`Step::check`]
    Check,
    /// [`Step::plan`]
    Plan,
    /// [`Step::prepare`]
    Prepare,
    /// [`Step::enter_window`]
    EnterWindow,
    /// [`Step::apply`]
    Apply,
    /// [`Step::verify`]
    Verify,
    /// [`Step::probe`]
    Probe,
    /// [`Step::rollback`]
    Rollback,
    /// [`Step::finalize`]
    Finalize,
}

impl Op {
    /// Whether the call may change the world.
    #[must_use]
    pub fn changes(self) -> bool {
        matches!(self, Op::Prepare | Op::EnterWindow | Op::Apply | Op::Rollback | Op::Finalize)
    }

    /// The name as it stands in frames, state and journal.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Op::Check => "check",
            Op::Plan => "plan",
            Op::Prepare => "prepare",
            Op::EnterWindow => "enter-window",
            Op::Apply => "apply",
            Op::Verify => "verify",
            Op::Probe => "probe",
            Op::Rollback => "rollback",
            Op::Finalize => "finalize",
        }
    }
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a step is to the run as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Nothing special.
    #[default]
    Other,
    /// Its `apply` stops the source: the window opens with it.
    StopsSource,
    /// Its `apply` starts the new server and publishes the fact [`Target`](crate::Target).
    StartsTarget,
    /// Its `apply` sends users to the new server: the window closes when it is verified.
    Routes,
}

/// What a step says about itself. Built with [`StepInfo::new`] and the methods that follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct StepInfo {
    /// The name after the plugin in `uses = "plugin/step"`. A step with the plugin's own name is what `uses = "plugin"` means.
    pub name: String,
    /// One line for `plan` and the list of plugins.
    pub summary: String,
    /// See [`Role`].
    #[serde(default)]
    pub role: Role,
    /// `apply` must not run while the source runs. A step of this kind may stand before `systemd/stop`: it prepares in its
    /// place, and is applied right after the stop.
    #[serde(default)]
    pub needs_source_stopped: bool,
    /// What it needs of the machine. `None`, as with plugins built before this could be said: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Needs>,
    /// The JSON schema of the settings; filled in by [`export_plugin!`](crate::export_plugin).
    #[serde(default)]
    pub settings_schema: serde_json::Value,
}

impl StepInfo {
    /// A step without a special role.
    pub fn new(name: impl Into<String>, summary: impl Into<String>) -> Self {
        StepInfo {
            name: name.into(),
            summary: summary.into(),
            role: Role::Other,
            needs_source_stopped: false,
            needs: None,
            settings_schema: serde_json::Value::Null,
        }
    }

    /// Its `apply` stops the source.
    #[must_use]
    pub fn stops_source(mut self) -> Self {
        self.role = Role::StopsSource;
        self
    }

    /// Its `apply` starts the new server.
    #[must_use]
    pub fn starts_target(mut self) -> Self {
        self.role = Role::StartsTarget;
        self
    }

    /// Its `apply` sends users to the new server.
    #[must_use]
    pub fn routes(mut self) -> Self {
        self.role = Role::Routes;
        self
    }

    /// Its `apply` needs the source stopped.
    #[must_use]
    pub fn needs_source_stopped(mut self) -> Self {
        self.needs_source_stopped = true;
        self
    }

    /// It needs no more of the machine than this: see [`Needs`].
    #[must_use]
    pub fn needs(mut self, needs: Needs) -> Self {
        self.needs = Some(needs);
        self
    }
}
