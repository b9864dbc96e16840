//! From the text of a bakery file to what it says.

use super::dependency::KNOWN;
use super::fields::{Fields, Notes};
use super::mistake::{Mistake, Mistakes};
use super::model::{
    Bakery, Development, DevelopmentSource, Image, Matrix, MatrixValue, Person, Repository, Variant, Version,
};
use super::parts;
use super::targets::{default_matrix_tag_patterns, default_tag_patterns};
use super::yaml::{self, Node, Value};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// No bakery file is larger; a larger one is not read.
pub const BAKERY_MAX_BYTES: u64 = 2 * 1024 * 1024;

const IMAGE_KEYS: [&str; 16] = [
    "name",
    "displayName",
    "description",
    "documentationUrl",
    "subpath",
    "extraRegistries",
    "overrideRegistries",
    "tagPatterns",
    "dependencyConstraints",
    "variants",
    "versions",
    "matrix",
    "devVersions",
    "options",
    "buildTarget",
    "buildSecrets",
];

/// A bakery file that was read.
#[derive(Debug, Clone)]
pub struct Read {
    /// What it says.
    pub bakery: Bakery,
    /// What is allowed and worth knowing; may be empty.
    pub warnings: Mistakes,
}

/// Why a bakery file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read at all.
    #[error("could not read {path}: {why}; see that it is there and a bakery.yaml")]
    Unreadable {
        /// The file.
        path: String,
        /// Why not.
        why: String,
    },
    /// It has mistakes.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
}

