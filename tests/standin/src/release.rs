//! Which version this copy says it is, and on which distribution it runs.

use std::path::{Path, PathBuf};

/// Said when nothing else names a version.
pub const DEFAULT_VERSION: &str = "2026.03.1";

/// The version of this copy: `STANDIN_VERSION`, else the file `VERSION` beside the `bin` directory of the program,
/// else [`DEFAULT_VERSION`]. So packages and images of many versions hold the same program.
#[must_use]
pub fn version() -> String {
    if let Ok(version) = std::env::var("STANDIN_VERSION") {
        return version.trim().to_owned();
    }
    home()
        .and_then(|home| std::fs::read_to_string(home.join("VERSION")).ok())
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| DEFAULT_VERSION.to_owned())
}

/// The directory above the program's own: `/opt/rstudio-connect`.
#[must_use]
pub fn home() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned())
}

/// `<ID>-<VERSION_ID>` of an os-release file, such as `debian-12` or `ubuntu-24.04`.
#[must_use]
pub fn distribution(os_release: &Path) -> String {
    let text = std::fs::read_to_string(os_release).unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(key, _)| *key == name)
            .map_or("unknown", |(_, value)| value.trim_matches('"'))
    };
    format!("{}-{}", field("ID"), field("VERSION_ID"))
}

/// Where R, Python and Quarto are installed: `STANDIN_OPT` or `/opt`.
#[must_use]
pub fn interpreter_root() -> PathBuf {
    std::env::var_os("STANDIN_OPT").map_or_else(|| PathBuf::from("/opt"), PathBuf::from)
}
