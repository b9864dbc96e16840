//! Mounting, copying while Connect serves, and the last pass in the window.

use crate::config;
use crate::copying::{self, Cutover, Folders, Kept};
use crate::settings::Settings;
use crate::undo::{Root, Undo};
use crate::units::{Mounter, unit_name, unit_text, write_unit};
use connect_migrator_connect::installation::Installation;
use connect_migrator_connect::source_edits::{EditValue, SourceEdits};
use connect_migrator_copy as copy;
use connect_migrator_sdk::{Context, Outcome, StepError, Verdict};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How long the mounted folder may take to answer when it is only looked at.
const LOOK_TIMEOUT_SECONDS: u64 = 15;

/// How far the copying has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Passes {
    /// Passes that ended.
    pub passes: u32,
    /// How long the last one took.
    pub last_seconds: f64,
}

/// The folders of this migration: those of the first `prepare`, or as the configuration has them now.
///
/// # Errors
/// When the configuration cannot be read.
pub fn folders(config: &Settings, cx: &Context) -> Result<Folders, StepError> {
    if let Some(folders) = copying::read(&Kept(cx.state_dir()).folders())? {
        return Ok(folders);
    }
    let installation = Installation::read(cx.source())
        .map_err(|error| StepError::new("read the Connect installation").because_of(&error))?;
    Ok(Folders { source: installation.data_dir, mount: config.mount.clone() })
}

/// This step's edit of the configuration: the data directory.
#[must_use]
pub fn edits(mount: &Path) -> SourceEdits {
    SourceEdits::default().with("Server", "DataDir", EditValue::Text(mount.to_string_lossy().into_owned()))
}

/// Mounts the export, now and after every boot.
///
/// # Errors
/// When something else is mounted there, or it cannot be mounted.
pub async fn mount(config: &Settings, cx: &Context, mounter: &impl Mounter) -> Result<String, StepError> {
    let unit = mounter.units_dir().join(unit_name(&config.mount));
    // Where something is mounted it is not looked at: its server may not answer.
    let mounted = mounter.mounted(&config.mount)?;
    let made_folder = mounted.is_none() && !config.mount.exists();
    cx.record_undo(&Undo::Prepared { unit: unit.clone(), mount: config.mount.clone(), made_folder })?;
    if made_folder {
        fs::create_dir_all(&config.mount).map_err(|error| {
            StepError::new(format!("make the mount point {}", config.mount.display())).because(error)
        })?;
    }
    let is_ours = fs::read_to_string(&unit).is_ok_and(|text| crate::units::is_ours(&text));
    if let Some(mounted) = mounted
        && !is_ours
    {
        is_the_export(config, &mounted.what)?;
        return Ok(format!("{} was mounted at {} already", config.export, config.mount.display()));
    }
    write_unit(&unit, &unit_text(&config.export, &config.mount, &config.options))?;
    mounter.start(&unit).await?;
    let Some(mounted) = mounter.mounted(&config.mount)? else {
        return Err(StepError::new(format!("mount {}", config.export))
            .because("systemd says that it is mounted, but it is not")
            .remedy(format!("`systemctl status '{}'` tells more", unit_name(&config.mount))));
    };
    is_the_export(config, &mounted.what)?;
    Ok(format!("{} is mounted at {}, after a reboot too", config.export, config.mount.display()))
}

pub(crate) fn is_the_export(config: &Settings, what: &str) -> Result<(), StepError> {
    if what.trim_end_matches('/') == config.export.trim_end_matches('/') {
        return Ok(());
    }
    Err(StepError::new(format!("mount {} at {}", config.export, config.mount.display()))
        .because(format!("{what} is mounted there"))
        .remedy("unmount it, or choose another mount point"))
}

