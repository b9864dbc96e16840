//! Looking for an image until it is found: on this host, and in registries. One loop for check, plan and prepare, so that they speak of
//! the same image.

use crate::choice::{Wanted, nearest};
use crate::credentials::Login;
use crate::reference::{host_and_repository, split};
use crate::registry::{Registries, RegistryError, RemoteImage};
use connect_migrator_sdk::Finding;
use std::collections::BTreeSet;

/// How many near images are named.
const NEAR_MAX: usize = 3;

/// What this host has and can do beside asking registries as we do: its engine.
pub trait Host: Sync {
    /// What it tells about an image that it has.
    type Image: Send;

    /// An image that is on this host; `Err` with its words when it does not tell.
    fn image(&self, reference: &str) -> impl Future<Output = Result<Option<Self::Image>, String>> + Send;

    /// Finds an image's digest in a registry that we do not reach (`down`): the engine may have a proxy, a certificate or a mirror.
    fn digest(
        &self,
        reference: &str,
        login: Option<&Login>,
        down: RegistryError,
    ) -> impl Future<Output = Result<String, RegistryError>> + Send;
}

/// No engine: registries only.
#[derive(Debug, Clone, Copy)]
pub struct NoHost;

impl Host for NoHost {
    type Image = ();

    async fn image(&self, _: &str) -> Result<Option<()>, String> {
        Ok(None)
    }

    async fn digest(&self, _: &str, _: Option<&Login>, down: RegistryError) -> Result<String, RegistryError> {
        Err(down)
    }
}

/// Where the image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place<I> {
    /// On this host already.
    Here {
        /// As it was asked for.
        reference: String,
        /// What the host tells about it.
        image: I,
    },
    /// In a registry.
    Registry(RemoteImage),
    /// In a registry that only the host's engine reaches, so that its labels are not known yet.
    ByEngine {
        /// As it was asked for.
        reference: String,
        /// Its digest there.
        digest: String,
    },
}

impl<I> Place<I> {
    /// The reference as it was asked for.
    #[must_use]
    pub fn reference(&self) -> &str {
        match self {
            Place::Here { reference, .. } | Place::ByEngine { reference, .. } => reference,
            Place::Registry(image) => &image.reference,
        }
    }
}

/// An image that can be had, and what was said on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<I> {
    /// Where it is.
    pub place: Place<I>,
    /// What registries before it answered, other than that they do not have it.
    pub faults: Vec<RegistryError>,
}

/// No fitting image can be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct NotFound {
    /// What was looked for.
    pub what: String,
    /// It was named, not chosen by a version.
    pub named: bool,
    /// What was tried, with the answers.
    pub tried: Vec<RegistryError>,
    /// References that exist and are near.
    pub near: Vec<String>,
}

impl NotFound {
    fn text(&self) -> String {
        let mut text = format!("no registry has {}, and neither has this host", self.what);
        if self.tried.is_empty() {
            text.push_str("; neither family of images has it for this choice of `os` and `variant`");
        } else {
            let said: Vec<String> = self.tried.iter().map(ToString::to_string).collect();
            text.push_str(&format!(". Tried: {}", said.join("; ")));
        }
        if !self.near.is_empty() {
            text.push_str(&format!(". Nearest that exist: {}", self.near.join(", ")));
        }
        text
    }

    /// As a blocker. A registry that is at fault decides the key: the image may well be there.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let fault = self.tried.iter().find(|error| !matches!(error, RegistryError::Missing { .. }));
        match fault {
            Some(error) => Finding::blocker(error.key(), self.text(), error.remedy()),
            None if self.named => Finding::blocker(
                "image-missing",
                self.text(),
                "the registry has no such tag: correct `image` (images exist only for some patch releases), or load the image into the engine under this name",
            ),
            None => Finding::blocker(
                "image-missing",
                self.text(),
                "bring the source to a release that has an image first (an upgrade never goes with the move), name an image yourself (`image = \"…\"`), or build one (`image = { build = … }`)",
            ),
        }
    }
}

/// The login for a repository, if there is one.
pub type LoginFor<'a> = &'a (dyn Fn(&str) -> Option<Login> + Sync);

