//! `connect-migrator init`: looks at this host and writes the runbook that fits it.
//!
//! [`seen`] looks and changes nothing, [`text`] makes a runbook of what was seen, and this file puts it in its place. What was
//! not found is a gap that the file explains; nothing is guessed.

mod content;
mod proxy;
mod seen;
mod storage;
mod text;

use super::Exit;
use crate::instance::Instance;
use crate::runbook::Runbook;
use jiff::Timestamp;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use text::Draft;

/// What the operator said beforehand.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct InitArguments {
    /// Print the runbook instead of writing it
    #[arg(long)]
    pub(super) print: bool,
    /// Replace a runbook that is there already; a copy is kept beside it
    #[arg(long)]
    pub(super) force: bool,
    /// The source's unit
    #[arg(long, value_name = "UNIT", default_value = "rstudio-connect.service")]
    pub(super) unit: String,
    /// The source's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/rstudio-connect/rstudio-connect.gcfg")]
    pub(super) config: PathBuf,
    /// A file with an administrator's API key: used once, to look at the content
    #[arg(long, value_name = "FILE")]
    pub(super) api_key_file: Option<PathBuf>,
    /// Where Connect's image is pulled from, instead of Posit's repositories: a mirror's host, or a repository
    #[arg(long, value_name = "HOST[/REPOSITORY]")]
    pub(super) registry: Vec<String>,
    /// The PostgreSQL database to move to, without its password, when this host uses SQLite
    #[arg(long, value_name = "URL")]
    pub(super) postgres_url: Option<String>,
    /// The NFS export to move the data to, when they lie on a local disk
    #[arg(long, value_name = "SERVER:/PATH")]
    pub(super) nfs_export: Option<String>,
}

/// Writes the runbook.
pub(super) async fn run(instance: &Instance, arguments: &InitArguments) -> Exit {
    let path = instance.runbook_path();
    if is_there(&path) && !arguments.print && !arguments.force {
        let error = format!(
            "{} exists already, and was left as it is; `--print` shows what would be written, `--force` replaces it and keeps a copy",
            path.display()
        );
        return Exit::Failed.because(&error);
    }
    if !nix::unistd::geteuid().is_root() {
        return Exit::Failed.because(
            &"looking at Connect's configuration and writing the runbook needs root; run it with sudo",
        );
    }
    let key = match arguments.api_key_file.as_deref().map(content::read_key).transpose() {
        Ok(key) => key,
        Err(error) => return Exit::Failed.because(&error),
    };
    let seen = seen::look(instance, arguments, key).await;
    let draft = Draft::of(&seen);
    let name = path.display().to_string();
    // A defect of ours must not become the operator's.
    if let Err(mistakes) = Runbook::parse(&name, &draft.text) {
        return Exit::Failed.because(&format!("the runbook that fits this host has mistakes:\n{mistakes}"));
    }
    if arguments.print {
        say!("{}", draft.text);
    } else {
        match put(&path, &draft.text) {
            Ok(Some(kept)) => say_line!("The runbook from before is kept as {}.", kept.display()),
            Ok(None) => {}
            Err(error) => {
                return Exit::Failed
                    .because(&format!("could not write {name}: {error}; nothing was changed"));
            }
        }
        say!("{}", draft.told(instance, &path));
    }
    if draft.gaps.is_empty() { Exit::Done } else { Exit::NeedsOperator }
}

/// Writes the file beside its place and moves it there. Answers where an older one was kept.
fn put(path: &Path, text: &str) -> std::io::Result<Option<PathBuf>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let part = path.with_extension("toml.part");
    let _ = std::fs::remove_file(&part);
    let put = put_by_way_of(&part, path, text);
    if put.is_err() {
        // What is left of it would be in the way of nothing, but nothing was to be changed.
        let _ = std::fs::remove_file(&part);
    }
    put
}

fn put_by_way_of(part: &Path, path: &Path, text: &str) -> std::io::Result<Option<PathBuf>> {
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o644).open(part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    if !is_there(path) {
        // A link fails where a rename would overwrite a file that somebody has just made.
        std::fs::hard_link(part, path)?;
        std::fs::remove_file(part)?;
        return Ok(None);
    }
    let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let kept = path.with_extension(format!("toml.before-{stamp}"));
    std::fs::hard_link(path, &kept)?;
    if let Err(error) = std::fs::rename(part, path) {
        let _ = std::fs::remove_file(&kept);
        return Err(error);
    }
    Ok(Some(kept))
}

/// Also a link that leads nowhere is there.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runbook_that_is_replaced_is_kept_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prod.toml");
        assert_eq!(put(&path, "one").unwrap(), None);
        let kept = put(&path, "two").unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::read_to_string(kept).unwrap(), "one");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_runbook_that_cannot_be_put_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prod.toml");
        std::fs::create_dir(&path).unwrap();
        assert!(put(&path, "one").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_replaced_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prod.toml");
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert!(is_there(&path));
        let kept = put(&path, "one").unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        assert_eq!(std::fs::read_link(kept).unwrap(), Path::new("nowhere"));
    }
}
