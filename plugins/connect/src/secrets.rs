//! Which settings hold secrets, and how they are shown without them.

use crate::gcfg::Gcfg;

/// What stands in place of a secret.
pub const HIDDEN: &str = "(not shown)";

/// Whether a setting or environment variable of this name holds a secret. `HTTPS.Key` and the like, whose value is a path, count
/// only when the value is not one: see [`redact_value`].
#[must_use]
pub fn looks_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    let ends_in_key = name.ends_with("key") && !name.ends_with("publickey");
    ends_in_key || ["password", "passwd", "secret", "token", "credential"].iter().any(|w| name.contains(w))
}

/// Whether this value of this setting is a secret (or, in the case of a URL, holds one).
#[must_use]
pub fn is_secret(name: &str, value: &str) -> bool {
    redact_value(name, value) != value
}

/// The value as it may be shown.
#[must_use]
pub fn redact_value(name: &str, value: &str) -> String {
    let switch = crate::gcfg::parse_bool(value).is_some() || value.is_empty();
    if looks_secret(name) && !value.starts_with('/') && !switch {
        return HIDDEN.into();
    }
    redact_urls(value)
}

/// Hides the password of every `scheme://user:password@host` in a text.
#[must_use]
pub fn redact_urls(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find([' ', '\t', '\n', '"', '\'']).unwrap_or(after.len());
        let (url, tail) = after.split_at(end);
        // A password may hold `/` or `@` unescaped: the last `@` before the query ends it.
        let authority = url.find('?').map_or(url, |q| url.split_at(q).0);
        match (authority.rfind('@'), authority.find(':')) {
            (Some(host), Some(colon)) if colon < host => {
                shown.push_str(url.get(..colon).unwrap_or_default());
                shown.push(':');
                shown.push_str(HIDDEN);
                shown.push_str(url.get(host..).unwrap_or_default());
            }
            _ => shown.push_str(url),
        }
        rest = tail;
    }
    shown.push_str(rest);
    shown
}

/// One line of a configuration file or a log as it may be shown.
#[must_use]
pub fn redact_line(line: &str) -> String {
    match line.split_once('=') {
        Some((name, value)) if !value.trim().is_empty() => {
            let lead: String = value.chars().take_while(|c| c.is_whitespace()).collect();
            let key = name.trim().rsplit([' ', '\t']).next().unwrap_or_default();
            let bare = value.trim().trim_matches('"');
            if looks_secret(key) && is_secret(key, bare) {
                return format!("{name}={lead}{HIDDEN}");
            }
            redact_urls(line)
        }
        _ => redact_urls(line),
    }
}

/// A configuration file's text as it may be shown.
#[must_use]
pub fn redact_gcfg(gcfg: &Gcfg) -> String {
    let mut shown = gcfg.clone();
    let mut seen = std::collections::BTreeMap::new();
    for setting in gcfg.settings() {
        let id = (
            setting.section.to_lowercase(),
            setting.subsection.map(str::to_owned),
            setting.key.to_lowercase(),
        );
        let nth = seen.entry(id).and_modify(|n| *n += 1).or_insert(0usize);
        let Some(value) = setting.value else { continue };
        let safe = redact_value(setting.key, value);
        if safe != value
            && shown.set_nth(setting.section, setting.subsection, setting.key, *nth, &safe).is_err()
        {
            // Rather show nothing than a secret.
            return HIDDEN.into();
        }
    }
    // Commented-out settings may hold old passwords.
    shown
        .as_str()
        .split_inclusive('\n')
        .map(|line| {
            let (text, end) = line.split_at(line.trim_end_matches(['\r', '\n']).len());
            if text.trim_start().starts_with([';', '#']) {
                format!("{}{end}", redact_line(text))
            } else {
                line.to_owned()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_keys_and_url_passwords_are_hidden_and_paths_are_not() {
        assert_eq!(redact_value("Password", "hunter2"), HIDDEN);
        assert_eq!(redact_value("Key", "/etc/ssl/key.pem"), "/etc/ssl/key.pem");
        assert_eq!(redact_value("ClientSecret", "abc"), HIDDEN);
        assert_eq!(
            redact_value("URL", "postgres://u:p@ss/w@db:5432/connect?sslmode=disable"),
            format!("postgres://u:{HIDDEN}@db:5432/connect?sslmode=disable")
        );
        assert_eq!(redact_value("URL", "postgres://u@db:5432/connect"), "postgres://u@db:5432/connect");
        assert_eq!(redact_value("Address", "https://connect.example.com"), "https://connect.example.com");
        assert_eq!(redact_value("SecretKeyEnabled", "true"), "true");
    }

    #[test]
    fn a_shown_file_keeps_its_lines_and_loses_its_secrets_also_in_comments() {
        let text = "[Postgres]\nURL = postgres://a:topsecret@h/db ; why\n;Password = topsecret\nPassword = \"topsecret\"\n";
        let shown = redact_gcfg(&Gcfg::parse(text).unwrap());
        assert!(!shown.contains("topsecret"), "{shown}");
        assert_eq!(shown.lines().count(), text.lines().count());
        assert!(shown.contains("; why"));
    }
}
