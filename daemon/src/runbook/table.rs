//! Reading a table of the runbook field by field, collecting every mistake on the way.

use super::diagnostics::{Diagnostic, nearest, nearest_hint, quoted};
use super::duration;
use super::secrets;
use connect_migrator_sdk::SecretRef;
use std::ops::Range;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What every duration looks like, for hints.
pub(super) const DURATION_HINT: &str =
    "write a duration as `\"30s\"`, `\"5m\"` or `\"1h30m\"` (units: ms, s, m, h, d)";

/// The mistakes found so far.
pub(super) type Mistakes = Vec<Diagnostic>;

/// `a string`, `an integer`, …
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// A table that is being read. Ends with [`Table::finish`], which reports what nobody asked for.
pub(super) struct Table<'d, 'i> {
    /// How the table is called in messages: `[connect]`.
    name: &'static str,
    entries: &'d DeTable<'i>,
    asked: Vec<&'static str>,
}

/// One entry of a table.
pub(super) struct Field<'d, 'i> {
    pub key: &'static str,
    pub key_span: Range<usize>,
    pub span: Range<usize>,
    pub value: &'d DeValue<'i>,
}

impl<'d, 'i> Table<'d, 'i> {
    pub(super) fn new(name: &'static str, entries: &'d DeTable<'i>) -> Self {
        Table { name, entries, asked: Vec::new() }
    }

    /// The entry `key`, if it is there.
    pub(super) fn field(&mut self, key: &'static str) -> Option<Field<'d, 'i>> {
        self.asked.push(key);
        let (name, value) = self.entries.get_key_value(key)?;
        Some(Field { key, key_span: name.span(), span: value.span(), value: value.get_ref() })
    }

    /// The entry `key` read by `read`, or `default` when it is not there or wrong (then a mistake is noted).
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        mistakes: &mut Mistakes,
        read: impl FnOnce(&Field<'d, 'i>, &mut Mistakes) -> Option<T>,
    ) -> T {
        self.field(key).and_then(|field| read(&field, mistakes)).unwrap_or(default)
    }

    /// Whether an entry is there whose name is so near to `key` that it must be meant.
    pub(super) fn has_misspelt(&self, key: &str) -> bool {
        self.entries.keys().any(|written| nearest(written.get_ref(), [key]).is_some())
    }

    /// Reports every entry that was never asked for.
    pub(super) fn finish(self, mistakes: &mut Mistakes) {
        for key in self.entries.keys() {
            let written: &str = key.get_ref();
            if self.asked.contains(&written) {
                continue;
            }
            let message = format!("unknown setting `{}` in {}", quoted(written), self.name);
            let mut mistake = Diagnostic::new(key.span(), message).label("not known here");
            mistake.hint = nearest_hint(written, &self.asked);
            mistakes.push(mistake);
        }
    }
}

impl<'d, 'i> Field<'d, 'i> {
    /// The value is of the wrong type.
    fn wrong_type(&self, expected: &str) -> Diagnostic {
        Diagnostic::new(self.span.clone(), format!("`{}` has the wrong type", self.key))
            .label(format!("expected {expected}, found {}", kind(self.value)))
    }

    pub(super) fn table(&self, hint: &str, mistakes: &mut Mistakes) -> Option<&'d DeTable<'i>> {
        if let DeValue::Table(table) = self.value {
            return Some(table);
        }
        let mistake = self.wrong_type("a table").hint(hint);
        mistakes.push(mistake);
        None
    }

