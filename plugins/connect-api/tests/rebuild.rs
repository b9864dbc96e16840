//! `connect-api/rebuild` against a double of the server.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is a failed test")]

mod server;

use connect_migrator_connect::api::Api;
use connect_migrator_connect_api::Rebuild;
use connect_migrator_connect_api::follow::Patience;
use connect_migrator_connect_api::rebuild::items::{Items, What};
use connect_migrator_connect_api::rebuild::journal::Journal;
use connect_migrator_connect_api::rebuild::run::{Limits, Run, RunError, Tally};
use connect_migrator_connect_api::rebuild::settings::RebuildSettings;
use connect_migrator_sdk::Done;
use connect_migrator_sdk::prelude::*;
use connect_migrator_sdk::testing::MemoryHost;
use proptest::prelude::*;
use serde_json::{Value, json};
use server::{Builds, Double, KEY, context, source};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

struct Scene {
    dir: tempfile::TempDir,
    double: Arc<Double>,
    host: Arc<MemoryHost>,
}

impl Scene {
    async fn new(slots: usize, items: usize) -> Scene {
        let double = Double::start(slots).await;
        double.add_items(items);
        Scene { dir: tempfile::tempdir().unwrap(), double, host: MemoryHost::new() }
    }

    fn cx(&self, op: Op) -> Context {
        let target = !matches!(op, Op::Check | Op::Plan | Op::Prepare);
        let source = source(self.dir.path(), &self.double);
        context(&self.host, op, self.dir.path(), source, target.then_some(&*self.double))
    }

    async fn apply(&self, settings: Value) -> Result<Outcome, StepError> {
        let settings: RebuildSettings = serde_json::from_value(settings).unwrap();
        Rebuild::apply(&settings, &self.cx(Op::Apply)).await
    }

    fn builds(&self, guid: &str, builds: Builds) {
        self.double.knobs().builds.insert(guid.into(), builds);
    }

    fn submissions(&self, guid: &str) -> usize {
        self.double.seen().submitted.iter().filter(|other| *other == guid).count()
    }
}

#[tokio::test]
async fn the_most_recently_deployed_come_first_and_what_has_nothing_to_build_is_named() {
    let scene = Scene::new(1, 6).await;
    {
        let mut knobs = scene.double.knobs();
        knobs.content.reverse();
        knobs.content.push(json!({"guid": "s", "name": "site", "bundle_id": "9", "app_mode": "static"}));
        knobs.content.push(json!({"guid": "n", "name": "draft", "bundle_id": null, "app_mode": "shiny",
            "r_version": "4.3.0"}));
    }
    let outcome = scene.apply(json!({"parallelism": 1})).await.unwrap();
    assert_eq!(scene.double.seen().submitted, ["a0", "a1", "a2", "a3", "a4", "a5"]);
    assert_eq!((outcome.done, &outcome.details["complete"]), (Done::Changed, &json!(6)));
    assert_eq!(
        outcome.details["skipped"],
        json!([{"guid": "s", "name": "site", "why": "static: needs no packages"},
               {"guid": "n", "name": "draft", "why": "never published"}])
    );
    let fact = &outcome.facts["rebuild"];
    assert_eq!((&fact["complete"], &fact["failed"], &fact["skipped"]), (&json!(6), &json!(0), &json!(2)));
    assert!(scene.double.seen().hosts.iter().all(|host| host == "connect.example.com"));
    assert!(scene.host.told().undo.is_empty());
}

#[tokio::test]
async fn never_more_builds_are_open_than_asked_for() {
    for (ahead, most) in [(0, 3), (2, 5)] {
        let scene = Scene::new(3, 40).await;
        scene.apply(json!({"parallelism": 3, "submit-ahead": ahead})).await.unwrap();
        assert_eq!(scene.double.seen().max_open, most);
        assert_eq!(scene.double.seen().max_running, 3);
    }
}

