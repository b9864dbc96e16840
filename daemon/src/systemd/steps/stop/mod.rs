//! `systemd/stop`: stops the source and masks its unit, so that nothing starts it while the container lives: no reboot, no
//! timer, no upgrade of the package.

mod back;
mod check;
mod guard;

use super::ground::{Ground, with_progress};
use super::span::Span;
use crate::systemd::processes::listed;
use crate::systemd::units::{LEFTOVER_TIMEOUT_SECS, UnitStatus, Units};
use connect_migrator_sdk::{
    Change, Context, Finding, Needs, Op, Outcome, Step, StepError, StepInfo, Undone, Verdict,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Added to the unit's own limit: systemd kills then, and the end of the kill is to be seen too.
const KILL_MARGIN_SECS: u64 = 15;
/// How often a unit that somebody started between stop and mask is stopped again.
const MAX_STOPS: usize = 3;

/// The step.
#[derive(Debug)]
pub struct Stop;

/// The settings of `systemd/stop`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StopConfig {
    /// The unit. Default: `unit` of `[connect]`.
    #[serde(default)]
    pub unit: Option<String>,
    /// How long the unit may take to stop. Never shorter than its own `TimeoutStopSec=`.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How long processes that outlive the stop, such as renders of content, may take to end.
    #[serde(default = "default_leftover_timeout")]
    pub leftover_timeout: Span,
    /// On the way back: how long Connect may take, once started, to answer.
    #[serde(default = "default_ping_timeout")]
    pub ping_timeout: Span,
}

const fn default_timeout() -> Span {
    Span::minutes(10)
}

const fn default_leftover_timeout() -> Span {
    Span(Duration::from_secs(LEFTOVER_TIMEOUT_SECS))
}

const fn default_ping_timeout() -> Span {
    Span::minutes(5)
}

impl Default for StopConfig {
    fn default() -> Self {
        StopConfig {
            unit: None,
            timeout: default_timeout(),
            leftover_timeout: default_leftover_timeout(),
            ping_timeout: default_ping_timeout(),
        }
    }
}

impl StopConfig {
    fn unit<'a>(&'a self, cx: &'a Context) -> &'a str {
        self.unit.as_deref().unwrap_or(&cx.source().unit)
    }

    /// How long the stop is waited for.
    fn bound(&self, status: &UnitStatus) -> Duration {
        let own = status
            .stop_timeout
            .map_or(Duration::ZERO, |own| own.saturating_add(Duration::from_secs(KILL_MARGIN_SECS)));
        self.timeout.0.max(own)
    }
}

/// What is undone on the way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "undo")]
pub enum StopUndo {
    /// Remove the drop-in that `prepare` wrote.
    Guarded {
        /// Of which unit.
        unit: String,
    },
    /// Put the unit back as it was before `apply`.
    Stopped(Before),
}

/// The unit as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Its name.
    pub unit: String,
    /// `active`, `inactive`, …
    pub active_state: String,
    /// `enabled`, `disabled`, …
    pub unit_file_state: String,
    /// `loaded`, …
    pub load_state: String,
    /// The file that defined it.
    pub fragment_path: Option<PathBuf>,
    /// Its control group.
    pub control_group: String,
}

impl Before {
    fn of(status: &UnitStatus) -> Self {
        Before {
            unit: status.unit.clone(),
            active_state: status.active_state.clone(),
            unit_file_state: status.unit_file_state.clone(),
            load_state: status.load_state.clone(),
            fragment_path: status.fragment_path.clone(),
            control_group: status.control_group.clone(),
        }
    }

    /// It was running or about to; what was just ending may have been on its way to a new start.
    fn was_active(&self) -> bool {
        !matches!(self.active_state.as_str(), "inactive" | "failed")
    }

    fn was_masked(&self) -> bool {
        self.unit_file_state == "masked"
    }

    fn was_enabled(&self) -> bool {
        self.unit_file_state == "enabled"
    }
}

impl Step for Stop {
    type Config = StopConfig;
    type Undo = StopUndo;

