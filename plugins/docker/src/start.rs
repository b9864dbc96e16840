//! Starting the container, and seeing that it is the new server.

use crate::container_spec::mask_guard;
use crate::gate::{self, SHELL};
use crate::undo::{Own, Undo};
use bollard::models::{ContainerInspectResponse, RestartPolicyNameEnum};
use connect_migrator_container::engine::{Engine, EngineError};
use connect_migrator_container::files;
use connect_migrator_container::health::{self, Runner, State};
use connect_migrator_container::spec::{Owner, owner};
use connect_migrator_container::start::{self, Made};
use connect_migrator_container::world::{LABEL_PREFIX, Subject};
use connect_migrator_sdk::{Context, Outcome, Probe, StepError, Verdict};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a container that is being started again is looked at.
const STARTING_POLL_MILLIS: u64 = 250;
/// What the engine does with the container once it is the server: it comes up with the machine, and after a crash.
const POLICY: RestartPolicyNameEnum = RestartPolicyNameEnum::UNLESS_STOPPED;

/// Our container as it is now.
struct Ours {
    id: String,
    running: bool,
    /// The engine is about to start it again.
    restarting: bool,
    /// When it was started last, as the engine writes it.
    started_at: Option<String>,
    policy: Option<RestartPolicyNameEnum>,
    made: Made,
}

async fn ours(subject: &Subject<'_>, engine: &Engine) -> Result<Option<Ours>, EngineError> {
    let Some(container) = engine.container(&subject.names.container).await? else { return Ok(None) };
    let labels = container.config.as_ref().and_then(|config| config.labels.as_ref());
    if owner(subject, labels) != Owner::Ours {
        return Ok(None);
    }
    let label = |name: &str| {
        labels.and_then(|l| l.get(&format!("{LABEL_PREFIX}{name}")).cloned()).unwrap_or_default()
    };
    let ContainerInspectResponse { id, state, host_config, .. } = &container;
    Ok(Some(Ours {
        id: id.clone().unwrap_or_default(),
        running: state.as_ref().and_then(|state| state.running).unwrap_or(false),
        restarting: state.as_ref().and_then(|state| state.restarting).unwrap_or(false),
        started_at: state.as_ref().and_then(|state| state.started_at.clone()),
        policy: host_config.as_ref().and_then(|config| config.restart_policy.as_ref()?.name),
        made: Made::from_labels(label),
    }))
}

/// How long ago that was; `None` for what is no time, and for the future: clocks are set.
fn age_of(started_at: &str) -> Option<Duration> {
    let started: jiff::Timestamp = started_at.parse().ok()?;
    Duration::try_from(jiff::Timestamp::now().duration_since(started)).ok()
}

/// The container, as the engine sees it.
struct InEngine<'a> {
    engine: &'a Engine,
    name: &'a str,
    /// When the run began that is to become the server. An engine that died starts the container again and counts no restart.
    began: Option<String>,
}

impl Runner for InEngine<'_> {
    async fn state(&self) -> Result<State, StepError> {
        let container =
            self.engine.container(self.name).await.map_err(EngineError::step)?.unwrap_or_default();
        let state = container.state.unwrap_or_default();
        let again = container.restart_count.unwrap_or_default() > 0 || state.started_at != self.began;
        if state.running == Some(true) && !again {
            return Ok(State::Runs);
        }
        let mut why = format!("it ended with status {}", state.exit_code.unwrap_or_default());
        if again {
            why.push_str(", and the engine started it again");
        }
        if state.oom_killed == Some(true) {
            why.push_str(" (out of memory)");
        }
        if let Some(error) = state.error.as_deref().filter(|error| !error.is_empty()) {
            why.push_str(&format!(" ({error})"));
        }
        Ok(State::Ended(why))
    }

    async fn last_lines(&self) -> Vec<String> {
        self.engine.last_lines(self.name).await
    }
}

/// Starts the container with Connect held back in it. Answers whether it did: an image without a shell cannot.
///
/// # Errors
/// When the engine refuses.
pub async fn hold(subject: &Subject<'_>, cx: &Context, engine: &Engine) -> Result<bool, StepError> {
    let name = &subject.names.container;
    let container = ours(subject, engine).await.map_err(EngineError::step)?.ok_or_else(|| {
        StepError::new(format!("start the container {name}"))
            .because("it is gone although it was just created")
    })?;
    cx.record_undo(&Undo::Own(Own::Started { name: name.clone(), id: container.id.clone() }))?;
    // The engine may start it this once although the source's unit is not masked: Connect waits.
    let guard = mask_guard(subject);
    files::link(&guard, Path::new("/dev/null"))?;
    let started = start_with_policy(subject, engine, &container).await;
    files::link(&guard, &subject.masked_unit())?;
    match started {
        Err(error) if error.why.contains(SHELL) => {
            cx.warn(format!("Connect cannot be held back, the image has no {SHELL}: {}", error.why));
            Ok(false)
        }
        started => started.map(|()| true),
    }
}

