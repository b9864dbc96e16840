//! Starting the container, and seeing that it is the new server.

use crate::container_spec::{Owner, owner};
use crate::engine::{Engine, EngineError};
use crate::health::{self, Expected, Healthy};
use crate::undo::Undo;
use crate::world::{LABEL_PREFIX, Subject};
use bollard::models::{ContainerInspectResponse, RestartPolicyNameEnum};
use connect_migrator_connect::api::Api;
use connect_migrator_connect::installation::Installation;
use connect_migrator_connect::version::Version;
use connect_migrator_sdk::{Context, Outcome, Probe, StepError, Target, Verdict};
use std::time::Duration;

/// How long the source may take to show that it still answers; it should not.
const SOURCE_PING_MILLIS: u64 = 1_000;
/// What the engine does with the container once it is the server: it comes up with the machine, and after a crash.
const POLICY: RestartPolicyNameEnum = RestartPolicyNameEnum::UNLESS_STOPPED;

/// Our container as it is now.
struct Ours {
    id: String,
    running: bool,
    policy: Option<RestartPolicyNameEnum>,
    image: String,
    version: Option<Version>,
    source: Option<Version>,
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
        policy: host_config.as_ref().and_then(|config| config.restart_policy.as_ref()?.name),
        image: label("image"),
        version: Version::find(&label("version")),
        source: Version::find(&label("source-version")),
    }))
}

fn expected(
    subject: &Subject<'_>,
    cx: &Context,
    installation: &Installation,
    container: &Ours,
) -> Result<Expected, StepError> {
    let key = subject.source.api_key.as_ref().map(|key| cx.secret(key)).transpose()?;
    let public = subject.source.url.as_deref().or(installation.address.as_deref());
    Expected::new(subject, public, key, container.source, container.version)
}

fn installation(subject: &Subject<'_>) -> Result<Installation, StepError> {
    subject.installation_files().map_err(|error| StepError::new("read the installation").because(error))
}

/// Starts the container, waits until it is healthy, and lets it come up with the machine from now on.
///
/// # Errors
/// When it does not become healthy, or the source could still run.
pub async fn apply(subject: &Subject<'_>, cx: &Context) -> Result<Outcome, StepError> {
    let name = &subject.names.container;
    let engine = Engine::connect(&subject.settings.socket).await.map_err(EngineError::step)?;
    let container = ours(subject, &engine).await.map_err(EngineError::step)?.ok_or_else(|| {
        StepError::new(format!("start the container {name}"))
            .because("the container that was prepared is gone")
            .remedy("roll back, and start the migration again")
    })?;
    let installation = installation(subject)?;
    let expected = expected(subject, cx, &installation, &container)?;
    let done = container.running && container.policy == Some(POLICY);
    cx.record_undo(&Undo::Started { name: name.clone(), id: container.id.clone() })?;
    if !container.running {
        source_is_off(subject, &installation).await?;
        engine.start(name).await.map_err(|error| refused(subject, error))?;
    }
    let healthy = health::wait(subject, cx, &engine, &expected).await?;
    if container.policy != Some(POLICY) {
        engine.restart_policy(name, POLICY).await.map_err(EngineError::step)?;
    }
    Ok(outcome(subject, cx, &container, &healthy, done))
}

fn outcome(subject: &Subject<'_>, cx: &Context, container: &Ours, healthy: &Healthy, done: bool) -> Outcome {
    let name = &subject.names.container;
    let version = healthy.version.map(|v| v.to_string()).unwrap_or_default();
    let target = Target {
        engine: "docker".into(),
        name: name.clone(),
        hostname: subject.names.hostname.clone(),
        address: subject.address(),
        version: version.clone(),
        image: container.image.clone(),
    };
    let answers = if healthy.reported {
        format!("Connect {version} answers at {}", target.address)
    } else {
        cx.warn("the server does not tell its version without a key; that of its image is taken for it");
        format!(
            "Connect answers at {} and does not tell its version; its image says `{version}`",
            target.address
        )
    };
    let outcome = if done {
        Outcome::already_done(format!("container {name} runs"))
    } else {
        Outcome::changed(format!("container {name} started; it comes up with the machine"))
    };
    outcome.and(answers).fact(Target::KEY, &target)
}

