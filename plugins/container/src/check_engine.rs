//! What must hold about the engine, the image and the container's name.

use crate::archive;
use crate::build;
use crate::engine::Engine;
use crate::image::{self, Place};
use crate::inside;
use crate::kind::Kind;
use crate::labels;
use crate::login::{self, Logins};
use crate::scan;
use crate::settings::{Image, Privileges};
use crate::spec::{Owner, owner};
use crate::world::Subject;
use bollard::models::ImageInspect;
use connect_migrator_connect::container::ImageFacts;
use connect_migrator_connect::version::Version;
use connect_migrator_images::registry::platform;
use connect_migrator_sdk::{Context, Finding};

/// The first API with everything that this step uses (docker 19.03, podman 3).
const OLDEST_API: (u32, u32) = (1, 40);

/// What the engine's part of the check found.
#[derive(Debug, Default)]
pub struct EngineFindings {
    /// The findings.
    pub found: Vec<Finding>,
    /// What the image's labels tell, in the registry if need be; `None` while they cannot be read.
    pub image: Option<ImageFacts>,
    /// The image.
    pub reference: Option<String>,
    /// The container that holds the published port is our own.
    pub own_container_runs: bool,
}

/// Checks engine, image and name. `source` is the version that runs on this host.
pub async fn engine(subject: &Subject<'_>, cx: &Context, source: Option<Version>) -> EngineFindings {
    let mut all = EngineFindings::default();
    let engine = match subject.engine().await {
        Ok(engine) => engine,
        Err(error) => {
            all.found.push(Finding::blocker(
                format!("{}-unreachable", subject.kind()),
                error.to_string(),
                subject.kind().install(),
            ));
            return all;
        }
    };
    all.found.push(version(&engine));
    all.found.extend(security(subject, &engine).await);
    match Logins::of(subject, cx) {
        Ok(logins) => pick(subject, &engine, source, &logins, &mut all).await,
        Err(error) => {
            let remedy = if error.remedy.is_empty() { "store that credential" } else { &error.remedy };
            let text = format!("could not {}: {}", error.tried, error.why);
            all.found.push(Finding::blocker("registry-login", text, remedy));
        }
    }
    all.found.extend(scan::check(subject));
    name(subject, &engine, &mut all).await;
    all
}

fn version(engine: &Engine) -> Finding {
    let mut parts = engine.api.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let api = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let text = format!("{} {} answers (API {})", engine.kind, engine.version, engine.api);
    if api < OLDEST_API {
        let (major, minor) = OLDEST_API;
        return Finding::blocker(
            format!("{}-old", engine.kind),
            format!("{text}, which is too old"),
            format!("install a {} with API {major}.{minor} or later", engine.kind),
        );
    }
    Finding::ok(engine.kind.name(), text)
}

async fn security(subject: &Subject<'_>, engine: &Engine) -> Option<Finding> {
    let kind = engine.kind;
    let options = match engine.security_options().await {
        Ok(options) => options,
        Err(error) => {
            return Some(Finding::warning(
                format!("{kind}-setup"),
                error.to_string(),
                format!("see `{kind} info`"),
            ));
        }
    };
    let rootless = options.iter().any(|option| option.contains("name=rootless"));
    if rootless && (kind == Kind::Podman || subject.settings.privileges != Privileges::None) {
        return Some(Finding::blocker(
            format!("{kind}-rootless"),
            "this engine runs without root, and root in its containers is not root: neither Connect's sandbox nor files of several users work",
            "use the engine of the system (`socket`)",
        ));
    }
    None
}

async fn pick(
    subject: &Subject<'_>,
    engine: &Engine,
    source: Option<Version>,
    logins: &Logins,
    all: &mut EngineFindings,
) {
    if let Image::Archive(file) = &subject.settings.image {
        match archive::look(file).await {
            Ok(image) => {
                all.found
                    .push(Finding::ok("image", format!("{} holds {}", file.archive.display(), image.id)));
                let name = file.archive.display().to_string();
                all.found.push(same_version(&name, archive::version(&image), source));
                all.image = Some(archive::facts(&image));
                all.reference = Some(name);
            }
            Err(blocker) => all.found.push(*blocker),
        }
        return;
    }
    if let Image::Build(build) = &subject.settings.image {
        let Some(recipe) = build::check::look(subject, build, source, &mut all.found).await else { return };
        all.found.push(match recipe.version {
            Some(version) => same_version(&recipe.what, Some(version), source),
            None => Finding::ok(
                "image-version",
                format!("{} is compared with this host once it is built", recipe.what),
            ),
        });
        let label = |name: &str| recipe.labels.get(name).map(String::as_str);
        all.image = recipe.version.map(|_| ImageFacts::from_labels(label));
        let hosts: Vec<String> = recipe.bases.iter().map(|base| login::host_of(base)).collect();
        all.found.extend(login::unused(subject.settings, &hosts));
        let mut fetched = Vec::new();
        for base in &recipe.bases {
            if !matches!(engine.image(base).await, Ok(Some(_))) {
                fetched.push(base.clone());
            }
        }
        all.found.extend(logins.left_to_helper(&fetched));
        all.reference = Some(recipe.what);
        return;
    }
    let candidates = crate::reference::candidates(&subject.settings.image, source);
    let hosts: Vec<String> = candidates.iter().map(|candidate| login::host_of(candidate)).collect();
    all.found.extend(login::unused(subject.settings, &hosts));
    let image::Found { place, faults } =
        match image::find(&subject.settings.image, source, engine, logins).await {
            Ok(found) => found,
            Err(blocker) => {
                all.found.push(*blocker);
                all.found.extend(logins.left_to_helper(&candidates));
                return;
            }
        };
    let mut asked: Vec<String> =
        candidates.into_iter().take_while(|candidate| candidate != place.reference()).collect();
    if !matches!(place, Place::Here { .. }) {
        asked.push(place.reference().to_owned());
    }
    all.found.extend(logins.left_to_helper(&asked));
    all.found.extend(faults.first().map(|fault| {
        let text = format!("{fault}; {} is taken instead", place.reference());
        Finding::warning(fault.key(), text, fault.remedy())
    }));
    let found = match place {
        Place::Here { reference, image } => {
            if let Some(blocker) = other_platform(&reference, &image) {
                all.found.push(blocker);
                return;
            }
            on_host(subject, engine, reference, &image, &mut all.found).await
        }
        Place::Registry(image) => labels::seen(&image),
        Place::ByEngine { reference, digest } => labels::unseen(reference, &digest),
    };
    if found.silent {
        all.found.push(Finding::warning(
            "image-inside",
            format!(
                "{} has no labels that tell what is inside, and is not on this host: whether content finds its R, Python and Quarto is not known yet",
                found.reference
            ),
            format!("pull it beforehand (`{} pull {}`) and check again: its programs are then asked", engine.kind, found.reference),
        ));
    }
    all.found.push(Finding::ok("image", found.text));
    all.found.push(same_version(&found.reference, found.told, source));
    all.image = found.facts;
    all.reference = Some(found.reference);
}

