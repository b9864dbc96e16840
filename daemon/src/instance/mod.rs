//! An instance: its files, and from them the plan that the engine runs.

mod assemble;
mod pin;

pub use assemble::{AssembleError, Assembled, Plugins, assemble};
pub use pin::{PinError, Pinned, pin_plugins, verify_pinned};

use std::path::{Path, PathBuf};

/// The longest name of an instance: it becomes part of file, unit and bus names.
const MAX_NAME_CHARS: usize = 64;

/// The files of an instance. `root` is `/` but in tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    name: String,
    root: PathBuf,
}

/// The name cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot name an instance: use letters, digits, `-` and `_`, at most {MAX_NAME_CHARS} of them, and begin with a \
     letter or digit; the instance is the name of its runbook in /etc/connect-migrator without `.toml`"
)]
pub struct BadName(String);

impl Instance {
    /// The instance of this name.
    ///
    /// # Errors
    /// When the name could not be part of a path or a bus name.
    pub fn named(name: &str) -> Result<Self, BadName> {
        Self::below(Path::new("/"), name)
    }

    /// The instance of this name, with all its files below `root`.
    ///
    /// # Errors
    /// As [`Instance::named`].
    pub fn below(root: &Path, name: &str) -> Result<Self, BadName> {
        let name = name.strip_suffix(".toml").unwrap_or(name);
        let begins = name.chars().next().is_some_and(|first| first.is_ascii_alphanumeric());
        let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !begins || !fits || name.len() > MAX_NAME_CHARS {
            return Err(BadName(name.chars().take(MAX_NAME_CHARS).collect()));
        }
        Ok(Instance { name: name.into(), root: root.into() })
    }

    /// The name after the `@`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `connect-migrator@prod.service`.
    #[must_use]
    pub fn unit(&self) -> String {
        format!("connect-migrator@{}.service", self.name)
    }

    /// `/etc/connect-migrator/prod.toml`.
    #[must_use]
    pub fn runbook_path(&self) -> PathBuf {
        self.root.join("etc/connect-migrator").join(format!("{}.toml", self.name))
    }

    /// `/var/lib/connect-migrator/prod`.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.root.join("var/lib/connect-migrator").join(&self.name)
    }

    /// The state file.
    #[must_use]
    pub fn state_path(&self) -> PathBuf {
        self.state_dir().join("state.db")
    }

    /// The folder in which each step of a migration has one of its own.
    #[must_use]
    pub fn steps_dir(&self, migration: &str) -> PathBuf {
        self.state_dir().join("steps").join(if migration.is_empty() { "none" } else { migration })
    }

    /// The folder with the plugins as they were when the migration began: an upgrade of the package meanwhile changes nothing.
    #[must_use]
    pub fn pinned_plugins_dir(&self, migration: &str) -> PathBuf {
        self.state_dir().join("plugins").join(migration)
    }

    /// The folder in which calls that may go on without the daemon leave how they ended, below the migration's id.
    #[must_use]
    pub fn calls_dir(&self) -> PathBuf {
        self.state_dir().join("calls")
    }

    /// The folder for a copy of the running program, for the time that the installed one is another.
    #[must_use]
    pub fn program_dir(&self) -> PathBuf {
        self.state_dir().join("program")
    }

    /// Where plugins are installed; the first folder that has one wins.
    #[must_use]
    pub fn plugin_dirs(&self) -> Vec<PathBuf> {
        ["usr/local/lib/connect-migrator/plugins", "usr/lib/connect-migrator/plugins"]
            .iter()
            .map(|dir| self.root.join(dir))
            .collect()
    }

    /// The report for people; the one for programs lies beside it, ending in `.json`.
    #[must_use]
    pub fn report_path(&self) -> PathBuf {
        self.state_dir().join("report.txt")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_folder_is_refused() {
        for name in ["", "..", "../etc", "a/b", "a b", "-x", "prod\n", "ü", &"x".repeat(65)] {
            assert!(Instance::named(name).is_err(), "{name:?}");
        }
        for name in ["prod", "prod-2", "2prod", "a_b"] {
            assert!(Instance::named(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn the_name_of_the_runbook_may_be_given_instead() {
        assert_eq!(Instance::named("prod.toml").unwrap().name(), "prod");
    }
}
