//! `connect-api/clear-caches` against a double of the server and a real data directory.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is a failed test")]

mod server;

use connect_migrator_connect_api::ClearCaches;
use connect_migrator_connect_api::clear::{ClearCachesSettings, ClearCachesUndo};
use connect_migrator_sdk::Done;
use connect_migrator_sdk::prelude::*;
use connect_migrator_sdk::testing::MemoryHost;
use serde_json::{Value, json};
use server::{Double, context, source};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const HIDDEN: &str = ".connect-migrator-test";

struct Scene {
    dir: tempfile::TempDir,
    double: Arc<Double>,
    host: Arc<MemoryHost>,
    source: Source,
    settings: ClearCachesSettings,
}

impl Scene {
    /// A source with an R and a Python cache.
    async fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let double = Double::start(4).await;
        let source = source(dir.path(), &double);
        let data = dir.path().join("data");
        for (folder, version) in [("packrat", "4.3.0"), ("python-environments", "3.11.2")] {
            let cache = data.join(folder).join(version);
            std::fs::create_dir_all(cache.join("lib/base")).unwrap();
            std::fs::write(cache.join("distribution"), "old").unwrap();
            std::fs::write(cache.join("lib/base/base.so"), format!("{folder} code")).unwrap();
            symlink("base.so", cache.join("lib/base/base.so.1")).unwrap();
            std::fs::set_permissions(cache.join("lib"), std::fs::Permissions::from_mode(0o2751)).unwrap();
            old(&cache.join("lib/base"), 1_600_000_000);
        }
        std::fs::create_dir(data.join("apps")).unwrap();
        std::fs::write(data.join("apps/app.R"), "app").unwrap();
        {
            let mut knobs = double.knobs();
            knobs.data_dir = Some(data);
            knobs.caches = caches();
        }
        let settings = serde_json::from_value(json!({})).unwrap();
        Scene { dir, double, host: MemoryHost::new(), source, settings }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn cx(&self, op: Op) -> Context {
        let target = !matches!(op, Op::Check | Op::Plan | Op::Prepare);
        context(&self.host, op, self.dir.path(), self.source.clone(), target.then_some(&*self.double))
    }

    async fn prepare(&self) -> Outcome {
        ClearCaches::prepare(&self.settings, &self.cx(Op::Prepare)).await.unwrap()
    }

    async fn apply(&self) -> Result<Outcome, StepError> {
        ClearCaches::apply(&self.settings, &self.cx(Op::Apply)).await
    }

    /// Undoes the calls as the daemon does: those of `apply` first.
    async fn rollback(&self) -> Vec<Undone> {
        let told = self.host.told().undo;
        let (prepare, apply): (Vec<_>, Vec<_>) = told
            .into_iter()
            .map(|undo| serde_json::from_value::<ClearCachesUndo>(undo).unwrap())
            .partition(|undo| matches!(undo, ClearCachesUndo::Folder { .. }));
        let mut answers = Vec::new();
        for (of, undo) in [(Op::Apply, apply), (Op::Prepare, prepare)] {
            let cx = self.cx(Op::Rollback);
            answers.push(ClearCaches::rollback(&self.settings, &cx, of, undo).await.unwrap());
        }
        answers
    }

    async fn findings(&self) -> BTreeMap<String, Finding> {
        let findings = ClearCaches::check(&self.settings, &self.cx(Op::Check)).await.unwrap();
        findings.into_iter().map(|finding| (finding.key.clone(), finding)).collect()
    }
}

fn caches() -> Vec<Value> {
    vec![
        json!({"language": "R", "version": "4.3.0", "image_name": "Local"}),
        json!({"language": "Python", "version": "3.11.2", "image_name": "Local"}),
    ]
}

