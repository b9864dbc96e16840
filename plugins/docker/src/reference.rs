//! References of images: reading them, and choosing one by Connect's version.

use crate::settings::{ChosenImage, Image};
use connect_migrator_connect::version::Version;

/// Repositories of the current family of images, in the order in which they are tried.
const CURRENT: [&str; 2] = ["docker.io/posit/connect", "ghcr.io/posit-dev/connect"];
/// Repositories of the older family.
const LEGACY: [&str; 2] = ["docker.io/rstudio/rstudio-connect", "ghcr.io/rstudio/rstudio-connect"];
/// The first release of the current family.
const CURRENT_SINCE: &str = "2025.05.0";
/// The first releases that the older family builds on Ubuntu 22.04 and 18.04.
const JAMMY_SINCE: &str = "2023.07.0";
const BIONIC_SINCE: &str = "2022.09.0";

/// A reference without its tag or digest, and the tag or digest.
#[must_use]
pub fn split(reference: &str) -> (&str, Option<&str>) {
    if let Some((name, digest)) = reference.split_once('@') {
        // `name:tag@digest`: the digest decides.
        let name = split(name).0;
        return (name, Some(digest));
    }
    match reference.rsplit_once(':') {
        // A colon before a slash belongs to a registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (reference, None),
    }
}

/// The references to try, best first. Empty when the source's version must be known for it and is not.
#[must_use]
pub fn candidates(image: &Image, source: Option<Version>) -> Vec<String> {
    match image {
        Image::Reference(reference) => vec![reference.clone()],
        Image::Chosen(chosen) => source.map(|version| chosen_for(chosen, version)).unwrap_or_default(),
    }
}

fn chosen_for(chosen: &ChosenImage, version: Version) -> Vec<String> {
    let os = chosen.os.as_deref().unwrap_or("ubuntu-24.04");
    let variant = chosen.variant.as_deref().unwrap_or("std");
    let current = |repository: &str| {
        let repository = repository.trim_end_matches('/');
        let mut tags = vec![format!("{repository}:{version}-{os}-{variant}")];
        if chosen.os.is_none() && variant == "std" {
            // Until 2025.11 there was one distribution only, and it was the older one.
            tags.push(format!("{repository}:{version}-ubuntu-22.04-{variant}"));
        }
        tags
    };
    if let Some(registries) = &chosen.registries {
        return registries.iter().flat_map(|r| current(r)).collect();
    }
    let since = |text: &str| Version::parse(text).is_ok_and(|first| version >= first);
    let mut found: Vec<String> = Vec::new();
    if since(CURRENT_SINCE) {
        found.extend(CURRENT.iter().flat_map(|r| current(r)));
    }
    if variant == "std" && chosen.os.as_deref().is_none_or(|os| os == "ubuntu-22.04") {
        let prefixes: &[&str] = match () {
            () if since(JAMMY_SINCE) => &["ubuntu2204-", "jammy-"],
            () if since(BIONIC_SINCE) => &["bionic-"],
            () => &[""],
        };
        found.extend(LEGACY.iter().flat_map(|r| prefixes.iter().map(move |p| format!("{r}:{p}{version}"))));
    }
    found
}

/// The version that a reference's tag tells.
#[must_use]
pub fn version_in_tag(reference: &str) -> Option<Version> {
    split(reference).1.filter(|tag| !tag.starts_with("sha256:")).and_then(Version::find)
}

/// The digest under which the registry knows an image, out of the engine's list: `name@sha256:…`.
#[must_use]
pub fn pinned(reference: &str, repo_digests: &[String]) -> Option<String> {
    let name = split(reference).0;
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    let short = short.strip_prefix("library/").unwrap_or(short);
    repo_digests
        .iter()
        .find(|digest| {
            let have = split(digest).0;
            have == name || have == short
        })
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::VersionChoice;

    #[test]
    fn references_are_split_where_the_engine_splits_them() {
        for (text, parts) in [
            ("a/b:1", ("a/b", Some("1"))),
            ("127.0.0.1:5000/posit/connect", ("127.0.0.1:5000/posit/connect", None)),
            ("127.0.0.1:5000/posit/connect:1", ("127.0.0.1:5000/posit/connect", Some("1"))),
            ("a@sha256:00", ("a", Some("sha256:00"))),
            ("h:1/a:2@sha256:00", ("h:1/a", Some("sha256:00"))),
        ] {
            assert_eq!(split(text), parts, "{text}");
        }
    }

    fn chosen(os: Option<&str>, registries: Option<Vec<String>>) -> Image {
        Image::Chosen(ChosenImage {
            reference: None,
            version: Some(VersionChoice::MatchSource),
            os: os.map(Into::into),
            variant: None,
            registries,
        })
    }

    #[test]
    fn an_image_is_chosen_by_the_sources_version() {
        let find = |image: &Image, version: &str| candidates(image, Some(Version::parse(version).unwrap()));
        let any = chosen(None, None);
        assert_eq!(find(&any, "2026.03.1")[0], "docker.io/posit/connect:2026.03.1-ubuntu-24.04-std");
        assert!(
            find(&any, "2026.03.1").contains(&"docker.io/rstudio/rstudio-connect:jammy-2026.03.1".into())
        );
        assert_eq!(find(&any, "2024.12.0")[0], "docker.io/rstudio/rstudio-connect:ubuntu2204-2024.12.0");
        assert_eq!(find(&any, "2023.01.0")[0], "docker.io/rstudio/rstudio-connect:bionic-2023.01.0");
        assert_eq!(find(&any, "2021.08.0")[0], "docker.io/rstudio/rstudio-connect:2021.08.0");
        // A distribution that the older family does not have.
        assert!(find(&chosen(Some("ubuntu-24.04"), None), "2024.12.0").is_empty());
        let own = chosen(Some("ubuntu-24.04"), Some(vec!["127.0.0.1:5000/posit/connect/".into()]));
        assert_eq!(find(&own, "2026.03.1"), ["127.0.0.1:5000/posit/connect:2026.03.1-ubuntu-24.04-std"]);
        assert!(candidates(&any, None).is_empty());
    }

    #[test]
    fn the_digest_of_the_right_repository_is_taken() {
        let digests = vec!["other/connect@sha256:11".to_string(), "posit/connect@sha256:22".to_string()];
        assert_eq!(pinned("docker.io/posit/connect:1", &digests).as_deref(), Some("posit/connect@sha256:22"));
        assert_eq!(pinned("h:5000/posit/connect:1", &digests), None);
    }

    #[test]
    fn tags_tell_versions() {
        assert_eq!(version_in_tag("a:2026.03.1-std").unwrap().to_string(), "2026.03.1");
        assert_eq!(version_in_tag("h:5000/a:jammy-2023.07.0").unwrap().to_string(), "2023.07.0");
        assert_eq!(version_in_tag("a@sha256:2026"), None);
    }
}
