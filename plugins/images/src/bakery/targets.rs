//! Everything that a bakery file builds: each version, variant and distribution, with its tags in every registry.

use super::dependency::{Available, Dependency, DependencyVersion};
use super::jinja;
use super::model::{
    Bakery, Development, DevelopmentSource, Filter, Image, Matrix, MatrixValue, Os, Registries, TagPattern,
    Variant,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// More combinations than this are not worked out.
const COMBINATIONS_MAX: usize = 10_000;

/// Where a target comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A version of the file.
    Version,
    /// A combination of a matrix.
    Matrix,
    /// A version in development.
    Development,
}

/// One build: a version on a distribution in a variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The image.
    pub image: String,
    /// Where it comes from.
    pub kind: Kind,
    /// Its version. For what cannot be known offline, how it is named.
    pub version: String,
    /// Whether moving tags lead to it.
    pub latest: bool,
    /// Its variant, if the image has any.
    pub variant: Option<String>,
    /// Its distribution, if the version has any.
    pub os: Option<String>,
    /// Where it runs.
    pub platforms: Vec<String>,
    /// What it contains.
    pub dependencies: Vec<Dependency>,
    /// Its Containerfile, from the folder of the bakery file.
    pub containerfile: String,
    /// The stage to build.
    pub build_target: Option<String>,
    /// Values that the vendor's tool gives the build.
    pub build_args: BTreeMap<String, String>,
    /// Every tag in every registry, sorted.
    pub tags: Vec<String>,
    /// What could not be told without asking the vendor.
    pub open: Option<String>,
}

/// The vendor's tag patterns for images that have none of their own.
#[must_use]
pub(super) fn default_tag_patterns() -> Vec<TagPattern> {
    use Filter::{All, PrimaryOs, PrimaryVariant};
    let mut all = vec![
        pattern(
            &["{{ Version }}-{{ OS }}-{{ Variant }}", "{{ Version | stripMetadata }}-{{ OS }}-{{ Variant }}"],
            &[All],
        ),
        pattern(
            &["{{ Version }}-{{ Variant }}", "{{ Version | stripMetadata }}-{{ Variant }}"],
            &[PrimaryOs],
        ),
        pattern(&["{{ Version }}-{{ OS }}", "{{ Version | stripMetadata }}-{{ OS }}"], &[PrimaryVariant]),
        pattern(&["{{ Version }}", "{{ Version | stripMetadata }}"], &[PrimaryOs, PrimaryVariant]),
    ];
    all.extend(moving(Filter::Latest, "", "latest"));
    all.extend(moving(Filter::ChannelLatest, "{{ Channel }}-", "{{ Channel }}"));
    all
}

/// The vendor's tag patterns for images with a matrix.
#[must_use]
pub(super) fn default_matrix_tag_patterns() -> Vec<TagPattern> {
    use Filter::{All, LatestPatch, PrimaryOs, PrimaryVariant};
    let mut all = Vec::new();
    for (version, first) in [("{{ Version }}", None), ("{{ Version | stripPatch }}", Some(LatestPatch))] {
        for (tail, more) in [
            ("-{{ OS }}-{{ Variant }}", &[][..]),
            ("-{{ Variant }}", &[PrimaryOs]),
            ("-{{ OS }}", &[PrimaryVariant]),
            ("", &[PrimaryOs, PrimaryVariant]),
        ] {
            let mut only: Vec<Filter> = first.into_iter().chain(more.iter().copied()).collect();
            if only.is_empty() {
                only.push(All);
            }
            all.push(pattern(&[&format!("{version}{tail}")], &only));
        }
    }
    // The longest one of a channel is not among the vendor's for a matrix.
    all.extend(moving(Filter::ChannelLatest, "{{ Channel }}-", "{{ Channel }}").into_iter().skip(1));
    all.extend(moving(Filter::Latest, "", "latest"));
    all
}

fn moving(first: Filter, head: &str, whole: &str) -> Vec<TagPattern> {
    use Filter::{PrimaryOs, PrimaryVariant};
    vec![
        pattern(&[&format!("{head}{{{{ OS }}}}-{{{{ Variant }}}}")], &[first]),
        pattern(&[&format!("{head}{{{{ OS }}}}")], &[first, PrimaryVariant]),
        pattern(&[&format!("{head}{{{{ Variant }}}}")], &[first, PrimaryOs]),
        pattern(&[whole], &[first, PrimaryOs, PrimaryVariant]),
    ]
}