fn old(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    std::fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// Everything about a tree that rollback has to bring back.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, at: &Path, all: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let state = path.symlink_metadata().unwrap();
            let what = if state.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else if state.is_dir() {
                walk(root, &path, all);
                "folder".into()
            } else {
                format!("inode {} {:?}", state.ino(), std::fs::read(&path).unwrap())
            };
            let about = (state.mode(), state.uid(), state.gid(), state.mtime(), state.mtime_nsec());
            all.insert(path.strip_prefix(root).unwrap().into(), format!("{about:?} {what}"));
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

#[tokio::test]
async fn check_finds_a_good_source_good_and_leaves_no_trace() {
    let scene = Scene::new().await;
    old(&scene.data(), 1_600_000_000);
    let (before, top) = (snapshot(&scene.data()), scene.data().metadata().unwrap().mtime());
    let findings = scene.findings().await;
    assert!(findings.values().all(|finding| finding.severity == Severity::Ok), "{findings:?}");
    assert_eq!(scene.double.seen().dry_runs, 2);
    assert!(scene.double.seen().deleted.is_empty());
    assert_eq!(snapshot(&scene.data()), before);
    assert_eq!(scene.data().metadata().unwrap().mtime(), top);
    assert_eq!(scene.host.told().undo.len(), 0);
}

#[tokio::test]
async fn check_names_what_is_wrong_with_the_key() {
    let mut scene = Scene::new().await;
    for (status, answer, key, text) in [
        (401, json!({"code": 3, "error": "Key is not valid"}), "api-key-invalid", "Key is not valid"),
        (401, json!({"code": 3, "error": "The API key has expired"}), "api-key-expired", "has expired"),
        (
            200,
            json!({"username": "bob", "user_role": "publisher"}),
            "api-key-role",
            "`bob`, whose role is publisher",
        ),
        (
            200,
            json!({"username": "eve", "user_role": "administrator", "locked": true}),
            "api-key-locked",
            "`eve`",
        ),
        (500, Value::Null, "api-unreachable", "answered 500"),
    ] {
        scene.double.knobs().user = (status, answer);
        let findings = scene.findings().await;
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[key].severity, Severity::Blocker);
        assert!(findings[key].text.contains(text), "{findings:?}");
        assert!(!findings[key].remedy.is_empty());
    }
    scene.source.api_key = Some(SecretRef { credential: "other".into() });
    assert_eq!(scene.findings().await["api-key-not-stored"].severity, Severity::Blocker);
    scene.source.api_key = None;
    assert_eq!(scene.findings().await["api-key-missing"].severity, Severity::Blocker);
    assert_eq!(scene.double.seen().dry_runs, 0, "nothing is asked with a key that will not do");
}

#[tokio::test]
async fn check_blocks_on_a_version_without_the_endpoint_and_on_a_cache_that_cannot_be_deleted() {
    let scene = Scene::new().await;
    scene.double.knobs().dry_run_fails = Some("3.11.2".into());
    let findings = scene.findings().await;
    let finding = &findings["caches-not-deletable"];
    assert!(finding.severity == Severity::Blocker && finding.text.contains("Python 3.11.2"), "{finding:?}");
    scene.double.knobs().caches_known = false;
    assert_eq!(scene.findings().await["caches-endpoint-missing"].severity, Severity::Blocker);
}

#[tokio::test]
async fn check_warns_of_caches_that_rollback_could_not_bring_back() {
    let scene = Scene::new().await;
    let elsewhere = scene.dir.path().join("elsewhere");
    std::fs::rename(scene.data().join("packrat"), &elsewhere).unwrap();
    symlink(&elsewhere, scene.data().join("packrat")).unwrap();
    let findings = scene.findings().await;
    let finding = &findings["caches-not-recognised"];
    assert!(finding.severity == Severity::Warning && finding.text.contains("R 4.3.0"), "{finding:?}");
}

