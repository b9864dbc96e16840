//! `apply`: what happens while Connect is stopped. Every part looks at what an earlier try has left, so that it can be cut off anywhere.

use crate::backup::Backup;
use crate::compare::{self, Depth, Report, Target};
use crate::connection::{Door, Session};
use crate::objects::{self, Inventory, NotEmptied, Ours};
use crate::plan;
use crate::program::{self, Watch};
use crate::settings::Which;
use crate::sqlite_files;
use crate::stage::{self, TOOL_CONFIG, WORK, make_folder, write};
use crate::subject::{self, Subject};
use crate::tool;
use crate::undo::Undo;
use connect_migrator_connect::config_file;
use connect_migrator_connect::gcfg::Gcfg;
use connect_migrator_connect::installation::{DatabaseProvider, Installation};
use connect_migrator_sdk::{Outcome, Probe, Progress, Secret, StepError, Verdict};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The saved SQLite files.
pub const BACKUP: &str = "backup";
/// Copies to compare with, where a file has a log.
pub const REFERENCE: &str = "reference";
/// What stood in the databases beforehand.
pub const BEFORE: &str = "target-before.json";
/// What the tool has put there.
pub const PUT: &str = "target-put.json";
/// The outcome of the comparison.
pub const COMPARED: &str = "compared.json";
/// The tool's whole output, without secrets.
pub const TOOL_LOG: &str = "migrate.log";
/// The tool's process, while it runs.
pub const TOOL_PID: &str = "migrate.pid";
/// The configuration's bytes before and after the switch.
pub const CONFIG_BEFORE: &str = "config.before";
/// See [`CONFIG_BEFORE`].
pub const CONFIG_AFTER: &str = "config.after";
/// How long sessions of others are waited for to end.
pub const SESSIONS_END_SECONDS: u64 = 30;
/// How often is looked meanwhile.
const SESSIONS_POLL_MILLIS: u64 = 200;
/// Differences that an error tells; all are in the file.
const TOLD_DIFFERENCES: usize = 5;

/// What stood, or stands, in each database.
pub type Inventories = BTreeMap<Which, Inventory>;

/// What the tool left behind, written down as soon as it had ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Put {
    /// It ended well.
    pub complete: bool,
    /// Which backup it copied.
    pub backup: String,
    /// What is there now and was not before.
    pub inventories: Inventories,
}

/// A JSON file of the step's own folder; `None` when it is not there or was not written whole.
#[must_use]
pub fn kept_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn keep_json(path: &Path, value: &impl Serialize) -> Result<(), StepError> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|error| StepError::new(format!("write {}", path.display())).because(error))?;
    write(path, &text)
}

fn doing(subject: &Subject<'_>, what: impl Into<String>) {
    subject.cx.progress(&Progress { doing: what.into(), ..Progress::default() });
}

/// Moves the database.
///
/// # Errors
/// When any part fails; the source's own files are untouched then, but for a configuration that was switched last of all.
pub async fn apply(subject: &Subject<'_>) -> Result<Outcome, StepError> {
    let cx = subject.cx;
    let installation = subject.installed()?;
    if installation.database_provider == DatabaseProvider::Postgres {
        return already(subject, &installation);
    }
    make_folder(cx.state_dir())?;
    if program::end_leftover(&subject.kept(TOOL_PID)) {
        cx.warn("the tool of an earlier try still ran, and was ended");
    }
    doing(subject, "saving the SQLite files");
    let backup = save(subject, &installation).await?;
    let doors = subject.doors()?;
    let before = before(subject, &doors).await?;
    cx.record_undo(&Undo::Target { before: before.clone() })?;
    let put = match kept_json::<Put>(&subject.kept(PUT)) {
        Some(put) if put.complete && put.backup == name_of(&backup) => put,
        put => {
            clear(subject, &doors, &before, &backup, put).await?;
            copy(subject, &installation, &doors, &before, &backup).await?
        }
    };
    check_cancelled(subject)?;
    let report = verified(subject, &doors, &backup).await?;
    doing(subject, "switching the configuration");
    let changed = plan::diff(subject, &installation.gcfg)?;
    switch(subject)?;
    let tables = report.equal.len();
    let objects: usize = put.inventories.values().map(|inventory| inventory.objects.len()).sum();
    let mut outcome =
        Outcome::changed(format!("the product's tool copied {tables} tables ({objects} objects)"))
            .and(format!(
                "{} rows in number, and {} of them by content, are the same in SQLite and PostgreSQL",
                report.rows(),
                report.compared()
            ))
            .and(format!("{} says postgres; its other bytes are as before", subject.config().display()))
            .fact(subject.edits_key(), &subject.edits())
            .details(&report)
            .with_detail("diff", &changed);
    for note in &report.notes {
        outcome = outcome.and(note.clone());
    }
    Ok(outcome)
}

