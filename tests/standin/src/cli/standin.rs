//! `standin`: what tests need and the product does not have.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use serde_json::json;

use super::{load, runtime, standin_variables};
use crate::cli::connect::serve;
use crate::failure::Failure;
use crate::live;
use crate::release;
use crate::runtimes::{Language, Runtimes, Version, install_stub};
use crate::seed::{DEFAULT_PYTHON, DEFAULT_QUARTO, DEFAULT_R, Seed, Versions, plant};
use crate::server::{Checks, Launch};
use crate::settings::{DEFAULT_CONFIG, Settings};
use crate::store::Store;
use crate::tuning::Tuning;
use crate::users::read_key;

/// Test tools of the stand-in for Posit Connect
#[derive(Debug, Parser)]
#[command(name = "standin", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fill database and DataDir with users, API keys and content; prints the content as JSON
    Seed(SeedArgs),
    /// Print all violations (two copies alive at once) as JSON; exit status 1 if there are any
    Violations {
        /// Configuration of the Connect
        #[arg(long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Install scripts that stand for R, Python and Quarto, as <root>/python/3.12.4/bin/python
    Interpreters {
        /// Where
        #[arg(long, default_value = "/opt")]
        root: PathBuf,
        /// Versions of R
        #[arg(long, value_parser = version)]
        r: Vec<Version>,
        /// Versions of Python
        #[arg(long, value_parser = version)]
        python: Vec<Version>,
        /// Versions of Quarto
        #[arg(long, value_parser = version)]
        quarto: Vec<Version>,
    },
    /// Serve many items from memory, for benches: no root, no licence, nothing written by builds
    Bulk(BulkArgs),
}

#[derive(Debug, clap::Args)]
struct SeedArgs {
    /// Configuration of the Connect
    #[arg(long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Content items; the 7th of every 12 was never published
    #[arg(long, default_value_t = 12)]
    items: u32,
    /// Further items that ask for Python 3.9.5
    #[arg(long, default_value_t = 0)]
    broken_python: u32,
    /// File with the API key of an administrator
    #[arg(long)]
    admin_key_file: Option<PathBuf>,
    /// File with the API key of a publisher
    #[arg(long)]
    publisher_key_file: Option<PathBuf>,
    /// File with an API key that has expired
    #[arg(long)]
    expired_key_file: Option<PathBuf>,
    /// R of the content (default: the newest installed)
    #[arg(long, value_parser = version)]
    r_version: Option<Version>,
    /// Python of the content (default: the newest installed)
    #[arg(long, value_parser = version)]
    python_version: Option<Version>,
    /// Distribution that the caches were built on (default: this one)
    #[arg(long)]
    distribution: Option<String>,
}

#[derive(Debug, clap::Args)]
struct BulkArgs {
    /// Content items
    #[arg(long, default_value_t = 1000)]
    items: u32,
    /// File with the API key of the administrator
    #[arg(long)]
    admin_key_file: PathBuf,
    /// Address to listen on; port 0 takes a free one, `listening on ADDRESS` is printed when ready
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Time of a build
    #[arg(long, default_value_t = 50)]
    build_ms: u64,
    /// Lines that a build writes
    #[arg(long, default_value_t = 3)]
    lines: u64,
    /// Builds at once
    #[arg(long, default_value_t = 8)]
    slots: usize,
    /// Every n-th item fails its first build
    #[arg(long, default_value_t = 0)]
    flaky_every: i64,
}

fn version(text: &str) -> Result<Version, String> {
    Version::parse(text)
        .ok_or_else(|| "three numbers with dots between are expected, such as 3.12.4".to_owned())
}