    fn info() -> StepInfo {
        // Units are systemd's work. To see which program a process of another user runs is a matter of CAP_SYS_PTRACE.
        let needs = Needs::nothing()
            .network()
            .processes()
            .capabilities(&["CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"])
            .writes(&["/run/systemd"]);
        StepInfo::new("stop", "Stops Connect on this host and masks its unit").stops_source().needs(needs)
    }

    async fn check(config: &StopConfig, cx: &Context) -> Result<Vec<Finding>, StepError> {
        check(&Ground::default(), config, cx).await
    }

    async fn plan(config: &StopConfig, cx: &Context) -> Result<Vec<Change>, StepError> {
        plan(&Ground::default(), config, cx).await
    }

    async fn prepare(config: &StopConfig, cx: &Context) -> Result<Outcome, StepError> {
        prepare(&Ground::default(), config, cx).await
    }

    async fn apply(config: &StopConfig, cx: &Context) -> Result<Outcome, StepError> {
        apply(&Ground::default(), config, cx).await
    }

    async fn verify(config: &StopConfig, cx: &Context) -> Result<Verdict, StepError> {
        verify(&Ground::default(), config, cx).await
    }

    async fn rollback(
        config: &StopConfig,
        cx: &Context,
        of: Op,
        undo: Vec<StopUndo>,
    ) -> Result<Undone, StepError> {
        rollback(&Ground::default(), config, cx, of, undo).await
    }

    async fn finalize(config: &StopConfig, cx: &Context) -> Result<Outcome, StepError> {
        finalize(&Ground::default(), config, cx).await
    }
}

pub use back::rollback;
pub use check::check;
pub use guard::prepare;

/// See [`Step::plan`].
///
/// # Errors
/// When systemd does not answer.
pub async fn plan(ground: &Ground, config: &StopConfig, cx: &Context) -> Result<Vec<Change>, StepError> {
    let unit = config.unit(cx);
    let units = ground.units().await?;
    let status = units.status(unit).await?;
    let processes = units.processes_in(unit, &status.control_group)?.len();
    let kill = match status.stop_timeout {
        Some(own) => format!("systemd kills it after {} s", own.as_secs()),
        None => "systemd waits for it without a limit".into(),
    };
    let bound = config.bound(&status).as_secs();
    Ok(vec![
        Change::new(
            Op::Prepare,
            format!("write {}, which makes the mask count at once", guard::path(ground, unit).display()),
        ),
        Change::new(
            Op::Apply,
            format!(
                "stop {unit}, now {}, processes: {processes}; {kill}, this run waits at most {bound} s",
                status.state_text()
            ),
        ),
        Change::new(Op::Apply, format!("mask {unit}: link /etc/systemd/system/{unit} to /dev/null")),
        Change::new(
            Op::Rollback,
            format!("see that no other Connect runs, unmask and start {unit}, wait until it answers"),
        ),
    ])
}

