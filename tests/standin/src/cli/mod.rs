//! The commands, told apart by the name the program is called with.

mod connect;
mod license;
mod migrate;
mod rscadmin;
mod standin;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::failure::Failure;
use crate::release;
use crate::settings::{DEFAULT_CONFIG, Settings};
use crate::startup;

/// Runs the command that `args` names: by its first word, or by its second when the program is called by its own name.
/// Failures go to standard error; the exit code is 1, or 2 for wrong usage.
#[must_use]
pub fn run(args: Vec<String>) -> ExitCode {
    let mut args = args.into_iter();
    let called = args.next().unwrap_or_default();
    let called = Path::new(&called).file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    let mut rest: Vec<String> = args.collect();
    // The child of the sandbox check is started through /proc/self/exe, under whatever name.
    let by_word = |word: &str| {
        matches!(word, "connect" | "rscadmin" | "migrate" | "license-manager")
            || word == startup::SANDBOX_APPLET
    };
    let applet = if rest.first().is_some_and(|w| w == startup::SANDBOX_APPLET)
        || !by_word(&called) && rest.first().is_some_and(|w| by_word(w))
    {
        rest.remove(0)
    } else {
        called
    };
    let result = match applet.as_str() {
        "connect" => connect::run(&rest),
        "rscadmin" => rscadmin::run(&rest),
        "migrate" => migrate::run(&rest),
        "license-manager" => license::run(&rest),
        startup::SANDBOX_APPLET => startup::sandbox_child(&rest),
        _ => standin::run(rest),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => {
            eprintln!("{text}");
            ExitCode::from(2)
        }
        Err(e) if applet == startup::SANDBOX_APPLET => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("Error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Flags in the manner of Go: one or two dashes, `--name value` or `--name=value`.
struct Flags(Vec<String>);

impl Flags {
    fn new(args: &[String]) -> Self {
        Flags(args.to_vec())
    }

    fn is(word: &str, name: &str) -> bool {
        word.starts_with('-') && word.trim_start_matches('-') == name
    }

    /// Takes a flag without a value.
    fn switch(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|w| !Self::is(w, name));
        self.0.len() != before
    }

    /// Takes a flag with its value.
    fn value(&mut self, name: &str) -> Result<Option<String>, Failure> {
        if let Some(at) = self.0.iter().position(|w| Self::is(w, name)) {
            self.0.remove(at);
            if at < self.0.len() {
                return Ok(Some(self.0.remove(at)));
            }
            return Err(Failure::Usage(format!("flag needs an argument: --{name}")));
        }
        let with = |w: &str| {
            w.starts_with('-')
                .then(|| w.trim_start_matches('-').strip_prefix(name)?.strip_prefix('=').map(str::to_owned))?
        };
        let at = self.0.iter().position(|w| with(w).is_some());
        Ok(at.and_then(|at| with(&self.0.remove(at))))
    }

    /// Takes the next word that is not a flag.
    fn word(&mut self) -> Option<String> {
        let at = self.0.iter().position(|w| !w.starts_with('-'))?;
        Some(self.0.remove(at))
    }

    /// Refuses whatever was not taken.
    fn end(self, usage: &str) -> Result<(), Failure> {
        match self.0.first() {
            None => Ok(()),
            Some(word) => Err(Failure::Usage(format!("unknown argument: {word}\n{usage}"))),
        }
    }

    fn config(&mut self) -> Result<PathBuf, Failure> {
        Ok(self.value("config")?.map_or_else(|| PathBuf::from(DEFAULT_CONFIG), PathBuf::from))
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::Refused(format!("cannot start: {e}")))
}

fn load(config: &Path) -> Result<Settings, Failure> {
    Settings::load(config)
}

/// The knobs beside the program and beside a gcfg file.
fn tuning(config: &Path) -> Result<crate::tuning::Tuning, Failure> {
    let baked = release::home().map(|home| home.join("standin.toml")).unwrap_or_default();
    let beside = config.with_file_name("standin.toml");
    crate::tuning::Tuning::load(&[&baked, &beside], standin_variables())
}

fn standin_variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
}