pub(crate) fn run(args: Vec<String>) -> Result<(), Failure> {
    let cli =
        Cli::try_parse_from(std::iter::once("standin".to_owned()).chain(args)).unwrap_or_else(|e| e.exit());
    match cli.command {
        Command::Seed(args) => runtime()?.block_on(seed(args)),
        Command::Violations { config } => runtime()?.block_on(violations(&config)),
        Command::Interpreters { root, r, python, quarto } => {
            for (language, versions) in
                [(Language::R, r), (Language::Python, python), (Language::Quarto, quarto)]
            {
                for version in versions {
                    println!("{}", install_stub(&root, language, version)?.display());
                }
            }
            Ok(())
        }
        Command::Bulk(args) => runtime()?.block_on(bulk(args)),
    }
}

/// A reader that goes away early (`| head`) is no failure.
fn print_json(value: &serde_json::Value) {
    let _ = writeln!(std::io::stdout(), "{value}");
}

async fn seed(args: SeedArgs) -> Result<(), Failure> {
    let settings = load(&args.config)?;
    let key = |file: &Option<PathBuf>| file.as_deref().map(read_key).transpose();
    let installed = Versions::installed(&Runtimes::discover(&settings, &release::interpreter_root())?);
    let seed = Seed {
        items: args.items,
        broken_python: args.broken_python,
        buildable_only: false,
        admin_key: key(&args.admin_key_file)?,
        publisher_key: key(&args.publisher_key_file)?,
        expired_key: key(&args.expired_key_file)?,
        files: true,
        versions: Versions {
            r: args.r_version.or(installed.r),
            python: args.python_version.or(installed.python),
            quarto: installed.quarto,
        },
    };
    let distribution =
        args.distribution.unwrap_or_else(|| release::distribution(Path::new("/etc/os-release")));
    let store = Store::open(&settings).await?;
    store.claim_secret_key(&settings).await?;
    let items = plant(&seed, &store, &settings, &distribution).await?;
    let all: Vec<_> = items.iter().map(|c| c.to_json(&settings.address)).collect();
    print_json(&json!(all));
    Ok(())
}

async fn violations(config: &Path) -> Result<(), Failure> {
    let settings = load(config)?;
    let store = Store::open(&settings).await?;
    let all = live::violations(&store, &settings.data_dir).await?;
    print_json(&json!(all));
    if all.is_empty() { Ok(()) } else { Err(Failure::Refused(format!("{} violations", all.len()))) }
}

async fn bulk(args: BulkArgs) -> Result<(), Failure> {
    let dir = std::env::temp_dir().join(format!("connect-standin-{}", std::process::id()));
    let text = format!(
        "[Server]\nDataDir = {}\nAddress = http://{}\n[HTTP]\nListen = {}\n[Logging]\nAccessLog = /dev/null\n\
         ServiceLog = /dev/null\n",
        dir.display(),
        args.listen,
        args.listen
    );
    let settings = Settings::from_text(&text, std::iter::empty()).map_err(Failure::Config)?;
    let store = Store::in_memory().await?;
    let seed = Seed {
        items: args.items,
        buildable_only: true,
        admin_key: Some(read_key(&args.admin_key_file)?),
        ..Seed::default()
    };
    plant(&seed, &store, &settings, "bulk-1").await?;
    // Interpreters as the content asks for them.
    let root = dir.join("opt");
    for (language, version) in
        [(Language::R, DEFAULT_R), (Language::Python, DEFAULT_PYTHON), (Language::Quarto, DEFAULT_QUARTO)]
    {
        install_stub(&root, language, version)?;
    }
    let settings = Settings {
        python: crate::settings::Interpreter { enabled: true, executables: Vec::new() },
        ..settings
    };
    let tuning = Tuning {
        build_ms: args.build_ms,
        build_lines: args.lines,
        build_slots: args.slots,
        flaky_every: args.flaky_every,
        build_writes: false,
        ..Tuning::load(&[], standin_variables())?
    };
    let launch = Launch {
        settings,
        tuning,
        checks: Checks { heartbeat: false, ..Checks::lenient() },
        version: release::version(),
        distribution: "bulk-1".to_owned(),
        interpreters: root,
        store: Some(store),
    };
    let result = serve(launch, |address| println!("listening on {address}")).await;
    let _ = std::fs::remove_dir_all(&dir);
    result
}