/// See [`Step::apply`].
///
/// # Errors
/// When the unit cannot be stopped and masked, or when processes of it are left.
pub async fn apply(ground: &Ground, config: &StopConfig, cx: &Context) -> Result<Outcome, StepError> {
    let unit = config.unit(cx);
    let units = ground.units().await?.leftover_timeout(config.leftover_timeout.0);
    let before = units.status(unit).await?;
    if before.load_state == "not-found" {
        return Err(StepError::new(format!("stop {unit}"))
            .because("there is no such unit")
            .remedy("set `unit` of `[connect]` to the unit of Connect"));
    }
    if before.is_inactive()
        && guard::keeps_stopped(ground, &before)
        && units.processes_in(unit, &before.control_group)?.is_empty()
    {
        if cx.invocation().attempt <= 1 {
            return Err(StepError::new(format!("stop {unit}"))
                .because("it is stopped and masked already, and not by this migration")
                .remedy(format!(
                    "find out who did that, perhaps a migration by another instance: a second container must not use its \
                     database; if it was you, run `systemctl unmask {unit}` and start it"
                )));
        }
        return Ok(Outcome::already_done(format!("{unit} is {} and masked", before.state_text())));
    }
    cx.record_undo(&StopUndo::Stopped(Before::of(&before)))?;
    let guarded = guard::is_read(ground, &before);
    if guarded {
        guard::raise_flag(ground, unit)?;
    }
    let bound = config.bound(&before);
    let doing = format!("stopping {unit}");
    let mut outcome = Outcome::changed(format!("{unit} was {}", before.state_text()));
    for round in 1..=MAX_STOPS {
        let stopped = with_progress(cx, &doing, bound, units.stop(unit, bound)).await?;
        outcome = outcome.and(format!(
            "stopped in {:.1} s, no process left in {}",
            stopped.took.as_secs_f64(),
            shown_group(&before)
        ));
        if guarded {
            units.link_mask(unit).await?;
        } else {
            units.mask(unit).await?;
        }
        let now = units.status(unit).await?;
        if now.is_inactive() {
            break;
        }
        // Between the stop and the mask somebody can have started it.
        cx.warn(format!(
            "{unit} was started again while it was being masked ({}); it is stopped again",
            now.state_text()
        ));
        if round == MAX_STOPS {
            return Err(StepError::new(format!("keep {unit} stopped"))
                .because(format!("something has started it {MAX_STOPS} times; it is {}", now.state_text()))
                .remedy(format!("see `journalctl -u {unit}` for who starts it")));
        }
    }
    let now = settled(ground, &units, unit).await?;
    Ok(outcome.and(format!("masked: {} is {}", now.unit, now.unit_file_state)))
}

/// The unit, if it is inactive, masked and empty.
async fn settled(ground: &Ground, units: &Units, unit: &str) -> Result<UnitStatus, StepError> {
    let now = units.status(unit).await?;
    let wrong = if !now.is_inactive() {
        format!("it is {}", now.state_text())
    } else if !guard::keeps_stopped(ground, &now) {
        format!("it is not masked, but {} and {}", now.load_state, now.unit_file_state)
    } else if now.main_pid != 0 {
        format!("its main process {} still runs", now.main_pid)
    } else {
        let left = units.processes_in(unit, &now.control_group)?;
        if left.is_empty() {
            return Ok(now);
        }
        format!("these of its processes still run: {}", listed(&left))
    };
    Err(StepError::new(format!("find {unit} stopped and masked"))
        .because(wrong)
        .remedy(format!("see `systemctl status {unit}`")))
}

fn shown_group(status: &UnitStatus) -> &str {
    if status.control_group.is_empty() { "its control group" } else { &status.control_group }
}

/// See [`Step::verify`].
///
/// # Errors
/// When it cannot be told.
pub async fn verify(ground: &Ground, config: &StopConfig, cx: &Context) -> Result<Verdict, StepError> {
    let unit = config.unit(cx);
    let units = ground.units().await?;
    let now = match settled(ground, &units, unit).await {
        Ok(now) => now,
        Err(error) if error.tried.starts_with("find ") => {
            return Ok(Verdict::broken(format!("{unit}: {}", error.why), error.remedy));
        }
        Err(error) => return Err(error),
    };
    let left = ground.left_of(&cx.source().install_dir)?;
    if !left.is_empty() {
        return Ok(Verdict::broken(
            format!(
                "{unit} is stopped, but these of Connect's programs still run on this host: {}",
                listed(&left)
            ),
            "end them: two Connects on one database damage it",
        ));
    }
    Ok(Verdict::holds(format!(
        "{unit} is {} and masked, and no program of {} runs on this host",
        now.state_text(),
        cx.source().install_dir.display()
    )))
}

/// See [`Step::finalize`].
///
/// # Errors
/// When the drop-in cannot be removed, or systemd does not answer.
pub async fn finalize(ground: &Ground, config: &StopConfig, cx: &Context) -> Result<Outcome, StepError> {
    let unit = config.unit(cx);
    let units = ground.units().await?;
    Ok(match guard::remove(ground, &units, unit).await? {
        true => Outcome::changed(format!("{unit} stays masked; the drop-in of the migration is removed")),
        false => Outcome::already_done(format!("{unit} stays masked")),
    })
}
