//! The command line: one file a command.

#[macro_use]
mod printing;

mod check;
mod control;
mod daemon;
mod exit;
mod follow;
mod images;
mod init;
mod plan;
mod plugins;
mod questions;
mod report;
mod status;
mod stays;
mod survey;
mod tables;
mod window_estimate;

pub use crate::service::Status;
pub use exit::Exit;
pub use plan::{PhasePlan, StepPlan, WholePlan};
pub use report::FullReport;
pub use window_estimate::{WindowEstimate, WindowPart};

use crate::instance::Instance;
use crate::service::StepsRunAs;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  something failed; the message says what
  2  the command line was not understood
  3  the migration was rolled back
  4  a check found a blocker
  5  an operator is needed
  6  the runbook, or the state of the instance, cannot be used
  7  another connect-migrator is at work on this instance

A migration is started with `systemctl start connect-migrator@INSTANCE`.
What --json prints is described by the schemas in /usr/share/connect-migrator/schema.";

/// Moves a Posit Connect server from its host into a container, and back if need be
#[derive(Debug, Parser)]
#[command(name = "connect-migrator", version, after_help = AFTER_HELP, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at this host and write the runbook that fits it, with what could not be found explained
    Init {
        /// The name of the new runbook in /etc/connect-migrator, without `.toml`
        instance: String,
        #[command(flatten)]
        arguments: init::InitArguments,
    },
    /// Look at every prerequisite: pass, warning or blocker, with the remedy. Changes nothing
    Check {
        /// The name of the runbook in /etc/connect-migrator, without `.toml`
        instance: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Show also what is as it should be
        #[arg(long)]
        all: bool,
        /// What steps run as
        #[arg(long, value_enum, default_value = "children", hide = true)]
        steps_run_as: StepsRunAs,
    },
    /// Show what a migration would do, phase by phase, with the diff of every file. Changes nothing
    Plan {
        /// The name of the runbook in /etc/connect-migrator, without `.toml`
        instance: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// What steps run as
        #[arg(long, value_enum, default_value = "children", hide = true)]
        steps_run_as: StepsRunAs,
    },
    /// Show where the migration stands and what you may do now
    Status {
        /// The name of the runbook in /etc/connect-migrator, without `.toml`
        instance: String,
        /// Stay, and show what happens until the migration ends or needs you
        #[arg(long, short)]
        follow: bool,
        /// Print JSON; with --follow an object a line
        #[arg(long)]
        json: bool,
    },
    /// Write the whole migration into one HTML file: timeline, findings, what was done, content with its logs
    Report {
        /// The name of the runbook in /etc/connect-migrator, without `.toml`
        instance: String,
        /// Print JSON instead
        #[arg(long)]
        json: bool,
        /// The file; `-` for standard output. Default: connect-migrator-INSTANCE.html in this folder
        #[arg(long, short, value_name = "FILE")]
        output: Option<std::path::PathBuf>,
    },
    /// Stop at the next safe point: at once while users are served, else when they are served again
    Pause {
        /// The name of the runbook in /etc/connect-migrator, without `.toml`
        instance: String,
    },
    /// Go on after a pause, or after what it waited for has been mended
    Resume {
        /// The name of the runbook in /etc/connect-migrator, without `.toml`
        instance: String,
    },
    /// Give a migration up before users work on the new server: Connect on the host, as before
    Abort {
        /// The name of the runbook in /etc/connect-migrator, without `.toml`
        instance: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Do not wait for the end
        #[arg(long)]
        no_wait: bool,
    },
    /// Go back: Connect on the host, as before. Possible at any time before commit
    Rollback {
        /// The name of the runbook in /etc/connect-migrator, without `.toml`
        instance: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Do not wait for the end
        #[arg(long)]
        no_wait: bool,
    },
    /// End the soak: Connect stays in the container, and there is no way back
    Commit {
        /// The name of the runbook in /etc/connect-migrator, without `.toml`
        instance: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Do not wait for the end
        #[arg(long)]
        no_wait: bool,
    },
    /// Show everything that a bakery file builds: versions, variants, distributions, and every tag in every registry
    Images {
        /// The bakery.yaml
        #[arg(long, value_name = "FILE")]
        bakery: std::path::PathBuf,
        /// Only this image
        #[arg(long)]
        image: Option<String>,
        /// Versions that a constraint may choose from, as DEPENDENCY=VERSION,VERSION; may be given several times
        #[arg(long, value_name = "VERSIONS")]
        available: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// What is installed, whether it fits, and what a step can be told
    Plugins {
        #[command(subcommand)]
        command: plugins::PluginsCommand,
    },
    /// Run a migration in the foreground: what the systemd unit does
    #[command(hide = true)]
    Daemon {
        /// The name after the `@`
        instance: String,
        /// What steps run as
        #[arg(long, value_enum, default_value = "units")]
        steps_run_as: StepsRunAs,
    },
}

