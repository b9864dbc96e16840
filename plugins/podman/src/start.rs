//! Starting the service, and seeing that it is the new server.

use crate::ground::{Ground, handed_over, unit};
use crate::systemd::{Status, Units};
use crate::undo::{Own, Undo};
use crate::unit::{Standing, standing};
use connect_migrator_container::files;
use connect_migrator_container::health::{self, Runner, State};
use connect_migrator_container::start;
use connect_migrator_container::world::Subject;
use connect_migrator_sdk::{Context, Outcome, Probe, StepError, Verdict};
use std::time::{Duration, Instant};

/// What starts the service along with the machine.
const BOOT_TARGET: &str = "multi-user.target";
/// What a start may take longer than systemd gives it.
const START_MARGIN_SECONDS: u64 = 30;
/// How often a service that is being started is looked at.
const STARTING_POLL_MILLIS: u64 = 250;

/// The service, as systemd sees it.
struct InSystemd<'a, S> {
    systemd: &'a S,
    unit: &'a str,
}

impl<S: Units> Runner for InSystemd<'_, S> {
    async fn state(&self) -> Result<State, StepError> {
        Ok(state(&self.systemd.status(self.unit).await?))
    }

    async fn last_lines(&self) -> Vec<String> {
        self.systemd.last_lines(self.unit).await
    }
}

fn state(status: &Status) -> State {
    let on_its_way = status.active == "activating" && status.sub != "auto-restart";
    if (status.is_active() || on_its_way) && status.restarts == 0 {
        return State::Runs;
    }
    let mut why = format!("it ended with status {}", status.exit);
    match status.result.as_str() {
        "oom-kill" => why.push_str(" (out of memory)"),
        "" | "success" | "exit-code" => {}
        other => why.push_str(&format!(" (`{other}`)")),
    }
    if status.restarts > 0 {
        why.push_str(", and systemd has started it again");
    }
    State::Ended(why)
}

fn ours(subject: &Subject<'_>) -> Option<Standing> {
    standing(subject).filter(|standing| standing.ours)
}

/// Starts the service and waits until it is healthy.
///
/// # Errors
/// When it does not become healthy, or the source could still run.
pub async fn apply<S: Units>(
    ground: &Ground<S>,
    subject: &Subject<'_>,
    cx: &Context,
) -> Result<Outcome, StepError> {
    let unit = unit(subject);
    let standing = ours(subject).ok_or_else(|| {
        StepError::new(format!("start {unit}"))
            .because("the unit that was prepared is gone")
            .remedy("roll back, and start the migration again")
    })?;
    let installation = start::installation(subject)?;
    let expected = start::expected(subject, cx, &installation, &standing.made)?;
    let handed_over = handed_over(subject);
    let running = ground.systemd.status(&unit).await?.is_active();
    let done = running && handed_over.exists();
    cx.record_undo(&Undo::Own(Own::Started { unit: unit.clone() }))?;
    if !running {
        start::source_is_off(subject, &installation).await?;
    }
    let text = format!("The migration {} handed over to {unit}.\n", subject.migration);
    files::write(&handed_over, text.as_bytes(), 0o600)?;
    let runner = InSystemd { systemd: &ground.systemd, unit: &unit };
    if !running {
        let limit = subject.settings.start_timeout.duration() + Duration::from_secs(START_MARGIN_SECONDS);
        if let Err(error) = ground.systemd.start(&unit, limit).await {
            return Err(refused(subject, &runner, error).await);
        }
    }
    let healthy = health::wait(subject, cx, &runner, &expected).await?;
    Ok(start::outcome(subject, cx, &standing.made, &healthy, done))
}

async fn refused<S: Units>(subject: &Subject<'_>, runner: &InSystemd<'_, S>, error: StepError) -> StepError {
    let lines = health::log_of(subject, runner).await;
    let remedy = if lines.contains("is not masked") || lines.contains("is not the data directory") {
        "do what the last line says"
    } else if lines.contains("address already in use") {
        "another program took the port of `publish`; end it or choose another"
    } else if lines.contains("no such file or directory") {
        "a path that the container needs is not there: see that it is spelled right in the configuration or in `mounts`"
    } else {
        error.remedy.as_str()
    };
    StepError::new(format!("start {}", runner.unit)).because(format!("{}{lines}", error.why)).remedy(remedy)
}

/// Whether the service is the server that `apply` made it.
///
/// # Errors
/// When it cannot be told.
pub async fn verify<S: Units>(
    ground: &Ground<S>,
    subject: &Subject<'_>,
    cx: &Context,
) -> Result<Verdict, StepError> {
    let unit = unit(subject);
    let Some(standing) = ours(subject) else {
        return Ok(Verdict::broken(format!("the file of {unit} is gone"), "roll back"));
    };
    let deadline = Instant::now() + start::patience(subject, Some(Duration::ZERO));
    let mut status = ground.systemd.status(&unit).await?;
    let restarts = status.restarts;
    // After a reboot, or while systemd starts again what has ended; what ends once more will not come.
    while status.active == "activating" && status.restarts <= restarts + 1 && Instant::now() < deadline {
        if cx.is_cancelled() {
            return Err(StepError::cancelled(format!("see {unit} start")));
        }
        tokio::time::sleep(Duration::from_millis(STARTING_POLL_MILLIS)).await;
        status = ground.systemd.status(&unit).await?;
    }
    let limit = start::patience(subject, status.age);
    if !status.is_active() {
        return Ok(Verdict::broken(
            format!("{unit} is {} ({})", status.active, status.sub),
            format!("see `journalctl -u {unit}`; roll back if it cannot be started"),
        ));
    }
    if !handed_over(subject).exists() || !status.wanted_by.iter().any(|by| by == BOOT_TARGET) {
        return Ok(Verdict::broken(
            format!("{unit} would not come up with the machine"),
            format!(
                "see that {} is there and that {} has its `[Install]` section; `systemctl daemon-reload`",
                handed_over(subject).display(),
                standing.path.display()
            ),
        ));
    }
    start::verify(subject, cx, &standing.made, limit, &format!("`journalctl -u {unit}`")).await
}

/// Whether a start that was cut off was carried out.
///
/// # Errors
/// When systemd cannot be asked.
pub async fn probe<S: Units>(
    ground: &Ground<S>,
    subject: &Subject<'_>,
    cx: &Context,
) -> Result<Probe, StepError> {
    let Some(standing) = ours(subject) else { return Ok(Probe::RunAgain) };
    let status = ground.systemd.status(&unit(subject)).await?;
    if !status.is_active() || !handed_over(subject).exists() {
        return Ok(Probe::RunAgain);
    }
    let installation = start::installation(subject)?;
    match start::expected(subject, cx, &installation, &standing.made)?.look(subject).await {
        Ok(healthy) => {
            Ok(Probe::Done { outcome: start::outcome(subject, cx, &standing.made, &healthy, true) })
        }
        Err(_) => Ok(Probe::RunAgain),
    }
}
