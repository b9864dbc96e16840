//! What can go wrong, in the words of the product where its words are known.

use std::path::{Path, PathBuf};

/// A failure that ends a command, or keeps the server from starting.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration cannot be used. The text names file and line.
    #[error("Unable to load configuration: {0}")]
    Config(String),
    /// A start check said no. The text is the product's where that is documented.
    #[error("{0}")]
    Refused(String),
    /// The database did not do what was asked of it.
    #[error("database: {doing}: {why}")]
    Database {
        /// What was tried.
        doing: String,
        /// The database's answer.
        why: String,
    },
    /// A file could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was tried: "read", "create", ...
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A command was called in a way it does not understand.
    #[error("{0}")]
    Usage(String),
}

impl Failure {
    pub(crate) fn file<'a>(
        doing: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(std::io::Error) -> Failure + use<'a> {
        move |source| Failure::File { doing, path: path.to_owned(), source }
    }

    pub(crate) fn database(doing: impl Into<String>, why: impl std::fmt::Display) -> Failure {
        Failure::Database { doing: doing.into(), why: why.to_string() }
    }
}
