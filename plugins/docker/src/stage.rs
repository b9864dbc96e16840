//! Everything that can be done while Connect still serves: the image, the container's folder, the container itself.

use crate::container_spec::{self, mask_guard};
use crate::ordering;
use connect_migrator_container::check;
use connect_migrator_container::engine::{Engine, EngineError};
use connect_migrator_container::files;
use connect_migrator_container::spec::Parts;
use connect_migrator_container::stage::{self, HadImage, blocked};
use connect_migrator_container::undo::Undo as Shared;
use connect_migrator_container::world::Subject;
use connect_migrator_sdk::{Context, Outcome, StepError};
use std::path::Path;

/// Pulls, derives, writes and creates.
///
/// # Errors
/// When one of these cannot be done; rollback undoes the others.
pub async fn prepare(subject: &Subject<'_>, cx: &Context) -> Result<Outcome, StepError> {
    let installation = subject.installation().map_err(|error| blocked(&check::unreadable(&error)))?;
    let engine = subject.engine().await.map_err(EngineError::step)?;
    let name = &subject.names.container;
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
    create(subject, cx, &engine, &parts).await?;

    let mut outcome = Outcome::changed(image.evidence())
        .and(format!(
            "configuration written to {}, {} settings changed",
            subject.staged_config().display(),
            derived.changes.len()
        ))
        .and(format!("container {name} created, not started"));
    outcome = stage::telling_of_guard(outcome, subject, &parts.data_guard);
    if let Some(unit) = ordered {
        outcome = outcome.and(format!("after a reboot docker starts after {unit}"));
    }
    Ok(image.details(outcome))
}

async fn create(
    subject: &Subject<'_>,
    cx: &Context,
    engine: &Engine,
    parts: &Parts<'_>,
) -> Result<(), StepError> {
    let name = &subject.names.container;
    cx.record_undo(&Shared::Container { name: name.clone() })?;
    // The engine looks for the sources of mounts when a container is created, and again at every start. For the first look the link
    // leads somewhere; from then on only while the unit is masked.
    let guard = mask_guard(subject);
    files::link(&guard, Path::new("/dev/null"))?;
    let created = engine.create(name, container_spec::body(subject, parts)).await;
    files::link(&guard, &subject.masked_unit())?;
    created.map(drop).map_err(|error| match &error {
        EngineError::Refused { message, .. } if message.contains("bind source path does not exist") => error
            .clone()
            .step()
            .remedy("see that this path is there and spelled right in the configuration or in `mounts`"),
        _ => error.step(),
    })
}
