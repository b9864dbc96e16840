//! The apt sources from which the guest is built: the host's own, with the suite changed, so that a site's mirror
//! is honoured. Reads the host's files, never writes one.

use std::fmt::Write as _;
use std::path::Path;

use crate::{Error, Suite};

/// Where apt keeps its sources.
const APT: &str = "/etc/apt";

/// The deb822 text of the host's Debian sources, pointed at `suite`. `None` when the host has none that can be
/// rewritten (it is not a Debian, say): mmdebstrap then uses its own default mirror.
pub fn for_guest(suite: Suite) -> Result<Option<String>, Error> {
    let release = read(Path::new("/etc/os-release"))?;
    let Some(codename) = host_codename(&release) else { return Ok(None) };
    let mut files = vec![Path::new(APT).join("sources.list")];
    if let Ok(folder) = std::fs::read_dir(Path::new(APT).join("sources.list.d")) {
        files.extend(folder.filter_map(|entry| entry.ok().map(|e| e.path())));
    }
    files.sort();
    let mut text = String::new();
    for file in files {
        let rewritten = match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => deb822(&read(&file)?, &codename, suite),
            Some("list") if file.exists() => one_line(&read(&file)?, &codename, suite),
            _ => continue,
        };
        text.push_str(&rewritten);
    }
    Ok((!text.is_empty()).then_some(text))
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::io("read", path, source))
}

/// The codename of a Debian host.
fn host_codename(os_release: &str) -> Option<String> {
    let value = |key: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|v| v.trim_matches('"').to_owned())
    };
    (value("ID")? == "debian").then(|| value("VERSION_CODENAME"))?
}

/// `bookworm-updates` becomes `trixie-updates`; suites that a guest does not need (backports, other archives) go.
fn suites(names: &str, codename: &str, suite: Suite) -> Vec<String> {
    names
        .split_whitespace()
        .filter_map(|name| match name.strip_prefix(codename)? {
            rest @ ("" | "-updates" | "-security") => Some(format!("{suite}{rest}")),
            _ => None,
        })
        .collect()
}

/// Rewrites the stanzas of a `.sources` file and leaves out those that are disabled or not of this Debian.
fn deb822(text: &str, codename: &str, suite: Suite) -> String {
    let mut out = String::new();
    for stanza in text.split("\n\n") {
        let lines: Vec<&str> =
            stanza.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).collect();
        let field = |name: &str| {
            lines.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let wanted = field("Types").is_some_and(|types| types.split_whitespace().any(|t| t == "deb"))
            && !field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
        let suites = suites(field("Suites").unwrap_or_default(), codename, suite);
        if !wanted || suites.is_empty() {
            continue;
        }
        for line in lines {
            let key = line.split_once(':').map(|(key, _)| key.to_ascii_lowercase());
            let line = match key.as_deref() {
                Some("suites") => format!("Suites: {}", suites.join(" ")),
                Some("types") => "Types: deb".to_owned(),
                _ => line.to_owned(),
            };
            out.push_str(&line);
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

/// The same for the older format, `deb [options] uri suite component…`, as deb822.
fn one_line(text: &str, codename: &str, suite: Suite) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (Some(uri), Some(name)) = (words.next(), words.next()) else { continue };
        let suites = suites(name, codename, suite);
        let components = words.take_while(|word| !word.starts_with('#')).collect::<Vec<_>>().join(" ");
        if suites.is_empty() {
            continue;
        }
        let _ =
            writeln!(out, "Types: deb\nURIs: {uri}\nSuites: {}\nComponents: {components}", suites.join(" "));
        if let Some(key) = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")) {
            let _ = writeln!(out, "Signed-By: {key}");
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deb822_stanza_keeps_its_mirror_and_key_and_changes_its_suites() {
        let host = "# a comment\nTypes: deb deb-src\nURIs: http://mirror.example/debian\n\
                    Suites: bookworm bookworm-updates bookworm-backports\nComponents: main contrib\n\
                    Signed-By: /k.gpg\n";
        assert_eq!(
            deb822(host, "bookworm", Suite::Trixie),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie trixie-updates\n\
             Components: main contrib\nSigned-By: /k.gpg\n\n"
        );
    }

    #[test]
    fn a_key_written_into_the_stanza_stays_with_it() {
        let host = "Types: deb\nURIs: http://m\nSuites: trixie\nComponents: main\nSigned-By:\n -----BEGIN\n .\n AB:C\n";
        assert!(deb822(host, "trixie", Suite::Bookworm).ends_with("Signed-By:\n -----BEGIN\n .\n AB:C\n\n"),);
    }

    #[test]
    fn disabled_foreign_backports_and_source_only_stanzas_are_left_out() {
        for host in [
            "Types: deb\nURIs: http://m\nSuites: bookworm\nEnabled: no\n",
            "Types: deb\nURIs: http://m\nSuites: nodistro\n",
            "Types: deb\nURIs: http://m\nSuites: bookworm-backports\n",
            "Types: deb-src\nURIs: http://m\nSuites: bookworm\n",
        ] {
            assert_eq!(deb822(host, "bookworm", Suite::Trixie), "", "{host}");
        }
    }

    #[test]
    fn one_line_sources_become_deb822() {
        let host = "# deb http://no bookworm main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://m/debian-security bookworm-security main # c\n\
                    deb https://other stable main\n";
        assert_eq!(
            one_line(host, "bookworm", Suite::Trixie),
            "Types: deb\nURIs: http://m/debian-security\nSuites: trixie-security\nComponents: main\n\
             Signed-By: /k.gpg\n\n"
        );
    }

    #[test]
    fn only_a_debian_has_a_codename_to_replace() {
        let debian = "ID=debian\nVERSION_CODENAME=bookworm\n";
        assert_eq!(host_codename(debian).as_deref(), Some("bookworm"));
        assert_eq!(host_codename("ID=ubuntu\nVERSION_CODENAME=noble\n"), None);
        assert_eq!(host_codename("ID=\"debian\"\n"), None);
    }
}