async fn start_with_policy(
    subject: &Subject<'_>,
    engine: &Engine,
    container: &Ours,
) -> Result<(), StepError> {
    let name = &subject.names.container;
    // Before the start: of a container that runs the engine would set all limits anew, and users would wait for it.
    if container.policy != Some(POLICY) {
        engine.restart_policy(name, POLICY).await.map_err(EngineError::step)?;
    }
    if !container.running {
        let settings = subject.settings;
        let (start, any) = (settings.start_timeout.duration(), settings.engine_timeout.duration());
        let (limit, setting) = if start > any { (start, "start-timeout") } else { (any, "engine-timeout") };
        engine.start(name, limit, Some(setting)).await.map_err(|error| refused(subject, error))?;
    }
    Ok(())
}

/// Whether a container of this migration runs in which Connect is held back.
///
/// # Errors
/// When the engine cannot be asked.
pub async fn is_held(subject: &Subject<'_>, engine: &Engine) -> Result<bool, EngineError> {
    Ok(!gate::is_open(subject) && ours(subject, engine).await?.is_some_and(|container| container.running))
}

/// Lets Connect start in the container, which comes up with the machine from now on, and waits until it is healthy.
///
/// # Errors
/// When it does not become healthy, or the source could still run.
pub async fn apply(subject: &Subject<'_>, cx: &Context) -> Result<Outcome, StepError> {
    let name = &subject.names.container;
    let engine = subject.engine().await.map_err(EngineError::step)?;
    let container = ours(subject, &engine).await.map_err(EngineError::step)?.ok_or_else(|| {
        StepError::new(format!("start the container {name}"))
            .because("the container that was prepared is gone")
            .remedy("roll back, and start the migration again")
    })?;
    let installation = start::installation(subject)?;
    let expected = start::expected(subject, cx, &installation, &container.made)?;
    let served = container.running && gate::is_open(subject);
    let done = served && container.policy == Some(POLICY);
    cx.record_undo(&Undo::Own(Own::Started { name: name.clone(), id: container.id.clone() }))?;
    if !served {
        start::source_is_off(subject, &installation).await?;
    }
    let _knock = gate::open(subject)?;
    start_with_policy(subject, &engine, &container).await?;
    let began = if container.running {
        container.started_at
    } else {
        ours(subject, &engine).await.map_err(EngineError::step)?.and_then(|started| started.started_at)
    };
    let runner = InEngine { engine: &engine, name, began };
    let healthy = health::wait(subject, cx, &runner, &expected).await?;
    Ok(start::outcome(subject, cx, &container.made, &healthy, done))
}

fn refused(subject: &Subject<'_>, error: EngineError) -> StepError {
    let text = error.to_string();
    let told = error.step();
    let remedy = if text.contains("bind source path does not exist") {
        "a path that the container needs is not there: the data directory's storage, or the mask of the source's unit"
    } else if text.contains("port is already allocated") || text.contains("address already in use") {
        "another program took the port of `publish`; end it or choose another"
    } else if text.contains("operation not permitted") || text.contains("apparmor") {
        "the engine may not give these privileges here; try `privileges = \"sys-admin\"`"
    } else {
        &told.remedy
    };
    StepError::new(format!("start the container {}", subject.names.container))
        .because(&told.why)
        .remedy(remedy)
}

/// Whether the container is the server that `apply` made it.
///
/// # Errors
/// When it cannot be told.
pub async fn verify(subject: &Subject<'_>, cx: &Context) -> Result<Verdict, StepError> {
    let name = &subject.names.container;
    let engine = subject.engine().await.map_err(EngineError::step)?;
    let is_gone = || Ok(Verdict::broken(format!("the container {name} is gone"), "roll back"));
    let Some(mut container) = ours(subject, &engine).await.map_err(EngineError::step)? else {
        return is_gone();
    };
    let deadline = Instant::now() + start::patience(subject, Some(Duration::ZERO));
    while container.restarting && Instant::now() < deadline {
        if cx.is_cancelled() {
            return Err(StepError::cancelled(format!("see the container {name} start")));
        }
        tokio::time::sleep(Duration::from_millis(STARTING_POLL_MILLIS)).await;
        let Some(now) = ours(subject, &engine).await.map_err(EngineError::step)? else { return is_gone() };
        container = now;
    }
    if !container.running {
        return Ok(Verdict::broken(
            format!("the container {name} does not run"),
            format!("see `docker logs {name}`; roll back if it cannot be started"),
        ));
    }
    if container.policy != Some(POLICY) {
        return Ok(Verdict::broken(
            format!("the container {name} would not come up with the machine"),
            format!("`docker update --restart unless-stopped {name}`"),
        ));
    }
    let limit = start::patience(subject, container.started_at.as_deref().and_then(age_of));
    start::verify(subject, cx, &container.made, limit, &format!("`docker logs {name}`")).await
}

/// Whether a start that was cut off was carried out.
///
/// # Errors
/// When the engine cannot be asked.
pub async fn probe(subject: &Subject<'_>, cx: &Context) -> Result<Probe, StepError> {
    let engine = subject.engine_within().await.map_err(EngineError::step)?;
    let Some(container) = ours(subject, &engine).await.map_err(EngineError::step)? else {
        return Ok(Probe::RunAgain);
    };
    if !container.running || container.policy != Some(POLICY) {
        return Ok(Probe::RunAgain);
    }
    let installation = start::installation(subject)?;
    match start::expected(subject, cx, &installation, &container.made)?.look(subject).await {
        Ok(healthy) => {
            Ok(Probe::Done { outcome: start::outcome(subject, cx, &container.made, &healthy, true) })
        }
        Err(_) => Ok(Probe::RunAgain),
    }
}
