//! `systemd/start`: starts and enables a unit.

use super::ground::{Ground, with_progress};
use super::span::Span;
use crate::systemd::units::UnitStatus;
use connect_migrator_sdk::{
    Change, Context, Finding, Op, Outcome, Step, StepError, StepInfo, Undone, Verdict,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The step.
#[derive(Debug)]
pub struct Start;

/// The settings of `systemd/start`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StartConfig {
    /// The unit. Not the source's: on the way back that one is started by itself.
    pub unit: String,
    /// How long the unit may take to start.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
}

const fn default_timeout() -> Span {
    Span::minutes(10)
}

/// The unit as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartUndo {
    /// Its name.
    pub unit: String,
    /// It was running.
    pub was_active: bool,
    /// `enabled`, `disabled`, …
    pub unit_file_state: String,
}

impl Step for Start {
    type Config = StartConfig;
    type Undo = StartUndo;

    fn info() -> StepInfo {
        StepInfo::new("start", "Starts a unit and enables it")
    }

    async fn check(config: &StartConfig, cx: &Context) -> Result<Vec<Finding>, StepError> {
        check(&Ground::default(), config, cx).await
    }

    async fn plan(config: &StartConfig, _cx: &Context) -> Result<Vec<Change>, StepError> {
        plan(&Ground::default(), config).await
    }

    async fn apply(config: &StartConfig, cx: &Context) -> Result<Outcome, StepError> {
        apply(&Ground::default(), config, cx).await
    }

    async fn verify(config: &StartConfig, _cx: &Context) -> Result<Verdict, StepError> {
        verify(&Ground::default(), config).await
    }

    async fn rollback(
        config: &StartConfig,
        cx: &Context,
        of: Op,
        undo: Vec<StartUndo>,
    ) -> Result<Undone, StepError> {
        rollback(&Ground::default(), config, cx, of, undo).await
    }
}

/// Whether the unit can be enabled and is not.
fn is_disabled(state: &str) -> bool {
    state == "disabled"
}

fn is_source(config: &StartConfig, cx: &Context) -> bool {
    config.unit == cx.source().unit
}

/// See [`Step::check`].
///
/// # Errors
/// Never: what cannot be told is a blocker.
pub async fn check(ground: &Ground, config: &StartConfig, cx: &Context) -> Result<Vec<Finding>, StepError> {
    let unit = &config.unit;
    if is_source(config, cx) {
        return Ok(vec![Finding::blocker(
            "start-is-source",
            format!("{unit} is the unit of the Connect that is moved"),
            "remove this step: on the way back the source is started by itself, and on the way there it must not run",
        )]);
    }
    let status = async { ground.units().await?.status(unit).await }.await;
    Ok(vec![match status {
        Err(error) => {
            Finding::blocker("systemd-unreachable", error.to_string(), "see `systemctl status dbus`")
        }
        Ok(status) => finding(&status),
    }])
}

fn finding(status: &UnitStatus) -> Finding {
    let unit = &status.unit;
    match status.load_state.as_str() {
        "loaded" => Finding::ok(
            "unit-can-start",
            format!("{unit} is {} and {}", status.state_text(), status.unit_file_state),
        ),
        "masked" => Finding::blocker(
            "unit-masked",
            format!("{unit} is masked"),
            format!("run `systemctl unmask {unit}` if it may run"),
        ),
        "not-found" => Finding::blocker(
            "unit-not-found",
            format!("there is no unit {unit}"),
            "correct `unit` of this step, or install what brings the unit",
        ),
        other => Finding::blocker(
            "unit-broken",
            format!("systemd cannot load {unit}: {other}"),
            format!("run `systemd-analyze verify {unit}`"),
        ),
    }
}

