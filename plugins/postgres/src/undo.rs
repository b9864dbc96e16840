//! What was changed, and how it is put back.

use crate::backup::Backup;
use crate::connection::Door;
use crate::objects::{self, NotEmptied};
use crate::program;
use crate::settings::Which;
use crate::stage::{self, WORK};
use crate::subject::Subject;
use crate::window::{self, BACKUP, CONFIG_AFTER, CONFIG_BEFORE, Inventories, PUT, Put, REFERENCE, TOOL_PID};
use connect_migrator_connect::config_file;
use connect_migrator_connect::gcfg::Gcfg;
use connect_migrator_connect::source_edits;
use connect_migrator_sdk::{StepError, Undone};
use serde::{Deserialize, Serialize};

/// One change. Written down before it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "changed")]
pub enum Undo {
    /// Files in the step's own folder.
    Staged,
    /// The tool fills the databases, in which this stood before.
    Target {
        /// Schemas and extensions.
        before: Inventories,
    },
    /// The configuration is switched; its bytes are in the step's own folder.
    Config,
}

/// Puts one call back.
///
/// # Errors
/// When the configuration cannot be put back: the source would start on the wrong database.
pub async fn roll_back(subject: &Subject<'_>, undo: Vec<Undo>) -> Result<Undone, StepError> {
    let mut undone = Undone { evidence: Vec::new(), left: Vec::new() };
    if program::end_leftover(&subject.kept(TOOL_PID)) {
        undone = undone.and("the product's tool still ran, and was ended");
    }
    // The newest record says the most about the configuration, the oldest about what stood in the databases beforehand.
    let switched = undo.contains(&Undo::Config);
    let before = undo.iter().find_map(|change| match change {
        Undo::Target { before } => Some(before.clone()),
        _ => None,
    });
    if switched && source_edits::traffic_was_routed(subject.cx) {
        return stay(subject, undone);
    }
    if switched {
        undone = configuration(subject, undone)?;
    }
    if let Some(before) = before {
        undone = sqlite(subject, undone);
        undone = targets(subject, &before, undone).await;
        undone = without_copies(subject, &[WORK, REFERENCE], undone);
    }
    if undo.contains(&Undo::Staged) {
        for path in stage::files(subject) {
            match std::fs::remove_file(&path) {
                Ok(()) => undone = undone.and(format!("{} removed", path.display())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => undone = undone.but(format!("could not remove {}: {error}", path.display())),
            }
        }
    }
    if undone.evidence.is_empty() && undone.left.is_empty() {
        undone.evidence.push("nothing had been changed".into());
    }
    Ok(undone)
}

/// Users have worked on PostgreSQL: that is where their work is. Refuses when the configuration leads elsewhere, as the source would be
/// started on it.
fn stay(subject: &Subject<'_>, undone: Undone) -> Result<Undone, StepError> {
    let installation = subject.installed()?;
    if subject.is_switched(&installation.gcfg) {
        return Ok(undone.and(
            "the source comes back on PostgreSQL: users have worked there since, and SQLite does not have it; its files stay as they were",
        ));
    }
    Err(StepError::new("see the source lead to the database on which users have worked")
        .because(format!("somebody changed {}: it leads elsewhere", subject.config().display()))
        .remedy(format!(
            "set Database.Provider to postgres and Postgres.URL as in {}, then roll back again",
            subject.kept(CONFIG_AFTER).display()
        )))
}

/// Removes copies of the database from the step's own folder.
pub fn without_copies(subject: &Subject<'_>, names: &[&str], mut undone: Undone) -> Undone {
    for path in names.iter().map(|name| subject.kept(name)) {
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                undone = undone.but(format!("could not remove the copy {}: {error}", path.display()));
            }
            _ => {}
        }
    }
    undone
}

