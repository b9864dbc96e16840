//! From what the runbook says to what is handed to the engine.

use crate::build::settings::{BakeryBuild, BuildImage, FileBuild};
use crate::settings::VersionChoice;
use connect_migrator_connect::version::Version;
use connect_migrator_images::bakery::{self, Available, Bakery, Image, Kind, Target};
use connect_migrator_sdk::Finding;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// No Containerfile is larger.
const CONTAINERFILE_MAX_BYTES: u64 = 1024 * 1024;
/// How many of what there is are named.
const NAMED_MAX: usize = 10;

/// What is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The folder that it copies from.
    pub context: PathBuf,
    /// The Containerfile.
    pub containerfile: PathBuf,
    /// The stage.
    pub target: Option<String>,
    /// Values for its `ARG`s.
    pub args: BTreeMap<String, String>,
    /// Labels that the image gets besides its own.
    pub labels: BTreeMap<String, String>,
    /// The version that it will have, when that is known.
    pub version: Option<Version>,
    /// The images that it begins from.
    pub bases: Vec<String>,
    /// In words.
    pub what: String,
    /// Secrets that the build may use and does not get.
    pub secrets: Vec<String>,
}

fn blocker(key: &str, text: impl Into<String>, remedy: &str) -> Box<Finding> {
    Box::new(Finding::blocker(key, text.into(), remedy))
}

/// Reads what the runbook names. `source` is the version that runs on this host.
///
/// # Errors
/// A blocker.
pub fn resolve(build: &BuildImage, source: Option<Version>, platform: &str) -> Result<Recipe, Box<Finding>> {
    match build {
        BuildImage::Bakery(build) => of_bakery(build, source, platform),
        BuildImage::File(build) => of_file(build),
    }
}

fn of_file(build: &FileBuild) -> Result<Recipe, Box<Finding>> {
    let containerfile = canonical(&build.containerfile)?;
    let context = match &build.context {
        Some(context) => context.canonicalize().map_err(|error| {
            blocker("build-context", format!("{}: {error}", context.display()), "correct `context`")
        })?,
        None => containerfile.parent().unwrap_or(Path::new("/")).to_owned(),
    };
    let text = text(&containerfile)?;
    finish(Recipe {
        what: format!("{} in {}", containerfile.display(), context.display()),
        bases: bases(&text, &build.args),
        context,
        containerfile,
        target: build.target.clone(),
        args: build.args.clone(),
        labels: BTreeMap::new(),
        version: None,
        secrets: Vec::new(),
    })
}

fn of_bakery(build: &BakeryBuild, source: Option<Version>, platform: &str) -> Result<Recipe, Box<Finding>> {
    let path = &build.bakery;
    let read = bakery::read(path)
        .map_err(|error| blocker("build-bakery", error.to_string(), "correct `bakery`, or that file"))?;
    let wanted = match build.version {
        Some(VersionChoice::Exactly(version)) => version,
        _ => source.ok_or_else(|| {
            blocker(
                "build-version",
                "it is not known which version runs on this host, and so not which to build",
                "name the `version` in `build`",
            )
        })?,
    };
    let image = image(&read.bakery, build)?;
    let targets = read
        .bakery
        .targets(&Available::new())
        .map_err(|why| blocker("build-bakery", format!("{}: {why}", path.display()), "correct that file"))?;
    let of_image: Vec<&Target> =
        targets.iter().filter(|t| t.image == image.name && t.kind == Kind::Version).collect();
    let of_version: Vec<&Target> = of_image
        .iter()
        .filter(|t| Version::parse(&t.version).is_ok_and(|version| version.same_release(&wanted)))
        .copied()
        .collect();
    if of_version.is_empty() {
        let mut names: Vec<&str> = of_image.iter().map(|t| t.version.as_str()).collect();
        names.dedup();
        return Err(blocker(
            "build-version",
            format!("{} does not define Connect {wanted}; it has {}", path.display(), listed(&names)),
            "bring that file to a state that has this version, or build from a Containerfile of your own",
        ));
    }
    let target = fitting(build, image, &of_version)?;
    if !target.platforms.iter().any(|has| has == platform) {
        return Err(blocker(
            "image-platform",
            format!(
                "{} defines {} for {}, and this machine is {platform}",
                path.display(),
                target.version,
                target.platforms.join(", ")
            ),
            "choose another `os`, or use a machine of another platform",
        ));
    }
    let folder = canonical(path)?.parent().unwrap_or(Path::new("/")).to_owned();
    let containerfile = canonical(&folder.join(&target.containerfile))?;
    let text = text(&containerfile)?;
    finish(Recipe {
        what: format!(
            "{} {} ({}) of {}",
            target.image,
            target.version,
            [target.variant.as_deref(), target.os.as_deref()]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(", "),
            path.display()
        ),
        bases: bases(&text, &target.build_args),
        context: folder,
        containerfile,
        target: target.build_target.clone(),
        args: target.build_args.clone(),
        labels: labels(&read.bakery, image, target),
        version: Some(wanted),
        secrets: image.build_secrets.iter().map(|secret| secret.id.clone()).collect(),
    })
}

