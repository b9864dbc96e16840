//! The `[[step]]` entries.

use super::diagnostics::{Diagnostic, quoted};
use super::settings::{self, Places};
use super::table::{Mistakes, Table, kind};
use super::{StepEntry, Uses};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The longest `id`: it names a folder.
const MAX_ID_CHARS: usize = 64;
/// The longest name of a plugin or step.
const MAX_NAME_CHARS: usize = 64;
/// How many steps a runbook may have.
const MAX_STEPS: usize = 100;

const STEP_HINT: &str = "write each step as\n[[step]]\nid = \"stop\"\nuses = \"systemd/stop\"";
const ID_HINT: &str = "a name of your own for this step: `id = \"container\"`";
const USES_HINT: &str =
    "the plugin, or the plugin and its step: `uses = \"docker\"`, `uses = \"systemd/stop\"`";
const WITH_HINT: &str = "write the step's settings as a table: `with = { name = \"value\" }`";
const ALLOW_HINT: &str = "write the keys of the warnings to accept: `allow = [\"some-warning\"]`";

/// Lowercase letters, digits and `-`, not starting with `-`.
pub(super) fn is_name(name: &str, max: usize) -> bool {
    !name.is_empty()
        && name.len() <= max
        && !name.starts_with('-')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Whether a runbook can name a plugin or a step so: lowercase letters, digits and `-`, not starting with `-`, at most 64.
#[must_use]
pub fn can_be_used(name: &str) -> bool {
    is_name(name, MAX_NAME_CHARS)
}

/// Reads all steps; `end` is where a missing step is pointed at.
pub(super) fn read(root: &mut Table<'_, '_>, end: Range<usize>, mistakes: &mut Mistakes) -> Vec<StepEntry> {
    let Some(field) = root.field("step") else {
        if !root.has_misspelt("step") {
            mistakes.push(Diagnostic::new(end, "the runbook has no step").hint(STEP_HINT));
        }
        return Vec::new();
    };
    if let DeValue::Table(_) = field.value {
        mistakes.push(
            Diagnostic::new(field.key_span.clone(), "`step` is a single table")
                .label("expected two brackets: a runbook has a list of steps")
                .hint("write `[[step]]`"),
        );
        return Vec::new();
    }
    let Some(entries) = field.array(STEP_HINT, mistakes) else { return Vec::new() };
    if entries.is_empty() {
        mistakes.push(Diagnostic::new(field.span.clone(), "the runbook has no step").hint(STEP_HINT));
    }
    if let Some(extra) = entries.get(MAX_STEPS) {
        mistakes.push(
            Diagnostic::new(extra.span(), format!("the runbook has more than {MAX_STEPS} steps"))
                .label("this one is too many"),
        );
    }
    let mut seen: BTreeMap<String, Range<usize>> = BTreeMap::new();
    let mut steps = Vec::new();
    for entry in entries.iter().take(MAX_STEPS) {
        let DeValue::Table(table) = entry.get_ref() else {
            mistakes.push(
                Diagnostic::new(entry.span(), "a step has the wrong type")
                    .label(format!("expected a table, found {}", kind(entry.get_ref())))
                    .hint(STEP_HINT),
            );
            continue;
        };
        let Some(step) = read_one(entry, table, mistakes) else { continue };
        if let Some(first) = seen.get(&step.id) {
            mistakes.push(
                Diagnostic::new(step.id_span.clone(), format!("the id `{}` is used twice", step.id))
                    .label("each step needs an id of its own")
                    .context(first.clone(), "used here first"),
            );
        } else {
            seen.insert(step.id.clone(), step.id_span.clone());
        }
        steps.push(step);
    }
    steps
}

fn read_one(entry: &Spanned<DeValue<'_>>, table: &DeTable<'_>, mistakes: &mut Mistakes) -> Option<StepEntry> {
    let mut fields = Table::new("a step", table);
    let id = fields.field("id");
    let uses = fields.field("uses");
    let with = fields.field("with");
    let allow = fields.field("allow");
    for (name, missing, hint) in [("id", id.is_none(), ID_HINT), ("uses", uses.is_none(), USES_HINT)] {
        if missing && !fields.has_misspelt(name) {
            mistakes.push(
                Diagnostic::new(entry.span(), format!("this step has no `{name}`"))
                    .label(format!("`{name}` is missing"))
                    .hint(hint),
            );
        }
    }
    fields.finish(mistakes);
    let with_place = with.as_ref().map_or(entry.span(), |field| field.span.clone());
    let with_key = with.as_ref().map_or(entry.span(), |field| field.key_span.clone());
    let mut places = Places::new(with_key, with_place);
    let with = match with.and_then(|field| field.table(WITH_HINT, mistakes)) {
        Some(table) => settings::table(table, &mut places, mistakes),
        None => Map::new(),
    };
    let allow = allow.map(|field| read_allow(&field, mistakes)).unwrap_or_default();
    let (id, id_span) = id.and_then(|field| {
        let text = field.string(ID_HINT, mistakes)?;
        if is_name(text, MAX_ID_CHARS) {
            return Some((text.to_owned(), field.span.clone()));
        }
        mistakes.push(
            Diagnostic::new(field.span.clone(), format!("`{}` cannot be an id", quoted(text)))
                .label(format!("expected lowercase letters, digits and `-`, at most {MAX_ID_CHARS}")),
        );
        None
    })?;
    let (uses, uses_span) = uses.and_then(|field| {
        let text = field.string(USES_HINT, mistakes)?;
        let (plugin, step) = match text.split_once('/') {
            Some((plugin, step)) => (plugin, Some(step)),
            None => (text, None),
        };
        if can_be_used(plugin) && step.is_none_or(can_be_used) {
            return Some((Uses { plugin: plugin.into(), step: step.map(Into::into) }, field.span.clone()));
        }
        mistakes.push(
            Diagnostic::new(field.span.clone(), format!("`{}` names no plugin", quoted(text)))
                .label("expected `plugin` or `plugin/step`")
                .hint(USES_HINT),
        );
        None
    })?;
    Some(StepEntry {
        id,
        uses,
        with: Value::Object(with),
        allow,
        span: entry.span(),
        id_span,
        uses_span,
        places,
    })
}

fn read_allow(field: &super::table::Field<'_, '_>, mistakes: &mut Mistakes) -> Vec<String> {
    let mut keys = Vec::new();
    for item in field.array(ALLOW_HINT, mistakes).unwrap_or_default() {
        match item.get_ref() {
            DeValue::String(key) if is_name(key, MAX_NAME_CHARS) => keys.push(key.to_string()),
            DeValue::String(key) => mistakes.push(
                Diagnostic::new(item.span(), format!("`{}` is not the key of a warning", quoted(key)))
                    .label("expected lowercase letters, digits and `-`")
                    .hint("`connect-migrator check` shows the key of each warning"),
            ),
            other => mistakes.push(
                Diagnostic::new(item.span(), "`allow` has an item of the wrong type")
                    .label(format!("expected a string, found {}", kind(other)))
                    .hint(ALLOW_HINT),
            ),
        }
    }
    keys
}
