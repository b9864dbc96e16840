//! Runtime caches and unpacked content in DataDir.
//!
//! ```text
//! packrat/<R version>/distribution                  what the cache was built on
//! packrat/<R version>/<bundle id>/...               the packages of one bundle
//! python-environments/<version>/...                 the same for Python
//! apps/<content id>/<bundle id>/packrat  -> ../../../packrat/<version>/<bundle id>
//! apps/<content id>/<bundle id>/env      -> ../../../python-environments/<version>/<bundle id>
//! bundles/<content id>/<bundle id>.tar.gz
//! ```

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::runtimes::{Language, Version};

/// Name of the file that records a cache's distribution.
pub const DISTRIBUTION_FILE: &str = "distribution";

/// Who owns what content reads: the RunAs user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Numeric user.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

/// The files of DataDir that belong to content.
#[derive(Debug, Clone)]
pub struct DataDir {
    root: PathBuf,
    /// The RunAs user; `None`: nobody checks (tests without such a user).
    owner: Option<Owner>,
}

/// One runtime cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// R or Python.
    pub language: Language,
    /// Name of its directory.
    pub version: String,
}

impl DataDir {
    /// Names a data directory; creates nothing.
    #[must_use]
    pub fn new(root: &Path, owner: Option<Owner>) -> Self {
        DataDir { root: root.to_owned(), owner }
    }

    fn caches_of(&self, language: Language) -> Option<PathBuf> {
        match language {
            Language::R => Some(self.root.join("packrat")),
            Language::Python => Some(self.root.join("python-environments")),
            Language::Quarto => None,
        }
    }

    fn cache(&self, language: Language, version: &str) -> Option<PathBuf> {
        Some(self.caches_of(language)?.join(version))
    }

    /// All runtime caches, R first, each sorted by version.
    #[must_use]
    pub fn caches(&self) -> Vec<Cache> {
        let mut all = Vec::new();
        for language in [Language::R, Language::Python] {
            let Some(Ok(entries)) = self.caches_of(language).map(fs::read_dir) else { continue };
            let mut versions: Vec<String> = entries
                .flatten()
                .filter(|e| e.path().is_dir())
                .filter_map(|e| e.file_name().into_string().ok())
                .collect();
            versions.sort();
            all.extend(versions.into_iter().map(|version| Cache { language, version }));
        }
        all
    }

