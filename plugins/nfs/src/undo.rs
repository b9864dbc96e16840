//! The way back.

use crate::config;
use crate::copying::{self, Cutover, Folders, Kept};
use crate::settings::{KEPT_IN_SOURCE, Settings};
use crate::stage;
use crate::units::{Mounter, is_ours};
use connect_migrator_connect::source_edits::traffic_was_routed;
use connect_migrator_copy::{self as copy, BackChanges, BackKind, Content, Moment};
use connect_migrator_sdk::{Context, StepError, Undone};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// So many changes are told one by one before they are copied back.
const TOLD_MAX: usize = 50;

/// What this step changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "did")]
pub enum Undo {
    /// Mounted and copied.
    Prepared {
        /// The mount unit; it may be somebody else's.
        unit: PathBuf,
        /// The mount point.
        mount: PathBuf,
        /// Whether the mount point was made.
        made_folder: bool,
    },
    /// Copied onto an export whose own folder was like this.
    Copied(Root),
    /// The configuration names the mount as data directory.
    Switched {
        /// The configuration file.
        config: PathBuf,
        /// The mount point.
        mount: PathBuf,
    },
}

/// How the export's own folder was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Its permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Undoes one call.
///
/// # Errors
/// When something cannot be put back; what can be done again is done by the next try.
pub async fn roll_back(
    config: &Settings,
    cx: &Context,
    mounter: &impl Mounter,
    undo: Vec<Undo>,
) -> Result<Undone, StepError> {
    let mut undone = Undone { evidence: Vec::new(), left: Vec::new() };
    // The first of them says how it was before any try; whichever record takes the mount down needs it.
    let root = undo.iter().find_map(|record| match record {
        Undo::Copied(was) => Some(*was),
        _ => None,
    });
    for record in undo.into_iter().rev() {
        undone = match record {
            Undo::Copied(_) => undone,
            Undo::Switched { config: file, mount } => {
                if traffic_was_routed(cx) {
                    undone = copy_back(config, cx, mounter, undone).await?;
                }
                let kept = Kept(cx.state_dir());
                if config::switch_back(&file, &mount, &kept)? {
                    undone.and(format!("{} names the former data directory again", file.display()))
                } else {
                    undone.and(format!("{} names the former data directory", file.display()))
                }
            }
            Undo::Prepared { unit, mount, made_folder } => {
                take_down(config, cx, mounter, undone, (unit, mount, made_folder), root).await?
            }
        };
    }
    Ok(undone)
}

/// What users changed on the new server since the cutover is listed, told, and then copied to the source.
async fn copy_back(
    config: &Settings,
    cx: &Context,
    mounter: &impl Mounter,
    undone: Undone,
) -> Result<Undone, StepError> {
    let kept = Kept(cx.state_dir());
    let Some(since) = copying::read::<Cutover>(&kept.cutover())? else { return Ok(undone) };
    let folders = stage::folders(config, cx)?;
    if mounter.mounted(&folders.mount)?.is_none() {
        return Err(StepError::new("copy back what users changed since the cutover")
            .because(format!("{} is not mounted at {}", config.export, folders.mount.display()))
            .remedy("mount it, then roll back again; going back without would lose their work"));
    }
    let options = config.copy(&folders.source, cx);
    let changes = list(cx, &options, since).await?;
    if changes.is_empty() {
        return Ok(undone.and("nothing has changed in the data on the new server"));
    }
    tell(cx, &folders, &changes);
    let aside = aside(&folders, cx)?;
    let back = copy::options_back(&options, &kept.back(), &aside);
    let tried = format!("copy back to {} what users changed", folders.source.display());
    let report =
        copying::run(cx, "copying back what users changed", None, move |control| copy::run(&back, control))
            .await
            .map_err(|error| copying::failed(&tried, &error))?;
    let written = report.written;
    copying::whole(&tried, report)?;
    let verified = copying::run(cx, "comparing both sides", None, move |control| {
        copy::verify(&options, Content::None, control)
    });
    let verified = verified.await.map_err(|error| copying::failed("compare both sides", &error))?;
    let mut undone = undone;
    if verified.holds_all_of_target() {
        for name in verified.missing.iter().take(TOLD_MAX) {
            undone = undone
                .and(format!("{name} came into {} since the cutover, and stays", folders.source.display()));
        }
    } else {
        copying::same("copy back all that users changed", &verified)?;
    }
    Ok(undone
        .and(format!(
            "what users changed on the new server is in {}: {} entries new, {} changed, {} removed ({written} written)",
            folders.source.display(),
            changes.created,
            changes.changed,
            changes.removed
        ))
        .and(format!("what that replaced is kept in {}", aside.display())))
}

/// On the source's file system, as what is replaced is moved there, not copied: beside the source, or in it where it is a file
/// system of its own.
fn aside(folders: &Folders, cx: &Context) -> Result<PathBuf, StepError> {
    let tried = || format!("find a place for what is replaced in {}", folders.source.display());
    let in_it = copy::is_mount_of_its_own(&folders.source)
        .map_err(|error| copying::failed(&tried(), &error).remedy("mend that, and roll back again"))?;
    let source = fs::canonicalize(&folders.source)
        .map_err(|error| StepError::new(tried()).because(error).remedy("mend that, and roll back again"))?;
    let id = &cx.migration().id;
    if in_it {
        return Ok(source.join(KEPT_IN_SOURCE).join(id));
    }
    let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(source.with_file_name(format!("{name}.before-rollback-{id}")))
}