/// Two servers on one database must never be: the last look before the start.
async fn source_is_off(subject: &Subject<'_>, installation: &Installation) -> Result<(), StepError> {
    let unit = &subject.source.unit;
    let cannot = || StepError::new(format!("start the container {}", subject.names.container));
    if !subject.source_is_masked() {
        return Err(cannot()
            .because(format!(
                "{unit} is not masked ({} does not lead to /dev/null), so that anything could start it",
                subject.masked_unit().display()
            ))
            .remedy("let a step `uses = \"systemd/stop\"` stand before this one"));
    }
    let url = installation.local_url();
    let api = Api::new(&url, None).map_err(|error| cannot().because(error))?;
    if api.ping_within(Duration::from_millis(SOURCE_PING_MILLIS)).await.is_ok() {
        return Err(cannot().because(format!("a Connect still answers at {url}")).remedy(format!(
            "see `systemctl status {unit}`, and end it; two servers would use one database"
        )));
    }
    Ok(())
}

fn refused(subject: &Subject<'_>, error: EngineError) -> StepError {
    let text = error.to_string();
    let remedy = if text.contains("bind source path does not exist") {
        "a path that the container needs is not there: the data directory's storage, or the mask of the source's unit"
    } else if text.contains("port is already allocated") || text.contains("address already in use") {
        "another program took the port of `publish`; end it or choose another"
    } else if text.contains("operation not permitted") || text.contains("apparmor") {
        "the engine may not give these privileges here; try `privileges = \"sys-admin\"`"
    } else {
        "see `journalctl -u docker`"
    };
    StepError::new(format!("start the container {}", subject.names.container))
        .because(error.step().why)
        .remedy(remedy)
}

/// Whether the container is the server that `apply` made it.
///
/// # Errors
/// When it cannot be told.
pub async fn verify(subject: &Subject<'_>, cx: &Context) -> Result<Verdict, StepError> {
    let name = &subject.names.container;
    let engine = Engine::connect(&subject.settings.socket).await.map_err(EngineError::step)?;
    let Some(container) = ours(subject, &engine).await.map_err(EngineError::step)? else {
        return Ok(Verdict::broken(format!("the container {name} is gone"), "roll back"));
    };
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
    if let Some(target) = cx.fact::<Target>(Target::KEY)?
        && target.name == *name
        && target.image != container.image
    {
        return Ok(Verdict::broken(
            format!("the container {name} is made of {}, and was made of {}", container.image, target.image),
            "find out who replaced it; roll back if in doubt",
        ));
    }
    if !subject.source_is_masked() {
        return Ok(Verdict::broken(
            format!(
                "{} is no longer masked, so that two servers could run on one database",
                subject.source.unit
            ),
            format!("`systemctl mask {}`", subject.source.unit),
        ));
    }
    let installation = installation(subject)?;
    match expected(subject, cx, &installation, &container)?.look(subject).await {
        Ok(healthy) => Ok(Verdict::holds(format!(
            "container {name} runs, Connect {} answers at {}",
            healthy.version.map(|v| v.to_string()).unwrap_or_default(),
            subject.address()
        ))),
        Err(health::Unwell::NotYet(why)) => Ok(Verdict::broken(
            format!("Connect in the container {name} does not answer: {why}"),
            format!("see `docker logs {name}`; roll back if it does not come back"),
        )),
        Err(health::Unwell::Wrong(error)) => Ok(Verdict::broken(error.why, error.remedy)),
    }
}

/// Whether a start that was cut off was carried out.
///
/// # Errors
/// When the engine cannot be asked.
pub async fn probe(subject: &Subject<'_>, cx: &Context) -> Result<Probe, StepError> {
    let limit = subject.settings.engine_timeout.duration();
    let engine = Engine::connect_within(&subject.settings.socket, limit).await.map_err(EngineError::step)?;
    let Some(container) = ours(subject, &engine).await.map_err(EngineError::step)? else {
        return Ok(Probe::RunAgain);
    };
    if !container.running || container.policy != Some(POLICY) {
        return Ok(Probe::RunAgain);
    }
    let installation = installation(subject)?;
    match expected(subject, cx, &installation, &container)?.look(subject).await {
        Ok(healthy) => Ok(Probe::Done { outcome: outcome(subject, cx, &container, &healthy, true) }),
        Err(_) => Ok(Probe::RunAgain),
    }
}
