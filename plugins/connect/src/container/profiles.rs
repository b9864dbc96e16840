//! What an administrator made every R session of the host do: `Rprofile.site`. An image has R of its own, with a profile of its own.

use super::Work;
use std::path::{Path, PathBuf};

/// Where R keeps it, below the folder that holds `bin/R`.
const BELOW_R: [&str; 2] = ["lib/R/etc/Rprofile.site", "lib64/R/etc/Rprofile.site"];
/// Where distributions keep that of their own R, below `/etc`.
const OF_DISTRIBUTION: &str = "R/Rprofile.site";

impl Work<'_> {
    /// Those of the R installations that Connect uses here, as far as they do anything.
    pub(super) fn r_profiles(&self) -> Vec<PathBuf> {
        let gcfg = &self.installation.gcfg;
        let mut homes: Vec<PathBuf> = gcfg
            .get_all("R", None, "Executable")
            .iter()
            .chain(self.installation.setting("R", "Executable").iter())
            .filter_map(|program| Some(Path::new(program).parent()?.parent()?.to_owned()))
            .collect();
        homes.extend(gcfg.get_all("Server", None, "RVersion").iter().map(PathBuf::from));
        if homes.is_empty() {
            // Connect then takes what it finds here.
            let found = std::fs::read_dir(&self.rules.r_folder).into_iter().flatten().flatten();
            homes.extend(found.map(|entry| entry.path()));
        }
        let mut all: Vec<PathBuf> = homes
            .iter()
            .flat_map(|home| BELOW_R.map(|below| home.join(below)))
            .chain([self.rules.etc.join(OF_DISTRIBUTION)])
            // The distribution's lies in both places.
            .filter_map(|path| path.canonicalize().ok())
            .filter(|path| std::fs::read(path).is_ok_and(|text| does_anything(&text)))
            .collect();
        all.sort();
        all.dedup();
        all
    }
}

/// Packages bring one along that has nothing but comments.
fn does_anything(text: &[u8]) -> bool {
    String::from_utf8_lossy(text)
        .lines()
        .map(str::trim)
        .any(|line| !line.is_empty() && !line.starts_with('#'))
}