fn pattern(patterns: &[&str], only: &[Filter]) -> TagPattern {
    TagPattern { patterns: patterns.iter().map(|&p| p.to_owned()).collect(), only: only.to_vec() }
}

/// A version, wherever it comes from.
struct Build<'b> {
    kind: Kind,
    version: String,
    latest: bool,
    latest_patch: bool,
    channel: String,
    folder: String,
    os: &'b [Os],
    dependencies: Vec<Dependency>,
    registries: &'b Registries,
    build_target: Option<String>,
    build_args: BTreeMap<String, String>,
    /// Set when the version is not known: patterns with it are left out.
    open: Option<String>,
}

impl Bakery {
    /// Everything that is built, in the order of the file. `available` are versions for constraints to choose from; a matrix
    /// whose constraints find none there has one open row.
    ///
    /// # Errors
    /// When a pattern cannot be rendered, with the reason.
    pub fn targets(&self, available: &Available) -> Result<Vec<Target>, String> {
        let mut all = Vec::new();
        for image in &self.images {
            let mut builds: Vec<Build<'_>> = Vec::new();
            builds.extend(image.versions.iter().map(|version| Build {
                kind: Kind::Version,
                version: version.name.clone(),
                latest: version.latest,
                latest_patch: false,
                channel: String::new(),
                folder: version.subpath.clone(),
                os: &version.os,
                dependencies: version.dependencies.clone(),
                registries: &version.registries,
                build_target: version.build_target.clone().or_else(|| image.build_target.clone()),
                build_args: BTreeMap::new(),
                open: None,
            }));
            if let Some(matrix) = &image.matrix {
                builds.extend(combinations(image, matrix, available)?);
            }
            builds.extend(image.development.iter().map(|d| in_development(image, d)));
            for build in &builds {
                self.expand(image, build, &mut all)?;
            }
        }
        Ok(all)
    }

    fn expand(&self, image: &Image, build: &Build<'_>, all: &mut Vec<Target>) -> Result<(), String> {
        let registries = build.registries.with(&image.registries.with(&self.registries));
        let variants: Vec<Option<&Variant>> = some_or_none(&image.variants);
        for variant in variants {
            for os in some_or_none(build.os) {
                let suffixes = suffixes(image, build, variant, os)?;
                let repositories: Vec<String> = if registries.is_empty() {
                    vec![image.name.clone()]
                } else {
                    registries.iter().map(|registry| registry.repository_of(&image.name)).collect()
                };
                let mut tags: Vec<String> = repositories
                    .iter()
                    .flat_map(|r| suffixes.iter().map(move |s| format!("{r}:{s}")))
                    .collect();
                tags.sort();
                tags.dedup();
                let mut containerfile = format!("{}/{}/Containerfile", image.subpath, build.folder);
                let ends = [os.map(|os| &os.extension), variant.map(|variant| &variant.extension)];
                for end in ends.into_iter().flatten().filter(|end| !end.is_empty()) {
                    containerfile.push('.');
                    containerfile.push_str(end);
                }
                all.push(Target {
                    image: image.name.clone(),
                    kind: build.kind,
                    version: build.version.clone(),
                    latest: build.latest,
                    variant: variant.map(|variant| variant.name.clone()),
                    os: os.map(|os| os.name.clone()),
                    platforms: os.map_or_else(|| vec!["linux/amd64".into()], |os| os.platforms.clone()),
                    dependencies: build.dependencies.clone(),
                    containerfile,
                    build_target: build.build_target.clone(),
                    build_args: build.build_args.clone(),
                    tags,
                    open: build.open.clone(),
                });
            }
        }
        Ok(())
    }
}

fn some_or_none<T>(items: &[T]) -> Vec<Option<&T>> {
    if items.is_empty() { vec![None] } else { items.iter().map(Some).collect() }
}

