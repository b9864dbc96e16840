//! Secrets have no place in a runbook: it names credentials, and what looks like a secret is refused and never shown.

use connect_migrator_connect::secrets::secrets_in_url;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ops::Range;

/// Names, or ends of names, of settings that hold secrets.
const SECRET_NAMES: [&str; 6] = ["password", "passwd", "passphrase", "secret", "token", "apikey"];
/// The same for keys: these may also hold the path of a file.
const KEY_NAMES: [&str; 4] = ["api-key", "access-key", "private-key", "secret-key"];
/// The name of the one setting inside `{ credential = "…" }`.
pub(super) const CREDENTIAL: &str = "credential";

/// How a setting's name speaks of secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sensitivity {
    /// Any plain value is a secret.
    Secret,
    /// A plain value is a secret unless it is a path.
    Key,
}

/// Whether a setting of this name holds a secret.
pub(super) fn sensitivity(name: &str) -> Option<Sensitivity> {
    let name = name.to_lowercase().replace('_', "-");
    let name = name.trim_end_matches('s');
    let ends_with =
        |end: &str| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('-'));
    if SECRET_NAMES.iter().any(|end| ends_with(end)) {
        Some(Sensitivity::Secret)
    } else if KEY_NAMES.iter().any(|end| ends_with(end)) {
        Some(Sensitivity::Key)
    } else {
        None
    }
}

/// Whether a plain string under this name must not stand in a runbook.
pub(super) fn is_plain_secret(name: &str, value: &str) -> bool {
    match sensitivity(name) {
        Some(Sensitivity::Secret) => true,
        Some(Sensitivity::Key) => !value.starts_with('/'),
        None => false,
    }
}

/// Whether `name` can be the name of a credential: a plain file name.
pub(super) fn is_credential_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// All names in `{ credential = "name" }` anywhere below `value`.
pub(super) fn collect_credentials(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if object.len() == 1
                && let Some(Value::String(name)) = object.get(CREDENTIAL)
            {
                into.insert(name.clone());
            }
            object.values().for_each(|value| collect_credentials(value, into));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_credentials(value, into)),
        _ => {}
    }
}

/// Whether the text was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Toml {
    /// It was: a string ends where its quotes end.
    Valid,
    /// It was not: what looks like the end of a string may be a quote inside a secret.
    Broken,
}

/// The text with everything that looks like a secret's value replaced by stars, byte for byte, so that spans stay right.
///
/// Works on the characters and not on the parsed document: a text that cannot be parsed is shown too.
pub(super) fn blacked_out(text: &str, toml: Toml) -> String {
    let mut hidden: Vec<Range<usize>> = Vec::new();
    let bytes = text.as_bytes();
    for (equals, _) in text.match_indices('=') {
        let Some(before) = text.get(..equals) else { continue };
        let before = before.trim_end_matches([' ', '\t']);
        let before = before.trim_end_matches(['"', '\'']);
        let name_at = before
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')))
            .map_or(0, |at| at + before.get(at..).and_then(|s| s.chars().next()).map_or(1, char::len_utf8));
        let name = before.get(name_at..).unwrap_or_default();
        if sensitivity(name).is_none() {
            continue;
        }
        let mut start = equals + 1;
        while matches!(bytes.get(start), Some(b' ' | b'\t')) {
            start += 1;
        }
        let rest = text.get(start..).unwrap_or_default();
        if rest.starts_with('{') {
            continue; // { credential = "name" }, or settings with names of their own
        }
        let (open, end) = value_end(rest, toml);
        hidden.push(start + open..start + end);
    }
    for (scheme, _) in text.match_indices("://") {
        let url =
            text.get(scheme..).and_then(|rest| rest.split(['"', '\'', ' ', '\n']).next()).unwrap_or_default();
        for secret in secrets_in_url(url) {
            hidden.push(scheme + secret.start..scheme + secret.end);
        }
    }
    let mut out = bytes.to_vec();
    for span in hidden {
        for byte in out.get_mut(span).unwrap_or_default() {
            if *byte != b'\n' && *byte != b'\r' {
                *byte = b'*';
            }
        }
    }
    // Whole values are replaced, so no character is cut; lossy only as a last resort.
    String::from_utf8(out).unwrap_or_else(|_| "*".repeat(text.len()))
}

/// Where a TOML value that starts `rest` begins (after its quotes) and ends. When in doubt, at the end of the line.
fn value_end(rest: &str, toml: Toml) -> (usize, usize) {
    let line_end =
        |from: usize| rest.get(from..).and_then(|after| after.find('\n')).map_or(rest.len(), |at| from + at);
    for quotes in ["\"\"\"", "'''", "\"", "'"] {
        let Some(inner) = rest.strip_prefix(quotes) else { continue };
        if quotes.len() == 1 && toml == Toml::Broken {
            return (quotes.len(), line_end(0));
        }
        let mut escaped = false;
        for (at, c) in inner.char_indices() {
            if escaped {
                escaped = false;
            } else if c == '\\' && quotes.starts_with('"') {
                escaped = true;
            } else if inner.get(at..).is_some_and(|here| here.starts_with(quotes)) {
                let end = quotes.len() + at;
                // A comment right behind may be the rest of a secret with a quote and a `#` in it.
                let after = rest.get(end + quotes.len()..).unwrap_or_default();
                let comment = after.trim_start_matches([' ', '\t']).starts_with('#');
                return (quotes.len(), if quotes.len() == 1 && !comment { end } else { line_end(end) });
            }
        }
        return (quotes.len(), rest.len());
    }
    (0, line_end(0))
}
