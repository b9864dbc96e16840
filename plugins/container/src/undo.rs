//! What every engine's step changes, and how it is put back.

use crate::engine::{Engine, EngineError};
use crate::files;
use crate::spec::{Owner, owner};
use crate::world::Subject;
use bollard::models::ContainerInspectResponse;
use connect_migrator_sdk::{StepError, Undone};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One change. Written down before it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "changed")]
pub enum Undo {
    /// An image is pulled.
    Image {
        /// Its reference.
        reference: String,
    },
    /// An image is built.
    Built {
        /// Its tag.
        reference: String,
    },
    /// The container's folder is made.
    Folder {
        /// Where.
        path: PathBuf,
    },
    /// The guard is put into the data directory.
    DataGuard {
        /// Where.
        path: PathBuf,
    },
    /// A container is created.
    Container {
        /// Its name.
        name: String,
    },
}

/// Puts one change back.
pub async fn put_back(subject: &Subject<'_>, change: Undo, undone: Undone) -> Undone {
    match change {
        Undo::Image { reference } => undone.and(format!(
            "the pulled image {reference} stays for the next try (`{} rmi` removes it)",
            subject.kind()
        )),
        Undo::Built { reference } => undone.and(format!(
            "the built image {reference} stays for the next try (`{} rmi` removes it)",
            subject.kind()
        )),
        Undo::Folder { path } => {
            let result = files::remove_folder(&path);
            files::remove_empty_parent(&path);
            removed(result, path.display().to_string(), undone)
        }
        Undo::DataGuard { path } => removed(files::remove(&path), path.display().to_string(), undone),
        Undo::Container { name } => gone(subject, &name, undone).await,
    }
}

/// Adds to what was undone that something was removed, or why not.
#[must_use]
pub fn removed(result: Result<bool, StepError>, what: String, undone: Undone) -> Undone {
    match result {
        Ok(true) => undone.and(format!("{what} removed")),
        Ok(false) => undone,
        Err(error) => undone.but(error.to_string()),
    }
}

/// Removes a container of ours that does not run.
async fn gone(subject: &Subject<'_>, name: &str, undone: Undone) -> Undone {
    let by_hand = format!("remove it with `{} rm {name}`", subject.kind());
    let engine = match subject.engine_within().await {
        Ok(engine) => engine,
        Err(error) => {
            return undone.but(format!(
                "{error}; if there is a container {name}, {by_hand} once it does (it cannot start: its configuration is gone)"
            ));
        }
    };
    match ours(subject, &engine, name).await {
        Ok(Some(_)) => match engine.remove(name).await {
            Ok(()) => undone.and(format!("container {name} removed")),
            Err(error) => undone.but(format!("{error}; {by_hand}")),
        },
        Ok(None) => undone,
        Err(error) => undone.but(format!("{error}; {by_hand}")),
    }
}

/// The container of that name or id, if this migration made it.
///
/// # Errors
/// When the engine does not say.
pub async fn ours(
    subject: &Subject<'_>,
    engine: &Engine,
    name: &str,
) -> Result<Option<ContainerInspectResponse>, EngineError> {
    let Some(container) = engine.container(name).await? else { return Ok(None) };
    let labels = container.config.as_ref().and_then(|config| config.labels.as_ref());
    Ok((owner(subject, labels) == Owner::Ours).then_some(container))
}
