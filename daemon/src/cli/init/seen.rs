//! Looks at this host. Reads only.

use super::InitArguments;
use super::content::{self, Content};
use super::proxy::{self, Site};
use super::storage::{self, Storage};
use crate::instance::{Instance, Plugins};
use crate::systemd::credentials::{CredentialError, Credentials};
use crate::systemd::units::Units;
use connect_migrator_connect::container::{ContainerRules, Network, database_is_on_loopback, derive};
use connect_migrator_connect::installation::{DatabaseProvider, Installation, Listen};
use connect_migrator_sdk::{Secret, Source};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// Where a container answers, unless somebody listens there already.
const FIRST_PORT: u16 = 3940;
/// How many ports are tried.
const PORTS_TRIED: u16 = 20;
/// Where the maintenance page is unless the runbook says otherwise: the default of `maintenance` of `route-nginx`.
const MAINTENANCE_PORT: u16 = 3941;
/// The name under which the key of an administrator is stored.
pub(super) const API_KEY: &str = "connect-api-key";
/// The name under which the password of the new database is stored.
pub(super) const POSTGRES_PASSWORD: &str = "postgres-password";
/// The user that runs content has these numbers in Posit's images.
const IMAGE_IDS: (u32, u32) = (999, 999);
/// Nobody needs more builds at once to begin with.
const PARALLELISM_MAX: usize = 4;

/// What there is to know about a host. Everything that could not be found says why.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) instance: String,
    pub(super) unit: String,
    pub(super) config: PathBuf,
    /// The unit's state in words.
    pub(super) unit_state: Result<String, String>,
    pub(super) installation: Result<Connect, String>,
    pub(super) engine: Result<Engine, String>,
    pub(super) site: Result<Site, String>,
    /// The port of this host on which the container answers.
    pub(super) publish: Result<u16, String>,
    /// `None`: no key was given.
    pub(super) content: Option<Result<Content, String>>,
    pub(super) key_file: Option<PathBuf>,
    /// The credentials that are stored already.
    pub(super) stored: Vec<&'static str>,
    pub(super) registries: Vec<String>,
    pub(super) postgres_url: Option<String>,
    pub(super) nfs_export: Option<String>,
    pub(super) nfs_mount: PathBuf,
    pub(super) parallelism: usize,
}

/// The installation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Connect {
    pub(super) version: Option<String>,
    pub(super) address: Option<String>,
    pub(super) port: u16,
    pub(super) database: DatabaseProvider,
    /// PostgreSQL is reached over this machine's loopback.
    pub(super) database_on_loopback: bool,
    pub(super) data_dir: PathBuf,
    pub(super) storage: Result<Storage, String>,
    pub(super) run_as: String,
    /// Its numbers on this host; `None` when there is no such user.
    pub(super) run_as_ids: Option<(u32, u32)>,
    pub(super) licences: Vec<PathBuf>,
}

impl Connect {
    /// Whether the image's numbers for the user that runs content are not those of this host.
    pub(super) fn other_ids(&self) -> bool {
        self.run_as_ids.is_some_and(|ids| ids != IMAGE_IDS)
    }
}

/// A container engine, and whether there are others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Engine {
    /// The plugin: `docker` or `podman`.
    pub(super) name: &'static str,
    /// How it was found.
    pub(super) found: String,
    /// Another one that could be used instead.
    pub(super) other: Option<&'static str>,
}

/// Looks.
pub(super) async fn look(instance: &Instance, arguments: &InitArguments, key: Option<Secret>) -> Seen {
    let source =
        Source { unit: arguments.unit.clone(), config: arguments.config.clone(), ..Source::default() };
    let read = {
        let source = source.clone();
        tokio::task::spawn_blocking(move || Installation::read(&source)).await
    };
    let (installation, local_url) = match read {
        Ok(Ok(read)) => {
            let url = read.local_url();
            (Ok(connect(&read, arguments.postgres_url.as_deref())), Some(url))
        }
        Ok(Err(error)) => (Err(error.to_string()), None),
        Err(error) => (Err(error.to_string()), None),
    };
    let publish = free_port();
    let port = installation.as_ref().ok().map(|connect: &Connect| connect.port);
    let site = match (port, &publish) {
        (Some(port), Ok(publish)) => proxy::look(port, *publish),
        (Some(port), Err(_)) => proxy::look(port, FIRST_PORT),
        (None, _) => Err("the port on which Connect listens is not known".to_owned()),
    };
    let content = match (key, local_url) {
        (Some(key), Some(url)) => Some(content::look(&url, key).await),
        (Some(_), None) => Some(Err("where Connect answers is not known".to_owned())),
        (None, _) => None,
    };
    let nfs_mount = match &installation {
        Ok(connect) => storage::free_mount(&connect.data_dir, arguments.nfs_export.as_deref()),
        Err(_) => storage::MOUNT.into(),
    };
    let credentials = Credentials::from_environment();
    let is_stored =
        |name: &&'static str| !matches!(credentials.find(name), Err(CredentialError::Missing { .. }));
    Seen {
        instance: instance.name().into(),
        unit: source.unit.clone(),
        config: source.config,
        unit_state: unit_state(&source.unit).await,
        installation,
        engine: engine(Path::new("/"), &Plugins::installed(&instance.plugin_dirs())),
        site,
        publish,
        content,
        key_file: arguments.api_key_file.clone(),
        stored: [API_KEY, POSTGRES_PASSWORD].into_iter().filter(is_stored).collect(),
        registries: arguments.registry.clone(),
        postgres_url: arguments.postgres_url.clone(),
        nfs_export: arguments.nfs_export.clone(),
        nfs_mount,
        parallelism: std::thread::available_parallelism().map_or(1, usize::from).min(PARALLELISM_MAX),
    }
}