/// Mounts, and copies again and again until a pass is short.
///
/// # Errors
/// When it cannot be mounted or copied.
pub async fn prepare(config: &Settings, cx: &Context, mounter: &impl Mounter) -> Result<Outcome, StepError> {
    config.validate()?;
    let folders = folders(config, cx)?;
    let installation = Installation::read(cx.source())
        .map_err(|error| StepError::new("read the Connect installation").because_of(&error))?;
    if let Some(why) = crate::check::sqlite_on_nfs(config, cx, &installation, &folders.source) {
        return Err(StepError::new("move the data directory to NFS")
            .because(why)
            .remedy(crate::check::SQLITE_REMEDY));
    }
    if let Some(why) = crate::check::nested(&folders) {
        return Err(StepError::new(format!(
            "copy {} to {}",
            folders.source.display(),
            folders.mount.display()
        ))
        .because(why)
        .remedy("choose another mount point"));
    }
    let mounted = mount(config, cx, mounter).await?;
    if !Kept(cx.state_dir()).manifest().exists() {
        let tried = format!("look at the export at {}", folders.mount.display());
        let path = folders.mount.clone();
        let root = copying::look(cx, "looking at the export", move || fs::metadata(path))
            .await
            .map_err(|error| copying::failed(&tried, &error))?;
        let root = root.map_err(|error| {
            StepError::new(tried).because(error).remedy("see to the NFS server, then resume")
        })?;
        let (mode, uid, gid) = (root.mode() & 0o7777, root.uid(), root.gid());
        cx.record_undo(&Undo::Copied(Root { mode, uid, gid }))?;
    }
    copying::write_json(&Kept(cx.state_dir()).folders(), &folders)?;
    let mut options = config.copy(&folders.source, cx);
    options.idle = config.idle;
    options.bytes_per_second = config.bytes_per_second;
    let survey = {
        let options = options.clone();
        let counted = copying::run(cx, "counting what is to be copied", None, move |_| {
            copy::survey(&options, &AtomicBool::new(false))
        });
        counted.await.map_err(|error| copying::failed("count what is to be copied", &error))?
    };
    let tried = format!("copy {} to {}", folders.source.display(), folders.mount.display());
    let before: Option<Passes> = cx.last_checkpoint()?;
    let mut passes = before.map_or(0, |before| before.passes);
    let mut outcome = Outcome::changed(mounted);
    loop {
        let (pass, total) = (options.clone(), (survey.entries, survey.bytes));
        let total = (passes == 0).then_some(total);
        let report =
            copying::run(cx, "copying while Connect serves", total, move |control| copy::run(&pass, control))
                .await
                .map_err(|error| copying::failed(&tried, &error))?;
        passes += 1;
        let seconds = report.elapsed.as_secs_f64();
        cx.checkpoint(&Passes { passes, last_seconds: seconds })?;
        let line = format!(
            "pass {passes}: {} entries looked at, {} written, {} removed, {} MiB, in {seconds:.1} s",
            report.entries,
            report.written,
            report.removed,
            report.bytes >> 20
        );
        cx.info(&line);
        // While Connect serves a file may well change or vanish while it is copied; what fails otherwise ends it here.
        if report.failed > 0 || !report.foreign.is_empty() {
            copying::whole(&tried, report)?;
        } else if seconds <= config.last_pass_seconds as f64 && passes > 1 {
            outcome = outcome.and(line);
            break;
        } else if passes >= config.passes_max {
            cx.warn(format!(
                "the last of {passes} passes took {seconds:.0} s, longer than the {} s that the window allows for; it will take about as long",
                config.last_pass_seconds
            ));
            outcome = outcome.and(line);
            break;
        }
    }
    Ok(outcome.fact(SourceEdits::key(&cx.invocation().step), &edits(&folders.mount)))
}

