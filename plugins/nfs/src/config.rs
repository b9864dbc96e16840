//! The configuration file names the new data directory, and every other byte stays.

use crate::copying::{Kept, write};
use connect_migrator_connect::config_file;
use connect_migrator_connect::gcfg::Gcfg;
use connect_migrator_connect::secrets;
use connect_migrator_sdk::StepError;
use std::fs;
use std::path::Path;

const SECTION: &str = "Server";
const KEY: &str = "DataDir";

fn failed(tried: &str, path: &Path, why: impl std::fmt::Display) -> StepError {
    StepError::new(format!("{tried} {}", path.display())).because(why)
}

fn parsed(config: &Path) -> Result<(Vec<u8>, Gcfg), StepError> {
    let bytes = fs::read(config).map_err(|error| failed("read", config, error))?;
    let gcfg = Gcfg::parse(&bytes).map_err(|error| failed("understand", config, error))?;
    Ok((bytes, gcfg))
}

/// Whether the configuration names the mount as data directory.
///
/// # Errors
/// When it cannot be read.
pub fn is_switched(config: &Path, mount: &Path) -> Result<bool, StepError> {
    let (_, gcfg) = parsed(config)?;
    Ok(gcfg.get(SECTION, None, KEY).is_some_and(|value| Path::new(&value) == mount))
}

/// Names the mount as data directory. The file as it was is kept for the way back. Answers the unified diff, without
/// secrets, if it changed.
///
/// # Errors
/// When the file cannot be read or written; it is unchanged then.
pub fn switch(config: &Path, mount: &Path, kept: &Kept<'_>) -> Result<Option<String>, StepError> {
    let (before, mut gcfg) = parsed(config)?;
    if gcfg.get(SECTION, None, KEY).is_some_and(|value| Path::new(&value) == mount) {
        return Ok(None);
    }
    let shown_before = secrets::redact_gcfg(&gcfg);
    gcfg.set(SECTION, None, KEY, &mount.to_string_lossy())
        .map_err(|error| failed("change the data directory in", config, error))?;
    write(&kept.config_before(), &before)?;
    write(&kept.config_after(), &gcfg.to_bytes())?;
    replace(config, &before, &gcfg.to_bytes())?;
    let (name, shown) = (config.display().to_string(), secrets::redact_gcfg(&gcfg));
    let diff = similar::TextDiff::from_lines(shown_before.as_str(), shown.as_str());
    Ok(Some(diff.unified_diff().header(&name, &name).to_string()))
}

/// Names the former data directory again: the file is as it was, byte for byte, unless somebody changed it since; then only this
/// setting is. Answers whether it changed.
///
/// # Errors
/// When the file cannot be read or written.
pub fn switch_back(config: &Path, mount: &Path, kept: &Kept<'_>) -> Result<bool, StepError> {
    let (now, mut gcfg) = parsed(config)?;
    if gcfg.get(SECTION, None, KEY).is_none_or(|value| Path::new(&value) != mount) {
        return Ok(false);
    }
    let before =
        fs::read(kept.config_before()).map_err(|error| failed("read", &kept.config_before(), error))?;
    if fs::read(kept.config_after()).is_ok_and(|after| after == now) {
        replace(config, &now, &before)?;
        return Ok(true);
    }
    let old = Gcfg::parse(&before).map_err(|error| failed("understand", &kept.config_before(), error))?;
    let undone = match old.get(SECTION, None, KEY) {
        Some(value) => gcfg.set(SECTION, None, KEY, &value),
        None => {
            let count = gcfg.settings().filter(|setting| {
                setting.section.eq_ignore_ascii_case(SECTION)
                    && setting.subsection.is_none()
                    && setting.key.eq_ignore_ascii_case(KEY)
            });
            let last = count.count().saturating_sub(1);
            gcfg.remove_nth(SECTION, None, KEY, last)
        }
    };
    undone.map_err(|error| failed("put back the data directory in", config, error))?;
    replace(config, &now, &gcfg.to_bytes())?;
    Ok(true)
}

/// Puts new content in the place of what was read.
fn replace(path: &Path, expected: &[u8], bytes: &[u8]) -> Result<(), StepError> {
    config_file::replace(path, expected, bytes).map_err(StepError::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    const CONFIG: &str = "; a comment\r\n[Server]\r\nAddress = \"https://c.example.com\" ; why\r\nDataDir = \"/old/data\"\r\n\r\n[HTTP]\r\nListen = :3939\r\n";

    #[test]
    fn switched_and_back_the_file_is_the_same_byte_for_byte() {
        for text in [CONFIG, "[HTTP]\nListen = :3939\n", "", "[Server]\n"] {
            let dir = tempfile::tempdir().unwrap();
            let config = dir.path().join("rstudio-connect.gcfg");
            fs::write(&config, text).unwrap();
            fs::set_permissions(&config, fs::Permissions::from_mode(0o640)).unwrap();
            let (kept, mount) = (Kept(dir.path()), Path::new("/mnt/connect"));
            let diff = switch(&config, mount, &kept).unwrap().unwrap();
            assert!(
                diff.lines().any(|line| line.starts_with('+') && line.contains("/mnt/connect")),
                "{diff}"
            );
            assert!(is_switched(&config, mount).unwrap());
            assert_eq!(switch(&config, mount, &kept).unwrap(), None, "twice is once");
            assert_eq!(fs::metadata(&config).unwrap().mode() & 0o7777, 0o640);
            assert!(switch_back(&config, mount, &kept).unwrap());
            assert!(!switch_back(&config, mount, &kept).unwrap());
            assert_eq!(fs::read_to_string(&config).unwrap(), text);
        }
    }

    #[test]
    fn files_of_the_administrator_beside_it_stay_and_so_does_its_acl() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("rstudio-connect.gcfg");
        fs::write(&config, CONFIG).unwrap();
        let theirs =
            ["rstudio-connect.gcfg.new", "rstudio-connect.new", "rstudio-connect.gcfg.connect-migrator"];
        for name in theirs {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let acl = |arguments: &[&str]| {
            std::process::Command::new(arguments[0]).args(&arguments[1..]).arg(&config).output().unwrap()
        };
        assert!(acl(&["setfacl", "-m", "u:1005:r"]).status.success());
        let before = acl(&["getfacl", "-n"]).stdout;
        let kept_in = tempfile::tempdir().unwrap();
        let (kept, mount) = (Kept(kept_in.path()), Path::new("/mnt/connect"));
        switch(&config, mount, &kept).unwrap();
        assert_eq!(acl(&["getfacl", "-n"]).stdout, before);
        switch_back(&config, mount, &kept).unwrap();
        assert_eq!(acl(&["getfacl", "-n"]).stdout, before);
        for name in theirs {
            assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), name);
        }
    }

    #[test]
    fn what_somebody_changed_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("rstudio-connect.gcfg");
        fs::write(&config, CONFIG).unwrap();
        let (kept, mount) = (Kept(dir.path()), Path::new("/mnt/connect"));
        switch(&config, mount, &kept).unwrap();
        let changed = fs::read_to_string(&config).unwrap().replace(":3939", ":4000");
        fs::write(&config, changed).unwrap();
        switch_back(&config, mount, &kept).unwrap();
        let text = fs::read_to_string(&config).unwrap();
        assert!(
            text.contains(":4000") && text.contains("/old/data") && !text.contains("/mnt/connect"),
            "{text}"
        );
    }
}
