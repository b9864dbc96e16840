//! What must hold on this host before the step can be carried out.

use crate::owners::{self, Account, IMAGE_RUN_AS, Sample};
use crate::settings::{Network, RunAsIds};
use crate::storage::{self, Kind};
use crate::world::Subject;
use connect_migrator_connect::container::{self, ContainerRules, Derived, ImageFacts};
use connect_migrator_connect::gcfg::SetError;
use connect_migrator_connect::installation::{
    DatabaseProvider, Installation, InstallationError, LICENCE_DIR,
};
use connect_migrator_sdk::Finding;
use std::path::Path;

/// Why the installation could not be read.
#[must_use]
pub fn unreadable(error: &InstallationError) -> Finding {
    match error {
        InstallationError::Config { path, error } => Finding::blocker(
            "config-syntax",
            format!("{}, {error}\n{}", path.display(), error.caret()),
            "correct this line, and see with `systemctl restart` that Connect still starts",
        ),
        InstallationError::Setting { .. } => Finding::blocker(
            "config-value",
            error.to_string(),
            "correct this setting, and see that Connect still starts",
        ),
        InstallationError::Environment { .. } => Finding::blocker(
            "environment-ambiguous",
            error.to_string(),
            "take the backslash at the comment's end away, and restart Connect: it must not matter which systemd reads the file",
        ),
        InstallationError::Unreadable { .. } => Finding::blocker(
            "config-missing",
            error.to_string(),
            "name the configuration file with `config` under `[connect]`, and run this as root",
        ),
    }
}

/// The rules by which the container's configuration is derived.
#[must_use]
pub fn rules(subject: &Subject<'_>, image: Option<ImageFacts>) -> ContainerRules {
    let network = match subject.settings.network {
        Network::Bridge => container::Network::Bridge,
        Network::Host => container::Network::Host,
    };
    ContainerRules {
        image,
        ..ContainerRules::new(network, subject.names.publish.clone(), &subject.world.etc)
    }
}

/// Derives the container's configuration.
///
/// # Errors
/// When a value cannot be written.
pub fn derive(
    subject: &Subject<'_>,
    installation: &Installation,
    image: Option<ImageFacts>,
) -> Result<Derived, SetError> {
    container::derive(installation, &rules(subject, image))
}

/// What a derivation found, or why there is none.
#[must_use]
pub fn derivation(derived: Result<Derived, SetError>) -> Vec<Finding> {
    match derived {
        Ok(derived) => derived.findings,
        Err(error) => vec![Finding::blocker(
            "config-not-derivable",
            format!("the container's configuration cannot be made: {error}"),
            "correct this setting in the configuration file or the unit's environment file",
        )],
    }
}

/// Everything about the installation that needs no engine.
#[must_use]
pub fn installation(subject: &Subject<'_>, installation: &Installation) -> Vec<Finding> {
    let mut found = vec![database(installation)];
    found.extend(data(subject, installation));
    found.push(secret_key(installation));
    found.extend(run_as(subject, installation));
    if installation.version.is_none() {
        found.push(Finding::warning(
            "source-version",
            format!("`{}/bin/connect --version` tells no version", subject.source.install_dir.display()),
            "see that the image has the version that runs here; set `install-dir` under `[connect]` if the product lies elsewhere",
        ));
    }
    found
}

fn database(installation: &Installation) -> Finding {
    match &installation.database_provider {
        DatabaseProvider::Postgres => Finding::ok("database", "the database is PostgreSQL"),
        DatabaseProvider::Sqlite => Finding::blocker(
            "database-sqlite",
            format!("{} uses SQLite, which only one host can use", installation.config_path.display()),
            "move the database to PostgreSQL first: by a step `uses = \"postgres\"` before this one, or by hand with `/opt/rstudio-connect/bin/migrate`",
        ),
        DatabaseProvider::Other(name) => Finding::blocker(
            "database-unknown",
            format!("Database.Provider is `{name}`, which is neither sqlite nor postgres"),
            "correct Database.Provider",
        ),
    }
}