fn already(subject: &Subject<'_>, installation: &Installation) -> Result<Outcome, StepError> {
    if !subject.is_switched(&installation.gcfg) {
        return Err(StepError::new("move the database to PostgreSQL")
            .because("Connect uses PostgreSQL already, and not as the runbook says")
            .remedy("take this step out of the runbook, or correct its `url`"));
    }
    let outcome = Outcome::already_done("Connect uses PostgreSQL already");
    Ok(match kept_json::<Report>(&subject.kept(COMPARED)) {
        Some(report) => outcome
            .and(format!("{} rows were compared before it was switched", report.rows()))
            .fact(subject.edits_key(), &subject.edits())
            .details(&report),
        None => outcome,
    })
}

fn check_cancelled(subject: &Subject<'_>) -> Result<(), StepError> {
    if subject.cx.is_cancelled() {
        return Err(StepError::cancelled("move the database to PostgreSQL"));
    }
    Ok(())
}

async fn save(subject: &Subject<'_>, installation: &Installation) -> Result<Backup, StepError> {
    let (settings, dir) = (subject.settings.clone(), subject::sqlite_dir(installation));
    let to = subject.kept(BACKUP);
    let saved = tokio::task::spawn_blocking(move || {
        let chosen = subject::choose(&settings, &dir)?;
        Backup::take(&chosen.files, &to)
    })
    .await;
    let failed = |why: String| {
        StepError::new("save the SQLite files")
            .because(why)
            .remedy("see that nothing uses them and that there is room")
    };
    let backup = saved.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
    if backup.files.is_empty() {
        return Err(failed("there are none".into()));
    }
    Ok(backup)
}

/// Tells a backup from another one.
fn name_of(backup: &Backup) -> String {
    let mut hasher = Sha256::new();
    for saved in &backup.saved {
        hasher.update(saved.source.as_os_str().as_encoded_bytes());
        hasher.update(saved.sha256.as_bytes());
    }
    compare::canonical::hex(&hasher.finalize())
}

/// What stood in the databases before this migration: nothing but schemas and extensions, or we do not begin.
async fn before(subject: &Subject<'_>, doors: &[(Which, Door)]) -> Result<Inventories, StepError> {
    let path = subject.kept(BEFORE);
    if let Some(before) = kept_json::<Inventories>(&path) {
        return Ok(before);
    }
    let mut before = Inventories::new();
    for (which, door) in doors {
        let session = door.open().await?;
        let inventory = Inventory::read(&session).await?;
        let content: Vec<_> = inventory.content().cloned().collect();
        if !content.is_empty() {
            return Err(StepError::new(format!("copy the data into {}", session.place))
                .because(format!("it is not empty: {}", objects::list(&content)))
                .remedy("give Connect an empty database of its own"));
        }
        before.insert(*which, inventory);
    }
    keep_json(&path, &before)?;
    Ok(before)
}

/// Names of the tables of the saved files.
fn table_names(backup: &Backup) -> BTreeSet<String> {
    backup.files.iter().filter_map(|file| sqlite_files::tables_in_use(file).ok()).flatten().collect()
}

