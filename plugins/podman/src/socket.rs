//! podman's API answers behind a socket unit, which is off on many hosts.

use crate::systemd::Units;
use connect_migrator_container::world::Subject;
use std::time::Duration;

/// The unit.
const UNIT: &str = "podman.socket";
/// How long it may take to start or stop.
const TIMEOUT_SECONDS: u64 = 30;

/// The socket, for the time of one call.
#[derive(Debug)]
pub struct Socket<'a, S: Units> {
    systemd: &'a S,
    /// It was off, and is to be off again.
    started: bool,
}

impl<'a, S: Units> Socket<'a, S> {
    /// Sees that the API can be asked. When that does not work, asking it says why.
    pub async fn open(systemd: &'a S, subject: &Subject<'_>) -> Self {
        let mut started = false;
        // A socket that the settings name is somebody else's.
        if subject.settings.socket.is_none()
            && let Ok(status) = systemd.status(UNIT).await
            && !status.is_missing()
            && !status.is_active()
        {
            started = systemd.start(UNIT, Duration::from_secs(TIMEOUT_SECONDS)).await.is_ok();
        }
        Socket { systemd, started }
    }

    /// Puts it back as it was. podman ends by itself when nobody asks it for a while.
    pub async fn close(self) {
        if self.started {
            // Open, it does no harm: only root can use it.
            let _ = self.systemd.stop(UNIT, Duration::from_secs(TIMEOUT_SECONDS)).await;
        }
    }
}