/// Finds the image of a version: repositories in order, and in each its tags in order.
///
/// # Errors
/// What was tried, and the nearest that exists.
pub async fn by_version<H: Host>(
    registries: &Registries,
    wanted: &Wanted,
    login: LoginFor<'_>,
    host: &H,
) -> Result<Found<H::Image>, NotFound> {
    let tried = match first(registries, &wanted.references(), login, host).await {
        Ok(found) => return Ok(found),
        Err(tried) => tried,
    };
    let near = near(registries, wanted, login).await;
    let os = wanted.os.as_deref().map(|os| format!(" on {os}")).unwrap_or_default();
    let what = format!("an image of Connect {}{os} ({})", wanted.version, wanted.variant);
    Err(NotFound { what, named: false, tried, near })
}

/// One reference, as it stands.
///
/// # Errors
/// What was answered instead.
pub async fn by_reference<H: Host>(
    registries: &Registries,
    reference: &str,
    login: LoginFor<'_>,
    host: &H,
) -> Result<Found<H::Image>, NotFound> {
    let only = [reference.to_owned()];
    first(registries, &only, login, host).await.map_err(|tried| NotFound {
        what: reference.into(),
        named: true,
        tried,
        near: Vec::new(),
    })
}

/// The first of these that is here or in its registry; else what was answered for each.
async fn first<H: Host>(
    registries: &Registries,
    references: &[String],
    login: LoginFor<'_>,
    host: &H,
) -> Result<Found<H::Image>, Vec<RegistryError>> {
    let mut tried = Vec::new();
    let mut closed: BTreeSet<String> = BTreeSet::new();
    let found = |place, mut tried: Vec<RegistryError>| {
        tried.retain(|error| !matches!(error, RegistryError::Missing { .. }));
        Ok(Found { place, faults: tried })
    };
    for reference in references {
        match host.image(reference).await {
            Ok(Some(image)) => return found(Place::Here { reference: reference.clone(), image }, tried),
            Ok(None) => {}
            Err(why) => {
                tried.push(RegistryError::Here { reference: reference.clone(), why });
                continue;
            }
        }
        let repository = split(reference).0;
        let registry = host_and_repository(repository).0;
        if closed.contains(repository) || closed.contains(&registry) {
            continue;
        }
        match in_registry(registries, reference, login(repository).as_ref(), host).await {
            Ok(place) => return found(place, tried),
            Err(error) => {
                // What cannot be reached, or lets nobody in, will not do so for another tag.
                match &error {
                    RegistryError::Down { .. } => closed.insert(registry),
                    RegistryError::Denied { .. } | RegistryError::TooMany { .. } => {
                        closed.insert(repository.to_owned())
                    }
                    _ => false,
                };
                tried.push(error);
            }
        }
    }
    Err(tried)
}

async fn in_registry<H: Host>(
    registries: &Registries,
    reference: &str,
    login: Option<&Login>,
    host: &H,
) -> Result<Place<H::Image>, RegistryError> {
    match registries.find(reference, login).await {
        Ok(image) => Ok(Place::Registry(image)),
        Err(down @ RegistryError::Down { .. }) => {
            let digest = host.digest(reference, login, down).await?;
            Ok(Place::ByEngine { reference: reference.into(), digest })
        }
        Err(error) => Err(error),
    }
}

async fn near(registries: &Registries, wanted: &Wanted, login: LoginFor<'_>) -> Vec<String> {
    let mut all: Vec<(String, String)> = Vec::new();
    for repository in wanted.repositories() {
        // Those that do not answer have been told about.
        if let Ok(tags) = registries.tags(&repository, login(&repository).as_ref()).await {
            let few = nearest(wanted, &tags, NEAR_MAX);
            all.extend(few.into_iter().map(|tag| (tag, repository.clone())));
        }
    }
    let tags: Vec<String> = all.iter().map(|(tag, _)| tag.clone()).collect();
    let mut near = Vec::new();
    for tag in nearest(wanted, &tags, NEAR_MAX) {
        if let Some((_, repository)) = all.iter().find(|(other, _)| *other == tag) {
            near.push(format!("{repository}:{tag}"));
        }
    }
    near
}
