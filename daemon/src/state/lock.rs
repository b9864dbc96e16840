//! One writer per instance.

use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Held by whoever may append to the state of an instance. Released when dropped, also by the kernel after a crash.
#[derive(Debug)]
pub struct InstanceLock {
    _held: Flock<File>,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else holds it.
    #[error(
        "another connect-migrator is at work on this instance ({0} is locked); see `systemctl status 'connect-migrator@*'`"
    )]
    Held(PathBuf),
    /// The file cannot be opened.
    #[error(
        "could not open the lock {0}: {1}; run as root, and check that the disk is not full or read-only"
    )]
    Io(PathBuf, std::io::Error),
}

impl InstanceLock {
    /// Takes the lock in the state directory of an instance, without waiting.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn take(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| LockError::Io(path.clone(), error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(InstanceLock { _held: held }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(LockError::Held(path)),
            Err((_, errno)) => Err(LockError::Io(path, errno.into())),
        }
    }
}
