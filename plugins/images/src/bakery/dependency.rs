//! R, Python, Quarto and Positron: versions that are named, and constraints by which they are found.

use serde::Serialize;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The dependencies that the vendor's tool knows.
pub(super) const KNOWN: [&str; 4] = ["R", "python", "quarto", "positron"];

/// Versions that there are, by dependency, for constraints to choose from. The vendor's tool asks the net for them.
pub type Available = BTreeMap<String, Vec<String>>;

/// A dependency with its versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dependency {
    /// `R`, `python`, `quarto`, `positron`.
    pub dependency: String,
    /// At least one.
    pub versions: Vec<String>,
}

/// A dependency whose versions are found by a constraint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DependencyConstraint {
    /// `R`, `python`, `quarto`, `positron`.
    pub dependency: String,
    /// The constraint.
    pub constraint: Constraint,
    /// Whether releases that are not final count.
    pub prerelease: bool,
}

/// Which versions are taken: of each minor version the newest, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Constraint {
    /// Up to the newest there is.
    pub latest: Option<bool>,
    /// At most so many.
    pub count: Option<usize>,
    /// Not above this one.
    pub max: Option<String>,
    /// Not below this one.
    pub min: Option<String>,
}

impl Constraint {
    /// The versions that it takes of those that there are.
    #[must_use]
    pub fn choose(&self, available: &[String]) -> Vec<String> {
        let mut all: Vec<DependencyVersion> =
            available.iter().filter_map(|text| DependencyVersion::parse(text)).collect();
        all.sort_by(|a, b| b.cmp(a));
        if let Some(max) = self.max.as_deref().and_then(DependencyVersion::parse) {
            // `3.12` as an upper end means every 3.12.x.
            all.retain(|v| v.begins_like(&max) || *v <= max);
        }
        if let Some(min) = self.min.as_deref().and_then(DependencyVersion::parse) {
            all.retain(|v| *v >= min);
        }
        let mut minors = Vec::new();
        all.retain(|v| {
            let minor = (v.number(0), v.number(1));
            let new = !minors.contains(&minor);
            minors.push(minor);
            new
        });
        all.truncate(self.count.unwrap_or(usize::MAX));
        all.into_iter().map(|v| v.text).collect()
    }
}

impl std::fmt::Display for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        if let Some(min) = &self.min {
            parts.push(format!("from {min}"));
        }
        match &self.max {
            Some(max) => parts.push(format!("up to {max}")),
            None => parts.push("up to the latest".into()),
        }
        if let Some(count) = self.count {
            parts.push(format!("at most {count}"));
        }
        f.write_str(&parts.join(", "))
    }
}

/// A version of a dependency. `1.4` and `1.4.0` are equal; `1.4-rc1` comes before `1.4`, `1.4-2` and `1.4+2` behind it.
#[derive(Debug, Clone)]
pub struct DependencyVersion {
    text: String,
    numbers: Vec<u64>,
    /// -1 for releases that are not final, 1 for what is built again.
    rank: i8,
    suffix: String,
}

impl DependencyVersion {
    /// Reads `4.5.2`, `v1.8.27`, `2026.03.0-212`, `3.15.0rc1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bare = text.trim();
        let bare = bare.strip_prefix('v').unwrap_or(bare);
        let end = bare.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(bare.len());
        let (front, suffix) = bare.split_at(end);
        let numbers: Option<Vec<u64>> =
            front.trim_end_matches('.').split('.').map(|part| part.parse().ok()).collect();
        let numbers = numbers.filter(|numbers| !numbers.is_empty())?;
        let word = suffix.trim_start_matches(['-', '.', '_']);
        let rank = match word.chars().next() {
            None => 0,
            Some(c) if c.is_ascii_digit() || c == '+' => 1,
            Some(_) if word.starts_with("post") => 1,
            Some(c) if c.is_ascii_alphabetic() => -1,
            Some(_) => return None,
        };
        Some(DependencyVersion {
            text: text.trim().trim_start_matches('v').into(),
            numbers,
            rank,
            suffix: word.into(),
        })
    }

    fn number(&self, at: usize) -> u64 {
        self.numbers.get(at).copied().unwrap_or(0)
    }

    /// Whether it begins with the numbers of a version that names fewer than three.
    fn begins_like(&self, short: &DependencyVersion) -> bool {
        short.numbers.len() < 3 && (0..short.numbers.len()).all(|at| self.number(at) == short.number(at))
    }
}

impl Ord for DependencyVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        let length = self.numbers.len().max(other.numbers.len());
        let numbers = (0..length).map(|at| self.number(at)).cmp((0..length).map(|at| other.number(at)));
        let digits =
            |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>().parse::<u64>().ok();
        numbers
            .then(self.rank.cmp(&other.rank))
            .then_with(|| digits(&self.suffix).cmp(&digits(&other.suffix)))
            .then_with(|| self.suffix.cmp(&other.suffix))
    }
}

impl PartialOrd for DependencyVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for DependencyVersion {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for DependencyVersion {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_take_the_newest_of_each_minor_version() {
        let there: Vec<String> =
            ["4.3.0", "4.3.3", "4.4.1", "4.5.0", "4.5.3", "3.6.3", "4.6.0rc1"].map(String::from).to_vec();
        let c = |latest, count, min: Option<&str>, max: Option<&str>| Constraint {
            latest,
            count,
            min: min.map(Into::into),
            max: max.map(Into::into),
        };
        for (constraint, chosen) in [
            (c(Some(true), Some(1), None, None), vec!["4.6.0rc1"]),
            (c(Some(true), None, Some("4.4"), None), vec!["4.6.0rc1", "4.5.3", "4.4.1"]),
            (c(None, Some(2), None, Some("4.5")), vec!["4.5.3", "4.4.1"]),
            (c(None, None, Some("4.3"), Some("4.4.0")), vec!["4.3.3"]),
            (c(None, None, None, Some("3")), vec!["3.6.3"]),
        ] {
            assert_eq!(constraint.choose(&there), chosen, "{constraint}");
        }
    }

    #[test]
    fn versions_are_ordered_by_number_and_then_by_how_final_they_are() {
        let ordered = ["1.4rc1", "1.4.0", "1.4.0-2", "1.4.0-10", "1.4.1", "1.10", "2026.03.0-212"];
        for pair in ordered.windows(2) {
            let (a, b) =
                (DependencyVersion::parse(pair[0]).unwrap(), DependencyVersion::parse(pair[1]).unwrap());
            assert!(a < b, "{pair:?}");
        }
        assert_eq!(DependencyVersion::parse("1.4"), DependencyVersion::parse("v1.4.0"));
        for text in ["", "alpha", ".", "1..2", "1~x"] {
            assert_eq!(DependencyVersion::parse(text), None, "{text}");
        }
    }
}