    pub(super) fn array(&self, hint: &str, mistakes: &mut Mistakes) -> Option<&'d [Spanned<DeValue<'i>>]> {
        if let DeValue::Array(array) = self.value {
            return Some(array);
        }
        let mistake = self.wrong_type("an array").hint(hint);
        mistakes.push(mistake);
        None
    }

    pub(super) fn string(&self, hint: &str, mistakes: &mut Mistakes) -> Option<&'d str> {
        if let DeValue::String(text) = self.value {
            return Some(text);
        }
        let mistake = self.wrong_type("a string").hint(hint);
        mistakes.push(mistake);
        None
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)], mistakes: &mut Mistakes) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let listed = names.iter().map(|name| format!("`\"{name}\"`")).collect::<Vec<_>>().join(" or ");
        let written = self.string(&format!("write {listed}"), mistakes)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == written) {
            return Some(*value);
        }
        let message = format!("`{}` cannot be `{}`", self.key, quoted(written));
        let mut mistake = Diagnostic::new(self.span.clone(), message).label(format!("expected {listed}"));
        mistake.hint = nearest(written, names).map(|name| format!("did you mean `{name}`?"));
        mistakes.push(mistake);
        None
    }

    /// A duration between two bounds.
    pub(super) fn duration(
        &self,
        bounds: std::ops::RangeInclusive<Duration>,
        mistakes: &mut Mistakes,
    ) -> Option<Duration> {
        let DeValue::String(text) = self.value else {
            let hint = match self.value {
                DeValue::Integer(number) => {
                    format!("a unit is missing: `\"{number}s\"` are seconds, `\"{number}m\"` minutes")
                }
                _ => DURATION_HINT.into(),
            };
            let mistake = self.wrong_type("a duration in quotes").hint(hint);
            mistakes.push(mistake);
            return None;
        };
        match duration::parse(text) {
            Ok(duration) if bounds.contains(&duration) => Some(duration),
            Ok(_) => {
                let (least, most) = (duration::display(*bounds.start()), duration::display(*bounds.end()));
                let message = format!("`{}` is out of bounds", self.key);
                mistakes.push(
                    Diagnostic::new(self.span.clone(), message)
                        .label(format!("must be between `{least}` and `{most}`")),
                );
                None
            }
            Err(why) => {
                let message = format!("`{}` is not a duration", self.key);
                mistakes.push(Diagnostic::new(self.span.clone(), message).label(why).hint(DURATION_HINT));
                None
            }
        }
    }

    /// `{ credential = "name" }`.
    pub(super) fn credential(&self, mistakes: &mut Mistakes) -> Option<SecretRef> {
        let example = format!("write `{} = {{ credential = \"{}\" }}`", self.key, self.key);
        match self.value {
            DeValue::Table(entries) => {
                let mut table = Table::new("the name of a credential", entries);
                let field = table.field(secrets::CREDENTIAL);
                table.finish(mistakes);
                let Some(field) = field else {
                    if entries.is_empty() {
                        let message = format!("`{}` names no credential", self.key);
                        mistakes.push(Diagnostic::new(self.span.clone(), message).hint(example));
                    }
                    return None;
                };
                let name = field.string(&example, mistakes)?;
                if secrets::is_credential_name(name) {
                    return Some(SecretRef { credential: name.into() });
                }
                mistakes.push(bad_credential_name(field.span.clone()));
                None
            }
            _ => {
                mistakes.push(plain_secret(self.span.clone(), self.key));
                None
            }
        }
    }
}

pub(super) fn bad_credential_name(span: Range<usize>) -> Diagnostic {
    Diagnostic::new(span, "this cannot be the name of a credential")
        .label("expected letters, digits, `-`, `_` and `.`, at most 128, not starting with `.`")
        .hint("this is the name under which the secret is stored, not the secret itself")
}

pub(super) fn plain_secret(span: Range<usize>, key: &str) -> Diagnostic {
    let name = if secrets::is_credential_name(key) { key } else { "name" };
    Diagnostic::new(span, format!("`{}` must not stand in a runbook", quoted(key)))
        .label("expected the name of a credential")
        .hint(format!(
            "write `{name} = {{ credential = \"{name}\" }}` and store the secret in \
             /etc/connect-migrator/credentials/{name}, owned by root with mode 0600"
        ))
}