/// The last pass, its verification, and the switch of the data directory.
///
/// # Errors
/// When something could not be copied or differs; the configuration still names the old folder then.
pub async fn apply(config: &Settings, cx: &Context, mounter: &impl Mounter) -> Result<Outcome, StepError> {
    let kept = Kept(cx.state_dir());
    let folders = folders(config, cx)?;
    let edits = edits(&folders.mount);
    let fact = SourceEdits::key(&cx.invocation().step);
    if copying::read::<Cutover>(&kept.cutover())?.is_some()
        && config::is_switched(&cx.source().config, &folders.mount)?
    {
        return Ok(Outcome::already_done(format!("{} is the data directory", folders.mount.display()))
            .fact(fact, &edits));
    }
    match mounter.mounted(&folders.mount)? {
        Some(mounted) => is_the_export(config, &mounted.what)?,
        None => {
            return Err(StepError::new(format!("copy to {}", folders.mount.display()))
                .because(format!("{} is not mounted there", config.export))
                .remedy(format!("`systemctl start '{}'`, then resume", unit_name(&folders.mount))));
        }
    }
    let tried =
        format!("copy what has changed in {} to {}", folders.source.display(), folders.mount.display());
    let options = config.copy(&folders.source, cx);
    let pass = options.clone();
    let report = copying::run(cx, "copying what has changed", None, move |control| copy::run(&pass, control))
        .await
        .map_err(|error| copying::failed(&tried, &error))?;
    let line = format!(
        "last pass: {} entries looked at, {} written, {} removed, in {:.1} s",
        report.entries,
        report.written,
        report.removed,
        report.elapsed.as_secs_f64()
    );
    copying::whole(&tried, report)?;
    let (checked, content) = (options.clone(), copying::content(config.verify_content));
    let tried = format!("verify the copy of {}", folders.source.display());
    let verified = copying::run(cx, "comparing both sides", None, move |control| {
        copy::verify(&checked, content, control)
    })
    .await
    .map_err(|error| copying::failed(&tried, &error))?;
    copying::same(&tried, &verified)?;
    let compared = format!(
        "{} entries are the same on both sides, {} files by content, compared in {:.1} s",
        verified.entries, verified.files_read, verified.seconds
    );
    let mount = folders.mount.clone();
    let since = copying::look(cx, "asking the NFS server for its time", move || copy::clock_of(&mount))
        .await
        .and_then(|asked| asked)
        .map_err(|error| copying::failed("ask the NFS server for its time", &error))?;
    cx.record_undo(&Undo::Switched { config: cx.source().config.clone(), mount: folders.mount.clone() })?;
    copying::write_json(&kept.cutover(), &Cutover { seconds: since.seconds, nanos: since.nanos })?;
    let diff = config::switch(&cx.source().config, &folders.mount, &kept)?;
    Ok(Outcome::changed(line)
        .with_detail("diff", &diff)
        .and(compared)
        .and(format!("{} is the data directory", folders.mount.display()))
        .fact(fact, &edits))
}

/// Whether the data directory is the mount, and the mount answers.
///
/// # Errors
/// When the configuration cannot be read.
pub async fn verify(config: &Settings, cx: &Context, mounter: &impl Mounter) -> Result<Verdict, StepError> {
    let mount = &config.mount;
    if !config::is_switched(&cx.source().config, mount)? {
        return Ok(Verdict::broken(
            format!("{} does not name {} as data directory", cx.source().config.display(), mount.display()),
            "somebody changed the configuration; set `Server.DataDir` again, or roll back",
        ));
    }
    let Some(mounted) = mounter.mounted(mount)? else {
        return Ok(Verdict::broken(
            format!("nothing is mounted at {}", mount.display()),
            format!("`systemctl start '{}'`", unit_name(mount)),
        ));
    };
    if is_the_export(config, &mounted.what).is_err() {
        return Ok(Verdict::broken(
            format!("{} is mounted at {}, not {}", mounted.what, mount.display(), config.export),
            "unmount it and start the unit of the export",
        ));
    }
    let path = mount.clone();
    let looked = tokio::task::spawn_blocking(move || answers(&path));
    match tokio::time::timeout(Duration::from_secs(LOOK_TIMEOUT_SECONDS), looked).await {
        Ok(Ok(Ok(()))) => {
            Ok(Verdict::holds(format!("{} is mounted at {} and answers", config.export, mount.display())))
        }
        Ok(Ok(Err(error))) => Ok(Verdict::broken(
            format!("{} cannot be read: {error}", mount.display()),
            format!("see to the NFS server {}", config.server()?),
        )),
        _ => Ok(Verdict::broken(
            format!("{} has not answered for {LOOK_TIMEOUT_SECONDS} s", config.export),
            format!("see to the NFS server {}", config.server()?),
        )),
    }
}

fn answers(path: &Path) -> std::io::Result<()> {
    fs::read_dir(path)?.next().transpose().map(drop)
}