fn configuration(subject: &Subject<'_>, undone: Undone) -> Result<Undone, StepError> {
    let path = subject.config();
    let by_hand = || {
        format!(
            "put {} back in its place before Connect is started: it would use the wrong database",
            subject.kept(CONFIG_BEFORE).display()
        )
    };
    let failed = |error: &dyn std::fmt::Display| {
        StepError::new(format!("put back {}", path.display())).because(error).remedy(by_hand())
    };
    let before = config_file::read(&subject.kept(CONFIG_BEFORE)).map_err(|error| failed(&error))?;
    let now = config_file::read(path).map_err(|error| failed(&error))?;
    if now == before {
        return Ok(undone.and(format!("{} is as it was before, byte for byte", path.display())));
    }
    let after = config_file::read(&subject.kept(CONFIG_AFTER)).map_err(|error| failed(&error))?;
    if now == after {
        config_file::replace(path, &now, &before).map_err(|error| failed(&error))?;
        return Ok(undone.and(format!("{} is as it was before, byte for byte", path.display())));
    }
    // Somebody has edited it since: only our own values are taken back.
    let old = Gcfg::parse(&before).map_err(|error| failed(&error))?;
    let mut gcfg = Gcfg::parse(&now).map_err(|error| failed(&error))?;
    for edit in subject.edits().edits {
        let (section, sub, key) = (edit.section.as_str(), edit.subsection.as_deref(), edit.key.as_str());
        let result = match old.get(section, sub, key) {
            Some(value) => gcfg.set(section, sub, key, &value),
            None => match gcfg.get(section, sub, key) {
                Some(_) => {
                    let last = gcfg.count(section, sub, key).saturating_sub(1);
                    gcfg.remove_nth(section, sub, key, last)
                }
                None => Ok(()),
            },
        };
        result.map_err(|error| failed(&error))?;
    }
    config_file::replace(path, &now, &gcfg.to_bytes()).map_err(|error| failed(&error))?;
    Ok(undone.and(format!(
        "somebody has edited {} since: it says sqlite again, and their edits stay",
        path.display()
    )))
}

/// The tool worked on a copy: the source's own files must be what they were.
fn sqlite(subject: &Subject<'_>, undone: Undone) -> Undone {
    let Some(backup) = Backup::read(&subject.kept(BACKUP)) else { return undone };
    match backup.changed() {
        Ok(changed) if changed.is_empty() => {
            undone.and(format!("the SQLite files ({}) are as they were, byte for byte", backup.files.len()))
        }
        Ok(changed) => {
            let names: Vec<String> = changed.iter().map(|path| path.display().to_string()).collect();
            undone.but(format!(
                "{} changed since the window began, though nothing of this migration writes to it: Connect seems to have run on it. It is left as it is; what it was like is in {}",
                names.join(", "),
                subject.kept(BACKUP).display()
            ))
        }
        Err(error) => undone.but(error.to_string()),
    }
}

async fn targets(subject: &Subject<'_>, before: &Inventories, mut undone: Undone) -> Undone {
    let doors = match subject.doors() {
        Ok(doors) => doors,
        Err(error) => {
            return undone.but(format!("{error}; the PostgreSQL database may hold data of this migration"));
        }
    };
    let put: Option<Put> = window::kept_json(&subject.kept(PUT));
    for (which, door) in doors {
        match target(subject, which, &door, before, put.as_ref()).await {
            Ok(0) => undone = undone.and(format!("{which} {} is empty, as before", door.url.place())),
            Ok(dropped) => {
                undone = undone.and(format!(
                    "{which} {} is empty again: the {dropped} objects that this migration had put there are gone",
                    door.url.place()
                ));
            }
            Err(error) => undone = undone.but(error),
        }
    }
    undone
}

async fn target(
    subject: &Subject<'_>,
    which: Which,
    door: &Door,
    before: &Inventories,
    put: Option<&Put>,
) -> Result<usize, String> {
    let left = |error: &dyn std::fmt::Display| {
        format!(
            "{error}. Connect is back on SQLite, but {which} {} may hold data of this migration: drop it and create it anew before the next try",
            door.url.place()
        )
    };
    let session = door.open().await.map_err(|error| left(&error))?;
    window::alone(&session).await.map_err(|error| left(&error))?;
    let old = before.get(&which).cloned().unwrap_or_default();
    let backup = Backup::read(&subject.kept(BACKUP)).unwrap_or_default();
    let ours = window::ours(put, which, &door.url.user, &backup);
    match objects::empty(&session, &old, &ours).await {
        Ok(dropped) => Ok(dropped),
        Err(error @ NotEmptied::Strangers { .. }) => Err(format!(
            "{error}. Nothing was taken out of it; see whose it is, then empty it by hand before the next try. Connect is back on SQLite"
        )),
        Err(error) => Err(left(&error)),
    }
}
