//! Benches that are programs of their own: they need this host and no machine.

use crate::artifacts::{target, workspace};
use crate::lab::Tried;
use std::process::Command;

/// Files of the tree that copiers are raced over.
const FILES: &str = "6000";

/// The copier beside rsync, fpsync and xcp.
pub(super) fn copy() -> Tried {
    run(&["-p", "connect-migrator-copy-bench", "--bin", "connect-migrator-copy-bench", "--", FILES])
}

/// A database of a million rows: what it costs in the window.
pub(super) fn database() -> Tried {
    run(&["-p", "connect-migrator-database-tests", "--example", "verify_bench"])
}

fn run(arguments: &[&str]) -> Tried {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--quiet", "--release", "--locked"]).args(arguments);
    cargo.current_dir(workspace()).env("CARGO_TARGET_DIR", target());
    let status = cargo.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`cargo run {}` ended with {status}", arguments.join(" ")).into())
    }
}
