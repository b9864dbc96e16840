//! Looking for an image in registries until one really has it.

use crate::choice::{Wanted, nearest};
use crate::credentials::Login;
use crate::registry::{Registries, RegistryError, RemoteImage};
use connect_migrator_sdk::Finding;

/// How many near images are named.
const NEAR_MAX: usize = 3;

/// An image that a registry has, and what was said on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The image.
    pub image: RemoteImage,
    /// What registries before it answered, other than that they do not have it.
    pub faults: Vec<RegistryError>,
}

/// No registry has a fitting image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct NotFound {
    /// What was looked for.
    pub what: String,
    /// What was tried, with the answers.
    pub tried: Vec<RegistryError>,
    /// References that exist and are near.
    pub near: Vec<String>,
}

impl NotFound {
    fn text(&self) -> String {
        let mut text = format!("no registry has {}", self.what);
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
pub async fn by_version(
    registries: &Registries,
    wanted: &Wanted,
    login: LoginFor<'_>,
) -> Result<Found, NotFound> {
    let mut tried = Vec::new();
    for candidates in wanted.candidates() {
        let login = login(&candidates.repository);
        for tag in &candidates.tags {
            let reference = format!("{}:{tag}", candidates.repository);
            match registries.find(&reference, login.as_ref()).await {
                Ok(image) => {
                    tried.retain(|error| !matches!(error, RegistryError::Missing { .. }));
                    return Ok(Found { image, faults: tried });
                }
                Err(error) => {
                    // One that cannot be reached, or lets nobody in, will not do so for another tag.
                    let hopeless = matches!(
                        error,
                        RegistryError::Down { .. }
                            | RegistryError::Denied { .. }
                            | RegistryError::TooMany { .. }
                    );
                    tried.push(error);
                    if hopeless {
                        break;
                    }
                }
            }
        }
    }
    let near = near(registries, wanted, login).await;
    let os = wanted.os.as_deref().map(|os| format!(" on {os}")).unwrap_or_default();
    Err(NotFound {
        what: format!("an image of Connect {}{os} ({})", wanted.version, wanted.variant),
        tried,
        near,
    })
}

/// One reference, as it stands.
///
/// # Errors
/// What the registry answered instead.
pub async fn by_reference(
    registries: &Registries,
    reference: &str,
    login: LoginFor<'_>,
) -> Result<Found, NotFound> {
    let login = login(crate::reference::split(reference).0);
    match registries.find(reference, login.as_ref()).await {
        Ok(image) => Ok(Found { image, faults: Vec::new() }),
        Err(error) => Err(NotFound { what: reference.into(), tried: vec![error], near: Vec::new() }),
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
