//! The settings under `with`.

use crate::build::settings::{
    BuildImage, BuildTable, DEFAULT_BUILD_TIMEOUT_SECONDS, DEFAULT_CONTEXT_MAX_MIB,
};
use crate::scan::{DEFAULT_SCAN_TIMEOUT_SECONDS, ScanFails};
use connect_migrator_connect::installation::Listen;
use connect_migrator_connect::version::Version;
use connect_migrator_sdk::{SecretRef, Span, StepError};
use schemars::JsonSchema;
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a container answers unless the runbook says otherwise.
const DEFAULT_PUBLISH: &str = "127.0.0.1:3940";
/// Default of `start-timeout`: a first start may work on the database's schema.
const DEFAULT_START_TIMEOUT_SECONDS: u64 = 300;
/// Default of `pull-timeout`: the standard images are several gigabytes.
const DEFAULT_PULL_TIMEOUT_SECONDS: u64 = 3600;
/// Default of `stop-timeout`, as Posit advises for containers of Connect.
const DEFAULT_STOP_TIMEOUT_SECONDS: u64 = 120;
/// Default of `answer-timeout`: a server that builds content answers late, and one that is gone should not be waited for.
const DEFAULT_ANSWER_TIMEOUT_SECONDS: u64 = 15;
/// Default of `engine-timeout`.
const DEFAULT_ENGINE_TIMEOUT_SECONDS: u64 = 60;
/// Names of containers and hosts are no longer.
const NAME_MAX_CHARS: usize = 63;

/// The settings of a step that runs Connect in a container.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The image: a reference such as `docker.io/posit/connect:2026.03.1-ubuntu-24.04-std`, or a table with `version = "match-source"`.
    pub image: Image,
    /// The container's name. Default `connect-<instance>`.
    #[serde(default)]
    pub name: Option<String>,
    /// Where the container answers on this host, `address:port`, without TLS. Default `127.0.0.1:3940`.
    #[serde(default = "default_publish")]
    pub publish: String,
    /// `bridge` (default): a network of its own with one published port. `host`: this host's network, for a database that listens
    /// on a loopback address only.
    #[serde(default)]
    pub network: Network,
    /// How Connect gets what its sandbox needs. Default `privileged`.
    #[serde(default)]
    pub privileges: Privileges,
    /// The container's host name; must not be this host's. Default `<host>-<name>`.
    #[serde(default)]
    pub hostname: Option<String>,
    /// More of this host that the container sees.
    #[serde(default)]
    pub mounts: Vec<ExtraMount>,
    /// More environment variables. No secrets: everyone who may use the engine can read them.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The licence file. Default: every `*.lic` in `/var/lib/rstudio-connect`.
    #[serde(default)]
    pub licence: Option<PathBuf>,
    /// What to do when the user that runs content has other numbers on this host than in the image. Default `check`.
    #[serde(default)]
    pub run_as_ids: RunAsIds,
    /// Accept a data directory on a local disk. It ties the container to this host.
    #[serde(default)]
    pub allow_local_data: bool,
    /// What the container runs. Default `connect`.
    #[serde(default)]
    pub command: Command,
    /// Login for one registry; no other is shown it. Others get what docker or podman have for them, if anything.
    #[serde(default)]
    pub login: Option<Login>,
    /// How long Connect may take until it answers in the container. Default `5m`. The engine may take as long, and at least
    /// `engine-timeout`, to start the container.
    #[serde(default = "default_start_timeout")]
    pub start_timeout: Span,
    /// How long Connect in the container, once it serves, may answer nothing until it counts as broken. Default `15s`. When the
    /// container was started again, by a reboot or because it had ended, it has `start-timeout`, 4 minutes at most.
    #[serde(default = "default_answer_timeout")]
    pub answer_timeout: Span,
    /// How long pulling the image, or loading it from an archive, may take. Default `1h`.
    #[serde(default = "default_pull_timeout")]
    pub pull_timeout: Span,
    /// How long Connect may take to end after it was asked to; then it is killed. Default `120s`.
    #[serde(default = "default_stop_timeout")]
    pub stop_timeout: Span,
    /// How long a call of the engine may take that has no time-out of its own, and how long rollback waits for an engine that does
    /// not answer. Default `60s`.
    #[serde(default = "default_engine_timeout")]
    pub engine_timeout: Span,
    /// How long building the image may take. Default `2h`.
    #[serde(default = "default_build_timeout")]
    pub build_timeout: Span,
    /// How much the folder of a build may hold, in MiB, without what its ignore file leaves out. Default 1024.
    #[serde(default = "default_context_max")]
    pub build_context_max_mib: u64,
    /// A command that looks through the image before anything goes on: `["trivy", "image", "--exit-code", "1", "{image}"]`. No shell;
    /// `{image}` is the pinned image.
    #[serde(default)]
    pub scan: Option<Vec<String>>,
    /// What a scan means that does not end with 0. Default `block`.
    #[serde(default)]
    pub scan_fails: ScanFails,
    /// How long the scan may take. Default `30m`.
    #[serde(default = "default_scan_timeout")]
    pub scan_timeout: Span,
    /// The engine's socket. Default `/var/run/docker.sock` for docker, `/run/podman/podman.sock` for podman.
    #[serde(default)]
    pub socket: Option<PathBuf>,
}

