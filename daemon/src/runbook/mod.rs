//! From the text of a runbook to a validated plan, with mistakes shown as rustc shows them.
//!
//! ```
//! # use connect_migrator::runbook::Runbook;
//! let text = "
//! version = 1
//! soak = { for = \"30m\", then = \"comit\" }
//! [[step]]
//! id = \"stop\"
//! uses = \"systemd/stop\"
//! ";
//! let mistakes = Runbook::parse("prod.toml", text).unwrap_err();
//! assert_eq!(mistakes.list()[0].hint.as_deref(), Some("did you mean `commit`?"));
//! ```

mod diagnostics;
mod duration;
mod file;
mod order;
mod secrets;
mod settings;
mod source;
mod steps;
mod table;

#[cfg(test)]
mod mistakes;
#[cfg(test)]
mod tests;

pub use diagnostics::{Diagnostic, Diagnostics, Located, nearest};
pub use duration::{display as display_duration, parse as parse_duration};
pub use file::RunbookError;
pub use order::{order, plugins_exist, resolve};
pub use settings::Place;
pub use steps::can_be_used;

use connect_migrator_sdk::{Op, Source};
use settings::Places;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;
use table::{Mistakes, Table};
use toml::de::{DeTable, DeValue};

/// The largest runbook that is read.
pub const MAX_RUNBOOK_BYTES: usize = 1024 * 1024;
/// The only `version` of runbooks so far.
pub const RUNBOOK_VERSION: u32 = 1;

const DAY_SECS: u64 = 24 * 3600;
/// What a time-out may be.
const TIMEOUT_BOUNDS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * DAY_SECS);
/// What `soak.for` may be.
const SOAK_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(365 * DAY_SECS);
/// What `soak.every` may be.
const SOAK_EVERY_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// How many syntax mistakes are kept: after the first ones the rest is mostly their consequence.
const MAX_SYNTAX_MISTAKES: usize = 5;

/// A runbook without mistakes of its own. Whether its steps exist and stand in an order that works is told by [`resolve`] and
/// [`order`].
#[derive(Debug, Clone, PartialEq)]
pub struct Runbook {
    /// Always [`RUNBOOK_VERSION`].
    pub version: u32,
    /// What happens when a step fails. Default: [`OnFailure::Rollback`].
    pub on_failure: OnFailure,
    /// The time after the last step.
    pub soak: Soak,
    /// The Connect that is moved, defaults filled in.
    pub connect: Source,
    /// How long each call may take.
    pub timeouts: Timeouts,
    /// The steps in the order of the file.
    pub steps: Vec<StepEntry>,
    file: String,
    text: String,
}

/// What happens when a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Everything is rolled back at once.
    #[default]
    Rollback,
    /// The run stops where it is and waits for the operator.
    Pause,
}

/// The time after the last step in which the new server is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Soak {
    /// How long. Default 30 minutes.
    pub for_: Duration,
    /// What then. Default: [`Then::Wait`].
    pub then: Then,
    /// How often the steps are verified meanwhile. Default 10 seconds.
    pub every: Duration,
}

impl Default for Soak {
    fn default() -> Self {
        Soak { for_: Duration::from_secs(30 * 60), then: Then::default(), every: Duration::from_secs(10) }
    }
}

/// What happens at the end of a soak in which nothing broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// The migration is committed.
    Commit,
    /// The daemon waits for `connect-migrator commit` or `rollback`.
    #[default]
    Wait,
    /// The migration is rolled back: a rehearsal.
    Rollback,
}

/// How long each call of a step may take: the `[timeouts]` table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Default 2 minutes.
    pub check: Duration,
    /// Default 2 minutes.
    pub plan: Duration,
    /// Default 24 hours: the first copy of the data is made here.
    pub prepare: Duration,
    /// Default 1 minute: the window is about to open.
    pub enter_window: Duration,
    /// Default 2 hours.
    pub apply: Duration,
    /// Default 5 minutes.
    pub verify: Duration,
    /// Default 1 minute.
    pub probe: Duration,
    /// Default 1 hour.
    pub rollback: Duration,
    /// Default 10 minutes.
    pub finalize: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        Timeouts {
            check: minutes(2),
            plan: minutes(2),
            prepare: minutes(24 * 60),
            enter_window: minutes(1),
            apply: minutes(120),
            verify: minutes(5),
            probe: minutes(1),
            rollback: minutes(60),
            finalize: minutes(10),
        }
    }
}

impl Timeouts {
    /// How long a call of `op` may take.
    #[must_use]
    pub fn of(&self, op: Op) -> Duration {
        match op {
            Op::Check => self.check,
            Op::Plan => self.plan,
            Op::Prepare => self.prepare,
            Op::EnterWindow => self.enter_window,
            Op::Apply => self.apply,
            Op::Verify => self.verify,
            Op::Probe => self.probe,
            Op::Rollback => self.rollback,
            Op::Finalize => self.finalize,
        }
    }
}

