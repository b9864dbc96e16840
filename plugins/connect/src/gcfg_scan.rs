//! Where things stand in the text of a configuration file.

use crate::gcfg::GcfgError;
use crate::secrets;
use std::iter::Peekable;
use std::ops::Range;
use std::str::CharIndices;

/// A `[section "subsection"]` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub section: String,
    pub subsection: Option<String>,
    /// The whole line, with its end.
    pub line: Range<usize>,
}

impl Header {
    /// Section names match in any case, subsections exactly.
    pub fn is(&self, section: &str, subsection: Option<&str>) -> bool {
        same_name(&self.section, section) && self.subsection.as_deref() == subsection
    }
}

/// A `key = value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Index of the header above it.
    pub header: usize,
    pub name: Range<usize>,
    /// Unquoted and unescaped; `None` without `=`.
    pub value: Option<String>,
    /// The bytes of the value, blanks around it left out.
    pub value_span: Range<usize>,
    /// The whole line (with continuation lines), with its end.
    pub line: Range<usize>,
    pub line_number: usize,
}

/// Whether two names of sections or keys are the same.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}

/// Whether a text may be the name of a section or key.
pub(crate) fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(char::is_alphabetic) && chars.all(is_identifier_char)
}

fn is_identifier_char(c: char) -> bool {
    c.is_alphabetic() || c.is_numeric() || c == '-'
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

/// An error at a byte offset of a text.
pub(crate) fn error_at(text: &str, offset: usize, what: impl Into<String>) -> GcfgError {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line_text = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
    GcfgError {
        line: before.matches('\n').count() + 1,
        column: before.get(line_start..).unwrap_or_default().trim_start_matches('\u{feff}').chars().count()
            + 1,
        what: what.into(),
        excerpt: secrets::redact_line(line_text.trim_start_matches('\u{feff}')),
    }
}

/// Finds all headers and entries.
pub(crate) fn scan(text: &str) -> Result<(Vec<Header>, Vec<Entry>), GcfgError> {
    let mut scan = Scan { text, chars: text.char_indices().peekable(), line_number: 1 };
    let mut headers: Vec<Header> = Vec::new();
    let mut entries = Vec::new();
    scan.eat(|c| c == '\u{feff}', 1);
    let mut line_start = scan.offset();
    loop {
        scan.eat(is_blank, usize::MAX);
        let started = scan.line_number;
        match scan.peek() {
            None => break,
            Some('\n' | ';' | '#') => scan.end_of_line()?,
            Some('[') => {
                let (section, subsection) = scan.header()?;
                scan.end_of_line()?;
                headers.push(Header { section, subsection, line: line_start..scan.offset() });
            }
            Some(c) if c.is_alphabetic() => {
                let name = scan.identifier();
                let Some(header) = headers.len().checked_sub(1) else {
                    return Err(error_at(text, name.start, "a setting must stand below a `[Section]`"));
                };
                let (value, value_span) = scan.value(name.end)?;
                scan.end_of_line()?;
                let line = line_start..scan.offset();
                entries.push(Entry { header, name, value, value_span, line, line_number: started });
            }
            Some(_) => {
                return Err(scan.error("expected a `[Section]`, a `Key = value` or a comment"));
            }
        }
        line_start = scan.offset();
    }
    Ok((headers, entries))
}

struct Scan<'a> {
    text: &'a str,
    chars: Peekable<CharIndices<'a>>,
    line_number: usize,
}

