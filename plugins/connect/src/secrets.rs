//! Which settings hold secrets, and how they are shown without them.

use crate::gcfg::Gcfg;
use std::ops::Range;

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
    let path = value.starts_with('/') && may_name_a_file(name);
    if looks_secret(name) && !path && !switch {
        return HIDDEN.into();
    }
    redact_urls(value)
}

/// Whether a setting of this name may hold the path of a file with a secret. Of other names a value that begins with `/` is a secret
/// that happens to.
fn may_name_a_file(name: &str) -> bool {
    let name = name.to_lowercase();
    name == "key"
        || ["_key", ".key", "sslkey", "file", "path", "dir", "directory", "folder"]
            .iter()
            .any(|end| name.ends_with(end))
}

/// Hides the secrets of every URL in a text: see [`secrets_in_url`].
#[must_use]
pub fn redact_urls(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let after = rest.get(at..).unwrap_or_default();
        let end = at + after.find([' ', '\t', '\n', '"', '\'']).unwrap_or(after.len());
        let (url, tail) = rest.split_at(end);
        let mut told = 0;
        for secret in secrets_in_url(url) {
            shown.push_str(url.get(told..secret.start).unwrap_or_default());
            shown.push_str(HIDDEN);
            told = secret.end;
        }
        shown.push_str(url.get(told..).unwrap_or_default());
        rest = tail;
    }
    shown.push_str(rest);
    shown
}

/// Where secrets stand in `scheme://user:password@host/path?password=…`, as bytes of `url`, in their order.
#[must_use]
pub fn secrets_in_url(url: &str) -> Vec<Range<usize>> {
    let Some(authority_at) = url.find("://").map(|scheme| scheme + 3) else { return Vec::new() };
    let query_at = url.find('?').filter(|at| *at >= authority_at).unwrap_or(url.len());
    let mut found = Vec::new();
    // A password may hold `/` or `@` unescaped: the last `@` before the query ends it.
    let authority = url.get(authority_at..query_at).unwrap_or_default();
    if let Some((user_info, _)) = authority.rsplit_once('@')
        && let Some((_, password)) = user_info.split_once(':')
        && !password.is_empty()
    {
        let end = authority_at + user_info.len();
        found.push(end - password.len()..end);
    }
    let mut at = query_at;
    for part in url.get(query_at..).unwrap_or_default().split_inclusive(['?', '&']) {
        let pair = part.trim_end_matches(['?', '&']);
        if let Some((name, value)) = pair.split_once('=')
            && looks_secret(name)
            && !value.is_empty()
            // Written with its slashes or with `%2F`.
            && !(may_name_a_file(name) && value.starts_with(['/', '%']))
        {
            found.push(at + pair.len() - value.len()..at + pair.len());
        }
        at += part.len();
    }
    found
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
    // Commented-out settings may hold old passwords, and so may what is said behind a setting.
    shown
        .as_str()
        .split_inclusive('\n')
        .map(|line| {
            let (text, end) = line.split_at(line.trim_end_matches(['\r', '\n']).len());
            let (setting, comment) = text.split_at(comment_at(text));
            format!("{setting}{}{end}", redact_line(comment))
        })
        .collect()
}

/// Where the comment of a line begins: at the first `;` or `#` outside of quotes.
fn comment_at(line: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, letter) in line.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ';' | '#' if !quoted => return at,
            _ => {}
        }
    }
    line.len()
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
        for name in ["Password", "ClientSecret", "BindPassword", "CONNECT_POSTGRES_PASSWORD", "APIKey"] {
            assert_eq!(redact_value(name, "/base64+begins/so=="), HIDDEN, "{name}");
        }
        for name in ["PasswordFile", "CONNECT_HTTPS_KEY", "SSLKey", "TokenPath"] {
            assert_eq!(redact_value(name, "/etc/connect/secret"), "/etc/connect/secret", "{name}");
        }
    }

    #[test]
    fn secrets_in_the_query_of_a_url_are_hidden_and_paths_are_not() {
        for (url, shown) in [
            (
                "postgres://db/connect?user=c&password=hunter2&sslmode=require",
                format!("postgres://db/connect?user=c&password={HIDDEN}&sslmode=require"),
            ),
            (
                "postgres://u:pw@db/c?sslkey=/etc/k.pem&sslpassword=pw",
                format!("postgres://u:{HIDDEN}@db/c?sslkey=/etc/k.pem&sslpassword={HIDDEN}"),
            ),
            ("postgres://db/c?password=", "postgres://db/c?password=".to_owned()),
            ("postgres://u:1/s@s@db/c", format!("postgres://u:{HIDDEN}@db/c")),
            ("postgres://u:@db:5432/c", "postgres://u:@db:5432/c".to_owned()),
            ("https://h/x?a=b&&c", "https://h/x?a=b&&c".to_owned()),
        ] {
            assert_eq!(redact_urls(url), shown);
            assert_eq!(is_secret("URL", url), shown != url);
        }
    }

    #[test]
    fn a_shown_file_keeps_its_lines_and_loses_its_secrets_also_in_comments() {
        let text = "[Postgres]\nURL = postgres://a:topsecret@h/db ; why\n;Password = topsecret\nPassword = \"topsecret\"\n\
                    Provider = \"a;b\" # was postgres://a:topsecret@h/db\nX = 1 ; Password = topsecret\n";
        let shown = redact_gcfg(&Gcfg::parse(text).unwrap());
        assert!(!shown.contains("topsecret"), "{shown}");
        assert_eq!(shown.lines().count(), text.lines().count());
        assert!(shown.contains("; why") && shown.contains("\"a;b\" # was"), "{shown}");
    }
}
