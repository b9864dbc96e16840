//! What the container is made of, whatever the engine.

use crate::world::{LABEL_PREFIX, Subject};
use connect_migrator_connect::container::Derived;
use connect_migrator_connect::installation::LICENCE_DIR;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Where Connect looks for its configuration in the images.
pub const CONFIG_IN_CONTAINER: &str = "/etc/rstudio-connect/rstudio-connect.gcfg";
/// The program in the images.
pub const CONNECT: &str = "/opt/rstudio-connect/bin/connect";

/// What the container is made of, beside settings and names.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The image, pinned.
    pub image: &'a str,
    /// The version that the image says it has.
    pub version: Option<String>,
    /// The version that runs on this host.
    pub source_version: Option<String>,
    /// The configuration and what goes with it.
    pub derived: &'a Derived,
    /// The file that is there only while the data directory is.
    pub data_guard: PathBuf,
    /// Licence files of this host.
    pub licences: &'a [PathBuf],
    /// What limits the engine sets.
    pub security: &'a [String],
    /// `passwd` and `group` for the container.
    pub ids: Option<(PathBuf, PathBuf)>,
    /// Folders for which the image asks for a volume.
    pub volumes: &'a [String],
}

/// What is put where the image wants a volume of its own. So small that a Connect which took it for its data directory would fail at
/// once, instead of starting empty on a volume that nobody knows.
pub const STRAY_VOLUME_BYTES: u32 = 64 * 1024;

/// One mount as it will be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// On this host.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
    /// Whether the container must not write there.
    pub read_only: bool,
    /// Why.
    pub why: String,
}

/// What the container sees of this host, in the order in which they are shown.
#[must_use]
pub fn binds(subject: &Subject<'_>, parts: &Parts<'_>) -> Vec<Bind> {
    let bind = |source: &Path, target: &Path, read_only, why: &str| Bind {
        source: source.into(),
        target: target.into(),
        read_only,
        why: why.into(),
    };
    let mut all = vec![bind(
        &subject.staged_config(),
        Path::new(CONFIG_IN_CONTAINER),
        true,
        "the container's configuration",
    )];
    all.extend(parts.derived.mounts.iter().map(|m| bind(&m.host, &m.container, m.read_only, &m.why)));
    for licence in parts.licences {
        let target = Path::new(LICENCE_DIR).join(licence.file_name().unwrap_or_default());
        // The data directory may bring it along.
        let there =
            parts.derived.mounts.iter().any(|m| target.starts_with(&m.container) && *licence == target);
        if !there {
            all.push(bind(licence, &target, true, "the licence file"));
        }
    }
    if let Some((passwd, group)) = &parts.ids {
        let why = "owners in the data directory keep their numbers";
        all.push(bind(passwd, Path::new("/etc/passwd"), true, why));
        all.push(bind(group, Path::new("/etc/group"), true, why));
    }
    all.extend(
        subject
            .settings
            .mounts
            .iter()
            .map(|extra| bind(&extra.source, extra.target(), !extra.writable, "`mounts` of this step")),
    );
    all
}

/// The environment: what goes along from the host, then the settings'.
#[must_use]
pub fn environment(subject: &Subject<'_>, derived: &Derived) -> BTreeMap<String, String> {
    let mut all = derived.environment.clone();
    all.extend(subject.settings.environment.clone());
    all
}

/// What is put, by engines that are asked over docker's API, where the image wants a volume of its own.
#[must_use]
pub fn stray_tmpfs(volumes: &[String], binds: &[Bind]) -> HashMap<String, String> {
    let size = format!("size={STRAY_VOLUME_BYTES}");
    stray_volumes(volumes, binds).into_iter().map(|volume| (volume.to_owned(), size.clone())).collect()
}

/// Folders for which the image asks for a volume and nothing else is mounted.
#[must_use]
pub fn stray_volumes<'a>(volumes: &'a [String], binds: &[Bind]) -> Vec<&'a str> {
    let free = volumes.iter().filter(|volume| !binds.iter().any(|bind| bind.target == Path::new(volume)));
    free.map(String::as_str).collect()
}

/// The labels by which a container is known to be ours.
#[must_use]
pub fn labels(subject: &Subject<'_>, parts: &Parts<'_>) -> HashMap<String, String> {
    [
        ("migration", subject.migration.clone()),
        ("instance", subject.instance.clone()),
        ("step", subject.step.clone()),
        ("image", parts.image.to_owned()),
        ("version", parts.version.clone().unwrap_or_default()),
        ("source-version", parts.source_version.clone().unwrap_or_default()),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{LABEL_PREFIX}{name}"), value))
    .collect()
}

/// Whom a container belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// This migration made it.
    Ours,
    /// Another migration of the same instance made it.
    Earlier,
    /// Somebody else did.
    Foreign,
}

/// Whom a container with these labels belongs to.
#[must_use]
pub fn owner(subject: &Subject<'_>, labels: Option<&HashMap<String, String>>) -> Owner {
    let label = |name: &str| labels.and_then(|l| l.get(&format!("{LABEL_PREFIX}{name}"))).map(String::as_str);
    match (label("instance"), label("migration")) {
        (Some(instance), Some(id)) if instance == subject.instance => {
            if id == subject.migration {
                Owner::Ours
            } else {
                Owner::Earlier
            }
        }
        _ => Owner::Foreign,
    }
}
