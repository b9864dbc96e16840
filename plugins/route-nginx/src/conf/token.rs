//! Cuts an nginx configuration file into tokens.
//!
//! The rules are those of nginx' own reader: a quote opens a quoted word only at the start of a word, a backslash takes the next
//! byte out of the grammar, `${` does not open a block, and `#` starts a comment only between words.

use std::ops::Range;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Spaces, tabs and line ends.
    Space,
    /// `# …` without its line end.
    Comment,
    /// A name, an argument; with its quotes.
    Word,
    /// `;`
    Semicolon,
    /// `{`
    Open,
    /// `}`
    Close,
    /// The inside of a `…_by_lua_block`, which has a grammar of its own.
    Foreign,
}

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Where it stands, in bytes.
    pub span: Range<usize>,
    /// The line that it starts on, from 1.
    pub line: usize,
}

/// What cannot be read, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct SyntaxError {
    /// From 1.
    pub line: usize,
    /// As a sentence without its full stop.
    pub what: String,
}

/// Cuts `bytes` into tokens. Their spans follow each other without a gap, from the first byte to the last.
///
/// # Errors
/// A quote that is not closed, a quoted word that runs into the next, or a Lua block without an end.
pub fn tokens(bytes: &[u8]) -> Result<Vec<Token>, SyntaxError> {
    let mut reader = Reader { bytes, at: 0, line: 1 };
    let mut tokens = Vec::new();
    let mut first_word: Option<Range<usize>> = None;
    while let Some(byte) = reader.peek() {
        let (start, line) = (reader.at, reader.line);
        let kind = match byte {
            byte if is_space(byte) => {
                reader.skip_while(is_space);
                Kind::Space
            }
            b'#' => {
                reader.skip_while(|byte| byte != b'\n');
                Kind::Comment
            }
            b';' => {
                reader.next();
                first_word = None;
                Kind::Semicolon
            }
            b'}' => {
                reader.next();
                first_word = None;
                Kind::Close
            }
            b'{' => {
                reader.next();
                Kind::Open
            }
            quote @ (b'"' | b'\'') => {
                reader.quoted(quote)?;
                Kind::Word
            }
            _ => {
                reader.unquoted();
                Kind::Word
            }
        };
        let span = start..reader.at;
        if kind == Kind::Word && first_word.is_none() {
            first_word = Some(span.clone());
        }
        tokens.push(Token { kind, span, line });
        if kind == Kind::Open {
            let name = first_word.take().and_then(|span| bytes.get(span)).unwrap_or_default();
            if name.ends_with(b"_by_lua_block") {
                let (start, line) = (reader.at, reader.line);
                reader.lua()?;
                if reader.at > start {
                    tokens.push(Token { kind: Kind::Foreign, span: start..reader.at, line });
                }
            }
        }
    }
    Ok(tokens)
}

