//! Everything that can be done while Connect still serves: the image, the container's folder, the container itself.

use crate::container_spec::{self, Hold, mask_guard};
use crate::{gate, ordering, start};
use connect_migrator_container::check;
use connect_migrator_container::engine::{Engine, EngineError};
use connect_migrator_container::spec::Parts;
use connect_migrator_container::stage::{self, HadImage, blocked};
use connect_migrator_container::undo::Undo as Shared;
use connect_migrator_container::world::Subject;
use connect_migrator_container::{files, plan};
use connect_migrator_sdk::{Context, Outcome, StepError};
use std::path::Path;
use std::time::Duration;

/// How long the shell that waits may take to end; it does so at once.
const HELD_STOP_SECONDS: u64 = 5;

/// Pulls, derives, writes and creates.
///
/// # Errors
/// When one of these cannot be done; rollback undoes the others.
pub async fn prepare(subject: &Subject<'_>, cx: &Context) -> Result<Outcome, StepError> {
    let installation = subject.installation().map_err(|error| blocked(&check::unreadable(&error)))?;
    let engine = subject.engine().await.map_err(EngineError::step)?;
    let name = &subject.names.container;
    if start::is_held(subject, &engine).await.map_err(EngineError::step)? {
        // Of a try that was cut off. Only a shell waits in it.
        engine.stop(name, Duration::from_secs(HELD_STOP_SECONDS)).await.map_err(EngineError::step)?;
    }
    stage::settle_name(subject, &engine, name).await?;
    let image = HadImage::get(subject, cx, &engine, &installation).await?;
    let derived = stage::derive(subject, &installation, &image)?;

    stage::write_folder(subject, cx, &derived)?;
    let data_guard = stage::write_data_guard(subject, cx, &installation)?;
    let ordered = ordering::write(subject, cx, &installation)?;
    let ids = stage::write_ids(subject, cx, &engine, &installation, &image).await?;

    let security = engine.security_options().await.map_err(EngineError::step)?;
    let parts = Parts {
        image: &image.image,
        version: image.version.map(|v| v.to_string()),
        source_version: installation.version.map(|v| v.to_string()),
        derived: &derived,
        data_guard,
        licences: &subject.licences(),
        security: &security,
        ids,
        volumes: &image.volumes(),
    };
    let mut hold = Hold::of(subject, &installation);
    create(subject, cx, &engine, &parts, hold).await?;
    if hold == Hold::AtTheGate && !start::hold(subject, cx, &engine).await? {
        hold = Hold::Not;
        engine.remove(name).await.map_err(EngineError::step)?;
        files::remove_folder(&gate::folder(subject))?;
        create(subject, cx, &engine, &parts, hold).await?;
    }
    let ready = match hold {
        Hold::AtTheGate => format!("container {name} started, Connect is held back in it"),
        Hold::Not => format!("container {name} created, not started"),
    };

    let mut outcome = Outcome::changed(image.evidence())
        .and(format!(
            "configuration written to {}, {} settings changed",
            subject.staged_config().display(),
            derived.changes.len()
        ))
        .and(ready);
    outcome = stage::telling_of_guard(outcome, subject, &parts.data_guard);
    if let Some(unit) = ordered {
        outcome = outcome.and(format!("after a reboot docker starts after {unit}"));
    }
    let changed = plan::diff(&installation.config_path, &subject.staged_config(), &derived);
    Ok(image.details(outcome).with_detail("configuration-diff", &changed))
}

async fn create(
    subject: &Subject<'_>,
    cx: &Context,
    engine: &Engine,
    parts: &Parts<'_>,
    hold: Hold,
) -> Result<(), StepError> {
    if hold == Hold::AtTheGate {
        gate::make(subject)?;
    }
    let name = &subject.names.container;
    cx.record_undo(&Shared::Container { name: name.clone() })?;
    // The engine looks for the sources of mounts when a container is created, and again at every start. For the first look the link
    // leads somewhere; from then on only while the unit is masked.
    let guard = mask_guard(subject);
    files::link(&guard, Path::new("/dev/null"))?;
    let created = engine.create(name, container_spec::body(subject, parts, hold)).await;
    files::link(&guard, &subject.masked_unit())?;
    created.map(drop).map_err(|error| match &error {
        EngineError::Refused { message, .. } if message.contains("bind source path does not exist") => error
            .clone()
            .step()
            .remedy("see that this path is there and spelled right in the configuration or in `mounts`"),
        _ => error.step(),
    })
}
