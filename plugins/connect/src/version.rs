//! Versions of Connect.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// A version: `2026.03.1`, or before 2021 `1.9.0.1`. Two are equal, and compare, by their first three parts: packages, images and
/// the server itself append different things to the same release.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    parts: [u32; 3],
    fourth: Option<u32>,
}

/// Text that is not a version of Connect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a version of Connect; expected something like 2026.03.1")]
pub struct VersionError {
    /// The text.
    pub text: String,
}

impl Version {
    /// Reads `2026.03.1`, `2026.03.1~ubuntu22`, `2026.03.1-1`, `v2023.10.0-103-gabc`, `1.9.0.1`, `2024.11.0.el9.x86_64`, an image tag
    /// such as `2026.03.1-ubuntu-24.04-std`.
    ///
    /// # Errors
    /// When the text does not start with three numbers.
    pub fn parse(text: &str) -> Result<Self, VersionError> {
        let bare = text.trim();
        let bare = bare.strip_prefix(['v', 'V']).unwrap_or(bare);
        let end = bare.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(bare.len());
        let error = || VersionError { text: text.trim().chars().take(80).collect() };
        let mut numbers = Vec::new();
        // `2024.11.0.el9`: the part before a letter is not a number of ours if it touches the letter.
        for part in bare.get(..end).unwrap_or_default().split('.').take(4) {
            if part.is_empty() {
                break;
            }
            numbers.push(part.parse::<u32>().map_err(|_| error())?);
        }
        match numbers.as_slice() {
            [a, b, c, rest @ ..] => Ok(Version { parts: [*a, *b, *c], fourth: rest.first().copied() }),
            _ => Err(error()),
        }
    }

    /// Finds the first version in a longer text: the output of `connect --version`, the tag `jammy-2023.07.0`.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        text.split(|c: char| c.is_whitespace() || matches!(c, '-' | '_' | ',' | ':' | '(' | ')' | '/'))
            .filter(|word| word.trim_start_matches(['v', 'V']).starts_with(|c: char| c.is_ascii_digit()))
            .find_map(|word| Version::parse(word).ok())
    }

    /// Whether both are builds of the same release. Development builds of one release count as that release.
    #[must_use]
    pub fn same_release(&self, other: &Version) -> bool {
        self.parts == other.parts
    }

    /// The first three numbers.
    #[must_use]
    pub fn parts(&self) -> [u32; 3] {
        self.parts
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c] = self.parts;
        if a >= 2000 {
            return write!(f, "{a}.{b:02}.{c}");
        }
        write!(f, "{a}.{b}.{c}")?;
        self.fourth.map_or(Ok(()), |d| write!(f, ".{d}"))
    }
}

impl std::str::FromStr for Version {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Version::parse(text)
    }
}

impl TryFrom<String> for Version {
    type Error = VersionError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Version::parse(&text)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.same_release(other)
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts.cmp(&other.parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_packages_images_and_servers_write_is_read() {
        for (text, shown) in [
            ("2026.03.1", "2026.03.1"),
            ("2026.3.1", "2026.03.1"),
            ("2026.03.1~ubuntu22", "2026.03.1"),
            ("2026.03.1-1", "2026.03.1"),
            ("v2023.10.0-103-gabc", "2023.10.0"),
            ("2023.11.0-dev+103-g11242ee129", "2023.11.0"),
            ("1.9.0.1", "1.9.0.1"),
            ("2024.11.0.el9.x86_64", "2024.11.0"),
            ("2026.03.1-ubuntu-24.04-std", "2026.03.1"),
        ] {
            assert_eq!(Version::parse(text).unwrap().to_string(), shown, "{text}");
        }
        for text in ["", "latest", "jammy", "2026.03", "2026", "ubuntu-24.04", "2026.03.x"] {
            assert!(Version::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_version_is_found_in_longer_text() {
        for (text, shown) in [
            ("Posit Connect v2026.03.1\n", "2026.03.1"),
            ("jammy-2023.07.0", "2023.07.0"),
            ("ubuntu2204-2025.12.1", "2025.12.1"),
            ("ubuntu-24.04", ""),
            ("latest", ""),
        ] {
            assert_eq!(Version::find(text).map(|v| v.to_string()).unwrap_or_default(), shown, "{text}");
        }
    }

    #[test]
    fn only_the_first_three_parts_count() {
        let v = |text| Version::parse(text).unwrap();
        assert!(v("2026.03.1-1").same_release(&v("v2026.03.1-dev")));
        assert!(v("1.9.0.1") < v("2021.08.0") && v("2026.03.1") < v("2026.12.0"));
        assert!(!v("2026.03.1").same_release(&v("2026.03.2")));
    }
}
