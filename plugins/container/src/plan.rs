//! What the step will change, as `connect-migrator plan` shows it.

use crate::archive;
use crate::build::recipe::resolve;
use crate::check;
use crate::image::{self, Place};
use crate::labels;
use crate::login::Logins;
use crate::reference;
use crate::settings::{Command, Image, Network, Privileges, RunAsIds};
use crate::spec::{self, Bind, Parts};
use crate::world::Subject;
use connect_migrator_connect::container::{ConfigChange, Derived, ImageFacts};
use connect_migrator_connect::installation::Installation;
use connect_migrator_images::registry::platform;
use connect_migrator_sdk::{Change, Context, Op, StepError};
use std::path::{Path, PathBuf};

/// What is known before anything is done.
#[derive(Debug)]
pub struct Planned {
    /// The Connect of this host.
    pub installation: Installation,
    /// The container's configuration.
    pub derived: Derived,
    /// The image that would be taken.
    image: Chosen,
    licences: Vec<PathBuf>,
}

/// The image that would be taken.
#[derive(Debug, Default)]
struct Chosen {
    reference: String,
    /// It was found; else it is the first that will be looked for.
    found: bool,
    /// It is on this host.
    here: bool,
    /// What its labels tell, where they could be read.
    facts: Option<ImageFacts>,
    /// Folders for which it asks for a volume.
    volumes: Vec<String>,
}

/// Looks at everything that a plan is made of. Reads only.
///
/// # Errors
/// When the installation cannot be read.
pub async fn look(subject: &Subject<'_>, cx: &Context) -> Result<Planned, StepError> {
    let installation =
        subject.installation().map_err(|error| StepError::new("read the installation").because(error))?;
    let image = chosen(subject, cx, &installation).await;
    let derived = check::derive(subject, &installation, image.facts.clone())
        .map_err(|error| StepError::new("derive the container's configuration").because(error))?;
    Ok(Planned { installation, derived, image, licences: subject.licences() })
}

/// The image that prepare would take, and what is known about it.
async fn chosen(subject: &Subject<'_>, cx: &Context, installation: &Installation) -> Chosen {
    if let Image::Archive(file) = &subject.settings.image {
        let reference = format!("in {}", file.archive.display());
        return match archive::look(file).await {
            Ok(image) => Chosen {
                reference,
                facts: Some(archive::facts(&image)),
                volumes: image.volumes,
                ..Chosen::default()
            },
            Err(_) => Chosen { reference, ..Chosen::default() },
        };
    }
    if let Image::Build(build) = &subject.settings.image {
        return match resolve(build, installation.version, &platform()) {
            Ok(recipe) => {
                let label = |name: &str| recipe.labels.get(name).map(String::as_str);
                let facts = recipe.version.map(|_| ImageFacts::from_labels(label));
                Chosen { reference: recipe.what.clone(), facts, ..Chosen::default() }
            }
            Err(blocker) => Chosen { reference: blocker.text, ..Chosen::default() },
        };
    }
    let image = &subject.settings.image;
    let found = match subject.engine().await {
        Ok(engine) => {
            // A password that is not stored yet is for check to tell.
            let logins = Logins::of(subject, cx).unwrap_or_else(|_| Logins::of_files());
            image::find(image, installation.version, &engine, &logins).await.ok()
        }
        Err(_) => None,
    };
    match found.map(|found| found.place) {
        Some(Place::Here { reference, image }) => Chosen {
            reference,
            found: true,
            here: true,
            facts: Some(image::facts(&image)),
            volumes: image.config.and_then(|config| config.volumes).unwrap_or_default(),
        },
        Some(Place::Registry(image)) => Chosen {
            found: true,
            here: false,
            facts: Some(labels::facts(&image)),
            reference: image.reference,
            volumes: image.volumes,
        },
        Some(Place::ByEngine { reference, .. }) => Chosen { reference, found: true, ..Chosen::default() },
        None => {
            let first = reference::candidates(image, installation.version).into_iter().next();
            let reference = first.unwrap_or_else(|| "an image of this host's version".into());
            Chosen { reference, ..Chosen::default() }
        }
    }
}

