//! Which references are tried for a version of Connect: Posit publishes two families of images, tagged differently.
//!
//! <https://github.com/posit-dev/images-connect> and <https://github.com/rstudio/rstudio-docker-products>.

use crate::reference::host_and_repository;
use connect_migrator_connect::version::Version;

/// Repositories of the current family, in the order in which they are tried.
const CURRENT: [&str; 2] = ["docker.io/posit/connect", "ghcr.io/posit-dev/connect"];
/// Repositories of the older family.
const LEGACY: [&str; 2] = ["docker.io/rstudio/rstudio-connect", "ghcr.io/rstudio/rstudio-connect"];
/// Their names in a mirror that is given by its host alone.
const CURRENT_NAMES: [&str; 2] = ["posit/connect", "posit-dev/connect"];
const LEGACY_NAMES: [&str; 1] = ["rstudio/rstudio-connect"];
/// The first release of the current family.
const CURRENT_SINCE: &str = "2025.05.0";
/// The last release of the older family: it ends with 2026.06.
const LEGACY_UNTIL: &str = "2026.06.99";
/// The first releases that the older family builds on Ubuntu 22.04 and 18.04.
const JAMMY_SINCE: &str = "2023.07.0";
const BIONIC_SINCE: &str = "2022.09.0";
/// The distributions of the current family, the preferred one first.
const SYSTEMS: [&str; 2] = ["ubuntu-24.04", "ubuntu-22.04"];

/// What is wanted of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The version of Connect.
    pub version: Version,
    /// The distribution as tags name it; `None` for any.
    pub os: Option<String>,
    /// `std` or `min`.
    pub variant: String,
    /// Hosts of mirrors, or repositories; `None` for Posit's own.
    pub registries: Option<Vec<String>>,
}

/// A repository and the tags to try in it, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// `docker.io/posit/connect`.
    pub repository: String,
    /// The tags.
    pub tags: Vec<String>,
}

impl Wanted {
    /// What to try, in this order. Never a moving tag: `latest` of the older family is years old.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidates> {
        let mut all: Vec<Candidates> = Vec::new();
        let mut add = |repository: &str, tags: Vec<String>| {
            if !tags.is_empty() {
                all.push(Candidates { repository: repository.trim_end_matches('/').into(), tags });
            }
        };
        let Some(registries) = &self.registries else {
            CURRENT.iter().for_each(|r| add(r, self.current_tags()));
            LEGACY.iter().for_each(|r| add(r, self.legacy_tags()));
            return all;
        };
        for registry in registries {
            let registry = registry.trim_end_matches('/');
            if !registry.contains('/') {
                // A mirror keeps the repositories' names.
                CURRENT_NAMES.iter().for_each(|n| add(&format!("{registry}/{n}"), self.current_tags()));
                LEGACY_NAMES.iter().for_each(|n| add(&format!("{registry}/{n}"), self.legacy_tags()));
            } else if registry.ends_with("rstudio-connect") {
                add(registry, self.legacy_tags());
            } else {
                // A site's own repository may hold either.
                let mut tags = self.current_tags();
                tags.extend(self.legacy_tags());
                add(registry, tags);
            }
        }
        all
    }

    /// The same as references.
    #[must_use]
    pub fn references(&self) -> Vec<String> {
        let all = self.candidates();
        all.iter().flat_map(|c| c.tags.iter().map(move |tag| format!("{}:{tag}", c.repository))).collect()
    }

    fn current_tags(&self) -> Vec<String> {
        if !since(self.version, CURRENT_SINCE) {
            return Vec::new();
        }
        let systems: Vec<&str> = match &self.os {
            Some(os) => vec![os],
            // Until 2025.11 there was only the older distribution.
            None => SYSTEMS.to_vec(),
        };
        systems.iter().map(|os| format!("{}-{os}-{}", self.version, self.variant)).collect()
    }

    fn legacy_tags(&self) -> Vec<String> {
        let version = self.version;
        if self.variant != "std" || (since(version, LEGACY_UNTIL)) {
            return Vec::new();
        }
        let (prefixes, os): (&[&str], &[&str]) = match () {
            () if since(version, JAMMY_SINCE) => (&["ubuntu2204-", "jammy-"], &["ubuntu-22.04"]),
            () if since(version, BIONIC_SINCE) => (&["bionic-"], &["ubuntu-18.04"]),
            () => (&[""], &["ubuntu-18.04", "ubuntu-16.04"]),
        };
        if self.os.as_deref().is_some_and(|wanted| !os.contains(&wanted)) {
            return Vec::new();
        }
        prefixes.iter().map(|prefix| format!("{prefix}{version}")).collect()
    }

    /// The repositories in which something near may be found when nothing fits.
    #[must_use]
    pub fn repositories(&self) -> Vec<String> {
        match &self.registries {
            None => CURRENT.iter().chain(&LEGACY).map(|&r| r.to_owned()).collect(),
            Some(own) => own
                .iter()
                .flat_map(|registry| {
                    let registry = registry.trim_end_matches('/');
                    if registry.contains('/') {
                        return vec![registry.to_owned()];
                    }
                    CURRENT_NAMES
                        .iter()
                        .chain(&LEGACY_NAMES)
                        .map(|name| format!("{registry}/{name}"))
                        .collect()
                })
                .collect(),
        }
    }
}

