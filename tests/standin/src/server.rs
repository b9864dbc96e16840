//! The server: start, what it holds, stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::api;
use crate::builds::Builds;
use crate::caches::DataDir;
use crate::failure::Failure;
use crate::live::{Heart, hostname};
use crate::log::Log;
use crate::runtimes::Runtimes;
use crate::settings::Settings;
use crate::startup;
use crate::store::Store;
use crate::tasks::Tasks;
use crate::tuning::{Ping, Tuning};

/// How long open connections get after the port was closed, before they are cut.
const DRAIN_MILLIS: u64 = 100;

/// Which start checks are made. Tests that are not root in a prepared machine leave some out.
#[derive(Debug, Clone)]
pub struct Checks {
    /// Root, a RunAs user that exists, a sandbox.
    pub privileges: bool,
    /// Where a licence file must be; `None`: none is asked for.
    pub licence_dir: Option<PathBuf>,
    /// Heartbeats, so that two copies are noticed. Off only for benches on a database in memory.
    pub heartbeat: bool,
}

impl Checks {
    /// All of them, as the packaged program makes them.
    #[must_use]
    pub fn strict() -> Self {
        Checks { privileges: true, licence_dir: Some(PathBuf::from(startup::LICENCE_DIR)), heartbeat: true }
    }

    /// None but the heartbeat.
    #[must_use]
    pub fn lenient() -> Self {
        Checks { privileges: false, licence_dir: None, heartbeat: true }
    }
}

/// Everything a start needs to know.
#[derive(Debug)]
pub struct Launch {
    /// The configuration.
    pub settings: Settings,
    /// Times and troubles.
    pub tuning: Tuning,
    /// Start checks.
    pub checks: Checks,
    /// What the server says it is.
    pub version: String,
    /// What the server believes to run on, such as `debian-12`.
    pub distribution: String,
    /// Where interpreters are, such as `/opt`.
    pub interpreters: PathBuf,
    /// A database to use instead of the configured one.
    pub store: Option<Store>,
}

/// What every request can see.
#[derive(Debug)]
pub struct App {
    pub(crate) settings: Settings,
    pub(crate) tuning: Tuning,
    pub(crate) version: String,
    pub(crate) distribution: String,
    pub(crate) hostname: String,
    pub(crate) store: Store,
    pub(crate) data: DataDir,
    pub(crate) runtimes: Runtimes,
    pub(crate) tasks: Tasks,
    pub(crate) builds: Builds,
    pub(crate) counts: api::Counts,
    pub(crate) access: Log,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    log: Log,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
    heart: Option<Heart>,
    stop_time: Duration,
}

impl Server {
    /// Makes the checks in the product's order, opens the database and the port.
    ///
    /// # Errors
    /// The first check that says no; see [`Failure`]. It is also in the service log.
    pub async fn start(launch: Launch) -> Result<Self, Failure> {
        let log = Log::open(&launch.settings.service_log)?;
        log.info(&format!("Starting Posit Connect v{}", launch.version));
        match Self::bring_up(launch, log.clone()).await {
            Ok(server) => Ok(server),
            Err(e) => {
                log.error(&e.to_string());
                Err(e)
            }
        }
    }

    async fn bring_up(launch: Launch, log: Log) -> Result<Self, Failure> {
        let Launch { settings, tuning, checks, version, distribution, interpreters, store } = launch;
        if checks.privileges {
            startup::must_be_root()?;
        }
        if let Some(dir) = &checks.licence_dir {
            startup::licence(dir)?;
        }
        let owner = if checks.privileges {
            let owner = startup::run_as_user(&settings.run_as)?;
            startup::sandbox(&settings.run_as, owner)?;
            Some(owner)
        } else {
            None
        };
        let runtimes = Runtimes::discover(&settings, &interpreters)?;
        std::fs::create_dir_all(&settings.data_dir).map_err(Failure::file("create", &settings.data_dir))?;
        let store = match store {
            Some(store) => store,
            None => Store::open(&settings).await?,
        };
        store.claim_secret_key(&settings).await?;
        let heart = if checks.heartbeat { Some(Heart::start(&settings, log.clone()).await?) } else { None };
        if tuning.startup_ms > 0 {
            log.info(&format!("Preparing the database ({} ms)", tuning.startup_ms));
            tokio::time::sleep(Duration::from_millis(tuning.startup_ms)).await;
        }
        if tuning.ping == Ping::NeverListen {
            log.info("standin.toml says ping = never-listen");
            std::future::pending::<()>().await;
        }
        let listener = listen(&settings.listen).await?;
        let address = listener.local_addr().map_err(|e| Failure::Refused(format!("listen: {e}")))?;
        let app = Arc::new(App {
            data: DataDir::new(&settings.data_dir, owner),
            builds: Builds::new(tuning.build_slots),
            access: Log::open(&settings.access_log)?,
            version: tuning.reported_version.clone().unwrap_or(version),
            hostname: hostname(),
            tasks: Tasks::default(),
            counts: api::Counts::default(),
            settings,
            tuning,
            distribution,
            store,
            runtimes,
        });
        let stop_time = Duration::from_millis(app.tuning.stop_ms);
        let (stop, stopped) = oneshot::channel::<()>();
        let router = api::router(Arc::clone(&app));
        let serving = tokio::spawn(async move {
            let graceful = axum::serve(listener, router).with_graceful_shutdown(async move {
                let _ = stopped.await;
            });
            let _ = graceful.await;
        });
        log.info(&format!("Starting HTTP server on {address}"));
        Ok(Server { address, log, stop, serving, heart, stop_time })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops as on SIGTERM: the port closes at once, the process would end after the configured stop time, then the
    /// heartbeat is taken away.
    pub async fn stop(self) {
        self.log.info("Stopping Posit Connect");
        let _ = self.stop.send(());
        let mut serving = self.serving;
        if tokio::time::timeout(Duration::from_millis(DRAIN_MILLIS), &mut serving).await.is_err() {
            serving.abort();
        }
        tokio::time::sleep(self.stop_time).await;
        if let Some(heart) = self.heart {
            heart.stop().await;
        }
        self.log.info("Stopped Posit Connect");
    }

    /// Ends as `kill -9` would: nothing is tidied up.
    pub async fn die(self) {
        self.serving.abort();
        if let Some(heart) = self.heart {
            heart.die().await;
        }
    }
}

/// `:3939` means all addresses, as in the product.
async fn listen(address: &str) -> Result<TcpListener, Failure> {
    let failed = |e: std::io::Error| Failure::Refused(format!("Unable to listen on {address}: {e}"));
    let Some(port) = address.strip_prefix(':') else {
        return TcpListener::bind(address).await.map_err(failed);
    };
    match TcpListener::bind(format!("[::]:{port}")).await {
        // No IPv6 here.
        Err(e) if e.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32) => {
            TcpListener::bind(format!("0.0.0.0:{port}")).await.map_err(failed)
        }
        other => other.map_err(failed),
    }
}
