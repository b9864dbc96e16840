//! The copier as a command.

use clap::{Parser, Subcommand};
use connect_migrator_copy::{Content, Control, Durability, Options, Owners, run, verify};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

/// Copies a tree to where round trips are dear, and catches up with a source that goes on changing.
#[derive(Debug, Parser)]
#[command(version)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Copy, or catch up with what has changed since the last time.
    Copy(CopyArguments),
    /// Compare a copy with its source: attributes and content.
    Verify {
        /// The tree that was copied.
        source: PathBuf,
        /// The copy.
        target: PathBuf,
        /// This path was left out.
        #[arg(long)]
        exclude: Vec<PathBuf>,
        /// How many threads.
        #[arg(long)]
        threads: Option<usize>,
    },
}

#[derive(Debug, clap::Args)]
struct CopyArguments {
    /// The tree to copy.
    source: PathBuf,
    /// Where to: an empty folder, or one that was filled with the same manifest.
    target: PathBuf,
    /// The file that keeps what was copied.
    #[arg(long)]
    manifest: PathBuf,
    /// Leave out this path, relative to the source, with all below it.
    #[arg(long)]
    exclude: Vec<PathBuf>,
    /// How many threads.
    #[arg(long)]
    threads: Option<usize>,
    /// Copy at most so many bytes a second.
    #[arg(long)]
    bytes_per_second: Option<u64>,
    /// Use the disks and processors only when nobody else does.
    #[arg(long)]
    idle: bool,
    /// Go into other file systems mounted in the source.
    #[arg(long)]
    cross_mounts: bool,
    /// When what was copied is made to last.
    #[arg(long, value_parser = ["batch", "each-file", "none"], default_value = "batch")]
    durability: String,
    /// How new entries get their owner.
    #[arg(long, value_parser = ["auto", "as-owner", "chown"], default_value = "auto")]
    owners: String,
    /// Tell how far it is.
    #[arg(long)]
    progress: bool,
    /// For tests: die as by SIGKILL right before this operation at the target.
    #[arg(long, hide = true)]
    dies_at_operation: Option<u64>,
    /// For tests: before that, wait until what was done so far was made to last.
    #[arg(long, hide = true)]
    dies_late: bool,
}

fn compare(options: &Options) -> ExitCode {
    let cancel = AtomicBool::new(false);
    let control = Control { cancel: &cancel, on_progress: &|_| {}, total: None };
    match verify(options, Content::All, &control) {
        Ok(verified) => {
            println!("{}", serde_json::to_string(&verified).unwrap_or_default());
            if verified.is_same() { ExitCode::SUCCESS } else { ExitCode::from(3) }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(1)
        }
    }
}

/// Exit codes: 0 whole; 1 could not run; 2 wrong arguments; 3 some entries failed or were not settled.
fn main() -> ExitCode {
    let arguments = match Command::parse().what {
        What::Copy(arguments) => arguments,
        What::Verify { source, target, exclude, threads } => {
            let mut options = Options::new(source, target, "");
            options.exclude = exclude;
            options.threads = threads;
            return compare(&options);
        }
    };
    let mut options = Options::new(arguments.source, arguments.target, arguments.manifest);
    options.exclude = arguments.exclude;
    options.threads = arguments.threads;
    options.bytes_per_second = arguments.bytes_per_second;
    options.idle = arguments.idle;
    options.dies_at_operation = arguments.dies_at_operation;
    options.dies_late = arguments.dies_late;
    options.cross_mounts = arguments.cross_mounts;
    options.durability = match arguments.durability.as_str() {
        "each-file" => Durability::EachFile,
        "none" => Durability::None,
        _ => Durability::Batch,
    };
    options.owners = match arguments.owners.as_str() {
        "as-owner" => Owners::AsOwner,
        "chown" => Owners::Chown,
        _ => Owners::Auto,
    };
    let cancel = AtomicBool::new(false);
    let on_progress = |progress: &connect_migrator_copy::Progress| {
        if arguments.progress {
            eprintln!("{}", progress.line());
        }
    };
    let control = Control { cancel: &cancel, on_progress: &on_progress, total: None };
    match run(&options, &control) {
        Ok(report) => {
            println!("{}", serde_json::to_string(&report).unwrap_or_default());
            if report.whole { ExitCode::SUCCESS } else { ExitCode::from(3) }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(1)
        }
    }
}
