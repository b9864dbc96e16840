//! Never two Connects on one database or one DataDir: every running copy leaves a heartbeat in both, and a copy that
//! sees another one alive records a violation.
//!
//! Alive is judged by what cannot lie after `kill -9`, a power cut or a clock that jumped: a heartbeat that moves while
//! we look, or a lock (PostgreSQL advisory lock, flock in DataDir) that somebody else holds and keeps.

mod judge;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use self::judge::{Heartbeat, Judge, Sight, unknown};
use crate::failure::Failure;
use crate::log::Log;
use crate::secret;
use crate::settings::{Provider, Settings};
use crate::store::Store;

/// Time between heartbeats.
pub const BEAT_MILLIS: u64 = 200;
/// A heartbeat that stood still this long belongs to a copy that is gone, if no lock says otherwise.
pub const STALE_MILLIS: u64 = 2_000;
/// A lock that others kept this long is held by a living copy, whatever the heartbeats say.
pub const LOCK_KEPT_MILLIS: u64 = 2_500;
/// Rounds of looking that a copy adds before it stops while a suspicion is open.
const LAST_ROUNDS: u32 = 3;
/// Directory in DataDir with the lock and the heartbeats.
pub const LIVE_DIR: &str = ".standin-live";
/// File in DataDir with one JSON object a violation.
pub const VIOLATIONS_LOG: &str = ".standin-violations.log";
/// Key of the advisory lock.
const ADVISORY_KEY: i64 = 0x5354_414e_4449_4e00;

/// Which copy of the stand-in this is.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Copy {
    /// Random; the key of its heartbeat.
    pub id: String,
    /// Host or container name.
    pub hostname: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// Process id (in its own name space).
    pub pid: u32,
    /// Start time.
    pub started: String,
}

impl Copy {
    /// Describes this process.
    ///
    /// # Errors
    /// No random numbers.
    pub fn this() -> Result<Self, Failure> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Copy {
            id: secret::hex(&secret::random(8)?),
            hostname: hostname(),
            boot_id: boot_id.trim().to_owned(),
            pid: std::process::id(),
            started: now(),
        })
    }
}

/// The host's name as the product shows it in `server_settings`.
#[must_use]
pub fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_default()
}

pub(crate) fn now() -> String {
    jiff::Timestamp::now().round(jiff::Unit::Millisecond).unwrap_or_default().to_string()
}

/// Two copies were alive at once.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Violation {
    /// When it was noticed.
    pub time: String,
    /// `database` or `data-dir`.
    pub place: String,
    /// Who noticed.
    pub this: Copy,
    /// The other one; without a heartbeat only its lock is known and the id is "unknown".
    pub other: Copy,
}

/// A place that two copies must not share.
enum Place {
    Database { store: Box<Store>, has_lock: bool },
    DataDir { dir: PathBuf, lock: Option<Flock<fs::File>> },
}

