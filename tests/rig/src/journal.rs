//! The guest's journal as structured entries.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Error;

/// One journal entry: every field with every value it carries, in the journal's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    fields: BTreeMap<String, Vec<String>>,
}

impl JournalEntry {
    /// The first value of a field, for example `MESSAGE` or `_SYSTEMD_UNIT`.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.all(field).first().map(String::as_str)
    }

    /// All values of a field; a field may be written several times in one entry. Empty when it is absent.
    pub fn all(&self, field: &str) -> &[String] {
        self.fields.get(field).map_or(&[], Vec::as_slice)
    }

    /// Every field by name.
    pub fn fields(&self) -> &BTreeMap<String, Vec<String>> {
        &self.fields
    }

    /// `MESSAGE`, or an empty text.
    pub fn message(&self) -> &str {
        self.get("MESSAGE").unwrap_or_default()
    }

    /// The syslog priority: 0 emergency … 3 error, 4 warning, 6 info, 7 debug.
    pub fn priority(&self) -> Option<u8> {
        self.get("PRIORITY")?.parse().ok()
    }

    /// Where this entry stands; give it to [`JournalQuery::after`] to read on from here.
    pub fn cursor(&self) -> &str {
        self.get("__CURSOR").unwrap_or_default()
    }

    /// When the entry was received, in microseconds since 1970 by the guest's clock.
    pub fn realtime_us(&self) -> Option<u64> {
        self.get("__REALTIME_TIMESTAMP")?.parse().ok()
    }
}

/// Which entries to read. The default is all of them, over every boot.
#[derive(Debug, Clone, Default)]
pub struct JournalQuery {
    arguments: Vec<String>,
    after: String,
}

impl JournalQuery {
    /// Every entry of every boot.
    pub fn all() -> Self {
        Self::default()
    }

    /// What a unit wrote, and what systemd wrote about it (`journalctl --unit`).
    pub fn unit(unit: &str) -> Self {
        Self::default().and_unit(unit)
    }

    /// Entries of this unit too; several units add up.
    pub fn and_unit(mut self, unit: &str) -> Self {
        self.arguments.push(format!("--unit={unit}"));
        self
    }

    /// Only entries with this field and value; different fields must all match, values of one field add up.
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.arguments.push(format!("{name}={value}"));
        self
    }

    /// Only entries after this cursor (see [`JournalEntry::cursor`] and [`crate::Machine::journal_cursor`]).
    /// An empty cursor means from the beginning.
    pub fn after(mut self, cursor: &str) -> Self {
        cursor.clone_into(&mut self.after);
        self
    }

    /// Only entries of the running boot.
    pub fn this_boot(mut self) -> Self {
        self.arguments.push("--boot".into());
        self
    }

    /// At most the last `lines` entries.
    pub fn last(mut self, lines: usize) -> Self {
        self.arguments.push(format!("--lines={lines}"));
        self
    }

    /// The arguments for `journalctl`, not quoted. Not `--after-cursor`: systemd 252 loses an entry with it when the
    /// cursor's own entry does not match; `--cursor` begins with that entry if it does.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let cursor = (!self.after.is_empty()).then(|| format!("--cursor={}", self.after));
        self.arguments.iter().cloned().chain(cursor).collect()
    }

    /// Reads what `journalctl --output=json --all` printed with these arguments.
    pub(crate) fn entries(&self, text: &str) -> Result<Vec<JournalEntry>, Error> {
        let mut entries = parse(text)?;
        entries.retain(|entry| self.after.is_empty() || entry.cursor() != self.after);
        Ok(entries)
    }
}

/// One JSON object a line.
fn parse(text: &str) -> Result<Vec<JournalEntry>, Error> {
    text.lines().filter(|line| !line.is_empty()).map(parse_line).collect()
}