#[tokio::test]
async fn all_caches_are_deleted_on_the_new_server_under_the_public_name() {
    let scene = Scene::new().await;
    scene.prepare().await;
    scene.double.forget_seen();
    let outcome = scene.apply().await.unwrap();
    assert_eq!(outcome.done, Done::Changed);
    assert_eq!(outcome.details["caches"][1]["result"], "deleted", "{}", outcome.details);
    assert!(!scene.data().join("packrat/4.3.0").exists());
    assert!(scene.double.knobs().caches.is_empty());
    assert!(scene.double.seen().hosts.iter().all(|host| host == "connect.example.com"));
    let again = scene.apply().await.unwrap();
    assert_eq!(again.done, Done::AlreadyDone);
    let verdict = ClearCaches::verify(&scene.settings, &scene.cx(Op::Verify)).await.unwrap();
    assert_eq!(verdict, Verdict::holds("no runtime caches"));
    scene.double.knobs().key_dies_after = Some(0);
    let verdict = ClearCaches::verify(&scene.settings, &scene.cx(Op::Verify)).await.unwrap();
    assert!(matches!(verdict, Verdict::Holds { .. }), "a key that is taken back later breaks nothing");
    scene.double.knobs().away = true;
    let verdict = ClearCaches::verify(&scene.settings, &scene.cx(Op::Verify)).await.unwrap();
    assert!(matches!(verdict, Verdict::Broken { .. }), "{verdict:?}");
}

#[tokio::test]
async fn rollback_brings_back_every_byte_mode_and_time_and_leaves_nothing_of_ours() {
    let scene = Scene::new().await;
    let before = snapshot(&scene.data());
    scene.prepare().await;
    let hidden = scene.data().join(HIDDEN).metadata().unwrap();
    assert_eq!(hidden.mode() & 0o777, 0o700);
    scene.apply().await.unwrap();
    // The new server builds anew, also in a folder that was not there before.
    for folder in ["packrat/4.3.0", "R"] {
        std::fs::create_dir_all(scene.data().join(folder)).unwrap();
        std::fs::write(scene.data().join(folder).join("distribution"), "new").unwrap();
    }
    let answers = scene.rollback().await;
    assert!(answers.iter().all(|undone| undone.left.is_empty()), "{answers:?}");
    assert_eq!(snapshot(&scene.data()), before);
    scene.rollback().await;
    assert_eq!(snapshot(&scene.data()), before, "doing it twice is doing it once");
}

#[tokio::test]
async fn rollback_before_anything_was_deleted_only_removes_the_copies() {
    let scene = Scene::new().await;
    let before = snapshot(&scene.data());
    scene.prepare().await;
    scene.prepare().await;
    scene.rollback().await;
    assert_eq!(snapshot(&scene.data()), before);
}

#[tokio::test]
async fn what_changed_between_prepare_and_apply_is_what_comes_back() {
    let scene = Scene::new().await;
    scene.prepare().await;
    let cache = scene.data().join("packrat/4.3.0");
    std::fs::write(cache.join("lib/new.so"), "new").unwrap();
    std::fs::remove_file(cache.join("distribution")).unwrap();
    std::fs::remove_file(cache.join("lib/base/base.so")).unwrap();
    std::fs::create_dir(cache.join("lib/base/base.so")).unwrap();
    std::fs::remove_dir_all(scene.data().join("python-environments/3.11.2/lib")).unwrap();
    std::fs::write(scene.data().join("python-environments/3.11.2/lib"), "a file now").unwrap();
    let before: BTreeMap<_, _> =
        snapshot(&scene.data()).into_iter().filter(|(path, _)| !path.starts_with(HIDDEN)).collect();
    scene.apply().await.unwrap();
    scene.rollback().await;
    assert_eq!(snapshot(&scene.data()), before);
}