/// The tags of one build, without repositories.
fn suffixes(
    image: &Image,
    build: &Build<'_>,
    variant: Option<&Variant>,
    os: Option<&Os>,
) -> Result<BTreeSet<String>, String> {
    let names = [
        ("{{ OS }}", os.map(|os| os.tag_name.as_str()).unwrap_or_default()),
        ("{{ Variant }}", variant.map(|variant| variant.tag_name.as_str()).unwrap_or_default()),
        ("{{ Channel }}", build.channel.as_str()),
    ];
    let values = json!({
        "Version": build.version, "Name": image.name, "OS": names[0].1, "Variant": names[1].1, "Channel": names[2].1,
    });
    let holds = |filter: &Filter| match filter {
        Filter::All | Filter::ChannelLatest => true,
        Filter::Latest => build.latest,
        Filter::LatestPatch => build.latest_patch,
        Filter::PrimaryOs => os.is_none_or(|os| os.primary),
        Filter::PrimaryVariant => variant.is_none_or(|variant| variant.primary),
    };
    let of_variant = variant.map(|variant| variant.tag_patterns.as_slice()).unwrap_or_default();
    let mut all = BTreeSet::new();
    for tag_pattern in image.tag_patterns.iter().chain(of_variant) {
        // As the vendor's tool has it, `all` makes the others of no account.
        if !tag_pattern.only.contains(&Filter::All) && !tag_pattern.only.iter().all(holds) {
            continue;
        }
        for pattern in &tag_pattern.patterns {
            // Patterns with a part that this build does not have make no tag.
            let lacks = names.iter().any(|(name, value)| value.is_empty() && pattern.contains(name));
            let unknown = build.open.is_some() && pattern.contains("Version");
            if lacks || unknown {
                continue;
            }
            let rendered = jinja::render(pattern, &values).map_err(|wrong| {
                format!(
                    "the tag pattern `{pattern}` of the image `{}` cannot be rendered: {}",
                    image.name, wrong.why
                )
            })?;
            all.insert(jinja::tag(&rendered));
        }
    }
    all.remove("");
    Ok(all)
}

fn in_development<'b>(image: &Image, development: &'b Development) -> Build<'b> {
    let (from, channel) = match &development.source {
        DevelopmentSource::Channel { product, channel } => (format!("{product} {channel}"), channel.clone()),
        DevelopmentSource::Dependency { dependency, channel, .. } => {
            (format!("newest {dependency}"), channel.clone().unwrap_or_default())
        }
    };
    Build {
        kind: Kind::Development,
        open: Some(format!(
            "the version is what the vendor offers at the time ({from}); tags with it are left out"
        )),
        version: from,
        latest: false,
        latest_patch: false,
        channel,
        folder: ".dev-<version>".into(),
        os: &development.os,
        dependencies: Vec::new(),
        registries: &development.registries,
        build_target: image.build_target.clone(),
        build_args: BTreeMap::new(),
    }
}

/// One row of a matrix: a version of each dependency, a value of each list.
#[derive(Clone, Default)]
struct Row {
    dependencies: BTreeMap<String, String>,
    /// In the order of the file.
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Row {
    fn axes(&self) -> impl Iterator<Item = (&String, &String)> {
        self.dependencies.iter().chain(&self.values)
    }
}

fn combinations<'b>(
    image: &Image,
    matrix: &'b Matrix,
    available: &Available,
) -> Result<Vec<Build<'b>>, String> {
    let build = |version: String| Build {
        kind: Kind::Matrix,
        version,
        latest: false,
        latest_patch: false,
        channel: String::new(),
        folder: matrix.subpath.clone(),
        os: &matrix.os,
        dependencies: Vec::new(),
        registries: &matrix.registries,
        build_target: matrix.build_target.clone().or_else(|| image.build_target.clone()),
        build_args: BTreeMap::new(),
        open: None,
    };
    let mut axes: Vec<Dependency> = matrix.dependencies.clone();
    let mut unknown = Vec::new();
    for wanted in &matrix.dependency_constraints {
        let there = available.get(&wanted.dependency).cloned().unwrap_or_default();
        let versions = wanted.constraint.choose(&there);
        if versions.is_empty() {
            unknown.push(format!("{} ({})", wanted.dependency, wanted.constraint));
        }
        axes.push(Dependency { dependency: wanted.dependency.clone(), versions });
    }
    if !unknown.is_empty() {
        let open = format!("the versions of {} are looked up when it is built", unknown.join(", "));
        let named = axes.into_iter().filter(|axis| !axis.versions.is_empty()).collect();
        return Ok(vec![Build {
            open: Some(open),
            dependencies: named,
            ..build(matrix.name_pattern.clone())
        }]);
    }
    let lists = || {
        matrix.values.iter().filter_map(|(key, value)| match value {
            MatrixValue::Each(values) => Some((key, values)),
            MatrixValue::One(_) => None,
        })
    };
    let size = axes
        .iter()
        .map(|a| a.versions.len())
        .chain(lists().map(|(_, v)| v.len()))
        .fold(1usize, usize::saturating_mul);
    if size > COMBINATIONS_MAX {
        return Err(format!(
            "the matrix of the image `{}` has {size} combinations; {COMBINATIONS_MAX} are worked out",
            image.name
        ));
    }
    let mut rows = vec![Row::default()];
    for axis in &axes {
        rows = spread(rows, &axis.versions, |row, version| {
            row.dependencies.insert(axis.dependency.clone(), version);
            row.order.push(axis.dependency.clone());
        });
    }
    for (key, value) in &matrix.values {
        let values = match value {
            MatrixValue::One(value) => vec![value.clone()],
            MatrixValue::Each(values) => values.clone(),
        };
        rows = spread(rows, &values, |row, value| {
            row.values.insert(key.clone(), value);
        });
    }
    let newest = newest_of(&axes, lists());
    let patches = latest_patches(&rows);
    let mut all = Vec::new();
    for row in &rows {
        let values = json!({ "Dependencies": row.dependencies, "Values": row.values });
        let name = jinja::render(&matrix.name_pattern, &values).map_err(|wrong| {
            format!("the name pattern of the matrix of `{}` cannot be rendered: {}", image.name, wrong.why)
        })?;
        let latest = newest.as_ref().is_some_and(|newest| {
            newest.iter().all(|(key, text)| row.axes().any(|(k, v)| k == key && v == text))
        });
        let args = row.dependencies.iter().map(|(k, v)| (format!("{}_VERSION", k.to_uppercase()), v.clone()));
        let build_args = args.chain(row.values.iter().map(|(k, v)| (k.to_uppercase(), v.clone()))).collect();
        let version_of = |name: &String| row.dependencies.get(name).cloned().into_iter().collect();
        let dependencies =
            row.order.iter().map(|n| Dependency { dependency: n.clone(), versions: version_of(n) }).collect();
        let latest_patch = patches.contains(&signature(row));
        all.push(Build {
            latest,
            latest_patch,
            dependencies,
            build_args,
            ..build(jinja::trimmed(name.trim()))
        });
    }
    Ok(all)
}

