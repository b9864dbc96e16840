//! Finding the image, and what its labels tell. What is found is what check and plan speak of and what prepare takes.

use crate::engine::{Credentials, Engine, EngineError};
use crate::kind::Kind;
use crate::login::Logins;
use crate::reference;
use crate::settings::Image;
use bollard::models::ImageInspect;
use connect_migrator_connect::container::ImageFacts;
use connect_migrator_connect::version::Version;
use connect_migrator_images::credentials::Login;
use connect_migrator_images::reference::host_and_repository;
use connect_migrator_images::registry::{Registries, RegistryError, platform};
use connect_migrator_images::search::{self, Host};
use connect_migrator_sdk::Finding;

pub use connect_migrator_images::search::Place;

/// An image that can be had, and what was said on the way.
pub type Found = search::Found<Box<ImageInspect>>;

/// Finds the image that the settings name or have chosen: the first candidate that is on this host or in its registry.
///
/// # Errors
/// A blocker that lists what was tried.
pub async fn find(
    image: &Image,
    source: Option<Version>,
    engine: &Engine,
    logins: &Logins,
) -> Result<Found, Box<Finding>> {
    let registries = Registries::new(&platform())
        .map_err(|error| Box::new(Finding::blocker(error.key(), error.to_string(), error.remedy())))?;
    let login = |repository: &str| logins.of_repository(repository);
    let host = OfEngine(engine);
    let wanted = match image {
        Image::Reference(reference) => {
            let found = search::by_reference(&registries, reference, &login, &host).await;
            return found.map_err(|not_found| Box::new(not_found.finding()));
        }
        Image::Chosen(chosen) => reference::wanted(chosen, source),
        // Loaded or built, never looked for.
        Image::Archive(_) | Image::Build(_) => None,
    };
    let Some(wanted) = wanted else {
        return Err(Box::new(Finding::blocker(
            "image-missing",
            "no image can be chosen: it is not known which version runs on this host",
            "name the image itself: `image = \"…\"`",
        )));
    };
    let found = search::by_version(&registries, &wanted, &login, &host).await;
    found.map_err(|not_found| Box::new(not_found.finding()))
}

/// The engine, as the search asks it.
struct OfEngine<'e>(&'e Engine);

impl Host for OfEngine<'_> {
    type Image = Box<ImageInspect>;

    async fn image(&self, reference: &str) -> Result<Option<Box<ImageInspect>>, String> {
        let image = self.0.image(reference).await;
        image.map(|image| image.map(Box::new)).map_err(|error| error.to_string())
    }

    async fn digest(
        &self,
        reference: &str,
        login: Option<&Login>,
        down: RegistryError,
    ) -> Result<String, RegistryError> {
        // podman's API has no such question.
        if self.0.kind != Kind::Docker {
            return Err(down);
        }
        let login =
            login.map(|login| Credentials { user: login.user.clone(), password: login.password.clone() });
        let found = match self.0.in_registry(reference, login.as_ref()).await {
            Ok(found) => found,
            Err(error) => return Err(as_registry(reference, &error, down)),
        };
        let wanted = platform();
        if found.platforms.is_empty() || found.platforms.contains(&wanted) {
            return Ok(found.digest);
        }
        Err(RegistryError::Platform { reference: reference.into(), wanted, has: found.platforms })
    }
}

/// What the registry told the engine, as if it had told us; `down` when the engine does not reach it either.
fn as_registry(reference: &str, error: &EngineError, down: RegistryError) -> RegistryError {
    let host = host_and_repository(reference::split(reference).0).0;
    let reference = reference.to_owned();
    let (status, said) = match error {
        EngineError::Refused { status, message, .. } => (*status, message.clone()),
        error => (0, error.to_string()),
    };
    let tells = |words: &[&str]| words.iter().any(|word| said.to_lowercase().contains(word));
    match status {
        401 | 403 => RegistryError::Denied { host, reference, status, said },
        404 => RegistryError::Missing { reference },
        429 => RegistryError::TooMany { host, wait: None },
        _ if tells(&["toomanyrequests"]) => RegistryError::TooMany { host, wait: None },
        _ if tells(&["manifest unknown"]) => RegistryError::Missing { reference },
        _ if tells(&["unauthorized", "authentication required", "access denied"]) => {
            RegistryError::Denied { host, reference, status, said }
        }
        _ => match down {
            RegistryError::Down { host, why } => RegistryError::Down {
                host,
                why: format!("{why}; the engine does not reach it either: {said}"),
            },
            other => other,
        },
    }
}

/// What to do about a pull that failed.
#[must_use]
pub fn pull_remedy(kind: Kind, error: &EngineError) -> String {
    let text = error.to_string().to_lowercase();
    let said = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if said(&["unauthorized", "denied", "authentication required", "status 401", "status 403"]) {
        "the registry wants a login, or does not have this repository: set `login = { user = \"…\", password = { credential = \"…\" } }`, or correct `image`".into()
    } else if said(&["manifest unknown", "not found", "status 404"]) {
        format!("the registry has no such tag: correct `image`, or load the image with `{kind} load`")
    } else {
        format!(
            "see that this host reaches the registry (name, proxy, certificate), or load the image with `{kind} load`"
        )
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