/// Reads a bakery file.
///
/// # Errors
/// When it cannot be read, or has mistakes.
pub fn read(path: &Path) -> Result<Read, ReadError> {
    use std::io::Read as _;
    let unreadable = |why: String| ReadError::Unreadable { path: path.display().to_string(), why };
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(BAKERY_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > BAKERY_MAX_BYTES {
        return Err(unreadable(format!("it is larger than {BAKERY_MAX_BYTES} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".into()))?;
    Ok(read_text(&path.display().to_string(), &text)?)
}

/// Reads the text of a bakery file; `file` is its name in messages.
///
/// # Errors
/// Every mistake in it.
pub fn read_text(file: &str, text: &str) -> Result<Read, Mistakes> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut notes = Notes::default();
    let root = yaml::parse(text).map_err(|mistake| Mistakes::new(file, text, vec![mistake]))?;
    let bakery = Reader { text }.bakery(&root, &mut notes);
    match bakery {
        Some(bakery) if notes.mistakes.is_empty() => {
            Ok(Read { bakery, warnings: Mistakes::new(file, text, notes.warnings) })
        }
        _ => Err(Mistakes::new(file, text, notes.mistakes)),
    }
}

fn with_scheme(url: &str) -> String {
    if url.starts_with("https://") || url.starts_with("http://") {
        url.into()
    } else {
        format!("https://{url}")
    }
}

fn folder_of(name: &str) -> String {
    name.replace(' ', "-").to_lowercase()
}

/// `my-image` as `My Image`.
fn title_of(name: &str) -> String {
    let word = |word: &str| {
        let mut chars = word.chars();
        chars.next().map(|c| c.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect::<String>())
    };
    name.split('-').filter_map(word).collect::<Vec<_>>().join(" ")
}

/// Notes a name that is taken.
fn once(
    seen: &mut BTreeMap<String, Range<usize>>,
    what: &str,
    name: &str,
    at: Range<usize>,
    notes: &mut Notes,
) {
    match seen.get(name) {
        Some(first) => notes.wrong(
            Mistake::new(at, format!("there are two {what} named `{name}`"))
                .context(first.clone(), "first here"),
        ),
        None => {
            seen.insert(name.into(), at);
        }
    }
}

struct Reader<'t> {
    text: &'t str,
}

impl Reader<'_> {
    fn bakery(&self, root: &Node, notes: &mut Notes) -> Option<Bakery> {
        let fields = Fields::of(root, "a bakery file", &["repository", "registries", "images"], notes)?;
        let repository = match fields.get("repository") {
            Some(node) => repository(node, notes),
            None => {
                fields.missing("repository", notes);
                None
            }
        };
        let registries = parts::registries(&fields, "registries", false, notes);
        let mut images = Vec::new();
        let mut seen = BTreeMap::new();
        for node in fields.items("images", notes) {
            if let Some((image, at)) = self.image(node, notes) {
                once(&mut seen, "images", &image.name, at, notes);
                images.push(image);
            }
        }
        Some(Bakery { repository: repository?, registries, images })
    }

    fn image(&self, node: &Node, notes: &mut Notes) -> Option<(Image, Range<usize>)> {
        let fields = Fields::of(node, "an image", &IMAGE_KEYS, notes)?;
        let name = fields.required("name", notes);
        let shown = name.clone().unwrap_or_default();
        fields.either("versions", "matrix", notes);
        let matrix = fields.get("matrix").filter(|node| !node.is_null());
        let matrix_node = matrix;
        let matrix = matrix.and_then(|node| self.matrix(node, notes));
        let mut versions = Vec::new();
        let mut seen = BTreeMap::new();
        for node in fields.items("versions", notes) {
            if let Some((version, at)) = version(node, notes) {
                once(&mut seen, "versions", &version.name, at, notes);
                versions.push(version);
            }
        }
        let mut variants = Vec::new();
        let mut seen = BTreeMap::new();
        for node in fields.items("variants", notes) {
            if let Some((variant, at)) = self.variant(node, notes) {
                once(&mut seen, "variants", &variant.name, at, notes);
                variants.push(variant);
            }
        }
        let development: Vec<Development> =
            fields.items("devVersions", notes).iter().filter_map(|node| development(node, notes)).collect();
        let given = parts::tag_patterns(&fields, self.text, notes);
        let tag_patterns = match fields.get("tagPatterns") {
            Some(_) => given,
            None if matrix_node.is_some() => default_matrix_tag_patterns(),
            None => default_tag_patterns(),
        };
        let dependency_constraints = parts::constraints(&fields, notes);
        if let Some(entry) = fields.entry("dependencyConstraints").filter(|_| matrix_node.is_some()) {
            notes.warn(
                Mistake::new(
                    entry.key_span.clone(),
                    "an image with a `matrix` takes no notice of its own `dependencyConstraints`",
                )
                .hint("write them in the matrix"),
            );
        }
        if versions.is_empty() && development.is_empty() && matrix_node.is_none() {
            notes.warn(Mistake::new(node.span.clone(), format!("the image `{shown}` has no versions")));
        }
        let at = fields.get("name").map_or(node.span.clone(), |node| node.span.clone());
        let image = Image {
            display_name: fields.text("displayName", notes).unwrap_or_else(|| title_of(&shown)),
            description: fields.text("description", notes),
            documentation_url: fields.text("documentationUrl", notes).map(|url| with_scheme(&url)),
            subpath: subpath(&fields, &folder_of(&shown), notes),
            registries: parts::extra_or_instead(&fields, notes),
            tag_patterns,
            dependency_constraints,
            variants,
            versions,
            matrix,
            development,
            options: parts::options(&fields, notes),
            build_target: fields.text("buildTarget", notes),
            build_secrets: parts::build_secrets(&fields, notes),
            name: name?,
        };
        Some((image, at))
    }

    fn variant(&self, node: &Node, notes: &mut Notes) -> Option<(Variant, Range<usize>)> {
        let known = ["name", "primary", "extension", "tagDisplayName", "tagPatterns", "options"];
        let fields = Fields::of(node, "a variant", &known, notes)?;
        let name = fields.required("name", notes);
        let shown = name.clone().unwrap_or_default();
        let variant = Variant {
            primary: fields.flag("primary", notes).unwrap_or(false),
            extension: parts::extension(&fields, &shown, notes),
            tag_name: parts::tag_name(&fields, &shown, notes),
            tag_patterns: parts::tag_patterns(&fields, self.text, notes),
            options: parts::options(&fields, notes),
            name: name?,
        };
        Some((variant, fields.get("name").map_or(node.span.clone(), |node| node.span.clone())))
    }

    fn matrix(&self, node: &Node, notes: &mut Notes) -> Option<Matrix> {
        let known = [
            "namePattern",
            "subpath",
            "dependencyConstraints",
            "dependencies",
            "values",
            "os",
            "extraRegistries",
            "overrideRegistries",
            "buildTarget",
        ];
        let fields = Fields::of(node, "a matrix", &known, notes)?;
        let dependencies = parts::dependencies(&fields, notes);
        let dependency_constraints = parts::constraints(&fields, notes);
        let values = matrix_values(&fields, notes);
        for both in dependency_constraints
            .iter()
            .filter(|c| dependencies.iter().any(|d| d.dependency == c.dependency))
        {
            let at = fields.entry("dependencyConstraints").map_or(node.span.clone(), |e| e.key_span.clone());
            let name = &both.dependency;
            notes.wrong(Mistake::new(
                at,
                format!("`{name}` stands in `dependencies` and in `dependencyConstraints`"),
            ));
        }
        if ["dependencies", "dependencyConstraints", "values"].iter().all(|key| fields.get(key).is_none()) {
            notes.wrong(
                Mistake::new(
                    node.span.clone(),
                    "a matrix needs `dependencies`, `dependencyConstraints` or `values`",
                )
                .hint("an image without combinations has `versions`"),
            );
        }
        let name_pattern = match (fields.text("namePattern", notes), fields.get("namePattern")) {
            (Some(pattern), Some(node)) => {
                parts::template(node, self.text, &pattern, &["Dependencies", "Values"], notes);
                pattern
            }
            _ => {
                let dependency = |name: &str| format!("{name}{{{{ Dependencies.{name} }}}}");
                let named = dependencies.iter().map(|d| dependency(&d.dependency));
                let found = dependency_constraints.iter().map(|c| dependency(&c.dependency));
                let others = values.keys().map(|key| format!("{key}{{{{ Values.{key} }}}}"));
                named.chain(found).chain(others).collect::<Vec<_>>().join("-")
            }
        };
        Some(Matrix {
            name_pattern,
            subpath: subpath(&fields, "matrix", notes),
            dependencies,
            dependency_constraints,
            values,
            os: parts::systems(&fields, "the matrix", notes),
            registries: parts::extra_or_instead(&fields, notes),
            build_target: fields.text("buildTarget", notes),
        })
    }
}

