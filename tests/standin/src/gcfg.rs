//! A strict reader of the gcfg format, by the rules of
//! <https://docs.posit.co/connect/admin/appendix/configuration/>.

use std::fmt;

/// A place where the text stops being gcfg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// First line is 1.
    pub line: usize,
    /// First column is 1, counted in characters.
    pub column: usize,
    /// What was found or missed.
    pub message: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for SyntaxError {}

#[derive(Debug, Clone)]
struct Entry {
    section: String,
    subsection: Option<String>,
    name: String,
    value: String,
}

/// The settings of a gcfg file in their order.
#[derive(Debug, Clone, Default)]
pub struct Gcfg {
    entries: Vec<Entry>,
}

impl Gcfg {
    /// Reads the whole text or names the first place that is wrong.
    ///
    /// # Errors
    /// The first syntax error with line and column.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = Reader { rest: text.chars().peekable(), line: 1, column: 1 };
        let mut entries = Vec::new();
        let mut section: Option<(String, Option<String>)> = None;
        loop {
            reader.skip_blanks_and_lines();
            match reader.peek() {
                None => return Ok(Gcfg { entries }),
                Some(';' | '#') => reader.skip_comment(),
                Some('[') => section = Some(reader.header()?),
                Some(_) => {
                    let (name, value) = reader.setting()?;
                    let Some((section, subsection)) = section.clone() else {
                        return Err(reader.error(format!("property '{name}' stands before any section")));
                    };
                    entries.push(Entry { section, subsection, name, value });
                }
            }
        }
    }

    /// The value that counts: the last one. Names are matched without regard to case.
    #[must_use]
    pub fn get(&self, section: &str, name: &str) -> Option<&str> {
        self.matching(section, name).last().map(|e| e.value.as_str())
    }

    /// All values of a property that may stand more than once.
    #[must_use]
    pub fn all(&self, section: &str, name: &str) -> Vec<&str> {
        self.matching(section, name).map(|e| e.value.as_str()).collect()
    }

    /// Applies `CONNECT_<SECTION>_<PROPERTY>` variables over the file's values.
    pub fn override_from(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        for (key, value) in variables {
            let Some((section, name)) = key.strip_prefix("CONNECT_").and_then(|k| k.split_once('_')) else {
                continue;
            };
            if section.is_empty() || name.is_empty() || name.contains('_') {
                continue;
            }
            let (section, name) = (section.to_lowercase(), name.to_lowercase());
            self.entries.retain(|e| e.subsection.is_some() || e.section != section || e.name != name);
            self.entries.push(Entry { section, subsection: None, name, value });
        }
    }

    fn matching(&self, section: &str, name: &str) -> impl DoubleEndedIterator<Item = &Entry> {
        let (section, name) = (section.to_lowercase(), name.to_lowercase());
        self.entries.iter().filter(move |e| e.subsection.is_none() && e.section == section && e.name == name)
    }
}

struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
    column: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(c)
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError { line: self.line, column: self.column, message: message.into() }
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\r')) {
            self.next();
        }
    }

    fn skip_blanks_and_lines(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\r' | '\n')) {
            self.next();
        }
    }

    fn skip_comment(&mut self) {
        while !matches!(self.peek(), None | Some('\n')) {
            self.next();
        }
    }

    fn identifier(&mut self, what: &str) -> Result<String, SyntaxError> {
        let mut name = String::new();
        match self.peek() {
            Some(c) if c.is_alphabetic() => {}
            Some(c) => return Err(self.error(format!("expected {what}, found '{c}'"))),
            None => return Err(self.error(format!("expected {what}, found end of file"))),
        }
        while let Some(c) = self.peek() {
            if c.is_alphanumeric() || c == '-' {
                name.extend(c.to_lowercase());
                self.next();
            } else {
                break;
            }
        }
        Ok(name)
    }

    fn header(&mut self) -> Result<(String, Option<String>), SyntaxError> {
        self.next();
        self.skip_blanks();
        let section = self.identifier("a section name")?;
        self.skip_blanks();
        let mut subsection = None;
        if self.peek() == Some('"') {
            self.next();
            let mut sub = String::new();
            loop {
                match self.next() {
                    Some('"') => break,
                    Some('\\') => match self.next() {
                        Some(c @ ('\\' | '"')) => sub.push(c),
                        _ => return Err(self.error("unknown escape in subsection name")),
                    },
                    Some('\n') | None => return Err(self.error("subsection name is not closed")),
                    Some(c) => sub.push(c),
                }
            }
            if sub.is_empty() {
                return Err(self.error("empty subsection name"));
            }
            subsection = Some(sub);
            self.skip_blanks();
        }
        if self.peek() != Some(']') {
            return Err(self.error("expected ']' after section name"));
        }
        self.next();
        self.skip_blanks();
        match self.peek() {
            None | Some('\n' | ';' | '#') => Ok((section, subsection)),
            Some(c) => Err(self.error(format!("expected end of line after ']', found '{c}'"))),
        }
    }

    fn setting(&mut self) -> Result<(String, String), SyntaxError> {
        let name = self.identifier("a property name or a section header")?;
        self.skip_blanks();
        if self.peek() != Some('=') {
            return Err(self.error(format!("expected '=' after property '{name}'")));
        }
        self.next();
        self.skip_blanks();
        Ok((name, self.value()?))
    }

    fn value(&mut self) -> Result<String, SyntaxError> {
        let mut value = String::new();
        let mut kept = 0; // trailing blanks outside quotes are not part of the value
        let mut quoted = false;
        loop {
            match self.peek() {
                None | Some('\n') if quoted => return Err(self.error("quote is not closed")),
                None | Some('\n') => break,
                Some(';' | '#') if !quoted => {
                    self.skip_comment();
                    break;
                }
                Some('"') => {
                    quoted = !quoted;
                    self.next();
                    kept = value.len();
                }
                Some('\\') => {
                    self.next();
                    match (quoted, self.next()) {
                        (_, Some('"')) => value.push('"'),
                        (true, Some('\\')) => value.push('\\'),
                        (true, Some('n')) => value.push('\n'),
                        (true, Some('t')) => value.push('\t'),
                        (false, Some('\n')) => {}
                        _ => return Err(self.error("unknown escape; put the value in quotes and write \\\\")),
                    }
                    kept = value.len();
                }
                Some(c) => {
                    value.push(c);
                    self.next();
                    if quoted || !c.is_whitespace() {
                        kept = value.len();
                    }
                }
            }
        }
        value.truncate(kept);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_merge_last_value_wins_and_multi_values_keep_their_order() {
        let text = "; c\n[Server]\nDataDir = /a ; why\n[Python]\nExecutable = /1\nExecutable=\"/2 #\"\n\
                    [server]\r\ndatadir = /b\r\n[RPackageRepository \"CRAN\"]\nURL = x\n";
        let gcfg = Gcfg::parse(text).unwrap();
        assert_eq!(gcfg.get("SERVER", "DataDir"), Some("/b"));
        assert_eq!(gcfg.all("Python", "Executable"), ["/1", "/2 #"]);
        assert_eq!(gcfg.get("RPackageRepository", "URL"), None);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, line, part) in [
            ("[Server\nx = 1", 1, "expected ']'"),
            ("[Server]\nDataDir", 2, "expected '='"),
            ("\nx = 1\n", 2, "before any section"),
            ("[A]\n\nb = \"open\nc = 1", 3, "not closed"),
            ("[A]\nb = c:\\d", 2, "unknown escape"),
            ("[A \"\"]", 1, "empty subsection"),
            ("[A.b]", 1, "expected ']'"),
            ("[A]\n= 3", 2, "expected a property name"),
        ] {
            let error = Gcfg::parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}: {error}");
            assert!(error.message.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_variable_replaces_every_value_of_the_file() {
        let mut gcfg = Gcfg::parse("[Python]\nExecutable = /1\nExecutable = /2\n").unwrap();
        gcfg.override_from([
            ("CONNECT_PYTHON_EXECUTABLE".to_owned(), "/3".to_owned()),
            ("CONNECT_API_KEY".to_owned(), "client".to_owned()),
            ("PATH".to_owned(), "/bin".to_owned()),
        ]);
        assert_eq!(gcfg.all("Python", "Executable"), ["/3"]);
    }
}