/// The host of the registry that is tried first. A mirror that is given by its host alone is that host, whatever it is made of: what
/// is meant for it must not go to docker's hub.
#[must_use]
pub fn first_registry(registries: Option<&[String]>) -> String {
    let first = registries.map_or(CURRENT.first().copied(), |own| own.first().map(String::as_str));
    let first = first.unwrap_or_default().trim_end_matches('/');
    if first.contains('/') { host_and_repository(first).0 } else { first.to_owned() }
}

fn since(version: Version, text: &str) -> bool {
    Version::parse(text).is_ok_and(|first| version >= first)
}

/// The tags whose version is nearest to the wanted one, at most `most`, nearest first.
#[must_use]
pub fn nearest(wanted: &Wanted, tags: &[String], most: usize) -> Vec<String> {
    let place = |version: Version| {
        let [year, month, patch] = version.parts().map(i64::from);
        (year * 12 + month) * 1000 + patch
    };
    let here = place(wanted.version);
    let mut near: Vec<(i64, bool, &String)> = tags
        .iter()
        .filter(|tag| !tag.contains("--") && !tag.starts_with("sha256"))
        .filter_map(|tag| {
            let version = Version::find(tag)?;
            let other_variant = tag.ends_with("-min") != (wanted.variant == "min");
            Some(((place(version) - here).abs(), other_variant, tag))
        })
        .collect();
    near.sort();
    near.into_iter().take(most).map(|(_, _, tag)| tag.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(version: &str, os: Option<&str>, registries: Option<Vec<String>>) -> Wanted {
        let version = Version::parse(version).unwrap();
        Wanted { version, os: os.map(Into::into), variant: "std".into(), registries }
    }

    #[test]
    fn each_release_is_looked_for_where_its_family_tags_it() {
        for (version, os, first, last) in [
            (
                "1.9.0.1",
                None,
                "docker.io/rstudio/rstudio-connect:1.9.0.1",
                "ghcr.io/rstudio/rstudio-connect:1.9.0.1",
            ),
            (
                "2021.08.0",
                None,
                "docker.io/rstudio/rstudio-connect:2021.08.0",
                "ghcr.io/rstudio/rstudio-connect:2021.08.0",
            ),
            (
                "2022.09.0",
                None,
                "docker.io/rstudio/rstudio-connect:bionic-2022.09.0",
                "ghcr.io/rstudio/rstudio-connect:bionic-2022.09.0",
            ),
            (
                "2023.06.0",
                None,
                "docker.io/rstudio/rstudio-connect:bionic-2023.06.0",
                "ghcr.io/rstudio/rstudio-connect:bionic-2023.06.0",
            ),
            (
                "2023.07.0",
                None,
                "docker.io/rstudio/rstudio-connect:ubuntu2204-2023.07.0",
                "ghcr.io/rstudio/rstudio-connect:jammy-2023.07.0",
            ),
            (
                "2025.05.0",
                None,
                "docker.io/posit/connect:2025.05.0-ubuntu-24.04-std",
                "ghcr.io/rstudio/rstudio-connect:jammy-2025.05.0",
            ),
            (
                "2026.03.1",
                Some("ubuntu-24.04"),
                "docker.io/posit/connect:2026.03.1-ubuntu-24.04-std",
                "ghcr.io/posit-dev/connect:2026.03.1-ubuntu-24.04-std",
            ),
            (
                "2026.08.0",
                None,
                "docker.io/posit/connect:2026.08.0-ubuntu-24.04-std",
                "ghcr.io/posit-dev/connect:2026.08.0-ubuntu-22.04-std",
            ),
        ] {
            let all: Vec<String> = wanted(version, os, None)
                .candidates()
                .iter()
                .flat_map(|c| c.tags.iter().map(move |tag| format!("{}:{tag}", c.repository)))
                .collect();
            assert_eq!((all[0].as_str(), all[all.len() - 1].as_str()), (first, last), "{version}");
            assert!(all.iter().all(|r| !r.ends_with(":latest")));
        }
        // A distribution that the older family does not have.
        assert_eq!(wanted("2024.12.0", Some("ubuntu-24.04"), None).candidates(), []);
    }

    #[test]
    fn mirrors_are_named_by_host_or_by_repository() {
        let all =
            wanted("2025.12.1", None, Some(vec!["m:5000".into(), "m:5000/own/connect/".into()])).candidates();
        let names: Vec<&str> = all.iter().map(|c| c.repository.as_str()).collect();
        assert_eq!(
            names,
            [
                "m:5000/posit/connect",
                "m:5000/posit-dev/connect",
                "m:5000/rstudio/rstudio-connect",
                "m:5000/own/connect"
            ]
        );
        assert_eq!(all[3].tags.len(), 4);
    }

    #[test]
    fn the_nearest_version_of_the_same_variant_comes_first() {
        let tags = [
            "latest",
            "2025.09.1-ubuntu-22.04-min",
            "2025.09.1-ubuntu-22.04-std",
            "2025.10.0",
            "jammy-2025.07.0--abc",
        ]
        .map(String::from);
        assert_eq!(
            nearest(&wanted("2025.09.0", None, None), &tags, 2),
            ["2025.09.1-ubuntu-22.04-std", "2025.09.1-ubuntu-22.04-min"]
        );
    }
}
