//! The settings of a step: from TOML to the JSON that the plugin reads, without losing where each value stood.

use super::diagnostics::{Diagnostic, quoted};
use super::secrets;
use super::table::{Mistakes, bad_credential_name, kind, plain_secret};
use connect_migrator_connect::secrets::secrets_in_url;
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// Where a setting stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The setting's name; for the item of an array the item.
    pub key: Range<usize>,
    /// The setting's value.
    pub value: Range<usize>,
}

/// The places of a value and everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) here: Place,
    below: BTreeMap<String, Places>,
}

impl Places {
    pub(super) fn new(key: Range<usize>, value: Range<usize>) -> Self {
        Places { here: Place { key, value }, below: BTreeMap::new() }
    }

    /// The place of the longest part of the path that exists, and how many names of the path that is.
    pub(super) fn find(&self, path: &[String]) -> (&Place, usize) {
        let mut at = self;
        for (depth, name) in path.iter().enumerate() {
            let Some(next) = at.below.get(name) else { return (&at.here, depth) };
            at = next;
        }
        (&at.here, path.len())
    }
}

/// `with.image.os`, `.image.tags[2]` or `/image/tags/2` as a list of names, without the leading `with`.
pub(super) fn path_names(path: &str) -> Vec<String> {
    let mut names: Vec<String> = path
        .split(['.', '/', '[', ']'])
        .map(|name| name.trim_matches(['"', '`', ' ']))
        .filter(|name| !name.is_empty() && *name != "?")
        .map(str::to_owned)
        .collect();
    if names.first().is_some_and(|name| name == "with") {
        names.remove(0);
    }
    names
}

/// Reads a table of settings.
pub(super) fn table(
    entries: &DeTable<'_>,
    places: &mut Places,
    mistakes: &mut Mistakes,
) -> Map<String, Value> {
    let mut object = Map::new();
    for (key, entry) in entries {
        let name: &str = key.get_ref();
        let mut below = Places::new(key.span(), entry.span());
        if let Some(read) = value(name, entry.get_ref(), &mut below, mistakes) {
            object.insert(name.into(), read);
        }
        places.below.insert(name.into(), below);
    }
    object
}

fn value(name: &str, from: &DeValue<'_>, places: &mut Places, mistakes: &mut Mistakes) -> Option<Value> {
    let span = places.here.value.clone();
    let sensitive = secrets::sensitivity(name).is_some();
    match from {
        DeValue::String(text) => {
            if secrets::is_plain_secret(name, text) {
                mistakes.push(plain_secret(span, name));
                return None;
            }
            if !secrets_in_url(text).is_empty() {
                mistakes.push(
                    Diagnostic::new(span, format!("`{}` contains a password", quoted(name)))
                        .label("a password must not stand in a runbook")
                        .hint("leave the password out of the URL and give it as `password = { credential = \"name\" }`, \
                               if the step has such a setting"),
                );
                return None;
            }
            if name == secrets::CREDENTIAL && !secrets::is_credential_name(text) {
                mistakes.push(bad_credential_name(span));
                return None;
            }
            Some(Value::String(text.to_string()))
        }
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) if sensitive => {
            mistakes.push(plain_secret(span, name));
            None
        }
        DeValue::Integer(integer) => {
            let digits = integer.as_str().replace('_', "");
            let number = i64::from_str_radix(&digits, integer.radix()).map(Number::from);
            let number = number.or_else(|_| u64::from_str_radix(&digits, integer.radix()).map(Number::from));
            if number.is_err() {
                mistakes.push(Diagnostic::new(span, format!("`{}` is too large a number", quoted(name))));
            }
            number.ok().map(Value::Number)
        }
        DeValue::Float(float) => {
            let number = float.as_str().replace('_', "").parse().ok().and_then(Number::from_f64);
            if number.is_none() {
                mistakes.push(
                    Diagnostic::new(span, format!("`{}` is not a finite number", quoted(name)))
                        .label("no step can use this"),
                );
            }
            number.map(Value::Number)
        }
        DeValue::Boolean(yes) => Some(Value::Bool(*yes)),
        DeValue::Datetime(date) => Some(Value::String(date.to_string())),
        DeValue::Array(items) => {
            let mut read = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                let mut below = Places::new(item.span(), item.span());
                read.push(value(name, item.get_ref(), &mut below, mistakes));
                places.below.insert(index.to_string(), below);
            }
            read.into_iter().collect::<Option<Vec<_>>>().map(Value::Array)
        }
        DeValue::Table(entries) => {
            if let Some(credential) = entries.get(secrets::CREDENTIAL)
                && !matches!(credential.get_ref(), DeValue::String(_))
            {
                mistakes.push(
                    Diagnostic::new(credential.span(), "`credential` has the wrong type")
                        .label(format!("expected a string, found {}", kind(credential.get_ref()))),
                );
            }
            Some(Value::Object(table(entries, places, mistakes)))
        }
    }
}
