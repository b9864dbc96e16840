//! The step on a folder that stands for the export: what a kernel client adds is the machine's business.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic in a test is a failed test"
)]

use connect_migrator_connect::source_edits::SourceEdits;
use connect_migrator_nfs::settings::{KEPT_IN_SOURCE, Settings};
use connect_migrator_nfs::trial::{Trial, look};
use connect_migrator_nfs::undo::{Undo, roll_back};
use connect_migrator_nfs::units::{Mounted, Mounter, is_ours};
use connect_migrator_nfs::{check, stage};
use connect_migrator_sdk::testing::MemoryHost;
use connect_migrator_sdk::{Context, Finding, Invocation, Op, Severity, Source, StepError, Undone, Verdict};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

const EXPORT: &str = "nas:/export/connect";

/// "Mounts" by a flag: the mount point is the export.
struct Pretend {
    dir: PathBuf,
    mounted: AtomicBool,
    other: Option<&'static str>,
    options: &'static str,
}

impl Mounter for Pretend {
    fn mounted(&self, _path: &Path) -> Result<Option<Mounted>, StepError> {
        let what = self.other.unwrap_or(EXPORT).to_owned();
        let there = self.mounted.load(SeqCst);
        Ok(there.then(|| Mounted { what, kind: "nfs4".into(), options: self.options.into() }))
    }

    async fn start(&self, unit: &Path) -> Result<(), StepError> {
        assert!(is_ours(&fs::read_to_string(unit).unwrap()));
        self.mounted.store(true, SeqCst);
        Ok(())
    }

    async fn stop(&self, unit: &Path) -> Result<(), StepError> {
        fs::remove_file(unit).unwrap();
        self.mounted.store(false, SeqCst);
        Ok(())
    }

    fn units_dir(&self) -> PathBuf {
        self.dir.clone()
    }

    async fn try_export(
        &self,
        settings: &Settings,
        owners: Vec<(u32, u32)>,
    ) -> Result<Result<Trial, String>, tokio::task::JoinError> {
        let looked = look(&settings.mount, &owners, "/proc/self/mountinfo");
        Ok(looked.map(|trial| Trial { options: "rw,vers=3,soft".into(), ..trial }))
    }
}

struct House {
    dir: tempfile::TempDir,
    settings: Settings,
    mounter: Pretend,
    host: Arc<MemoryHost>,
}

const CONFIG: &str =
    "[Server]\nAddress = https://c.example.com\nDataDir = DATA ; here\n\n[Database]\nProvider = Postgres\n";