#[tokio::test]
async fn builds_like_one_another_cost_four_requests_each_and_talkative_ones_not_one_a_line() {
    for (lines, millis, each) in [(1_u32, 40, 4), (3, 120, 4), (12, 240, 7)] {
        let scene = Scene::new(8, 80).await;
        let lines = (0..lines).map(|n| format!("line {n}")).collect();
        scene.double.knobs().default_builds = Builds { lines, millis, ..Builds::default() };
        scene.apply(json!({"parallelism": 8})).await.unwrap();
        // The first builds, of which nothing is known yet, may cost more.
        let seen = scene.double.seen();
        assert!(seen.requests <= each * 80 + 8 * 12, "{} requests", seen.requests);
    }
}

#[tokio::test]
async fn an_item_that_fails_once_is_tried_again_after_the_others() {
    let scene = Scene::new(2, 5).await;
    scene.builds("a0", Builds { fail_first: 1, ..Builds::default() });
    let outcome = scene.apply(json!({"parallelism": 1})).await.unwrap();
    assert_eq!(outcome.details["failed"], json!([]));
    assert_eq!(scene.double.seen().submitted, ["a0", "a1", "a2", "a3", "a4", "a0"]);
    let scene = Scene::new(2, 2).await;
    scene.builds("a0", Builds { fail_first: 1, ..Builds::default() });
    scene.apply(json!({"retry": 0})).await.unwrap();
    assert_eq!(scene.submissions("a0"), 1);
}

#[tokio::test]
async fn an_item_that_fails_for_good_is_named_with_its_cause_and_its_log_is_kept() {
    let scene = Scene::new(2, 3).await;
    let why = "Cannot find compatible environment: no compatible Local environment with Python version 3.9.5";
    scene.builds(
        "a1",
        Builds {
            fail_first: 9,
            lines: vec!["Building".into(), why.into(), "Stopped".into()],
            error: "exit status 1".into(),
            ..Builds::default()
        },
    );
    let outcome = scene.apply(json!({})).await.unwrap();
    assert_eq!(outcome.details["complete"], 2);
    assert_eq!(
        outcome.details["failed"],
        json!([{"guid": "a1", "name": "Item 1", "owner": "ada", "error": format!("exit status 1: {why}")}])
    );
    assert!(
        outcome.evidence.iter().any(|line| line.contains("Item 1") && line.contains("3.9.5")),
        "{outcome:?}"
    );
    let log = std::fs::read_to_string(scene.dir.path().join("logs/a1.log")).unwrap();
    assert_eq!(log.matches("Stopped").count(), 2, "both attempts: {log}");
    // And again: nothing is left to do, and the failure is still told.
    let before = scene.double.seen().submitted.len();
    let outcome = scene.apply(json!({})).await.unwrap();
    assert_eq!(
        (scene.double.seen().submitted.len(), outcome.details["failed"].as_array().unwrap().len()),
        (before, 1)
    );
}

#[tokio::test]
async fn too_many_failures_fail_the_step_and_stop_it_early() {
    for (max, fails) in [(json!(1), true), (json!("5%"), true), (json!(2), false), (json!("10%"), false)] {
        let scene = Scene::new(2, 20).await;
        for guid in ["a1", "a3"] {
            scene.builds(guid, Builds { fail_first: 9, ..Builds::default() });
        }
        let result = scene.apply(json!({"max-failed": max, "retry": 0})).await;
        if fails {
            let error = result.unwrap_err();
            assert!(error.why.contains("2 of 20 items failed") && error.why.contains("Item 3"), "{error}");
            assert!(scene.double.seen().submitted.len() < 10);
        } else {
            assert_eq!(result.unwrap().details["failed"].as_array().unwrap().len(), 2);
        }
    }
}