fn data(subject: &Subject<'_>, installation: &Installation) -> Vec<Finding> {
    let dir = &installation.data_dir;
    if installation.data_will_move() {
        let text = format!("a step before this one moves the data to {}", dir.display());
        return vec![Finding::ok("data", text)];
    }
    let real = match dir.canonicalize() {
        Ok(real) => real,
        Err(error) => {
            return vec![Finding::blocker(
                "data-missing",
                format!("the data directory {} cannot be read: {error}", dir.display()),
                "see that its storage is mounted, and that Server.DataDir is right",
            )];
        }
    };
    let mountinfo = std::fs::read_to_string(&subject.world.mountinfo).unwrap_or_default();
    let Some(mounted) = storage::holding(&real, &mountinfo) else {
        return vec![Finding::warning(
            "data-local",
            format!("it cannot be told what kind of storage {} lies on", dir.display()),
            "see that it is shared storage (NFS), so that the container is not tied to this host",
        )];
    };
    let on = format!(
        "{} lies on {} ({}, mounted at {})",
        dir.display(),
        mounted.source,
        mounted.fs,
        mounted.at.display()
    );
    vec![match mounted.kind() {
        Kind::Shared => Finding::ok("data", on),
        Kind::Unsuitable => Finding::blocker(
            "data-unsuitable",
            format!("{on}, which keeps neither owners nor links as Connect needs them"),
            "move the data directory to NFS or another POSIX file system",
        ),
        Kind::Local if subject.settings.allow_local_data => Finding::warning(
            "data-local",
            format!("{on}: a disk of this host, which `allow-local-data` accepts"),
            "the container can run on this host only; move the data to shared storage to change that",
        ),
        Kind::Local => Finding::blocker(
            "data-local",
            format!("{on}: a disk of this host"),
            "move the data directory to shared storage first: by a step `uses = \"nfs\"` before this one, or by hand; or set `allow-local-data = true` to stay on this host",
        ),
    }]
}

fn secret_key(installation: &Installation) -> Finding {
    let path = installation.secret_key_path();
    let remedy = "restore it from a backup, or correct Database.Dir; without it encrypted settings and records are lost";
    match std::fs::read(&path) {
        Ok(bytes) if bytes.is_empty() => {
            Finding::blocker("secret-key-missing", format!("{} is empty", path.display()), remedy)
        }
        Ok(_) => Finding::ok("secret-key", format!("{} is there", path.display())),
        Err(error) => Finding::blocker(
            "secret-key-missing",
            format!("{} cannot be read: {error}", path.display()),
            remedy,
        ),
    }
}

/// The accounts that the container must know under this host's numbers.
#[must_use]
pub fn accounts(run_as: &Account, sample: &Sample) -> Vec<Account> {
    let mut all = vec![run_as.clone()];
    let others = sample.owners.keys().filter(|uid| **uid != 0 && **uid != run_as.uid);
    all.extend(others.filter_map(|uid| owners::on_host_by_uid(*uid)));
    all
}

fn run_as(subject: &Subject<'_>, installation: &Installation) -> Vec<Finding> {
    let name = &installation.run_as;
    let Some(account) = owners::on_host(name) else {
        return vec![Finding::blocker(
            "run-as-unknown",
            format!("the user `{name}`, who runs content (Applications.RunAs), does not exist on this host"),
            "correct Applications.RunAs, or create the user; Connect would not start in a container either",
        )];
    };
    let keep = subject.settings.run_as_ids == RunAsIds::Keep;
    let Account { uid, gid, .. } = account;
    let here = format!("`{name}` has uid {uid} and gid {gid} on this host");
    let (image_name, image_uid, image_gid) = IMAGE_RUN_AS;
    let mut found = vec![if name == image_name && (uid, gid) == (image_uid, image_gid) {
        Finding::ok("ids", format!("{here}, as in the images"))
    } else if keep {
        Finding::ok("ids", format!("{here}; the container gets the same (`run-as-ids = \"keep\"`)"))
    } else {
        let there = if name == image_name {
            format!(
                "{image_uid} and {image_gid} in the images, so files in the data directory would belong to another user there"
            )
        } else {
            "but the images do not have this user".to_owned()
        };
        Finding::blocker(
            "ids-differ",
            format!("{here}, {there}"),
            "set `run-as-ids = \"keep\"` for this step: the container then knows the user by this host's numbers; or change the owners of the data and of the user by hand while Connect is stopped",
        )
    }];
    found.extend(other_owners(&installation.data_dir_now, &account, keep));
    found
}

