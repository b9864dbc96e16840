//! What one call is about: settings, places and the source put together.

use crate::connection::Door;
use crate::settings::{Settings, Which};
use crate::sqlite_files::{self, SqliteError, SqliteFile};
use crate::url::{PostgresUrl, UrlError};
use connect_migrator_connect::gcfg::Gcfg;
use connect_migrator_connect::installation::{Installation, InstallationError, Places};
use connect_migrator_connect::source_edits::{EditValue, SourceEdits};
use connect_migrator_sdk::{Context, Secret, StepError};
use std::path::{Path, PathBuf};

/// Settings, places and the source.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// The settings.
    pub settings: &'a Settings,
    /// The places of an installation.
    pub places: &'a Places,
    /// The call.
    pub cx: &'a Context,
}

impl<'a> Subject<'a> {
    /// Puts them together.
    #[must_use]
    pub fn new(settings: &'a Settings, places: &'a Places, cx: &'a Context) -> Self {
        Subject { settings, places, cx }
    }

    /// The source's configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.cx.source().config
    }

    /// The installation as it is now.
    ///
    /// # Errors
    /// When its configuration cannot be read.
    pub fn installation(&self) -> Result<Installation, InstallationError> {
        Installation::read_files_at(self.cx.source(), self.places)
    }

    /// The same for a call that cannot go on without.
    ///
    /// # Errors
    /// When its configuration cannot be read.
    pub fn installed(&self) -> Result<Installation, StepError> {
        self.installation().map_err(|error| {
            StepError::new("read the installation").because(error).remedy("correct the configuration file")
        })
    }

    /// `<install-dir>/bin/<name>`
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.cx.source().install_dir.join("bin").join(name)
    }

    /// A file in the step's own folder.
    #[must_use]
    pub fn kept(&self, name: impl AsRef<Path>) -> PathBuf {
        self.cx.state_dir().join(name)
    }

    /// The databases that the runbook names: the core one, and the instrumentation one if it is elsewhere.
    ///
    /// # Errors
    /// When a URL is none.
    pub fn urls(&self) -> Result<Vec<(Which, PostgresUrl)>, (Which, UrlError)> {
        let of = |which, text: &str| match PostgresUrl::parse(text) {
            Ok(url) => Ok((which, url)),
            Err(error) => Err((which, error)),
        };
        let mut urls = vec![of(Which::Core, &self.settings.url)?];
        if let Some(text) = &self.settings.instrumentation_url {
            urls.push(of(Which::Instrumentation, text)?);
        }
        Ok(urls)
    }

    /// The password of a database; a line end at its end is not part of it.
    ///
    /// # Errors
    /// When it is not stored.
    pub fn password(&self, which: Which) -> Result<Option<Secret>, StepError> {
        let named = match which {
            Which::Core => self.settings.password.as_ref(),
            Which::Instrumentation => {
                self.settings.instrumentation_password.as_ref().or(self.settings.password.as_ref())
            }
        };
        let Some(named) = named else { return Ok(None) };
        let secret = self.cx.secret(named)?;
        Ok(Some(Secret::new(secret.expose().trim_end_matches(['\r', '\n']).to_owned())))
    }

    /// The ways into the databases.
    ///
    /// # Errors
    /// When a URL is none, or a password is not stored.
    pub fn doors(&self) -> Result<Vec<(Which, Door)>, StepError> {
        let urls = self.urls().map_err(|(which, error)| {
            StepError::new(format!("read the URL of {which}"))
                .because(error)
                .remedy("correct it in the runbook")
        })?;
        urls.into_iter()
            .map(|(which, url)| Ok((which, Door::new(url, self.password(which)?, self.settings))))
            .collect()
    }

    /// What the step changes in the configuration file.
    #[must_use]
    pub fn edits(&self) -> SourceEdits {
        let text = |text: &str| EditValue::Text(text.to_owned());
        let file = |which: Which| EditValue::File(self.kept(which.password_file()));
        let mut edits = SourceEdits::default().with("Database", "Provider", text("postgres")).with(
            "Postgres",
            Which::Core.url_key(),
            text(&self.settings.url),
        );
        if self.settings.password.is_some() {
            edits = edits.with("Postgres", Which::Core.password_key(), file(Which::Core));
        }
        if let Some(url) = &self.settings.instrumentation_url {
            edits = edits.with("Postgres", Which::Instrumentation.url_key(), text(url));
            // Said twice rather than left to what a release makes of its absence.
            if self.settings.instrumentation_password.is_some() || self.settings.password.is_some() {
                let which = Which::Instrumentation;
                edits = edits.with("Postgres", which.password_key(), file(which));
            }
        }
        edits
    }

    /// The key under which later steps find [`Subject::edits`].
    #[must_use]
    pub fn edits_key(&self) -> String {
        SourceEdits::key(&self.cx.invocation().step)
    }

    /// Whether a configuration is the one that the step makes: its provider and URLs. Passwords are not looked at.
    #[must_use]
    pub fn is_switched(&self, gcfg: &Gcfg) -> bool {
        self.edits().edits.iter().all(|edit| match &edit.value {
            EditValue::Text(text) => gcfg.get(&edit.section, None, &edit.key).is_some_and(|v| v == *text),
            EditValue::File(_) => true,
        })
    }
}

/// `SQLite.Dir`.
#[must_use]
pub fn sqlite_dir(installation: &Installation) -> PathBuf {
    installation.setting("SQLite", "Dir").map_or_else(|| installation.data_dir.join("db"), PathBuf::from)
}

/// The SQLite files that are to be carried, and those beside them that look like copies of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen {
    /// To be carried.
    pub files: Vec<SqliteFile>,
    /// Left out, each with the one that it looks like a copy of.
    pub copies: Vec<(SqliteFile, String)>,
}

/// Chooses among the SQLite files of an installation: those that the settings name; else all, and of several with the same tables the
/// one that changed last. Files in use are read, not written.
///
/// # Errors
/// When the folder or a file cannot be read, or a named file is not there.
pub fn choose(settings: &Settings, dir: &Path) -> Result<Chosen, SqliteError> {
    let found = sqlite_files::find(dir)?;
    if !settings.sqlite_files.is_empty() {
        let mut files = Vec::new();
        for name in &settings.sqlite_files {
            let file = found.iter().find(|file| file.name() == *name).cloned();
            files.push(file.ok_or_else(|| SqliteError {
                doing: "find the SQLite file",
                path: dir.join(name),
                why: "there is no such file, or it is no SQLite file".into(),
            })?);
        }
        return Ok(Chosen { files, copies: Vec::new() });
    }
    let mut chosen = Chosen::default();
    let mut seen: Vec<(std::collections::BTreeSet<String>, SqliteFile)> = Vec::new();
    for file in found {
        let tables = sqlite_files::tables_in_use(&file)?;
        match seen.iter_mut().find(|(known, _)| !tables.is_empty() && *known == tables) {
            Some((_, first)) => {
                let (newer, older) = if file.changed_ns > first.changed_ns {
                    (file.clone(), std::mem::replace(first, file))
                } else {
                    (first.clone(), file)
                };
                chosen.copies.push((older, newer.name()));
            }
            None => seen.push((tables, file)),
        }
    }
    chosen.files = seen.into_iter().map(|(_, file)| file).collect();
    Ok(chosen)
}
