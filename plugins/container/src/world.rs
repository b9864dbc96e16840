//! The places on this host that the step reads and writes, and what it is about.

use crate::engine::{Engine, EngineError};
use crate::kind::Kind;
use crate::settings::{Names, Settings, reach};
use connect_migrator_connect::installation::{self, Installation, InstallationError, Places};
use connect_migrator_connect::source_edits::SourceEdits;
use connect_migrator_sdk::{Context, Source, StepError};
use std::path::{Path, PathBuf};

/// Labels of our containers: `io.connect-migrator.migration`, …
pub const LABEL_PREFIX: &str = "io.connect-migrator.";

/// The places on this host. Tests have others.
#[derive(Debug, Clone)]
pub struct World {
    /// The engine.
    pub kind: Kind,
    /// What belongs to the installation of Connect.
    pub places: Places,
    /// What containers mount and must outlive the migration: one folder each, root only.
    pub folders: PathBuf,
    /// Where this host's own units are, and a masked one is a link to `/dev/null`.
    pub unit_dir: PathBuf,
    /// Where licence files are looked for.
    pub licence_dir: PathBuf,
    /// What is mounted where.
    pub mountinfo: PathBuf,
    /// The processes.
    pub proc: PathBuf,
    /// Configuration that other programs of this host share.
    pub etc: PathBuf,
}

impl World {
    /// Those of this host.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        World {
            kind,
            places: Places::default(),
            folders: "/etc/connect-migrator/containers".into(),
            unit_dir: "/etc/systemd/system".into(),
            licence_dir: installation::LICENCE_DIR.into(),
            mountinfo: "/proc/self/mountinfo".into(),
            proc: "/proc".into(),
            etc: "/etc".into(),
        }
    }
}

/// What one call is about: settings, places and names put together.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// The settings.
    pub settings: &'a Settings,
    /// The places.
    pub world: &'a World,
    /// The Connect that is moved.
    pub source: &'a Source,
    /// The names in effect.
    pub names: Names,
    /// The name after the `@`.
    pub instance: String,
    /// The migration's id; empty in `check` and `plan`.
    pub migration: String,
    /// The step's id.
    pub step: String,
    /// This host's name.
    pub host: String,
    /// What other steps change in the configuration: the container is made for what it will be.
    pub edits: SourceEdits,
}

impl<'a> Subject<'a> {
    /// Puts them together.
    ///
    /// # Errors
    /// When a name cannot be used.
    pub fn new(settings: &'a Settings, world: &'a World, cx: &'a Context) -> Result<Self, StepError> {
        let host = nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "localhost".into());
        let migration = cx.migration();
        Ok(Subject {
            settings,
            world,
            source: cx.source(),
            names: settings.names(&migration.instance, &host)?,
            instance: migration.instance.clone(),
            migration: migration.id.clone(),
            step: cx.invocation().step.clone(),
            host,
            edits: SourceEdits::of_others(cx),
        })
    }

    /// Reads the installation; runs `connect --version`.
    ///
    /// # Errors
    /// When its configuration cannot be read.
    pub fn installation(&self) -> Result<Installation, InstallationError> {
        Installation::read_at(self.source, &self.world.places)?.edited(self.edits.clone())
    }

    /// Reads the installation's files only: quick enough for the window. Its version stays unknown.
    ///
    /// # Errors
    /// When its configuration cannot be read.
    pub fn installation_files(&self) -> Result<Installation, InstallationError> {
        Installation::read_files_at(self.source, &self.world.places)?.edited(self.edits.clone())
    }

    /// The container's own folder on this host.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.world.folders.join(&self.names.container)
    }

    /// The container's configuration file on this host.
    #[must_use]
    pub fn staged_config(&self) -> PathBuf {
        self.folder().join("rstudio-connect.gcfg")
    }

    /// The file that is there only while the data directory is.
    #[must_use]
    pub fn data_guard(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(format!(".{}-data", self.names.container))
    }

    /// The masked unit.
    #[must_use]
    pub fn masked_unit(&self) -> PathBuf {
        self.world.unit_dir.join(&self.source.unit)
    }

    /// Whether the source's unit is masked, so that it cannot be started.
    #[must_use]
    pub fn source_is_masked(&self) -> bool {
        std::fs::read_link(self.masked_unit()).is_ok_and(|to| to == Path::new("/dev/null"))
    }

    /// The engine.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.world.kind
    }

    /// The engine's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.settings.socket.as_deref().unwrap_or(self.kind().socket())
    }

    /// Connects to the engine.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn engine(&self) -> Result<Engine, EngineError> {
        Engine::connect(self.kind(), self.socket(), self.settings.engine_timeout.duration()).await
    }

    /// Connects to the engine, and waits for it as long as the settings say.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn engine_within(&self) -> Result<Engine, EngineError> {
        Engine::connect_within(self.kind(), self.socket(), self.settings.engine_timeout.duration()).await
    }

    /// `host:port` at which this host reaches the container.
    #[must_use]
    pub fn address(&self) -> String {
        reach(&self.names.publish)
    }

    /// The licence files in effect.
    #[must_use]
    pub fn licences(&self) -> Vec<PathBuf> {
        match &self.settings.licence {
            Some(path) => vec![path.clone()],
            None => installation::licence_files_in(&self.world.licence_dir),
        }
    }
}
