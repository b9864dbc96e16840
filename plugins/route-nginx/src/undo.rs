//! Putting back what was changed.

use crate::advice::intercepts_errors;
use crate::endpoint::{Endpoint, SourcePlace};
use crate::known::{Found, Known};
use crate::locate::Leads;
use crate::nginx::{self, Service};
use crate::page;
use crate::probe::End;
use crate::route::Route;
use crate::stage::spliced;
use connect_migrator_connect::config_file;
use connect_migrator_connect::installation::DEFAULT_PORT;
use connect_migrator_sdk::{Op, StepError, Target, Undone};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The SHA-256 of `bytes`, in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is needed to put back one change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "undo")]
pub enum Undo {
    /// Our own file was to be written.
    MaintenanceFile {
        /// Where.
        path: PathBuf,
    },
    /// The value was to be changed.
    Value(ValueChange),
}

/// A change of the value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueChange {
    /// The administrator's file.
    pub file: PathBuf,
    /// Where the value starts, in bytes.
    pub start: usize,
    /// The value before.
    pub old: String,
    /// The value after.
    pub new: String,
    /// SHA-256 of the file before.
    pub before: String,
    /// SHA-256 of the file after.
    pub after: String,
    /// The name of the copy of the file before, in the state folder.
    pub kept: String,
}

/// How a value came back.
enum Back {
    /// The file has its old bytes.
    Exact,
    /// The file has its old bytes, and had them already.
    Already,
    /// Somebody else has changed the file since; only the value was put back.
    ValueOnly,
    /// The file was changed by somebody else, and the value is the old one.
    ValueAlready,
}