fn image<'b>(bakery: &'b Bakery, build: &BakeryBuild) -> Result<&'b Image, Box<Finding>> {
    let named = build.image.as_deref();
    let found = match (named, bakery.images.as_slice()) {
        (None, [only]) => Some(only),
        (name, all) => all.iter().find(|image| image.name == name.unwrap_or("connect")),
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = bakery.images.iter().map(|image| image.name.as_str()).collect();
        blocker(
            "build-bakery",
            format!(
                "{} defines no image `{}`; it has {}",
                build.bakery.display(),
                named.unwrap_or("connect"),
                listed(&names)
            ),
            "name one of them with `image` in `build`",
        )
    })
}

/// The variant and distribution that are wanted, else the primary ones.
fn fitting<'t>(build: &BakeryBuild, image: &Image, all: &[&'t Target]) -> Result<&'t Target, Box<Finding>> {
    let same = |wanted: &str, names: [&str; 3]| names.iter().any(|name| name.eq_ignore_ascii_case(wanted));
    let variant = match &build.variant {
        Some(wanted) => image.variants.iter().find(|v| same(wanted, [&v.name, &v.tag_name, &v.extension])),
        None => image
            .variants
            .iter()
            .find(|v| same("std", [&v.name, &v.tag_name, &v.extension]))
            .or_else(|| image.variants.iter().find(|v| v.primary))
            .or(image.variants.first()),
    };
    let oses: Vec<_> = image
        .versions
        .iter()
        .filter(|version| all.first().is_some_and(|target| target.version == version.name))
        .flat_map(|version| &version.os)
        .collect();
    let os = match &build.os {
        Some(wanted) => oses.iter().find(|os| same(wanted, [&os.name, &os.tag_name, &os.extension])),
        None => oses.iter().find(|os| os.primary).or(oses.first()),
    };
    let missing = (build.variant.is_some() && variant.is_none()) || (build.os.is_some() && os.is_none());
    let found = all.iter().find(|target| {
        target.variant.as_deref() == variant.map(|v| v.name.as_str())
            && target.os.as_deref() == os.map(|os| os.name.as_str())
    });
    match found {
        Some(target) if !missing => Ok(target),
        _ => {
            let names: Vec<String> = all
                .iter()
                .map(|t| {
                    format!("{} on {}", t.variant.as_deref().unwrap_or("-"), t.os.as_deref().unwrap_or("-"))
                })
                .collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Err(blocker(
                "build-variant",
                format!(
                    "{} does not define this `variant` and `os`; it has {}",
                    build.bakery.display(),
                    listed(&names)
                ),
                "choose one of them with `variant` and `os` in `build`",
            ))
        }
    }
}

/// The labels that Posit's tool gives an image: by them it is known what is inside.
fn labels(bakery: &Bakery, image: &Image, target: &Target) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            all.insert(key.to_owned(), value.to_owned());
        }
    };
    for prefix in ["org.opencontainers.image", "co.posit.image"] {
        add(&format!("{prefix}.version"), &target.version);
    }
    add("org.opencontainers.image.title", &image.display_name);
    add("org.opencontainers.image.source", &bakery.repository.url);
    add("org.opencontainers.image.vendor", &bakery.repository.vendor);
    add("co.posit.image.name", &image.name);
    add("co.posit.image.variant", target.variant.as_deref().unwrap_or_default());
    add("co.posit.image.os", target.os.as_deref().unwrap_or_default());
    let minimal = target.variant.as_deref().is_some_and(|v| v.eq_ignore_ascii_case("minimal"));
    for dependency in target.dependencies.iter().filter(|_| !minimal) {
        add(&format!("co.posit.image.tools.{}", dependency.dependency), &dependency.versions.join(","));
    }
    all
}

fn finish(recipe: Recipe) -> Result<Recipe, Box<Finding>> {
    if recipe.context.is_dir() {
        return Ok(recipe);
    }
    Err(blocker("build-context", format!("{} is no folder", recipe.context.display()), "correct `context`"))
}