fn other_owners(data_dir: &Path, run_as: &Account, keep: bool) -> Option<Finding> {
    let sample = owners::sample(data_dir);
    let mut unknown = Vec::new();
    let mut others: Vec<String> = Vec::new();
    for (uid, files) in sample.owners.iter().filter(|(uid, _)| **uid != 0 && **uid != run_as.uid) {
        match owners::on_host_by_uid(*uid) {
            Some(account) => others.push(format!("{} ({uid}, {files} files)", account.name)),
            None => unknown.push(format!("{uid} ({files} files)")),
        }
    }
    let seen = if sample.complete { "" } else { " (a sample)" };
    if !unknown.is_empty() {
        return Some(Finding::warning(
            "owners-unknown",
            format!(
                "files in {}{seen} belong to numbers without a user on this host: {}",
                data_dir.display(),
                unknown.join(", ")
            ),
            "find out whose they are; content that runs as such a user would not find its files",
        ));
    }
    if others.is_empty() {
        return None;
    }
    let text = format!("files in {}{seen} also belong to {}", data_dir.display(), others.join(", "));
    Some(if keep {
        Finding::ok("owners-other", format!("{text}; the container gets these users too"))
    } else {
        Finding::warning(
            "owners-other",
            text,
            "content that runs as these users needs them in the container under the same numbers: set `run-as-ids = \"keep\"`",
        )
    })
}

/// The licence file.
#[must_use]
pub fn licence(subject: &Subject<'_>, data_dir: Option<&Path>) -> Finding {
    let files = subject.licences();
    let shown: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    let remedy = "copy the licence file (`*.lic`) there, or name it with `licence`; a product key is bound to this host and does not move (ask Posit for a file)";
    if files.is_empty() {
        let dir = subject.world.licence_dir.display();
        return Finding::blocker("licence-missing", format!("there is no licence file in {dir}"), remedy);
    }
    for path in &files {
        match std::fs::read(path) {
            Ok(bytes) if bytes.is_empty() => {
                return Finding::blocker("licence-missing", format!("{} is empty", path.display()), remedy);
            }
            Ok(_) => {}
            Err(error) => {
                let text = format!("{} cannot be read: {error}", path.display());
                return Finding::blocker("licence-missing", text, remedy);
            }
        }
        if path.extension().is_none_or(|ext| ext != "lic") {
            let text = format!("{} does not end in `.lic`; Connect looks for no other name", path.display());
            return Finding::blocker("licence-name", text, "rename it");
        }
        // Mounting into a mounted folder would leave an empty file there.
        let covered = data_dir.is_some_and(|dir| Path::new(LICENCE_DIR).starts_with(dir));
        if covered && !path.starts_with(LICENCE_DIR) {
            return Finding::blocker(
                "licence-place",
                format!(
                    "{} lies outside {LICENCE_DIR}, which the container has from this host",
                    path.display()
                ),
                "copy it there and leave `licence` out",
            );
        }
    }
    Finding::ok("licence", format!("licence file {}", shown.join(", ")))
}

/// Whether what the settings name exists.
#[must_use]
pub fn extras(subject: &Subject<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let missing: Vec<String> = subject
        .settings
        .mounts
        .iter()
        .filter(|extra| {
            !extra.source.is_absolute() || !extra.target().is_absolute() || !extra.source.exists()
        })
        .map(|extra| extra.source.display().to_string())
        .collect();
    if !missing.is_empty() {
        found.push(Finding::blocker(
            "mounts-missing",
            format!("`mounts` names {}, which is not there or not an absolute path", missing.join(", ")),
            "correct `mounts`",
        ));
    }
    if subject.names.hostname.eq_ignore_ascii_case(&subject.host) {
        found.push(Finding::blocker(
            "hostname-same",
            format!("the container's host name would be this host's, `{}`", subject.host),
            "give another `hostname`, so that the two servers can be told apart",
        ));
    }
    found
}