/// How to tell what is ours in a database.
#[must_use]
pub fn ours(put: Option<&Put>, which: Which, user: &str, backup: &Backup) -> Ours {
    match put.and_then(|put| put.inventories.get(&which)) {
        Some(inventory) => Ours::Exactly(inventory.clone()),
        None => Ours::Likely { user: user.to_owned(), tables: table_names(backup) },
    }
}

/// Waits until nobody else is in the database: a tool or a server that is just ending. Sessions that may be the server's own helpers
/// are not waited for: `check` and the end of the copy tell of them.
///
/// # Errors
/// When somebody stays.
pub async fn alone(session: &Session) -> Result<(), StepError> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(SESSIONS_END_SECONDS);
    loop {
        let others = objects::other_sessions(session).await?;
        if others.clients.is_empty() {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(StepError::new(format!("have the database {} for ourselves", session.place))
                .because(format!("it is still used by {}", others.clients.join(", ")))
                .remedy("end these sessions, then try again"));
        }
        tokio::time::sleep(Duration::from_millis(SESSIONS_POLL_MILLIS)).await;
    }
}

/// Takes away what an earlier try of this migration has left.
async fn clear(
    subject: &Subject<'_>,
    doors: &[(Which, Door)],
    before: &Inventories,
    backup: &Backup,
    put: Option<Put>,
) -> Result<(), StepError> {
    for (which, door) in doors {
        let session = door.open().await?;
        alone(&session).await?;
        let old = before.get(which).cloned().unwrap_or_default();
        let ours = ours(put.as_ref(), *which, &door.url.user, backup);
        let dropped = objects::empty(&session, &old, &ours).await.map_err(|error| not_emptied(&error))?;
        if dropped > 0 {
            subject
                .cx
                .info(format!("{dropped} objects of an earlier try were taken out of {}", session.place));
        }
    }
    match std::fs::remove_file(subject.kept(PUT)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StepError::new(format!("remove {}", subject.kept(PUT).display())).because(error))
        }
        _ => Ok(()),
    }
}

fn not_emptied(error: &NotEmptied) -> StepError {
    StepError::new("take away what an earlier try has left").because(error).remedy(
        "see whose it is; once the database is empty (drop it and create it anew), run the migration again",
    )
}

/// Runs the product's tool and writes down what it has put where.
async fn copy(
    subject: &Subject<'_>,
    installation: &Installation,
    doors: &[(Which, Door)],
    before: &Inventories,
    backup: &Backup,
) -> Result<Put, StepError> {
    check_cancelled(subject)?;
    let failed = |error: sqlite_files::SqliteError| {
        StepError::new("copy the SQLite files for the tool").because(error).remedy("see that there is room")
    };
    let (owned, work) = (backup.clone(), subject.kept(WORK));
    tokio::task::spawn_blocking(move || owned.work_copy(&work))
        .await
        .map_err(|error| StepError::new("copy the SQLite files for the tool").because(error))?
        .map_err(failed)?;
    let config = subject.kept(TOOL_CONFIG);
    write(&config, &stage::tool_config(subject, installation)?)?;
    let migrate = subject.program("migrate");
    let (log, pid_file) = (subject.kept(TOOL_LOG), subject.kept(TOOL_PID));
    let hidden: Vec<Secret> = doors.iter().filter_map(|(_, door)| door.password.clone()).collect();
    let limit = subject.settings.tool_timeout.duration();
    let watch = Watch { log: &log, pid_file: &pid_file, limit, hidden: &hidden };
    let config = config.to_string_lossy().into_owned();
    let arguments = ["db", "--config", config.as_str(), "-yes"];
    doing(subject, "copying the data with the product's tool");
    let ran = program::run_watched(&migrate, &arguments, &watch, subject.cx.cancelled(), |line| {
        subject.cx.debug(format!("migrate: {line}"));
        doing(subject, format!("copying the data with the product's tool: {line}"));
    })
    .await?;
    // Whatever came of it, what is there now is written down first: rollback takes away this and nothing else.
    let mut inventories = Inventories::new();
    let mut busy = None;
    for (which, door) in doors {
        let session = door.open().await?;
        if ran.succeeded() {
            // Its own sessions have ended with it: whoever is there looks on, and is no reason to go back.
            tell_others(subject, &session).await?;
        } else if let Err(error) = alone(&session).await {
            busy.get_or_insert(error);
        }
        let old = before.get(which).cloned().unwrap_or_default();
        let mut added = Inventory::read(&session).await?.since(&old);
        added.objects.retain(|object| object.owner == door.url.user);
        inventories.insert(*which, added);
    }
    let put = Put { complete: ran.succeeded(), backup: name_of(backup), inventories };
    keep_json(&subject.kept(PUT), &put)?;
    if ran.cancelled {
        return Err(StepError::cancelled("copy the data with the product's tool"));
    }
    if let Some(error) = busy {
        return Err(error);
    }
    if !ran.succeeded() {
        let said = if ran.tail.is_empty() { String::new() } else { format!(": {}", ran.tail.join(" / ")) };
        return Err(StepError::new(format!("copy the data with {}", migrate.display()))
            .because(format!("{}{said}", ran.ending(limit)))
            .remedy(format!("its whole output is in {}", log.display())));
    }
    Ok(put)
}

