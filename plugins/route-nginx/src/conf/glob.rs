//! The file patterns of `include`, as glob(3) resolves them: `*`, `?` and `[…]` within one folder's names, sorted, and never a
//! name with a leading dot unless the pattern has one too.

use std::path::{Component, Path, PathBuf};

/// Whether `path` is a pattern rather than a name.
#[must_use]
pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// The existing files that `pattern` (absolute) names, sorted.
///
/// # Errors
/// When a folder exists and cannot be read.
pub fn files(pattern: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let mut next = Vec::new();
        let text = component.as_os_str().to_string_lossy();
        for base in found {
            if !matches!(component, Component::Normal(_)) || !is_pattern(&text) {
                next.push(base.join(component));
                continue;
            }
            let entries = match std::fs::read_dir(&base) {
                Ok(entries) => entries,
                Err(error) if is_absence(&error) => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let name = entry?.file_name();
                if matches(&text, &name.to_string_lossy()) {
                    next.push(base.join(name));
                }
            }
        }
        found = next;
    }
    found.retain(|path| path.symlink_metadata().is_ok());
    found.sort();
    Ok(found)
}

fn is_absence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// Whether the file name `name` fits `pattern`.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go back to: behind the last `*`, and the name's position one further each time.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match one(&pattern, p, name.get(n).copied()) {
            Step::Next(next) => (p, n) = (next, n + 1),
            Step::Star => {
                star = Some((p + 1, n));
                p += 1;
            }
            Step::No => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    (p, n) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|char| *char == '*'))
}

enum Step {
    Next(usize),
    Star,
    No,
}

fn one(pattern: &[char], p: usize, name: Option<char>) -> Step {
    let Some(name) = name else { return Step::No };
    match pattern.get(p) {
        Some('*') => Step::Star,
        Some('?') => Step::Next(p + 1),
        Some('[') => match class(pattern, p, name) {
            Some((true, next)) => Step::Next(next),
            Some((false, _)) => Step::No,
            None if name == '[' => Step::Next(p + 1),
            None => Step::No,
        },
        Some('\\') => match pattern.get(p + 1) {
            Some(char) if *char == name => Step::Next(p + 2),
            _ => Step::No,
        },
        Some(char) if *char == name => Step::Next(p + 1),
        _ => Step::No,
    }
}

/// Whether `name` is in the class that opens at `p`, and where the pattern goes on. `None` when the class has no end.
fn class(pattern: &[char], p: usize, name: char) -> Option<(bool, usize)> {
    let mut at = p + 1;
    let inverted = matches!(pattern.get(at), Some('!' | '^'));
    if inverted {
        at += 1;
    }
    let first = at;
    let mut hit = false;
    loop {
        let char = *pattern.get(at)?;
        if char == ']' && at > first {
            return Some((hit != inverted, at + 1));
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some('-'), Some(end)) if *end != ']' => {
                hit |= (char..=*end).contains(&name);
                at += 3;
            }
            _ => {
                hit |= char == name;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_patterns_as_in_a_shell() {
        let fits = [
            ("*", "connect"),
            ("*.conf", "a.conf"),
            ("*.conf", "a.b.conf"),
            ("a*b*c", "axxbyyc"),
            ("?.conf", "a.conf"),
            ("[ab]*.conf", "b1.conf"),
            ("[!a]*", "b"),
            ("[0-9][0-9]-*", "10-tls"),
            (".*", ".hidden"),
            ("\\*", "*"),
        ];
        for (pattern, name) in fits {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        let fits_not = [
            ("*", ".hidden"),
            ("*.conf", "a.conf.bak"),
            ("?.conf", ".conf"),
            ("[!a]*", "a"),
            ("a*b", "ac"),
            ("[a", "a"),
            ("", "a"),
        ];
        for (pattern, name) in fits_not {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn files_come_sorted_and_without_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.conf", "a.conf", ".c.conf", "d.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = files(&dir.path().join("*.conf")).unwrap();
        assert_eq!(found, [dir.path().join("a.conf"), dir.path().join("b.conf")]);
        assert!(files(&dir.path().join("absent/*.conf")).unwrap().is_empty());
        assert!(files(&dir.path().join("absent.conf")).unwrap().is_empty());
    }
}
