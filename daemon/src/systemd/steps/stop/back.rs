//! The way back: the source is started again, but never beside another Connect.

use super::{Before, StopConfig, StopUndo, guard};
use crate::systemd::processes::{Process, listed};
use crate::systemd::steps::ground::{Ground, with_progress};
use crate::systemd::units::Units;
use connect_migrator_connect::installation::Installation;
use connect_migrator_sdk::{Context, Op, Progress, StepError, Undone};
use std::time::{Duration, Instant};

/// How long a Connect in a container, which has just been stopped, may take to vanish.
const OTHER_GONE_SECS: u64 = 10;
/// How often it is looked for meanwhile.
const OTHER_POLL_MILLIS: u64 = 100;
/// How long the unit may take to start when it sets no limit, and what is added to its own.
const START_LIMIT_SECS: u64 = 600;
/// Added to the unit's own limit for a start.
const START_MARGIN_SECS: u64 = 15;
/// How often the source is asked whether it serves.
const PING_EVERY_MILLIS: u64 = 250;
/// How long one such answer may take.
const PING_TIMEOUT_SECS: u64 = 5;
/// What Connect answers when its licence does not let it serve.
const PAYMENT_REQUIRED: u16 = 402;

/// See [`Step::rollback`](connect_migrator_sdk::Step::rollback).
///
/// # Errors
/// When another Connect runs, when the unit cannot be unmasked or started, or when Connect does not answer in time.
pub async fn rollback(
    ground: &Ground,
    config: &StopConfig,
    cx: &Context,
    of: Op,
    undo: Vec<StopUndo>,
) -> Result<Undone, StepError> {
    // A call that was cut off and run again has recorded twice; the first record knows the unit as it was.
    let guarded = undo.iter().find_map(|undo| match undo {
        StopUndo::Guarded { unit } => Some(unit.clone()),
        StopUndo::Stopped(_) => None,
    });
    let stopped = undo.into_iter().find_map(|undo| match undo {
        StopUndo::Stopped(before) => Some(before),
        StopUndo::Guarded { .. } => None,
    });
    match (of, guarded, stopped) {
        (Op::Prepare, Some(unit), _) => {
            let units = ground.units().await?;
            guard::remove(ground, &units, &unit).await?;
            Ok(Undone::restored(format!("the drop-in of the migration is removed from {unit}")))
        }
        (Op::Apply, _, Some(before)) => restore(ground, config, cx, before).await,
        _ => Ok(Undone::restored("nothing was stopped")),
    }
}

async fn restore(
    ground: &Ground,
    config: &StopConfig,
    cx: &Context,
    before: Before,
) -> Result<Undone, StepError> {
    let unit = before.unit.as_str();
    let units = ground.units().await?;
    if before.was_active() {
        // Before the mask comes off: a reboot must not start it either.
        no_other_connect(ground, cx, unit).await?;
    }
    guard::lower_flag(ground, unit)?;
    let mut undone = definition(&units, &before).await?;
    if !before.was_active() {
        return Ok(undone.but(format!(
            "{unit} did not run when it was stopped ({}) and is left so; `systemctl start {unit}` if it should",
            before.active_state
        )));
    }
    let now = units.status(unit).await?;
    if now.is_active() {
        undone = undone.and(format!("{unit} is {}", now.state_text()));
    } else {
        let own =
            now.start_timeout.map_or(Duration::ZERO, |own| own + Duration::from_secs(START_MARGIN_SECS));
        let bound = own.max(Duration::from_secs(START_LIMIT_SECS));
        let started = Instant::now();
        with_progress(cx, &format!("starting {unit}"), bound, units.start(unit, bound)).await?;
        undone = undone.and(format!("{unit} started in {:.1} s", started.elapsed().as_secs_f64()));
    }
    answers(&units, config, cx, unit, undone).await
}

/// Takes the mask off and enables the unit if it was enabled.
async fn definition(units: &Units, before: &Before) -> Result<Undone, StepError> {
    let unit = before.unit.as_str();
    let mut undone = Undone { evidence: Vec::new(), left: Vec::new() };
    let mut now = units.status(unit).await?;
    // On the disk, or only in memory: a crash can lie between the two.
    if (now.unit_file_state == "masked" || now.load_state == "masked") && !before.was_masked() {
        units.unlink_mask(unit).await?;
        if now.load_state == "masked" {
            units.reload_unit_files().await?;
        }
        now = units.status(unit).await?;
        if now.load_state == "masked" {
            return Err(StepError::new(format!("unmask {unit}"))
                .because("it is still masked, perhaps for this boot only")
                .remedy(format!("run `systemctl unmask --runtime {unit}`, then roll back again")));
        }
        undone = undone.and(format!("{unit} is no longer masked"));
    }
    // A mask leaves the links that enable a unit; somebody else may have removed them.
    if before.was_enabled() && !now.is_enabled() {
        units.enable(unit).await?;
        undone = undone.and(format!("{unit} is enabled again"));
    }
    if now.fragment_path != before.fragment_path
        && let Some(was) = &before.fragment_path
    {
        let is = now.fragment_path.map_or("nothing".into(), |path| path.display().to_string());
        undone = undone.but(format!(
            "{unit} was defined by {} and is now by {is}; see that it is the same",
            was.display()
        ));
    }
    Ok(undone)
}

