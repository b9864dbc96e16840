//! Everything that can be done while Connect still serves: the image, the container's folder, the container itself.

use crate::build::{self, recipe::resolve};
use crate::check;
use crate::check_engine::same_version;
use crate::engine::{Engine, EngineError, Pulled};
use crate::image::{self, Place};
use crate::login::Logins;
use crate::owners::{self, Account};
use crate::scan::Scanned;
use crate::settings::{Image, RunAsIds};
use crate::spec::{self, Owner, owner};
use crate::undo::Undo;
use crate::world::LABEL_PREFIX;
use crate::world::Subject;
use crate::{archive, files, inside, reference, scan};
use bollard::models::{ContainerCreateBody, HostConfig, ImageInspect};
use connect_migrator_connect::container::{Derived, ImageFacts};
use connect_migrator_connect::installation::Installation;
use connect_migrator_connect::source_edits::kept_in_data_key;
use connect_migrator_connect::version::Version;
use connect_migrator_images::registry::platform;
use connect_migrator_sdk::{Context, Finding, Outcome, Progress, Severity, StepError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// An image on this host that has the source's version.
#[derive(Debug)]
pub struct HadImage {
    /// Pinned by its digest, or else its id.
    pub image: String,
    /// What the engine knows about it.
    pub about: ImageInspect,
    /// The version that it says it has.
    pub version: Option<Version>,
    /// What it has inside: by its labels, else by its programs.
    pub facts: ImageFacts,
    /// It had to be fetched.
    pub fetched: bool,
    /// What a scan said.
    pub scanned: Option<Scanned>,
}

impl HadImage {
    /// Gets the image.
    ///
    /// # Errors
    /// When it cannot be had, or has another version.
    pub async fn get(
        subject: &Subject<'_>,
        cx: &Context,
        engine: &Engine,
        installation: &Installation,
    ) -> Result<Self, StepError> {
        let (reference, about, fetched) = have_image(subject, cx, engine, installation).await?;
        let mut version = image::version(&about, &reference);
        let mut facts = image::facts(&about);
        if inside::is_silent(|name| image::label(&about, name)) {
            cx.info(format!("{reference} has no labels; asking its programs for their versions"));
            match inside::look(subject, engine, &reference, &about).await {
                Ok(inside) => (version, facts) = (inside.version.or(version), inside.facts),
                Err(error) => cx.warn(format!("what {reference} has inside is not known: {error}")),
            }
        }
        let compared = same_version(&reference, version, installation.version);
        if compared.severity == Severity::Blocker {
            return Err(blocked(&compared));
        }
        let image = reference::pinned(&reference, about.repo_digests.as_deref().unwrap_or_default())
            .or_else(|| about.id.clone())
            .unwrap_or(reference);
        let scanned = scan::run(subject, cx, &image).await?;
        Ok(HadImage { image, about, version, facts, fetched, scanned })
    }

    /// Folders for which it asks for a volume.
    #[must_use]
    pub fn volumes(&self) -> Vec<String> {
        self.about.config.as_ref().and_then(|config| config.volumes.clone()).unwrap_or_default()
    }

    /// A label of ours.
    fn label(&self, name: &str) -> Option<&str> {
        image::label(&self.about, &format!("{LABEL_PREFIX}{name}"))
    }

    /// For the report: what a scan said.
    #[must_use]
    pub fn details(&self, outcome: Outcome) -> Outcome {
        match &self.scanned {
            Some(scanned) => outcome.with_detail("scan", scanned),
            None => outcome,
        }
    }

    /// In words.
    #[must_use]
    pub fn evidence(&self) -> String {
        let image = &self.image;
        let built = self.label("built-from").map(|from| format!("image {image} built from {from}"));
        let had = if self.fetched { "fetched" } else { "was on this host" };
        let had = built.unwrap_or_else(|| format!("image {image} {had}"));
        match &self.scanned {
            Some(scanned) => format!("{had}; {}", scanned.evidence()),
            None => had,
        }
    }
}

/// The container's configuration.
///
/// # Errors
/// When there cannot be one.
pub fn derive(
    subject: &Subject<'_>,
    installation: &Installation,
    image: &HadImage,
) -> Result<Derived, StepError> {
    let derived = check::derive(subject, installation, Some(image.facts.clone()))
        .map_err(|error| StepError::new("derive the container's configuration").because(error))?;
    match derived.findings.iter().find(|f| f.severity == Severity::Blocker) {
        Some(blocker) => Err(blocked(blocker)),
        None => Ok(derived),
    }
}

/// A blocker that prepare met.
#[must_use]
pub fn blocked(finding: &Finding) -> StepError {
    StepError::new("prepare the container").because(&finding.text).remedy(&finding.remedy)
}

/// Makes sure that nothing of somebody else, and nothing that runs, has the name.
///
/// # Errors
/// When it has.
pub async fn settle_name(subject: &Subject<'_>, engine: &Engine, name: &str) -> Result<(), StepError> {
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
        return archive::load(file, subject.settings.pull_timeout, cx, engine).await;
    }
    let logins = Logins::of(subject, cx)?;
    if let Image::Build(build) = &subject.settings.image {
        let recipe =
            resolve(build, installation.version, &platform()).map_err(|blocker| blocked(&blocker))?;
        return build::run::build(subject, cx, engine, &recipe, &logins).await;
    }
    let found = image::find(&subject.settings.image, installation.version, engine, &logins).await;
    let found = found
        .map_err(|blocker| StepError::new("find the image").because(&blocker.text).remedy(&blocker.remedy))?;
    let reference = match found.place {
        Place::Here { reference, image } => return Ok((reference, *image, false)),
        place => place.reference().to_owned(),
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
    let pull_login = logins.of_reference(&reference);
    let pull = tokio::time::timeout(limit.duration(), engine.pull(&reference, pull_login.as_ref(), tell));
    tokio::select! {
        () = cx.cancelled() => return Err(StepError::cancelled(format!("pull {reference}"))),
        done = pull => match done {
            Err(_) => return Err(StepError::new(format!("pull {reference}"))
                .because(format!("it took more than {limit}"))
                .remedy(format!("pull it by hand beforehand (`{} pull`), or raise `pull-timeout`", engine.kind))),
            Ok(Err(error)) => {
                let remedy = image::pull_remedy(engine.kind, &error);
                return Err(error.step().remedy(remedy));
            }
            Ok(Ok(())) => {}
        }
    }
    let about = engine.image(&reference).await.map_err(EngineError::step)?.ok_or_else(|| {
        StepError::new(format!("pull {reference}"))
            .because(format!("{} says that it did, but does not have it", engine.kind))
            .remedy(engine.kind.journal())
    })?;
    Ok((reference, about, true))
}

/// Writes the container's folder with its configuration.
///
/// # Errors
/// When it cannot be written.
pub fn write_folder(subject: &Subject<'_>, cx: &Context, derived: &Derived) -> Result<(), StepError> {
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

/// Says with the outcome what is kept in the data directory for the container: a step that moves the data is not to carry it.
#[must_use]
pub fn telling_of_guard(outcome: Outcome, subject: &Subject<'_>, data_guard: &Path) -> Outcome {
    match data_guard.file_name() {
        Some(name) => outcome.fact(kept_in_data_key(&subject.step), &[name.to_string_lossy()]),
        None => outcome,
    }
}

/// Writes the file that tells the data from an empty mount point.
///
/// # Errors
/// When it cannot be written.
pub fn write_data_guard(
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

/// `passwd` and `group` for the container, when the user that runs content has other numbers there.
///
/// # Errors
/// When the numbers differ and the settings do not say to keep them.
pub async fn write_ids(
    subject: &Subject<'_>,
    cx: &Context,
    engine: &Engine,
    installation: &Installation,
    image: &HadImage,
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
    image: &HadImage,
) -> Result<(String, String), StepError> {
    let name = format!("{}-look", subject.names.container);
    cx.record_undo(&Undo::Container { name: name.clone() })?;
    settle_name(subject, engine, &name).await?;
    let label = |key: &str, value: &str| (format!("{LABEL_PREFIX}{key}"), value.to_owned());
    let body = ContainerCreateBody {
        image: Some(image.image.clone()),
        cmd: Some(vec!["true".into()]),
        // Else the engine makes a volume that nobody removes.
        host_config: Some(HostConfig {
            tmpfs: Some(spec::stray_tmpfs(&image.volumes(), &[])),
            ..HostConfig::default()
        }),
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