/// `moves_to`: the database that it is to use.
fn connect(read: &Installation, moves_to: Option<&str>) -> Connect {
    let rules = ContainerRules::new(
        Network::Bridge,
        Listen { host: "127.0.0.1".into(), port: FIRST_PORT, tls: false },
        Path::new("/etc"),
    );
    let database_on_loopback = derive(read, &rules)
        .is_ok_and(|derived| derived.findings.iter().any(|finding| finding.key == "database-loopback"))
        || moves_to.is_some_and(database_is_on_loopback);
    let user = nix::unistd::User::from_name(&read.run_as).ok().flatten();
    Connect {
        version: read.version.map(|version| version.to_string()),
        address: read.address.clone(),
        port: read.listen.port,
        database: read.database_provider.clone(),
        database_on_loopback,
        data_dir: read.data_dir.clone(),
        storage: Storage::of(&read.data_dir),
        run_as: read.run_as.clone(),
        run_as_ids: user.map(|user| (user.uid.as_raw(), user.gid.as_raw())),
        licences: read.licence_files(),
    }
}

async fn unit_state(unit: &str) -> Result<String, String> {
    let units = Units::system().await.map_err(|error| error.to_string())?;
    let status = units.status(unit).await.map_err(|error| error.to_string())?;
    if status.load_state == "not-found" {
        return Err(format!("systemd knows no unit {unit}"));
    }
    let enabled = if status.is_masked() { "masked".to_owned() } else { status.unit_file_state.clone() };
    Ok(format!("{} ({}), {enabled}", status.active_state, status.sub_state))
}

fn engine(root: &Path, installed: &Plugins) -> Result<Engine, String> {
    let seen = |name: &'static str, places: &[&str]| {
        let place = places.iter().find(|place| is_of(name, &root.join(place)))?;
        installed.0.contains_key(name).then(|| (name, format!("/{place}")))
    };
    let docker = seen("docker", &["run/docker.sock", "usr/bin/dockerd"]);
    let podman = seen("podman", &["run/podman/podman.sock", "usr/bin/podman"]);
    match (docker, podman) {
        (Some((name, found)), other) => Ok(Engine { name, found, other: other.map(|(name, _)| name) }),
        (None, Some((name, found))) => Ok(Engine { name, found, other: None }),
        (None, None) => Err("neither Docker (/run/docker.sock) nor Podman (/usr/bin/podman) is on this host, or the plugin for \
                             it is not installed; `apt install docker.io` or `podman`, then run this again"
            .into()),
    }
}

/// Whether a socket or program is there and is this engine's own: podman-docker links Docker's socket to Podman's.
fn is_of(engine: &str, place: &Path) -> bool {
    let Ok(real) = place.canonicalize() else { return false };
    engine != "docker" || !real.components().any(|part| part.as_os_str().to_string_lossy().contains("podman"))
}

fn free_port() -> Result<u16, String> {
    (FIRST_PORT..FIRST_PORT + PORTS_TRIED)
        .find(|port| *port != MAINTENANCE_PORT && TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .ok_or_else(|| format!("the ports from {FIRST_PORT} on are all in use"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::PluginRef;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_socket_of_podman_under_the_name_of_dockers_is_no_docker() {
        let plugins =
            ["docker", "podman"].map(|name| (name.to_owned(), PluginRef::File(format!("/{name}.so").into())));
        let plugins = Plugins(plugins.into_iter().collect());
        let root = tempfile::Builder::new().prefix("host").tempdir().unwrap();
        let run = root.path().join("run");
        std::fs::create_dir_all(run.join("podman")).unwrap();
        assert!(engine(root.path(), &plugins).is_err());

        std::fs::write(run.join("podman/podman.sock"), "").unwrap();
        symlink("podman/podman.sock", run.join("docker.sock")).unwrap();
        let found = engine(root.path(), &plugins).unwrap();
        assert_eq!((found.name, found.other), ("podman", None));

        std::fs::remove_file(run.join("docker.sock")).unwrap();
        std::fs::write(run.join("docker.sock"), "").unwrap();
        let found = engine(root.path(), &plugins).unwrap();
        assert_eq!(
            (found.name, found.found.as_str(), found.other),
            ("docker", "/run/docker.sock", Some("podman"))
        );
    }
}