fn parse_line(line: &str) -> Result<JournalEntry, Error> {
    let refused = |why: String| Error::Journal { line: line.chars().take(200).collect(), why };
    let object: BTreeMap<String, Value> = serde_json::from_str(line).map_err(|e| refused(e.to_string()))?;
    let mut fields = BTreeMap::new();
    for (name, value) in object {
        let values = values(&value).ok_or_else(|| refused(format!("field {name} has an unknown shape")))?;
        fields.insert(name, values);
    }
    Ok(JournalEntry { fields })
}

/// journalctl writes text as a string, bytes that are not text as an array of numbers, a value it left out
/// as null, and a field that occurs several times as an array of those.
fn values(value: &Value) -> Option<Vec<String>> {
    if let Some(one) = single(value) {
        return Some(vec![one]);
    }
    value.as_array()?.iter().map(single).collect()
}

fn single(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Null => Some(String::new()),
        Value::Array(items) if !items.is_empty() => {
            let bytes: Option<Vec<u8>> =
                items.iter().map(|item| item.as_u64().and_then(|n| u8::try_from(n).ok())).collect();
            Some(String::from_utf8_lossy(&bytes?).into_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> JournalEntry {
        parse(line).unwrap().remove(0)
    }

    #[test]
    fn plain_fields_are_read() {
        let entry = one(r#"{"MESSAGE":"hello","PRIORITY":"4","__CURSOR":"s=1","__REALTIME_TIMESTAMP":"17"}"#);
        assert_eq!(
            (entry.message(), entry.priority(), entry.cursor(), entry.realtime_us()),
            ("hello", Some(4), "s=1", Some(17))
        );
        assert_eq!(entry.get("ABSENT"), None);
        assert!(entry.all("ABSENT").is_empty());
    }

    #[test]
    fn a_field_written_twice_keeps_both_values_in_order() {
        assert_eq!(one(r#"{"STEP":["stop","start"]}"#).all("STEP"), ["stop", "start"]);
    }

    #[test]
    fn bytes_that_are_not_text_become_lossy_text() {
        assert_eq!(one(r#"{"MESSAGE":[27,91,51,49,109,255]}"#).message(), "\u{1b}[31m\u{fffd}");
    }

    #[test]
    fn a_field_written_twice_may_mix_text_and_bytes() {
        assert_eq!(one(r#"{"X":["a",[98,99],null]}"#).all("X"), ["a", "bc", ""]);
    }

    #[test]
    fn empty_lines_are_passed_over() {
        assert_eq!(parse("\n{\"A\":\"1\"}\n\n{\"A\":\"2\"}\n").unwrap().len(), 2);
    }

    #[test]
    fn a_line_that_is_not_json_is_refused_with_the_line() {
        assert!(parse("-- No entries --").unwrap_err().to_string().contains("-- No entries --"));
    }

    #[test]
    fn a_field_of_unknown_shape_is_refused_by_name() {
        assert!(parse(r#"{"A":{"b":1}}"#).unwrap_err().to_string().contains("field A"));
    }

    #[test]
    fn the_entry_of_the_cursor_itself_is_not_after_it() {
        let text = "{\"__CURSOR\":\"s=1\"}\n{\"__CURSOR\":\"s=2\"}\n";
        let cursors = |query: JournalQuery| -> Vec<String> {
            query.entries(text).unwrap().iter().map(|entry| entry.cursor().to_owned()).collect()
        };
        assert_eq!(cursors(JournalQuery::all().after("s=1")), ["s=2"]);
        assert_eq!(cursors(JournalQuery::all().after("s=0")), ["s=1", "s=2"]);
        assert_eq!(cursors(JournalQuery::all()), ["s=1", "s=2"]);
    }

    #[test]
    fn a_query_becomes_journalctl_arguments() {
        let query = JournalQuery::unit("a.service").field("STEP", "stop").after("s=1").this_boot();
        assert_eq!(query.arguments(), ["--unit=a.service", "STEP=stop", "--boot", "--cursor=s=1"]);
        assert!(JournalQuery::all().after("").arguments().is_empty());
    }
}