/// `uses = "plugin"` or `uses = "plugin/step"`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uses {
    /// The plugin's name.
    pub plugin: String,
    /// The step's name within it, if given.
    pub step: Option<String>,
}

impl Uses {
    /// The step's name within the plugin: without one given, the plugin's own name.
    #[must_use]
    pub fn step_name(&self) -> &str {
        self.step.as_deref().unwrap_or(&self.plugin)
    }
}

impl std::fmt::Display for Uses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.step {
            Some(step) => write!(f, "{}/{step}", self.plugin),
            None => f.write_str(&self.plugin),
        }
    }
}

/// One step of the runbook.
#[derive(Debug, Clone, PartialEq)]
pub struct StepEntry {
    /// Unique in the runbook; lowercase letters, digits and `-`.
    pub id: String,
    /// Which step of which plugin.
    pub uses: Uses,
    /// The settings; an object.
    pub with: serde_json::Value,
    /// Keys of warnings that the operator has accepted.
    pub allow: Vec<String>,
    /// The bytes of the text where the step begins.
    pub span: Range<usize>,
    id_span: Range<usize>,
    uses_span: Range<usize>,
    places: Places,
}

impl Runbook {
    /// Parses the text of a runbook. `file_name` is only shown.
    ///
    /// # Errors
    /// With every mistake that could be found at once.
    pub fn parse(file_name: &str, text: &str) -> Result<Runbook, Diagnostics> {
        if text.len() > MAX_RUNBOOK_BYTES {
            return Err(file::too_large(file_name, ""));
        }
        let (document, syntax) = DeTable::parse_recoverable(text);
        if !syntax.is_empty() {
            return Err(Diagnostics::of_broken_text(file_name, text, syntax_mistakes(text, &syntax)));
        }
        let mut mistakes = Mistakes::new();
        let mut root = Table::new("the runbook", document.get_ref());
        let version = version(&mut root, &mut mistakes);
        let on_failure_words = [("rollback", OnFailure::Rollback), ("pause", OnFailure::Pause)];
        let on_failure = root.or("on-failure", OnFailure::default(), &mut mistakes, |field, mistakes| {
            field.word(&on_failure_words, mistakes)
        });
        let soak_hint = "write `soak = { for = \"30m\", then = \"wait\" }`";
        let soak = root.or("soak", Soak::default(), &mut mistakes, |field, mistakes| {
            field.table(soak_hint, mistakes).map(|table| soak(table, mistakes))
        });
        let connect_hint = "write the settings of the source below a line `[connect]`";
        let connect = root.or("connect", Source::default(), &mut mistakes, |field, mistakes| {
            field.table(connect_hint, mistakes).map(|table| source::read(table, mistakes))
        });
        let timeouts_hint = "write the time-outs below a line `[timeouts]`";
        let timeouts = root.or("timeouts", Timeouts::default(), &mut mistakes, |field, mistakes| {
            field.table(timeouts_hint, mistakes).map(|table| timeouts(table, mistakes))
        });
        let steps = steps::read(&mut root, text.trim_end().len()..text.len(), &mut mistakes);
        root.finish(&mut mistakes);
        if !mistakes.is_empty() {
            return Err(Diagnostics::new(file_name, text, mistakes));
        }
        let (file, text) = (file_name.into(), text.into());
        Ok(Runbook { version, on_failure, soak, connect, timeouts, steps, file, text })
    }

    /// The name of the file, as it was given to [`Runbook::parse`].
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.file
    }

    /// The text that was parsed. Holds no secrets: they are refused.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// SHA-256 of the text, in hex: pinned when a migration starts.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.text)
    }

    /// The step of this id.
    #[must_use]
    pub fn step(&self, id: &str) -> Option<&StepEntry> {
        self.steps.iter().find(|step| step.id == id)
    }

    /// The names of all credentials that the runbook uses.
    #[must_use]
    pub fn credentials(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = self.connect_credentials();
        self.steps.iter().for_each(|step| secrets::collect_credentials(&step.with, &mut names));
        names
    }

    /// The names of the credentials that the step `id` may fetch: its own and those of `[connect]`.
    #[must_use]
    pub fn credentials_of(&self, id: &str) -> BTreeSet<String> {
        let mut names = self.connect_credentials();
        if let Some(step) = self.step(id) {
            secrets::collect_credentials(&step.with, &mut names);
        }
        names
    }

    fn connect_credentials(&self) -> BTreeSet<String> {
        self.connect.api_key.iter().map(|key| key.credential.clone()).collect()
    }

    /// Where a setting of a step stands: `with.image.os`, `image.tags[2]`. `None` when there is no such step or setting.
    #[must_use]
    pub fn locate(&self, id: &str, path: &str) -> Option<Place> {
        let names = settings::path_names(path);
        let (place, found) = self.step(id)?.places.find(&names);
        (found == names.len()).then(|| place.clone())
    }

    /// Shows a mistake that a plugin found in the settings of step `id`, with a caret at the setting, or at the nearest that
    /// exists. For the message of an unknown field the hint may be left out: the nearest valid name is found in the message.
    #[must_use]
    pub fn point_at(&self, id: &str, path: &str, message: &str, hint: Option<&str>) -> Diagnostics {
        let message = diagnostics::quoted(message.trim());
        let quoted_names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
        let mut names = settings::path_names(path);
        let Some(step) = self.step(id) else {
            let mistake = Diagnostic::new(0..0, format!("step `{}`: {message}", diagnostics::quoted(id)));
            return Diagnostics::new(&self.file, &self.text, vec![mistake]);
        };
        let field = quoted_names.first().copied().filter(|_| message.starts_with("unknown field"));
        if let Some(field) = field
            && names.last().is_none_or(|last| last != field)
        {
            names.push(field.to_owned());
        }
        let (place, found) = step.places.find(&names);
        let whole = found == names.len();
        let at_key = field.is_some() || !whole || message.starts_with("missing field");
        let span = if at_key && found > 0 { place.key.clone() } else { place.value.clone() };
        let span = if names.is_empty() || found == 0 { place.key.clone() } else { span };
        let shown_path =
            if names.is_empty() { String::from("with") } else { format!("with.{}", names.join(".")) };
        let found_hint = match (hint, quoted_names.split_first()) {
            (Some(hint), _) => Some(hint.to_owned()),
            (None, Some((written, known))) if unknown => diagnostics::nearest_hint(written, known),
            _ => None,
        };
        let mut mistake = Diagnostic::new(span, format!("wrong setting `{shown_path}` of step `{id}`"));
        mistake.label = message.clone();
        mistake.hint = found_hint;
        Diagnostics::new(&self.file, &self.text, vec![mistake])
    }
}