/// Waits a little for a Connect in a container to vanish.
async fn no_other_connect(ground: &Ground, cx: &Context, unit: &str) -> Result<(), StepError> {
    let deadline = Instant::now() + Duration::from_secs(OTHER_GONE_SECS);
    loop {
        let others = ground.connects_in_containers(unit)?;
        if others.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(beside(unit, &others));
        }
        if cx.is_cancelled() {
            return Err(StepError::cancelled(format!("start {unit} again")));
        }
        tokio::time::sleep(Duration::from_millis(OTHER_POLL_MILLIS)).await;
    }
}

fn beside(unit: &str, others: &[Process]) -> StepError {
    StepError::new(format!("start {unit} again"))
        .because(format!("another Connect runs in a container on this host: {}", listed(others)))
        .remedy(
            "needs you: two Connects on one database damage it; stop that container, see that it is not started again, \
             and roll back again",
        )
}

/// Waits until Connect itself answers.
async fn answers(
    units: &Units,
    config: &StopConfig,
    cx: &Context,
    unit: &str,
    undone: Undone,
) -> Result<Undone, StepError> {
    let source = cx.source().clone();
    // Reading the installation runs `connect --version`, which blocks.
    let read = tokio::task::spawn_blocking(move || Installation::read(&source)).await;
    let url = match read {
        Ok(Ok(installation)) => format!("{}/__ping__", installation.local_url()),
        Ok(Err(error)) => {
            return Ok(
                undone.but(format!("{unit} is active, but whether Connect serves is not known: {error}"))
            );
        }
        Err(error) => return Err(StepError::new("read the installation of Connect").because(error)),
    };
    let client = client().map_err(|error| StepError::new(format!("ask {url}")).because_of(&error))?;
    let started = Instant::now();
    let limit = config.ping_timeout.0;
    loop {
        let last = match client.get(&url).send().await {
            Ok(answer) if answer.status().is_success() => {
                return Ok(undone.and(format!(
                    "Connect answers at {url}, {:.1} s after its start",
                    started.elapsed().as_secs_f64()
                )));
            }
            Ok(answer) if answer.status().as_u16() == PAYMENT_REQUIRED => {
                return Ok(undone
                    .and(format!("Connect answers at {url}"))
                    .but("Connect answers 402: its licence does not let it serve; activate the licence on this host again"));
            }
            Ok(answer) => format!("it answers {}", answer.status()),
            Err(error) => {
                let mut text = error.to_string();
                let mut cause = std::error::Error::source(&error);
                while let Some(deeper) = cause {
                    text = deeper.to_string();
                    cause = deeper.source();
                }
                text
            }
        };
        let failed = |why: String| {
            StepError::new(format!("see Connect answer at {url}")).because(why).remedy(format!(
                "see `journalctl -u {unit}` and Connect's log; once it serves, roll back again"
            ))
        };
        let now = units.status(unit).await?;
        if now.is_inactive() {
            return Err(failed(format!("{unit} has ended: {}", now.state_text())));
        }
        if started.elapsed() >= limit {
            return Err(failed(format!("not within {} s; at last {last}", limit.as_secs())));
        }
        if cx.is_cancelled() {
            return Err(StepError::cancelled(format!("see Connect answer at {url}")));
        }
        cx.progress(&Progress {
            doing: format!("waiting for Connect to answer at {url}"),
            done: Some(started.elapsed().as_secs()),
            total: Some(limit.as_secs()),
            unit: Some("s".into()),
        });
        tokio::time::sleep(Duration::from_millis(PING_EVERY_MILLIS)).await;
    }
}

/// Asks this machine only. A certificate is made for the name that users know and not for this machine's own address: only
/// whether somebody answers is of interest, and nothing secret is sent.
fn client() -> reqwest::Result<reqwest::Client> {
    // The process may have one already; either is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(Duration::from_secs(PING_TIMEOUT_SECS))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .danger_accept_invalid_certs(true)
        .build()
}
