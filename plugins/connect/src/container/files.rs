//! Files of the host that the configuration, or content, relies on.

use super::{Work, database::migration_config};
use crate::gcfg::{Gcfg, name_of};
use connect_migrator_sdk::Finding;
use std::path::{Path, PathBuf};

/// Settings whose paths are dealt with elsewhere.
const HANDLED: [(&str, &str); 11] = [
    ("server", "datadir"),
    ("server", "rversion"),
    ("database", "dir"),
    ("sqlite", "dir"),
    ("metrics", "datapath"),
    ("logging", "servicelog"),
    ("logging", "accesslog"),
    ("logging", "auditlog"),
    ("r", "executable"),
    ("python", "executable"),
    ("quarto", "executable"),
];

/// The image's own: a mount of the host's would hide what the image needs.
const IMAGE_OWN: [&str; 11] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/opt/rstudio-connect",
    "/proc",
    "/sys",
    "/dev",
    "/run",
];
/// Folders that may hold single files to mount but are never mounted themselves.
const TOO_WIDE: [&str; 10] =
    ["/", "/tmp", "/etc", "/var", "/var/lib", "/opt", "/home", "/root", "/srv", "/mnt"];

impl Work<'_> {
    /// Certificates, keys, the landing directory, SAML metadata, CA files, keytabs: whatever setting names an existing absolute
    /// path is mounted at the same path.
    pub(super) fn files(&mut self) {
        let (mut mounted, mut left) = (Vec::new(), Vec::new());
        let named: Vec<(String, PathBuf)> = self
            .derived
            .gcfg
            .settings()
            .filter(|s| !is_handled(s.section, s.key))
            .filter_map(|s| Some((name_of(s.section, s.subsection, s.key), s.value?)))
            .chain(self.derived.environment.iter().filter_map(|(name, value)| {
                let (section, key) = name.strip_prefix("CONNECT_")?.split_once('_')?;
                (!is_handled(section, key)).then(|| (name.clone(), value.as_str()))
            }))
            .filter(|(_, value)| value.starts_with('/') && !value.contains(char::is_whitespace))
            .map(|(name, value)| (name, PathBuf::from(value)))
            .collect();
        for (setting, path) in named {
            let Ok(metadata) = path.metadata() else { continue };
            if path.starts_with(&self.installation.data_dir)
                || path.starts_with(&self.installation.database_dir)
            {
                continue;
            }
            let shown = format!("{} ({setting})", path.display());
            if belongs_to_image(&path) || (metadata.is_dir() && TOO_WIDE.iter().any(|p| Path::new(p) == path))
            {
                left.push(shown);
            } else {
                self.mount(&path, true, format!("{setting} names it"));
                mounted.push(shown);
            }
        }
        if !mounted.is_empty() {
            self.find(Finding::ok(
                "files-mounted",
                format!(
                    "mounted read-only, because the configuration names them: {}; a file that is replaced later is seen after the container's next start",
                    mounted.join(", ")
                ),
            ));
        }
        if !left.is_empty() {
            self.find(Finding::warning(
                "files-not-mounted",
                format!(
                    "the configuration names these, which lie where the image has its own files: {}",
                    left.join(", ")
                ),
                "see that the image has them, or move them to a folder of their own on the host first",
            ));
        }
    }

    /// What the host does beside the configuration file.
    pub(super) fn host_habits(&mut self) {
        let present: Vec<String> = self
            .rules
            .host_files
            .iter()
            .filter(|path| path.is_file())
            .map(|path| path.display().to_string())
            .collect();
        if !present.is_empty() {
            self.find(Finding::warning(
                "host-files",
                format!(
                    "Connect or content may rely on {} of this host, which the container does not see",
                    present.join(", ")
                ),
                "add them under `mounts` of this step if content needs them",
            ));
        }
        let profiles: Vec<String> = self.r_profiles().iter().map(|path| path.display().to_string()).collect();
        if !profiles.is_empty() {
            self.find(Finding::warning(
                "r-profile",
                format!(
                    "every R session of this host begins with {}, and those in the container do not",
                    profiles.join(", ")
                ),
                "if content needs what it sets, mount it (`mounts` of this step, with the `target` where R of the image has its own: /opt/R/<version>/lib/R/etc/Rprofile.site), or put it into an image of your own",
            ));
        }
        let drop_ins: Vec<String> =
            self.installation.environment_drop_ins.iter().map(|path| path.display().to_string()).collect();
        if !drop_ins.is_empty() {
            self.find(Finding::warning(
                "environment-drop-in",
                format!(
                    "drop-ins of the unit set environment variables, which the container does not get: {}",
                    drop_ins.join(", ")
                ),
                "add those that Connect or content needs under `environment` of this step",
            ));
        }
        self.second_config();
    }

    fn second_config(&mut self) {
        let path = migration_config(&self.installation.config_path);
        let Ok(bytes) = std::fs::read(&path) else { return };
        let remedy =
            "merge its settings into the main file, remove it, and restart Connect before the migration";
        let shown = path.display();
        let differing: Vec<String> = match Gcfg::parse(&bytes) {
            Err(error) => {
                let text =
                    format!("{shown} is not well-formed ({error}), and older versions of Connect read it");
                return self.find(Finding::blocker("migration-config", text, remedy));
            }
            Ok(second) => second
                .settings()
                .filter(|s| {
                    let main = self.installation.gcfg.get_all(s.section, s.subsection, s.key);
                    s.value.is_some_and(|value| !main.iter().any(|have| have == value))
                })
                .map(|s| name_of(s.section, s.subsection, s.key))
                .collect(),
        };
        self.find(if differing.is_empty() {
            Finding::warning(
                "migration-config",
                format!("{shown} still exists; the main file says the same, and the container does not get it"),
                remedy,
            )
        } else {
            Finding::blocker(
                "migration-config",
                format!(
                    "{shown} sets {}, which the main file does not; older versions of Connect read it, the container would not",
                    differing.join(", ")
                ),
                remedy,
            )
        });
    }
}

fn is_handled(section: &str, key: &str) -> bool {
    let name = (section.to_lowercase(), key.to_lowercase());
    HANDLED.contains(&(name.0.as_str(), name.1.as_str()))
}

fn belongs_to_image(path: &Path) -> bool {
    // Programs and data that an administrator adds by hand are not the image's.
    !path.starts_with("/usr/local") && IMAGE_OWN.iter().any(|own| path.starts_with(own))
        || path == Path::new("/usr/local")
}
