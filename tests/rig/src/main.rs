//! `rig`: the test machine by hand.

use std::process::ExitCode;

use connect_migrator_rig::{Cache, Image, Keep, Machine, Snapshot, Suite, host, selftest};

const USAGE: &str = "\
usage: rig build    [--suite trixie|bookworm]               build the image and boot it once
       rig shell    [--suite …] [--cold] [--keep] [COMMAND]  a fresh machine: log in, or run COMMAND
       rig selftest [--suite …|--all]                       see that the machine itself works
       rig clean                                            remove what no machine uses";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("rig: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<u8, Box<dyn std::error::Error>> {
    let cache = Cache::of_workspace();
    let (mut suite, mut all, mut cold, mut keep, mut rest) = (None, false, false, false, Vec::new());
    let mut words = arguments.iter().map(String::as_str);
    let command = words.next().unwrap_or("help");
    while let Some(word) = words.next() {
        match word {
            "--suite" if rest.is_empty() => {
                suite = Some(words.next().ok_or("--suite needs a name")?.parse::<Suite>()?);
            }
            "--all" if rest.is_empty() => all = true,
            "--cold" if rest.is_empty() => cold = true,
            "--keep" if rest.is_empty() => keep = true,
            "--" if rest.is_empty() => rest.extend(words.by_ref()),
            _ if rest.is_empty() && word.starts_with('-') => {
                return Err(format!("unknown {word}\n{USAGE}").into());
            }
            _ => rest.push(word),
        }
    }
    if command == "clean" {
        cache.clean()?;
        return Ok(0);
    }
    if !matches!(command, "build" | "shell" | "selftest") {
        eprintln!("{USAGE}");
        return Ok(2);
    }
    host::require(|line| cache.say(line))?;
    let suites = match suite {
        _ if all => Suite::ALL.to_vec(),
        Some(suite) => vec![suite],
        None => {
            let choice = Suite::best_for_host()?;
            cache.say(&choice.why);
            vec![choice.suite]
        }
    };
    let mut status = 0;
    for suite in suites {
        if let Err(why) = suite.runs_here()? {
            if !all {
                return Err(why.into());
            }
            cache.say(format!("{suite} is left out: {why}"));
            continue;
        }
        match command {
            "build" => drop(Snapshot::booted(&cache, &Image::build(suite, &cache)?)?),
            "selftest" => selftest(&cache, suite)?,
            _ => status = shell(&cache, suite, cold, keep, &rest.join(" "))?,
        }
    }
    Ok(status)
}

fn shell(
    cache: &Cache,
    suite: Suite,
    cold: bool,
    keep: bool,
    command: &str,
) -> Result<u8, Box<dyn std::error::Error>> {
    let image = Image::build(suite, cache)?;
    let machine = if cold {
        Machine::boot_image(cache, &image)?
    } else {
        Machine::from_snapshot(cache, &Snapshot::booted(cache, &image)?)?
    };
    if keep {
        machine.set_keep(Keep::Always);
    }
    if command.is_empty() {
        cache.say(format!("logging in with  {}", machine.login_hint()));
        let ended = std::process::Command::new("sh").args(["-c", &machine.login_hint()]).status()?;
        return Ok(u8::try_from(ended.code().unwrap_or(255)).unwrap_or(255));
    }
    let output = machine.run(command)?;
    print!("{}", output.stdout);
    eprint!("{}", output.stderr);
    Ok(u8::try_from(output.status).unwrap_or(255))
}
