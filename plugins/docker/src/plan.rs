//! What the step will change, as `connect-migrator plan` shows it.

use crate::archive;
use crate::check;
use crate::container_spec::{self, Bind, Parts};
use crate::engine::Engine;
use crate::image;
use crate::reference;
use crate::settings::{Command, Image, Network, Privileges, RunAsIds};
use crate::storage;
use crate::world::Subject;
use connect_migrator_connect::container::{ConfigChange, Derived, ImageFacts};
use connect_migrator_connect::installation::Installation;
use connect_migrator_sdk::{Change, Op, StepError};
use std::path::Path;

/// Says what will be done. Reads only.
///
/// # Errors
/// When the installation cannot be read.
pub async fn plan(subject: &Subject<'_>) -> Result<Vec<Change>, StepError> {
    let installation =
        subject.installation().map_err(|error| StepError::new("read the installation").because(error))?;
    let (reference, here) = chosen(subject, &installation).await;
    let (facts, volumes) = here.map(|(facts, volumes)| (Some(facts), volumes)).unwrap_or_default();
    let known = facts.is_some();
    let derived = check::derive(subject, &installation, facts)
        .map_err(|error| StepError::new("derive the container's configuration").because(error))?;
    Ok(changes(subject, &installation, &derived, &reference, known, &volumes))
}

/// The image that would be taken, and what is known about it when it is on this host.
async fn chosen(
    subject: &Subject<'_>,
    installation: &Installation,
) -> (String, Option<(ImageFacts, Vec<String>)>) {
    if let Image::Archive(file) = &subject.settings.image {
        let image = archive::look(file).await.ok();
        let known = image.map(|image| (archive::facts(&image), image.volumes));
        return (format!("in {}", file.archive.display()), known);
    }
    let candidates = reference::candidates(&subject.settings.image, installation.version);
    let first = candidates.first().cloned().unwrap_or_else(|| "an image of this host's version".into());
    let Ok(engine) = Engine::connect(&subject.settings.socket).await else { return (first, None) };
    for reference in candidates {
        if let Ok(Some(about)) = engine.image(&reference).await {
            let volumes = about.config.as_ref().and_then(|config| config.volumes.clone()).unwrap_or_default();
            return (reference, Some((image::facts(&about), volumes)));
        }
    }
    (first, None)
}

fn changes(
    subject: &Subject<'_>,
    installation: &Installation,
    derived: &Derived,
    reference: &str,
    known: bool,
    volumes: &[String],
) -> Vec<Change> {
    let settings = subject.settings;
    let name = &subject.names.container;
    let mut all = Vec::new();
    if let Image::Archive(file) = &settings.image {
        let what = format!("load the image in {} and pin it by its id", file.archive.display());
        all.push(Change::new(Op::Prepare, what));
    } else if !known {
        let more =
            if matches!(settings.image, Image::Chosen(_)) { " (or the next that can be had)" } else { "" };
        all.push(Change::new(
            Op::Prepare,
            format!("pull the image {reference}{more} and pin it by its digest; what its labels tell can change more of the configuration"),
        ));
    }
    all.push(
        Change::new(
            Op::Prepare,
            format!("write the container's configuration to {}", subject.staged_config().display()),
        )
        .with_diff(diff(&installation.config_path, &subject.staged_config(), derived)),
    );
    all.extend(derived.changes.iter().map(|change| Change::new(Op::Prepare, in_words(change))));
    let guard = subject.data_guard(&installation.data_dir);
    all.push(Change::new(
        Op::Prepare,
        format!("write the guard {} into the data directory", guard.display()),
    ));
    let mountinfo = std::fs::read_to_string(&subject.world.mountinfo).unwrap_or_default();
    let real = installation.data_dir.canonicalize().unwrap_or_else(|_| installation.data_dir.clone());
    if let Some(mounted) = storage::holding(&real, &mountinfo).filter(|m| m.at != Path::new("/")) {
        all.push(Change::new(
            Op::Prepare,
            format!(
                "order docker after {} by {}",
                storage::mount_unit(&mounted.at),
                subject.engine_drop_in().display()
            ),
        ));
    }
    let licences = subject.licences();
    let parts = Parts {
        image: reference,
        version: None,
        source_version: None,
        derived,
        data_guard: guard,
        licences: &licences,
        security: &[],
        ids: (settings.run_as_ids == RunAsIds::Keep)
            .then(|| (subject.folder().join("passwd"), subject.folder().join("group"))),
        volumes,
    };
    all.push(Change::new(
        Op::Prepare,
        format!("create the container {name} ({}), not started", made(subject)),
    ));
    all.extend(
        container_spec::binds(subject, &parts).iter().map(|bind| Change::new(Op::Prepare, shown(bind))),
    );
    let environment = container_spec::environment(subject, derived);
    if !environment.is_empty() {
        let names: Vec<&str> = environment.keys().map(String::as_str).collect();
        all.push(Change::new(Op::Prepare, format!("give it the environment variables {}", names.join(", "))));
    }
    all.push(Change::new(
        Op::Apply,
        format!(
            "start the container {name}, wait up to {} until Connect of this host's version answers at {}, and let it come up with the machine",
            settings.start_timeout,
            subject.address()
        ),
    ));
    all
}

fn made(subject: &Subject<'_>) -> String {
    let privileges = match subject.settings.privileges {
        Privileges::Privileged => "privileged",
        Privileges::SysAdmin => "with the capability SYS_ADMIN",
        Privileges::None => "without privileges",
    };
    let network = match subject.settings.network {
        Network::Bridge => "published at",
        Network::Host => "on the host's network at",
    };
    let command = match subject.settings.command {
        Command::Connect => "running Connect itself",
        Command::Image => "running the image's start script",
    };
    format!(
        "{privileges}, {network} {}, host name {}, {command}",
        subject.settings.publish, subject.names.hostname
    )
}

fn shown(bind: &Bind) -> String {
    let Bind { source, target, read_only, why } = bind;
    let access = if *read_only { "read-only" } else { "writable" };
    if source == target {
        format!("mount {} at the same path, {access}: {why}", source.display())
    } else {
        format!("mount {} at {}, {access}: {why}", source.display(), target.display())
    }
}

fn in_words(change: &ConfigChange) -> String {
    let ConfigChange { setting, before, after, why } = change;
    match (before, after) {
        (Some(before), Some(after)) => format!("{setting}: `{before}` becomes `{after}`: {why}"),
        (None, Some(after)) => format!("{setting}: set to `{after}`: {why}"),
        (Some(before), None) => format!("{setting}: `{before}` is removed: {why}"),
        (None, None) => format!("{setting}: {why}"),
    }
}

fn diff(from: &Path, to: &Path, derived: &Derived) -> String {
    let (before, after) = (derived.shown_before(), derived.shown_after());
    similar::TextDiff::from_lines(before.as_str(), after.as_str())
        .unified_diff()
        .header(&from.display().to_string(), &to.display().to_string())
        .to_string()
}
