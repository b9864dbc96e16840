//! The packages that are given away: built against an old glibc, so that one of each serves every supported distribution.

use super::failure::{Failure, Tried, output};
use super::{documents_below, packages, workspace};
use std::path::{Path, PathBuf};
use std::process::Command;

/// That of RHEL 8, the oldest that is served.
const GLIBC: (u32, u32) = (2, 28);
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Tools with the versions that are known to work together, installed below `target/tools` when they are missing.
const TOOLS: [(&str, &str); 3] =
    [("cargo-zigbuild", "0.24.1"), ("cargo-deb", "3.8.0"), ("cargo-generate-rpm", "0.21.1")];
/// The compiler and linker that knows old glibcs, as a package of Python.
const ZIG: (&str, &str) = ("ziglang", "0.17.1");
/// The linters of the distributions: the program, which packages it looks at, and how it is called.
const LINTERS: [(&str, &str, &[&str]); 2] =
    [("lintian", "deb", &["--fail-on", "error"]), ("rpmlint", "rpm", &["-c", "packaging/rpm/rpmlint.toml"])];

/// Builds everything and makes all packages.
pub fn all(out: &Path) -> Tried {
    let tools = workspace().join("target/tools");
    TOOLS.iter().try_for_each(|(name, version)| tool(&tools, name, version))?;
    let zig = zig(&tools)?;
    println!("building against glibc {}.{}", GLIBC.0, GLIBC.1);
    build(&tools, &zig)?;
    let programs = Path::new("target").join(TARGET).join("release");
    for file in packages::programs()? {
        fits(&workspace().join(&programs).join(file))?;
    }
    documents_below(&workspace().join(&programs))?;
    println!("packing");
    let out = workspace().join(out);
    for (package, variant) in [("connect-migrator", Some("release")), ("connect-migrator-sdk", None)] {
        let mut deb = Command::new(tools.join("bin/cargo-deb"));
        deb.args(variant.iter().flat_map(|variant| ["--variant", variant]));
        deb.args(["--package", package, "--target", TARGET, "--no-build", "--no-strip", "--output"]);
        deb.arg(&out).current_dir(workspace()).env("SOURCE_DATE_EPOCH", packages::epoch()?);
        output("pack the .deb", &mut deb)?;
    }
    packages::rpm(&tools.join("bin/cargo-generate-rpm"), &programs, &out)?;
    println!("the packages are in {}", out.display());
    LINTERS.iter().try_for_each(|linter| lint(linter, &out))
}

/// Has the packages of a folder looked at by a distribution's linter, where that is installed: an error fails.
fn lint((program, ending, arguments): &(&str, &str, &[&str]), out: &Path) -> Tried {
    if Command::new(program).arg("--version").output().is_err() {
        println!("{program} is left out: `apt-get install {program}` brings it");
        return Ok(());
    }
    println!("{program}");
    let listed =
        std::fs::read_dir(out).map_err(|error| Failure(format!("list {}: {error}", out.display())))?;
    let packages = listed.flatten().map(|entry| entry.path());
    let packages = packages.filter(|path| path.extension().is_some_and(|found| found == *ending));
    let mut look = Command::new(program);
    look.args(*arguments).args(packages).current_dir(workspace());
    let told = output(&format!("get the packages past {program}"), &mut look)?;
    print!("{told}");
    Ok(())
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

fn tool(tools: &Path, name: &str, version: &str) -> Tried {
    if tools.join("bin").join(name).exists() {
        return Ok(());
    }
    println!("installing {name} {version} below {}", tools.display());
    let mut install = cargo();
    install
        .args(["install", "--quiet", "--debug", "--locked", "--version", version, name, "--root"])
        .arg(tools);
    output(&format!("install {name}"), install.env_remove("CARGO_TARGET_DIR")).map(drop)
}

fn zig(tools: &Path) -> Tried<PathBuf> {
    let (name, version) = ZIG;
    let folder = tools.join(format!("{name}-{version}"));
    let program = folder.join("ziglang/zig");
    if !program.exists() {
        println!("installing {name} {version} below {}", folder.display());
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]);
        pip.arg(&folder).arg(format!("{name}=={version}"));
        output("install zig; it needs `apt-get install python3-pip`", &mut pip)?;
    }
    Ok(program)
}

/// Without the paths of this host in what is built, so that it is the same wherever it is built.
fn build(tools: &Path, zig: &Path) -> Tried {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let home = home.ok_or_else(|| Failure("tell where cargo keeps its sources; set CARGO_HOME".into()))?;
    let places = [(workspace(), "/usr/src/connect-migrator"), (home, "/usr/src/cargo")];
    let flags = |option: &str| {
        let flags = places.iter().map(|(from, to)| format!("{option}={}={to}", from.display()));
        flags.collect::<Vec<_>>().join(" ")
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(tools.join("bin")).chain(std::env::split_paths(&path)))
        .map_err(|error| Failure(format!("set PATH: {error}")))?;
    let mut build = cargo();
    build.args([
        "zigbuild",
        "--release",
        "--locked",
        "--target",
        &format!("{TARGET}.{}.{}", GLIBC.0, GLIBC.1),
    ]);
    for package in packages::shipped()? {
        build.args(["--package", &package]);
    }
    build
        .env("PATH", path)
        .env("CARGO_ZIGBUILD_ZIG_PATH", zig)
        .env("RUSTFLAGS", flags("--remap-path-prefix"))
        .env("CFLAGS", flags("-ffile-prefix-map"))
        .env("SOURCE_DATE_EPOCH", packages::epoch()?)
        .env_remove("CARGO_TARGET_DIR");
    output("build the programs", &mut build).map(drop)
}

/// Asks a program which glibc it needs.
fn fits(program: &Path) -> Tried {
    let mut objdump = Command::new("objdump");
    objdump.arg("-T").arg(program);
    let what = "see which glibc a program needs; it needs `apt-get install binutils`";
    match newest(&output(what, &mut objdump)?) {
        Some(needed) if needed > GLIBC => Err(Failure(format!(
            "give away {}: it needs glibc {}.{}, and {}.{} is the newest that is promised",
            program.display(),
            needed.0,
            needed.1,
            GLIBC.0,
            GLIBC.1
        ))),
        Some(_) => Ok(()),
        None => Err(Failure(format!("tell which glibc {} needs: it names none", program.display()))),
    }
}

/// The newest version of glibc that symbols ask for.
fn newest(symbols: &str) -> Option<(u32, u32)> {
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let version = rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
        let mut parts = version.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    });
    versions.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_is_found_among_the_symbols() {
        let symbols = "\
0000000000000000      DF *UND*  0000000000000000 (GLIBC_2.2.5) free
0000000000000000      DF *UND*  0000000000000000 (GLIBC_2.28) statx
0000000000000000      DF *UND*  0000000000000000 (GLIBC_2.9)  pipe2
0000000000000000      DF *UND*  0000000000000000 (GCC_3.0)    _Unwind_Resume
";
        assert_eq!(newest(symbols), Some((2, 28)));
        assert_eq!(newest("nothing"), None);
    }
}
