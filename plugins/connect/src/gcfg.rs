//! The configuration file, read and edited without losing a byte.
//!
//! The text is kept as it was read; parsing only notes where things stand in it. An edit replaces the bytes of one value, so
//! comments, order, odd spacing and line ends of everything else stay as the administrator wrote them.
//!
//! The grammar is that of the `gcfg` files that Connect reads: <https://docs.posit.co/connect/admin/appendix/configuration/>. It is near to
//! that of git's configuration, but `gix-config` (0.62) does not do: it drops the byte order mark when it writes, sets a blank value to
//! `Key"value"`, takes `[a.b]`, `[a ""]` and the escape `\b`, and refuses `[ Server ]` and names beyond ASCII.

use crate::gcfg_scan::{self, Entry, Header};
use std::ops::Range;

/// Where a configuration file cannot be read, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct GcfgError {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub what: String,
    /// The line itself; the value of a secret setting is left out.
    pub excerpt: String,
}

impl GcfgError {
    /// The line with a caret below the place, for a terminal.
    #[must_use]
    pub fn caret(&self) -> String {
        let shown = self.excerpt.chars().count();
        let pad: String = self
            .excerpt
            .chars()
            .take(self.column.saturating_sub(1).min(shown))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let gutter = self.line.to_string();
        let blank = " ".repeat(gutter.len());
        format!("{gutter} | {}\n{blank} | {pad}^ {}", self.excerpt, self.what)
    }
}

/// A value that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot write {what} into a configuration file: {why}")]
pub struct SetError {
    /// The setting.
    pub what: String,
    /// Why not.
    pub why: String,
}

/// One setting as it stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting<'a> {
    /// The section's name as written.
    pub section: &'a str,
    /// The subsection, unescaped.
    pub subsection: Option<&'a str>,
    /// The key as written.
    pub key: &'a str,
    /// The value; `None` when there is no `=`.
    pub value: Option<&'a str>,
    /// The line on which it starts, from 1.
    pub line: usize,
}

/// A configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gcfg {
    text: String,
    headers: Vec<Header>,
    entries: Vec<Entry>,
}

