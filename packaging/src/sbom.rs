//! A CycloneDX bill of materials: every crate that is linked into what is shipped.

use super::failure::{Failure, Tried, output, read};
use super::workspace;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The whole file. The same lock file makes the same bytes.
pub fn text() -> Tried<String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
    ]);
    let metadata = output("ask cargo for the dependencies", cargo.current_dir(workspace()))?;
    let metadata: Value = serde_json::from_str(&metadata)
        .map_err(|error| Failure(format!("understand cargo metadata: {error}")))?;
    let lock: toml::Table = read(&workspace().join("Cargo.lock"))?
        .parse()
        .map_err(|error| Failure(format!("understand Cargo.lock: {error}")))?;
    let text = serde_json::to_string_pretty(&bill(&metadata, &checksums(&lock)))
        .map_err(|error| Failure(format!("write the bill of materials: {error}")))?;
    Ok(text + "\n")
}

type Checksums = BTreeMap<(String, String), String>;

fn checksums(lock: &toml::Table) -> Checksums {
    let packages = lock.get("package").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let field = |package: &toml::Value, name: &str| {
        package.get(name).and_then(toml::Value::as_str).map(str::to_owned)
    };
    packages
        .iter()
        .filter_map(|p| Some(((field(p, "name")?, field(p, "version")?), field(p, "checksum")?)))
        .collect()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn bill(metadata: &Value, checksums: &Checksums) -> Value {
    let packages: BTreeMap<&str, &Value> =
        list(metadata, "packages").iter().map(|p| (word(p, "id"), p)).collect();
    let nodes: BTreeMap<&str, &Value> = metadata
        .get("resolve")
        .map_or(&[][..], |r| list(r, "nodes"))
        .iter()
        .map(|n| (word(n, "id"), n))
        .collect();
    // Below the root of the workspace, wherever that lies.
    let root = word(metadata, "workspace_root");
    let shipped = |package: &&Value| {
        let path = word(package, "manifest_path").strip_prefix(root).unwrap_or_default();
        package.get("source").is_none_or(Value::is_null)
            && (path.starts_with("/daemon/") || path.starts_with("/plugins/"))
    };
    let mut open: Vec<&str> =
        packages.values().copied().filter(|p| shipped(p)).map(|p| word(p, "id")).collect();
    let mut linked: BTreeSet<&str> = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !linked.insert(id) {
            continue;
        }
        let Some(node) = nodes.get(id) else { continue };
        for dependency in list(node, "deps") {
            let kinds = list(dependency, "dep_kinds");
            // What only builds or tests is not in the package.
            if kinds.iter().any(|kind| kind.get("kind").is_none_or(Value::is_null)) {
                open.push(word(dependency, "pkg"));
            }
        }
    }
    let mut components: Vec<Value> =
        linked.iter().filter_map(|id| packages.get(id)).map(|p| component(p, checksums)).collect();
    components.sort_by_key(|c| (word(c, "name").to_owned(), word(c, "version").to_owned()));
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application", "name": "connect-migrator", "version": env!("CARGO_PKG_VERSION"),
        } },
        "components": components,
    })
}

fn component(package: &Value, checksums: &Checksums) -> Value {
    let (name, version) = (word(package, "name"), word(package, "version"));
    let mut out = Map::new();
    out.insert("type".into(), "library".into());
    out.insert("name".into(), name.into());
    out.insert("version".into(), version.into());
    let license = word(package, "license");
    if !license.is_empty() {
        out.insert("licenses".into(), json!([{ "expression": license.replace('/', " OR ") }]));
    }
    if let Some(checksum) = checksums.get(&(name.to_owned(), version.to_owned())) {
        out.insert("purl".into(), format!("pkg:cargo/{name}@{version}").into());
        out.insert("hashes".into(), json!([{ "alg": "SHA-256", "content": checksum }]));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_what_is_linked_and_nothing_that_only_tests() {
        let text = text().unwrap();
        let bill: Value = serde_json::from_str(&text).unwrap();
        let find = |name: &str| list(&bill, "components").iter().find(|c| word(c, "name") == name);
        let zbus = find("zbus").unwrap();
        assert!(word(zbus, "purl").starts_with("pkg:cargo/zbus@"));
        assert_eq!(list(zbus, "hashes").len(), 1);
        assert!(find("connect-migrator-docker").is_some());
        for name in ["insta", "proptest", "connect-migrator-rig", "connect-standin"] {
            assert!(find(name).is_none(), "{name} is not shipped");
        }
        assert_eq!(text, super::text().unwrap());
    }
}
