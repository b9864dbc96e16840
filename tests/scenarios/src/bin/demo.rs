//! `cargo demo`: the main job, once, on a throwaway machine, with what is seen on the way.

use clap::Parser;
use connect_migrator_rig::{Suite, host};
use connect_migrator_scenarios::artifacts::{self, CONNECT_VERSION};
use connect_migrator_scenarios::lab::{self, Lab, Runbook, Tried};
use serde_json::Value;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often the status line is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Boots a throwaway Debian server with a Connect in it, moves that into a container, and shows the result
#[derive(Debug, Parser)]
#[command(name = "cargo demo")]
struct Arguments {
    /// The server's Debian: trixie or bookworm. Default: trixie, if this host's qemu runs it well
    #[arg(long)]
    suite: Option<Suite>,
    /// Leave the machine running at the end, and say how to log in
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    match demo(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo(arguments: &Arguments) -> Tried {
    let began = Instant::now();
    host::require(|line| println!("{line}"))?;
    let suite = match arguments.suite {
        Some(suite) => suite,
        None => {
            let choice = Suite::best_for_host()?;
            println!("The server runs {}.", choice.why);
            choice.suite
        }
    };
    println!("1. Building the packages");
    let artifacts = artifacts::build()?;
    println!("2. A Debian server ({suite}) on which Connect {CONNECT_VERSION} serves content through nginx");
    let snapshot = lab::snapshot(suite, &artifacts)?;
    println!("3. apt install ./connect-migrator.deb, a runbook, an administrator's key");
    let lab = Lab::start(&snapshot, &artifacts, &Runbook::default())?;
    let shown = migrate(&lab, began);
    if arguments.keep {
        println!("\nThe machine is left running. Log in with\n  {}", lab.machine.login_hint());
        lab.machine.keep();
    }
    shown
}

fn migrate(lab: &Lab, began: Instant) -> Tried {
    let items = lab.before.content.lines().filter(|line| line.starts_with("200 ")).count();
    println!("   http://connect.example.com is served by {}: {items} content items answer", lab.served_by()?);
    println!("\n# connect-migrator check prod");
    print!("{}", lab.machine.run("connect-migrator check prod")?.stdout);
    println!("\n# systemctl start connect-migrator@prod");
    if !lab.start_migration()? {
        return Err(format!("it did not start:\n{}", lab.story()?).into());
    }
    let mut last = String::new();
    let status = loop {
        let line =
            lab.machine.run("systemctl show -P StatusText connect-migrator@prod")?.stdout.trim().to_owned();
        if !line.is_empty() && line != last {
            println!("   {line}");
            last = line;
        }
        let status = lab.status()?;
        if status.get("ended").is_some_and(|ended| !ended.is_null()) || standing(&status) == "waiting" {
            break status;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    println!("\n# connect-migrator status prod");
    print!("{}", lab.machine.run("connect-migrator status prod")?.stdout);
    if standing(&status) != "committed" {
        return Err(format!("the migration is {}:\n{}", standing(&status), lab.story()?).into());
    }
    lab.assert_moved()?;
    let unit =
        lab.machine.run("systemctl is-active rstudio-connect; systemctl is-enabled rstudio-connect")?.stdout;
    let window = status.pointer("/windows/0/seconds").and_then(Value::as_f64).unwrap_or(f64::NAN);
    println!("\nLooked at from outside, after the migration:");
    println!("   old unit      rstudio-connect.service is {}", unit.trim().replace('\n', " and "));
    println!("   container     connect-prod is healthy, and comes back after a reboot");
    println!(
        "   URL           http://connect.example.com, as before; it is now served by {}",
        lab.served_by()?
    );
    println!("   content       {items} of {items} items answer as before, a websocket among them");
    println!("   caches        cleared, and rebuilt for the container's distribution");
    println!("   two Connects  never at once on one database or one data directory");
    println!("   window        {window:.1} s without service, in an emulated machine");
    println!("   report        /var/lib/connect-migrator/prod/report.txt and .json in the machine");
    println!("\nDone in {:.0} s. Nothing is left on this host but target/.", began.elapsed().as_secs_f64());
    Ok(())
}

fn standing(status: &Value) -> &str {
    status.get("standing").and_then(Value::as_str).unwrap_or("none")
}
