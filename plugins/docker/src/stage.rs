//! Everything that can be done while Connect still serves: the image, the container's folder, the container itself.

use crate::check;
use crate::check_engine::{login, same_version};
use crate::container_spec::{self, Owner, Parts, owner};
use crate::engine::{Engine, EngineError, Pulled};
use crate::image::{self, Found};
use crate::owners::{self, Account};
use crate::settings::{Image, RunAsIds};
use crate::undo::Undo;
use crate::world::Subject;
use crate::{archive, files, reference, storage};
use bollard::models::{ContainerCreateBody, ImageInspect};
use connect_migrator_connect::container::Derived;
use connect_migrator_connect::installation::Installation;
use connect_migrator_connect::source_edits::kept_in_data_key;
use connect_migrator_sdk::{Context, Finding, Outcome, Progress, Severity, StepError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Pulls, derives, writes and creates.
///
/// # Errors
/// When one of these cannot be done; rollback undoes the others.
pub async fn prepare(subject: &Subject<'_>, cx: &Context) -> Result<Outcome, StepError> {
    let installation = subject.installation().map_err(|error| blocked(&check::unreadable(&error)))?;
    let engine = Engine::connect(&subject.settings.socket).await.map_err(EngineError::step)?;
    let name = &subject.names.container;
    settle_name(subject, &engine, name).await?;

    let (reference, about, pulled) = have_image(subject, cx, &engine, &installation).await?;
    let version = image::version(&about, &reference);
    let compared = same_version(&reference, version, installation.version);
    if compared.severity == Severity::Blocker {
        return Err(blocked(&compared));
    }
    let image = reference::pinned(&reference, about.repo_digests.as_deref().unwrap_or_default())
        .or_else(|| about.id.clone())
        .unwrap_or(reference);
    let derived = check::derive(subject, &installation, Some(image::facts(&about)))
        .map_err(|error| StepError::new("derive the container's configuration").because(error))?;
    if let Some(blocker) = derived.findings.iter().find(|f| f.severity == Severity::Blocker) {
        return Err(blocked(blocker));
    }

    write_folder(subject, cx, &derived)?;
    let data_guard = write_data_guard(subject, cx, &installation)?;
    let ordered = write_drop_in(subject, cx, &installation)?;
    let ids = write_ids(subject, cx, &engine, &installation, &image).await?;

    let volumes = about.config.as_ref().and_then(|config| config.volumes.clone()).unwrap_or_default();
    let licences = subject.licences();
    let security = engine.security_options().await.map_err(EngineError::step)?;
    let parts = Parts {
        image: &image,
        version: version.map(|v| v.to_string()),
        source_version: installation.version.map(|v| v.to_string()),
        derived: &derived,
        data_guard,
        licences: &licences,
        security: &security,
        ids,
        volumes: &volumes,
    };
    create(subject, cx, &engine, &parts).await?;

    let mut outcome = Outcome::changed(if pulled {
        format!("image {image} fetched")
    } else {
        format!("image {image} was on this host")
    })
    .and(format!(
        "configuration written to {}, {} settings changed",
        subject.staged_config().display(),
        derived.changes.len()
    ))
    .and(format!("container {name} created, not started"));
    if let Some(guard) = parts.data_guard.file_name() {
        let kept = [guard.to_string_lossy()];
        outcome = outcome.fact(kept_in_data_key(&subject.step), &kept);
    }
    if let Some(unit) = ordered {
        outcome = outcome.and(format!("after a reboot docker starts after {unit}"));
    }
    Ok(outcome)
}

fn blocked(finding: &Finding) -> StepError {
    StepError::new("prepare the container").because(&finding.text).remedy(&finding.remedy)
}

/// Makes sure that nothing of somebody else, and nothing that runs, has the name.
async fn settle_name(subject: &Subject<'_>, engine: &Engine, name: &str) -> Result<(), StepError> {
    let Some(container) = engine.container(name).await.map_err(EngineError::step)? else { return Ok(()) };
    let labels = container.config.as_ref().and_then(|config| config.labels.as_ref());
    let running = container.state.and_then(|state| state.running).unwrap_or(false);
    let error = |why: &str, remedy: &str| {
        Err(StepError::new(format!("use the name {name} for the container")).because(why).remedy(remedy))
    };
    match (owner(subject, labels), running) {
        (Owner::Foreign, _) => error(
            "there is one that connect-migrator did not make",
            "choose another `name`, or remove that container if it is not needed",
        ),
        (_, true) => error("a container of that name runs", "roll back the migration that started it first"),
        // Left over from a try that was cut off, or from an earlier migration.
        (_, false) => engine.remove(name).await.map_err(EngineError::step),
    }
}

async fn have_image(
    subject: &Subject<'_>,
    cx: &Context,
    engine: &Engine,
    installation: &Installation,
) -> Result<(String, ImageInspect, bool), StepError> {
    if let Image::Archive(file) = &subject.settings.image {
        return archive::load(file, cx, engine).await;
    }
    let login = login(subject, cx)?;
    let candidates = reference::candidates(&subject.settings.image, installation.version);
    let found = image::find(engine, &candidates, login.as_ref()).await.map_err(|not_found| {
        StepError::new("find the image").because(not_found.why()).remedy(not_found.remedy())
    })?;
    let reference = match found {
        Found::Local { reference, about } => return Ok((reference, *about, false)),
        Found::Remote { reference, .. } => reference,
    };
    cx.record_undo(&Undo::Image { reference: reference.clone() })?;
    cx.info(format!("pulling {reference}"));
    let tell = |Pulled { done, total }: Pulled| {
        cx.progress(&Progress {
            doing: format!("pulling {reference}"),
            done: Some(done),
            total: Some(total),
            unit: Some("bytes".into()),
        });
    };
    let limit = subject.settings.pull_timeout;
    let pull = tokio::time::timeout(limit.duration(), engine.pull(&reference, login.as_ref(), tell));
    tokio::select! {
        () = cx.cancelled() => return Err(StepError::cancelled(format!("pull {reference}"))),
        done = pull => match done {
            Err(_) => return Err(StepError::new(format!("pull {reference}"))
                .because(format!("it took more than {limit}"))
                .remedy("pull it by hand beforehand (`docker pull`), or raise `pull-timeout`")),
            Ok(Err(error)) => {
                let not_found = image::NotFound(vec![(reference.clone(), error.clone())]);
                return Err(error.step().remedy(not_found.remedy()));
            }
            Ok(Ok(())) => {}
        }
    }
    let about = engine.image(&reference).await.map_err(EngineError::step)?.ok_or_else(|| {
        StepError::new(format!("pull {reference}"))
            .because("docker says that it did, but does not have it")
            .remedy("see `journalctl -u docker`")
    })?;
    Ok((reference, about, true))
}

fn write_folder(subject: &Subject<'_>, cx: &Context, derived: &Derived) -> Result<(), StepError> {
    let folder = subject.folder();
    cx.record_undo(&Undo::Folder { path: folder.clone() })?;
    files::folder(&folder)?;
    let config = &subject.source.config;
    let mode = std::fs::metadata(config)
        .map_err(|error| StepError::new(format!("read {}", config.display())).because(error))?;
    let mode = mode.permissions().mode() & 0o777;
    files::write(&subject.staged_config(), &derived.gcfg.to_bytes(), mode)?;
    Ok(())
}

fn write_data_guard(
    subject: &Subject<'_>,
    cx: &Context,
    installation: &Installation,
) -> Result<PathBuf, StepError> {
    let path = subject.data_guard(&installation.data_dir);
    cx.record_undo(&Undo::DataGuard { path: path.clone() })?;
    let text = format!(
        "The container {} starts only while this file is here: it tells the data from an empty mount point.\n",
        subject.names.container
    );
    files::write(&path, text.as_bytes(), 0o600).map_err(|error| {
        error.remedy("root must be able to write in the data directory; on NFS that needs `no_root_squash`")
    })?;
    Ok(path)
}

/// Orders the engine after the data's mount. It takes effect at the next boot, which is when it matters.
fn write_drop_in(
    subject: &Subject<'_>,
    cx: &Context,
    installation: &Installation,
) -> Result<Option<String>, StepError> {
    let mountinfo = std::fs::read_to_string(&subject.world.mountinfo).unwrap_or_default();
    let real = installation.data_dir.canonicalize().unwrap_or_else(|_| installation.data_dir.clone());
    let mounted = storage::holding(&real, &mountinfo).filter(|m| m.at != Path::new("/"));
    let Some(mounted) = mounted else { return Ok(None) };
    let unit = storage::mount_unit(&mounted.at);
    let path = subject.engine_drop_in();
    cx.record_undo(&Undo::DropIn { path: path.clone() })?;
    files::folder(&subject.world.engine_drop_ins)?;
    let text = format!(
        "# The container {} has its data there. Wants= and not Requires=: other containers do not depend on it.\n[Unit]\nWants={unit}\nAfter={unit} remote-fs.target\n",
        subject.names.container
    );
    files::write(&path, text.as_bytes(), 0o644)?;
    // systemd must be able to look into it, also where the folder was made just now.
    let readable = std::fs::set_permissions(&subject.world.engine_drop_ins, PermissionsExt::from_mode(0o755));
    readable.map_err(|error| {
        StepError::new(format!("open {}", subject.world.engine_drop_ins.display())).because(error)
    })?;
    Ok(Some(unit))
}

/// `passwd` and `group` for the container, when the user that runs content has other numbers there.
async fn write_ids(
    subject: &Subject<'_>,
    cx: &Context,
    engine: &Engine,
    installation: &Installation,
    image: &str,
) -> Result<Option<(PathBuf, PathBuf)>, StepError> {
    let name = &installation.run_as;
    let account = owners::on_host(name).ok_or_else(|| {
        StepError::new(format!("find the user `{name}`"))
            .because("it does not exist on this host")
            .remedy("correct Applications.RunAs, or create the user")
    })?;
    let (passwd, group) = of_image(subject, cx, engine, image).await?;
    let there = owners::in_passwd(&passwd, name);
    let Account { uid, gid, .. } = account;
    let accounts = check::accounts(&account, &owners::sample(&installation.data_dir_now));
    let same = there == Some((uid, gid));
    if subject.settings.run_as_ids == RunAsIds::Check {
        if same {
            return Ok(None);
        }
        let there =
            there.map_or_else(|| "does not exist".to_owned(), |(u, g)| format!("has uid {u} and gid {g}"));
        return Err(StepError::new("prepare the container")
            .because(format!("`{name}` has uid {uid} and gid {gid} on this host, and {there} in the image"))
            .remedy("set `run-as-ids = \"keep\"` for this step"));
    }
    let known = |a: &Account| owners::in_passwd(&passwd, &a.name) == Some((a.uid, a.gid));
    if accounts.iter().all(known) {
        return Ok(None);
    }
    let (passwd, group) = owners::keep(&passwd, &group, &accounts);
    let paths = (subject.folder().join("passwd"), subject.folder().join("group"));
    files::write(&paths.0, passwd.as_bytes(), 0o644)?;
    files::write(&paths.1, group.as_bytes(), 0o644)?;
    Ok(Some(paths))
}

/// Reads the image's own users and groups out of a container that is never started.
async fn of_image(
    subject: &Subject<'_>,
    cx: &Context,
    engine: &Engine,
    image: &str,
) -> Result<(String, String), StepError> {
    let name = format!("{}-look", subject.names.container);
    cx.record_undo(&Undo::Container { name: name.clone() })?;
    settle_name(subject, engine, &name).await?;
    let label = |key: &str, value: &str| (format!("{}{key}", crate::world::LABEL_PREFIX), value.to_owned());
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: Some(vec!["true".into()]),
        labels: Some(
            [label("instance", &subject.instance), label("migration", &subject.migration)]
                .into_iter()
                .collect(),
        ),
        ..ContainerCreateBody::default()
    };
    engine.create(&name, body).await.map_err(EngineError::step)?;
    let passwd = engine.file(&name, "/etc/passwd").await;
    let group = engine.file(&name, "/etc/group").await;
    engine.remove(&name).await.map_err(EngineError::step)?;
    let text = |bytes: Result<Vec<u8>, EngineError>| match bytes {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        // An image without the file has no users but root.
        Err(error) if error.is_missing() => Ok(String::new()),
        Err(error) => Err(error.step()),
    };
    Ok((text(passwd)?, text(group)?))
}

async fn create(
    subject: &Subject<'_>,
    cx: &Context,
    engine: &Engine,
    parts: &Parts<'_>,
) -> Result<(), StepError> {
    let name = &subject.names.container;
    cx.record_undo(&Undo::Container { name: name.clone() })?;
    // The engine looks for the sources of mounts when a container is created, and again at every start. For the first look the link
    // leads somewhere; from then on only while the unit is masked.
    let guard = subject.mask_guard();
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