/// The list, made once if there is something in it: after a crash in the middle of copying back it still says what was to be done.
async fn list(cx: &Context, options: &copy::Options, since: Cutover) -> Result<BackChanges, StepError> {
    let kept = Kept(cx.state_dir());
    if let Some(listed) = copying::read::<Listed>(&kept.back_listed())? {
        return Ok(BackChanges {
            created: listed.created,
            changed: listed.changed,
            removed: listed.removed,
            ..BackChanges::default()
        });
    }
    let (options, back) = (options.clone(), kept.back());
    let since = Moment { seconds: since.seconds, nanos: since.nanos };
    let changes = copying::run(cx, "looking for what users changed", None, move |control| {
        copy::changes_since(&options, since, &back, control)
    });
    let changes = changes
        .await
        .map_err(|error| copying::failed("list what users changed since the cutover", &error))?;
    if changes.is_empty() {
        // Looked for again should it come to another try: until then users may have worked.
        return Ok(changes);
    }
    let listed = Listed { created: changes.created, changed: changes.changed, removed: changes.removed };
    copying::write_json(&kept.back_listed(), &listed)?;
    Ok(changes)
}

#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    created: u64,
    changed: u64,
    removed: u64,
}

fn tell(cx: &Context, folders: &Folders, changes: &BackChanges) {
    cx.info(format!(
        "since the cutover, on the new server, in {}: {} entries new, {} changed, {} removed; they are copied back to {}",
        folders.mount.display(),
        changes.created,
        changes.changed,
        changes.removed,
        folders.source.display()
    ));
    for change in changes.told.iter().take(TOLD_MAX) {
        let sign = match change.kind {
            BackKind::Created => "new",
            BackKind::Changed => "changed",
            BackKind::Removed => "removed",
        };
        cx.info(format!("{sign}: {}", change.path));
    }
    if changes.told.len() > TOLD_MAX {
        cx.info(format!("and {} more", changes.told.len() - TOLD_MAX));
    }
}

/// Removes the copy, unless users worked on it, and unmounts.
async fn take_down(
    config: &Settings,
    cx: &Context,
    mounter: &impl Mounter,
    mut undone: Undone,
    (unit, mount, made_folder): (PathBuf, PathBuf, bool),
    root: Option<Root>,
) -> Result<Undone, StepError> {
    let kept = Kept(cx.state_dir());
    if mounter.mounted(&mount)?.is_some() && kept.manifest().exists() {
        if traffic_was_routed(cx) {
            undone = undone.and(format!(
                "the copy stays on {}: users worked on it; remove it when you are sure",
                config.export
            ));
        } else {
            let folders = stage::folders(config, cx)?;
            let options = config.copy(&folders.source, cx);
            let report =
                copying::run(cx, "removing the copy", None, move |control| copy::withdraw(&options, control));
            let report =
                report.await.map_err(|error| copying::failed("remove the copy from the export", &error))?;
            undone = undone.and(format!("{} entries were removed from {}", report.removed, config.export));
            for failure in &report.failures {
                undone = undone.but(format!("{failure}; remove it by hand"));
            }
            for foreign in &report.foreign {
                undone = undone
                    .but(format!("{foreign} on the export is, or holds, what others put there, and stays"));
            }
            if let Some(root) = root {
                let path = mount.clone();
                copying::look(cx, "giving the export its owner and mode again", move || {
                    put_back_root(&path, root)
                })
                .await
                .map_err(|error| copying::failed("give the export its owner and mode again", &error))??;
            }
        }
    }
    let has_unit = fs::read_to_string(&unit).is_ok_and(|text| is_ours(&text));
    if has_unit && kept.manifest().exists() && mounter.mounted(&mount)?.is_none() && !traffic_was_routed(cx) {
        undone = undone.but(format!(
            "{} is not mounted: what was copied stays on {}; remove it there by hand, and give the export its owner and mode again",
            mount.display(),
            config.export
        ));
    }
    if has_unit {
        mounter.stop(&unit).await?;
        undone = undone.and(format!("{} is unmounted and its unit removed", mount.display()));
    }
    if made_folder && mounter.mounted(&mount)?.is_none() {
        // Only an empty folder is removed, and one that is not is not ours.
        let _ = fs::remove_dir(&mount);
    }
    Ok(undone)
}

/// A first copy closes the export's folder to all but root, and gives it the owner and mode of the data directory at its end.
fn put_back_root(mount: &Path, root: Root) -> Result<(), StepError> {
    let Root { mode, uid, gid } = root;
    let put_back = || {
        let is = fs::metadata(mount)?;
        if (is.uid(), is.gid()) != (uid, gid) {
            chown(mount, Some(uid), Some(gid))?;
        }
        fs::set_permissions(mount, fs::Permissions::from_mode(mode))
    };
    put_back().map_err(|error: std::io::Error| {
        StepError::new(format!("give {} its owner and mode again", mount.display()))
            .because(error)
            .remedy(format!("`chown {uid}:{gid}` and `chmod {mode:o}` on the export, then roll back again"))
    })
}
