//! What is put into the machine: our package, the stand-in's package and program, the hostile plugin.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of Connect that the lab runs.
pub const CONNECT_VERSION: &str = "2026.03.1";
/// The tool that packs our package; installed below `target/tools` when it is missing.
const CARGO_DEB_VERSION: &str = "3.8.0";
/// Files on the host.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// `connect-migrator_<v>_amd64.deb`.
    pub package: PathBuf,
    /// `rstudio-connect_<calver>_amd64.deb`.
    pub connect: PathBuf,
    /// The stand-in's program.
    pub standin: PathBuf,
    /// How its images are built.
    pub image_scripts: PathBuf,
    /// A plugin that misbehaves.
    pub hostile: PathBuf,
    /// Follows a migration's state in the guest.
    pub watcher: PathBuf,
    /// The copier as a command.
    pub copier: PathBuf,
    /// Measures the time without service in the guest.
    pub prober: PathBuf,
}

/// Something could not be built.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(String);

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap_or_else(|_| PathBuf::from("."))
}

/// Where cargo puts what it builds.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Runs a program in the workspace and shows its output only when it fails.
///
/// # Errors
/// With the end of its output.
pub fn run(what: &str, command: &mut Command) -> Result<String, BuildError> {
    let out = command
        .current_dir(workspace())
        .output()
        .map_err(|error| BuildError(format!("could not {what}: {command:?} does not start: {error}")))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let lines: Vec<&str> = text.lines().collect();
    let end = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n");
    Err(BuildError(format!("could not {what} ({command:?}: {}):\n{end}", out.status)))
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Builds everything.
///
/// # Errors
/// With the end of what the compiler or the packer said.
pub fn build() -> Result<Artifacts, BuildError> {
    let release = target().join("release");
    println!("   building connect-migrator, its plugins and the stand-in for Connect");
    // In one call: each compiles anew what it wants with other features.
    let mut build = cargo();
    build.args(["build", "--release", "--locked"]);
    for package in shipped()?.iter().map(String::as_str).chain([
        "connect-standin",
        "connect-migrator-hostile",
        "connect-migrator-copy",
        "connect-migrator-guest",
        "connect-migrator-packaging",
    ]) {
        build.args(["--package", package]);
    }
    run("build the programs", &mut build)?;

    let out = target().join("packages");
    std::fs::create_dir_all(&out)
        .map_err(|error| BuildError(format!("could not make {}: {error}", out.display())))?;
    println!("   packing connect-migrator");
    let mut documents = Command::new(release.join("pack"));
    documents.arg("documents").arg("--programs").arg(&release);
    run("make the man pages, completions and catalog", &mut documents)?;
    let mut deb = Command::new(cargo_deb()?);
    deb.args(["--package", "connect-migrator", "--no-build", "--no-strip", "--fast", "--output"]).arg(&out);
    deb.env("CARGO_TARGET_DIR", target());
    let package = PathBuf::from(run("pack connect-migrator", &mut deb)?.trim());
    println!("   packing the stand-in for Connect");
    let standin = release.join("connect-standin");
    let scripts = workspace().join("tests/standin/package");
    let mut pack = Command::new(scripts.join("build-deb.sh"));
    pack.arg(CONNECT_VERSION).arg(&out).arg(&standin);
    let connect = PathBuf::from(run("pack the stand-in", &mut pack)?.trim());
    Ok(Artifacts {
        package,
        connect,
        standin,
        image_scripts: scripts,
        hostile: release.join("libconnect_migrator_hostile.so"),
        watcher: release.join("state-watcher"),
        copier: release.join("connect-migrator-copy"),
        prober: release.join("window-prober"),
    })
}

/// Makes a tree like Connect's. Few ask for it: it is built when it is wanted.
///
/// # Errors
/// With the end of what the compiler said.
pub fn grow_tree() -> Result<PathBuf, BuildError> {
    tool(&["--package", "connect-migrator-copy-bench", "--bin", "grow-tree"], "grow-tree")
}

/// The bench of rebuilding content, built when it is wanted.
///
/// # Errors
/// With the end of what the compiler said.
pub fn rebuild_bench() -> Result<PathBuf, BuildError> {
    tool(
        &["--package", "connect-migrator-connect-api", "--example", "rebuild-bench"],
        "examples/rebuild-bench",
    )
}

fn tool(which: &[&str], program: &str) -> Result<PathBuf, BuildError> {
    run("build a tool", cargo().args(["build", "--release", "--locked"]).args(which))?;
    Ok(target().join("release").join(program))
}

/// The packages of the workspace that go into our Debian package: the plugins as its list of files has them.
fn shipped() -> Result<Vec<String>, BuildError> {
    let manifest = workspace().join("daemon/Cargo.toml");
    let text = std::fs::read_to_string(&manifest)
        .map_err(|error| BuildError(format!("could not read {}: {error}", manifest.display())))?;
    let mut packages = plugins(&text);
    packages.push("connect-migrator".into());
    Ok(packages)
}

fn plugins(manifest: &str) -> Vec<String> {
    let libraries = manifest.split("\"target/release/lib").skip(1);
    libraries.filter_map(|rest| rest.split_once(".so\"")).map(|(name, _)| name.replace('_', "-")).collect()
}

fn cargo_deb() -> Result<PathBuf, BuildError> {
    let tools = target().join("tools");
    let program = tools.join("bin/cargo-deb");
    if !program.exists() {
        println!("   installing cargo-deb {CARGO_DEB_VERSION} below {}", tools.display());
        let mut install = cargo();
        install
            .args(["install", "--debug", "--locked", "--version", CARGO_DEB_VERSION, "cargo-deb", "--root"])
            .arg(&tools);
        install.env_remove("CARGO_TARGET_DIR");
        run("install cargo-deb", &mut install)?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugins_that_are_packed_are_built() {
        let text = r#"assets = [
            ["target/release/connect-migrator", "usr/bin/", "755"],
            ["target/release/libconnect_migrator_route_nginx.so", "x/route-nginx.so", "644"],
        ]"#;
        assert_eq!(plugins(text), ["connect-migrator-route-nginx"]);
        assert!(shipped().unwrap().contains(&"connect-migrator-docker".to_owned()));
    }
}
