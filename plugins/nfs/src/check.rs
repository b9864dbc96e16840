//! Everything that can be known before anything is touched.

use crate::copying::{self, Folders, Kept};
use crate::settings::Settings;
use crate::stage;
use crate::trial::{Trial, look};
use crate::units::{Mounter, unit_name, unit_text};
use connect_migrator_connect::installation::{DatabaseProvider, Installation, variable};
use connect_migrator_connect::source_edits::SourceEdits;
use connect_migrator_copy::{Ability, Survey, XattrKind, copied_so_far, kernel_suffices, survey};
use connect_migrator_sdk::{Change, Context, Finding, Op, StepError};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// More room than the data take now is asked for: they grow while they are copied.
const ROOM_PERCENT: u64 = 110;
/// Clocks further apart than this are worth a warning.
const CLOCK_MILLIS: i64 = 2_000;
/// So many owners of the data are tried on the export.
const OWNERS_TRIED_MAX: usize = 32;
/// An id that owns nothing: whether others than those in use may own.
const OTHER_OWNER: (u32, u32) = (64_999, 64_998);
/// So many entries are named in a finding.
const NAMED_MAX: usize = 3;

/// Every finding.
///
/// # Errors
/// When the check itself cannot be made.
pub async fn check(
    config: &Settings,
    cx: &Context,
    mounter: &impl Mounter,
) -> Result<Vec<Finding>, StepError> {
    if let Err(error) = config.validate() {
        return Ok(vec![Finding::blocker("nfs-settings", error.to_string(), "mend the runbook")]);
    }
    let folders = stage::folders(config, cx)?;
    let mut findings = about_source(config, cx, &folders.source)?;
    // What is mounted there already has its own options, whatever the runbook says.
    let mounted = mounter.mounted(&config.mount).ok().flatten();
    let in_effect = mounted.filter(|mounted| stage::is_the_export(config, &mounted.what).is_ok());
    findings.extend(about_options(config, in_effect.as_ref().map(|mounted| mounted.options.as_str())));
    if !folders.source.is_dir() {
        let text = format!("the data directory {} is not there", folders.source.display());
        findings.push(Finding::blocker("nfs-source", text, "set `Server.DataDir` to where the data are"));
        return Ok(findings);
    }
    if let Some(nested) = nested(&folders) {
        let remedy = "choose a mount point outside of the data directory, and not above it";
        findings.push(Finding::blocker("nfs-nested", nested, remedy));
        return Ok(findings);
    }
    if !kernel_suffices() {
        findings.push(old_kernel());
        return Ok(findings);
    }
    let options = config.copy(&folders.source, cx);
    let counted = copying::run(cx, "counting what is to be copied", None, move |control| {
        // The survey is quick; it looks at the flag itself.
        let _ = control.cancel;
        survey(&options, &AtomicBool::new(false))
    });
    let survey = counted.await.map_err(|error| copying::failed("count what is to be copied", &error))?;
    // What cannot be told counts as not copied.
    let options = config.copy(&folders.source, cx);
    let copied = tokio::task::spawn_blocking(move || copied_so_far(&options).unwrap_or_default())
        .await
        .unwrap_or_default();
    findings.extend(about_amount(config, &folders.source, &survey));
    let owners = owners(&survey, cx);
    match trial(config, cx, mounter, owners).await {
        Ok(trial) => findings.extend(about_export(config, cx, &trial, &survey, copied)),
        Err(findings_of_trial) => findings.push(findings_of_trial),
    }
    Ok(findings)
}

/// Says so when the mount point lies in the data directory, or the other way round: one would be copied into itself.
#[must_use]
pub fn nested(folders: &Folders) -> Option<String> {
    // What is not there yet is made below what is there.
    let real = |path: &Path| {
        path.ancestors().find_map(|there| {
            let rest = path.strip_prefix(there).ok()?;
            std::fs::canonicalize(there).ok().map(|there| there.join(rest))
        })
    };
    // The mount point itself is not asked: it may belong to a server that does not answer.
    let mount = real(folders.mount.parent()?)?.join(folders.mount.file_name()?);
    let source = real(&folders.source)?;
    (source.starts_with(&mount) || mount.starts_with(&source)).then(|| {
        format!(
            "the data directory {} and the mount point {} lie one inside the other",
            folders.source.display(),
            folders.mount.display()
        )
    })
}

