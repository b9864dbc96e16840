//! Tag patterns and name patterns: Jinja templates, with the filters that the vendor's tool adds.

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use regex::Regex;
use serde::Serialize;
use std::ops::Range;
use std::sync::OnceLock;

/// How much work one template may be: tags are short.
const FUEL: u64 = 20_000;

/// Why a template cannot be used, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub why: String,
    pub at: Option<Range<usize>>,
    /// A name that is not known.
    pub name: Option<String>,
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Self {
        let why = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        Wrong { why, at: error.range(), name: None }
    }
}

fn environment() -> &'static Environment<'static> {
    static ONCE: OnceLock<Environment<'static>> = OnceLock::new();
    ONCE.get_or_init(|| {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        env.set_fuel(Some(FUEL));
        // What Python's texts can do: `Version.split(".")[0]`.
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_filter("tagSafe", |text: String| trimmed(&tag_safe(&text)));
        env.add_filter("stripMetadata", |text: String| strip_metadata(&text));
        env.add_filter("stripPatch", |text: String| strip_patch(&text));
        env.add_filter("condense", |text: String| text.replace([' ', '.', '-'], ""));
        env.add_filter("quote", |text: String| format!("\"{text}\""));
        env.add_filter("regexReplace", regex_replace);
        env
    })
}

/// Whether a template can be read, and uses only the names that there are.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(template: &str, names: &[&str]) -> Result<(), Wrong> {
    let read = environment().template_from_str(template)?;
    let mut unknown: Vec<String> =
        read.undeclared_variables(false).into_iter().filter(|name| !names.contains(&name.as_str())).collect();
    unknown.sort();
    match unknown.into_iter().next() {
        None => Ok(()),
        Some(name) => {
            let at = template.find(&name).map(|at| at..at + name.len());
            Err(Wrong { why: format!("`{name}` is not known in a pattern"), at, name: Some(name) })
        }
    }
}

/// Renders a template.
///
/// # Errors
/// What is wrong with it.
pub(super) fn render(template: &str, values: &impl Serialize) -> Result<String, Wrong> {
    Ok(environment().template_from_str(template)?.render(minijinja::value::Serde(values))?)
}

/// A tag out of a rendered pattern.
pub(super) fn tag(rendered: &str) -> String {
    tag_safe(&trimmed(rendered.trim()))
}

/// Without separators at its ends.
pub(super) fn trimmed(text: &str) -> String {
    text.trim_matches(['-', '.', '_']).to_owned()
}

/// Characters that a tag cannot have, as hyphens.
pub(super) fn tag_safe(text: &str) -> String {
    text.chars().map(|c| if fits_tag(c) { c } else { '-' }).collect()
}

pub(super) fn fits_tag(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Without what follows the last `-` or `+`.
fn strip_metadata(text: &str) -> String {
    text.rfind(['-', '+']).and_then(|at| text.get(..at)).unwrap_or(text).to_owned()
}

/// Every run of three or more numbers with dots between, cut to two.
pub(super) fn strip_patch(text: &str) -> String {
    static ONCE: OnceLock<Option<Regex>> = OnceLock::new();
    match ONCE.get_or_init(|| Regex::new(r"(\d+\.\d+)(?:\.\d+)+").ok()) {
        Some(regex) => regex.replace_all(text, "$1").into_owned(),
        None => text.to_owned(),
    }
}

/// Python's `re.sub`.
fn regex_replace(text: String, find: String, replacement: String) -> Result<String, Error> {
    let regex = Regex::new(&find).map_err(|error| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("`{find}` is not an expression that can be used here: {error}"),
        )
    })?;
    // `\1` and `\g<name>` are written `${1}` and `${name}` here, and a dollar sign is one.
    let mut ours = String::new();
    let mut rest = replacement.as_str();
    while let Some(c) = rest.chars().next() {
        let tail = rest.get(c.len_utf8()..).unwrap_or_default();
        rest = match c {
            '$' => {
                ours.push_str("$$");
                tail
            }
            '\\' => {
                let digits: String = tail.chars().take_while(char::is_ascii_digit).collect();
                if let Some((name, after)) = tail.strip_prefix("g<").and_then(|t| t.split_once('>')) {
                    ours.push_str(&format!("${{{name}}}"));
                    after
                } else if digits.is_empty() {
                    ours.push_str(tail.get(..1).unwrap_or("\\"));
                    tail.get(1..).unwrap_or_default()
                } else {
                    ours.push_str(&format!("${{{digits}}}"));
                    tail.get(digits.len()..).unwrap_or_default()
                }
            }
            c => {
                ours.push(c);
                tail
            }
        };
    }
    Ok(regex.replace_all(&text, ours.as_str()).into_owned())
}