fn default_publish() -> String {
    DEFAULT_PUBLISH.into()
}
fn default_start_timeout() -> Span {
    Span(DEFAULT_START_TIMEOUT_SECONDS)
}
fn default_answer_timeout() -> Span {
    Span(DEFAULT_ANSWER_TIMEOUT_SECONDS)
}
fn default_pull_timeout() -> Span {
    Span(DEFAULT_PULL_TIMEOUT_SECONDS)
}
fn default_stop_timeout() -> Span {
    Span(DEFAULT_STOP_TIMEOUT_SECONDS)
}
fn default_engine_timeout() -> Span {
    Span(DEFAULT_ENGINE_TIMEOUT_SECONDS)
}
fn default_build_timeout() -> Span {
    Span(DEFAULT_BUILD_TIMEOUT_SECONDS)
}
fn default_context_max() -> u64 {
    DEFAULT_CONTEXT_MAX_MIB
}
fn default_scan_timeout() -> Span {
    Span(DEFAULT_SCAN_TIMEOUT_SECONDS)
}

/// Which image.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
#[allow(clippy::large_enum_variant, reason = "a step has one image")]
pub enum Image {
    /// `registry/name:tag` or `registry/name@sha256:…`.
    Reference(String),
    /// Chosen by the source's version.
    Chosen(ChosenImage),
    /// In a file on this host.
    Archive(ArchiveImage),
    /// Built on this host.
    #[schemars(with = "BuildKeys")]
    Build(BuildImage),
}

/// How [`BuildImage`] stands in a runbook.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "for the schema only")]
enum BuildKeys {
    /// Built on this host.
    Build {
        /// What to build.
        build: BuildImage,
    },
    /// Built on this host of a Containerfile, in short.
    File {
        /// The file.
        containerfile: PathBuf,
        /// The folder that it copies from. Default: its own.
        context: Option<PathBuf>,
    },
}

/// An image in a file, as `docker save` writes it: for a host without a way to a registry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArchiveImage {
    /// The file.
    pub archive: PathBuf,
    /// The image's id (`docker image inspect --format '{{.Id}}'`) or the file's digest, `sha256:…`: nothing else is loaded.
    #[serde(default)]
    pub digest: Option<String>,
}

/// An image that is chosen by the source's version.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ChosenImage {
    /// A reference, instead of everything else.
    #[serde(default)]
    pub reference: Option<String>,
    /// A file, instead of everything else.
    #[serde(default)]
    #[schemars(skip)]
    pub archive: Option<PathBuf>,
    /// Of that file.
    #[serde(default)]
    #[schemars(skip)]
    pub digest: Option<String>,
    /// What to build, instead of everything else.
    #[serde(default)]
    #[schemars(skip)]
    pub build: Option<BuildTable>,
    /// The same, in short.
    #[serde(default)]
    #[schemars(skip)]
    pub containerfile: Option<PathBuf>,
    /// For it.
    #[serde(default)]
    #[schemars(skip)]
    pub context: Option<PathBuf>,
    /// `match-source`: the version that runs on this host; or a version.
    #[serde(default)]
    pub version: Option<VersionChoice>,
    /// The image's distribution as tags name it. Default: any, `ubuntu-24.04` first.
    #[serde(default)]
    pub os: Option<String>,
    /// `std` (default) or `min`.
    #[serde(default)]
    pub variant: Option<String>,
    /// Hosts of mirrors, or repositories, that are tried in this order. Default: those of Posit.
    #[serde(default)]
    pub registries: Option<Vec<String>>,
}