#[tokio::test]
async fn an_apply_that_is_killed_between_two_deletions_and_run_again_still_rolls_back_in_full() {
    let scene = Scene::new().await;
    let before = snapshot(&scene.data());
    scene.prepare().await;
    scene.double.knobs().hanging = Some("3.11.2".into());
    let killed = tokio::select! {
        _ = scene.apply() => false,
        () = async {
            while scene.data().join("packrat/4.3.0").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => true,
    };
    assert!(killed);
    scene.double.knobs().hanging = None;
    let outcome = scene.apply().await.unwrap();
    assert_eq!(outcome.done, Done::Changed);
    scene.rollback().await;
    assert_eq!(snapshot(&scene.data()), before);
}

#[tokio::test]
async fn a_rollback_that_was_cut_off_anywhere_is_taken_up() {
    for cut in 0..5 {
        let scene = Scene::new().await;
        let before = snapshot(&scene.data());
        scene.prepare().await;
        scene.apply().await.unwrap();
        let (data, hidden) = (scene.data(), scene.data().join(HIDDEN));
        // The renames of a rollback, up to the cut.
        let moves = [
            ("packrat", ".connect-migrator-test/aside/packrat"),
            (".connect-migrator-test/kept/packrat", "packrat"),
            ("python-environments", ".connect-migrator-test/aside/python-environments"),
            (".connect-migrator-test/kept/python-environments", "python-environments"),
        ];
        std::fs::create_dir_all(hidden.join("aside")).unwrap();
        for (from, to) in &moves[..cut] {
            std::fs::rename(data.join(from), data.join(to)).unwrap();
        }
        if cut == 1 {
            // The new server, which still runs, makes the folder that is missing.
            std::fs::create_dir(data.join("packrat")).unwrap();
        }
        scene.rollback().await;
        assert_eq!(snapshot(&scene.data()), before, "cut after {cut} renames");
    }
}

#[tokio::test]
async fn a_cache_in_use_is_tried_again_and_at_last_named() {
    let scene = Scene::new().await;
    scene.double.knobs().stubborn.insert("4.3.0".into(), 1);
    scene.prepare().await;
    let outcome = scene.apply().await.unwrap();
    assert_eq!(outcome.details["caches"][1]["result"], "deleted");

    let scene = Scene::new().await;
    let before = snapshot(&scene.data());
    scene.double.knobs().stubborn.insert("4.3.0".into(), 100);
    scene.prepare().await;
    let error = scene.apply().await.unwrap_err().to_string();
    assert!(error.contains("R 4.3.0 (Local)") && error.contains("the cache is in use"), "{error}");
    assert!(!error.contains("Python"), "{error}");
    scene.rollback().await;
    assert_eq!(snapshot(&scene.data()), before);
}

#[tokio::test]
async fn a_server_that_is_busy_right_after_its_start_is_asked_again() {
    let scene = Scene::new().await;
    scene.prepare().await;
    scene.double.knobs().away = true;
    let (outcome, ()) = tokio::join!(scene.apply(), async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        scene.double.knobs().away = false;
    });
    outcome.unwrap();
    assert!(!scene.double.seen().deleted.is_empty());
}

#[tokio::test]
async fn links_are_kept_as_links_and_never_followed() {
    let scene = Scene::new().await;
    let outside = scene.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("precious"), "mine").unwrap();
    symlink(&outside, scene.data().join("packrat/4.3.0/out")).unwrap();
    symlink(&outside, scene.data().join("R")).unwrap();
    let (before, other) = (snapshot(&scene.data()), snapshot(&outside));
    scene.prepare().await;
    scene.apply().await.unwrap();
    let answers = scene.rollback().await;
    assert_eq!(snapshot(&scene.data()), before);
    assert_eq!(snapshot(&outside), other);
    assert!(answers[0].left[0].contains("R were not kept"), "{answers:?}");
}

#[tokio::test]
async fn a_request_to_stop_ends_the_copying() {
    let scene = Scene::new().await;
    scene.host.cancel();
    let error = ClearCaches::prepare(&scene.settings, &scene.cx(Op::Prepare)).await.unwrap_err();
    assert!(error.cancelled, "{error}");
}

