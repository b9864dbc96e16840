//! `cargo ci`: everything that must hold, in the order in which it fails fastest.

use clap::Parser;
use connect_migrator_rig::{Suite, host};
use connect_migrator_scenarios::artifacts::{self, target, workspace};
use connect_migrator_scenarios::bench;
use connect_migrator_scenarios::lab::Tried;
use connect_migrator_scenarios::scenario::{self, Scenario};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Debian packages that tests on the host itself need.
const TEST_PACKAGES: [(&str, &str); 4] =
    [("dbus-daemon", "dbus-daemon"), ("nginx", "nginx-light"), ("initdb", "postgresql"), ("cc", "gcc")];

/// Scenarios that run every time: the way there, and the ways back. The others run with `--all`.
const EVERY_TIME: [&str; 2] = ["a server is moved", "rolled back"];

/// Checks the code, runs all tests, then the scenarios on throwaway machines, then the benches
#[derive(Debug, Parser)]
#[command(name = "cargo ci")]
struct Arguments {
    /// Only what needs no machine
    #[arg(long)]
    no_machine: bool,
    /// Only the scenarios and benches
    #[arg(long)]
    only_machine: bool,
    /// Only scenarios whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Only this Debian
    #[arg(long)]
    suite: Option<Suite>,
    /// Leave the machine of a failed scenario running, and say how to log in
    #[arg(long)]
    keep: bool,
    /// All scenarios on every Debian, also those that take many minutes each: kills in every phase, power cut, reboots,
    /// packages, every broken prerequisite; then the benches. About two hours
    #[arg(long)]
    all: bool,
    /// Only the benches
    #[arg(long)]
    bench: bool,
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
    let only_machine = arguments.only_machine || arguments.bench || arguments.only.is_some();
    if !only_machine {
        host::install(&missing(), |line| println!("{line}"))?;
        pure()?;
    }
    if arguments.no_machine {
        return Ok(true);
    }
    host::require(|line| println!("{line}"))?;
    let artifacts = artifacts::build()?;
    let (mut passed, mut failed) = (0, 0);
    if !arguments.bench {
        let wanted = |scenario: &Scenario| match &arguments.only {
            Some(only) => scenario.name.contains(only.as_str()),
            None => arguments.all || EVERY_TIME.iter().any(|part| scenario.name.contains(part)),
        };
        let suite = match arguments.suite {
            None if !arguments.all => Some(Suite::best_for_host()?.suite),
            suite => suite,
        };
        (passed, failed) = scenario::run(&artifacts, &wanted, suite, arguments.keep)?;
    }
    // Figures depend on the machine and on what else it does: they are told, and fail nothing.
    if (arguments.bench || arguments.all && failed == 0)
        && let Err(why) = bench::run(&artifacts)
    {
        println!("   NOT REACHED: {why}");
    }
    println!("\nall of it took {:.0} minutes", began.elapsed().as_secs_f64() / 60.0);
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// Everything that needs no machine.
fn pure() -> Tried {
    step("cargo fmt --all --check", &mut cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    step("cargo clippy", &mut cargo(&clippy))?;
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
            .any(|dir: std::path::PathBuf| dir.join(program).exists())
    };
    TEST_PACKAGES.iter().filter(|(program, _)| !found(program)).map(|(_, package)| *package).collect()
}