/// See [`Step::plan`].
///
/// # Errors
/// When systemd does not answer.
pub async fn plan(ground: &Ground, config: &StartConfig) -> Result<Vec<Change>, StepError> {
    let unit = &config.unit;
    let status = ground.units().await?.status(unit).await?;
    let mut changes = Vec::new();
    if is_disabled(&status.unit_file_state) {
        changes.push(Change::new(Op::Apply, format!("enable {unit}")));
    }
    if !status.is_active() {
        changes.push(Change::new(Op::Apply, format!("start {unit}, now {}", status.state_text())));
    }
    if !changes.is_empty() {
        changes.push(Change::new(Op::Rollback, format!("stop and disable {unit} again, as far as it was")));
    }
    Ok(changes)
}

/// See [`Step::apply`].
///
/// # Errors
/// When the unit cannot be enabled or started.
pub async fn apply(ground: &Ground, config: &StartConfig, cx: &Context) -> Result<Outcome, StepError> {
    let unit = config.unit.as_str();
    if is_source(config, cx) {
        return Err(StepError::new(format!("start {unit}"))
            .because("it is the unit of the Connect that is moved")
            .remedy("remove this step from the runbook"));
    }
    let units = ground.units().await?;
    let before = units.status(unit).await?;
    let enable = is_disabled(&before.unit_file_state);
    if before.is_active() && !enable {
        return Ok(Outcome::already_done(format!("{unit} is {}", before.state_text())));
    }
    cx.record_undo(&StartUndo {
        unit: unit.into(),
        was_active: before.is_active(),
        unit_file_state: before.unit_file_state.clone(),
    })?;
    let mut outcome =
        Outcome::changed(format!("{unit} was {} and {}", before.state_text(), before.unit_file_state));
    if enable {
        units.enable(unit).await?;
        outcome = outcome.and(format!("enabled {unit}"));
    }
    if !before.is_active() {
        let limit = config.timeout.0;
        with_progress(cx, &format!("starting {unit}"), limit, units.start(unit, limit)).await?;
        outcome = outcome.and(format!("started {unit}"));
    }
    Ok(outcome)
}

/// See [`Step::verify`].
///
/// # Errors
/// When systemd does not answer.
pub async fn verify(ground: &Ground, config: &StartConfig) -> Result<Verdict, StepError> {
    let unit = &config.unit;
    let now = ground.units().await?.status(unit).await?;
    Ok(match now.is_active() {
        true => Verdict::holds(format!("{unit} is {}", now.state_text())),
        false => {
            Verdict::broken(format!("{unit} is {}", now.state_text()), format!("see `journalctl -u {unit}`"))
        }
    })
}

/// See [`Step::rollback`].
///
/// # Errors
/// When the unit cannot be stopped or disabled again.
pub async fn rollback(
    ground: &Ground,
    config: &StartConfig,
    cx: &Context,
    of: Op,
    undo: Vec<StartUndo>,
) -> Result<Undone, StepError> {
    // A call that was cut off and run again has recorded twice; the first record knows the unit as it was.
    let Some(before) = undo.into_iter().next().filter(|_| of == Op::Apply) else {
        return Ok(Undone::restored("nothing was started"));
    };
    let unit = before.unit.as_str();
    let units = ground.units().await?;
    let mut undone = Undone { evidence: Vec::new(), left: Vec::new() };
    let now = units.status(unit).await?;
    if !before.was_active && now.load_state != "not-found" && !now.is_inactive() {
        let limit = now.stop_timeout.unwrap_or_default().max(config.timeout.0);
        with_progress(cx, &format!("stopping {unit}"), limit, units.stop(unit, limit)).await?;
        undone = undone.and(format!("{unit} is stopped again"));
    }
    if is_disabled(&before.unit_file_state) && now.is_enabled() {
        units.disable(unit).await?;
        undone = undone.and(format!("{unit} is disabled again"));
    }
    if undone.evidence.is_empty() {
        undone = undone.and(format!("{unit} is as it was: {}", now.state_text()));
    }
    Ok(undone)
}
