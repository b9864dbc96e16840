//! What a unit printed: conmon writes it to the journal, where it stays when the container is gone.

use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Reads the journal.
const JOURNALCTL: &str = "/usr/bin/journalctl";
/// How much is shown.
const LINES: &str = "20";
/// How long reading may take.
const TIMEOUT_SECONDS: u64 = 10;

/// The last lines of a unit; empty when there are none, or they cannot be read.
pub(crate) async fn last_lines(unit: &str) -> Vec<String> {
    let mut command = Command::new(JOURNALCTL);
    command
        .args(["--no-pager", "--quiet", "--boot", "--output=cat", "--lines", LINES, "--unit", unit])
        .env_clear()
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(Duration::from_secs(TIMEOUT_SECONDS), command.output()).await {
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}
