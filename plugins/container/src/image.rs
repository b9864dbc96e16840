//! Finding the image, and what its labels tell.

use crate::engine::{Engine, EngineError};
use crate::kind::Kind;
use crate::login::Logins;
use crate::reference;
use bollard::models::ImageInspect;
use connect_migrator_connect::container::ImageFacts;
use connect_migrator_connect::version::Version;
use connect_migrator_images::registry::{Registries, RegistryError, platform};

/// An image that can be had.
#[derive(Debug, Clone)]
pub enum Found {
    /// It is on this host.
    Local {
        /// The reference under which it was asked for.
        reference: String,
        /// What the engine knows about it.
        about: Box<ImageInspect>,
    },
    /// Its registry has it.
    Remote {
        /// The reference under which it was asked for.
        reference: String,
        /// Its digest there.
        digest: String,
    },
}

/// The first candidate that is on this host, and what the engine knows about it.
pub async fn local(engine: &Engine, candidates: &[String]) -> Option<(String, ImageInspect)> {
    for reference in candidates {
        if let Ok(Some(about)) = engine.image(reference).await {
            return Some((reference.clone(), about));
        }
    }
    None
}

/// No candidate can be had: each with what was said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFound(pub Vec<(String, EngineError)>);

/// Finds the first candidate that is here or in its registry.
///
/// # Errors
/// What was said about each candidate.
pub async fn find(engine: &Engine, candidates: &[String], logins: &Logins) -> Result<Found, NotFound> {
    let mut said = Vec::new();
    for reference in candidates {
        match engine.image(reference).await {
            Ok(Some(about)) => {
                return Ok(Found::Local { reference: reference.clone(), about: Box::new(about) });
            }
            Ok(None) => {}
            Err(error) => {
                said.push((reference.clone(), error));
                continue;
            }
        }
        match in_registry(engine, reference, logins).await {
            Ok(digest) => return Ok(Found::Remote { reference: reference.clone(), digest }),
            Err(error) => said.push((reference.clone(), error)),
        }
    }
    Err(NotFound(said))
}

/// The image's digest in its registry, without pulling it. podman's API has no such question, so the registry is asked directly.
async fn in_registry(engine: &Engine, reference: &str, logins: &Logins) -> Result<String, EngineError> {
    if engine.kind == Kind::Docker {
        return engine.in_registry(reference, logins.of_reference(reference).as_ref()).await;
    }
    let refused = |error: RegistryError| EngineError::Refused {
        kind: engine.kind,
        call: format!("find {reference} in its registry"),
        status: match error {
            RegistryError::Denied { .. } => 401,
            RegistryError::Missing { .. } => 404,
            _ => 0,
        },
        message: error.to_string(),
    };
    let registries = Registries::new(&platform()).map_err(refused)?;
    let login = logins.of_repository(reference::split(reference).0);
    let image = registries.find(reference, login.as_ref()).await.map_err(refused)?;
    Ok(image.pinned.rsplit('@').next().unwrap_or_default().to_owned())
}

impl NotFound {
    /// What was said, in one sentence.
    #[must_use]
    pub fn why(&self) -> String {
        let said: Vec<String> = self
            .0
            .iter()
            .map(|(reference, error)| match error {
                EngineError::Refused { message, .. } => format!("{reference}: {message}"),
                error => format!("{reference}: {error}"),
            })
            .collect();
        said.join("; ")
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self, kind: Kind) -> String {
        let said = |words: &[&str]| {
            self.0.iter().any(|(_, error)| {
                let text = error.to_string().to_lowercase();
                words.iter().any(|word| text.contains(word))
            })
        };
        if said(&["unauthorized", "denied", "authentication required", "status 401", "status 403"]) {
            "the registry wants a login, or does not have this repository: set `login = { user = \"…\", password = { credential = \"…\" } }`, or correct `image`".into()
        } else if said(&["and this machine is"]) {
            "name an image for this platform, or build one (`image = { build = … }`)".into()
        } else if said(&["manifest unknown", "not found", "status 404"]) {
            format!(
                "the registry has no such tag: correct `image` (images exist only for some patch releases), or load the image with `{kind} load`"
            )
        } else {
            format!(
                "see that this host reaches the registry (name, proxy, certificate), or load the image with `{kind} load`"
            )
        }
    }
}

/// The version that labels tell, else the tag.
#[must_use]
pub fn version_by<'a>(label: impl Fn(&str) -> Option<&'a str>, reference: &str) -> Option<Version> {
    ["co.posit.image.version", "org.opencontainers.image.version"]
        .iter()
        .filter_map(|name| label(name))
        .find_map(Version::find)
        .or_else(|| reference::version_in_tag(reference))
}

/// A label of an image.
#[must_use]
pub fn label<'a>(about: &'a ImageInspect, name: &str) -> Option<&'a str> {
    about.config.as_ref()?.labels.as_ref()?.get(name).map(String::as_str).filter(|text| !text.is_empty())
}

/// The version that an image says it has: by label, else by its tag.
#[must_use]
pub fn version(about: &ImageInspect, reference: &str) -> Option<Version> {
    version_by(|name| label(about, name), reference)
}

/// What its labels tell about its inside.
#[must_use]
pub fn facts(about: &ImageInspect) -> ImageFacts {
    ImageFacts::from_labels(|name| label(about, name))
}
