//! Which content of a server will not find its interpreter in an image.

use connect_migrator_connect::api::ContentItem;
use connect_migrator_connect::container::ImageFacts;
use connect_migrator_connect::gcfg::Gcfg;
use connect_migrator_sdk::Finding;

/// How many items a finding names; the rest is counted.
const NAMED_MAX: usize = 50;

/// How near an interpreter must come to the version that content asks for. `R.VersionMatching` and its like:
/// <https://docs.posit.co/connect/admin/appendix/configuration/>
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Matching {
    /// The same major and minor version.
    #[default]
    MajorMinor,
    /// The same version.
    Exact,
    /// Any version of the same major version; the nearest is taken.
    Nearest,
}

impl Matching {
    /// What a configuration file says for a language. Without a word the strict reading: a rebuild then fails with "no compatible
    /// Local environment" where the minor version differs.
    #[must_use]
    pub fn of(gcfg: &Gcfg, section: &str) -> Self {
        match gcfg.get(section, None, "VersionMatching").map(|text| text.to_lowercase()).as_deref() {
            Some("exact") => Matching::Exact,
            Some("nearest") => Matching::Nearest,
            _ => Matching::MajorMinor,
        }
    }

    fn suits(self, wanted: &str, have: &str) -> bool {
        let parts = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        let (wanted, have) = (parts(wanted), parts(have));
        let same = |count: usize| wanted.iter().take(count).eq(have.iter().take(count));
        match self {
            Matching::Exact => wanted == have,
            Matching::MajorMinor => same(2),
            Matching::Nearest => same(1),
        }
    }
}

/// The matching of each language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Matchings {
    /// R.
    pub r: Matching,
    /// Python.
    pub python: Matching,
    /// Quarto.
    pub quarto: Matching,
}

impl Matchings {
    /// What a configuration file says.
    #[must_use]
    pub fn of(gcfg: &Gcfg) -> Self {
        Matchings {
            r: Matching::of(gcfg, "R"),
            python: Matching::of(gcfg, "Python"),
            quarto: Matching::of(gcfg, "Quarto"),
        }
    }
}

/// Collects content items that will not find an interpreter.
#[derive(Debug, Clone)]
pub struct Needs {
    image: ImageFacts,
    matchings: Matchings,
    lost: Vec<String>,
    seen: usize,
}

impl Needs {
    /// For an image.
    #[must_use]
    pub fn new(image: ImageFacts, matchings: Matchings) -> Self {
        Needs { image, matchings, lost: Vec::new(), seen: 0 }
    }

    /// Looks at one item. Items that were never deployed need nothing.
    pub fn look(&mut self, item: &ContentItem) {
        if item.bundle_id.is_none() {
            return;
        }
        self.seen += 1;
        let languages = [
            ("R", &item.r_version, &self.image.r, self.matchings.r),
            ("Python", &item.py_version, &self.image.python, self.matchings.python),
            ("Quarto", &item.quarto_version, &self.image.quarto, self.matchings.quarto),
        ];
        let missing: Vec<String> = languages
            .into_iter()
            .filter_map(|(language, wanted, have, matching)| {
                let wanted = wanted.as_deref()?;
                (!have.iter().any(|have| matching.suits(wanted, have)))
                    .then(|| format!("{language} {wanted}"))
            })
            .collect();
        if !missing.is_empty() {
            let owner = match item.owner_label() {
                "" => String::new(),
                owner => format!(" of {owner}"),
            };
            self.lost.push(format!("{}{owner}: {}", item.label(), missing.join(", ")));
        }
    }

    /// The items that will not find an interpreter: name, owner and what they need.
    #[must_use]
    pub fn lost(&self) -> &[String] {
        &self.lost
    }

    /// As a finding.
    #[must_use]
    pub fn finding(&self, image: &str) -> Finding {
        let has = |name: &str, versions: &[String]| match versions {
            [] => format!("no {name}"),
            versions => format!("{name} {}", versions.join(", ")),
        };
        let has =
            [has("R", &self.image.r), has("Python", &self.image.python), has("Quarto", &self.image.quarto)];
        let has = format!("{image} has {}", has.join("; "));
        if self.lost.is_empty() {
            return Finding::ok(
                "content-interpreters",
                format!("{has}; all {} content items find theirs", self.seen),
            );
        }
        let mut named: Vec<String> = self.lost.iter().take(NAMED_MAX).cloned().collect();
        if self.lost.len() > NAMED_MAX {
            named.push(format!("… and {} more", self.lost.len() - NAMED_MAX));
        }
        Finding::warning(
            "content-interpreters",
            format!(
                "{has}; {} of {} content items will not find their interpreter:\n  {}",
                self.lost.len(),
                self.seen,
                named.join("\n  ")
            ),
            "build an image with these versions (`image = { build = … }`), or tell the owners to deploy again with what the image has; until then these items fail their rebuild",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(title: &str, r: Option<&str>, python: Option<&str>, quarto: Option<&str>) -> ContentItem {
        serde_json::from_value(serde_json::json!({
            "guid": title, "title": title, "bundle_id": "1", "owner": {"username": "ann"},
            "r_version": r, "py_version": python, "quarto_version": quarto,
        }))
        .unwrap()
    }

    fn facts() -> ImageFacts {
        ImageFacts { r: vec!["4.5.3".into()], python: vec!["3.14.3".into()], ..ImageFacts::default() }
    }

    #[test]
    fn items_without_an_interpreter_are_named_with_owner_and_version() {
        let mut needs = Needs::new(facts(), Matchings::default());
        needs.look(&item("same", Some("4.5.3"), Some("3.14.0"), None));
        needs.look(&item("old R", Some("4.4.1"), None, None));
        needs.look(&item("both", Some("3.6.3"), Some("3.11.1"), None));
        needs.look(&item("report", None, None, Some("1.4.557")));
        let mut never = item("never deployed", Some("1.0.0"), None, None);
        never.bundle_id = None;
        needs.look(&never);
        assert_eq!(
            needs.lost(),
            ["old R of ann: R 4.4.1", "both of ann: R 3.6.3, Python 3.11.1", "report of ann: Quarto 1.4.557"]
        );
        let finding = needs.finding("posit/connect:1");
        assert!(
            finding.text.contains("3 of 4 content items") && finding.text.contains("no Quarto"),
            "{finding:?}"
        );
    }

    #[test]
    fn how_near_a_version_must_come_is_the_configurations_word() {
        let gcfg =
            Gcfg::parse(b"[R]\nVersionMatching = exact\n[Python]\nVersionMatching = Nearest\n").unwrap();
        let mut needs = Needs::new(facts(), Matchings::of(&gcfg));
        needs.look(&item("a", Some("4.5.2"), None, None));
        needs.look(&item("b", None, Some("3.9.5"), None));
        needs.look(&item("c", None, Some("2.7.18"), None));
        assert_eq!(needs.lost(), ["a of ann: R 4.5.2", "c of ann: Python 2.7.18"]);
    }
}
