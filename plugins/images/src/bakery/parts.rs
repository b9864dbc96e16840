//! The smaller parts of a bakery file: registries, distributions, tag patterns, dependencies, options.

use super::dependency::{Constraint, Dependency, DependencyConstraint, DependencyVersion, KNOWN};
use super::fields::{Fields, Notes};
use super::jinja;
use super::mistake::{Mistake, nearest_hint};
use super::model::{BuildSecret, Filter, Os, Person, Registries, Registry, TagPattern, ToolOption};
use super::yaml::{Node, Value};
use std::collections::BTreeMap;
use std::ops::Range;

/// Names that a tag pattern may use.
pub(super) const TAG_NAMES: [&str; 5] = ["Version", "OS", "Variant", "Name", "Channel"];
const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];
const FILTERS: [(&str, Filter); 6] = [
    ("all", Filter::All),
    ("latest", Filter::Latest),
    ("latestPatch", Filter::LatestPatch),
    ("primaryOS", Filter::PrimaryOs),
    ("primaryVariant", Filter::PrimaryVariant),
    ("channelLatest", Filter::ChannelLatest),
];

fn fits_extension(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
}

/// The end of a Containerfile's name, from a name such as `Ubuntu 24.04`.
fn extension_of(name: &str) -> String {
    name.to_lowercase().chars().filter(|c| fits_extension(*c)).collect()
}

pub(super) fn extension(fields: &Fields<'_>, name: &str, notes: &mut Notes) -> String {
    fields.spelled("extension", true, fits_extension, notes).unwrap_or_else(|| extension_of(name))
}

pub(super) fn tag_name(fields: &Fields<'_>, name: &str, notes: &mut Notes) -> String {
    let given = fields.spelled("tagDisplayName", false, jinja::fits_tag, notes);
    given.unwrap_or_else(|| jinja::tag_safe(&name.to_lowercase()))
}

/// `Name <mail>` or a mapping.
pub(super) fn person(node: &Node, what: &'static str, notes: &mut Notes) -> Option<Person> {
    if let Value::Map(_) = &node.value {
        let fields = Fields::of(node, what, &["name", "email"], notes)?;
        let email = fields.required("email", notes)?;
        let name = fields.text("name", notes).unwrap_or_else(|| local_part(&email));
        return Some(Person { name, email });
    }
    let text = notes.text(node, what)?;
    let (name, email) = match text.trim().strip_suffix('>').and_then(|t| t.split_once('<')) {
        Some((name, email)) => (name.trim().to_owned(), email.trim().to_owned()),
        None => (local_part(&text), text.trim().to_owned()),
    };
    let good = email.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.'));
    if !good || email.contains(char::is_whitespace) {
        notes.wrong(
            Mistake::new(node.span.clone(), format!("`{text}` is no name with a mail address"))
                .hint("write it as `Jane Doe <jane@example.com>`"),
        );
        return None;
    }
    Some(Person { name, email })
}

fn local_part(email: &str) -> String {
    email.split('@').next().unwrap_or(email).trim().to_owned()
}

fn registry(node: &Node, repository: bool, notes: &mut Notes) -> Option<Registry> {
    let known: &[&str] =
        if repository { &["host", "namespace", "repository"] } else { &["host", "namespace"] };
    let fields = Fields::of(node, "a registry", known, notes)?;
    let host = fields.required("host", notes);
    let namespace = fields.text("namespace", notes);
    let repository = fields.text("repository", notes);
    Some(Registry { host: host?, namespace, repository })
}

/// A list of registries, sorted, each once.
pub(super) fn registries(
    fields: &Fields<'_>,
    key: &str,
    repository: bool,
    notes: &mut Notes,
) -> Vec<Registry> {
    let mut all: Vec<Registry> = Vec::new();
    for node in fields.items(key, notes) {
        let Some(registry) = registry(node, repository, notes) else { continue };
        if all.contains(&registry) {
            let repeated = registry.repository_of("…");
            notes.warn(Mistake::new(node.span.clone(), format!("the registry {repeated} stands here twice")));
        } else {
            all.push(registry);
        }
    }
    all.sort_by_key(Registry::base);
    all
}

pub(super) fn extra_or_instead(fields: &Fields<'_>, notes: &mut Notes) -> Registries {
    fields.either("extraRegistries", "overrideRegistries", notes);
    Registries {
        extra: registries(fields, "extraRegistries", true, notes),
        instead: registries(fields, "overrideRegistries", true, notes),
    }
}

fn platform(node: &Node, notes: &mut Notes) -> Option<String> {
    notes.word(node, "platforms", &PLATFORMS)
}