fn canonical(path: &Path) -> Result<PathBuf, Box<Finding>> {
    path.canonicalize().map_err(|error| {
        blocker(
            "build-containerfile",
            format!("{} cannot be read: {error}", path.display()),
            "correct the path; of a bakery's repository the Containerfiles must lie beside the file (`git clone` it whole)",
        )
    })
}

fn text(path: &Path) -> Result<String, Box<Finding>> {
    let unreadable = |why: String| {
        blocker(
            "build-containerfile",
            format!("{} cannot be read: {why}", path.display()),
            "correct the path",
        )
    };
    let size = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if size > CONTAINERFILE_MAX_BYTES {
        return Err(unreadable(format!("it has more than {CONTAINERFILE_MAX_BYTES} bytes")));
    }
    std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))
}

fn listed(names: &[&str]) -> String {
    let mut text = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED_MAX {
        text.push_str(&format!(" and {} more", names.len() - NAMED_MAX));
    }
    if text.is_empty() { "none".into() } else { text }
}

/// The images that a Containerfile begins from or copies from, as far as its own text tells.
fn bases(text: &str, args: &BTreeMap<String, String>) -> Vec<String> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut stages: Vec<String> = Vec::new();
    let mut all: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim) {
        let mut words = line.split_whitespace();
        let instruction = words.next().unwrap_or_default().to_uppercase();
        let mut found = None;
        match instruction.as_str() {
            // Before the first stage only, they count for FROM.
            "ARG" if stages.is_empty() => {
                for (name, value) in words.filter_map(|word| word.split_once('=')) {
                    let value = args.get(name).map_or(value.trim_matches('"'), String::as_str);
                    known.insert(name.to_owned(), value.to_owned());
                }
                continue;
            }
            "FROM" => {
                let rest: Vec<&str> = words.filter(|word| !word.starts_with("--")).collect();
                found = rest.first().map(|image| expand(image, &known));
                let named = rest.get(1).is_some_and(|word| word.eq_ignore_ascii_case("as"));
                let name = rest.get(2).filter(|_| named).copied().unwrap_or_default().to_lowercase();
                let base = found.clone().flatten();
                if base.is_some_and(|base| stages.contains(&base.to_lowercase())) {
                    found = None;
                }
                stages.push(name);
            }
            "COPY" => {
                let from = words.find_map(|word| word.strip_prefix("--from="));
                let stage = |name: &str| {
                    name.chars().all(|c| c.is_ascii_digit()) || stages.contains(&name.to_lowercase())
                };
                found = from.filter(|name| !stage(name)).map(|name| expand(name, &known));
            }
            _ => {}
        }
        // What cannot be told from the text is left to the engine.
        if let Some(Some(image)) = found
            && image != "scratch"
            && !all.contains(&image)
        {
            all.push(image);
        }
    }
    all
}

