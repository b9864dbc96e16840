//! What will change, for people to read before it does.

use crate::known::{self, Known};
use crate::nginx::Service;
use crate::route::Route;
use crate::stage::spliced;
use connect_migrator_connect::config_file;
use connect_migrator_sdk::{Change, Op, StepError};
use similar::TextDiff;
use std::path::Path;

impl<S: Service> Route<'_, S> {
    /// The maintenance file, the value in the window, and the value after it.
    ///
    /// # Errors
    /// When the value cannot be found.
    pub async fn plan(&self) -> Result<Vec<Change>, StepError> {
        let known = Known::ask(self.settings, self.cx).await?;
        let found = known.find(self.settings)?;
        let value = &found.value;
        let path = self.maintenance_path(&found)?;
        let old = config_file::read(&value.file)?;
        let with = |text: String| spliced(&old, vec![(value.span.clone(), text)]);
        let maintenance = value.leading_to(&known::maintenance(self.settings)?);
        let upstream = value.leading_to(&known::upstream(self.settings)?);
        let unit = &self.settings.unit;
        Ok(vec![
            Change::new(
                Op::Prepare,
                format!(
                    "test both new values with `nginx -t` on a staged copy, write {}, reload {unit}",
                    path.display()
                ),
            )
            .with_diff(diff(None, &path, b"", self.maintenance_text()?.as_bytes())),
            Change::new(
                Op::EnterWindow,
                format!(
                    "{}: {} becomes {maintenance}, reload {unit}: users see the maintenance page",
                    value.place, value.text
                ),
            )
            .with_diff(diff(Some(&value.file), &value.file, &old, &with(maintenance.clone()))),
            Change::new(
                Op::Apply,
                format!(
                    "{}: {maintenance} becomes {upstream}, reload {unit}: users reach the container",
                    value.place
                ),
            )
            .with_diff(diff(Some(&value.file), &value.file, &old, &with(upstream))),
            Change::new(
                Op::Rollback,
                format!(
                    "put back {} as it was, byte for byte (what somebody else changed in it meanwhile stays), remove {}, reload {unit}",
                    value.file.display(),
                    path.display()
                ),
            ),
            Change::new(Op::Finalize, format!("remove {}, reload {unit}", path.display())),
        ])
    }
}

/// How many unchanged lines a person sees around a change.
const CONTEXT_LINES: usize = 3;

fn diff(old_path: Option<&Path>, new_path: &Path, old: &[u8], new: &[u8]) -> String {
    unified(old_path, new_path, old, new, CONTEXT_LINES)
}

/// A diff without the lines around a change: they may hold secrets, and this is kept in the state.
pub(crate) fn changed_lines(old_path: Option<&Path>, new_path: &Path, old: &[u8], new: &[u8]) -> String {
    unified(old_path, new_path, old, new, 0)
}

fn unified(old_path: Option<&Path>, new_path: &Path, old: &[u8], new: &[u8], context_lines: usize) -> String {
    let (old, new) = (String::from_utf8_lossy(old), String::from_utf8_lossy(new));
    let old_name = old_path.map_or("/dev/null".into(), |path| path.display().to_string());
    TextDiff::from_lines(old.as_ref(), new.as_ref())
        .unified_diff()
        .context_radius(context_lines)
        .header(&old_name, &new_path.display().to_string())
        .to_string()
}
