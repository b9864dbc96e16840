//! Why a copy failed.

use std::path::PathBuf;

/// Why something could not be copied, compared or probed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// A system call failed.
    #[error("could not {tried} {}: {why}", path.display())]
    System {
        /// What was tried, as it follows "could not".
        tried: &'static str,
        /// On what; relative to the tree where there is one.
        path: PathBuf,
        /// Why it failed.
        why: std::io::Error,
    },
    /// The target holds something at the root that is not ours.
    #[error(
        "the target {} is not empty and was not filled by this copier: it holds {what}; empty it, or choose another folder",
        target.display()
    )]
    NotEmpty {
        /// The target.
        target: PathBuf,
        /// One of the names found.
        what: String,
    },
    /// The manifest belongs to another pair of directories.
    #[error("the manifest {} was written for another {which}: {why}; copy with a new manifest into an empty folder", manifest.display())]
    OtherTree {
        /// The manifest.
        manifest: PathBuf,
        /// `source` or `target`.
        which: &'static str,
        /// What differs.
        why: String,
    },
    /// The manifest cannot be understood.
    #[error("the manifest {} cannot be read: {why}; remove it and the copy, and start again", manifest.display())]
    BadManifest {
        /// The manifest.
        manifest: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// One tree lies inside the other.
    #[error("{} and {} lie one inside the other; choose a target outside of the source", source_root.display(), target.display())]
    Nested {
        /// The source.
        source_root: PathBuf,
        /// The target.
        target: PathBuf,
    },
    /// Asked to stop.
    #[error("the copy was asked to stop; start it again and it goes on where it was")]
    Cancelled,
    /// The target is full.
    #[error("no room left at the target ({why}); make room and start again: it goes on where it was")]
    Full {
        /// What the system said.
        why: std::io::Error,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(String),
}

/// Makes an error of a failed system call.
pub(crate) fn failed(
    tried: &'static str,
    path: impl Into<PathBuf>,
    why: impl Into<std::io::Error>,
) -> CopyError {
    CopyError::System { tried, path: path.into(), why: why.into() }
}

impl CopyError {
    /// Whether more room is what is missing.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            CopyError::Full { .. } => true,
            CopyError::System { why, .. } => is_full(why),
            _ => false,
        }
    }
}

pub(crate) fn is_full(why: &std::io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::NOSPC, Errno::DQUOT].iter().any(|errno| why.raw_os_error() == Some(errno.raw_os_error()))
}

/// What the system said about one entry, in words that tell what to do where its own do not.
pub(crate) fn said(errno: rustix::io::Errno) -> String {
    match errno {
        rustix::io::Errno::FBIG => {
            "it is larger than the target lets a file be; raise that limit there, or leave the file out"
                .into()
        }
        rustix::io::Errno::TOOBIG => {
            "the target has no room for its extended attributes: they are larger than it can hold beside a file, or it is full; remove \
             them, or leave the file out"
                .into()
        }
        errno => std::io::Error::from(errno).to_string(),
    }
}

/// What went wrong on one entry. The pass goes on with the others.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Failure {
    /// What was tried, as it follows "could not".
    pub tried: String,
    /// The entry, relative to the tree; what is not UTF-8 is replaced.
    pub path: String,
    /// Why.
    pub why: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "could not {} {}: {}", self.tried, self.path, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn a_file_that_is_too_large_does_not_count_as_no_room() {
        assert!(is_full(&Errno::NOSPC.into()) && is_full(&Errno::DQUOT.into()));
        assert!(!is_full(&Errno::FBIG.into()));
        assert!(said(Errno::FBIG).contains("larger than the target lets a file be"));
    }
}