impl House {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root: they give files to other owners");
        let dir = tempfile::tempdir().unwrap();
        for folder in ["data/apps/1", "data/packrat/cache", "mount", "state", "units", "opt"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        for number in 0..40 {
            fs::write(dir.path().join(format!("data/apps/1/file{number}")), format!("content {number}"))
                .unwrap();
            fs::write(dir.path().join(format!("data/packrat/cache/{number}")), "cache").unwrap();
        }
        let data = dir.path().join("data");
        fs::write(dir.path().join("connect.gcfg"), CONFIG.replace("DATA", data.to_str().unwrap())).unwrap();
        let json = serde_json::json!({ "export": EXPORT, "mount": dir.path().join("mount"), "idle": false });
        House {
            settings: serde_json::from_value(json).unwrap(),
            mounter: Pretend {
                dir: dir.path().join("units"),
                mounted: AtomicBool::new(false),
                other: None,
                options: "rw,hard",
            },
            host: MemoryHost::new(),
            dir,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn cx(&self, op: Op, routed: bool) -> Context {
        let source =
            Source { config: self.at("connect.gcfg"), install_dir: self.at("opt"), ..Source::default() };
        let invocation = self.host.context(op, &self.at("state"), source).invocation().clone();
        let mut json = serde_json::to_value(Invocation { step: "storage".into(), ..invocation }).unwrap();
        if routed {
            json["routed"] = true.into();
            json["facts"]["target"] = "started".into();
        }
        self.host.context_with(serde_json::from_value(json).unwrap())
    }

    /// Waits until what is written now gets a clearly later time than this file.
    fn let_the_clock_go_on(&self, file: &str) {
        let changed = |path: PathBuf| {
            let about = fs::metadata(path).unwrap();
            (about.ctime() * 1_000) + about.ctime_nsec() / 1_000_000
        };
        let (before, end) = (changed(self.at(file)), Instant::now() + Duration::from_secs(10));
        fs::write(self.at("clock"), "tick").unwrap();
        while changed(self.at("clock")) < before + 200 {
            assert!(Instant::now() < end, "the file system's clock stands still");
            std::thread::sleep(Duration::from_millis(10));
            fs::write(self.at("clock"), "tick").unwrap();
        }
    }

    async fn check(&self) -> Vec<Finding> {
        check::check(&self.settings, &self.cx(Op::Check, false), &self.mounter).await.unwrap()
    }

    async fn prepare(&self) -> connect_migrator_sdk::Outcome {
        stage::prepare(&self.settings, &self.cx(Op::Prepare, false), &self.mounter).await.unwrap()
    }

    async fn apply(&self) -> Result<connect_migrator_sdk::Outcome, StepError> {
        stage::apply(&self.settings, &self.cx(Op::Apply, false), &self.mounter).await
    }

    async fn roll_back(&self, routed: bool) -> Result<Undone, StepError> {
        let records: Vec<Undo> =
            self.host.told().undo.into_iter().map(|record| serde_json::from_value(record).unwrap()).collect();
        roll_back(&self.settings, &self.cx(Op::Rollback, routed), &self.mounter, records).await
    }

    #[track_caller]
    fn assert_same(&self, except: &[&str]) {
        let mut rsync = Command::new("rsync");
        rsync.args(["-aHAXn", "--numeric-ids", "--checksum", "--delete", "--itemize-changes"]);
        rsync.args(except.iter().flat_map(|name| ["--exclude", name]));
        let out = rsync.arg(slashed(&self.at("data"))).arg(slashed(&self.at("mount"))).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "");
        assert!(out.status.success());
    }
}

fn slashed(path: &Path) -> String {
    format!("{}/", path.display())
}

fn blockers(findings: &[Finding]) -> Vec<&str> {
    let blockers = findings.iter().filter(|finding| finding.severity == Severity::Blocker);
    blockers.map(|finding| finding.key.as_str()).collect()
}

#[tokio::test]
async fn a_good_export_has_no_blocker_and_is_left_empty() {
    let house = House::new();
    let findings = house.check().await;
    assert_eq!(blockers(&findings), [""; 0], "{findings:#?}");
    assert!(findings.iter().any(|finding| finding.key == "nfs-owners" && finding.severity == Severity::Ok));
    assert_eq!(fs::read_dir(house.at("mount")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(house.at("state")).unwrap().count(), 0, "a check writes nothing");
}

#[tokio::test]
async fn what_would_fail_in_the_window_is_a_blocker_beforehand() {
    let mut house = House::new();
    fs::write(house.at("mount/theirs"), "x").unwrap();
    assert!(blockers(&house.check().await).contains(&"nfs-mount-point"));
    house.mounter.mounted.store(true, SeqCst);
    assert!(blockers(&house.check().await).contains(&"nfs-empty"));
    house.mounter.other = Some("other:/export");
    assert!(blockers(&house.check().await).contains(&"nfs-mount-point"));
    house.mounter.other = None;
    let config = fs::read_to_string(house.at("connect.gcfg")).unwrap();
    fs::write(house.at("connect.gcfg"), config.replace("Postgres", "SQLite")).unwrap();
    assert!(blockers(&house.check().await).contains(&"nfs-sqlite"));
    let refused = stage::prepare(&house.settings, &house.cx(Op::Prepare, false), &house.mounter).await;
    assert!(refused.unwrap_err().to_string().contains("SQLite"));
    house.settings.options = "soft".into();
    let findings = house.check().await;
    assert!(blockers(&findings).contains(&"nfs-soft"));
    assert!(findings.iter().any(|finding| finding.key == "nfs-lookupcache"));
    house.settings.mount = "relative".into();
    assert_eq!(blockers(&house.check().await), ["nfs-settings"]);
}

#[tokio::test]
async fn a_mount_point_in_the_data_directory_or_above_it_is_a_blocker_and_is_not_mounted() {
    let mut house = House::new();
    let dir = house.dir.path().to_owned();
    for mount in [house.at("data"), house.at("data/not/there/yet"), dir] {
        house.settings.mount = mount;
        assert_eq!(blockers(&house.check().await), ["nfs-nested"]);
        let refused = stage::prepare(&house.settings, &house.cx(Op::Prepare, false), &house.mounter).await;
        assert!(refused.unwrap_err().to_string().contains("one inside the other"));
        assert!(!house.mounter.mounted.load(SeqCst));
    }
}

#[tokio::test]
async fn an_export_that_is_not_empty_is_refused_and_taken_down_again() {
    let house = House::new();
    fs::write(house.at("mount/theirs"), "x").unwrap();
    let refused = stage::prepare(&house.settings, &house.cx(Op::Prepare, false), &house.mounter).await;
    assert!(refused.unwrap_err().to_string().contains("theirs"));
    let undone = house.roll_back(false).await.unwrap();
    assert!(undone.left.is_empty(), "{undone:?}");
    assert!(!house.mounter.mounted.load(SeqCst), "it is unmounted");
    assert_eq!(fs::read_to_string(house.at("mount/theirs")).unwrap(), "x");
}

#[tokio::test]
async fn options_and_version_in_effect_count_where_the_export_is_mounted_already() {
    let mut house = House::new();
    let has = |findings: &[Finding], key: &str| findings.iter().any(|finding| finding.key == key);
    let findings = house.check().await;
    // A trial's own options are not those of the mount to be.
    assert!(!has(&findings, "nfs-soft") && !has(&findings, "nfs-lookupcache"), "{findings:#?}");
    let version = findings.iter().find(|finding| finding.key == "nfs-version").unwrap();
    assert!(version.severity == Severity::Warning && version.text.contains("NFS 3"), "{version:?}");
    house.mounter.mounted.store(true, SeqCst);
    house.mounter.options = "rw,vers=4.2,soft,lookupcache=pos";
    let findings = house.check().await;
    assert_eq!(blockers(&findings), ["nfs-soft"]);
    house.mounter.options = "rw,vers=4.2,hard";
    let findings = house.check().await;
    assert!(blockers(&findings).is_empty() && has(&findings, "nfs-lookupcache"), "{findings:#?}");
}

#[tokio::test]
async fn what_is_copied_already_needs_no_room_again() {
    let mut house = House::new();
    house.settings.young_seconds = 0;
    let data = 2 << 20;
    fs::write(house.at("data/apps/large"), vec![7; data]).unwrap();
    // What was written in the moment of its copy is copied once more, beside the first one, for which there is no room here.
    house.let_the_clock_go_on("data/apps/large");
    let _small = Small::with(house.at("mount"), "size=3m,mode=755");
    house.prepare().await;
    assert_eq!(blockers(&house.check().await), [""; 0]);
    fs::write(house.at("data/apps/larger"), vec![7; data]).unwrap();
    assert_eq!(blockers(&house.check().await), ["nfs-room"]);
}

#[tokio::test]
async fn prepared_and_applied_the_data_are_the_same_and_the_configuration_names_them() {
    let house = House::new();
    let prepared = house.prepare().await;
    assert!(prepared.facts.contains_key(&SourceEdits::key("storage")));
    // Connect goes on meanwhile.
    fs::write(house.at("data/apps/1/file3"), "changed").unwrap();
    fs::write(house.at("data/apps/new"), "new").unwrap();
    fs::remove_file(house.at("data/apps/1/file4")).unwrap();
    house.apply().await.unwrap();
    house.assert_same(&[]);
    let config = fs::read_to_string(house.at("connect.gcfg")).unwrap();
    assert!(config.contains(&format!("DataDir = {} ; here", house.at("mount").display())), "{config}");
    let verdict = stage::verify(&house.settings, &house.cx(Op::Verify, false), &house.mounter).await.unwrap();
    assert!(matches!(verdict, Verdict::Holds { .. }), "{verdict:?}");
    // Twice is once.
    let again = house.apply().await.unwrap();
    assert_eq!(again.done, connect_migrator_sdk::Done::AlreadyDone);
    house.mounter.mounted.store(false, SeqCst);
    let verdict = stage::verify(&house.settings, &house.cx(Op::Verify, false), &house.mounter).await.unwrap();
    assert!(matches!(verdict, Verdict::Broken { .. }), "{verdict:?}");
}

#[tokio::test]
async fn rolled_back_before_users_came_everything_is_as_before() {
    let house = House::new();
    let config = fs::read(house.at("connect.gcfg")).unwrap();
    let root = root_of(&house);
    house.prepare().await;
    house.apply().await.unwrap();
    let undone = house.roll_back(false).await.unwrap();
    assert!(undone.left.is_empty(), "{undone:?}");
    assert_eq!(root_of(&house), root);
    assert_eq!(fs::read(house.at("connect.gcfg")).unwrap(), config);
    assert_eq!(fs::read_dir(house.at("mount")).unwrap().count(), 0, "the copy is removed");
    assert_eq!(fs::read_dir(house.at("units")).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(house.at("data/apps/1/file3")).unwrap(), "content 3");
    // A rollback that is run again finds nothing to do.
    assert!(house.roll_back(false).await.unwrap().left.is_empty());
}

#[tokio::test]
async fn prepared_twice_and_rolled_back_the_exports_own_folder_is_as_before() {
    let house = House::new();
    fs::set_permissions(house.at("mount"), fs::Permissions::from_mode(0o2711)).unwrap();
    chown(house.at("mount"), Some(12), Some(34)).unwrap();
    let root = root_of(&house);
    house.prepare().await;
    house.prepare().await;
    assert_ne!(root_of(&house), root);
    let undone = house.roll_back(false).await.unwrap();
    assert!(undone.left.is_empty(), "{undone:?}");
    assert_eq!(root_of(&house), root);
    assert_eq!(fs::read_dir(house.at("mount")).unwrap().count(), 0);
}

/// A small disk, unmounted at the end.
struct Small(PathBuf);

impl Small {
    fn at(path: PathBuf) -> Self {
        Small::with(path, "size=64k,mode=711,uid=12,gid=34")
    }

    fn with(path: PathBuf, options: &str) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path);
        assert!(mount.status().unwrap().success());
        Small(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn root_of(house: &House) -> (u32, u32, u32) {
    let root = fs::metadata(house.at("mount")).unwrap();
    (root.mode() & 0o7777, root.uid(), root.gid())
}

#[tokio::test]
async fn a_full_export_is_told_with_what_to_do_and_gets_its_own_owner_and_mode_back() {
    let house = House::new();
    let _small = Small::at(house.at("mount"));
    let full = stage::prepare(&house.settings, &house.cx(Op::Prepare, false), &house.mounter).await;
    let full = full.unwrap_err();
    assert!(full.why.contains("No space left") && full.remedy.contains("make room"), "{full:?}");
    assert_eq!(root_of(&house).0, 0o700, "closed while it is copied to");
    let undone = house.roll_back(false).await.unwrap();
    assert!(undone.left.is_empty(), "{undone:?}");
    assert_eq!(root_of(&house), (0o711, 12, 34));
    assert_eq!(fs::read_dir(house.at("mount")).unwrap().count(), 0);
}

#[tokio::test]
async fn rolled_back_after_users_came_their_work_comes_back_and_what_it_replaces_is_kept() {
    let house = House::new();
    house.prepare().await;
    house.apply().await.unwrap();
    fs::write(house.at("mount/apps/1/file3"), "users wrote this").unwrap();
    fs::create_dir(house.at("mount/apps/2")).unwrap();
    fs::write(house.at("mount/apps/2/app"), "a new app").unwrap();
    fs::remove_file(house.at("mount/apps/1/file5")).unwrap();
    let undone = house.roll_back(true).await.unwrap();
    assert!(undone.left.is_empty(), "{undone:?}");
    assert_eq!(fs::read_to_string(house.at("data/apps/1/file3")).unwrap(), "users wrote this");
    assert_eq!(fs::read_to_string(house.at("data/apps/2/app")).unwrap(), "a new app");
    assert!(!house.at("data/apps/1/file5").exists());
    house.assert_same(&[]);
    let config = fs::read_to_string(house.at("connect.gcfg")).unwrap();
    assert!(config.contains(house.at("data").to_str().unwrap()), "{config}");
    let kept = house.at("data.before-rollback-00000000-0000-7000-8000-000000000000");
    let contents: Vec<String> = fs::read_dir(&kept)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert!(contents.iter().any(|content| content == "content 3"), "{contents:?}");
    assert!(contents.iter().any(|content| content == "content 5"), "{contents:?}");
    // Told before it was done.
    let told = house.host.told().log;
    assert!(told.iter().any(|(_, line)| line == "changed: apps/1/file3"), "{told:?}");
    assert!(told.iter().any(|(_, line)| line == "new: apps/2"), "{told:?}");
}

#[tokio::test]
async fn what_a_rollback_replaces_on_a_disk_of_its_own_is_kept_there_and_is_never_copied() {
    let house = House::new();
    let disk = Small::with(house.at("data"), "size=8m,mode=750");
    fs::create_dir_all(house.at("data/apps")).unwrap();
    fs::write(house.at("data/apps/file"), "as it was").unwrap();
    house.prepare().await;
    house.apply().await.unwrap();
    fs::write(house.at("mount/apps/file"), "users wrote this").unwrap();
    fs::write(house.at("mount/by-a-user"), "new").unwrap();
    let undone = house.roll_back(true).await.unwrap();
    assert!(undone.left.is_empty(), "{undone:?}");
    assert_eq!(fs::read_to_string(house.at("data/apps/file")).unwrap(), "users wrote this");
    assert_eq!(fs::read_to_string(house.at("data/by-a-user")).unwrap(), "new");
    let kept = house.at("data").join(KEPT_IN_SOURCE).join("00000000-0000-7000-8000-000000000000");
    assert_eq!(fs::read_to_string(kept.join("0")).unwrap(), "as it was");
    assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o7777, 0o700);
    // The next migration leaves it where it is, and says so.
    fs::remove_dir_all(house.at("state")).unwrap();
    fs::create_dir(house.at("state")).unwrap();
    for name in ["apps", "by-a-user"] {
        let path = house.at("mount").join(name);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    let again = House { host: MemoryHost::new(), ..house };
    let findings = again.check().await;
    assert_eq!(blockers(&findings), [""; 0], "{findings:#?}");
    assert!(findings.iter().any(|finding| finding.key == "nfs-ignored"), "{findings:#?}");
    again.prepare().await;
    again.apply().await.unwrap();
    assert!(!again.at("mount").join(KEPT_IN_SOURCE).exists());
    again.assert_same(&[&format!("/{KEPT_IN_SOURCE}")]);
    drop(disk);
}

#[tokio::test]
async fn rolled_back_after_users_came_without_the_export_it_refuses() {
    let house = House::new();
    house.prepare().await;
    house.apply().await.unwrap();
    house.mounter.mounted.store(false, SeqCst);
    let error = house.roll_back(true).await.unwrap_err();
    assert!(error.to_string().contains("lose their work"), "{error}");
    let config = fs::read_to_string(house.at("connect.gcfg")).unwrap();
    assert!(config.contains(house.at("mount").to_str().unwrap()), "nothing was changed");
}

#[tokio::test]
async fn rolled_back_without_the_export_before_users_came_it_tells_what_stays_there() {
    let house = House::new();
    let config = fs::read(house.at("connect.gcfg")).unwrap();
    house.prepare().await;
    house.apply().await.unwrap();
    house.mounter.mounted.store(false, SeqCst);
    let undone = house.roll_back(false).await.unwrap();
    let [left] = undone.left.as_slice() else { panic!("{undone:?}") };
    assert!(left.contains("what was copied stays on nas:/export/connect"), "{left}");
    assert_eq!(fs::read(house.at("connect.gcfg")).unwrap(), config);
    assert_eq!(fs::read_dir(house.at("units")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_left_out_stays_out_of_copy_and_comparison() {
    let mut house = House::new();
    house.settings.leave_out = vec!["packrat".into()];
    let plan = check::plan(&house.settings, &house.cx(Op::Plan, false)).unwrap();
    assert!(plan.iter().any(|change| change.what.contains("leave out packrat")), "{plan:?}");
    house.prepare().await;
    house.apply().await.unwrap();
    assert!(!house.at("mount/packrat").exists());
    house.assert_same(&["/packrat"]);
}

#[tokio::test]
async fn a_last_pass_that_is_not_whole_leaves_the_configuration_as_it_is() {
    let house = House::new();
    let config = fs::read(house.at("connect.gcfg")).unwrap();
    house.prepare().await;
    // Somebody writes to the export while it is being filled.
    fs::write(house.at("mount/apps/theirs"), "x").unwrap();
    let error = house.apply().await.unwrap_err();
    assert!(error.to_string().contains("apps/theirs is only at the target"), "{error}");
    assert_eq!(fs::read(house.at("connect.gcfg")).unwrap(), config);
}

#[tokio::test]
async fn a_cancelled_copy_says_so_and_goes_on_later() {
    let house = House::new();
    house.host.cancel();
    let cx = house.cx(Op::Prepare, false);
    let error = stage::prepare(&house.settings, &cx, &house.mounter).await.unwrap_err();
    assert!(error.cancelled, "{error}");
    let again = House { host: MemoryHost::new(), ..house };
    again.prepare().await;
    again.apply().await.unwrap();
    again.assert_same(&[]);
}