async fn tell_others(subject: &Subject<'_>, session: &Session) -> Result<(), StepError> {
    let others = objects::other_sessions(session).await?;
    if !others.is_empty() {
        subject.cx.warn(format!("{} was used by others while the data were copied: {others}", session.place));
    }
    Ok(())
}

/// Compares both sides ourselves.
async fn verified(
    subject: &Subject<'_>,
    doors: &[(Which, Door)],
    backup: &Backup,
) -> Result<Report, StepError> {
    let files = references(subject, backup).await?;
    let mut sessions = Vec::new();
    for (which, door) in doors {
        sessions.push((*which, door.open().await?));
    }
    let targets: Vec<Target<'_>> =
        sessions.iter().map(|(which, session)| Target { which: *which, session }).collect();
    let carried = tool::probe(&subject.program("migrate")).await?.instrumentation;
    let depth = Depth::of(subject.settings);
    let report = compare::compare(&files, &targets, &depth, !carried, |table, done, total| {
        subject.cx.progress(&Progress {
            doing: format!("comparing the table {table}"),
            done: Some(done),
            total: Some(total),
            unit: Some("tables".into()),
        });
    })
    .await
    .map_err(|error| {
        StepError::new("compare SQLite and PostgreSQL").because(error).remedy("see the server's log")
    })?;
    keep_json(&subject.kept(COMPARED), &report)?;
    if report.differences.is_empty() {
        return Ok(report);
    }
    let told: Vec<&str> = report.differences.iter().take(TOLD_DIFFERENCES).map(String::as_str).collect();
    let more = report.differences.len().saturating_sub(told.len());
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(StepError::new("find in PostgreSQL what was in SQLite")
        .because(format!("{}{more}", told.join("; ")))
        .remedy(format!(
            "the tool says that it copied everything: see {} and {}; a table that it leaves out on purpose goes under `ignore-tables`",
            subject.kept(TOOL_LOG).display(),
            subject.kept(COMPARED).display()
        )))
}

/// The saved files, readable without a trace; where there is a log, copies into which it was worked.
async fn references(subject: &Subject<'_>, backup: &Backup) -> Result<Vec<PathBuf>, StepError> {
    let has_log =
        |end: &str| backup.saved.iter().any(|s| s.bytes > 0 && s.source.to_string_lossy().ends_with(end));
    if !has_log("-wal") && !has_log("-journal") {
        let copy_of = |path: &Path| backup.saved.iter().find(|s| s.source == path).map(|s| s.copy.clone());
        return Ok(backup.files.iter().filter_map(|file| copy_of(&file.path)).collect());
    }
    let (owned, dir) = (backup.clone(), subject.kept(REFERENCE));
    let failed = |why: String| StepError::new("copy the SQLite files to compare with").because(why);
    tokio::task::spawn_blocking(move || {
        let files = owned.work_copy(&dir).map_err(|error| error.to_string())?;
        for file in &files {
            rusqlite::Connection::open(file)
                .and_then(|c| c.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())))
                .map_err(|error| error.to_string())?;
        }
        Ok(files)
    })
    .await
    .map_err(|error| failed(error.to_string()))?
    .map_err(failed)
}

