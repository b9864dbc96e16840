//! How the container is made.

use crate::settings::{Command, Network, Privileges};
use crate::world::{LABEL_PREFIX, Subject};
use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountType, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use connect_migrator_connect::container::{CONTAINER_PORT, Derived};
use connect_migrator_connect::installation::LICENCE_DIR;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Where Connect looks for its configuration in the images.
pub const CONFIG_IN_CONTAINER: &str = "/etc/rstudio-connect/rstudio-connect.gcfg";
/// The program in the images.
const CONNECT: &str = "/opt/rstudio-connect/bin/connect";
/// Where the two guards appear. Nothing reads them there.
const GUARDS_IN_CONTAINER: &str = "/run/connect-migrator";

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
const STRAY_VOLUME_BYTES: u32 = 64 * 1024;

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

/// All mounts, in the order in which they are shown.
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
    // The engine refuses to start a container when a mount's source is missing, after a reboot too. Two sources are there only
    // when the container may run: a link that dangles unless the source's unit is masked, and a file inside the data directory
    // that an empty mount point does not have.
    let guards = Path::new(GUARDS_IN_CONTAINER);
    all.push(bind(
        &subject.mask_guard(),
        &guards.join("source-is-masked"),
        true,
        "guard: no start unless the source's unit is masked",
    ));
    all.push(bind(
        &parts.data_guard,
        &guards.join("data-is-mounted"),
        true,
        "guard: no start on an empty data directory",
    ));
    all
}

/// The environment: what goes along from the host, then the settings'.
#[must_use]
pub fn environment(subject: &Subject<'_>, derived: &Derived) -> BTreeMap<String, String> {
    let mut all = derived.environment.clone();
    all.extend(subject.settings.environment.clone());
    all
}

/// The container as the engine is asked for it.
#[must_use]
pub fn body(subject: &Subject<'_>, parts: &Parts<'_>) -> ContainerCreateBody {
    let settings = subject.settings;
    let (entrypoint, cmd, init) = match settings.command {
        // As the first process bash would not hand SIGTERM on, and Connect would be killed. Below an init it is asked to end.
        Command::Connect => (
            Some(vec![CONNECT.to_owned()]),
            Some(vec!["--config".to_owned(), CONFIG_IN_CONTAINER.to_owned()]),
            Some(true),
        ),
        Command::Image => (None, None, None),
    };
    let port = format!("{CONTAINER_PORT}/tcp");
    let (network_mode, exposed_ports, port_bindings) = match settings.network {
        Network::Host => (Some("host".to_owned()), None, None),
        Network::Bridge => {
            let binding = PortBinding {
                host_ip: Some(subject.names.publish.host.clone()),
                host_port: Some(subject.names.publish.port.to_string()),
            };
            let bindings = HashMap::from([(port.clone(), Some(vec![binding]))]);
            (None, Some(vec![port]), Some(bindings))
        }
    };
    let has = |name: &str| {
        parts.security.iter().any(|option| option.split(',').any(|o| o == format!("name={name}")))
    };
    let mut security_opt = Vec::new();
    let (mut privileged, mut cap_add) = (None, None);
    match settings.privileges {
        Privileges::Privileged => privileged = Some(true),
        Privileges::SysAdmin => {
            cap_add = Some(vec!["SYS_ADMIN".to_owned()]);
            if has("apparmor") {
                // The engine's own profile denies every mount, whatever the capabilities.
                security_opt.push("apparmor=unconfined".to_owned());
            }
            if has("selinux") {
                security_opt.push("label=disable".to_owned());
            }
        }
        Privileges::None => {}
    }
    let binds = binds(subject, parts);
    let tmpfs: HashMap<String, String> = parts
        .volumes
        .iter()
        .filter(|volume| !binds.iter().any(|bind| bind.target == Path::new(volume)))
        .map(|volume| (volume.clone(), format!("size={STRAY_VOLUME_BYTES}")))
        .collect();
    let mounts = binds
        .into_iter()
        .map(|bind| Mount {
            typ: Some(MountType::BIND),
            source: Some(bind.source.display().to_string()),
            target: Some(bind.target.display().to_string()),
            read_only: Some(bind.read_only),
            ..Mount::default()
        })
        .collect();
    let extra_hosts: Vec<String> =
        parts.derived.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect();
    ContainerCreateBody {
        image: Some(parts.image.to_owned()),
        hostname: Some(subject.names.hostname.clone()),
        env: Some(environment(subject, parts.derived).iter().map(|(k, v)| format!("{k}={v}")).collect()),
        entrypoint,
        cmd,
        exposed_ports,
        labels: Some(labels(subject, parts)),
        stop_signal: Some("SIGTERM".to_owned()),
        stop_timeout: i64::try_from(settings.stop_timeout.0).ok(),
        host_config: Some(HostConfig {
            init,
            network_mode,
            port_bindings,
            privileged,
            cap_add,
            security_opt: (!security_opt.is_empty()).then_some(security_opt),
            mounts: Some(mounts),
            tmpfs: (!tmpfs.is_empty()).then_some(tmpfs),
            extra_hosts: (!extra_hosts.is_empty()).then_some(extra_hosts),
            // With user name spaces root in the container would not be root, and Connect must be.
            userns_mode: has("userns").then(|| "host".to_owned()),
            // While the migration runs nobody but us may start it; afterwards it comes up with the machine.
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
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
