//! The .rpm from the description of the .deb: one list of files, one version.

use super::failure::{Failure, Tried, output, read, write};
use super::workspace;
use std::path::Path;
use std::process::Command;
use toml::{Table, Value};

/// One of the packages.
struct Package {
    /// The folder of its crate.
    folder: &'static str,
    summary: &'static str,
    /// There are programs in it, made for one kind of processor.
    programs: bool,
    /// Its scripts, in `packaging/rpm`.
    scripts: &'static [(&'static str, &'static str)],
    requires: &'static [(&'static str, &'static str)],
    recommends: &'static [(&'static str, &'static str)],
}

/// Where the description of the .deb finds what is built.
const BUILT: &str = "target/release/";
/// At the root of the workspace.
const LICENCE: &str = "LICENSE";

const PACKAGES: [Package; 2] = [
    Package {
        folder: "daemon",
        summary: "Moves a Posit Connect server from its host into a container",
        programs: true,
        scripts: &[
            ("pre_install_script", "pre"),
            ("post_install_script", "post"),
            ("pre_uninstall_script", "preun"),
            ("post_uninstall_script", "postun"),
        ],
        requires: &[("systemd", ">= 239"), ("dbus", "*")],
        recommends: &[("polkit", "*")],
    },
    Package {
        folder: "sdk",
        summary: "Header and schema for plugins of connect-migrator",
        programs: false,
        scripts: &[],
        requires: &[],
        recommends: &[("connect-migrator", "*")],
    },
];

/// What is built for them, in the folder of the built programs.
pub fn programs() -> Tried<Vec<String>> {
    let manifest = manifest("daemon")?;
    let assets = deb(&manifest).and_then(|deb| deb.get("assets")?.as_array());
    let assets = assets.ok_or_else(|| no_assets("daemon"))?.iter();
    let sources = assets.filter_map(|asset| asset.get(0)?.as_str()?.strip_prefix(BUILT));
    Ok(sources.filter(|source| !source.contains('/')).map(str::to_owned).collect())
}

/// The crates whose programs they hold.
pub fn shipped() -> Tried<Vec<String>> {
    let name = |program: String| match program.strip_prefix("lib").and_then(|name| name.strip_suffix(".so")) {
        Some(name) => name.replace('_', "-"),
        None => program,
    };
    Ok(programs()?.into_iter().map(name).collect())
}

/// Makes the .rpm of each package, from programs in a folder of the workspace.
pub fn rpm(tool: &Path, programs: &Path, out: &Path) -> Tried {
    let out = workspace().join(out);
    std::fs::create_dir_all(&out).map_err(|error| Failure(format!("make {}: {error}", out.display())))?;
    PACKAGES.iter().try_for_each(|package| one_rpm(package, tool, programs, &out))
}

fn one_rpm(package: &Package, tool: &Path, programs: &Path, out: &Path) -> Tried {
    let folder = package.folder;
    let text = toml::to_string(&description_of(package, &manifest(folder)?, programs)?)
        .map_err(|error| Failure(format!("write the description of the .rpm of {folder}: {error}")))?;
    let description = workspace().join(programs).join(format!("share/rpm-{folder}.toml"));
    write(&description, text.as_bytes())?;
    let mut generate = Command::new(workspace().join(tool));
    generate.current_dir(workspace()).args([
        "--package",
        folder,
        "--auto-req",
        if package.programs { "builtin" } else { "no" },
    ]);
    if !package.programs {
        generate.args(["--arch", "noarch"]);
    }
    // What stands behind the `#` is the table in it.
    generate
        .arg("--metadata-overwrite")
        .arg(format!("{}#package.metadata.generate-rpm", description.display()))
        .arg("--output")
        .arg(out)
        .env("SOURCE_DATE_EPOCH", epoch()?);
    output("pack the .rpm", &mut generate)?;
    Ok(())
}

fn manifest(folder: &str) -> Tried<Table> {
    let path = workspace().join(folder).join("Cargo.toml");
    let text = read(&path)?;
    text.parse().map_err(|error| Failure(format!("understand {}: {error}", path.display())))
}

/// When the commit was made: what is built from it twice is the same twice.
pub fn epoch() -> Tried<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]).current_dir(workspace());
    Ok(output("ask git for the time of the commit; set SOURCE_DATE_EPOCH", &mut git)?.trim().to_owned())
}