fn subpath(fields: &Fields<'_>, default: &str, notes: &mut Notes) -> String {
    let given = fields.text("subpath", notes);
    if let (Some(path), Some(node)) = (&given, fields.get("subpath")) {
        let outside = path.starts_with('/') || path.split('/').any(|part| part == "..");
        if path.is_empty() || outside {
            notes.wrong(Mistake::new(node.span.clone(), format!("`{path}` is no folder below this file's")));
        }
    }
    given.unwrap_or_else(|| default.into())
}

fn repository(node: &Node, notes: &mut Notes) -> Option<Repository> {
    let fields = Fields::of(node, "the repository", &["url", "vendor", "maintainer", "authors"], notes)?;
    let url = fields.required("url", notes);
    let maintainer = fields.get("maintainer").and_then(|node| parts::person(node, "maintainer", notes));
    let mut authors: Vec<Person> = fields
        .items("authors", notes)
        .iter()
        .filter_map(|node| parts::person(node, "an author", notes))
        .collect();
    authors.sort();
    authors.dedup();
    Some(Repository {
        url: with_scheme(&url?),
        vendor: fields.text("vendor", notes).unwrap_or_else(|| "Posit Software, PBC".into()),
        maintainer: maintainer
            .unwrap_or_else(|| Person { name: "Posit Docker Team".into(), email: "docker@posit.co".into() }),
        authors,
    })
}