#[tokio::test]
async fn when_the_time_for_all_is_over_the_rest_is_told_and_the_step_has_not_failed() {
    let scene = Scene::new(2, 4).await;
    scene.builds("a1", Builds { millis: 60_000, ..Builds::default() });
    let outcome = scene.apply(json!({"parallelism": 1, "total-timeout-seconds": 3})).await.unwrap();
    assert_eq!(outcome.details["complete"], 1);
    assert_eq!(outcome.details["figures"]["out-of-time"], 3);
    let told = outcome.evidence.join("\n");
    assert!(told.contains("3 were not built"), "{told}");
    // What the server was building is followed by a later call, and not submitted again.
    scene.apply(json!({"parallelism": 1, "total-timeout-seconds": 1})).await.unwrap();
    assert_eq!(scene.submissions("a1"), 1);
}

#[tokio::test]
async fn gateways_that_fail_now_and_then_and_lost_tasks_cost_nothing_but_time() {
    let scene = Scene::new(4, 20).await;
    scene.double.knobs().gateway_fails_every = 3;
    scene.builds("a5", Builds { forget_first: true, ..Builds::default() });
    let outcome = scene.apply(json!({"parallelism": 4})).await.unwrap();
    assert_eq!(outcome.details["complete"], 20);
    assert_eq!(scene.submissions("a5"), 2);
    assert_eq!(scene.double.seen().submitted.len(), 21);
}

#[tokio::test]
async fn what_the_server_refuses_is_a_failure_of_that_item_alone() {
    let scene = Scene::new(2, 4).await;
    let refuse = |status, error: &str| Builds {
        refuse: Some((status, json!({"code": 4, "error": error}))),
        ..Builds::default()
    };
    scene.builds("a0", refuse(404, "The requested object does not exist."));
    scene.builds("a1", refuse(409, "locked"));
    let outcome = scene.apply(json!({})).await.unwrap();
    assert_eq!(outcome.details["complete"], 2);
    let failed = outcome.details["failed"].to_string();
    assert!(failed.contains("answered 404: The requested object does not exist."), "{failed}");
    assert!(failed.contains("answered 409: locked"), "{failed}");
}

#[tokio::test]
async fn a_key_that_is_taken_away_ends_the_step_and_a_new_key_goes_on() {
    let scene = Scene::new(2, 10).await;
    scene.double.knobs().key_dies_after = Some(5);
    let error = scene.apply(json!({})).await.unwrap_err();
    assert!(error.to_string().contains("Key is not valid"), "{error}");
    assert!(!format!("{error:?}").contains(KEY));
    scene.double.knobs().key_dies_after = None;
    let outcome = scene.apply(json!({})).await.unwrap();
    assert_eq!(outcome.details["complete"], 10);
    assert_eq!(scene.double.seen().submitted.len(), 10, "nothing was submitted twice");
}

/// Runs until so many items have ended, then drops everything, as a kill does.
async fn kill_after(scene: &Scene, ended: usize) {
    tokio::select! {
        result = scene.apply(json!({"parallelism": 4})) => panic!("it ended: {result:?}"),
        () = async {
            // The server is ahead of what the client has written down. Something is being built, and the client knows it.
            let finished = || scene.double.seen().finished.len();
            while finished() < ended || known(scene, "builds.jsonl").len() <= finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        } => {}
    }
}

/// What the journal knows at the moment of a kill: the submission that builds each item, or built it, by its number. One whose
/// answer was still on its way is not known, and is made again.
fn known(scene: &Scene, journal: &str) -> HashMap<String, usize> {
    let text = std::fs::read_to_string(scene.dir.path().join(journal)).unwrap_or_default();
    let mut known = HashMap::new();
    for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let Some(guid) = event["guid"].as_str() else { continue };
        match event["event"].as_str() {
            Some("submitted") => {
                let (_, number) = event["task"].as_str().unwrap().rsplit_once('-').unwrap();
                known.insert(guid.to_owned(), number.parse().unwrap());
            }
            Some("failed") => _ = known.remove(guid),
            _ => {}
        }
    }
    known
}