/// What cargo-generate-rpm reads, from `package.metadata.deb`.
fn description_of(package: &Package, manifest: &Table, programs: &Path) -> Tried<Table> {
    let wrong = || no_assets(package.folder);
    let deb = deb(manifest).ok_or_else(wrong)?;
    let mut assets = Vec::new();
    for asset in deb.get("assets").and_then(Value::as_array).ok_or_else(wrong)? {
        let part = |place: usize| asset.get(place).and_then(Value::as_str);
        let (Some(source), Some(dest), Some(mode)) = (part(0), part(1), part(2)) else { return Err(wrong()) };
        // Debian's own places and names.
        if dest.contains("lintian") {
            continue;
        }
        // From the root of the workspace.
        let source = match (source.strip_prefix("../"), source.strip_prefix(BUILT)) {
            (Some(source), _) => source.to_owned(),
            (_, Some(built)) => programs.join(built).display().to_string(),
            _ => format!("{}/{source}", package.folder),
        };
        let mut file = Table::new();
        file.insert("source".into(), source.into());
        file.insert("dest".into(), on_rpm(dest).into());
        file.insert("mode".into(), mode.into());
        if dest.starts_with("usr/share/doc/") || dest.starts_with("usr/share/man/") {
            file.insert("doc".into(), true.into());
        }
        assets.push(Value::Table(file));
    }
    let name = deb.get("name").and_then(Value::as_str).ok_or_else(wrong)?;
    let name = name.strip_suffix("-dev").map_or_else(|| name.to_owned(), |name| format!("{name}-devel"));
    // In the .deb it is the file `copyright`, which the packer makes.
    let mut licence = Table::new();
    licence.insert("source".into(), LICENCE.into());
    licence.insert("dest".into(), format!("/usr/share/licenses/{name}/{LICENCE}").into());
    licence.insert("mode".into(), "644".into());
    licence.insert("doc".into(), true.into());
    assets.push(Value::Table(licence));
    let mut rpm = Table::new();
    rpm.insert("assets".into(), assets.into());
    rpm.insert("name".into(), name.into());
    rpm.insert("summary".into(), package.summary.into());
    rpm.insert(
        "description".into(),
        deb.get("extended-description").and_then(Value::as_str).unwrap_or_default().into(),
    );
    for (key, file) in package.scripts {
        let script = read(&workspace().join("packaging/rpm").join(file))?;
        rpm.insert((*key).into(), script.replace("@VERSION@", env!("CARGO_PKG_VERSION")).into());
    }
    for (key, others) in [("requires", package.requires), ("recommends", package.recommends)] {
        let others = others.iter().map(|(name, version)| ((*name).to_owned(), Value::from(*version)));
        rpm.insert(key.into(), others.collect::<Table>().into());
    }
    Ok(nested(["package", "metadata", "generate-rpm"], rpm))
}

fn deb(manifest: &Table) -> Option<&Table> {
    manifest.get("package")?.get("metadata")?.get("deb")?.as_table()
}

fn no_assets(folder: &str) -> Failure {
    Failure(format!("find package.metadata.deb.assets in {folder}/Cargo.toml"))
}

/// Where a file of the .deb lies on distributions with .rpm.
fn on_rpm(dest: &str) -> String {
    // Debian's zsh looks in a folder of its own.
    format!("/{}", dest.replace("usr/share/zsh/vendor-completions/", "usr/share/zsh/site-functions/"))
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
        for package in &PACKAGES {
            let manifest = manifest(package.folder).unwrap();
            let description = description_of(package, &manifest, Path::new(BUILT)).unwrap();
            let rpm = &description["package"]["metadata"]["generate-rpm"];
            let assets = rpm["assets"].as_array().unwrap();
            let files: Vec<&str> = assets.iter().map(|a| a["dest"].as_str().unwrap()).collect();
            assert!(files.iter().any(|file| file.starts_with("/usr/share/licenses/")), "{files:?}");
            for asset in manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap() {
                let dest = asset[1].as_str().unwrap();
                assert!(dest.contains("lintian") || files.contains(&on_rpm(dest).as_str()), "{dest}");
            }
            // What is not built lies where it is said to.
            for asset in assets {
                let source = asset["source"].as_str().unwrap();
                let there = workspace().join(source.split('*').next().unwrap_or(source)).exists();
                assert!(source.starts_with("target/") || there, "{source}");
            }
        }
    }

    #[test]
    fn every_published_schema_is_shipped() {
        let manifest = manifest("daemon").unwrap();
        let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
        let shipped = |asset: &Value| asset[0].as_str() == Some("../packaging/schema/*.json");
        assert!(assets.iter().any(shipped), "{assets:?}");
    }

    #[test]
    fn the_rpm_of_the_daemon_is_not_removed_in_the_midst_of_a_migration() {
        let [daemon, _] = &PACKAGES;
        let description = description_of(daemon, &manifest("daemon").unwrap(), Path::new(BUILT)).unwrap();
        let preun = &description["package"]["metadata"]["generate-rpm"]["pre_uninstall_script"];
        assert!(preun.as_str().unwrap().contains("open-migrations"), "{preun}");
    }

    #[test]
    fn what_is_built_is_known_from_the_list_of_files() {
        let shipped = shipped().unwrap();
        assert!(shipped.contains(&"connect-migrator".to_owned()), "{shipped:?}");
        assert!(shipped.contains(&"connect-migrator-route-nginx".to_owned()), "{shipped:?}");
    }

    #[test]
    fn the_sdk_is_named_as_each_family_names_it() {
        let [_, sdk] = &PACKAGES;
        let description = description_of(sdk, &manifest("sdk").unwrap(), Path::new(BUILT)).unwrap();
        assert_eq!(
            description["package"]["metadata"]["generate-rpm"]["name"].as_str(),
            Some("connect-migrator-devel")
        );
    }
}
