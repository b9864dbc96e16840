//! Installed interpreters, and which of them suits a content item.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::settings::{Interpreter, Settings};

/// A language that content can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Language {
    /// R
    R,
    /// Python
    Python,
    /// Quarto: has versions, but no runtime cache.
    Quarto,
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Language::R => "R",
            Language::Python => "Python",
            Language::Quarto => "Quarto",
        })
    }
}

/// A three-part version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Reads exactly three numbers with dots between.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|p| p.parse::<u32>().ok());
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(a)), Some(Some(b)), Some(Some(c)), None) => Some(Version(a, b, c)),
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The interpreters of this host.
#[derive(Debug, Clone, Default)]
pub struct Runtimes {
    r: Vec<Version>,
    python: Vec<Version>,
    quarto: Vec<Version>,
}

impl Runtimes {
    /// Looks below `root` (`<root>/R/*/bin/R` and so on) and at what the configuration names.
    ///
    /// # Errors
    /// A configured executable is not there: "Could not locate a Python installation". Python switched on with none
    /// found is refused in the same way.
    pub fn discover(settings: &Settings, root: &Path) -> Result<Self, Failure> {
        let r = found(&settings.r, "an R", &root.join("R"), "bin/R")?;
        let python = found(&settings.python, "a Python", &root.join("python"), "bin/python")?;
        let quarto = found(&settings.quarto, "a Quarto", &root.join("quarto"), "bin/quarto")?;
        if settings.python.enabled && python.is_empty() {
            return Err(Failure::Refused(
                "Could not locate a Python installation: Python.Enabled is true, but there is no Python.Executable and \
                 nothing below /opt/python"
                    .to_owned(),
            ));
        }
        Ok(Runtimes { r, python, quarto })
    }

    /// All versions of a language, oldest first.
    #[must_use]
    pub fn versions(&self, language: Language) -> &[Version] {
        match language {
            Language::R => &self.r,
            Language::Python => &self.python,
            Language::Quarto => &self.quarto,
        }
    }

    /// The interpreter for content that asks for `wanted`: the same version, else the newest with the same first two
    /// numbers. `None`: there is none, the content cannot be built here.
    #[must_use]
    pub fn compatible(&self, language: Language, wanted: Version) -> Option<Version> {
        let all = self.versions(language);
        if all.contains(&wanted) {
            return Some(wanted);
        }
        all.iter().copied().filter(|v| (v.0, v.1) == (wanted.0, wanted.1)).max()
    }
}

fn found(
    configured: &Interpreter,
    name: &str,
    directory: &Path,
    executable: &str,
) -> Result<Vec<Version>, Failure> {
    if !configured.enabled {
        return Ok(Vec::new());
    }
    let mut versions = Vec::new();
    for path in &configured.executables {
        if !path.is_file() {
            return Err(Failure::Refused(format!(
                "Could not locate {name} installation: {}: no such file",
                path.display()
            )));
        }
        match version_in_path(path) {
            Some(version) => versions.push(version),
            None => {
                return Err(Failure::Refused(format!(
                    "Could not locate {name} installation: the path {} does not tell a three-part version",
                    path.display()
                )));
            }
        }
    }
    if let Ok(entries) = std::fs::read_dir(directory) {
        let paths = entries.flatten().map(|e| e.path().join(executable)).filter(|p| p.is_file());
        versions.extend(paths.filter_map(|p: PathBuf| version_in_path(&p)));
    }
    versions.sort_unstable();
    versions.dedup();
    Ok(versions)
}

/// `/opt/python/3.12.4/bin/python` is 3.12.4; links such as `/usr/local/bin/quarto` are followed.
fn version_in_path(path: &Path) -> Option<Version> {
    let in_parts = |p: &Path| p.components().find_map(|c| Version::parse(c.as_os_str().to_str()?));
    in_parts(path).or_else(|| in_parts(&path.canonicalize().ok()?))
}

/// Makes a small script that stands for an interpreter: `<root>/<folder>/<version>/bin/<name>`.
///
/// # Errors
/// The file system's.
pub fn install_stub(root: &Path, language: Language, version: Version) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let (folder, name) = match language {
        Language::R => ("R", "R"),
        Language::Python => ("python", "python"),
        Language::Quarto => ("quarto", "quarto"),
    };
    let path = root.join(folder).join(version.to_string()).join("bin").join(name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(Failure::file("create", parent))?;
    }
    std::fs::write(&path, format!("#!/bin/sh\necho \"{language} {version}\"\n"))
        .map_err(Failure::file("write", &path))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        .map_err(Failure::file("set the mode of", &path))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_minor_version_is_compatible_and_the_exact_one_is_preferred() {
        let runtimes = Runtimes {
            python: vec![Version(3, 11, 2), Version(3, 12, 4), Version(3, 12, 13)],
            ..Runtimes::default()
        };
        assert_eq!(runtimes.compatible(Language::Python, Version(3, 12, 4)), Some(Version(3, 12, 4)));
        assert_eq!(runtimes.compatible(Language::Python, Version(3, 12, 1)), Some(Version(3, 12, 13)));
        assert_eq!(runtimes.compatible(Language::Python, Version(3, 9, 5)), None);
    }

    #[test]
    fn a_configured_executable_that_is_absent_is_refused_with_the_documented_words() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[Python]\nEnabled = true\nExecutable = /nowhere/python/3.12.4/bin/python\n";
        let settings = Settings::from_text(text, std::iter::empty()).unwrap();
        let error = Runtimes::discover(&settings, dir.path()).unwrap_err().to_string();
        assert!(error.contains("Could not locate a Python installation"), "{error}");
        install_stub(dir.path(), Language::R, Version(4, 5, 2)).unwrap();
        let settings = Settings::from_text("", std::iter::empty()).unwrap();
        let found = Runtimes::discover(&settings, dir.path()).unwrap();
        assert_eq!(found.versions(Language::R), [Version(4, 5, 2)]);
    }
}
