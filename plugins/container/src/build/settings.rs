//! What to build, as the runbook says it.

use crate::settings::VersionChoice;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Default of `build-timeout`: a standard image compiles little and downloads much.
pub const DEFAULT_BUILD_TIMEOUT_SECONDS: u64 = 2 * 3600;
/// Default of `build-context-max-mib`.
pub const DEFAULT_CONTEXT_MAX_MIB: u64 = 1024;

/// An image that is built on this host.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum BuildImage {
    /// One that a bakery file defines.
    Bakery(BakeryBuild),
    /// One of a Containerfile.
    File(FileBuild),
}

/// An image that a bakery file of Posit's, or one's own, defines. Its folder is the context.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct BakeryBuild {
    /// The bakery file.
    pub bakery: PathBuf,
    /// Which of its images. Default: `connect`, or the only one.
    pub image: Option<String>,
    /// Default: the version that runs on this host.
    pub version: Option<VersionChoice>,
    /// By name or as tags name it. Default: `std`, else the primary one.
    pub variant: Option<String>,
    /// By name or as tags name it. Default: the primary one.
    pub os: Option<String>,
}

/// An image of a Containerfile.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
pub struct FileBuild {
    /// The file.
    pub containerfile: PathBuf,
    /// The folder that it copies from. Default: its own.
    pub context: Option<PathBuf>,
    /// The stage to build. Default: the last.
    pub target: Option<String>,
    /// Values for its `ARG`s. No secrets: an image shows them.
    #[schemars(default)]
    pub args: BTreeMap<String, String>,
}

/// The keys of both, before it is known which it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BuildTable {
    #[serde(default)]
    bakery: Option<PathBuf>,
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    version: Option<VersionChoice>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    containerfile: Option<PathBuf>,
    #[serde(default)]
    context: Option<PathBuf>,
    #[serde(default)]
    target: Option<String>,
    #[serde(default)]
    args: BTreeMap<String, String>,
}

impl BuildTable {
    /// With the two keys that may also stand alone.
    #[must_use]
    pub fn of_file(containerfile: Option<PathBuf>, context: Option<PathBuf>) -> Self {
        BuildTable { containerfile, context, ..BuildTable::default() }
    }

    /// Which of both it is.
    ///
    /// # Errors
    /// When keys do not go together.
    pub fn sorted(self) -> Result<BuildImage, String> {
        let of_file = self.context.is_some() || self.target.is_some() || !self.args.is_empty();
        let of_bakery =
            self.image.is_some() || self.version.is_some() || self.variant.is_some() || self.os.is_some();
        match (self.bakery, self.containerfile) {
            (Some(_), Some(_)) => Err("give either `bakery` or `containerfile`".into()),
            (None, None) => Err("give `bakery`, or `containerfile`, to say what is built".into()),
            (Some(_), None) if of_file => Err(
                "`context`, `target` and `args` belong to `containerfile`; a bakery file says them itself"
                    .into(),
            ),
            (None, Some(_)) if of_bakery => Err(
                "`image`, `version`, `variant` and `os` belong to `bakery`; a Containerfile says them itself"
                    .into(),
            ),
            (Some(bakery), None) => Ok(BuildImage::Bakery(BakeryBuild {
                bakery,
                image: self.image,
                version: self.version,
                variant: self.variant,
                os: self.os,
            })),
            (None, Some(containerfile)) => Ok(BuildImage::File(FileBuild {
                containerfile,
                context: self.context,
                target: self.target,
                args: self.args,
            })),
        }
    }
}
