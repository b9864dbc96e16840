//! The files that systemd reads with `EnvironmentFile=`, by its own rules: what it hands to the source must be what the container gets.
//! <https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html#EnvironmentFile=>

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// What a backslash takes its meaning from inside double quotes.
const ESCAPED_IN_DOUBLE_QUOTES: [char; 4] = ['"', '\\', '`', '$'];

/// systemd before version 254 takes the line after a comment that ends in a backslash for a part of it; later ones do not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the comment before `{0}` ends in a backslash: systemd takes that line for a part of the comment before version 254, and not since; \
     take the backslash away"
)]
pub struct Ambiguous(pub String);

/// The variables of such a file. Lines that systemd ignores, such as those with `export`, are ignored.
///
/// # Errors
/// When it depends on systemd's version what a line means.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, Ambiguous> {
    let mut variables = BTreeMap::new();
    let mut rest = text.chars().peekable();
    let mut goes_on = false;
    while let Some(&first) = rest.peek() {
        if first.is_ascii_whitespace() {
            // An empty line ends the comment for all of them.
            goes_on &= !is_end(first);
            rest.next();
        } else if matches!(first, '#' | ';') {
            goes_on = skip_comment(&mut rest);
        } else if let Some(name) = name(&mut rest) {
            if std::mem::take(&mut goes_on) {
                return Err(Ambiguous(name));
            }
            let value = value(&mut rest);
            if is_name(&name) {
                variables.insert(name, value);
            }
        }
    }
    Ok(variables)
}

fn is_end(letter: char) -> bool {
    matches!(letter, '\n' | '\r')
}

/// Whether it ends in a backslash that is not escaped itself.
fn skip_comment(rest: &mut Peekable<Chars<'_>>) -> bool {
    let mut escapes = false;
    for letter in rest.by_ref() {
        if is_end(letter) {
            break;
        }
        escapes = letter == '\\' && !escapes;
    }
    escapes
}

/// What stands before the `=`; `None` for a line without one.
fn name(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut name = String::new();
    for letter in rest.by_ref() {
        match letter {
            '=' => return Some(name.trim_end().to_owned()),
            end if is_end(end) => return None,
            letter => name.push(letter),
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().next().is_some_and(|first| !first.is_ascii_digit())
}

/// What stands behind it: quoted and bare pieces up to the end of the line, also of a line that quotes or a backslash go on.
fn value(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut value = String::new();
    // As far as this, spaces at the end belong to it.
    let mut kept = 0;
    let mut bare = false;
    while let Some(letter) = rest.next() {
        match letter {
            end if is_end(end) => break,
            // Quotes in the midst of a bare piece are letters of it.
            '\'' if !bare => {
                value.extend(rest.by_ref().take_while(|letter| *letter != '\''));
                kept = value.len();
            }
            '"' if !bare => {
                double_quoted(rest, &mut value);
                kept = value.len();
            }
            '\\' => {
                bare = true;
                value.extend(rest.next().filter(|escaped| !is_end(*escaped)));
                kept = value.len();
            }
            space if space.is_ascii_whitespace() => {
                if bare {
                    value.push(space);
                }
            }
            letter => {
                bare = true;
                value.push(letter);
                kept = value.len();
            }
        }
    }
    value.truncate(kept);
    value
}

fn double_quoted(rest: &mut Peekable<Chars<'_>>, value: &mut String) {
    while let Some(letter) = rest.next() {
        match letter {
            '"' => return,
            '\\' => match rest.next() {
                Some(escaped) if ESCAPED_IN_DOUBLE_QUOTES.contains(&escaped) => value.push(escaped),
                Some('\n') | None => {}
                Some(other) => value.extend(['\\', other]),
            },
            letter => value.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_systemd_makes_of_them() {
        for (line, value) in [
            ("X=plain", "plain"),
            ("  X = spaced out  ", "spaced out"),
            ("X=", ""),
            (r#"X="pa\$s""#, "pa$s"),
            (r#"X="a\\b\"c\`d""#, "a\\b\"c`d"),
            (r#"X="a\b""#, r"a\b"),
            (r"X=pa\$s", "pa$s"),
            (r"X=a\\b", r"a\b"),
            (r"X='a\\b'", r"a\\b"),
            ("X='a\"b'", "a\"b"),
            ("X=a'b'", "a'b'"),
            ("X='a' b", "ab"),
            ("X='a b'\"c d\"", "a bc d"),
            ("X=a#b ;c", "a#b ;c"),
            ("X=a=b", "a=b"),
            ("X='one\ntwo'", "one\ntwo"),
            ("X=one\\\ntwo", "onetwo"),
            ("X=\"one\\\ntwo\"", "onetwo"),
            ("X=trailing\\ \t", "trailing "),
            ("X='open", "open"),
            ("X=windows\r\nY=2", "windows"),
            ("#X=1\nX=2", "2"),
            ("X=1\nX=2", "2"),
        ] {
            assert_eq!(parse(line).unwrap().get("X").map(String::as_str), Some(value), "{line:?}");
        }
    }

    #[test]
    fn what_systemd_ignores_is_ignored() {
        for text in ["", "X", "# X=1", "; X=1 \\", "export X=1", "X-Y=1", "=1", "1X=1", "X\n=1"] {
            assert!(parse(text).unwrap().is_empty(), "{text:?}: {:?}", parse(text));
        }
    }

    #[test]
    fn what_depends_on_the_version_of_systemd_is_refused() {
        assert_eq!(parse("; off \\\nX=1"), Err(Ambiguous("X".into())));
        for text in ["# c:\\dir\\\\\nX=1", "# off \\\n\nX=1", "# off \\\n# more\nX=1", "# off \\"] {
            assert!(parse(text).is_ok(), "{text:?}");
        }
    }
}