impl Planned {
    /// Before anything is known about the image.
    #[must_use]
    pub fn of(subject: &Subject<'_>, installation: Installation, derived: Derived) -> Self {
        Planned { installation, derived, image: Chosen::default(), licences: subject.licences() }
    }

    /// Image, configuration and guard: what comes first, whatever the engine.
    #[must_use]
    pub fn first(&self, subject: &Subject<'_>) -> Vec<Change> {
        let mut all = Vec::new();
        if let Image::Archive(file) = &subject.settings.image {
            let what = format!("load the image in {} and pin it by its id", file.archive.display());
            all.push(Change::new(Op::Prepare, what));
        } else if let Image::Build(_) = &subject.settings.image {
            let what = format!("build the image {} and pin it by its id", self.image.reference);
            all.push(Change::new(Op::Prepare, what));
        } else if !self.image.here {
            let first = !self.image.found && matches!(subject.settings.image, Image::Chosen(_));
            let more = if first { " (or the next that can be had)" } else { "" };
            let labels = match self.image.facts {
                Some(_) => "",
                None => "; what its labels tell can change more of the configuration",
            };
            let what =
                format!("pull the image {}{more} and pin it by its digest{labels}", self.image.reference);
            all.push(Change::new(Op::Prepare, what));
        }
        if let Some(command) = &subject.settings.scan {
            all.push(Change::new(Op::Prepare, format!("run {} on it", command.join(" "))));
        }
        all.push(
            Change::new(
                Op::Prepare,
                format!("write the container's configuration to {}", subject.staged_config().display()),
            )
            .with_diff(diff(
                &self.installation.config_path,
                &subject.staged_config(),
                &self.derived,
            )),
        );
        all.extend(self.derived.changes.iter().map(|change| Change::new(Op::Prepare, in_words(change))));
        let guard = subject.data_guard(&self.installation.data_dir);
        let what = format!("write the guard {} into the data directory", guard.display());
        all.push(Change::new(Op::Prepare, what));
        all
    }

    /// What the container would be made of.
    #[must_use]
    pub fn parts(&self, subject: &Subject<'_>) -> Parts<'_> {
        Parts {
            image: &self.image.reference,
            version: None,
            source_version: None,
            derived: &self.derived,
            data_guard: subject.data_guard(&self.installation.data_dir),
            licences: &self.licences,
            security: &[],
            ids: (subject.settings.run_as_ids == RunAsIds::Keep)
                .then(|| (subject.folder().join("passwd"), subject.folder().join("group"))),
            volumes: &self.image.volumes,
        }
    }

    /// The environment, by names only.
    #[must_use]
    pub fn environment(&self, subject: &Subject<'_>) -> Option<Change> {
        let environment = spec::environment(subject, &self.derived);
        let names: Vec<&str> = environment.keys().map(String::as_str).collect();
        let what = format!("give it the environment variables {}", names.join(", "));
        (!names.is_empty()).then(|| Change::new(Op::Prepare, what))
    }
}

/// How the container is made, in words.
#[must_use]
pub fn made(subject: &Subject<'_>) -> String {
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

/// A mount.
#[must_use]
pub fn mount(bind: &Bind) -> Change {
    let Bind { source, target, read_only, why } = bind;
    let access = if *read_only { "read-only" } else { "writable" };
    let what = if source == target {
        format!("mount {} at the same path, {access}: {why}", source.display())
    } else {
        format!("mount {} at {}, {access}: {why}", source.display(), target.display())
    };
    Change::new(Op::Prepare, what)
}

/// How the step is undone.
#[must_use]
pub fn way_back(subject: &Subject<'_>) -> Change {
    Change::new(
        Op::Rollback,
        format!(
            "stop the container {} so that Connect itself ends, see that no process of it is left, remove it and what was written \
             for it; the image stays for the next try",
            subject.names.container
        ),
    )
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

/// The container's configuration against the host's, without secrets.
#[must_use]
pub fn diff(from: &Path, to: &Path, derived: &Derived) -> String {
    let (before, after) = (derived.shown_before(), derived.shown_after());
    similar::TextDiff::from_lines(before.as_str(), after.as_str())
        .unified_diff()
        .header(&from.display().to_string(), &to.display().to_string())
        .to_string()
}
