//! What starting the container means, whatever the engine.

use crate::health::{Expected, Healthy, Unwell};
use crate::world::Subject;
use connect_migrator_connect::api::Api;
use connect_migrator_connect::installation::Installation;
use connect_migrator_connect::version::Version;
use connect_migrator_sdk::{Context, Outcome, StepError, Target, Verdict};
use std::time::Duration;

/// How long the source may take to show that it still answers; it should not.
const SOURCE_PING_MILLIS: u64 = 1_000;
/// No `verify` waits longer for a server that was just started: it has a time-out of its own, 5 minutes by default.
pub const YOUNG_PATIENCE_SECONDS: u64 = 240;

/// What was written down about a container when it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// Its image, pinned.
    pub image: String,
    /// The version that the image says it has.
    pub version: Option<Version>,
    /// The version that runs on this host.
    pub source: Option<Version>,
}

impl Made {
    /// From its labels, by their names without prefix.
    #[must_use]
    pub fn from_labels(label: impl Fn(&str) -> String) -> Self {
        Made {
            image: label("image"),
            version: Version::find(&label("version")),
            source: Version::find(&label("source-version")),
        }
    }
}

/// What is expected of the server in the container.
///
/// # Errors
/// When the key is not stored, or the address cannot be used.
pub fn expected(
    subject: &Subject<'_>,
    cx: &Context,
    installation: &Installation,
    container: &Made,
) -> Result<Expected, StepError> {
    let key = subject.source.api_key.as_ref().map(|key| cx.secret(key)).transpose()?;
    let public = subject.source.url.as_deref().or(installation.address.as_deref());
    Expected::new(subject, public, key, container.source, container.version)
}

/// The installation's files only: quick enough for the window.
///
/// # Errors
/// When they cannot be read.
pub fn installation(subject: &Subject<'_>) -> Result<Installation, StepError> {
    subject.installation_files().map_err(|error| StepError::new("read the installation").because(error))
}

/// What a start achieved.
#[must_use]
pub fn outcome(subject: &Subject<'_>, cx: &Context, made: &Made, healthy: &Healthy, done: bool) -> Outcome {
    let name = &subject.names.container;
    let version = healthy.version.map(|v| v.to_string()).unwrap_or_default();
    let target = Target {
        engine: subject.kind().name().into(),
        name: name.clone(),
        hostname: subject.names.hostname.clone(),
        address: subject.address(),
        version: version.clone(),
        image: made.image.clone(),
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
///
/// # Errors
/// When the source could run.
pub async fn source_is_off(subject: &Subject<'_>, installation: &Installation) -> Result<(), StepError> {
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

/// How long a server may answer nothing until it counts as broken: `answer-timeout`, and what is left of `start-timeout` when it was
/// started only `age` ago, by a reboot or because it had ended.
#[must_use]
pub fn patience(subject: &Subject<'_>, age: Option<Duration>) -> Duration {
    let start = subject.settings.start_timeout.duration().min(Duration::from_secs(YOUNG_PATIENCE_SECONDS));
    let left = age.map_or(Duration::ZERO, |age| start.saturating_sub(age));
    left.max(subject.settings.answer_timeout.duration())
}

/// Whether what must hold whatever the engine still does: the image, the mask, and that the server answers within `limit`. `logs` is
/// how one reads what it printed.
///
/// # Errors
/// When it cannot be told.
pub async fn verify(
    subject: &Subject<'_>,
    cx: &Context,
    made: &Made,
    limit: Duration,
    logs: &str,
) -> Result<Verdict, StepError> {
    let name = &subject.names.container;
    if let Some(target) = cx.fact::<Target>(Target::KEY)?
        && target.name == *name
        && target.image != made.image
    {
        return Ok(Verdict::broken(
            format!("the container {name} is made of {}, and was made of {}", made.image, target.image),
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
    match expected(subject, cx, &installation, made)?.look_patiently(subject, limit).await {
        Ok(healthy) => Ok(Verdict::holds(format!(
            "container {name} runs, Connect {} answers at {}",
            healthy.version.map(|v| v.to_string()).unwrap_or_default(),
            subject.address()
        ))),
        Err(Unwell::NotYet(why)) => Ok(Verdict::broken(
            format!("Connect in the container {name} does not answer: {why}"),
            format!("see {logs}; roll back if it does not come back"),
        )),
        Err(Unwell::Wrong(error)) => Ok(Verdict::broken(error.why, error.remedy)),
    }
}
