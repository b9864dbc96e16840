//! How the container is made.

use crate::gate;
use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountType, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use connect_migrator_connect::container::CONTAINER_PORT;
use connect_migrator_connect::installation::Installation;
use connect_migrator_container::port;
use connect_migrator_container::settings::{Command, Network, Privileges};
use connect_migrator_container::spec::{
    self, Bind, CONFIG_IN_CONTAINER, CONNECT, Parts, environment, labels, stray_tmpfs,
};
use connect_migrator_container::world::Subject;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Whether Connect waits in the container until it may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It waits at the gate.
    AtTheGate,
    /// It starts with the container: the image's own start script, an image without a shell, or one whose port is the source's.
    Not,
}

impl Hold {
    /// What the settings allow. The engine binds the published port when the container starts, held back or not.
    #[must_use]
    pub fn of(subject: &Subject<'_>, installation: &Installation) -> Self {
        match subject.settings.command {
            Command::Connect if !port::is_the_sources(subject, installation) => Hold::AtTheGate,
            Command::Connect | Command::Image => Hold::Not,
        }
    }
}

/// Where the two guards appear, which nothing reads there, and the gate.
pub(crate) const GUARDS_IN_CONTAINER: &str = "/run/connect-migrator";
/// The mask of the source's unit among them.
pub(crate) const MASK_GUARD: &str = "source-is-masked";

/// All mounts, in the order in which they are shown.
#[must_use]
pub fn binds(subject: &Subject<'_>, parts: &Parts<'_>, hold: Hold) -> Vec<Bind> {
    let mut all = spec::binds(subject, parts);
    // The engine refuses to start a container when a mount's source is missing, after a reboot too. Two sources are there only
    // when the container may run: a link that dangles unless the source's unit is masked, and a file inside the data directory
    // that an empty mount point does not have.
    let guards = Path::new(GUARDS_IN_CONTAINER);
    let guard = |source: PathBuf, name: &str, why: &str| Bind {
        source,
        target: guards.join(name),
        read_only: true,
        why: why.into(),
    };
    let masked = "guard: no start unless the source's unit is masked";
    all.push(guard(mask_guard(subject), MASK_GUARD, masked));
    let mounted = "guard: no start on an empty data directory";
    all.push(guard(parts.data_guard.clone(), "data-is-mounted", mounted));
    if hold == Hold::AtTheGate {
        all.push(Bind {
            source: gate::folder(subject),
            target: gate::in_container(),
            read_only: true,
            why: "gate: Connect waits here until the source is off".into(),
        });
    }
    all
}

/// The link that leads somewhere only while the source's unit is masked.
#[must_use]
pub fn mask_guard(subject: &Subject<'_>) -> PathBuf {
    subject.folder().join(MASK_GUARD)
}

/// The container as the engine is asked for it.
#[must_use]
pub fn body(subject: &Subject<'_>, parts: &Parts<'_>, hold: Hold) -> ContainerCreateBody {
    let settings = subject.settings;
    let connect = || [CONNECT.to_owned(), "--config".to_owned(), CONFIG_IN_CONTAINER.to_owned()];
    let (entrypoint, cmd, init) = match (settings.command, hold) {
        (Command::Connect, Hold::AtTheGate) => (
            Some(vec![
                gate::SHELL.to_owned(),
                "-c".to_owned(),
                gate::script(Path::new(GUARDS_IN_CONTAINER)),
                "gate".to_owned(),
            ]),
            Some(connect().to_vec()),
            Some(true),
        ),
        // As the first process bash would not hand SIGTERM on, and Connect would be killed. Below an init it is asked to end.
        (Command::Connect, Hold::Not) => {
            let [program, arguments @ ..] = connect();
            (Some(vec![program]), Some(arguments.to_vec()), Some(true))
        }
        (Command::Image, _) => (None, None, None),
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
    let binds = binds(subject, parts, hold);
    let tmpfs = stray_tmpfs(parts.volumes, &binds);
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
            // Until its first start nobody but us may start it; afterwards it comes up with the machine.
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}
