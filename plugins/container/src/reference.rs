//! Which references are tried for the image that the settings ask for.

use crate::settings::{ChosenImage, Image, VersionChoice};
use connect_migrator_connect::version::Version;
use connect_migrator_images::choice::Wanted;
pub use connect_migrator_images::reference::{pinned, split, version_in_tag};

/// The references to try, best first. Empty when the source's version must be known for it and is not.
#[must_use]
pub fn candidates(image: &Image, source: Option<Version>) -> Vec<String> {
    match image {
        Image::Reference(reference) => vec![reference.clone()],
        // It has none before it is loaded or built.
        Image::Archive(_) | Image::Build(_) => Vec::new(),
        Image::Chosen(chosen) => wanted(chosen, source).map_or_else(Vec::new, |wanted| wanted.references()),
    }
}

/// What is looked for in registries; `None` when the source's version must be known for it and is not.
#[must_use]
pub fn wanted(chosen: &ChosenImage, source: Option<Version>) -> Option<Wanted> {
    let version = match chosen.version {
        Some(VersionChoice::Exactly(version)) => version,
        _ => source?,
    };
    Some(Wanted {
        version,
        os: chosen.os.clone(),
        variant: chosen.variant.clone().unwrap_or_else(|| "std".into()),
        registries: chosen.registries.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(os: Option<&str>, registries: Option<Vec<String>>) -> ChosenImage {
        ChosenImage {
            reference: None,
            archive: None,
            digest: None,
            build: None,
            containerfile: None,
            context: None,
            version: Some(VersionChoice::MatchSource),
            os: os.map(Into::into),
            variant: None,
            registries,
        }
    }

    #[test]
    fn an_image_is_chosen_by_the_sources_version() {
        let find = |image: ChosenImage, version: &str| {
            candidates(&Image::Chosen(image), Some(Version::parse(version).unwrap()))
        };
        let any = || chosen(None, None);
        assert_eq!(find(any(), "2026.03.1")[0], "docker.io/posit/connect:2026.03.1-ubuntu-24.04-std");
        assert!(
            find(any(), "2026.03.1").contains(&"docker.io/rstudio/rstudio-connect:jammy-2026.03.1".into())
        );
        assert_eq!(find(any(), "2024.12.0")[0], "docker.io/rstudio/rstudio-connect:ubuntu2204-2024.12.0");
        // A distribution that the older family does not have.
        assert!(find(chosen(Some("ubuntu-24.04"), None), "2024.12.0").is_empty());
        let own = chosen(Some("ubuntu-24.04"), Some(vec!["127.0.0.1:5000/posit/connect/".into()]));
        assert_eq!(find(own, "2026.03.1"), ["127.0.0.1:5000/posit/connect:2026.03.1-ubuntu-24.04-std"]);
        assert!(candidates(&Image::Chosen(any()), None).is_empty());
    }

    #[test]
    fn a_version_that_is_named_counts_more_than_the_sources() {
        let version = Some(VersionChoice::Exactly(Version::parse("2026.03.1").unwrap()));
        let image = ChosenImage { version, ..chosen(Some("ubuntu-24.04"), None) };
        let other = Version::parse("2025.12.1").ok();
        assert_eq!(wanted(&image, other).unwrap().version.to_string(), "2026.03.1");
        assert_eq!(wanted(&image, None).unwrap().version.to_string(), "2026.03.1");
    }
}