/// An image that is on this host: what its labels do not tell its programs are asked.
async fn on_host(
    subject: &Subject<'_>,
    engine: &Engine,
    reference: String,
    about: &ImageInspect,
    found: &mut Vec<Finding>,
) -> Seen {
    let mut seen = Seen {
        told: image::version(about, &reference),
        text: format!("{reference} is on this host"),
        facts: Some(image::facts(about)),
        silent: false,
        reference,
    };
    if inside::is_silent(|name| image::label(about, name)) {
        match inside::look(subject, engine, &seen.reference, about).await {
            Ok(inside) => {
                seen.text.push_str("; it has no labels, its programs were asked");
                seen.told = inside.version.or(seen.told);
                seen.facts = Some(inside.facts);
            }
            Err(error) => found.push(Finding::warning(
                "image-inside",
                format!("{} has no labels that tell what is inside, and its programs cannot be asked: {error}", seen.reference),
                "see yourself that it has what content needs, or label it (`co.posit.image.version`, `co.posit.image.tools.R`, …)",
            )),
        }
    }
    seen
}

fn other_platform(reference: &str, about: &ImageInspect) -> Option<Finding> {
    let is = format!("{}/{}", about.os.as_deref()?, about.architecture.as_deref()?);
    let here = platform();
    (is != here).then(|| {
        Finding::blocker(
            "image-platform",
            format!("{reference}, which is on this host, is for {is}, and this machine is {here}"),
            "name an image for this platform, or remove this one so that the right one is pulled",
        )
    })
}

/// An image that can be had.
#[derive(Debug)]
pub(crate) struct Seen {
    pub reference: String,
    pub text: String,
    /// Its labels tell nothing, and its programs cannot be asked yet.
    pub silent: bool,
    /// The version that it says it has.
    pub told: Option<Version>,
    /// What its labels tell; `None` when they could not be read.
    pub facts: Option<ImageFacts>,
}

/// Whether the image has the source's version.
#[must_use]
pub fn same_version(reference: &str, image: Option<Version>, source: Option<Version>) -> Finding {
    match (image, source) {
        (Some(image), Some(source)) if image.same_release(&source) => {
            Finding::ok("image-version", format!("{reference} has version {image}, as this host"))
        }
        (Some(image), Some(source)) => Finding::blocker(
            "image-version",
            format!("{reference} has version {image}, this host has {source}"),
            format!("name an image of {source}; an upgrade comes before the move or after it, never with it"),
        ),
        (None, Some(source)) => Finding::warning(
            "image-version",
            format!(
                "neither the tag nor (so far) a label of {reference} tells its version; this host has {source}"
            ),
            "it is looked at again once the image is pulled, and the server is asked when it runs; better name an image whose tag tells",
        ),
        (_, None) => Finding::warning(
            "image-version",
            format!("{reference} cannot be compared with this host, whose version is not known"),
            "see yourself that both have the same version",
        ),
    }
}

async fn name(subject: &Subject<'_>, engine: &Engine, all: &mut EngineFindings) {
    let name = &subject.names.container;
    let container = match engine.container(name).await {
        Ok(Some(container)) => container,
        Ok(None) => {
            all.found.push(Finding::ok("name", format!("no container is named {name}")));
            return;
        }
        Err(error) => {
            all.found.push(Finding::warning(
                "name",
                error.to_string(),
                format!("see `{} ps -a`", engine.kind),
            ));
            return;
        }
    };
    let labels = container.config.as_ref().and_then(|config| config.labels.as_ref());
    let running = container.state.as_ref().and_then(|state| state.running).unwrap_or(false);
    all.found.push(match owner(subject, labels) {
        Owner::Foreign => Finding::blocker(
            "name-taken",
            format!("there is a container {name} that connect-migrator did not make"),
            "choose another `name`, or remove that container if it is not needed",
        ),
        Owner::Earlier if running => Finding::blocker(
            "already-running",
            format!("the container {name} of an earlier migration of this instance runs"),
            "roll that migration back first, or stop and remove the container if it is not needed",
        ),
        Owner::Ours if running => {
            all.own_container_runs = true;
            Finding::ok("name", format!("the container {name} of this migration runs"))
        }
        Owner::Earlier | Owner::Ours => Finding::ok(
            "name",
            format!("a container {name} of this instance is left over and will be made anew"),
        ),
    });
}
