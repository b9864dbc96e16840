//! The settings of a gcfg file that the stand-in knows, with the product's defaults.

use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::gcfg::Gcfg;

/// Where the product looks for its configuration.
pub const DEFAULT_CONFIG: &str = "/etc/rstudio-connect/rstudio-connect.gcfg";

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output, as in the images.
    Stdout,
    /// A file, created with mode 0600.
    File(PathBuf),
}

/// `Database.Provider`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// SQLite below `SQLite.Dir`.
    Sqlite,
    /// The server that `Postgres.URL` names.
    Postgres,
}

/// An interpreter section: `[R]`, `[Python]`, `[Quarto]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interpreter {
    /// `Enabled`; content of a language that is off cannot be built.
    pub enabled: bool,
    /// Every `Executable`.
    pub executables: Vec<PathBuf>,
}

/// What the stand-in takes from a gcfg file and the environment.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `Server.DataDir`.
    pub data_dir: PathBuf,
    /// `Server.Address`, without a slash at its end.
    pub address: String,
    /// `HTTP.Listen`.
    pub listen: String,
    /// `Database.Provider`.
    pub provider: Provider,
    /// `Database.Dir`, the home of `secret.key`.
    pub database_dir: PathBuf,
    /// `SQLite.Dir`.
    pub sqlite_dir: PathBuf,
    /// `Postgres.URL`.
    pub postgres_url: Option<String>,
    /// `Postgres.Password`, plain or encrypted.
    pub postgres_password: Option<String>,
    /// `Postgres.InstrumentationURL`; the same as `Postgres.URL` when it is not set.
    pub instrumentation_url: Option<String>,
    /// `Postgres.InstrumentationPassword`, or `Postgres.Password`.
    pub instrumentation_password: Option<String>,
    /// `Applications.RunAs`.
    pub run_as: String,
    /// `[R]`, with `Server.RVersion` directories turned into executables.
    pub r: Interpreter,
    /// `[Python]`, off by default.
    pub python: Interpreter,
    /// `[Quarto]`, off by default.
    pub quarto: Interpreter,
    /// `Logging.ServiceLog`.
    pub service_log: LogTarget,
    /// `Logging.AccessLog`.
    pub access_log: LogTarget,
}

impl Settings {
    /// Reads a file and lays the process environment over it.
    ///
    /// # Errors
    /// The file cannot be read, is not gcfg, or a value is not usable; the text names file and line.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::Config(format!("cannot read {}: {e}", path.display())))?;
        let variables =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self::from_text(&text, variables).map_err(|why| Failure::Config(format!("{}:{why}", path.display())))
    }

    /// The same from a text. Errors start with `line:column:` where there is one.
    ///
    /// # Errors
    /// The first mistake.
    pub fn from_text(
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, String> {
        let mut gcfg = Gcfg::parse(text).map_err(|e| e.to_string())?;
        gcfg.override_from(variables);
        let data_dir =
            absolute(gcfg.get("Server", "DataDir").unwrap_or("/var/lib/rstudio-connect"), "Server.DataDir")?;
        let database_dir = match gcfg.get("Database", "Dir") {
            Some(dir) => absolute(dir, "Database.Dir")?,
            None => data_dir.join("db"),
        };
        let sqlite_dir = match gcfg.get("SQLite", "Dir") {
            Some(dir) => absolute(dir, "SQLite.Dir")?,
            None => data_dir.join("db"),
        };
        let provider = match gcfg.get("Database", "Provider").unwrap_or("sqlite").to_lowercase().as_str() {
            "sqlite" => Provider::Sqlite,
            "postgres" => Provider::Postgres,
            other => return Err(format!(" Database.Provider '{other}' is neither sqlite nor postgres")),
        };
        let mut r = interpreter(&gcfg, "R", true)?;
        for dir in gcfg.all("Server", "RVersion") {
            r.executables.push(absolute(dir, "Server.RVersion")?.join("bin/R"));
        }
        Ok(Settings {
            data_dir,
            address: gcfg
                .get("Server", "Address")
                .unwrap_or("http://localhost:3939")
                .trim_end_matches('/')
                .to_owned(),
            listen: gcfg.get("HTTP", "Listen").unwrap_or(":3939").to_owned(),
            provider,
            database_dir,
            sqlite_dir,
            postgres_url: gcfg.get("Postgres", "URL").map(str::to_owned),
            postgres_password: gcfg.get("Postgres", "Password").map(str::to_owned),
            instrumentation_url: gcfg
                .get("Postgres", "InstrumentationURL")
                .or_else(|| gcfg.get("Postgres", "URL"))
                .map(str::to_owned),
            instrumentation_password: gcfg
                .get("Postgres", "InstrumentationPassword")
                .or_else(|| gcfg.get("Postgres", "Password"))
                .map(str::to_owned),
            run_as: gcfg.get("Applications", "RunAs").unwrap_or("rstudio-connect").to_owned(),
            r,
            python: interpreter(&gcfg, "Python", false)?,
            quarto: interpreter(&gcfg, "Quarto", false)?,
            service_log: log_target(&gcfg, "ServiceLog", "rstudio-connect.log")?,
            access_log: log_target(&gcfg, "AccessLog", "rstudio-connect.access.log")?,
        })
    }

    /// `Database.Dir`/secret.key.
    #[must_use]
    pub fn secret_key(&self) -> PathBuf {
        self.database_dir.join("secret.key")
    }
}

fn absolute(value: &str, what: &str) -> Result<PathBuf, String> {
    if value.starts_with('/') {
        Ok(PathBuf::from(value))
    } else {
        Err(format!(" {what} '{value}' is not an absolute path"))
    }
}

fn interpreter(gcfg: &Gcfg, section: &str, default: bool) -> Result<Interpreter, String> {
    let enabled = match gcfg.get(section, "Enabled") {
        None => default,
        Some(text) => match text.to_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => true,
            "false" | "no" | "off" | "0" => false,
            _ => return Err(format!(" {section}.Enabled '{text}' is not a boolean")),
        },
    };
    let executables = gcfg
        .all(section, "Executable")
        .into_iter()
        .map(|e| absolute(e, &format!("{section}.Executable")))
        .collect::<Result<_, _>>()?;
    Ok(Interpreter { enabled, executables })
}

fn log_target(gcfg: &Gcfg, name: &str, file: &str) -> Result<LogTarget, String> {
    match gcfg.get("Logging", name) {
        None => Ok(LogTarget::File(Path::new("/var/log/rstudio/rstudio-connect").join(file))),
        Some(text) if text.eq_ignore_ascii_case("stdout") => Ok(LogTarget::Stdout),
        Some(text) => Ok(LogTarget::File(absolute(text, &format!("Logging.{name}"))?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_and_sqlite_directories_follow_the_data_directory() {
        let none = std::iter::empty::<(String, String)>;
        let s =
            Settings::from_text("[Server]\nDataDir = /d\n[Database]\nProvider = Postgres\n", none()).unwrap();
        assert_eq!(s.secret_key(), Path::new("/d/db/secret.key"));
        assert_eq!(s.sqlite_dir, Path::new("/d/db"));
        assert_eq!(s.provider, Provider::Postgres);
        assert!(s.r.enabled && !s.python.enabled);
        assert!(Settings::from_text("[Server]\nDataDir = rel\n", none()).is_err());
        let s = Settings::from_text("", [("CONNECT_SERVER_DATADIR".to_owned(), "/e".to_owned())]).unwrap();
        assert_eq!(s.data_dir, Path::new("/e"));
    }
}
