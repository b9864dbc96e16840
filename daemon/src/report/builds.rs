//! What became of each content item: from the files that the rebuild leaves in its state folder.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// The step whose folders are read.
pub const REBUILD: &str = "connect-api/rebuild";
/// No journal of builds is larger: beyond that the rest is left out.
const JOURNAL_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// How much of a log is shown.
const LOG_MAX_BYTES: u64 = 64 * 1024;
/// How much all logs may take together: the report stays a file that a browser opens.
const LOGS_MAX_BYTES: usize = 16 * 1024 * 1024;

/// One content item.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Build {
    /// Its id.
    pub guid: String,
    /// What people call it, where it is known.
    pub name: String,
    /// Whose it is, where it is known.
    pub owner: String,
    /// Whether it was built.
    pub built: bool,
    /// Why not.
    pub error: String,
    /// How often it failed.
    pub failures: u32,
    /// What its build printed; the end is left out when it is long.
    pub log: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
enum Line {
    Submitted {
        guid: String,
    },
    Built {
        guid: String,
    },
    Failed {
        guid: String,
        error: String,
    },
    #[serde(other)]
    Other,
}

/// An item as the rebuild listed it before it began.
#[derive(Deserialize)]
struct Item {
    guid: String,
    name: String,
    owner: String,
}

/// The items of a rebuild: those that failed first. `details` is what the step itself told.
#[must_use]
pub fn builds(folder: &Path, details: &Value) -> Vec<Build> {
    let mut all: BTreeMap<String, Build> = BTreeMap::new();
    let text = read(&folder.join("builds.jsonl"), JOURNAL_MAX_BYTES);
    for line in text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
        match line {
            Line::Submitted { guid } => drop(of(&mut all, &guid)),
            Line::Built { guid } => of(&mut all, &guid).built = true,
            Line::Failed { guid, error } => {
                let build = of(&mut all, &guid);
                build.failures += 1;
                build.error = error;
            }
            Line::Other => {}
        }
    }
    // One object after the other, without line ends; the last may be half-written.
    let listed = read(&folder.join("items"), JOURNAL_MAX_BYTES);
    for item in serde_json::Deserializer::from_str(&listed).into_iter::<Item>().map_while(Result::ok) {
        if let Some(build) = all.get_mut(&item.guid) {
            (build.name, build.owner) = (item.name, item.owner);
        }
    }
    for failed in details.get("failed").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| failed.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let build = of(&mut all, &text("guid"));
        build.name = text("name");
        build.owner = text("owner");
        build.error = text("error");
    }
    let mut builds: Vec<Build> = all.into_values().collect();
    builds.sort_by_key(|build| (build.built, std::cmp::Reverse(build.failures)));
    let mut room = LOGS_MAX_BYTES;
    for build in &mut builds {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let name: String = build.guid.chars().take(64).map(plain).collect();
        let log = read(&folder.join("logs").join(format!("{name}.log")), LOG_MAX_BYTES);
        if log.len() <= room {
            room -= log.len();
            build.log = log;
        } else {
            build.log = "(left out: all logs together are too long; they are in the state folder)".into();
        }
    }
    builds
}

fn of<'a>(all: &'a mut BTreeMap<String, Build>, guid: &str) -> &'a mut Build {
    all.entry(guid.to_owned()).or_insert_with(|| Build { guid: guid.to_owned(), ..Build::default() })
}

/// The beginning of a file; empty when there is none.
fn read(path: &Path, limit: u64) -> String {
    let mut bytes = Vec::new();
    let Ok(file) = std::fs::File::open(path) else { return String::new() };
    let _ = file.take(limit).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_failed_stand_first_with_their_logs() {
        let dir = tempfile::tempdir().unwrap();
        let journal = "{\"event\":\"began\",\"migration\":\"m\"}\n\
            {\"event\":\"submitted\",\"guid\":\"a\",\"bundle\":\"1\",\"task\":\"t\"}\n\
            {\"event\":\"built\",\"guid\":\"a\",\"bundle\":\"1\"}\n\
            {\"event\":\"failed\",\"guid\":\"b\",\"bundle\":\"1\",\"error\":\"no R\",\"again\":true}\nhalf a li";
        std::fs::write(dir.path().join("builds.jsonl"), journal).unwrap();
        let listed = "{\"guid\":\"a\",\"name\":\"Stock\",\"owner\":\"bob\",\"bundle\":\"1\"}\
            {\"guid\":\"c\",\"name\":\"Not begun\",\"owner\":\"bob\",\"bundle\":\"1\"}{\"guid\":";
        std::fs::write(dir.path().join("items"), listed).unwrap();
        std::fs::create_dir(dir.path().join("logs")).unwrap();
        std::fs::write(dir.path().join("logs/b.log"), "R 3 is missing").unwrap();
        let details = serde_json::json!({"failed": [{"guid": "b", "name": "Sales", "owner": "ann", "error": "no R 3"}]});
        let found = builds(dir.path(), &details);
        let [first, second] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (first.name.as_str(), first.error.as_str(), first.log.as_str()),
            ("Sales", "no R 3", "R 3 is missing")
        );
        assert!(!first.built && second.built);
        assert_eq!((second.name.as_str(), second.owner.as_str()), ("Stock", "bob"));
    }
}