fn spread(rows: Vec<Row>, values: &[String], put: impl Fn(&mut Row, String)) -> Vec<Row> {
    let mut all = Vec::with_capacity(rows.len() * values.len());
    for row in rows {
        for value in values {
            let mut row = row.clone();
            put(&mut row, value.clone());
            all.push(row);
        }
    }
    all
}

/// The newest version of every axis; `None` when one is no version, or there is none.
fn newest_of<'a>(
    axes: &'a [Dependency],
    lists: impl Iterator<Item = (&'a String, &'a Vec<String>)>,
) -> Option<BTreeMap<String, String>> {
    let dependencies = axes.iter().map(|axis| (&axis.dependency, &axis.versions));
    let mut newest = BTreeMap::new();
    for (key, values) in dependencies.chain(lists) {
        let parsed: Option<Vec<(DependencyVersion, &String)>> =
            values.iter().map(|text| Some((DependencyVersion::parse(text)?, text))).collect();
        let (_, text) = parsed?.into_iter().max_by(|a, b| a.0.cmp(&b.0))?;
        newest.insert(key.clone(), text.clone());
    }
    (!newest.is_empty()).then_some(newest)
}

fn signature(row: &Row) -> String {
    Value::from_iter(row.axes().map(|(k, v)| format!("{k}={v}"))).to_string()
}

/// Of all rows that would be named alike without patch releases, the newest.
fn latest_patches(rows: &[Row]) -> BTreeSet<String> {
    let mut groups: BTreeMap<String, (Vec<Option<DependencyVersion>>, String)> = BTreeMap::new();
    for row in rows {
        if row.dependencies.values().any(|text| DependencyVersion::parse(text).is_none()) {
            return BTreeSet::new();
        }
        let group: Vec<String> = row.axes().map(|(k, v)| format!("{k}={}", jinja::strip_patch(v))).collect();
        let rank: Vec<Option<DependencyVersion>> =
            row.axes().flat_map(|(_, v)| versions_in(v)).map(Some).collect();
        let here = (rank, signature(row));
        match groups.entry(group.join(" ")) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(here);
            }
            std::collections::btree_map::Entry::Occupied(mut best) => {
                if here.0 > best.get().0 {
                    best.insert(here);
                }
            }
        }
    }
    groups.into_values().map(|(_, signature)| signature).collect()
}

/// The numbers with dots in a text: `go1.24-lib2.3.1` has two.
fn versions_in(text: &str) -> Vec<DependencyVersion> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .filter(|word| word.contains('.'))
        .filter_map(DependencyVersion::parse)
        .collect()
}