fn version(node: &Node, notes: &mut Notes) -> Option<(Version, Range<usize>)> {
    let known = [
        "name",
        "subpath",
        "latest",
        "os",
        "dependencies",
        "values",
        "extraRegistries",
        "overrideRegistries",
        "buildTarget",
    ];
    let fields = Fields::of(node, "a version", &known, notes)?;
    let name = fields.required("name", notes);
    let shown = name.clone().unwrap_or_default();
    let version = Version {
        subpath: subpath(&fields, &folder_of(&shown), notes),
        latest: fields.flag("latest", notes).unwrap_or(false),
        registries: parts::extra_or_instead(&fields, notes),
        os: parts::systems(&fields, &format!("the version {shown}"), notes),
        dependencies: parts::dependencies(&fields, notes),
        values: parts::values(&fields, notes),
        build_target: fields.text("buildTarget", notes),
        name: name?,
    };
    Some((version, fields.get("name").map_or(node.span.clone(), |node| node.span.clone())))
}

fn matrix_values(fields: &Fields<'_>, notes: &mut Notes) -> BTreeMap<String, MatrixValue> {
    let mut all = BTreeMap::new();
    let Some(node) = fields.get("values") else { return all };
    let Value::Map(entries) = &node.value else {
        // Says what was expected.
        let _ = Fields::of(node, "`values`", &[], notes);
        return all;
    };
    for entry in entries {
        let value = match &entry.value.value {
            // In a list numbers are taken as they are written.
            Value::List(items) => MatrixValue::Each(
                items
                    .iter()
                    .filter_map(|item| match &item.value {
                        Value::Scalar { text, .. } => Some(text.clone()),
                        _ => notes.text(item, &entry.key),
                    })
                    .collect(),
            ),
            _ => match notes.text(&entry.value, &entry.key) {
                Some(text) => MatrixValue::One(text),
                None => continue,
            },
        };
        all.insert(entry.key.clone(), value);
    }
    all
}

fn development(node: &Node, notes: &mut Notes) -> Option<Development> {
    const CHANNELS: [&str; 3] = ["release", "preview", "daily"];
    const PRODUCTS: [&str; 4] = ["connect", "package-manager", "workbench", "workbench-session"];
    const COMMON: [&str; 5] = ["sourceType", "os", "values", "extraRegistries", "overrideRegistries"];
    let more: &[&str] = match &node.value {
        Value::Map(entries)
            if entries.iter().any(|e| {
                e.key == "sourceType"
                    && matches!(&e.value.value, Value::Scalar { text, .. } if text == "dependency")
            }) =>
        {
            &["dependency", "prerelease", "channel"]
        }
        _ => &["product", "channel", "stream"],
    };
    let known: Vec<&str> = COMMON.iter().chain(more).copied().collect();
    let fields = Fields::of(node, "a development version", &known, notes)?;
    let word = |key: &str, words: &[&str], notes: &mut Notes| match fields.get(key) {
        Some(node) => notes.word(node, key, words),
        None => {
            fields.missing(key, notes);
            None
        }
    };
    let source = match word("sourceType", &["channel", "stream", "dependency"], notes).as_deref() {
        Some("dependency") => {
            let dependency = word("dependency", &KNOWN, notes);
            let prerelease = fields.flag("prerelease", notes).unwrap_or(false);
            let channel = fields.get("channel").filter(|node| !node.is_null());
            let channel = channel.and_then(|node| notes.word(node, "channel", &["preview", "daily"]));
            dependency.map(|dependency| DevelopmentSource::Dependency { dependency, prerelease, channel })
        }
        Some(_) => {
            fields.either("stream", "channel", notes);
            if let Some(entry) = fields.entry("stream") {
                notes.warn(
                    Mistake::new(entry.key_span.clone(), "`stream` is the old name of `channel`")
                        .hint("write `channel`"),
                );
            }
            let product = word("product", &PRODUCTS, notes);
            let key = if fields.entry("stream").is_some() { "stream" } else { "channel" };
            let channel = word(key, &CHANNELS, notes);
            product.zip(channel).map(|(product, channel)| DevelopmentSource::Channel { product, channel })
        }
        None => None,
    };
    Some(Development {
        os: parts::systems(&fields, "the development version", notes),
        registries: parts::extra_or_instead(&fields, notes),
        values: parts::values(&fields, notes),
        source: source?,
    })
}
