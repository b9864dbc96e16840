//! Where a container's log lines go.

use super::Work;
use crate::gcfg::SetError;

impl Work<'_> {
    pub(super) fn logging(&mut self) -> Result<(), SetError> {
        const WHY: &str = "a file inside the container is lost with it; the engine keeps what is printed";
        for key in ["ServiceLog", "AccessLog"] {
            let value = self.installation.setting("Logging", key).unwrap_or_default();
            if !is_stream(&value) {
                self.set("Logging", key, "STDOUT", WHY)?;
            }
        }
        // Off unless set.
        if let Some(value) = self.installation.setting("Logging", "AuditLog")
            && value.starts_with('/')
        {
            self.set("Logging", "AuditLog", "STDOUT", WHY)?;
        }
        Ok(())
    }
}

fn is_stream(value: &str) -> bool {
    value.eq_ignore_ascii_case("stdout") || value.eq_ignore_ascii_case("stderr")
}