#[tokio::test]
async fn a_killed_rebuild_goes_on_without_building_anything_twice() {
    let scene = Scene::new(4, 60).await;
    scene.double.knobs().default_builds = Builds { millis: 20, ..Builds::default() };
    let mut kills = Vec::new();
    for ended in [7, 20, 41] {
        kill_after(&scene, ended).await;
        kills.push(known(&scene, "builds.jsonl"));
    }
    let outcome = scene.apply(json!({"parallelism": 4})).await.unwrap();
    let figures = &outcome.details["figures"];
    assert_eq!(figures["complete"], 60);
    assert!(figures["complete-before"].as_u64().unwrap() >= 30, "{figures}");
    for (kill, known) in kills.iter().enumerate() {
        assert!(known.len() >= [7, 20, 41][kill]);
        for (guid, before) in known {
            assert_eq!(
                scene.submissions(guid),
                *before,
                "{guid} was known at kill {kill} and submitted again"
            );
        }
    }
    let submitted = scene.double.seen().submitted.len();
    let outcome = scene.apply(json!({"parallelism": 4})).await.unwrap();
    assert_eq!((outcome.done, scene.double.seen().submitted.len()), (Done::AlreadyDone, submitted));
}

#[tokio::test]
async fn builds_that_a_restarted_server_forgot_are_submitted_again_and_finished_ones_are_not() {
    let scene = Scene::new(4, 30).await;
    scene.double.knobs().default_builds = Builds { millis: 40, ..Builds::default() };
    kill_after(&scene, 10).await;
    scene.double.restart();
    let outcome = scene.apply(json!({"parallelism": 4})).await.unwrap();
    assert_eq!(outcome.details["complete"], 30);
    let twice = scene.double.seen().submitted.len() - 30;
    assert!((1..=8).contains(&twice), "{twice} submitted twice");
}

#[tokio::test]
async fn content_that_was_published_again_meanwhile_is_built_again() {
    let scene = Scene::new(4, 5).await;
    scene.apply(json!({})).await.unwrap();
    scene.double.knobs().content[2]["bundle_id"] = json!("77");
    scene.apply(json!({})).await.unwrap();
    assert_eq!(scene.submissions("a2"), 2);
    assert_eq!(scene.double.seen().submitted.len(), 6);
}

#[tokio::test]
async fn a_server_without_content_is_already_done() {
    let scene = Scene::new(1, 0).await;
    assert_eq!(scene.apply(json!({})).await.unwrap().done, Done::AlreadyDone);
}

#[tokio::test]
async fn a_request_to_stop_is_heeded_and_said() {
    let scene = Scene::new(2, 10).await;
    scene.double.knobs().default_builds = Builds { millis: 60_000, ..Builds::default() };
    let host = Arc::clone(&scene.host);
    let stop = async {
        while scene.double.seen().submitted.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        host.cancel();
    };
    let (result, ()) = tokio::join!(scene.apply(json!({})), stop);
    assert!(result.unwrap_err().cancelled);
}

#[tokio::test]
async fn check_wants_an_administrator_and_a_version_that_builds() {
    let scene = Scene::new(1, 3).await;
    let settings: RebuildSettings = serde_json::from_value(json!({})).unwrap();
    let cx = scene.cx(Op::Check);
    let worst = |findings: Vec<Finding>| findings.into_iter().max_by_key(|finding| finding.severity).unwrap();
    assert_eq!(worst(Rebuild::check(&settings, &cx).await.unwrap()).severity, Severity::Ok);
    scene.double.knobs().version = json!("");
    assert_eq!(worst(Rebuild::check(&settings, &cx).await.unwrap()).severity, Severity::Ok);
    scene.double.knobs().version = json!("2021.09.0");
    assert_eq!(worst(Rebuild::check(&settings, &cx).await.unwrap()).key, "build-endpoint-missing");
    scene.double.knobs().user = (200, json!({"username": "bob", "user_role": "viewer"}));
    assert_eq!(worst(Rebuild::check(&settings, &cx).await.unwrap()).key, "api-key-role");
    assert!(scene.double.seen().submitted.is_empty());
}

