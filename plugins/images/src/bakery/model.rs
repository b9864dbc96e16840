//! What a bakery file says, defaults filled in.

use super::dependency::{Dependency, DependencyConstraint};
use serde::Serialize;
use std::collections::BTreeMap;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bakery {
    /// The project that the images come from.
    pub repository: Repository,
    /// Registries of all images, sorted as the vendor's tool sorts them.
    pub registries: Vec<Registry>,
    /// The images.
    pub images: Vec<Image>,
}

/// The project that the images come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repository {
    /// With `https://` in front where the file leaves it out.
    pub url: String,
    /// Who publishes the images.
    pub vendor: String,
    /// Who looks after them.
    pub maintainer: Person,
    /// Who wrote them, sorted, each once.
    pub authors: Vec<Person>,
}

/// A name and an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Person {
    /// The name.
    pub name: String,
    /// The mail address.
    pub email: String,
}

/// A registry, or a repository in one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Registry {
    /// `docker.io`.
    pub host: String,
    /// `posit`.
    pub namespace: Option<String>,
    /// The repository, where it is not named like the image.
    pub repository: Option<String>,
}

impl Registry {
    /// Host and namespace.
    #[must_use]
    pub fn base(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}/{namespace}", self.host),
            None => self.host.clone(),
        }
    }

    /// The repository in which the image `name` lies.
    #[must_use]
    pub fn repository_of(&self, name: &str) -> String {
        format!("{}/{}", self.base(), self.repository.as_deref().unwrap_or(name))
    }
}

/// Registries of an image or version. At most one of both lists has entries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Registries {
    /// Beside those from above.
    pub extra: Vec<Registry>,
    /// Instead of those from above.
    pub instead: Vec<Registry>,
}

impl Registries {
    /// Those in effect, given those from above.
    #[must_use]
    pub fn with(&self, above: &[Registry]) -> Vec<Registry> {
        if !self.instead.is_empty() {
            return self.instead.clone();
        }
        let mut all = self.extra.clone();
        all.extend(above.iter().filter(|registry| !self.extra.contains(registry)).cloned());
        all
    }
}

/// An image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Image {
    /// `connect`.
    pub name: String,
    /// `Posit Connect`.
    pub display_name: String,
    /// What it is.
    pub description: Option<String>,
    /// Where more stands, with `https://` in front.
    pub documentation_url: Option<String>,
    /// Its folder below that of the file.
    pub subpath: String,
    /// Its registries.
    pub registries: Registries,
    /// Its tag patterns: those of the file, or the vendor's.
    pub tag_patterns: Vec<TagPattern>,
    /// What new versions of it are made with.
    pub dependency_constraints: Vec<DependencyConstraint>,
    /// Its variants.
    pub variants: Vec<Variant>,
    /// Its versions.
    pub versions: Vec<Version>,
    /// Versions by combination, instead.
    pub matrix: Option<Matrix>,
    /// Versions in development.
    pub development: Vec<Development>,
    /// Options of the vendor's tools.
    pub options: Vec<ToolOption>,
    /// The stage to build.
    pub build_target: Option<String>,
    /// Secrets for the build.
    pub build_secrets: Vec<BuildSecret>,
}

/// A secret for a build, from an environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildSecret {
    /// As the Containerfile names it.
    pub id: String,
    /// The variable.
    pub env_var: String,
}

/// A variant of an image: `Standard`, `Minimal`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Whether it is meant when none is named.
    pub primary: bool,
    /// The end of its Containerfile's name; may be empty.
    pub extension: String,
    /// In tags.
    pub tag_name: String,
    /// Tag patterns beside the image's.
    pub tag_patterns: Vec<TagPattern>,
    /// Options of the vendor's tools.
    pub options: Vec<ToolOption>,
}

/// A version of an image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Version {
    /// `2026.03.1`.
    pub name: String,
    /// Its folder below that of the image.
    pub subpath: String,
    /// Whether moving tags lead to it.
    pub latest: bool,
    /// Its registries.
    pub registries: Registries,
    /// Its distributions.
    pub os: Vec<Os>,
    /// What it contains.
    pub dependencies: Vec<Dependency>,
    /// For templates.
    pub values: BTreeMap<String, String>,
    /// The stage to build.
    pub build_target: Option<String>,
}

/// A distribution on which a version is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Os {
    /// `Ubuntu 24.04`.
    pub name: String,
    /// Whether it is meant when none is named.
    pub primary: bool,
    /// The end of its Containerfile's name; may be empty.
    pub extension: String,
    /// In tags.
    pub tag_name: String,
    /// `linux/amd64`, `linux/arm64`.
    pub platforms: Vec<String>,
    /// Where its product package comes from.
    pub artifact_download_url: Option<String>,
}

/// Versions by combination.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Matrix {
    /// How each is named.
    pub name_pattern: String,
    /// Its folder below that of the image.
    pub subpath: String,
    /// Dependencies with their versions.
    pub dependencies: Vec<Dependency>,
    /// Dependencies whose versions are looked up when the vendor builds.
    pub dependency_constraints: Vec<DependencyConstraint>,
    /// Other values; a list is combined.
    pub values: BTreeMap<String, MatrixValue>,
    /// Its distributions.
    pub os: Vec<Os>,
    /// Its registries.
    pub registries: Registries,
    /// The stage to build.
    pub build_target: Option<String>,
}

/// A value of a matrix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum MatrixValue {
    /// The same for all.
    One(String),
    /// One for each combination.
    Each(Vec<String>),
}

/// Where a version in development comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum DevelopmentSource {
    /// A channel of a product.
    Channel {
        /// `connect`, …
        product: String,
        /// `daily`, `preview`, `release`.
        channel: String,
    },
    /// The newest version of a dependency.
    Dependency {
        /// `quarto`, …
        dependency: String,
        /// Whether releases that are not final count.
        prerelease: bool,
        /// `daily`, `preview`.
        channel: Option<String>,
    },
}

/// A version in development. Its number is known only to those who ask the vendor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Development {
    /// Where it comes from.
    pub source: DevelopmentSource,
    /// Its distributions.
    pub os: Vec<Os>,
    /// Its registries.
    pub registries: Registries,
    /// For templates.
    pub values: BTreeMap<String, String>,
}

/// Patterns of tags, and for which builds they hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct TagPattern {
    /// Jinja templates.
    pub patterns: Vec<String>,
    /// All must hold.
    pub only: Vec<Filter>,
}

/// A condition of a tag pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Filter {
    /// Every build.
    All,
    /// The latest version.
    Latest,
    /// In a matrix: the latest patch release of a combination.
    LatestPatch,
    /// The primary distribution.
    #[serde(rename = "primaryOS")]
    PrimaryOs,
    /// The primary variant.
    PrimaryVariant,
    /// Not an older version of a channel.
    ChannelLatest,
}

/// An option of one of the vendor's tools. Only those that say how the image is run are read out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToolOption {
    /// `goss`, `soci`, `hadolint`, `wizcli`.
    pub tool: String,
    /// goss: more arguments for running the container.
    pub runtime_options: Option<String>,
    /// goss: what the container runs.
    pub command: Option<String>,
    /// goss: seconds until tests begin.
    pub wait_seconds: Option<u64>,
}