impl Scan<'_> {
    fn peek(&mut self) -> Option<char> {
        self.chars.peek().map(|(_, c)| *c)
    }

    fn next(&mut self) -> Option<char> {
        let (_, c) = self.chars.next()?;
        if c == '\n' {
            self.line_number += 1;
        }
        Some(c)
    }

    fn offset(&mut self) -> usize {
        self.chars.peek().map_or(self.text.len(), |(at, _)| *at)
    }

    fn error(&mut self, what: impl Into<String>) -> GcfgError {
        let at = self.offset();
        error_at(self.text, at, what)
    }

    fn eat(&mut self, wanted: impl Fn(char) -> bool, most: usize) {
        let mut eaten = 0;
        while eaten < most && self.peek().is_some_and(&wanted) {
            self.next();
            eaten += 1;
        }
    }

    fn identifier(&mut self) -> Range<usize> {
        let start = self.offset();
        self.eat(is_identifier_char, usize::MAX);
        start..self.offset()
    }

    /// Blanks, a comment, the line's end.
    fn end_of_line(&mut self) -> Result<(), GcfgError> {
        self.eat(is_blank, usize::MAX);
        if matches!(self.peek(), Some(';' | '#')) {
            self.eat(|c| c != '\n', usize::MAX);
        }
        match self.peek() {
            None => Ok(()),
            Some('\n') => {
                self.next();
                Ok(())
            }
            Some(_) => Err(self.error("expected the end of the line or a comment")),
        }
    }

    fn header(&mut self) -> Result<(String, Option<String>), GcfgError> {
        self.next();
        self.eat(is_blank, usize::MAX);
        if !self.peek().is_some_and(char::is_alphabetic) {
            return Err(self.error("expected the section's name"));
        }
        let name = self.identifier();
        let section = self.text.get(name).unwrap_or_default().to_owned();
        self.eat(is_blank, usize::MAX);
        let subsection = match self.peek() {
            Some('"') => Some(self.subsection()?),
            _ => None,
        };
        self.eat(is_blank, usize::MAX);
        match self.peek() {
            Some(']') => {
                self.next();
                Ok((section, subsection))
            }
            Some('.') => Err(self.error("a subsection is written `[name \"sub\"]`")),
            _ => Err(self.error("expected `]`")),
        }
    }

    fn subsection(&mut self) -> Result<String, GcfgError> {
        let open = self.offset();
        self.next();
        let mut name = String::new();
        loop {
            let at = self.offset();
            match self.next() {
                None | Some('\n') => return Err(error_at(self.text, open, "this quote is not closed")),
                Some('"') if name.is_empty() => {
                    return Err(error_at(self.text, open, "a subsection's name must not be empty"));
                }
                Some('"') => return Ok(name),
                Some('\\') => match self.next() {
                    Some(c @ ('\\' | '"')) => name.push(c),
                    _ => return Err(error_at(self.text, at, "only `\\\\` and `\\\"` may be escaped here")),
                },
                Some('\r') => {}
                Some(c) => name.push(c),
            }
        }
    }

    /// What follows a key; `name_end` is where a value would have to be put if there is none.
    fn value(&mut self, name_end: usize) -> Result<(Option<String>, Range<usize>), GcfgError> {
        self.eat(is_blank, usize::MAX);
        match self.peek() {
            None | Some('\n' | ';' | '#') => return Ok((None, name_end..name_end)),
            Some('=') => {
                self.next();
            }
            Some(_) => return Err(self.error("expected `=` after the key")),
        }
        self.eat(is_blank, usize::MAX);
        let start = self.offset();
        let mut value = String::new();
        // How much of the text and of the value counts; blanks at the end do not.
        let (mut end, mut kept) = (start, 0);
        let mut quote: Option<usize> = None;
        loop {
            let at = self.offset();
            let Some(c) = self.peek() else { break };
            match (c, quote) {
                ('\n' | ';' | '#', None) => break,
                ('\n', Some(open)) => return Err(error_at(self.text, open, "this quote is not closed")),
                _ => {}
            }
            self.next();
            match (c, quote) {
                ('"', None) => quote = Some(at),
                ('"', Some(_)) => quote = None,
                ('\\', Some(_)) => value.push(self.escape(at)?),
                ('\\', None) => self.bare_backslash(at, &mut value)?,
                ('\r', _) => {}
                ('\0', _) => return Err(error_at(self.text, at, "a NUL is not allowed")),
                (c, _) => value.push(c),
            }
            if quote.is_some() || !is_blank(c) {
                end = self.offset();
                kept = value.len();
            }
        }
        if let Some(open) = quote {
            return Err(error_at(self.text, open, "this quote is not closed"));
        }
        value.truncate(kept);
        Ok((Some(value), start..end))
    }

    fn escape(&mut self, at: usize) -> Result<char, GcfgError> {
        match self.next() {
            Some('\\') => Ok('\\'),
            Some('"') => Ok('"'),
            Some('n') => Ok('\n'),
            Some('t') => Ok('\t'),
            _ => Err(error_at(
                self.text,
                at,
                "unknown escape; inside quotes only `\\\\`, `\\\"`, `\\n`, `\\t`",
            )),
        }
    }

    fn bare_backslash(&mut self, at: usize, value: &mut String) -> Result<(), GcfgError> {
        self.eat(|c| c == '\r', 1);
        match self.next() {
            Some('\n') => Ok(()),
            Some('"') => {
                value.push('"');
                Ok(())
            }
            _ => Err(error_at(
                self.text,
                at,
                "outside quotes `\\` may only stand before a quote or the end of the line; put the value in quotes",
            )),
        }
    }
}
