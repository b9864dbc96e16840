//! Keeps the plugins as they were when a migration began.

use crate::host::{self, PluginRef};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A plugin could not be kept, or is not as it was.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The folder for the copies could not be made.
    #[error(
        "could not make {dir} for copies of the plugins: {why}; check that the disk is not full or read-only"
    )]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// Why.
        why: std::io::Error,
    },
    /// It could not be copied.
    #[error(
        "could not keep a copy of the plugin {from} as {to}: {why}; check that the disk is not full or read-only"
    )]
    Copy {
        /// The installed file.
        from: PathBuf,
        /// The copy.
        to: PathBuf,
        /// Why.
        why: std::io::Error,
    },
    /// It may not be loaded, or its digest cannot be read.
    #[error("{0}")]
    Refused(host::CallFailure),
    /// Somebody changed the copy.
    #[error(
        "the plugin {path} is not the one that this migration began with (its SHA-256 is {found}, it was {pinned}); \
         put the right file back, then start again"
    )]
    Changed {
        /// The copy.
        path: PathBuf,
        /// What was written down.
        pinned: String,
        /// What it is.
        found: String,
    },
}

/// Where plugins are now, and the digest of each that is a file; both by name.
pub type Pinned = (BTreeMap<String, PluginRef>, BTreeMap<String, String>);

/// Copies the plugins into `dir`, which is there afterwards in any case, and answers where they are now, with their digests. Done again, it does nothing.
///
/// # Errors
/// See [`PinError`].
pub fn pin_plugins(plugins: &BTreeMap<String, PluginRef>, dir: &Path) -> Result<Pinned, PinError> {
    let mut pinned = BTreeMap::new();
    let mut digests = BTreeMap::new();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|why| PinError::Folder { dir: dir.into(), why })?;
    for (name, plugin) in plugins {
        let PluginRef::File(from) = plugin else {
            pinned.insert(name.clone(), plugin.clone());
            continue;
        };
        let to = dir.join(format!("{name}.so"));
        let copy = || -> std::io::Result<()> {
            let beside = dir.join(format!("{name}.so.part"));
            fs::copy(from, &beside)?;
            fs::set_permissions(&beside, fs::Permissions::from_mode(0o644))?;
            fs::File::open(&beside)?.sync_all()?;
            fs::rename(&beside, &to)?;
            fs::File::open(dir)?.sync_all()
        };
        host::check_trust(from).map_err(PinError::Refused)?;
        copy().map_err(|why| PinError::Copy { from: from.clone(), to: to.clone(), why })?;
        let plugin = PluginRef::File(to);
        if let Some(digest) = host::digest(&plugin).map_err(PinError::Refused)? {
            digests.insert(name.clone(), digest);
        }
        pinned.insert(name.clone(), plugin);
    }
    Ok((pinned, digests))
}

/// The plugins of an earlier start of the daemon, if they are still the same.
///
/// # Errors
/// See [`PinError`].
pub fn verify_pinned(
    digests: &BTreeMap<String, String>,
    dir: &Path,
) -> Result<BTreeMap<String, PluginRef>, PinError> {
    let mut plugins = BTreeMap::new();
    for (name, pinned) in digests {
        let path = dir.join(format!("{name}.so"));
        let plugin = PluginRef::File(path.clone());
        let found = host::digest(&plugin).map_err(PinError::Refused)?.unwrap_or_default();
        if found != *pinned {
            return Err(PinError::Changed { path, pinned: pinned.clone(), found });
        }
        plugins.insert(name.clone(), plugin);
    }
    Ok(plugins)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It says that the migration is not wrapped up yet.
    #[test]
    fn the_folder_is_there_also_where_all_plugins_are_built_in() {
        let dir = tempfile::tempdir().unwrap();
        let plugins = [("systemd".to_owned(), PluginRef::BuiltIn("systemd".into()))].into();
        let (pinned, digests) = pin_plugins(&plugins, &dir.path().join("plugins/m")).unwrap();
        assert_eq!((pinned, digests.len()), (plugins, 0));
        assert!(dir.path().join("plugins/m").is_dir());
    }
}