fn old_kernel() -> Finding {
    Finding::blocker(
        "nfs-kernel",
        "this kernel cannot open what lies below a folder without being led out of it (openat2, Linux 5.6)",
        "start a newer kernel; or move the data by hand before the migration, and take this step out of the runbook",
    )
}

fn about_source(config: &Settings, cx: &Context, source: &Path) -> Result<Vec<Finding>, StepError> {
    let installation = Installation::read(cx.source())
        .map_err(|error| StepError::new("read the Connect installation").because_of(&error))?;
    let mut findings = Vec::new();
    let variable = variable("Server", "DataDir");
    if installation.environment.contains_key(&variable) {
        findings.push(Finding::blocker(
            "nfs-data-directory-overridden",
            format!("the environment variable {variable} sets the data directory, whatever the configuration file says"),
            "remove it from the unit's environment file, and set `Server.DataDir` in the configuration file",
        ));
    } else {
        let text =
            format!("{} takes the place of {} as data directory", config.mount.display(), source.display());
        let edits = stage::edits(&config.mount);
        let key = SourceEdits::key(&cx.invocation().step);
        findings.push(Finding::ok("nfs-data-directory", text).fact(key, &edits));
    }
    findings.push(match sqlite_on_nfs(config, cx, &installation, source) {
        None => Finding::ok("nfs-sqlite", "no SQLite database lands on NFS"),
        Some(why) => Finding::blocker("nfs-sqlite", why, SQLITE_REMEDY),
    });
    Ok(findings)
}

/// What to do about SQLite on NFS.
pub const SQLITE_REMEDY: &str =
    "put a `postgres` step before this one, or set `SQLite.Dir` to a folder on local disk";

/// Says so when Connect's SQLite files would land on NFS, as far as the other steps have told what they change.
#[must_use]
pub fn sqlite_on_nfs(
    config: &Settings,
    cx: &Context,
    installation: &Installation,
    source: &Path,
) -> Option<String> {
    let told = SourceEdits::of_others(cx);
    let uses_sqlite = match told.text("Database", "Provider") {
        Some(provider) => provider.eq_ignore_ascii_case("sqlite"),
        None => installation.database_provider == DatabaseProvider::Sqlite,
    };
    let dir = installation.setting("SQLite", "Dir").map(std::path::PathBuf::from);
    let stays = dir.is_some_and(|dir| !dir.starts_with(source) && !dir.starts_with(&config.mount));
    (uses_sqlite && !stays)
        .then(|| "Connect uses SQLite, and its files would land on NFS, where they break".to_owned())
}

/// The runbook's options, and those in effect where the export is mounted already.
fn about_options(config: &Settings, in_effect: Option<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let gives_up = |options: &str| options.split(',').any(|have| matches!(have, "soft" | "softerr"));
    if config.has_option("soft") || config.has_option("softerr") {
        findings.push(Finding::blocker(
            "nfs-soft",
            format!(
                "the mount options `{}` give up when the server is slow, and lose what was written",
                config.options
            ),
            "use `hard`",
        ));
    } else if let Some(options) = in_effect.filter(|options| gives_up(options)) {
        findings.push(Finding::blocker(
            "nfs-soft",
            format!(
                "{} is mounted at {} already, with `{options}`: that gives up when the server is slow, and loses what was written",
                config.export,
                config.mount.display()
            ),
            "mount it with `hard`, in /etc/fstab too; or unmount it, then this step mounts it as the runbook says",
        ));
    }
    let options = in_effect.unwrap_or(&config.options);
    if !options.split(',').any(|have| have == "lookupcache=pos") {
        findings.push(Finding::warning(
            "nfs-lookupcache",
            format!("the mount options `{options}` cache that a name is not there: Connect then waits long for new files"),
            if in_effect.is_some() {
                "mount it with `lookupcache=pos`, in /etc/fstab too"
            } else {
                "add `lookupcache=pos`"
            },
        ));
    }
    findings
}