/// How the version of an image is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionChoice {
    /// `match-source`: the version that runs on this host.
    MatchSource,
    /// This one.
    Exactly(Version),
}

impl<'de> Deserialize<'de> for VersionChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "match-source" {
            return Ok(VersionChoice::MatchSource);
        }
        Version::parse(&text).map(VersionChoice::Exactly).map_err(|_| {
            de::Error::custom(format!(
                "`{text}` is neither \"match-source\" nor a version such as \"2026.03.1\""
            ))
        })
    }
}

impl JsonSchema for VersionChoice {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VersionChoice".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "\"match-source\": the version that runs on this host; or a version such as \"2026.03.1\"",
            "type": "string"
        })
    }
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Image;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an image such as \"docker.io/posit/connect:2026.03.1\", or a table such as { version = \"match-source\" }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Image, E> {
                connect_migrator_images::reference::check(text).map_err(E::custom)?;
                Ok(Image::Reference(text.into()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Image, A::Error> {
                let table = ChosenImage::deserialize(MapAccessDeserializer::new(map))?;
                let rest = table.version.is_some()
                    || table.os.is_some()
                    || table.variant.is_some()
                    || table.registries.is_some();
                let builds =
                    table.build.is_some() || table.containerfile.is_some() || table.context.is_some();
                if builds {
                    if rest || table.reference.is_some() || table.archive.is_some() || table.digest.is_some()
                    {
                        return Err(de::Error::custom(
                            "an image that is built has `build`, or `containerfile` and `context`, and no other keys; `version`, `os` and `variant` stand in `build`",
                        ));
                    }
                    let build = match table.build {
                        Some(_) if table.containerfile.is_some() || table.context.is_some() => {
                            return Err(de::Error::custom(
                                "give either `build`, or `containerfile` and `context`",
                            ));
                        }
                        Some(build) => build,
                        None => BuildTable::of_file(table.containerfile, table.context),
                    };
                    return build.sorted().map(Image::Build).map_err(de::Error::custom);
                }
                if let Some(archive) = table.archive {
                    if rest || table.reference.is_some() {
                        return Err(de::Error::custom(
                            "give either `archive` or the other keys of the image",
                        ));
                    }
                    let good = |d: &str| d.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64);
                    if table.digest.as_deref().is_some_and(|digest| !good(digest)) {
                        return Err(de::Error::custom("`digest` is not of the form sha256:… with 64 digits"));
                    }
                    return Ok(Image::Archive(ArchiveImage { archive, digest: table.digest }));
                }
                if table.digest.is_some() {
                    return Err(de::Error::custom(
                        "`digest` belongs to `archive`; write `name@sha256:…` as `reference`",
                    ));
                }
                match (&table.reference, rest) {
                    (Some(_), true) => {
                        Err(de::Error::custom("give either `reference` or the other keys of the image"))
                    }
                    (Some(reference), false) => {
                        connect_migrator_images::reference::check(reference).map_err(de::Error::custom)?;
                        Ok(Image::Reference(reference.clone()))
                    }
                    (None, _) if table.version.is_none() => {
                        Err(de::Error::custom("give `reference`, or `version = \"match-source\"`"))
                    }
                    (None, _) => Ok(Image::Chosen(table)),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Whether the container has a network of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Its own, with one published port.
    #[default]
    Bridge,
    /// This host's.
    Host,
}

/// How Connect gets what its sandbox needs (`unshare`, `mount`). <https://docs.posit.co/connect/admin/process-management/>
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Privileges {
    /// `--privileged`.
    #[default]
    Privileged,
    /// The capability SYS_ADMIN, with AppArmor's and SELinux's own limits lifted where the engine uses them.
    SysAdmin,
    /// None: only for content that runs elsewhere (off-host execution).
    None,
}

/// What to do when the user that runs content has other numbers on this host than in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunAsIds {
    /// A blocker.
    #[default]
    Check,
    /// The container gets `/etc/passwd` and `/etc/group` of the image with this host's numbers for that user, so that the owners
    /// in the data directory stay right.
    Keep,
}

/// What the container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Connect itself below a small init, so that it is asked to end when the container is stopped.
    #[default]
    Connect,
    /// The image's own start script. It does not hand the request to end on; rollback then asks Connect directly.
    Image,
}

