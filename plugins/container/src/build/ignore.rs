//! What a build leaves out of its context: the rules of `.dockerignore` and `.containerignore`.
//!
//! <https://docs.docker.com/build/concepts/context/#dockerignore-files>

use regex::Regex;

/// No ignore file has more rules.
const RULES_MAX: usize = 1000;

/// The rules of one file, in its order.
#[derive(Debug, Default)]
pub struct Ignore(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    keeps: bool,
    fits: Regex,
}

impl Ignore {
    /// Reads the rules.
    ///
    /// # Errors
    /// With the line that cannot be used, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim().trim_start_matches('\u{feff}');
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why: &str| format!("line {}, `{line}`: {why}", number + 1);
            if rules.len() >= RULES_MAX {
                return Err(wrong(&format!("more than {RULES_MAX} rules")));
            }
            let (keeps, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let parts: Vec<&str> =
                pattern.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
            if parts.contains(&"..") {
                return Err(wrong("a rule cannot leave the folder"));
            }
            if parts.is_empty() {
                continue;
            }
            let fits = expression(&parts.join("/")).map_err(|why| wrong(&why))?;
            rules.push(Rule { keeps, fits });
        }
        Ok(Ignore(rules))
    }

    /// Whether a path below the context is left out. The last rule that fits it or a folder above it counts.
    #[must_use]
    pub fn leaves_out(&self, path: &str) -> bool {
        let fits = |rule: &Rule| {
            rule.fits.is_match(path)
                || path
                    .match_indices('/')
                    .any(|(at, _)| path.get(..at).is_some_and(|p| rule.fits.is_match(p)))
        };
        self.0.iter().rev().find(|rule| fits(rule)).is_some_and(|rule| !rule.keeps)
    }

    /// Whether something below a folder that is left out may be kept all the same.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.0.iter().any(|rule| rule.keeps)
    }
}

fn expression(pattern: &str) -> Result<Regex, String> {
    let mut text = String::from("^");
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let mut step = c.len_utf8();
        match c {
            '*' if rest.starts_with("**/") => {
                text.push_str("(?:.*/)?");
                step = 3;
            }
            '*' if rest.starts_with("**") => {
                text.push_str(".*");
                step = 2;
            }
            '*' => text.push_str("[^/]*"),
            '?' => text.push_str("[^/]"),
            '[' => return Err("sets of characters (`[…]`) are not read; write one rule for each".into()),
            '\\' => {
                let next = rest.chars().nth(1).ok_or("it ends with `\\`")?;
                text.push_str(&regex::escape(&next.to_string()));
                step = 1 + next.len_utf8();
            }
            c => text.push_str(&regex::escape(&c.to_string())),
        }
        rest = rest.get(step..).unwrap_or_default();
    }
    text.push('$');
    Regex::new(&text).map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn paths_are_left_out_as_docker_leaves_them_out() {
        for (rules, path, out) in [
            ("", "a", false),
            ("# a\n\n", "a", false),
            ("a", "a", true),
            ("/a/", "a", true),
            ("./a", "a", true),
            ("a", "a/b/c", true),
            ("a", "b/a", false),
            ("*/a", "b/a", true),
            ("*/a", "b/c/a", false),
            ("**/a", "a", true),
            ("**/a", "b/c/a", true),
            ("**", "b/c", true),
            ("a/**", "a/b", true),
            ("*.log", "x.log", true),
            ("*.log", "d/x.log", false),
            ("**/*.log", "d/x.log", true),
            ("?.txt", "a.txt", true),
            ("?.txt", "ab.txt", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("a.b", "axb", false),
            ("*\n!keep", "keep", false),
            ("*\n!keep", "other", true),
            ("*\n!keep", "keep/inside", false),
            ("!keep\n*", "keep", true),
        ] {
            assert_eq!(Ignore::parse(rules).unwrap().leaves_out(path), out, "{rules:?} {path}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        for (rules, why) in [("a\n[ab]", "line 2"), ("../a", "leave the folder"), ("a\\", "ends with")] {
            let error = Ignore::parse(rules).unwrap_err();
            assert!(error.contains(why), "{rules}: {error}");
        }
    }
}