/// SHA-256 of the text of a runbook, in hex.
#[must_use]
pub fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn syntax_mistakes(text: &str, errors: &[toml::de::Error]) -> Mistakes {
    let mut lines = BTreeSet::new();
    let mut mistakes = Mistakes::new();
    for error in errors {
        if mistakes.len() == MAX_SYNTAX_MISTAKES {
            break;
        }
        let span = error.span().unwrap_or(text.len()..text.len());
        let line = text.get(..span.start).unwrap_or(text).matches('\n').count();
        // One mistake per line: a second one is nearly always the same slip of the pen.
        if lines.insert(line) {
            mistakes.push(
                Diagnostic::new(span, "this is not valid TOML").label(diagnostics::quoted(error.message())),
            );
        }
    }
    mistakes
}

fn version(root: &mut Table<'_, '_>, mistakes: &mut Mistakes) -> u32 {
    let write = format!("write `version = {RUNBOOK_VERSION}`");
    let Some(field) = root.field("version") else {
        mistakes.push(
            Diagnostic::new(0..0, "the runbook has no `version`")
                .label("expected as the first setting")
                .hint(write),
        );
        return RUNBOOK_VERSION;
    };
    let mistake = match field.value {
        DeValue::Integer(number)
            if number.radix() == 10 && number.as_str() == RUNBOOK_VERSION.to_string() =>
        {
            return RUNBOOK_VERSION;
        }
        DeValue::Integer(number) => {
            Diagnostic::new(field.span.clone(), format!("version {number} of runbooks is not supported"))
                .label(format!("this connect-migrator reads version {RUNBOOK_VERSION}"))
        }
        other => Diagnostic::new(field.span.clone(), "`version` has the wrong type")
            .label(format!("expected an integer, found {}", table::kind(other))),
    };
    mistakes.push(mistake.hint(write));
    RUNBOOK_VERSION
}

fn soak(entries: &DeTable<'_>, mistakes: &mut Mistakes) -> Soak {
    let default = Soak::default();
    let mut table = Table::new("soak", entries);
    let words = [("commit", Then::Commit), ("wait", Then::Wait), ("rollback", Then::Rollback)];
    let soak = Soak {
        for_: table.or("for", default.for_, mistakes, |field, m| field.duration(SOAK_BOUNDS, m)),
        then: table.or("then", default.then, mistakes, |field, m| field.word(&words, m)),
        every: table.or("every", default.every, mistakes, |field, m| field.duration(SOAK_EVERY_BOUNDS, m)),
    };
    table.finish(mistakes);
    soak
}

fn timeouts(entries: &DeTable<'_>, mistakes: &mut Mistakes) -> Timeouts {
    let default = Timeouts::default();
    let mut table = Table::new("[timeouts]", entries);
    let mut read =
        |op: Op| table.or(op.name(), default.of(op), mistakes, |field, m| field.duration(TIMEOUT_BOUNDS, m));
    let timeouts = Timeouts {
        check: read(Op::Check),
        plan: read(Op::Plan),
        prepare: read(Op::Prepare),
        enter_window: read(Op::EnterWindow),
        apply: read(Op::Apply),
        verify: read(Op::Verify),
        probe: read(Op::Probe),
        rollback: read(Op::Rollback),
        finalize: read(Op::Finalize),
    };
    table.finish(mistakes);
    timeouts
}