impl Place {
    fn name(&self) -> &'static str {
        match self {
            Place::Database { .. } => "database",
            Place::DataDir { .. } => "data-dir",
        }
    }

    async fn beat(&mut self, me: &Copy, beat: i64) -> Result<Sight, Failure> {
        match self {
            Place::Database { store, has_lock } => {
                let text = serde_json::to_string(me).unwrap_or_default();
                store
                    .execute(
                        "INSERT INTO live_instances (id, copy, beat, beat_time) VALUES ($1, $2, $3, $4) \
                         ON CONFLICT (id) DO UPDATE SET beat = $3, beat_time = $4",
                        &[me.id.as_str().into(), text.into(), beat.into(), now().into()],
                    )
                    .await?;
                let lock_is_ours = if *has_lock {
                    // Asking again on the same connection would count up; who holds it is in pg_locks.
                    let rows = store
                        .query(
                            "SELECT CASE WHEN EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted \
                             AND pid = pg_backend_pid() AND ((classid::bigint << 32) | objid::bigint) = $1) \
                             THEN true ELSE pg_try_advisory_lock($1) END",
                            &[ADVISORY_KEY.into()],
                        )
                        .await?;
                    Some(rows.first().is_some_and(|r| r.int(0) == 1))
                } else {
                    None
                };
                let rows = store
                    .query("SELECT copy, beat FROM live_instances WHERE id <> $1", &[me.id.as_str().into()])
                    .await?;
                let others = rows
                    .iter()
                    .filter_map(|r| {
                        Some(Heartbeat { copy: serde_json::from_str(&r.text(0)).ok()?, beat: r.int(1) })
                    })
                    .collect();
                Ok(Sight { lock_is_ours, others })
            }
            Place::DataDir { dir, lock } => {
                fs::create_dir_all(&*dir).map_err(Failure::file("create", dir))?;
                let text = serde_json::json!({ "copy": me, "beat": beat }).to_string();
                let (temporary, file) =
                    (dir.join(format!("{}.new", me.id)), dir.join(format!("{}.json", me.id)));
                fs::write(&temporary, text).map_err(Failure::file("write", &temporary))?;
                fs::rename(&temporary, &file).map_err(Failure::file("write", &file))?;
                if lock.is_none() {
                    *lock = try_lock(&dir.join("lock"))?;
                }
                Ok(Sight { lock_is_ours: Some(lock.is_some()), others: other_files(dir, &me.id)? })
            }
        }
    }

    async fn forget(&self, id: &str) -> Result<(), Failure> {
        match self {
            Place::Database { store, .. } => {
                store.execute("DELETE FROM live_instances WHERE id = $1", &[id.into()]).await.map(drop)
            }
            Place::DataDir { dir, .. } => {
                let file = dir.join(format!("{id}.json"));
                match fs::remove_file(&file) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        Err(Failure::file("remove", &file)(e))
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

fn try_lock(path: &Path) -> Result<Option<Flock<fs::File>>, Failure> {
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(Failure::file("open", path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(Failure::file("lock", path)(e.into())),
    }
}

/// Whether a running copy holds the lock of a DataDir.
///
/// # Errors
/// The lock file cannot be opened.
pub fn is_running(settings: &Settings) -> Result<bool, Failure> {
    let path = settings.data_dir.join(LIVE_DIR).join("lock");
    Ok(path.exists() && try_lock(&path)?.is_none())
}

fn other_files(dir: &Path, me: &str) -> Result<Vec<Heartbeat>, Failure> {
    #[derive(Deserialize)]
    struct File {
        copy: Copy,
        beat: i64,
    }
    let entries = fs::read_dir(dir).map_err(Failure::file("read", dir))?;
    let others = entries.flatten().filter_map(|entry| {
        let path = entry.path();
        if path.extension()? != "json" {
            return None;
        }
        let file: File = serde_json::from_str(&fs::read_to_string(&path).ok()?).ok()?;
        Some(Heartbeat { copy: file.copy, beat: file.beat })
    });
    Ok(others.filter(|h| h.copy.id != me).collect())
}

/// The heartbeat of this copy; runs until [`Heart::stop`].
#[derive(Debug)]
pub struct Heart {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Heart {
    /// Leaves the first heartbeat, then beats in the background.
    ///
    /// # Errors
    /// The database or DataDir cannot be written.
    pub async fn start(settings: &Settings, log: Log) -> Result<Self, Failure> {
        let me = Copy::this()?;
        let mut places = vec![
            Place::Database {
                store: Box::new(Store::open(settings).await?),
                has_lock: settings.provider == Provider::Postgres,
            },
            Place::DataDir { dir: settings.data_dir.join(LIVE_DIR), lock: None },
        ];
        if let Some(Place::Database { store, has_lock: true }) = places.first() {
            // A heartbeat need not wait for the disk.
            store.execute("SET synchronous_commit = off", &[]).await?;
        }
        let mut judges = vec![Judge::default(), Judge::default()];
        let data_dir = settings.data_dir.clone();
        round(&mut places, &mut judges, &me, 0, &data_dir, &log).await?;
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut beat = 0;
            let mut last_rounds = None;
            loop {
                let pause = tokio::time::sleep(Duration::from_millis(BEAT_MILLIS));
                match &mut last_rounds {
                    None => tokio::select! {
                        () = pause => {}
                        _ = &mut stopped => last_rounds = Some(LAST_ROUNDS),
                    },
                    Some(0) => break,
                    Some(n) => {
                        if !judges.iter().any(Judge::is_suspicious) {
                            break;
                        }
                        *n -= 1;
                        pause.await;
                    }
                }
                beat += 1;
                if let Err(e) = round(&mut places, &mut judges, &me, beat, &data_dir, &log).await {
                    log.error(&format!("heartbeat: {e}"));
                }
            }
            for place in &places {
                if let Err(e) = place.forget(&me.id).await {
                    log.error(&format!("heartbeat: {e}"));
                }
            }
        });
        Ok(Heart { stop, task })
    }

    /// Takes the heartbeat away and lets the locks go. Looks once or a few times more if another copy was suspected.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }

    /// Ends as `kill -9` would: heartbeats stay behind, locks go with their owner.
    pub async fn die(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn round(
    places: &mut [Place],
    judges: &mut [Judge],
    me: &Copy,
    beat: i64,
    data_dir: &Path,
    log: &Log,
) -> Result<(), Failure> {
    let mut violations = Vec::new();
    let mut trouble = None;
    for (place, judge) in places.iter_mut().zip(judges) {
        let sight = match place.beat(me, beat).await {
            Ok(sight) => sight,
            Err(e) => {
                trouble = Some(e);
                continue;
            }
        };
        let verdict = judge.look(Instant::now(), &sight);
        for id in &verdict.gone {
            place.forget(id).await?;
        }
        violations.extend(verdict.alive.into_iter().map(|other| Violation {
            time: now(),
            place: place.name().to_owned(),
            this: me.clone(),
            other,
        }));
    }
    for violation in &violations {
        log.error(&format!(
            "VIOLATION: two copies on one {}: {:?} and {:?}",
            violation.place, me, violation.other
        ));
        append(data_dir, violation)?;
        if let Some(Place::Database { store, .. }) = places.first() {
            record(store, violation).await?;
        }
    }
    trouble.map_or(Ok(()), Err)
}

fn append(data_dir: &Path, violation: &Violation) -> Result<(), Failure> {
    let path = data_dir.join(VIOLATIONS_LOG);
    let line = serde_json::to_string(violation).unwrap_or_default();
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{line}"))
        .map_err(Failure::file("write", &path))
}

async fn record(store: &Store, violation: &Violation) -> Result<(), Failure> {
    let json = |copy: &Copy| serde_json::to_string(copy).unwrap_or_default();
    let id = secret::hex(&secret::random(8)?);
    store
        .insert(
            "violations",
            &[
                id.into(),
                violation.time.as_str().into(),
                violation.place.as_str().into(),
                json(&violation.this).into(),
                json(&violation.other).into(),
            ],
        )
        .await
        .map(drop)
}

/// Every violation that the database or DataDir knows, without doubles.
///
/// # Errors
/// The database or the log cannot be read.
pub async fn violations(store: &Store, data_dir: &Path) -> Result<Vec<Violation>, Failure> {
    let mut all: Vec<Violation> = Vec::new();
    for row in
        store.query("SELECT time, place, this_copy, other_copy FROM violations ORDER BY time", &[]).await?
    {
        let copy = |column| serde_json::from_str(&row.text(column)).unwrap_or_else(|_| unknown());
        all.push(Violation { time: row.text(0), place: row.text(1), this: copy(2), other: copy(3) });
    }
    let path = data_dir.join(VIOLATIONS_LOG);
    match fs::read_to_string(&path) {
        Ok(text) => {
            for line in text.lines() {
                let violation = serde_json::from_str(line)
                    .map_err(|e| Failure::database(format!("read {}", path.display()), e))?;
                if !all.contains(&violation) {
                    all.push(violation);
                }
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Failure::file("read", &path)(e)),
    }
    Ok(all)
}