/// Switches the configuration: the last act, after which Connect starts on PostgreSQL.
fn switch(subject: &Subject<'_>) -> Result<(), StepError> {
    let path = subject.config();
    let failed = |error: &dyn std::fmt::Display| {
        StepError::new(format!("switch {} to PostgreSQL", path.display())).because(error)
    };
    let bytes = config_file::read(path).map_err(|error| failed(&error))?;
    let gcfg = Gcfg::parse(&bytes).map_err(|error| failed(&error))?;
    let new = stage::switched(subject, &gcfg)?;
    if new == bytes {
        return Ok(());
    }
    write(&subject.kept(CONFIG_BEFORE), &bytes)?;
    write(&subject.kept(CONFIG_AFTER), &new)?;
    subject.cx.record_undo(&Undo::Config)?;
    config_file::replace(path, &bytes, &new).map_err(|error| failed(&error))
}

/// Whether Connect will start on a PostgreSQL that answers. After the first start its content goes on changing, so rows are not counted.
///
/// # Errors
/// When the installation or a URL cannot be read.
pub async fn verify(subject: &Subject<'_>) -> Result<Verdict, StepError> {
    let installation = subject.installed()?;
    if installation.database_provider != DatabaseProvider::Postgres
        || !subject.is_switched(&installation.gcfg)
    {
        return Ok(Verdict::broken(
            format!(
                "{} does not lead to the PostgreSQL database that the runbook names",
                subject.config().display()
            ),
            format!("see who changed it, and set it as in {}", subject.kept(CONFIG_AFTER).display()),
        ));
    }
    let report: Option<Report> = kept_json(&subject.kept(COMPARED));
    let mut there = BTreeSet::new();
    let mut places = Vec::new();
    for (which, door) in subject.doors()? {
        let session = match door.open().await {
            Ok(session) => session,
            Err(error) => {
                return Ok(Verdict::broken(
                    error.to_string(),
                    "see that the PostgreSQL server runs and can be reached",
                ));
            }
        };
        match compare::tables::of_postgres(&session).await {
            Ok(tables) => there.extend(tables.into_keys()),
            Err(error) => return Ok(Verdict::broken(error.to_string(), "see the PostgreSQL server's log")),
        }
        places.push(format!("{which} {}", door.url.place()));
    }
    let compared = report.map(|report| report.equal).unwrap_or_default();
    let missing: Vec<&str> = compared
        .iter()
        .map(|t| t.table.as_str())
        .filter(|name| !there.contains(&name.to_lowercase()))
        .collect();
    if !missing.is_empty() {
        return Ok(Verdict::broken(
            format!("PostgreSQL no longer has the tables {}", missing.join(", ")),
            "see who dropped them in the server's log",
        ));
    }
    Ok(Verdict::holds(format!(
        "{} answers and has the {} tables that were compared",
        places.join(", "),
        compared.len()
    )))
}

/// After `apply` was cut off.
///
/// # Errors
/// When the installation cannot be read.
pub fn probe(subject: &Subject<'_>) -> Result<Probe, StepError> {
    let installation = subject.installed()?;
    let whole = kept_json::<Report>(&subject.kept(COMPARED)).is_some_and(|r| r.differences.is_empty());
    if installation.database_provider == DatabaseProvider::Postgres
        && whole
        && subject.is_switched(&installation.gcfg)
    {
        return Ok(Probe::Done { outcome: already(subject, &installation)? });
    }
    Ok(Probe::RunAgain)
}