fn os(node: &Node, notes: &mut Notes) -> Option<(Os, Range<usize>)> {
    let known = ["name", "primary", "platforms", "extension", "tagDisplayName", "artifactDownloadURL"];
    let fields = Fields::of(node, "an operating system", &known, notes)?;
    let name = fields.required("name", notes);
    let primary = fields.flag("primary", notes).unwrap_or(false);
    let given = fields.get("platforms").is_some();
    let mut platforms: Vec<String> = Vec::new();
    for node in fields.items("platforms", notes) {
        platforms
            .extend(platform(node, notes).filter(|p| !platforms.contains(p)).into_iter().collect::<Vec<_>>());
    }
    if !given {
        platforms.push(PLATFORMS[0].into());
    }
    let shown = name.clone().unwrap_or_default();
    let extension = extension(&fields, &shown, notes);
    let tag_name = tag_name(&fields, &shown, notes);
    let url = fields.text("artifactDownloadURL", notes);
    if let (Some(url), Some(node)) = (&url, fields.get("artifactDownloadURL"))
        && !(url.starts_with("https://") || url.starts_with("http://"))
    {
        notes.wrong(
            Mistake::new(node.span.clone(), format!("`{url}` is no address")).label("expected https://…"),
        );
    }
    let os = Os { name: name?, primary, extension, tag_name, platforms, artifact_download_url: url };
    let at = fields.entry("primary").map_or(fields.span.clone(), |entry| entry.value.span.clone());
    Some((os, at))
}