/// Something more of this host that the container sees.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ExtraMount {
    /// On this host; must exist.
    pub source: PathBuf,
    /// In the container. Default: the same path.
    #[serde(default)]
    pub target: Option<PathBuf>,
    /// Whether the container may write there. Default `false`.
    #[serde(default)]
    pub writable: bool,
}

/// Login for a registry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Login {
    /// The registry that it is for, as `host` or `host:port`. Default: that of the image's reference, or the first of `registries`
    /// (`docker.io` when they are not set). To be named when the image is built: what it begins from may be of several registries.
    #[serde(default, deserialize_with = "registry_host")]
    pub registry: Option<String>,
    /// The user.
    pub user: String,
    /// The password or token.
    pub password: SecretRef,
}

fn registry_host<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_alphanumeric() || "-.:[]".contains(c)) {
        return Err(de::Error::custom(format!(
            "`{text}` is not the host of a registry, such as \"docker.io\" or \"registry.example.com:5000\""
        )));
    }
    Ok(Some(text))
}

/// The names that a migration's container goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The container's.
    pub container: String,
    /// Its host name.
    pub hostname: String,
    /// Where it answers.
    pub publish: Listen,
}

impl Settings {
    /// The names in effect.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn names(&self, instance: &str, host: &str) -> Result<Names, StepError> {
        let container = self.name.clone().unwrap_or_else(|| format!("connect-{instance}"));
        let fits = |name: &str, more: &[char]| {
            name.len() >= 2
                && name.len() <= NAME_MAX_CHARS
                && name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c))
        };
        let wrong = |what: &str, value: &str, remedy: &str| {
            StepError::new(format!("use `{value}` as {what}")).because("it is not one").remedy(remedy)
        };
        if !fits(&container, &['_', '.', '-']) {
            return Err(wrong(
                "the container's name",
                &container,
                "letters, digits, `_`, `.` and `-` may be used",
            ));
        }
        let short = host.split('.').next().unwrap_or(host);
        let hostname = self.hostname.clone().unwrap_or_else(|| {
            let tail: String = container.chars().map(|c| if c == '_' { '-' } else { c }).collect();
            let room = NAME_MAX_CHARS.saturating_sub(tail.len() + 1);
            format!("{}-{tail}", short.chars().take(room).collect::<String>()).trim_matches('-').to_owned()
        });
        if !fits(&hostname, &['.', '-']) {
            return Err(wrong(
                "the container's host name",
                &hostname,
                "letters, digits, `.` and `-` may be used",
            ));
        }
        let publish = Listen::parse(&self.publish, false).filter(|l| l.port != 0).ok_or_else(|| {
            wrong(
                "`publish`",
                &self.publish,
                "give an address and a port of this host, such as 127.0.0.1:3940",
            )
        })?;
        if !publish.host.is_empty() && publish.host.parse::<std::net::IpAddr>().is_err() {
            return Err(wrong(
                "`publish`",
                &self.publish,
                "give the address in numbers, such as 127.0.0.1:3940",
            ));
        }
        Ok(Names { container, hostname, publish })
    }
}

/// The address at which this host reaches what listens on `publish`.
#[must_use]
pub fn reach(publish: &Listen) -> String {
    match publish.host.as_str() {
        "" | "0.0.0.0" => format!("127.0.0.1:{}", publish.port),
        "::" => format!("[::1]:{}", publish.port),
        host if host.contains(':') => format!("[{host}]:{}", publish.port),
        host => format!("{host}:{}", publish.port),
    }
}

/// Where an extra mount appears.
impl ExtraMount {
    /// In the container.
    #[must_use]
    pub fn target(&self) -> &Path {
        self.target.as_deref().unwrap_or(&self.source)
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