/// Which version of NFS client and server have agreed on.
fn about_version(config: &Settings, trial: &Trial) -> Option<Finding> {
    let version = trial.options.split(',').find_map(|option| option.strip_prefix("vers="))?;
    let text = format!("{} is spoken to by NFS {version}", config.export);
    Some(if matches!(version, "4.1" | "4.2") {
        Finding::ok("nfs-version", text)
    } else {
        Finding::warning(
            "nfs-version",
            format!(
                "{text}: sessions, by which a request that is sent again counts only once, came with 4.1"
            ),
            "let the server speak NFS 4.2 and use `nfsvers=4.2`, if it can",
        )
    })
}

fn about_amount(config: &Settings, source: &Path, survey: &Survey) -> Vec<Finding> {
    let left_out = if config.leave_out.is_empty() {
        String::new()
    } else {
        let names: Vec<String> = config.leave_out.iter().map(|path| path.display().to_string()).collect();
        format!("; left out: {}", names.join(", "))
    };
    let text = format!(
        "{} entries, {} MiB are to be copied from {}{left_out}",
        survey.entries,
        survey.bytes >> 20,
        source.display()
    );
    if let Some(failed) = survey.failed.first() {
        return vec![Finding::blocker(
            "nfs-amount",
            format!("{text}; not all can be read: {failed}"),
            "run as root, and mend the file system",
        )];
    }
    let mut findings = Vec::new();
    if !survey.ignored.is_empty() {
        let ignored = survey.ignored.join(", ");
        findings.push(Finding::warning(
            "nfs-ignored",
            format!(
                "{ignored} in {} is kept there by the file system or by us, and is not copied",
                source.display()
            ),
            "see what it holds; move what belongs to Connect to another name",
        ));
    }
    if !survey.mounts.is_empty() {
        let mounts = survey.mounts.join(", ");
        findings.push(Finding::warning(
            "nfs-mounts",
            format!(
                "{mounts} in {} are mounts of their own and are copied as empty folders",
                source.display()
            ),
            "move what they hold by hand, or mount it in the container",
        ));
    }
    findings.push(Finding::ok("nfs-amount", text));
    findings
}

/// Owners that the export must hold: those in use, the one that runs content, and one more.
fn owners(survey: &Survey, cx: &Context) -> Vec<(u32, u32)> {
    let mut owners: Vec<(u32, u32)> = survey.owners.iter().copied().take(OWNERS_TRIED_MAX).collect();
    if let Ok(installation) = Installation::read(cx.source())
        && let Ok(Some(user)) = nix::unistd::User::from_name(&installation.run_as)
    {
        owners.push((user.uid.as_raw(), user.gid.as_raw()));
    }
    owners.push(OTHER_OWNER);
    owners
}

async fn trial(
    config: &Settings,
    cx: &Context,
    mounter: &impl Mounter,
    owners: Vec<(u32, u32)>,
) -> Result<Trial, Finding> {
    let mounted = mounter.mounted(&config.mount).map_err(|error| {
        Finding::blocker("nfs-mount-point", error.to_string(), "see that /proc is mounted")
    })?;
    let tried = match mounted {
        Some(mounted) if mounted.what.trim_end_matches('/') != config.export.trim_end_matches('/') => {
            return Err(Finding::blocker(
                "nfs-mount-point",
                format!("{} is mounted at {} already", mounted.what, config.mount.display()),
                "unmount it, or choose another mount point",
            ));
        }
        Some(_) => {
            let mount = config.mount.clone();
            let looked =
                copying::look(cx, "trying the export", move || look(&mount, &owners, "/proc/self/mountinfo"));
            looked.await.unwrap_or_else(|error| Err(error.to_string()))
        }
        None => {
            let taken = std::fs::read_dir(&config.mount).is_ok_and(|mut entries| entries.next().is_some());
            if taken || config.mount.is_file() {
                return Err(Finding::blocker(
                    "nfs-mount-point",
                    format!("the mount point {} is no empty folder", config.mount.display()),
                    "empty it, or choose another",
                ));
            }
            let tried = mounter.try_export(config, owners).await;
            tried.unwrap_or_else(|error| Err(format!("the trial broke off: {error}")))
        }
    };
    tried.map_err(|why| {
        Finding::blocker(
            "nfs-reachable",
            format!("{} cannot be mounted and tried: {why}", config.export),
            "see that the server runs and exports it to this host, that nothing between blocks port 2049, and that nfs-common (Debian) or \
             nfs-utils (Red Hat) is installed",
        )
    })
}