#[tokio::test]
async fn the_plan_counts_and_verify_asks_for_some_of_what_was_built() {
    let scene = Scene::new(4, 7).await;
    scene.double.knobs().content.push(json!({"guid": "s", "bundle_id": "9", "app_mode": "static"}));
    let settings: RebuildSettings = serde_json::from_value(json!({"parallelism": 4})).unwrap();
    let plan = Rebuild::plan(&settings, &scene.cx(Op::Plan)).await.unwrap();
    assert!(plan[0].what.starts_with("build 7 content items, 4 at once"), "{plan:?}");
    scene.apply(json!({})).await.unwrap();
    scene.double.knobs().content.remove(0);
    let verdict = |scene: &Scene| {
        let (settings, cx) = (settings.clone(), scene.cx(Op::Verify));
        async move { Rebuild::verify(&settings, &cx).await.unwrap() }
    };
    assert!(matches!(verdict(&scene).await, Verdict::Holds { .. }));
    scene.double.knobs().away = true;
    assert!(matches!(verdict(&scene).await, Verdict::Broken { .. }));
}

/// A rebuild with short patience, of whatever the double has.
async fn run(scene: &Scene, limits: Limits) -> Result<Tally, RunError> {
    let (cx, dir) = (scene.cx(Op::Apply), scene.dir.path());
    let api = Api::new(&scene.double.url, Some(Secret::new(KEY.into()))).unwrap();
    let items = items(&api, dir).await;
    let journal = Journal::open(&dir.join("builds"), "m").unwrap();
    Run::new(&api, &cx, &items, limits, dir.join("logs"), journal).all().await
}

async fn items(api: &Api, dir: &Path) -> Items {
    Items::list(api, What::All, &dir.join("items"), |_| Ok(())).await.unwrap()
}

fn limits(parallelism: usize) -> Limits {
    let away = Duration::from_millis(300);
    let patience =
        Patience { away, unknown: Duration::from_millis(20), ..Patience::with_task(Duration::from_secs(60)) };
    Limits { parallelism, submit_ahead: 0, retry: 1, max_failed: None, until: None, patience }
}

#[tokio::test]
async fn a_server_that_stays_away_ends_the_rebuild_and_one_that_comes_back_does_not() {
    let scene = Scene::new(2, 6).await;
    scene.double.knobs().default_builds = Builds { millis: 30, ..Builds::default() };
    let outage = |millis| {
        let double = Arc::clone(&scene.double);
        async move {
            while double.seen().submitted.len() < 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            double.knobs().away = true;
            tokio::time::sleep(Duration::from_millis(millis)).await;
            double.knobs().away = false;
        }
    };
    let (result, ()) = tokio::join!(run(&scene, limits(2)), outage(2_000));
    assert!(matches!(&result, Err(RunError::Api(error)) if error.status() == Some(503)), "{result:?}");
    scene.double.forget_seen();
    std::fs::remove_file(scene.dir.path().join("builds")).unwrap();
    let (result, ()) = tokio::join!(run(&scene, limits(2)), outage(120));
    assert_eq!(result.unwrap().complete, 6);
}

#[tokio::test]
async fn one_item_that_is_never_taken_is_reported_and_is_not_the_end_of_a_server_that_answers() {
    let scene = Scene::new(1, 3).await;
    scene.builds("a0", Builds { refuse: Some((503, json!({}))), ..Builds::default() });
    let tally = run(&scene, limits(1)).await.unwrap();
    assert_eq!((tally.complete, tally.failed.len()), (2, 1), "{tally:?}");
    assert!(tally.failed[0].error.contains("503"), "{tally:?}");
}