impl<S: Service> Route<'_, S> {
    /// Puts back what the call `of` changed.
    ///
    /// # Errors
    /// Never for what can be told as left to do; only when the world cannot be read at all.
    pub async fn rollback(&self, of: Op, undo: Vec<Undo>) -> Result<Undone, StepError> {
        // The records alone are enough to put bytes back: what cannot be asked any more must not stand in the way.
        let known = Known::kept(self.settings, self.cx).await.unwrap_or_else(|_| self.known_from(&undo));
        let mut undone = Undone { evidence: Vec::new(), left: Vec::new() };
        let mut last_value = None;
        for record in undo.into_iter().rev() {
            match record {
                Undo::MaintenanceFile { path } => self.remove_page(&known, &path, &mut undone),
                Undo::Value(change) => {
                    self.restore(&known, &change, &mut undone);
                    last_value = Some(change);
                }
            }
        }
        let reloaded = self.reload_after(&mut undone).await;
        if let (true, Some(change)) = (reloaded, last_value) {
            self.see_where_it_leads(of, &known, &change, &mut undone).await;
        }
        Ok(undone)
    }

    fn known_from(&self, undo: &[Undo]) -> Known {
        let source = undo.iter().find_map(|record| match record {
            Undo::Value(change) => endpoint_of(&change.old),
            Undo::MaintenanceFile { .. } => None,
        });
        let source = source.map_or(SourcePlace::AnyLocal(DEFAULT_PORT), SourcePlace::Exactly);
        Known { source, url: self.cx.source().url.clone() }
    }

    fn restore(&self, known: &Known, change: &ValueChange, undone: &mut Undone) {
        let file = change.file.display();
        match self.put_back(known, change) {
            Ok(Back::Exact) => undone.evidence.push(format!("{file} has the bytes it had before")),
            Ok(Back::Already) => undone.evidence.push(format!("{file} already had the bytes it had before")),
            Ok(Back::ValueOnly) => undone.evidence.push(format!(
                "{file} was changed by somebody else meanwhile: only {} was put back to {}, the other changes stay",
                change.new, change.old
            )),
            Ok(Back::ValueAlready) => undone.evidence.push(format!(
                "{file} was changed by somebody else meanwhile, and already has {}",
                change.old
            )),
            Err(why) => undone.left.push(format!(
                "{file} could not be put back: {why}; write {} where {} stands, and reload nginx (the file as it was: {})",
                change.old,
                change.new,
                self.cx.state_dir().join(&change.kept).display()
            )),
        }
    }

    fn put_back(&self, known: &Known, change: &ValueChange) -> Result<Back, String> {
        let now = config_file::read(&change.file).map_err(|error| error.to_string())?;
        let found = digest(&now);
        if found == change.before {
            return Ok(Back::Already);
        }
        if found == change.after {
            let old = self.old_bytes(&now, change);
            config_file::replace(&change.file, &now, &old).map_err(|error| error.to_string())?;
            return Ok(if digest(&old) == change.before { Back::Exact } else { Back::ValueOnly });
        }
        let span = match known.find(self.settings) {
            Ok(found) if found.value.file == change.file && found.value.text == change.old => {
                return Ok(Back::ValueAlready);
            }
            Ok(found) if found.value.file == change.file && found.value.text == change.new => {
                Some(found.value.span)
            }
            _ => None,
        };
        let same_place = change.start..change.start + change.new.len();
        let span = span
            .or_else(|| (now.get(same_place.clone()) == Some(change.new.as_bytes())).then_some(same_place));
        let span = span
            .ok_or_else(|| "somebody else has changed it, and the value cannot be found in it".to_owned())?;
        let old = spliced(&now, vec![(span, change.old.clone())]);
        config_file::replace(&change.file, &now, &old).map_err(|error| error.to_string())?;
        Ok(Back::ValueOnly)
    }

    /// From the copy; from the record alone when the copy is lost.
    fn old_bytes(&self, now: &[u8], change: &ValueChange) -> Vec<u8> {
        let kept = config_file::read_if_there(&self.cx.state_dir().join(&change.kept)).ok().flatten();
        kept.filter(|bytes| digest(bytes) == change.before).unwrap_or_else(|| {
            spliced(now, vec![(change.start..change.start + change.new.len(), change.old.clone())])
        })
    }

    fn remove_page(&self, known: &Known, path: &Path, undone: &mut Undone) {
        let shown = path.display();
        if known.find(self.settings).is_ok_and(|found| found.value.leads == Leads::Maintenance) {
            undone.left.push(format!(
                "{shown} stays, because users are still led to the maintenance page; let {} lead to Connect, remove the file, and \
                 reload nginx",
                self.settings.site.display()
            ));
            return;
        }
        match config_file::read_if_there(path) {
            Ok(Some(bytes)) if !page::is_ours(&bytes) => {
                undone
                    .left
                    .push(format!("{shown} was replaced by somebody else; remove it if it is not needed"));
            }
            Ok(None) => undone.evidence.push(format!("{shown} is not there")),
            Ok(Some(_)) => match config_file::remove(path) {
                Ok(_) => undone.evidence.push(format!("{shown} is removed")),
                Err(error) => undone.left.push(format!("{error}; remove it, and reload nginx")),
            },
            Err(error) => undone.left.push(format!("{error}; remove {shown}, and reload nginx")),
        }
    }

    /// Also when nothing had to be put back: a crash may have come between the change and the reload.
    async fn reload_after(&self, undone: &mut Undone) -> bool {
        let unit = &self.settings.unit;
        match self.service.is_active().await {
            Ok(true) => {}
            Ok(false) => {
                undone.evidence.push(format!("{unit} is not active, and was not reloaded"));
                return false;
            }
            Err(error) => {
                undone.left.push(format!("{error}; run `systemctl reload {unit}`"));
                return false;
            }
        }
        if let Err(error) = nginx::test(self.settings, &self.settings.configuration).await {
            undone.left.push(format!(
                "nginx refuses its configuration and goes on with the one before: {error}; mend what it names, and run `systemctl reload \
                 {unit}`"
            ));
            return false;
        }
        match nginx::reload(self.settings, &self.service).await {
            Ok(()) => {
                undone.evidence.push(format!("{unit} is reloaded"));
                true
            }
            Err(error) => {
                undone.left.push(format!("{error}; run `systemctl reload {unit}`"));
                false
            }
        }
    }

    async fn see_where_it_leads(&self, of: Op, known: &Known, change: &ValueChange, undone: &mut Undone) {
        let found = match known.find(self.settings) {
            Ok(found) => found,
            Err(error) => {
                undone
                    .left
                    .push(format!("where nginx leads users could not be seen: {error}; {}", error.remedy()));
                return;
            }
        };
        let prober = match known.prober(self.settings, self.cx, &found) {
            Ok(prober) => prober,
            Err(error) => {
                undone.left.push(format!("where nginx leads users could not be seen: {error}"));
                return;
            }
        };
        let target: Option<Target> = self.cx.fact(Target::KEY).ok().flatten();
        let to_page = self.leads_to_page(change, &found);
        let any_page = intercepts_errors(&found.configuration, &found.value);
        let wanted = |end: &End| match end {
            End::Maintenance { ours, .. } => to_page && (*ours || any_page),
            End::Connect { hostname } => {
                !to_page && target.as_ref().is_none_or(|target| hostname.as_ref() != Some(&target.hostname))
            }
            End::Other { .. } | End::Failed { .. } => false,
        };
        match prober.until(self.settings.verify_time(), wanted).await {
            Ok(end) => undone.evidence.push(format!("a request through nginx ends at {end}")),
            // The source may not be there to answer: that is for the step that starts it to tell.
            Err(end) => undone.left.push(format!(
                "after the rollback of {of} a request through nginx ends at {end}, not at {}; see nginx' error log, and whether {} runs",
                if to_page { "the maintenance page" } else { "the source" },
                self.cx.source().unit
            )),
        }
    }

    fn leads_to_page(&self, change: &ValueChange, found: &Found) -> bool {
        match (endpoint_of(&change.old), Endpoint::parse(&self.settings.maintenance, None)) {
            (Some(old), Some(maintenance)) => old.same_place(&maintenance),
            _ => found.value.leads == Leads::Maintenance,
        }
    }
}

/// The address in a value, with its scheme or without.
fn endpoint_of(value: &str) -> Option<Endpoint> {
    Endpoint::parse(value.rsplit("://").next().unwrap_or(value), Some(80))
}