#[tokio::test]
async fn commit_removes_the_copies_and_nothing_else() {
    let scene = Scene::new().await;
    scene.prepare().await;
    scene.apply().await.unwrap();
    std::fs::create_dir_all(scene.data().join("packrat/4.3.0")).unwrap();
    let before: BTreeMap<_, _> =
        snapshot(&scene.data()).into_iter().filter(|(path, _)| !path.starts_with(HIDDEN)).collect();
    let cx = scene.cx(Op::Finalize);
    assert_eq!(ClearCaches::finalize(&scene.settings, &cx).await.unwrap().done, Done::Changed);
    assert_eq!(snapshot(&scene.data()), before);
    assert_eq!(ClearCaches::finalize(&scene.settings, &cx).await.unwrap().done, Done::AlreadyDone);
}

#[tokio::test]
async fn a_folder_of_another_migration_blocks_and_is_not_touched() {
    let scene = Scene::new().await;
    let hidden = scene.data().join(HIDDEN);
    std::fs::create_dir(&hidden).unwrap();
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(hidden.join("migration"), "0180-other").unwrap();
    std::fs::write(hidden.join("precious"), "mine").unwrap();
    let before = snapshot(&scene.data());
    let findings = scene.findings().await;
    assert!(findings["caches-folder-left"].text.contains("0180-other"), "{findings:?}");
    let error = ClearCaches::prepare(&scene.settings, &scene.cx(Op::Prepare)).await.unwrap_err();
    assert!(error.to_string().contains("0180-other"), "{error}");
    let undo = vec![ClearCachesUndo::Folder { data_dir: scene.data() }];
    let cx = scene.cx(Op::Rollback);
    ClearCaches::rollback(&scene.settings, &cx, Op::Prepare, undo).await.unwrap_err();
    // A folder that others can write to is no proof of anything.
    std::fs::write(hidden.join("migration"), cx.migration().id.as_bytes()).unwrap();
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o777)).unwrap();
    ClearCaches::prepare(&scene.settings, &scene.cx(Op::Prepare)).await.unwrap_err();
    std::fs::write(hidden.join("migration"), "0180-other").unwrap();
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o700)).unwrap();
    let after = snapshot(&scene.data());
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!(std::fs::read(hidden.join("precious")).unwrap(), b"mine");
}

#[tokio::test]
async fn without_copies_rollback_says_so_and_deletes_what_the_new_server_built() {
    let mut scene = Scene::new().await;
    scene.settings.keep = false;
    assert_eq!(scene.findings().await["caches-not-kept"].severity, Severity::Warning);
    assert_eq!(scene.prepare().await.done, Done::AlreadyDone);
    scene.apply().await.unwrap();
    assert!(!scene.data().join(HIDDEN).exists());
    scene.double.knobs().caches = caches();
    let answers = scene.rollback().await;
    assert!(answers[0].evidence[0].contains("built again at the first visit"), "{answers:?}");
    assert!(scene.double.knobs().caches.is_empty());
    scene.double.knobs().away = true;
    let answers = scene.rollback().await;
    assert!(answers[0].left[0].contains("clear the caches of the source"), "{answers:?}");
}

#[tokio::test]
async fn the_plan_says_what_is_kept_and_deleted() {
    let scene = Scene::new().await;
    let plan = ClearCaches::plan(&scene.settings, &scene.cx(Op::Plan)).await.unwrap();
    assert_eq!(plan.len(), 3);
    assert!(plan[0].what.contains(HIDDEN), "{plan:?}");
    assert_eq!(plan[1].what, "delete 2 runtime caches: R 4.3.0 (Local), Python 3.11.2 (Local)");
    assert_eq!((plan[2].when, plan[2].what.as_str()), (Op::Rollback, "put the kept runtime caches back"));
}

#[tokio::test]
async fn the_setting_url_overrides_where_the_server_is() {
    let mut scene = Scene::new().await;
    let other = Double::start(1).await;
    scene.settings.url = Some(other.url.clone());
    assert_eq!(scene.apply().await.unwrap().done, Done::AlreadyDone);
    assert_eq!(scene.double.seen().requests, 0);
    assert_eq!(other.seen().requests, 1);
}
