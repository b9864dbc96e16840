//! Connect is held back in a container that runs: everything that takes the engine long, and everything that it may refuse, comes before
//! the window, and in the window only a gate is opened.
//!
//! The container's first program is a shell that waits at the gate and then becomes Connect. The gate is a file in the container's own
//! folder. Once it is there it stays, so that later starts do not wait; whether the engine may start the container at all is for the
//! mounts to say that stand guard.

use crate::container_spec::{GUARDS_IN_CONTAINER, MASK_GUARD};
use connect_migrator_container::files;
use connect_migrator_container::world::Subject;
use connect_migrator_sdk::StepError;
use nix::errno::Errno;
use nix::sys::stat::Mode;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder of the gate, as the container sees it, below the guards.
const NAME: &str = "gate";
/// Its presence means that Connect may start.
const OPEN: &str = "open";
/// A pipe through which a shell that waits is woken: looking again and again would cost time that the window needs.
const KNOCK: &str = "knock";

/// The shell in the container.
pub const SHELL: &str = "/bin/sh";

/// Where the container sees the gate.
#[must_use]
pub fn in_container() -> PathBuf {
    Path::new(GUARDS_IN_CONTAINER).join(NAME)
}

/// The gate's folder on this host.
#[must_use]
pub fn folder(subject: &Subject<'_>) -> PathBuf {
    subject.folder().join(NAME)
}

/// What the shell does before it becomes what its arguments say. The engine sees only that the mask's name leads somewhere; a unit's
/// file of that name would do for it.
#[must_use]
pub fn script(guards: &Path) -> String {
    let (mask, gate) = (guards.join(MASK_GUARD), guards.join(NAME));
    let (mask, gate) = (mask.display(), gate.display());
    format!(
        "[ -c {mask} ] || {{ echo \"the unit of Connect on this host is not masked: not started beside it\" >&2; exit 1; }}; \
         until [ -e {gate}/{OPEN} ]; do read -r _ <{gate}/{KNOCK} || sleep 1; done; exec \"$@\""
    )
}

/// Makes the gate, shut.
///
/// # Errors
/// When it cannot be made.
pub fn make(subject: &Subject<'_>) -> Result<(), StepError> {
    let folder = folder(subject);
    files::folder(&folder)?;
    shut(subject)?;
    let knock = folder.join(KNOCK);
    match nix::unistd::mkfifo(&knock, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(StepError::new(format!("make the pipe {}", knock.display()))
            .because(error)
            .remedy("see that this runs as root and that the disk is neither full nor read-only")),
    }
}

/// Shuts it: whoever comes to it from now on waits.
///
/// # Errors
/// When it cannot be shut.
pub fn shut(subject: &Subject<'_>) -> Result<(), StepError> {
    files::remove(&folder(subject).join(OPEN)).map(drop)
}

/// Whether nobody waits at it: it is open, or there is none.
#[must_use]
pub fn is_open(subject: &Subject<'_>) -> bool {
    let folder = folder(subject);
    folder.join(OPEN).exists() || !folder.exists()
}

/// Opens it, if there is one, and wakes who waits. To be held until Connect answers: a knock that nobody has heard yet is kept by it.
///
/// # Errors
/// When it cannot be opened.
pub fn open(subject: &Subject<'_>) -> Result<Option<File>, StepError> {
    let folder = folder(subject);
    if !folder.exists() {
        return Ok(None);
    }
    files::write(&folder.join(OPEN), b"", 0o600)?;
    let knock = folder.join(KNOCK);
    let knocked = || {
        // For reading too: else it would wait for a reader.
        let mut pipe = OpenOptions::new().read(true).write(true).open(&knock)?;
        pipe.write_all(b"\n")?;
        Ok(pipe)
    };
    knocked().map(Some).map_err(|error: std::io::Error| {
        StepError::new(format!("wake the container at {}", knock.display()))
            .because(error)
            .remedy("roll back; the container's folder was changed by somebody")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// With a gate, and the shell that waits at it.
    fn waiting(knocked_before: bool) -> (std::time::Duration, String) {
        let dir = tempfile::tempdir().unwrap();
        let gate = dir.path().join(NAME);
        std::fs::create_dir(&gate).unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join(MASK_GUARD)).unwrap();
        let knock = gate.join(KNOCK);
        nix::unistd::mkfifo(&knock, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let spawn = || {
            Command::new(SHELL)
                .args(["-c", &script(dir.path()), "gate", "printf", "%s-%s", "became", "two words"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut early = (!knocked_before).then(spawn);
        if let Some(child) = &mut early {
            // It reads the pipe: then nothing has been printed.
            while OpenOptions::new()
                .write(true)
                .custom_flags(nix::libc::O_NONBLOCK)
                .open(&knock)
                .is_err_and(|error| error.raw_os_error() == Some(nix::libc::ENXIO))
            {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            assert_eq!(child.try_wait().unwrap(), None);
        }
        std::fs::write(gate.join(OPEN), "").unwrap();
        let mut pipe = OpenOptions::new().read(true).write(true).open(&knock).unwrap();
        pipe.write_all(b"\n").unwrap();
        let began = std::time::Instant::now();
        let child = early.unwrap_or_else(spawn);
        let output = child.wait_with_output().unwrap();
        (began.elapsed(), String::from_utf8(output.stdout).unwrap())
    }

    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn the_shell_waits_until_the_gate_is_open_and_becomes_its_arguments() {
        let (took, printed) = waiting(false);
        assert_eq!(printed, "became-two words");
        assert!(took < std::time::Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn a_unit_file_in_the_place_of_the_mask_does_not_let_it_start() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(NAME)).unwrap();
        std::fs::write(dir.path().join(NAME).join(OPEN), "").unwrap();
        std::fs::write(dir.path().join(MASK_GUARD), "[Service]\n").unwrap();
        let output = Command::new(SHELL)
            .args(["-c", &script(dir.path()), "gate", "echo", "Connect"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
        assert!(String::from_utf8(output.stderr).unwrap().contains("not masked"));
    }

    #[test]
    fn it_does_not_wait_at_an_open_gate() {
        assert_eq!(waiting(true).1, "became-two words");
    }
}