#[tokio::test]
async fn a_server_that_takes_no_item_at_all_ends_the_rebuild_before_all_were_tried() {
    let scene = Scene::new(1, 30).await;
    scene.double.knobs().default_builds = Builds { refuse: Some((503, json!({}))), ..Builds::default() };
    let result = run(&scene, limits(2)).await;
    assert!(matches!(&result, Err(RunError::Api(error)) if error.status() == Some(503)), "{result:?}");
}

#[tokio::test]
async fn a_server_that_is_busy_when_its_content_is_listed_is_asked_again() {
    let scene = Scene::new(2, 3).await;
    scene.double.knobs().away = true;
    let (outcome, ()) = tokio::join!(scene.apply(json!({})), async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        scene.double.knobs().away = false;
    });
    assert_eq!(outcome.unwrap().details["complete"], json!(3));
}

#[tokio::test]
async fn a_build_that_does_not_end_is_given_up_and_not_started_again() {
    let scene = Scene::new(2, 2).await;
    scene.builds("a0", Builds { millis: 600_000, ..Builds::default() });
    let mut limits = limits(2);
    limits.patience.task = Duration::from_secs(1);
    let tally = run(&scene, limits).await.unwrap();
    assert_eq!((tally.complete, scene.submissions("a0")), (1, 1));
    assert!(tally.failed[0].error.contains("has not ended within 1 s"), "{tally:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 50, ..ProptestConfig::default() })]

    /// Whatever fails, gets lost, and wherever it is killed: every item ends as it must, nothing that was built is built
    /// again, no item is tried more often than allowed, and never more are open than asked for.
    #[test]
    fn any_rebuild_keeps_its_promises(
        behaviour in prop::collection::vec((0u32..4, prop::bool::weighted(0.1), 0u64..4), 1..25),
        parallelism in 1usize..5,
        submit_ahead in 0usize..3,
        retry in 0u32..3,
        kills in prop::collection::vec(0usize..20, 0..3),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let scene = Scene::new(parallelism, behaviour.len()).await;
            for (n, (fail_first, forget_first, millis)) in behaviour.iter().enumerate() {
                let builds = Builds {
                    fail_first: *fail_first, forget_first: *forget_first, millis: *millis, ..Builds::default()
                };
                scene.builds(&format!("a{n}"), builds);
            }
            let limits = Limits { submit_ahead, retry, ..limits(parallelism) };
            let mut killed = Vec::new();
            for kill in kills {
                let reached = async {
                    while scene.double.seen().finished.len() < kill {
                        tokio::time::sleep(Duration::from_micros(200)).await;
                    }
                };
                tokio::select! {
                    _ = run(&scene, limits) => {}
                    () = reached => {}
                }
                killed.push(known(&scene, "builds"));
            }
            let tally = run(&scene, limits).await.unwrap();
            let kills = u32::try_from(killed.len()).unwrap();
            let mut expected_failures = 0;
            for (n, (fail_first, forget_first, _)) in behaviour.iter().enumerate() {
                let guid = format!("a{n}");
                let attempts = scene.submissions(&guid);
                // Each kill may hide one submission; a forgotten task that a later call finds so does not count as tried.
                let hidden = kills + u32::from(*forget_first);
                let failures = (*fail_first).max(u32::from(*forget_first));
                assert!(attempts <= (retry + 1 + hidden) as usize, "{guid}: {attempts} attempts");
                expected_failures += usize::from(failures > retry + hidden);
                for before in killed.iter().filter_map(|known| known.get(&guid)) {
                    let goes_well = *before > *fail_first as usize && !(*forget_first && *before == 1);
                    assert!(!goes_well || attempts == *before, "{guid} was being built and submitted again");
                }
            }
            assert!(tally.failed.len() >= expected_failures);
            assert_eq!(tally.complete + tally.failed.len(), behaviour.len());
            assert!(scene.double.seen().max_running <= parallelism);
        });
    }
}
