//! Everything that can be done while Connect still serves: the image, the container's folder, the unit.

use crate::check::labels;
use crate::ground::{Form, Ground, guard, unit, unit_file};
use crate::guard;
use crate::socket::Socket;
use crate::systemd::Units;
use crate::undo::{Own, Undo};
use crate::unit::{Making, standing, text};
use connect_migrator_container::engine::EngineError;
use connect_migrator_container::spec::Parts;
use connect_migrator_container::stage::{self, HadImage, blocked};
use connect_migrator_container::undo::Undo as Shared;
use connect_migrator_container::world::Subject;
use connect_migrator_container::{check, files, plan};
use connect_migrator_sdk::{Context, Outcome, StepError};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Pulls, derives and writes.
///
/// # Errors
/// When one of these cannot be done; rollback undoes the others.
pub async fn prepare<S: Units>(
    ground: &Ground<S>,
    subject: &Subject<'_>,
    cx: &Context,
) -> Result<Outcome, StepError> {
    let socket = Socket::open(&ground.systemd, subject).await;
    let outcome = with_engine(ground, subject, cx).await;
    socket.close().await;
    outcome
}

async fn with_engine<S: Units>(
    ground: &Ground<S>,
    subject: &Subject<'_>,
    cx: &Context,
) -> Result<Outcome, StepError> {
    let installation = subject.installation().map_err(|error| blocked(&check::unreadable(&error)))?;
    let engine = subject.engine().await.map_err(EngineError::step)?;
    let name = &subject.names.container;
    stage::settle_name(subject, &engine, name).await?;
    let image = HadImage::get(subject, cx, &engine, &installation).await?;
    let derived = stage::derive(subject, &installation, &image)?;

    cx.record_undo(&Shared::Container { name: name.clone() })?;
    stage::write_folder(subject, cx, &derived)?;
    let data_guard = stage::write_data_guard(subject, cx, &installation)?;
    let ids = stage::write_ids(subject, cx, &engine, &installation, &image).await?;
    let script = guard::script(subject, &installation.data_dir);
    files::write(&guard(subject), script.as_bytes(), 0o700)?;

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
    let selinux = labels(ground, subject, &parts);
    let form = ground.form();
    let (init, data_dir) = (ground.init(subject), &installation.data_dir);
    let text = text(subject, &Making { form, parts: &parts, data_dir, init, selinux: &selinux });
    write_unit(ground, subject, cx, form, &text).await?;

    let mut outcome = Outcome::changed(image.evidence())
        .and(format!(
            "configuration written to {}, {} settings changed",
            subject.staged_config().display(),
            derived.changes.len()
        ))
        .and(format!("{} written, not started", unit_file(subject, form).display()));
    outcome = stage::telling_of_guard(outcome, subject, &parts.data_guard);
    if let Some(words) = selinux.shown() {
        outcome = outcome.and(words);
    }
    let changed = plan::diff(&installation.config_path, &subject.staged_config(), &derived);
    Ok(image.details(outcome).with_detail("configuration-diff", &changed))
}

async fn write_unit<S: Units>(
    ground: &Ground<S>,
    subject: &Subject<'_>,
    cx: &Context,
    form: Form,
    text: &str,
) -> Result<(), StepError> {
    let path = unit_file(subject, form);
    let unit = unit(subject);
    if let Some(standing) = standing(subject) {
        if !standing.instance {
            return Err(StepError::new(format!("write {}", path.display()))
                .because(format!("there is {} of somebody else's", standing.path.display()))
                .remedy("choose another `name`, or remove that unit if it is not needed"));
        }
        // Left over from a try that was cut off, or from an earlier migration, which perhaps had another podman.
        if standing.path != path {
            files::remove(&standing.path)?;
        }
    }
    let folder = path.parent().unwrap_or(&path);
    if !folder.exists() {
        cx.record_undo(&Undo::Own(Own::UnitFolder { path: folder.to_owned() }))?;
        files::folder(folder)?;
        open(folder)?;
        folder.parent().filter(|above| above.ends_with("containers")).map(open).transpose()?;
    }
    cx.record_undo(&Undo::Own(Own::Unit { path: path.clone(), unit: unit.clone() }))?;
    files::write(&path, text.as_bytes(), 0o644)?;
    ground.systemd.reload().await?;
    let status = ground.systemd.status(&unit).await?;
    let from = if form == Form::Quadlet { &status.made_of } else { &status.file };
    if status.load != "loaded" || Path::new(from) != path {
        let generator = ground.generators.iter().find(|path| path.exists());
        return Err(StepError::new(format!("make {unit} of {}", path.display()))
            .because(format!("systemd has it as `{}`, from `{from}`", status.load))
            .remedy(match (form, generator) {
                (Form::Quadlet, Some(generator)) => {
                    format!("`{} --dryrun` says what podman has against the file", generator.display())
                }
                _ => format!("see `systemd-analyze verify {}`", path.display()),
            }));
    }
    if form == Form::Unit {
        ground.systemd.enable(&unit).await?;
    }
    Ok(())
}

/// Others may read it, also where the folder was made just now.
fn open(folder: &Path) -> Result<(), StepError> {
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755))
        .map_err(|error| StepError::new(format!("open {}", folder.display())).because(error))
}