/// What nginx makes of a word: without its quotes, with its escapes resolved.
#[must_use]
pub fn value(word: &[u8]) -> String {
    let inner = match word {
        [quote @ (b'"' | b'\''), inner @ .., last] if quote == last => inner,
        _ => word,
    };
    let mut value = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let replaced = match (byte, bytes.peek()) {
            (b'\\', Some(&next @ (b'"' | b'\'' | b'\\'))) => Some(next),
            (b'\\', Some(b't')) => Some(b'\t'),
            (b'\\', Some(b'r')) => Some(b'\r'),
            (b'\\', Some(b'n')) => Some(b'\n'),
            _ => None,
        };
        match replaced {
            Some(replaced) => {
                value.push(replaced);
                bytes.next();
            }
            None => value.push(byte),
        }
    }
    String::from_utf8_lossy(&value).into_owned()
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        if byte == b'\n' {
            self.line += 1;
        }
        Some(byte)
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.next();
        }
    }

    fn quoted(&mut self, quote: u8) -> Result<(), SyntaxError> {
        let line = self.line;
        self.next();
        loop {
            match self.next() {
                Some(b'\\') => {
                    self.next();
                }
                Some(byte) if byte == quote => break,
                Some(_) => {}
                None => {
                    let what = format!("the quote {} that opens here is not closed", char::from(quote));
                    return Err(SyntaxError { line, what });
                }
            }
        }
        match self.peek() {
            None | Some(b';' | b'{' | b')') => Ok(()),
            Some(byte) if is_space(byte) => Ok(()),
            Some(byte) => {
                let what = format!("unexpected `{}` right after a quoted word", byte.escape_ascii());
                Err(SyntaxError { line: self.line, what })
            }
        }
    }

    fn unquoted(&mut self) {
        let mut after_dollar = false;
        while let Some(byte) = self.peek() {
            match byte {
                b'{' if after_dollar => {}
                b'{' | b';' => return,
                byte if is_space(byte) => return,
                b'\\' => {
                    self.next();
                }
                _ => {}
            }
            after_dollar = byte == b'$';
            self.next();
        }
    }

    /// Stops before the brace that closes the block.
    fn lua(&mut self) -> Result<(), SyntaxError> {
        let line = self.line;
        let unclosed = || SyntaxError { line, what: "the Lua block that opens here is not closed".into() };
        let mut depth = 0_usize;
        loop {
            match self.peek().ok_or_else(unclosed)? {
                b'}' if depth == 0 => return Ok(()),
                b'}' => depth -= 1,
                b'{' => depth += 1,
                quote @ (b'"' | b'\'') => {
                    self.next();
                    while self.peek().ok_or_else(unclosed)? != quote {
                        if self.next() == Some(b'\\') {
                            self.next();
                        }
                    }
                }
                b'-' if self.bytes.get(self.at + 1) == Some(&b'-') => {
                    self.skip_while(|byte| byte != b'\n');
                    continue;
                }
                _ => {}
            }
            self.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<String> {
        let tokens = tokens(text.as_bytes()).expect("can be read");
        let words = tokens.into_iter().filter(|token| token.kind == Kind::Word);
        words.map(|token| value(&text.as_bytes()[token.span])).collect()
    }

    #[test]
    fn words_are_cut_as_nginx_cuts_them() {
        let cases: [(&str, &[&str]); 12] = [
            ("a b;c d;", &["a", "b", "c", "d"]),
            ("a \"b ; { } # c\" ;", &["a", "b ; { } # c"]),
            ("a 'it\\'s';", &["a", "it's"]),
            ("a \"x\\\\y\\tz\";", &["a", "x\\y\tz"]),
            ("a b\\;c;", &["a", "b\\;c"]),
            ("a b\\ c;", &["a", "b\\ c"]),
            ("set $x ${host}y;", &["set", "$x", "${host}y"]),
            ("a b#c; # d e;\nf;", &["a", "b#c", "f"]),
            ("a b\"c;", &["a", "b\"c"]),
            ("if ($a = \"b\") { c; }", &["if", "($a", "=", "b", ")", "c"]),
            ("location ~ \\.php$ { d; }", &["location", "~", "\\.php$", "d"]),
            ("a}b;", &["a}b"]),
        ];
        for (text, wanted) in cases {
            assert_eq!(words(text), wanted, "{text}");
        }
    }

    #[test]
    fn the_inside_of_a_lua_block_is_not_cut() {
        let text = "content_by_lua_block { local t = { a = '}' } -- }\n say(\"\\\"{\") }\nlocation / { x; }";
        assert_eq!(words(text), ["content_by_lua_block", "location", "/", "x"]);
    }

    #[test]
    fn what_cannot_be_cut_is_named_with_its_line() {
        let error = |text: &str| tokens(text.as_bytes()).expect_err("cannot be read").to_string();
        assert_eq!(error("a;\nb \"c;\n"), "line 2: the quote \" that opens here is not closed");
        assert_eq!(error("a;\n\nb \"c\"d;"), "line 3: unexpected `d` right after a quoted word");
        assert_eq!(error("x_by_lua_block { {}"), "line 1: the Lua block that opens here is not closed");
    }

    /// Text that is dense in the bytes that mean something.
    fn dense() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            4 => prop::sample::select(b"\"'\\${};# \n\r\t)(".to_vec()),
            3 => prop::sample::select(b"abproxy_pass/:.0127".to_vec()),
            1 => any::<u8>(),
        ];
        prop::collection::vec(byte, 0..200)
    }

    proptest! {
        #[test]
        fn printing_the_tokens_gives_the_same_bytes(bytes in dense()) {
            if let Ok(tokens) = tokens(&bytes) {
                let printed: Vec<u8> = tokens.iter().flat_map(|token| bytes[token.span.clone()].to_vec()).collect();
                prop_assert_eq!(&printed, &bytes);
                let mut end = 0;
                for token in &tokens {
                    prop_assert_eq!(token.span.start, end);
                    prop_assert!(token.span.end > token.span.start);
                    let before = bytes[..token.span.start].iter().filter(|byte| **byte == b'\n').count();
                    prop_assert_eq!(token.line, before + 1);
                    end = token.span.end;
                }
            }
        }
    }
}