impl Gcfg {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// When they do not follow the grammar, with line and column.
    pub fn parse(bytes: impl AsRef<[u8]>) -> Result<Self, GcfgError> {
        let bytes = bytes.as_ref();
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let text = String::from_utf8_lossy(good);
            gcfg_scan::error_at(&text, text.len(), "this is not UTF-8 text")
        })?;
        Self::from_text(text.to_owned())
    }

    fn from_text(text: String) -> Result<Self, GcfgError> {
        let (headers, entries) = gcfg_scan::scan(&text)?;
        Ok(Gcfg { text, headers, entries })
    }

    /// The file's bytes, exactly as read but for the values that were set.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.text.clone().into_bytes()
    }

    /// The file's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The value of a setting; the last one wins. Names match in any case, subsections exactly. `None` when it is not set, or
    /// stands there without `=`.
    #[must_use]
    pub fn get(&self, section: &str, subsection: Option<&str>, key: &str) -> Option<String> {
        self.matching(section, subsection, key).last().and_then(|entry| entry.value.clone())
    }

    /// All values of a setting that may have several, in order. One without `=` drops those before it.
    #[must_use]
    pub fn get_all(&self, section: &str, subsection: Option<&str>, key: &str) -> Vec<String> {
        let mut values = Vec::new();
        for entry in self.matching(section, subsection, key) {
            match &entry.value {
                Some(value) => values.push(value.clone()),
                None => values.clear(),
            }
        }
        values
    }

    /// How often a setting stands in the file.
    #[must_use]
    pub fn count(&self, section: &str, subsection: Option<&str>, key: &str) -> usize {
        self.matching(section, subsection, key).count()
    }

    /// A yes-or-no setting: `true`, `yes`, `on`, `1`, their opposites, or the bare key. `None` when it is not set or is neither.
    #[must_use]
    pub fn get_bool(&self, section: &str, subsection: Option<&str>, key: &str) -> Option<bool> {
        let entry = self.matching(section, subsection, key).last()?;
        entry.value.as_deref().map_or(Some(true), parse_bool)
    }

    /// Every setting, in the order of the file.
    pub fn settings(&self) -> impl Iterator<Item = Setting<'_>> {
        self.entries.iter().filter_map(|entry| {
            let header = self.headers.get(entry.header)?;
            Some(Setting {
                section: &header.section,
                subsection: header.subsection.as_deref(),
                key: self.text.get(entry.name.clone())?,
                value: entry.value.as_deref(),
                line: entry.line_number,
            })
        })
    }

    /// Sets the value that wins: changes only the bytes of the last value, or adds a line to the section, or a section to the
    /// end. For a setting with several values see [`Gcfg::set_nth`].
    ///
    /// # Errors
    /// When a name or the value cannot be written in this grammar; nothing is changed then.
    pub fn set(
        &mut self,
        section: &str,
        subsection: Option<&str>,
        key: &str,
        value: &str,
    ) -> Result<(), SetError> {
        match self.matching(section, subsection, key).count() {
            0 => self.append(section, subsection, key, value),
            count => self.set_nth(section, subsection, key, count - 1, value),
        }
    }

    /// Sets the `nth` (from 0) occurrence of a setting in the file.
    ///
    /// # Errors
    /// When there is no such occurrence, or the value cannot be written; nothing is changed then.
    pub fn set_nth(
        &mut self,
        section: &str,
        subsection: Option<&str>,
        key: &str,
        nth: usize,
        value: &str,
    ) -> Result<(), SetError> {
        let what = name_of(section, subsection, key);
        let encoded = encode(&what, value)?;
        let entry = self.matching(section, subsection, key).nth(nth).cloned().ok_or_else(|| SetError {
            what: what.clone(),
            why: format!("the file has no value number {}", nth + 1),
        })?;
        let span = entry.value_span.clone();
        let new = if entry.value.is_none() {
            format!(" = {encoded}")
        } else {
            // An empty value may touch its neighbours; a filled one must not.
            let before = if self.text.get(..span.start).is_some_and(|t| t.ends_with('=')) { " " } else { "" };
            let comment = self.text.get(span.end..).is_some_and(|t| t.starts_with([';', '#']));
            format!("{before}{encoded}{}", if span.is_empty() && comment { " " } else { "" })
        };
        self.splice(&what, span, &new)
    }

    /// Removes the line of the `nth` (from 0) occurrence of a setting.
    ///
    /// # Errors
    /// When there is no such occurrence.
    pub fn remove_nth(
        &mut self,
        section: &str,
        subsection: Option<&str>,
        key: &str,
        nth: usize,
    ) -> Result<(), SetError> {
        let what = name_of(section, subsection, key);
        let Some(entry) = self.matching(section, subsection, key).nth(nth).cloned() else {
            return Err(SetError { what, why: format!("the file has no value number {}", nth + 1) });
        };
        self.splice(&what, entry.line, "")
    }

    fn append(
        &mut self,
        section: &str,
        subsection: Option<&str>,
        key: &str,
        value: &str,
    ) -> Result<(), SetError> {
        let what = name_of(section, subsection, key);
        if !gcfg_scan::is_identifier(section) || !gcfg_scan::is_identifier(key) {
            let why = "a name is a letter followed by letters, digits and `-`".into();
            return Err(SetError { what, why });
        }
        if subsection.is_some_and(|s| s.is_empty() || s.contains(['\n', '\r', '\0'])) {
            return Err(SetError { what, why: "a subsection is one line of text that is not empty".into() });
        }
        let line = format!("{key} = {}", encode(&what, value)?);
        let newline = if self.text.contains("\r\n") { "\r\n" } else { "\n" };
        let home = self.headers.iter().rposition(|header| header.is(section, subsection));
        let (at, mut new) = match home.and_then(|index| Some((index, self.headers.get(index)?))) {
            Some((index, header)) => {
                let last = self.entries.iter().rfind(|entry| entry.header == index);
                (last.map_or(header.line.end, |entry| entry.line.end), line)
            }
            None => {
                let header = match subsection {
                    Some(sub) => {
                        format!("[{section} \"{}\"]", sub.replace('\\', "\\\\").replace('"', "\\\""))
                    }
                    None => format!("[{section}]"),
                };
                let gap = if self.text.trim_start_matches('\u{feff}').is_empty() { "" } else { newline };
                (self.text.len(), format!("{gap}{header}{newline}{line}"))
            }
        };
        let before = self.text.get(..at).unwrap_or_default();
        if !before.trim_start_matches('\u{feff}').is_empty() && !before.ends_with('\n') {
            new.insert_str(0, newline);
        }
        new.push_str(newline);
        self.splice(&what, at..at, &new)
    }

    fn splice(&mut self, what: &str, at: Range<usize>, new: &str) -> Result<(), SetError> {
        let failed = |why: &dyn std::fmt::Display| SetError { what: what.into(), why: why.to_string() };
        let before = self.text.get(..at.start).ok_or_else(|| failed(&"its place is gone"))?;
        let after = self.text.get(at.end..).ok_or_else(|| failed(&"its place is gone"))?;
        *self = Self::from_text([before, new, after].concat()).map_err(|error| failed(&error))?;
        Ok(())
    }

    fn matching<'a>(
        &'a self,
        section: &'a str,
        subsection: Option<&'a str>,
        key: &'a str,
    ) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| {
            self.headers.get(entry.header).is_some_and(|header| header.is(section, subsection))
                && self.text.get(entry.name.clone()).is_some_and(|name| gcfg_scan::same_name(name, key))
        })
    }
}

/// What the grammar takes for yes and no.
#[must_use]
pub fn parse_bool(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// A setting's name as people write it: `Server.DataDir`, `RPackageRepository "CRAN".URL`.
#[must_use]
pub fn name_of(section: &str, subsection: Option<&str>, key: &str) -> String {
    match subsection {
        Some(sub) => format!("{section} \"{sub}\".{key}"),
        None => format!("{section}.{key}"),
    }
}

fn encode(what: &str, value: &str) -> Result<String, SetError> {
    if value.contains(['\r', '\0']) {
        let why = "the value contains a carriage return or a NUL".into();
        return Err(SetError { what: what.into(), why });
    }
    let plain = !value.is_empty()
        && value.trim() == value
        && !value.contains([';', '#', '"', '\\', '\n', '\t', '\u{feff}']);
    if plain {
        return Ok(value.to_owned());
    }
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        match c {
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    Ok(quoted)
}

#[cfg(test)]
#[path = "gcfg_tests.rs"]
mod tests;
