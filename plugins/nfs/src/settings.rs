//! What a runbook says under `with`.

use connect_migrator_connect::source_edits::kept_in_data;
use connect_migrator_copy::{MAPPED_WRITES_SECONDS, Options};
use connect_migrator_sdk::{Context, StepError};
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// Mount options when none are given: those that Connect's administrators are advised to use.
/// <https://docs.posit.co/connect/admin/server-management/migration/nfs/>
pub const DEFAULT_OPTIONS: &str = "nfsvers=4.2,hard,lookupcache=pos,noatime";
/// A last pass that is expected to take no longer than this is short enough.
pub const DEFAULT_LAST_PASS_SECONDS: u64 = 30;
/// So often the copy is repeated while Connect serves, at most.
pub const DEFAULT_PASSES_MAX: u32 = 5;

/// Where a rollback keeps what it replaces in a data directory that is a file system of its own. Nobody's data, and never copied.
pub const KEPT_IN_SOURCE: &str = ".connect-migrator-before-rollback";

/// The settings of the step `nfs`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// What to mount: `server:/path`.
    pub export: String,
    /// Where to: the folder that becomes Connect's data directory. Made if it is not there; must be empty.
    pub mount: PathBuf,
    /// Mount options. Default: `nfsvers=4.2,hard,lookupcache=pos,noatime`.
    #[serde(default = "default_options")]
    pub options: String,
    /// Folders of the data directory that are left out, relative to it: for runtime caches, which have to be cleared after the move
    /// anyway. Default: none.
    #[serde(default)]
    pub leave_out: Vec<PathBuf>,
    /// How many entries are copied at once. Default: 64.
    #[serde(default)]
    pub threads: Option<usize>,
    /// Copy at most so many bytes a second while Connect serves. Default: no limit.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// Whether to use disk and processors only when nobody else does, while Connect serves. Default: true.
    #[serde(default = "yes")]
    pub idle: bool,
    /// A file that changed less than so many seconds before it was read is copied once more by the next pass: a write through a memory map
    /// may not show in its times. Default: 60.
    #[serde(default = "default_young_seconds")]
    pub young_seconds: u64,
    /// The copy is repeated while Connect serves until a pass takes no longer. Default: 30.
    #[serde(default = "default_last_pass_seconds")]
    pub last_pass_seconds: u64,
    /// So often it is repeated at most. Default: 5.
    #[serde(default = "default_passes_max")]
    pub passes_max: u32,
    /// What is compared after the last pass, in the window, besides all attributes. Default: `sample`.
    #[serde(default)]
    pub verify_content: VerifyContent,
}

/// Which files' content is compared on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyContent {
    /// None.
    None,
    /// One file in a hundred.
    #[default]
    Sample,
    /// Every file.
    All,
}

fn default_young_seconds() -> u64 {
    MAPPED_WRITES_SECONDS
}

fn default_options() -> String {
    DEFAULT_OPTIONS.into()
}

fn default_last_pass_seconds() -> u64 {
    DEFAULT_LAST_PASS_SECONDS
}

fn default_passes_max() -> u32 {
    DEFAULT_PASSES_MAX
}

fn yes() -> bool {
    true
}

impl Settings {
    /// The server's name or address.
    ///
    /// # Errors
    /// When the export is not `server:/path`.
    pub fn server(&self) -> Result<&str, StepError> {
        let wrong = || {
            StepError::new(format!("understand the export `{}`", self.export))
                .because("it is not of the form `server:/path`")
                .remedy("write, for example, `export = \"nas.example.com:/export/connect\"`")
        };
        let (server, path) = self.export.rsplit_once(":/").ok_or_else(wrong)?;
        let plain = !path.contains(char::is_whitespace) && !server.contains(char::is_whitespace);
        let server = server.trim_start_matches('[').trim_end_matches(']');
        if server.is_empty() || !plain { Err(wrong()) } else { Ok(server) }
    }

    /// Says what is wrong with the settings themselves.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn validate(&self) -> Result<(), StepError> {
        self.server()?;
        let plain = |path: &Path| {
            path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        };
        if !self.mount.is_absolute() || !plain(&self.mount) || self.mount == Path::new("/") {
            return Err(StepError::new(format!("use {} as mount point", self.mount.display()))
                .because("it is not an absolute path of a folder of its own")
                .remedy("write, for example, `mount = \"/mnt/connect\"`"));
        }
        if self.options.contains(char::is_whitespace) || self.options.contains('%') {
            return Err(StepError::new(format!("use the mount options `{}`", self.options))
                .because("they hold a space or a `%`")
                .remedy("separate options by commas only"));
        }
        Ok(())
    }

    /// The copy from `source`, with its manifest in the step's own folder. What other steps keep in the data directory is none of it.
    #[must_use]
    pub fn copy(&self, source: &Path, cx: &Context) -> Options {
        let mut options = Options::new(source, &self.mount, cx.state_dir().join("manifest"));
        options.ignore_at_root.extend(kept_in_data(cx));
        options.ignore_at_root.push(KEPT_IN_SOURCE.into());
        options.exclude = self.leave_out.clone();
        options.threads = self.threads;
        options.young = Duration::from_secs(self.young_seconds);
        options
    }

    /// Whether an option is among the mount options: `hard`, `lookupcache=pos`.
    #[must_use]
    pub fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|have| have == option)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(export: &str) -> Settings {
        let json = serde_json::json!({ "export": export, "mount": "/mnt/connect" });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn an_export_is_a_server_and_a_path() {
        assert_eq!(settings("nas:/export/connect").server().unwrap(), "nas");
        assert_eq!(settings("[fd00::1]:/export").server().unwrap(), "fd00::1");
        for bad in ["nas", "nas:export", ":/export", "//nas/share", "nas:/a b"] {
            assert!(settings(bad).server().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mount_point_is_an_absolute_folder_of_its_own() {
        for bad in ["mnt", "/", "/mnt/../etc"] {
            let with = Settings { mount: bad.into(), ..settings("nas:/x") };
            assert!(with.validate().is_err(), "{bad}");
        }
        assert!(settings("nas:/x").validate().is_ok());
    }
}