fn about_export(
    config: &Settings,
    cx: &Context,
    trial: &Trial,
    survey: &Survey,
    copied: (u64, u64),
) -> Vec<Finding> {
    let probed = &trial.probed;
    let mut findings = Vec::from_iter(about_version(config, trial));
    let needed = [
        (
            Ability::Write,
            "nfs-write",
            "let root of this host write there: `no_root_squash` on the server, and not `ro`",
        ),
        (
            Ability::Owners,
            "nfs-owners",
            "let root give files away: `no_root_squash` and neither `all_squash` nor `anonuid` on the server, no id mapping",
        ),
        (Ability::Modes, "nfs-modes", "use a server with POSIX permissions"),
        (Ability::Symlinks, "nfs-symlinks", "use a server with symbolic links"),
        (Ability::HardLinks, "nfs-hard-links", "use a server with hard links"),
        (Ability::Rename, "nfs-rename", "use a server that renames at once"),
        (Ability::Fsync, "nfs-fsync", "use a server that makes data last"),
        (Ability::Locks, "nfs-locks", "start the lock service of the server, and do not mount with `nolock`"),
    ];
    for (ability, key, remedy) in needed {
        if probed.has(ability) {
            findings.push(Finding::ok(key, format!("{} can do it: tried", config.export)));
        } else if ability == Ability::Write || probed.has(Ability::Write) {
            findings.push(Finding::blocker(
                key,
                format!("{}: {}", config.export, probed.why(ability)),
                remedy,
            ));
        }
    }
    for (ability, key) in [
        (Ability::Nanoseconds, "nfs-times"),
        (Ability::FarTimes, "nfs-far-times"),
        (Ability::SpecialFiles, "nfs-special-files"),
        (Ability::Names, "nfs-names"),
    ] {
        if !probed.has(ability) && probed.has(Ability::Write) {
            let text = format!("{}: {}", config.export, probed.why(ability));
            findings.push(Finding::warning(
                key,
                text,
                "Connect can live with it; the copy's comparison will tell such entries as different",
            ));
        }
    }
    let kinds = [
        (XattrKind::Acl, Ability::Acls, "nfs-acls"),
        (XattrKind::Capability, Ability::Capabilities, "nfs-capabilities"),
        (XattrKind::User, Ability::UserXattrs, "nfs-user-xattrs"),
    ];
    for (kind, ability, key) in kinds {
        let Some(used) = survey.xattrs.iter().find(|used| used.kind == kind).filter(|_| !probed.has(ability))
        else {
            continue;
        };
        let named: Vec<&str> = used.examples.iter().take(NAMED_MAX).map(String::as_str).collect();
        findings.push(Finding::warning(
            key,
            format!("{} entries have {kind}, which {} refuses: {}", used.entries, config.export, named.join(", ")),
            "they are copied without; see whether somebody relies on them (NFS 4.2 holds neither ACLs of this kind nor capabilities, NFS 3 no \
             user attributes)",
        ));
    }
    findings.extend(about_room(config, trial, survey, copied));
    findings.push(about_emptiness(config, cx, trial));
    if probed.clock_ahead_millis.abs() > CLOCK_MILLIS {
        findings.push(Finding::warning(
            "nfs-clock",
            format!("the clock of the NFS server is {} ms ahead of this host's", probed.clock_ahead_millis),
            "let both follow the same time server",
        ));
    }
    findings
}