/// `None` when it names a variable whose value is not known.
fn expand(text: &str, known: &BTreeMap<String, String>) -> Option<String> {
    let mut text = text.to_owned();
    for (name, value) in known.iter().rev() {
        text = text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
    }
    (!text.contains('$')).then_some(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;
    use crate::build::settings::BuildTable;
    use serde_json::json;

    const BAKERY: &str = r#"
repository: {url: github.com/example/images, vendor: Example}
images:
  - name: connect
    variants:
      - {name: Standard, extension: std, tagDisplayName: std, primary: true}
      - {name: Minimal, extension: min, tagDisplayName: min}
    buildSecrets: [{id: github_token, envVar: GITHUB_TOKEN}]
    versions:
      - name: 2026.03.1
        os: [{name: Ubuntu 24.04, primary: true}, {name: Ubuntu 22.04}]
        dependencies: [{dependency: R, version: 4.5.3}, {dependency: python, versions: ["3.14.3", "3.13.1"]}]
      - name: 2026.02.0
        os: [{name: Ubuntu 24.04, platforms: [linux/arm64]}]
"#;

    fn build(table: serde_json::Value) -> BuildImage {
        serde_json::from_value::<BuildTable>(table).unwrap().sorted().unwrap()
    }

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bakery.yaml"), BAKERY).unwrap();
        for version in ["2026.03.1", "2026.02.0"] {
            let at = dir.path().join("connect").join(version);
            std::fs::create_dir_all(&at).unwrap();
            for end in ["ubuntu2404.std", "ubuntu2204.std", "ubuntu2404.min"] {
                std::fs::write(at.join(format!("Containerfile.{end}")), "FROM h:1/base:2\n").unwrap();
            }
        }
        dir
    }

    #[test]
    fn a_bakery_file_tells_containerfile_context_and_labels() {
        let dir = folder();
        let here = Version::parse("2026.03.1").ok();
        let file = dir.path().join("bakery.yaml");
        for (more, containerfile, tools) in [
            (json!({}), "Containerfile.ubuntu2404.std", Some("3.14.3,3.13.1")),
            (
                json!({ "os": "ubuntu-22.04", "variant": "std" }),
                "Containerfile.ubuntu2204.std",
                Some("3.14.3,3.13.1"),
            ),
            (json!({ "variant": "min", "version": "match-source" }), "Containerfile.ubuntu2404.min", None),
        ] {
            let mut table = more;
            table["bakery"] = json!(file);
            let recipe = resolve(&build(table), here, "linux/amd64").unwrap();
            assert!(recipe.containerfile.ends_with(containerfile), "{recipe:?}");
            assert_eq!(recipe.context, dir.path().canonicalize().unwrap());
            assert_eq!(recipe.labels["co.posit.image.version"], "2026.03.1");
            assert_eq!(recipe.labels.get("co.posit.image.tools.python").map(String::as_str), tools);
            assert_eq!((recipe.bases.as_slice(), recipe.version), (&["h:1/base:2".to_owned()][..], here));
            assert_eq!(recipe.secrets, ["github_token"]);
        }
    }

    #[test]
    fn what_cannot_be_built_is_a_blocker_that_says_what_there_is() {
        let dir = folder();
        let file = dir.path().join("bakery.yaml");
        let with = |more: serde_json::Value| {
            let mut table = more;
            table["bakery"] = json!(file);
            build(table)
        };
        std::fs::write(dir.path().join("wrong.yaml"), "repository: {url: x}\nimaegs: []\n").unwrap();
        std::fs::remove_file(dir.path().join("connect/2026.03.1/Containerfile.ubuntu2204.std")).unwrap();
        for (build, key, text) in [
            (with(json!({ "version": "2025.01.0" })), "build-version", "it has 2026.03.1, 2026.02.0"),
            (with(json!({ "version": "2026.02.0" })), "image-platform", "for linux/arm64"),
            (with(json!({ "variant": "pro" })), "build-variant", "Standard on Ubuntu 24.04"),
            (with(json!({ "os": "debian-12" })), "build-variant", "Minimal on Ubuntu 22.04"),
            (with(json!({ "os": "ubuntu-22.04" })), "build-containerfile", "Containerfile.ubuntu2204.std"),
            (with(json!({ "image": "workbench" })), "build-bakery", "it has connect"),
            (build(json!({ "bakery": dir.path().join("wrong.yaml") })), "build-bakery", "imaegs"),
            (build(json!({ "bakery": "/nowhere.yaml" })), "build-bakery", "/nowhere.yaml"),
            (build(json!({ "containerfile": "/nowhere" })), "build-containerfile", "/nowhere"),
            (build(json!({ "containerfile": file, "context": "/nowhere" })), "build-context", "/nowhere"),
        ] {
            let finding = resolve(&build, Version::parse("2026.03.1").ok(), "linux/amd64").unwrap_err();
            assert_eq!(finding.key, key, "{finding:?}");
            assert!(finding.text.contains(text) && !finding.remedy.is_empty(), "{finding:?}");
        }
        let unknown = resolve(&with(json!({})), None, "linux/amd64").unwrap_err();
        assert_eq!(unknown.key, "build-version");
    }

    #[test]
    fn keys_of_both_ways_to_build_are_told_apart() {
        for (table, why) in [
            (json!({}), "give `bakery`, or"),
            (json!({ "bakery": "a", "containerfile": "b" }), "either"),
            (json!({ "bakery": "a", "args": { "X": "y" } }), "belong to `containerfile`"),
            (json!({ "containerfile": "a", "os": "y" }), "belong to `bakery`"),
        ] {
            let error = serde_json::from_value::<BuildTable>(table).unwrap().sorted().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn base_images_are_found_in_the_text() {
        let args = BTreeMap::from([("TAG".to_owned(), "9".to_owned())]);
        for (text, found) in [
            ("FROM a:1\nFROM b:2 AS x\nFROM x\nCOPY --from=x a b\nCOPY --from=0 a b\n", vec!["a:1", "b:2"]),
            ("FROM --platform=linux/amd64 a:1\nCOPY --chmod=0775 --from=c/d:3 a b\n", vec!["a:1", "c/d:3"]),
            ("ARG TAG=1\nARG NAME=\"q\"\nFROM $NAME/a:${TAG} as y\nFROM Y\n", vec!["q/a:9"]),
            ("FROM scratch\nFROM ${UNKNOWN}\n", vec![]),
            ("from a:1\n# FROM b:2\n", vec!["a:1"]),
        ] {
            assert_eq!(bases(text, &args), found, "{text}");
        }
    }
}