/// Whether a pattern is spelled as the vendor's tool wants it: `a-z 0-9 - _ .` and expressions.
pub(super) fn well_spelled(pattern: &str) -> bool {
    let mut rest = pattern;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("{{") {
            let Some((inside, tail)) = after.split_once("}}") else { return false };
            if inside.is_empty() {
                return false;
            }
            rest = tail;
        } else {
            let Some(c) = rest.chars().next() else { return true };
            if !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.')) {
                return false;
            }
            rest = rest.get(1..).unwrap_or_default();
        }
    }
    !pattern.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_does_what_the_vendors_does() {
        let values = serde_json::json!({
            "Version": "2025.05.1+513.pro3", "OS": "ubuntu-24.04", "Name": "Posit Connect", "Matrix": "R4.3.3-python3.11.15",
        });
        for (pattern, rendered) in [
            ("{{ Version | tagSafe }}", "2025.05.1-513.pro3"),
            ("{{ Version | stripMetadata }}", "2025.05.1"),
            ("{{ '1.2.3-rc1' | stripMetadata }}", "1.2.3"),
            ("{{ '1-2+3' | stripMetadata }}", "1-2"),
            ("{{ Matrix | stripPatch }}", "R4.3-python3.11"),
            ("{{ '1.2.3.4' | stripPatch }}", "1.2"),
            ("{{ OS | condense }}", "ubuntu2404"),
            ("{{ Name | lower | replace(' ', '_') }}", "posit_connect"),
            ("{{ Version | regexReplace('^(\\\\d+)\\\\.(\\\\d+).*', '\\\\2-\\\\g<1>') }}", "05-2025"),
            ("{{ OS | regexReplace('-', '$') }}", "ubuntu$24.04"),
            ("{{ Version.split('.')[0] }}", "2025"),
            ("{{ OS | quote }}", "\"ubuntu-24.04\""),
        ] {
            assert_eq!(render(pattern, &values).unwrap(), rendered, "{pattern}");
        }
        assert_eq!(tag(" -2025.05.1+513.pro3-. "), "2025.05.1-513.pro3");
    }

    #[test]
    fn patterns_that_cannot_be_used_say_why_and_where() {
        let names = ["Version", "OS"];
        for (pattern, why, at) in [
            ("{{ Verison }}", "`Verison` is not known", "Verison"),
            ("{{ Version", "unexpected end", ""),
            ("{{ Version | nope }}", "nope", ""),
        ] {
            let wrong = check(pattern, &names).and_then(|()| render(pattern, &()).map(drop)).unwrap_err();
            assert!(wrong.why.contains(why), "{pattern}: {wrong:?}");
            if !at.is_empty() {
                assert_eq!(&pattern[wrong.at.unwrap()], at);
            }
        }
        let endless = "{{ range(9999) | list | string | length }}{{ range(9999) | list | join }}";
        assert!(render(endless, &()).is_ok() || render(endless, &()).unwrap_err().why.contains("fuel"));
        assert!(render("{{ Version | regexReplace('(', '') }}", &()).unwrap_err().why.contains("expression"));
        for (pattern, good) in [
            ("a-{{ OS }}.b_1", true),
            ("Latest", false),
            ("", false),
            ("{{ OS", false),
            ("{{}}", false),
            ("a b", false),
        ] {
            assert_eq!(well_spelled(pattern), good, "{pattern}");
        }
    }
}