/// Whether the rest fits; `copied` are entries and bytes that are there.
fn about_room(config: &Settings, trial: &Trial, survey: &Survey, copied: (u64, u64)) -> Vec<Finding> {
    let probed = &trial.probed;
    let rest = |all: u64, copied: u64| (all / 100 * ROOM_PERCENT).saturating_sub(copied.min(all));
    let needs = rest(survey.bytes, copied.1);
    let mut findings = Vec::new();
    let room =
        format!("{} has {} MiB free, the copy needs {}", config.export, probed.free_bytes >> 20, needs >> 20);
    findings.push(if probed.free_bytes >= needs {
        Finding::ok("nfs-room", room)
    } else {
        Finding::blocker(
            "nfs-room",
            room,
            "make room on the server, or leave the runtime caches out with `leave-out`",
        )
    });
    let entries = rest(survey.entries, copied.0);
    if let Some(free) = probed.free_entries.filter(|free| *free < entries) {
        findings.push(Finding::blocker(
            "nfs-inodes",
            format!("{} can take {free} more files and folders, the copy needs {entries}", config.export),
            "use a file system with more inodes on the server",
        ));
    }
    findings
}

fn about_emptiness(config: &Settings, cx: &Context, trial: &Trial) -> Finding {
    let ignored = config.copy(Path::new("/"), cx).ignore_at_root;
    let others: Vec<&String> = trial.names.iter().filter(|name| !ignored.contains(name)).collect();
    if Kept(cx.state_dir()).manifest().exists() {
        return Finding::ok("nfs-empty", format!("{} holds what was copied so far", config.export));
    }
    match others.first() {
        None => Finding::ok("nfs-empty", format!("{} is empty", config.export)),
        Some(name) => Finding::blocker(
            "nfs-empty",
            format!("{} holds {} entries, `{name}` among them", config.export, others.len()),
            "empty it, or export a folder of its own",
        ),
    }
}

/// What will change.
///
/// # Errors
/// When the installation cannot be read.
pub fn plan(config: &Settings, cx: &Context) -> Result<Vec<Change>, StepError> {
    config.validate()?;
    let folders = stage::folders(config, cx)?;
    let (source, mount) = (folders.source.display(), folders.mount.display());
    let unit = format!(
        "write the unit {} and start it:\n{}",
        unit_name(&folders.mount),
        unit_text(&config.export, &folders.mount, &config.options)
    );
    let mut changes = vec![Change::new(Op::Prepare, unit)];
    let pace = if config.idle { "at idle priority" } else { "at full pace" };
    changes.push(Change::new(
        Op::Prepare,
        format!("copy {source} to {mount} {pace} while Connect serves, again and again until a pass takes no longer than {} s", config.last_pass_seconds),
    ));
    for path in &config.leave_out {
        changes.push(Change::new(
            Op::Prepare,
            format!(
                "leave out {}: it stays in {source}, and what Connect needs of it is built anew",
                path.display()
            ),
        ));
    }
    changes.push(Change::new(
        Op::Apply,
        format!("copy what has changed since, and compare {source} with {mount}"),
    ));
    changes.push(
        Change::new(
            Op::Apply,
            format!(
                "set `Server.DataDir = {mount}` in {}; {source} stays as it is",
                cx.source().config.display()
            ),
        )
        .fact(SourceEdits::key(&cx.invocation().step), &stage::edits(&folders.mount)),
    );
    changes.push(Change::new(
        Op::Rollback,
        format!(
            "set the data directory back to {source}; {mount} is unmounted if this step mounted it. Before users are sent to the new \
             server the copy is removed; after that it stays, and what they changed there is copied back, with what that replaces kept \
             aside"
        ),
    ));
    Ok(changes)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