    /// Removes a cache with all it holds; `false` if it is not there.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove_cache(&self, cache: &Cache) -> Result<bool, Failure> {
        let Some(path) = self.cache(cache.language, &cache.version).filter(|p| p.is_dir()) else {
            return Ok(false);
        };
        fs::remove_dir_all(&path).map_err(Failure::file("remove", &path))?;
        Ok(true)
    }

    /// The distribution that a cache was built on. `None`: no such cache.
    #[must_use]
    pub fn distribution_of(&self, language: Language, version: Version) -> Option<String> {
        let file = self.cache(language, &version.to_string())?.join(DISTRIBUTION_FILE);
        Some(fs::read_to_string(file).ok()?.trim().to_owned())
    }

    /// Whether a bundle has its packages in a cache.
    #[must_use]
    pub fn has_environment(&self, language: Language, version: Version, bundle: &str) -> bool {
        self.cache(language, &version.to_string()).is_some_and(|c| c.join(bundle).is_dir())
    }

    /// Puts a bundle's packages into a cache, making the cache with this distribution if there is none, and points
    /// the unpacked bundle at it. A cache that is there keeps the distribution it was made on: that is the trap which
    /// clearing caches avoids. Doing it twice is doing it once.
    ///
    /// # Errors
    /// The file system's.
    pub fn build_environment(
        &self,
        language: Language,
        version: Version,
        content: i64,
        bundle: &str,
        distribution: &str,
    ) -> Result<(), Failure> {
        let Some(cache) = self.cache(language, &version.to_string()) else { return Ok(()) };
        let environment = cache.join(bundle);
        let packages = environment.join("lib/base");
        self.make_dir(&packages)?;
        let record = cache.join(DISTRIBUTION_FILE);
        if !record.exists() {
            self.write(&record, distribution.as_bytes(), 0o644)?;
        }
        self.write(&packages.join("DESCRIPTION"), format!("{language} {version}\n").as_bytes(), 0o644)?;
        self.write(&packages.join("base.so"), format!("built on {distribution}\n").as_bytes(), 0o755)?;
        self.link(Path::new("base.so"), &packages.join("base.so.1"))?;
        let (name, target) = match language {
            Language::R => ("packrat", format!("../../../packrat/{version}/{bundle}")),
            _ => ("env", format!("../../../python-environments/{version}/{bundle}")),
        };
        self.link(Path::new(&target), &self.app(content, bundle).join(name))
    }

    /// The directory of an unpacked bundle.
    #[must_use]
    pub fn app(&self, content: i64, bundle: &str) -> PathBuf {
        self.root.join("apps").join(content.to_string()).join(bundle)
    }

    /// The uploaded bundle.
    #[must_use]
    pub fn bundle(&self, content: i64, bundle: &str) -> PathBuf {
        self.root.join("bundles").join(content.to_string()).join(format!("{bundle}.tar.gz"))
    }

    /// Whether the RunAs user can read an unpacked bundle: content processes run as that user.
    ///
    /// # Errors
    /// A text that says why not.
    pub fn readable_by_run_as(&self, path: &Path) -> Result<(), String> {
        let meta = fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
        match self.owner {
            Some(owner) if owner.uid != meta.uid() && meta.mode() & 0o005 != 0o005 => Err(format!(
                "{}: permission denied: owned by uid {}, the Applications.RunAs user has uid {}",
                path.display(),
                meta.uid(),
                owner.uid
            )),
            _ => Ok(()),
        }
    }

    /// Makes a directory owned by the RunAs user, mode 0750, with its parents.
    ///
    /// # Errors
    /// The file system's.
    pub fn make_dir(&self, path: &Path) -> Result<(), Failure> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent()
            && parent.starts_with(&self.root)
        {
            self.make_dir(parent)?;
        }
        match fs::create_dir(path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Failure::file("create", path)(e));
            }
            _ => {}
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o750))
            .map_err(Failure::file("set the mode of", path))?;
        self.give(path)
    }

    /// Writes a file owned by the RunAs user.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
        fs::write(path, bytes).map_err(Failure::file("write", path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(Failure::file("set the mode of", path))?;
        self.give(path)
    }

    fn link(&self, target: &Path, path: &Path) -> Result<(), Failure> {
        if let Some(parent) = path.parent() {
            self.make_dir(parent)?;
        }
        if fs::read_link(path).is_ok_and(|t| t == target) {
            return Ok(());
        }
        match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::file("remove", path)(e));
            }
            _ => {}
        }
        std::os::unix::fs::symlink(target, path).map_err(Failure::file("link", path))?;
        self.give(path)
    }

    fn give(&self, path: &Path) -> Result<(), Failure> {
        match self.owner {
            Some(owner) => std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
                .map_err(Failure::file("change the owner of", path)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_owned_by_another_number_than_the_run_as_user_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("app");
        fs::create_dir(&app).unwrap();
        let uid = fs::metadata(&app).unwrap().uid();
        let as_user = |uid| DataDir::new(dir.path(), Some(Owner { uid, gid: 0 })).readable_by_run_as(&app);
        fs::set_permissions(&app, fs::Permissions::from_mode(0o750)).unwrap();
        as_user(uid).unwrap();
        assert!(as_user(uid + 1).unwrap_err().contains("permission denied"));
        fs::set_permissions(&app, fs::Permissions::from_mode(0o755)).unwrap();
        as_user(uid + 1).unwrap();
    }
}
