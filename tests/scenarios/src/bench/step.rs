//! What a step's call costs beside what the step does.

use super::table;
use crate::artifacts::{run as build, target};
use crate::lab::Tried;
use serde_json::Value;
use std::process::Command;

/// How often.
const CALLS: &str = "200";

pub(super) fn run() -> Tried {
    let mut example = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    example.args(["build", "--release", "--locked", "--package", "connect-migrator"]);
    build("build the step bench", example.args(["--example", "step-overhead"]))?;
    let mut plugin = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    plugin.args(["build", "--release", "--locked", "--package", "connect-migrator-honest"]);
    build("build the plugin that is called", &mut plugin)?;
    let release = target().join("release");
    // A step host trusts a file only if nobody else could have written it, or a folder above it.
    let folder = tempfile::tempdir_in("/var/lib")?;
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let library = folder.path().join("honest.so");
    std::fs::copy(release.join("libconnect_migrator_honest.so"), &library)?;
    std::fs::set_permissions(&library, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let mut bench = Command::new(release.join("examples/step-overhead"));
    bench.arg(release.join("connect-migrator")).arg(&library).arg(CALLS);
    let told: Value = serde_json::from_str(&build("measure calls of a step", &mut bench)?)?;
    let figure = |name: &str| told.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
    println!("   A step's call: step host started, plugin loaded, called, host gone; {CALLS} times");
    table(&[
        vec!["median".into(), "least".into(), "99 of 100 within".into()],
        ["median-ms", "least-ms", "p99-ms"].iter().map(|name| format!("{:.1} ms", figure(name))).collect(),
    ]);
    Ok(())
}
