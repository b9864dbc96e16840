//! `cargo pack`: makes the man pages, completions, catalog and SBOM, and from one list of files both packages.

mod documents;
mod failure;
mod packages;
mod release;
mod sbom;

use clap::{Parser, Subcommand};
use failure::Tried;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Makes the packages from programs that are built already
#[derive(Debug, Parser)]
#[command(name = "cargo pack")]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// The folder with the built programs
    #[arg(long, global = true, default_value = "target/release")]
    programs: PathBuf,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Only what is made from the code: man pages, completions, catalog, SBOM
    Documents,
    /// The .rpm of the files that the .deb holds; needs cargo-generate-rpm and `documents`
    Rpm {
        /// The program
        #[arg(long, default_value = "target/tools/bin/cargo-generate-rpm")]
        tool: PathBuf,
        /// Where to put it
        #[arg(long, default_value = "target/packages")]
        out: PathBuf,
    },
    /// All packages to give away, from programs built anew against an old glibc; installs the tools that it lacks below target/tools
    Release {
        /// Where to put them
        #[arg(long, default_value = "target/packages/release")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Tried {
    match &arguments.what {
        What::Documents => documents_below(&arguments.programs),
        What::Release { out } => release::all(out),
        What::Rpm { tool, out } => packages::rpm(tool, &arguments.programs, out),
    }
}

/// What is made from the code, where the packages take it from.
fn documents_below(programs: &Path) -> Tried {
    let share = programs.join("share");
    documents::write_all(&share)?;
    failure::write(&share.join("connect-migrator.cdx.json"), sbom::text()?.as_bytes())
}

/// The root of the workspace.
fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
