//! `cargo ci`: everything that must hold, in the order in which it fails fastest.

use clap::Parser;
use connect_migrator_rig::{Suite, host};
use connect_migrator_scenarios::artifacts::{self, target, workspace};
use connect_migrator_scenarios::bench;
use connect_migrator_scenarios::lab::{self, Lab, Tried};
use connect_migrator_scenarios::local;
use connect_migrator_scenarios::scenario::{self, Choice};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Debian packages that tests on the host itself need.
const TEST_PACKAGES: [(&str, &str); 12] = [
    ("dbus-daemon", "dbus-daemon"),
    ("nginx", "nginx-light"),
    ("docker-registry", "docker-registry"),
    ("initdb", "postgresql"),
    ("cc", "gcc"),
    ("rsync", "rsync"),
    ("getfattr", "attr"),
    ("setfacl", "acl"),
    ("journalctl", "systemd"),
    ("openssl", "openssl"),
    ("pgrep", "procps"),
    ("python3", "python3-minimal"),
];

/// Checks the code, runs all tests, then the scenarios on throwaway machines, then the benches
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo ci")]
struct Arguments {
    /// Only what needs no machine
    #[arg(long)]
    no_machine: bool,
    /// Only the scenarios and benches
    #[arg(long)]
    only_machine: bool,
    /// Only scenarios whose name contains this; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// Only this Debian
    #[arg(long)]
    suite: Option<Suite>,
    /// Leave the machine of a failed scenario running, and say how to log in
    #[arg(long)]
    keep: bool,
    /// Only start the machine that scenarios start from, leave it running, and say how to log in; with `--only local` the one whose
    /// Connect uses SQLite and local disk
    #[arg(long)]
    scene: bool,
    /// On every Debian also those scenarios that run on one otherwise; then the benches
    #[arg(long)]
    all: bool,
    /// Only the benches; with `--only window`, `relocation`, `step` or `rebuild` one of them
    #[arg(long)]
    bench: bool,
    /// Install this .deb of ours in the machines, such as one that `cargo pack release` made, and not what is built now
    #[arg(long, value_name = "FILE")]
    package: Option<PathBuf>,
}

fn main() -> ExitCode {
    match ci(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nerror: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ci(arguments: &Arguments) -> Tried<bool> {
    let began = Instant::now();
    let only_machine = arguments.only_machine
        || arguments.package.is_some()
        || arguments.bench
        || arguments.scene
        || !arguments.only.is_empty();
    if !only_machine {
        host::install(&missing(), |line| println!("{line}"))?;
        pure()?;
    }
    if arguments.no_machine {
        return Ok(true);
    }
    let package = arguments.package.as_ref().map(|path| {
        path.canonicalize().map_err(|error| format!("could not find the package {}: {error}", path.display()))
    });
    let package = package.transpose()?;
    host::require(|line| println!("{line}"))?;
    // The machines are made while the compiler is at work.
    let mut artifacts = std::thread::scope(|scope| {
        let machines = scope.spawn(|| lab::booted(arguments.suite));
        let artifacts = artifacts::build();
        machines.join().map_err(|_| "making the machine went wrong")??;
        Tried::Ok(artifacts?)
    })?;
    artifacts.package = package.unwrap_or(artifacts.package);
    if arguments.scene {
        let suite = arguments.suite.map_or_else(|| Suite::best_for_host().map(|best| best.suite), Ok)?;
        let snapshot = if arguments.only.iter().any(|name| name == "local") {
            local::snapshot(suite, &artifacts)?
        } else {
            lab::installed(suite, &artifacts)?
        };
        let lab = Lab::fresh(&snapshot, &artifacts)?;
        lab.machine.keep();
        return Ok(true);
    }
    let (mut passed, mut failed) = (0, 0);
    if !arguments.bench {
        let Arguments { only, suite, all, keep, .. } = arguments.clone();
        (passed, failed) = scenario::run(&artifacts, &Choice { only, suite, all, keep })?;
    }
    // Figures depend on the machine and on what else it does: a goal that is missed fails only who asked for figures.
    let mut reached = true;
    if (arguments.bench || arguments.all && failed == 0)
        && let Err(why) = bench::run(&artifacts, arguments.suite, bench_names(arguments))
    {
        println!("   NOT REACHED: {why}");
        reached = !arguments.bench;
    }
    println!("\nall of it took {:.0} minutes", began.elapsed().as_secs_f64() / 60.0);
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0 && reached)
}

/// With `--bench`, `--only` names benches.
fn bench_names(arguments: &Arguments) -> &[String] {
    if arguments.bench { &arguments.only } else { &[] }
}

/// Everything that needs no machine.
fn pure() -> Tried {
    step("cargo fmt --all --check", &mut cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    step("cargo clippy", &mut cargo(&clippy))?;
    if cargo(&["deny", "--version"]).output().is_ok_and(|out| out.status.success()) {
        step("cargo deny", &mut cargo(&["deny", "--workspace", "check", "bans", "licenses", "sources"]))?;
    } else {
        println!("\n== cargo deny is left out: `cargo install --locked cargo-deny` brings it");
    }
    step("cargo test", &mut cargo(&["test", "--workspace", "--locked"]))?;
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    step("cargo doc", doc.env("RUSTDOCFLAGS", "-D warnings"))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).current_dir(workspace()).env("CARGO_TARGET_DIR", target());
    cargo
}

/// Runs one, with its output.
fn step(name: &str, command: &mut Command) -> Tried {
    println!("\n== {name}");
    let began = Instant::now();
    let status = command.status()?;
    println!("== {name}: {status}, {:.0} s", began.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(format!("{name} failed").into()) }
}

/// The packages whose programs this host lacks.
fn missing() -> Vec<&'static str> {
    let found = |program: &str| {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let postgres = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        path.split(':')
            .map(Into::into)
            .chain(postgres.map(|entry| entry.path().join("bin")))
            .any(|dir: PathBuf| dir.join(program).exists())
    };
    TEST_PACKAGES.iter().filter(|(program, _)| !found(program)).map(|(_, package)| *package).collect()
}
