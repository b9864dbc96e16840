//! Every construct of a bakery file: what follows from it, and how mistakes are shown.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test"
)]

use connect_migrator_images::bakery::{Available, Kind, Mistakes, Read, Target, read_text};
use std::fmt::Write;

const HEAD: &str = "repository: {url: github.com/example/images}\n";

fn good(text: &str) -> Read {
    read_text("bakery.yaml", text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn bad(text: &str) -> Mistakes {
    match read_text("bakery.yaml", text) {
        Ok(_) => panic!("was taken:\n{text}"),
        Err(mistakes) => mistakes,
    }
}

fn targets(text: &str) -> Vec<Target> {
    good(text).bakery.targets(&Available::new()).unwrap()
}

/// A file with one image, whose keys are `keys`.
fn with_image(keys: &str) -> String {
    format!("{HEAD}registries: [{{host: docker.io, namespace: posit}}]\nimages:\n- name: connect\n{keys}")
}

/// A file as Posit's own is made.
const CONNECT: &str = r#"
repository:
  url: github.com/example/images
  maintainer: Example Team <team@example.com>
  authors: [{name: Ann, email: ann@example.com}, Bob <bob@example.com>]
registries:
  - {host: ghcr.io, namespace: example-dev}
  - {host: docker.io, namespace: example}
images:
  - name: connect
    variants:
      - {name: Standard, extension: std, tagDisplayName: std, primary: true, options: [{tool: goss, wait: 20, runtimeOptions: "--privileged"}]}
      - {name: Minimal, extension: min, tagDisplayName: min}
    versions:
      - name: 2026.03.1
        subpath: '2026.03'
        latest: true
        os: [{name: Ubuntu 22.04}, {name: Ubuntu 24.04, primary: true, platforms: [linux/amd64, linux/arm64]}]
        dependencies: [{dependency: R, version: 4.5.3}, {dependency: python, versions: ["3.14.3", "3.13.1"]}]
      - name: 2025.11.0
        os: [{name: Ubuntu 22.04}]
    devVersions:
      - sourceType: stream
        product: connect
        stream: daily
        os: [{name: Ubuntu 24.04}]
        overrideRegistries: [{host: ghcr.io, namespace: example-dev, repository: connect-preview}]
  - name: connect-content
    variants: [{name: base, primary: true}, {name: pro}]
    matrix:
      namePattern: "R{{ Dependencies.R }}-python{{ Dependencies.python }}"
      dependencies: [{dependency: R, versions: [4.5.2, 4.5.3, 4.4.3]}]
      dependencyConstraints: [{dependency: python, constraint: {min: 3.12, latest: true}}]
      os: [{name: Ubuntu 24.04}]
"#;

#[test]
fn the_whole_matrix_of_a_file_like_posits() {
    let read = good(CONNECT);
    let available =
        Available::from([("python".into(), ["3.11.9", "3.12.1", "3.12.12"].map(String::from).to_vec())]);
    let mut shown = String::new();
    for target in read.bakery.targets(&available).unwrap() {
        let none = || "-".to_string();
        writeln!(
            shown,
            "{} {} {} {} {} {} {}{}\n    {}",
            target.image,
            target.version,
            target.variant.unwrap_or_else(none),
            target.os.unwrap_or_else(none),
            target.platforms.join("+"),
            target
                .dependencies
                .iter()
                .map(|d| format!("{}={}", d.dependency, d.versions.join(",")))
                .collect::<Vec<_>>()
                .join(" "),
            target.containerfile,
            target.open.map(|open| format!(" [{open}]")).unwrap_or_default(),
            target.tags.join("\n    "),
        )
        .unwrap();
    }
    insta::assert_snapshot!(shown);
    insta::assert_snapshot!("warnings", read.warnings.render_as_warnings(false));
}

#[test]
fn a_matrix_whose_versions_are_looked_up_is_open_without_them() {
    let all = targets(CONNECT);
    let open: Vec<&Target> = all.iter().filter(|t| t.kind == Kind::Matrix).collect();
    assert_eq!(open.len(), 2);
    assert!(open[0].open.as_deref().unwrap().contains("python (from 3.12, up to the latest)"), "{open:?}");
    assert!(open[0].tags.is_empty(), "{open:?}");
}

#[test]
fn tags_follow_from_each_construct() {
    let one = |keys: &str, n: usize| -> Vec<String> {
        targets(&with_image(keys))[n].tags.iter().map(|t| t.replace("docker.io/posit/connect:", "")).collect()
    };
    for (what, keys, tags) in [
        ("no variant and no distribution", "  versions: [{name: 1.2.3}]\n", vec!["1.2.3"]),
        ("metadata of a version", "  versions: [{name: 1.2.3+4.pro1}]\n", vec!["1.2.3", "1.2.3-4.pro1"]),
        (
            "the only distribution is the primary one",
            "  versions: [{name: 1.2.3, os: [{name: Ubuntu 24.04}]}]\n",
            vec!["1.2.3", "1.2.3-ubuntu-24.04"],
        ),
        (
            "of two distributions none is",
            "  versions: [{name: 1.2.3, os: [{name: Debian 12}, {name: Debian 13}]}]\n",
            vec!["1.2.3-debian-12"],
        ),
        (
            "the latest version has moving tags",
            "  versions: [{name: 1.2.3, latest: true, os: [{name: RHEL 9, tagDisplayName: el9}]}]\n",
            vec!["1.2.3", "1.2.3-el9", "el9", "latest"],
        ),
        (
            "own patterns stand instead of the vendor's",
            "  tagPatterns: [{patterns: ['v{{ Version | stripPatch }}', '{{ Name }}-{{ Variant }}']}]\n  versions: [{name: 1.2.3}]\n",
            vec!["v1.2"],
        ),
        (
            "a variant's patterns stand beside the image's",
            "  tagPatterns: [{patterns: [a]}]\n  variants: [{name: X, tagPatterns: [{patterns: [b], only: [latest]}, {patterns: [c]}]}]\n  versions: [{name: 1.2.3}]\n",
            vec!["a", "c"],
        ),
        (
            "all makes other filters of no account",
            "  tagPatterns: [{patterns: [a], only: [latest, all]}, {patterns: [b], only: [latest, primaryOS]}]\n  versions: [{name: 1.2.3}]\n",
            vec!["a"],
        ),
    ] {
        assert_eq!(one(keys, 0), tags, "{what}");
    }
}

#[test]
fn registries_of_a_version_come_before_the_images_and_these_before_the_files() {
    let version = "versions: [{name: '1'";
    for (keys, tags) in [
        (format!("  {version}}}]\n"), vec!["docker.io/posit/connect:1"]),
        (
            format!("  extraRegistries: [{{host: q, repository: c}}]\n  {version}}}]\n"),
            vec!["docker.io/posit/connect:1", "q/c:1"],
        ),
        (format!("  overrideRegistries: [{{host: q}}]\n  {version}}}]\n"), vec!["q/connect:1"]),
        (
            format!("  overrideRegistries: [{{host: q}}]\n  {version}, extraRegistries: [{{host: a}}]}}]\n"),
            vec!["a/connect:1", "q/connect:1"],
        ),
        (
            format!(
                "  extraRegistries: [{{host: q}}]\n  {version}, overrideRegistries: [{{host: a, namespace: n}}]}}]\n"
            ),
            vec!["a/n/connect:1"],
        ),
    ] {
        assert_eq!(targets(&with_image(&keys))[0].tags, tags, "{keys}");
    }
    let none = format!("{HEAD}images: [{{name: x, versions: [{{name: '1'}}]}}]\n");
    assert_eq!(targets(&none)[0].tags, ["x:1"]);
}

#[test]
fn a_matrix_combines_dependencies_and_values() {
    let keys = "  matrix:\n    dependencies: [{dependency: R, version: '4.4.1, 4.4.3'}]\n    values: {go: ['1.24', '1.25'], flavour: plain}\n";
    let all = targets(&with_image(keys));
    let names: Vec<&str> = all.iter().map(|t| t.version.as_str()).collect();
    assert_eq!(
        names,
        [
            "R4.4.1-flavourplain-go1.24",
            "R4.4.1-flavourplain-go1.25",
            "R4.4.3-flavourplain-go1.24",
            "R4.4.3-flavourplain-go1.25"
        ]
    );
    assert_eq!(
        all.iter().filter(|t| t.latest).map(|t| &t.version).collect::<Vec<_>>(),
        ["R4.4.3-flavourplain-go1.25"]
    );
    let short: Vec<&Target> = all
        .iter()
        .filter(|t| t.tags.contains(&"docker.io/posit/connect:R4.4-flavourplain-go1.24".into()))
        .collect();
    assert_eq!(short.len(), 1, "one row has the tag without patch release");
    assert_eq!(short[0].version, "R4.4.3-flavourplain-go1.24");
    assert_eq!(all[0].build_args["R_VERSION"], "4.4.1");
    assert_eq!(all[0].build_args["GO"], "1.24");
    assert_eq!(all[0].containerfile, "connect/matrix/Containerfile");
}

#[test]
fn defaults_are_filled_in() {
    let read = good(&with_image(
        "  displayName: null\n  versions: [{name: My Version, os: [{name: 'Red Hat 9'}]}]\n",
    ));
    let image = &read.bakery.images[0];
    assert_eq!((image.display_name.as_str(), image.subpath.as_str()), ("Connect", "connect"));
    assert_eq!(image.versions[0].subpath, "my-version");
    let os = &image.versions[0].os[0];
    assert_eq!((os.extension.as_str(), os.tag_name.as_str(), os.primary), ("redhat9", "red-hat-9", true));
    assert_eq!(os.platforms, ["linux/amd64"]);
    let repository = &read.bakery.repository;
    assert_eq!(repository.url, "https://github.com/example/images");
    assert_eq!(
        (repository.vendor.as_str(), repository.maintainer.email.as_str()),
        ("Posit Software, PBC", "docker@posit.co")
    );
    let options = good(CONNECT).bakery.images[0].variants[0].options.clone();
    assert_eq!((options[0].wait_seconds, options[0].command.as_deref()), (Some(20), Some("sleep infinity")));
}

/// Where a mistake stands: the text under its caret.
fn under<'t>(text: &'t str, mistakes: &Mistakes) -> Vec<(&'t str, String)> {
    mistakes.items().iter().map(|m| (&text[m.span.clone()], m.message.clone())).collect()
}

#[test]
fn every_mistake_is_found_at_its_place() {
    let os = "versions: [{name: '1', os: ";
    let dependency = "versions: [{name: '1', dependencies: ";
    let constraint = |c: &str| format!("  dependencyConstraints: [{{dependency: R, constraint: {c}}}]\n");
    let cases: Vec<(String, &str, &str)> = vec![
        ("  vesrions: []\n".into(), "vesrions", "has no `vesrions`"),
        ("  versions: [{name: 3.14}]\n".into(), "3.14", "is a number"),
        ("  versions: [{name: ''}]\n".into(), "''", "empty"),
        ("  versions: [{latest: true}]\n".into(), "latest", "needs `name`"),
        ("  versions: {name: x}\n".into(), "name", "is a mapping"),
        ("  versions: [{name: a}, {name: a}]\n".into(), "a", "two versions"),
        ("  variants: [{name: a}, {name: a}]\n".into(), "a", "two variants"),
        ("  variants: [{name: a, extension: 'x y'}]\n".into(), "'x y'", "cannot be"),
        ("  variants: [{name: a, primary: yes}]\n".into(), "yes", "is text"),
        ("  versions: [{name: a}]\n  matrix: {values: {x: y}}\n".into(), "matrix", "`versions` and `matrix`"),
        ("  extraRegistries: [{host: a}]\n  overrideRegistries: [{host: b}]\n".into(), "overrideRegistries", "`extraRegistries` and"),
        ("  extraRegistries: [{host: a, port: 1}]\n".into(), "port", "has no `port`"),
        ("  extraRegistries: [{namespace: a}]\n".into(), "namespace", "needs `host`"),
        (format!("  {os}[{{name: A, primary: true}}, {{name: B, primary: true}}]}}]\n"), "true", "two primary"),
        (format!("  {os}[{{name: A, platforms: [linux/amd65]}}]}}]\n"), "linux/amd65", "cannot be"),
        (format!("  {os}[{{name: A, artifactDownloadURL: ftp://x}}]}}]\n"), "ftp://x", "no address"),
        (format!("  {dependency}[{{dependency: ruby, version: '1'}}]}}]\n"), "ruby", "cannot be"),
        (format!("  {dependency}[{{dependency: R}}]}}]\n"), "dependency", "needs `version`"),
        (format!("  {dependency}[{{dependency: R, version: 4.5}}]}}]\n"), "4.5", "is a number"),
        (format!("  {dependency}[{{dependency: R, version: '1', versions: ['1']}}]}}]\n"), "versions", "`version` and"),
        (format!("  {dependency}[{{dependency: R, version: '1'}}, {{dependency: R, version: '2'}}]}}]\n"), "dependency", "twice"),
        (constraint("{latest: true, max: '4'}"), "max", "not both"),
        (constraint("{min: '4'}"), "min", "needs `latest` or `max`"),
        (constraint("{latest: true, min: '4', count: 2}"), "count", "no `count`"),
        (constraint("{max: '4', min: '5'}"), "min", "above"),
        (constraint("{max: x}"), "max", "not a version"),
        (constraint("{latest: true, count: 0}"), "0", "is a number"),
        ("  dependencyConstraints: [{dependency: R, constraint: {latest: true}, prerelease: true}]\n".into(), "prerelease", "has no `prerelease`"),
        ("  dependencyConstraints: [{dependency: R}]\n".into(), "dependency", "needs `constraint`"),
        ("  tagPatterns: [{patterns: ['{{ Verson }}']}]\n".into(), "Verson", "not known"),
        ("  tagPatterns: [{patterns: ['Latest']}]\n".into(), "'Latest'", "cannot be a tag pattern"),
        ("  tagPatterns: [{patterns: [a], only: [primaryOs]}]\n".into(), "primaryOs", "cannot be"),
        ("  tagPatterns: [{only: [all]}]\n".into(), "only", "needs `patterns`"),
        ("  matrix: {os: [{name: A}]}\n".into(), "os", "a matrix needs"),
        (
            "  matrix: {dependencies: [{dependency: R, version: '1'}], dependencyConstraints: [{dependency: R, constraint: {latest: true}}]}\n".into(),
            "dependencyConstraints",
            "stands in",
        ),
        ("  matrix: {values: {x: y}, namePattern: '{{ Depends.R }}'}\n".into(), "Depends", "not known"),
        ("  devVersions: [{sourceType: stream, product: connect}]\n".into(), "sourceType", "needs `channel`"),
        ("  devVersions: [{sourceType: stream, product: conect, channel: daily}]\n".into(), "conect", "cannot be"),
        ("  devVersions: [{sourceType: stream, product: connect, channel: daily, stream: daily}]\n".into(), "stream", "`channel` and"),
        ("  devVersions: [{sourceType: dependency, dependency: R, channel: release}]\n".into(), "release", "cannot be"),
        ("  devVersions: [{sourceType: dependency, product: connect}]\n".into(), "sourceType", "needs `dependency`"),
        ("  options: [{tool: gos}]\n".into(), "gos", "cannot be"),
        ("  options: [{tool: goss, wait: soon}]\n".into(), "soon", "is text"),
        ("  options: [{tool: soci, wait: 2}]\n".into(), "wait", "has no `wait`"),
        ("  options: [{wait: 2}]\n".into(), "wait", "needs `tool`"),
        ("  buildSecrets: [{id: 'a b', envVar: X}]\n".into(), "'a b'", "cannot be"),
        ("  buildSecrets: [{id: a}]\n".into(), "id", "needs `envVar`"),
        ("  subpath: ../x\n".into(), "../x", "no folder below"),
        ("  versions: [{name: a, values: {x: 1}}]\n".into(), "1", "is a number"),
        ("- name: connect\n".into(), "connect", "two images"),
    ];
    for (keys, at, why) in &cases {
        let text = with_image(keys);
        let mistakes = bad(&text);
        let found = under(&text, &mistakes);
        assert!(found.iter().any(|(under, message)| under == at && message.contains(why)), "{keys}{found:?}");
    }
    for (text, at, why) in [
        ("images: []\n", "images", "needs `repository`"),
        ("repository: {vendor: x}\n", "vendor", "needs `url`"),
        ("repository: {url: x, maintainer: nobody}\n", "nobody", "mail address"),
        ("repository: {url: x, authors: [{name: a}]}\n", "name", "needs `email`"),
        (
            "repository: {url: x}\nregistries: [{host: a, repository: b}]\n",
            "repository",
            "has no `repository`",
        ),
        ("repository: {url: x}\nregestries: []\n", "regestries", "has no `regestries`"),
        ("[1]\n", "[", "is a list"),
    ] {
        let mistakes = bad(text);
        let found = under(text, &mistakes);
        assert!(
            found.iter().any(|(under, message)| under == &at && message.contains(why)),
            "{text}{found:?}"
        );
    }
}

#[test]
fn mistakes_are_drawn_with_line_and_caret() {
    let text = "repository:\n  url: example.com\nimages:\n  - name: connect\n    vesrions:\n      - name: 2026.03.1\n    extraRegistries: []\n    overrideRegistries: []\n    tagPatterns:\n      - patterns: [\"{{ Verison }}-x\"]\n";
    let mistakes = bad(text);
    assert_eq!(mistakes.position(&mistakes.items()[0]), (5, 5));
    insta::assert_snapshot!(mistakes.render(false));
}

#[test]
fn every_warning_is_told() {
    for (keys, why) in [
        ("  versions: [{name: a}]\n", "no operating system"),
        ("  versions: [{name: a, os: [{name: A}, {name: B}]}]\n", "no primary"),
        ("  versions: [{name: a, os: [{name: A}, {name: A}]}]\n", "twice"),
        ("  extraRegistries: [{host: a}, {host: a}]\n", "twice"),
        ("  description: x\n", "no versions"),
        ("  dependencyConstraints: []\n  matrix: {values: {x: y}}\n", "no notice"),
        ("  devVersions: [{sourceType: stream, product: connect, stream: daily}]\n", "old name"),
    ] {
        let read = good(&with_image(keys));
        assert!(read.warnings.items().iter().any(|w| w.message.contains(why)), "{keys}: {}", read.warnings);
    }
}