/// The distributions under `os`, sorted by name. One alone is the primary one.
pub(super) fn systems(fields: &Fields<'_>, what: &str, notes: &mut Notes) -> Vec<Os> {
    let mut all: Vec<(Os, Range<usize>)> = Vec::new();
    for node in fields.items("os", notes) {
        let Some((os, at)) = os(node, notes) else { continue };
        let same = |o: &Os| (&o.name, &o.extension, &o.tag_name) == (&os.name, &os.extension, &os.tag_name);
        if all.iter().any(|(o, _)| same(o)) {
            notes.warn(Mistake::new(node.span.clone(), format!("{} stands here twice", os.name)));
        } else {
            all.push((os, at));
        }
    }
    let mut primary = all.iter().filter(|(os, _)| os.primary);
    if let (Some((first, first_at)), Some((second, second_at))) = (primary.next(), primary.next()) {
        notes.wrong(
            Mistake::new(second_at.clone(), format!("{what} has two primary operating systems"))
                .label(format!("{} as well", second.name))
                .context(first_at.clone(), format!("{} is one", first.name)),
        );
    }
    let mut found: Vec<Os> = all.into_iter().map(|(os, _)| os).collect();
    if let [only] = found.as_mut_slice() {
        only.primary = true;
    }
    let at = fields.entry("os").map_or(fields.span.clone(), |entry| entry.key_span.clone());
    if found.is_empty() {
        notes.warn(Mistake::new(at, format!("{what} has no operating system, so that its tags name none")));
    } else if !found.iter().any(|os| os.primary) {
        notes.warn(Mistake::new(
            at,
            format!("{what} has no primary operating system, so that the short tags are missing"),
        ));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Where in the file a part of a template stands.
fn within(node: &Node, text: &str, template: &str, at: Option<Range<usize>>) -> Range<usize> {
    let Some(at) = at else { return node.span.clone() };
    let written = text.get(node.span.clone()).unwrap_or_default();
    match written.find(template) {
        Some(offset) => node.span.start + offset + at.start..node.span.start + offset + at.end,
        None => node.span.clone(),
    }
}

/// Notes what is wrong with a template.
pub(super) fn template(node: &Node, text: &str, template: &str, names: &[&str], notes: &mut Notes) -> bool {
    let wrong = match jinja::check(template, names) {
        Ok(()) => return true,
        Err(wrong) => wrong,
    };
    let mistake =
        Mistake::new(within(node, text, template, wrong.at), format!("in this pattern: {}", wrong.why));
    notes.wrong(match &wrong.name {
        Some(name) => mistake.hint(nearest_hint(name, names)),
        None => mistake,
    });
    false
}

fn tag_pattern(node: &Node, text: &str, notes: &mut Notes) -> Option<TagPattern> {
    let fields = Fields::of(node, "a tag pattern", &["patterns", "only"], notes)?;
    if fields.get("patterns").is_none() {
        fields.missing("patterns", notes);
    }
    let mut patterns = Vec::new();
    for node in fields.items("patterns", notes) {
        let Some(pattern) = notes.text(node, "patterns") else { continue };
        if !jinja::well_spelled(&pattern) {
            notes.wrong(
                Mistake::new(node.span.clone(), format!("`{pattern}` cannot be a tag pattern"))
                    .label("expected a-z, 0-9, `-`, `_`, `.` and {{ … }}"),
            );
        } else if template(node, text, &pattern, &TAG_NAMES, notes) {
            patterns.push(pattern);
        }
    }
    let names = FILTERS.map(|(name, _)| name);
    let mut only = Vec::new();
    for node in fields.items("only", notes) {
        let word = notes.word(node, "only", &names);
        only.extend(
            FILTERS.iter().filter(|(name, _)| word.as_deref() == Some(*name)).map(|(_, filter)| *filter),
        );
    }
    if only.is_empty() {
        only.push(Filter::All);
    }
    Some(TagPattern { patterns, only })
}

pub(super) fn tag_patterns(fields: &Fields<'_>, text: &str, notes: &mut Notes) -> Vec<TagPattern> {
    let items = fields.items("tagPatterns", notes);
    items.iter().filter_map(|node| tag_pattern(node, text, notes)).collect()
}

/// Notes a dependency that stands in a list for the second time.
fn once(seen: &mut BTreeMap<String, Range<usize>>, name: &str, node: &Node, notes: &mut Notes) -> bool {
    if let Some(first) = seen.get(name) {
        notes.wrong(
            Mistake::new(node.span.clone(), format!("the dependency `{name}` stands here twice"))
                .context(first.clone(), "first here"),
        );
        return false;
    }
    seen.insert(name.into(), node.span.clone());
    true
}

fn dependency_name(fields: &Fields<'_>, notes: &mut Notes) -> Option<String> {
    match fields.get("dependency") {
        Some(node) => notes.word(node, "dependency", &KNOWN),
        None => {
            fields.missing("dependency", notes);
            None
        }
    }
}

pub(super) fn dependencies(fields: &Fields<'_>, notes: &mut Notes) -> Vec<Dependency> {
    let mut all = Vec::new();
    let mut seen = BTreeMap::new();
    for node in fields.items("dependencies", notes) {
        let Some(fields) = Fields::of(node, "a dependency", &["dependency", "version", "versions"], notes)
        else {
            continue;
        };
        let name = dependency_name(&fields, notes);
        fields.either("version", "versions", notes);
        let mut versions = Vec::new();
        let before = notes.mistakes.len();
        let given = fields.entry("versions").or_else(|| fields.entry("version"));
        match given.map(|entry| (&entry.value, &entry.value.value)) {
            None => fields.missing("version", notes),
            Some((_, Value::List(items))) => {
                versions.extend(items.iter().filter_map(|node| notes.text(node, "versions")));
            }
            Some((node, _)) => {
                let text = notes.text(node, "version").unwrap_or_default();
                versions.extend(text.split(',').map(str::trim).filter(|v| !v.is_empty()).map(str::to_owned));
            }
        }
        if let Some(entry) = given.filter(|_| versions.is_empty() && notes.mistakes.len() == before) {
            notes.wrong(Mistake::new(entry.value.span.clone(), "a dependency needs a version"));
        }
        if let Some(dependency) = name.filter(|name| once(&mut seen, name, node, notes)) {
            all.push(Dependency { dependency, versions });
        }
    }
    all
}

fn constraint(node: &Node, notes: &mut Notes) -> Option<Constraint> {
    let fields = Fields::of(node, "a constraint", &["latest", "count", "max", "min"], notes)?;
    let latest = fields.flag("latest", notes);
    let mut count = fields.number("count", 1, notes).and_then(|n| usize::try_from(n).ok());
    let (max, min) = (fields.version("max", notes), fields.version("min", notes));
    let at = |key: &str| fields.entry(key).map_or(node.span.clone(), |entry| entry.key_span.clone());
    let mut conflict = |key: &str, why: &str| notes.wrong(Mistake::new(at(key), why.to_owned()));
    if latest.is_some() && max.is_some() {
        conflict("max", "a constraint has `latest` or `max`, not both");
    }
    if latest.is_none() && max.is_none() && fields.entry("latest").is_none() && fields.entry("max").is_none()
    {
        conflict("min", "a constraint needs `latest` or `max`");
    }
    if count.is_some() && min.is_some() {
        conflict("count", "a constraint with both ends has no `count`");
    }
    for (key, bound) in [("max", &max), ("min", &min)] {
        if bound.as_deref().is_some_and(|text| DependencyVersion::parse(text).is_none()) {
            conflict(key, "this bound is not a version");
        }
    }
    let parsed = |bound: &Option<String>| bound.as_deref().and_then(DependencyVersion::parse);
    if let (Some(high), Some(low)) = (parsed(&max), parsed(&min))
        && low > high
    {
        conflict("min", "`min` is above `max`");
    }
    if latest == Some(true) && count.is_none() && max.is_none() && min.is_none() {
        count = Some(1);
    }
    Some(Constraint { latest, count, max, min })
}

pub(super) fn constraints(fields: &Fields<'_>, notes: &mut Notes) -> Vec<DependencyConstraint> {
    let mut all = Vec::new();
    let mut seen = BTreeMap::new();
    for node in fields.items("dependencyConstraints", notes) {
        let known = ["dependency", "constraint", "prerelease"];
        let Some(fields) = Fields::of(node, "a dependency constraint", &known, notes) else { continue };
        let name = dependency_name(&fields, notes);
        let prerelease = fields.flag("prerelease", notes);
        if prerelease.is_some()
            && let Some(name) = name.as_deref().filter(|name| !matches!(*name, "quarto" | "positron"))
            && let Some(entry) = fields.entry("prerelease")
        {
            let why = format!("`{name}` has no `prerelease`; quarto and positron have");
            notes.wrong(Mistake::new(entry.key_span.clone(), why));
        }
        let constraint = match fields.get("constraint") {
            Some(node) => constraint(node, notes),
            None => {
                fields.missing("constraint", notes);
                None
            }
        };
        if let (Some(dependency), Some(constraint)) =
            (name.filter(|name| once(&mut seen, name, node, notes)), constraint)
        {
            all.push(DependencyConstraint {
                dependency,
                constraint,
                prerelease: prerelease.unwrap_or(false),
            });
        }
    }
    all
}

/// Keys and values, both text.
pub(super) fn values(fields: &Fields<'_>, notes: &mut Notes) -> BTreeMap<String, String> {
    let Some(node) = fields.get("values") else { return BTreeMap::new() };
    let Value::Map(entries) = &node.value else {
        // Says what was expected.
        let _ = Fields::of(node, "`values`", &[], notes);
        return BTreeMap::new();
    };
    entries.iter().filter_map(|e| Some((e.key.clone(), notes.text(&e.value, &e.key)?))).collect()
}

pub(super) fn build_secrets(fields: &Fields<'_>, notes: &mut Notes) -> Vec<BuildSecret> {
    let mut all = Vec::new();
    for node in fields.items("buildSecrets", notes) {
        let Some(fields) = Fields::of(node, "a build secret", &["id", "envVar"], notes) else { continue };
        for key in ["id", "envVar"] {
            if fields.get(key).is_none() {
                fields.missing(key, notes);
            }
        }
        let id = fields.spelled("id", false, jinja::fits_tag, notes);
        let env_var = fields.spelled("envVar", false, |c| c.is_ascii_alphanumeric() || c == '_', notes);
        if let (Some(id), Some(env_var)) = (id, env_var) {
            all.push(BuildSecret { id, env_var });
        }
    }
    all
}

/// Options of the vendor's tools: keys are checked, and what says how the image is run is read out.
pub(super) fn options(fields: &Fields<'_>, notes: &mut Notes) -> Vec<ToolOption> {
    const TOOLS: [(&str, &[&str]); 4] = [
        ("goss", &["tool", "runtimeOptions", "command", "wait", "timeout"]),
        (
            "soci",
            &[
                "tool",
                "enabled",
                "span_size",
                "min_layer_size",
                "prefetch_files",
                "optimizations",
                "platforms",
            ],
        ),
        (
            "hadolint",
            &["tool", "failureThreshold", "ignored", "labelSchema", "noFail", "override", "strictLabels"],
        ),
        (
            "wizcli",
            &["tool", "projects", "policies", "tags", "scanOsManagedLibraries", "scanGoStandardLibrary"],
        ),
    ];
    let mut all = Vec::new();
    for node in fields.items("options", notes) {
        let every: Vec<&str> = TOOLS.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
        let mut quiet = Notes::default();
        let Some(loose) = Fields::of(node, "an option", &every, &mut quiet) else {
            notes.mistakes.append(&mut quiet.mistakes);
            continue;
        };
        let Some(named) = loose.get("tool") else {
            loose.missing("tool", notes);
            continue;
        };
        let Some(tool) = notes.word(named, "tool", &TOOLS.map(|(name, _)| name)) else { continue };
        let known = TOOLS.iter().find(|(name, _)| *name == tool).map_or(&[][..], |(_, keys)| keys);
        let Some(fields) = Fields::of(node, "this tool's option", known, notes) else { continue };
        let goss = tool == "goss";
        if goss {
            fields.number("timeout", 0, notes);
        }
        all.push(ToolOption {
            runtime_options: fields.text("runtimeOptions", notes),
            command: goss.then(|| fields.text("command", notes).unwrap_or_else(|| "sleep infinity".into())),
            wait_seconds: goss.then(|| fields.number("wait", 0, notes).unwrap_or(0)),
            tool,
        });
    }
    all
}
