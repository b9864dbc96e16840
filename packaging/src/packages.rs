//! The .rpm from the description of the .deb: one list of files, one version.

use super::failure::{Failure, Tried, output, read, write};
use super::workspace;
use std::path::Path;
use std::process::Command;
use toml::{Table, Value};

/// Makes the .rpm.
pub fn rpm(tool: &Path, programs: &Path, out: &Path) -> Tried {
    let manifest: Table = read(&workspace().join("daemon/Cargo.toml"))?
        .parse()
        .map_err(|error| Failure(format!("understand daemon/Cargo.toml: {error}")))?;
    let description = workspace().join(programs).join("share/rpm.toml");
    let text = toml::to_string(&description_of(&manifest)?)
        .map_err(|error| Failure(format!("write the description of the .rpm: {error}")))?;
    write(&description, text.as_bytes())?;
    let out = workspace().join(out);
    std::fs::create_dir_all(&out).map_err(|error| Failure(format!("make {}: {error}", out.display())))?;
    let mut generate = Command::new(workspace().join(tool));
    generate.current_dir(workspace()).args([
        "--package",
        "daemon",
        "--auto-req",
        "builtin",
        "--metadata-overwrite",
    ]);
    // What stands behind the `#` is the table in it.
    generate
        .arg(format!("{}#package.metadata.generate-rpm", description.display()))
        .arg("--output")
        .arg(&out)
        .env("SOURCE_DATE_EPOCH", epoch()?);
    output("pack the .rpm", &mut generate)?;
    Ok(())
}

/// When the commit was made: what is built from it twice is the same twice.
fn epoch() -> Tried<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(workspace());
    Ok(output("ask git for the time of the commit; set SOURCE_DATE_EPOCH", &mut git)?.trim().to_owned())
}

/// What cargo-generate-rpm reads, from `package.metadata.deb`.
fn description_of(manifest: &Table) -> Tried<Table> {
    let wrong = || Failure("find package.metadata.deb.assets in daemon/Cargo.toml".into());
    let deb = manifest
        .get("package")
        .and_then(|package| package.get("metadata")?.get("deb"))
        .and_then(Value::as_table)
        .ok_or_else(wrong)?;
    let mut assets = Vec::new();
    for asset in deb.get("assets").and_then(Value::as_array).ok_or_else(wrong)? {
        let part = |place: usize| asset.get(place).and_then(Value::as_str);
        let (Some(source), Some(dest), Some(mode)) = (part(0), part(1), part(2)) else { return Err(wrong()) };
        // Debian's own places and names.
        if dest.contains("lintian") {
            continue;
        }
        let source = source.strip_prefix("../").unwrap_or(source);
        let mut file = Table::new();
        file.insert("source".into(), source.into());
        file.insert("dest".into(), format!("/{dest}").into());
        file.insert("mode".into(), mode.into());
        if dest.starts_with("usr/share/doc/") || dest.starts_with("usr/share/man/") {
            file.insert("doc".into(), true.into());
        }
        assets.push(Value::Table(file));
    }
    let mut rpm = Table::new();
    rpm.insert("assets".into(), assets.into());
    rpm.insert("summary".into(), "Moves a Posit Connect server from its host into a container".into());
    rpm.insert(
        "description".into(),
        deb.get("extended-description").and_then(Value::as_str).unwrap_or_default().into(),
    );
    for (key, file) in [
        ("pre_install_script", "pre"),
        ("post_install_script", "post"),
        ("pre_uninstall_script", "preun"),
        ("post_uninstall_script", "postun"),
    ] {
        let script = read(&workspace().join("packaging/rpm").join(file))?;
        rpm.insert(key.into(), script.replace("@VERSION@", env!("CARGO_PKG_VERSION")).into());
    }
    let requires =
        [("systemd", ">= 239"), ("dbus", "*")].map(|(name, version)| (name.to_owned(), version.into()));
    rpm.insert("requires".into(), Table::from_iter(requires).into());
    rpm.insert("recommends".into(), Table::from_iter([("polkit".to_owned(), "*".into())]).into());
    Ok(nested(["package", "metadata", "generate-rpm"], rpm))
}

fn nested(names: [&str; 3], inner: Table) -> Table {
    names
        .iter()
        .rev()
        .fold(inner, |inner, name| Table::from_iter([((*name).to_owned(), Value::Table(inner))]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rpm_holds_what_the_deb_holds_under_the_same_names() {
        let manifest: Table = read(&workspace().join("daemon/Cargo.toml")).unwrap().parse().unwrap();
        let description = description_of(&manifest).unwrap();
        let rpm = &description["package"]["metadata"]["generate-rpm"];
        let files: Vec<&str> =
            rpm["assets"].as_array().unwrap().iter().map(|a| a["dest"].as_str().unwrap()).collect();
        for asset in manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap() {
            let dest = asset[1].as_str().unwrap();
            assert!(dest.contains("lintian") || files.contains(&format!("/{dest}").as_str()), "{dest}");
        }
        let preun = rpm["pre_uninstall_script"].as_str().unwrap();
        assert!(preun.contains("open-migrations"), "{preun}");
    }
}
