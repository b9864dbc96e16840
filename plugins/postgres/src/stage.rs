//! `prepare`: the password encrypted, the configuration for the tool and the one for afterwards written beside the real one.

use crate::settings::Which;
use crate::subject::Subject;
use crate::undo::Undo;
use crate::{backup, tool};
use connect_migrator_connect::gcfg::{Gcfg, SetError};
use connect_migrator_connect::installation::{DatabaseProvider, Installation};
use connect_migrator_connect::source_edits::EditError;
use connect_migrator_sdk::{Outcome, StepError};
use std::path::{Path, PathBuf};

/// The configuration that the tool is given.
pub const TOOL_CONFIG: &str = "migrate.gcfg";
/// The configuration as it will be.
pub const STAGED_CONFIG: &str = "staged.gcfg";
/// The copy of the SQLite files that the tool works on: the source's own are not touched.
pub const WORK: &str = "work";

/// Prepares. Connect serves meanwhile.
///
/// # Errors
/// When the password cannot be encrypted, or the configuration cannot be edited.
pub async fn prepare(subject: &Subject<'_>) -> Result<Outcome, StepError> {
    let cx = subject.cx;
    let installation = subject.installed()?;
    if installation.database_provider == DatabaseProvider::Postgres {
        return Ok(Outcome::already_done("Connect uses PostgreSQL already"));
    }
    cx.record_undo(&Undo::Staged)?;
    make_folder(cx.state_dir())?;
    for which in [Which::Core, Which::Instrumentation] {
        if which == Which::Instrumentation && subject.settings.instrumentation_url.is_none() {
            continue;
        }
        let Some(password) = subject.password(which)? else { continue };
        let encrypted = tool::encrypt(&subject.program("rscadmin"), subject.config(), &password).await?;
        write(&subject.kept(which.password_file()), format!("{encrypted}\n").as_bytes())?;
    }
    write(&subject.kept(TOOL_CONFIG), &tool_config(subject, &installation)?)?;
    write(&subject.kept(STAGED_CONFIG), &switched(subject, &installation.gcfg)?)?;
    let staged = subject.kept(STAGED_CONFIG);
    Ok(Outcome::changed(format!("the configuration for PostgreSQL is staged in {}", staged.display()))
        .fact(subject.edits_key(), &subject.edits()))
}

/// The bytes of a configuration once the step has switched it; every byte that does not belong to these settings stays.
///
/// # Errors
/// When a value cannot be written, or the encrypted password is not there.
pub fn switched(subject: &Subject<'_>, gcfg: &Gcfg) -> Result<Vec<u8>, StepError> {
    let mut gcfg = gcfg.clone();
    subject.edits().apply(&mut gcfg).map_err(|error| edited(&error))?;
    Ok(gcfg.to_bytes())
}

fn edited(error: &EditError) -> StepError {
    StepError::new("edit the configuration").because(error)
}

/// The tool connects to both: the provider is still SQLite, PostgreSQL is filled in, and SQLite is a copy.
///
/// # Errors
/// As [`switched`].
pub fn tool_config(subject: &Subject<'_>, installation: &Installation) -> Result<Vec<u8>, StepError> {
    let mut gcfg = Gcfg::parse(switched(subject, &installation.gcfg)?)
        .map_err(|error| StepError::new("edit the configuration").because(error))?;
    let mut set = |section: &str, key: &str, value: &str| {
        gcfg.set(section, None, key, value)
            .map_err(|error: SetError| StepError::new("edit the configuration").because(error))
    };
    set("Database", "Provider", "sqlite")?;
    // The tool does not see the environment of Connect's unit: what is set there is written out.
    set("Server", "DataDir", &utf8(&installation.data_dir)?)?;
    set("Database", "Dir", &utf8(&installation.database_dir)?)?;
    set("SQLite", "Dir", &utf8(&subject.kept(WORK))?)?;
    Ok(gcfg.to_bytes())
}

fn utf8(path: &Path) -> Result<String, StepError> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        StepError::new(format!("write {} into a configuration file", path.display()))
            .because("it is not UTF-8")
    })
}

/// Makes the step's own folder.
///
/// # Errors
/// The file system's.
pub fn make_folder(path: &Path) -> Result<(), StepError> {
    backup::folder(path).map_err(|error| StepError::new("make the step's folder").because(error))
}

/// Writes a file in the step's own folder.
///
/// # Errors
/// The file system's.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), StepError> {
    backup::write_whole(path, bytes).map_err(|error| {
        StepError::new(format!("write {}", path.display()))
            .because(error)
            .remedy("see that the disk is not full")
    })
}

/// What `prepare` writes.
#[must_use]
pub fn files(subject: &Subject<'_>) -> Vec<PathBuf> {
    let names = [
        TOOL_CONFIG.into(),
        STAGED_CONFIG.into(),
        Which::Core.password_file(),
        Which::Instrumentation.password_file(),
    ];
    names.iter().map(|name: &PathBuf| subject.kept(name)).collect()
}