impl Command {
    /// What it prints is all that it is for.
    fn only_shows(&self) -> bool {
        match self {
            Command::Report { json, output, .. } => {
                output.as_ref().map_or(*json, |file| file.as_os_str() == "-")
            }
            Command::Check { .. }
            | Command::Plan { .. }
            | Command::Status { .. }
            | Command::Images { .. }
            | Command::Plugins { .. } => true,
            _ => false,
        }
    }
}

/// The name of the hidden subcommand in which plugins run. Looked for before anything else is set up.
const STEP_HOST: &str = "step-host";

/// The definition of the command line, from which man pages and completions are made.
#[must_use]
pub fn command() -> clap::Command {
    <Arguments as clap::CommandFactory>::command()
}

/// Everything that the binary does.
#[must_use]
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == STEP_HOST) {
        return crate::host::step_host_main();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed pipe is all that can go wrong here.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain!("error: could not start the runtime: {error}");
            return Exit::Failed.into();
        }
    };
    let only_shows = arguments.command.only_shows();
    let exit = runtime.block_on(dispatch(arguments.command));
    let Some(error) = printing::lost().filter(|_| only_shows) else { return exit.into() };
    // What was found counts more than that it could not be told.
    let exit = if exit == Exit::Done { Exit::Failed } else { exit };
    exit.because(&format!("could not write to standard output: {error}")).into()
}

/// Where all files lie. Tests have a tree of their own; a release knows only this machine's.
fn root() -> std::path::PathBuf {
    #[cfg(debug_assertions)]
    if let Some(root) = std::env::var_os("CONNECT_MIGRATOR_TEST_ROOT") {
        return root.into();
    }
    "/".into()
}

async fn dispatch(command: Command) -> Exit {
    let name: &str = match &command {
        Command::Images { bakery, image, available, json } => {
            return images::run(bakery, image.as_deref(), available, *json);
        }
        // Plugins belong to no instance: any name finds their folders.
        Command::Plugins { .. } => "all",
        Command::Init { instance, .. }
        | Command::Check { instance, .. }
        | Command::Plan { instance, .. }
        | Command::Status { instance, .. }
        | Command::Report { instance, .. }
        | Command::Pause { instance }
        | Command::Resume { instance }
        | Command::Abort { instance, .. }
        | Command::Rollback { instance, .. }
        | Command::Commit { instance, .. }
        | Command::Daemon { instance, .. } => instance,
    };
    let instance = match Instance::below(&root(), name) {
        Ok(instance) => instance,
        Err(error) => return Exit::Usage.because(&error),
    };
    match command {
        Command::Init { arguments, .. } => init::run(&instance, &arguments).await,
        Command::Check { json, all, steps_run_as, .. } => {
            check::run(&instance, json, all, steps_run_as).await
        }
        Command::Plan { json, steps_run_as, .. } => plan::run(&instance, json, steps_run_as).await,
        Command::Status { json, follow, .. } => status::run(&instance, json, follow).await,
        Command::Report { json, output, .. } => report::run(&instance, json, output.as_deref()),
        Command::Pause { .. } => control::pause(&instance).await,
        Command::Resume { .. } => control::resume(&instance).await,
        Command::Abort { yes, no_wait, .. } => control::abort(&instance, yes, !no_wait).await,
        Command::Rollback { yes, no_wait, .. } => control::rollback(&instance, yes, !no_wait).await,
        Command::Commit { yes, no_wait, .. } => control::commit(&instance, yes, !no_wait).await,
        Command::Daemon { steps_run_as, .. } => crate::service::run(&instance, steps_run_as).await,
        Command::Plugins { command, .. } => plugins::run(&instance, &command).await,
        // It has no instance, and is done already.
        Command::Images { .. } => Exit::Done,
    }
}
