//! The step when the engine, the registry or the server in the container fails.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use connect_migrator_container::engine::Engine;
use connect_migrator_container::kind::Kind;
use connect_migrator_container::undo::Undo as Shared;
use connect_migrator_container::world::Subject;
use connect_migrator_docker::undo::{self, Own, Undo};
use connect_migrator_docker::{stage, start};
use connect_migrator_engine_double::host::Host;
use connect_migrator_engine_double::{ID, Start};
use connect_migrator_sdk::{Op, Outcome, Probe, StepError, Target, Undone, Verdict};
use serde_json::json;
use std::process::{Child, Command};
use std::time::Duration;

async fn prepare(host: &Host) -> Result<Outcome, StepError> {
    let (settings, cx) = (host.settings(), host.context(Op::Prepare));
    stage::prepare(&Subject::new(&settings, &host.world, &cx)?, &cx).await
}

async fn apply(host: &Host) -> Result<Outcome, StepError> {
    let (settings, cx) = (host.settings(), host.context(Op::Apply));
    start::apply(&Subject::new(&settings, &host.world, &cx)?, &cx).await
}

async fn verify(host: &Host) -> Verdict {
    let (settings, cx) = (host.settings(), host.context(Op::Verify));
    start::verify(&Subject::new(&settings, &host.world, &cx).unwrap(), &cx).await.unwrap()
}

async fn roll_back(host: &Host) -> Result<Undone, StepError> {
    let (settings, cx) = (host.settings(), host.context(Op::Rollback));
    undo::roll_back(&Subject::new(&settings, &host.world, &cx)?, &cx, host.records()).await
}

async fn put_back_entirely(host: &Host) {
    let undone = roll_back(host).await.unwrap();
    assert!(undone.left.is_empty(), "{undone:#?}");
    assert!(host.engine.state().container.is_none());
    for path in ["containers/c-1", "data/.c-1-data", "units/docker.service.d/connect-migrator-c-1.conf"] {
        assert!(host.at(path).symlink_metadata().is_err(), "{path} is left");
    }
    // Once more is the same.
    assert!(roll_back(host).await.unwrap().left.is_empty());
}

#[tokio::test]
async fn the_container_is_made_before_the_window_and_only_started_in_it() {
    let host = Host::new(Kind::Docker).await;
    prepare(&host).await.unwrap();
    let made = host.engine.state().container.clone().unwrap();
    let mut body = made["Config"].clone();
    body["HostConfig"] = made["HostConfig"].clone();
    body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let root = host.root.path().display().to_string();
    let text = serde_json::to_string_pretty(&body).unwrap().replace(&root, "ROOT");
    insta::assert_snapshot!(text.replace(&format!("\"{}\"", host.engine.port), "\"PORT\""));
    let guard = std::fs::read_link(host.at("containers/c-1/source-is-masked")).unwrap();
    assert_eq!(guard, host.at("units/rstudio-connect.service"));
    let passwd = std::fs::read_to_string(host.at("containers/c-1/passwd")).unwrap();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert!(passwd.starts_with(&format!("nobody:x:{}:{}:", nobody.uid, nobody.gid)), "{passwd}");

    let changing = || {
        let calls = std::mem::take(&mut host.engine.state().calls);
        calls
            .into_iter()
            .filter(|call| !call.starts_with("GET") && !call.contains("-look"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        changing(),
        [
            "POST /containers/create",
            "POST /containers/create",
            "POST /containers/c-1/update",
            "POST /containers/c-1/start"
        ]
    );
    assert!(host.engine.state().container.as_ref().unwrap()["State"]["Running"] == true);
    assert!(!host.at("containers/c-1/gate/open").exists());

    let outcome = apply(&host).await.unwrap();
    assert_eq!(changing(), Vec::<String>::new());
    let target: Target = serde_json::from_value(outcome.facts[Target::KEY].clone()).unwrap();
    assert_eq!(target.image, "h:5000/posit/connect@sha256:22");
    assert_eq!(target.address, format!("127.0.0.1:{}", host.engine.port));
    assert!(matches!(verify(&host).await, Verdict::Holds { .. }));
    put_back_entirely(&host).await;
}

#[tokio::test]
async fn privileges_network_and_command_are_as_the_settings_say() {
    let mut host = Host::new(Kind::Docker).await;
    host.engine.state().security = vec!["name=apparmor", "name=seccomp,profile=default", "name=userns"];
    host.settings["privileges"] = json!("sys-admin");
    host.settings["network"] = json!("host");
    host.settings["command"] = json!("image");
    host.settings["environment"] = json!({ "RSTUDIO_CONNECT_HASTE": "enabled" });
    prepare(&host).await.unwrap();
    let made = host.engine.state().container.clone().unwrap();
    let (config, on_host) = (&made["Config"], &made["HostConfig"]);
    assert_eq!(on_host["CapAdd"], json!(["SYS_ADMIN"]));
    assert_eq!(on_host["SecurityOpt"], json!(["apparmor=unconfined"]));
    assert_eq!(on_host["UsernsMode"], "host");
    assert_eq!(on_host["NetworkMode"], "host");
    assert!(
        on_host["Privileged"].is_null() && on_host["PortBindings"].is_null() && on_host["Init"].is_null()
    );
    assert!(config["Cmd"].is_null() && config["Entrypoint"].is_null());
    assert_eq!(config["Env"], json!(["RSTUDIO_CONNECT_HASTE=enabled"]));
    let staged = std::fs::read_to_string(host.at("containers/c-1/rstudio-connect.gcfg")).unwrap();
    assert!(staged.contains(&format!("Listen = 127.0.0.1:{}", host.engine.port)), "{staged}");
}

#[tokio::test]
async fn a_pull_that_fails_ends_prepare_and_leaves_nothing() {
    for (error, remedy) in [
        ("unauthorized: authentication required", "login = {"),
        ("write /var/lib/docker/tmp: no space left on device", "docker load"),
    ] {
        let host = Host::new(Kind::Docker).await;
        {
            let mut engine = host.engine.state();
            (engine.local, engine.pull_error) = (false, Some(error));
        }
        let failed = prepare(&host).await.unwrap_err();
        assert!(failed.to_string().contains(error) && failed.remedy.contains(remedy), "{failed}");
        assert!(!host.daemon.told().progress.is_empty());
        put_back_entirely(&host).await;
    }
}

#[tokio::test]
async fn a_pulled_image_of_another_version_is_refused() {
    let host = Host::new(Kind::Docker).await;
    {
        let mut engine = host.engine.state();
        engine.local = false;
        engine.labels = json!({ "org.opencontainers.image.version": "2025.12.1" });
    }
    let error = prepare(&host).await.unwrap_err().to_string();
    assert!(error.contains("2025.12.1") && error.contains("2026.03.1"), "{error}");
    put_back_entirely(&host).await;
}

#[tokio::test]
async fn a_pull_ends_when_it_is_cancelled() {
    let host = Host::new(Kind::Docker).await;
    host.engine.state().local = false;
    host.daemon.cancel();
    assert!(prepare(&host).await.unwrap_err().cancelled);
    put_back_entirely(&host).await;
}

#[tokio::test]
async fn a_server_that_is_not_the_right_one_fails_and_is_taken_away() {
    let cases: [(Start, &str, &str); 4] = [
        (Start::Exit(1), "ended with status 1, and the engine started it again", "privileges"),
        (Start::Silent, "does not answer at", "start-timeout"),
        (Start::Serve { version: Some("2025.12.1"), hostname: None }, "has version 2025.12.1", "2026.03.1"),
        (Start::Serve { version: Some("2026.03.1"), hostname: Some("vm") }, "its host is `vm`", "publish"),
    ];
    for (behaviour, why, remedy) in cases {
        let host = Host::new(Kind::Docker).await;
        prepare(&host).await.unwrap();
        {
            let mut engine = host.engine.state();
            engine.start = behaviour;
            engine.log =
                "dial postgres://c:pw1234@db hunter2hunter2\nError: Unable to launch a sandbox with Applications.RunAs\n"
                    .into();
        }
        let error = apply(&host).await.unwrap_err();
        assert!(error.why.contains(why) && error.remedy.contains(remedy), "{error}");
        assert!(!error.why.contains("hunter2hunter2") && !error.why.contains("pw1234"), "{error}");
        put_back_entirely(&host).await;
    }
}

#[tokio::test]
async fn a_container_that_an_engine_which_died_has_started_again_is_no_new_server() {
    let mut host = Host::new(Kind::Docker).await;
    prepare(&host).await.unwrap();
    host.settings["start-timeout"] = json!("60s");
    let run = |began: &str| {
        host.engine.state().container.as_mut().unwrap()["State"] =
            json!({ "Running": true, "StartedAt": began });
    };
    run("2026-11-07T01:00:00Z");
    host.engine.state().start = Start::Silent;
    let (applied, ()) = tokio::join!(apply(&host), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        // No restart is counted.
        run("2026-11-07T01:00:30Z");
    });
    let error = applied.unwrap_err();
    assert!(error.why.contains("the engine started it again"), "{error}");
    put_back_entirely(&host).await;
}

#[tokio::test]
async fn what_the_engine_refuses_to_start_ends_prepare() {
    for (message, why, remedy) in [
        ("bind source path does not exist: /x", "/x", "the mask of the source's unit"),
        ("driver failed: port is already allocated", "already allocated", "another program"),
    ] {
        let host = Host::new(Kind::Docker).await;
        host.engine.state().start = Start::Refused(message);
        let error = prepare(&host).await.unwrap_err();
        assert!(error.why.contains(why) && error.remedy.contains(remedy), "{error}");
        put_back_entirely(&host).await;
    }
}

#[tokio::test]
async fn an_image_without_a_shell_is_started_in_the_window() {
    let host = Host::new(Kind::Docker).await;
    host.engine.state().start = Start::Refused("exec: \"/bin/sh\": stat /bin/sh: no such file or directory");
    let outcome = prepare(&host).await.unwrap();
    assert!(outcome.evidence.iter().any(|e| e.ends_with("created, not started")), "{outcome:#?}");
    host.engine.state().start = Start::Serve { version: Some("2026.03.1"), hostname: None };
    let made = host.engine.state().container.clone().unwrap();
    assert_eq!(made["Config"]["Entrypoint"], json!(["/opt/rstudio-connect/bin/connect"]));
    assert_eq!(made["State"]["Running"], false);
    apply(&host).await.unwrap();
    assert!(matches!(verify(&host).await, Verdict::Holds { .. }));
    put_back_entirely(&host).await;
}

#[tokio::test]
async fn a_port_that_the_source_has_is_bound_only_in_the_window() {
    let host = Host::new(Kind::Docker).await;
    host.edit_config("Listen = 127.0.0.1:1", &format!("Listen = :{}", host.engine.port));
    let outcome = prepare(&host).await.unwrap();
    assert!(outcome.evidence.iter().any(|e| e.ends_with("created, not started")), "{outcome:#?}");
    let starts = |host: &Host| host.engine.state().calls.contains(&"POST /containers/c-1/start".to_owned());
    assert!(!starts(&host));
    apply(&host).await.unwrap();
    assert!(starts(&host));
    assert!(matches!(verify(&host).await, Verdict::Holds { .. }));
    put_back_entirely(&host).await;

    // On the host's network the engine binds nothing: Connect does, once it may start.
    let mut host = Host::new(Kind::Docker).await;
    host.edit_config("Listen = 127.0.0.1:1", &format!("Listen = :{}", host.engine.port));
    host.settings["network"] = json!("host");
    prepare(&host).await.unwrap();
    assert!(starts(&host));
}

#[tokio::test]
async fn prepare_that_was_cut_off_after_the_start_is_made_again() {
    let host = Host::new(Kind::Docker).await;
    prepare(&host).await.unwrap();
    prepare(&host).await.unwrap();
    apply(&host).await.unwrap();
    put_back_entirely(&host).await;
}

#[tokio::test]
async fn a_container_that_ended_before_the_window_is_started_in_it() {
    let host = Host::new(Kind::Docker).await;
    prepare(&host).await.unwrap();
    host.engine.state().container.as_mut().unwrap()["State"]["Running"] = json!(false);
    apply(&host).await.unwrap();
    assert!(matches!(verify(&host).await, Verdict::Holds { .. }));
    put_back_entirely(&host).await;
}

#[tokio::test]
async fn a_server_that_hides_its_version_is_taken_by_its_image() {
    let host = Host::new(Kind::Docker).await;
    prepare(&host).await.unwrap();
    host.engine.state().start = Start::Serve { version: None, hostname: None };
    let outcome = apply(&host).await.unwrap();
    assert!(outcome.evidence.iter().any(|e| e.contains("does not tell its version")), "{outcome:#?}");
}

#[tokio::test]
async fn rollback_tells_whether_connect_ended_when_it_was_asked_to() {
    for (status, words) in
        [(0, "ended when it was asked to"), (137, "did not end by itself within 1 s and was killed")]
    {
        let host = Host::new(Kind::Docker).await;
        prepare(&host).await.unwrap();
        apply(&host).await.unwrap();
        host.engine.state().stopped_with = status;
        let undone = roll_back(&host).await.unwrap();
        let told = format!("container c-1 {words}, and is removed");
        assert!(undone.evidence.contains(&told) && undone.left.is_empty(), "{undone:#?}");
    }
}

#[tokio::test]
async fn nothing_is_started_while_the_source_could_run() {
    let host = Host::new(Kind::Docker).await;
    prepare(&host).await.unwrap();
    std::fs::remove_file(host.at("units/rstudio-connect.service")).unwrap();
    let error = apply(&host).await.unwrap_err();
    assert!(error.why.contains("is not masked"), "{error}");
    std::os::unix::fs::symlink("/dev/null", host.at("units/rstudio-connect.service")).unwrap();

    // Another Connect answers where the source did.
    let dir = tempfile::tempdir().unwrap();
    let other = connect_migrator_engine_double::Double::start(dir.path()).await;
    other.state().container = Some(json!({ "Id": ID, "Name": "/c" }));
    start_by_hand(&other.socket, "c").await;
    host.edit_config("Listen = 127.0.0.1:1", &format!("Listen = 127.0.0.1:{}", other.port));
    let error = apply(&host).await.unwrap_err();
    assert!(error.why.contains("still answers"), "{error}");
    assert!(!host.at("containers/c-1/gate/open").exists());
}

async fn start_by_hand(socket: &std::path::Path, name: &str) {
    let limit = Duration::from_secs(60);
    let engine = Engine::connect(Kind::Docker, socket, limit).await.unwrap();
    engine.start(name, limit, None).await.unwrap();
}

#[tokio::test]
async fn a_start_that_was_cut_off_is_finished() {
    let host = Host::new(Kind::Docker).await;
    prepare(&host).await.unwrap();
    let (settings, cx) = (host.settings(), host.context(Op::Probe));
    let subject = Subject::new(&settings, &host.world, &cx).unwrap();
    assert_eq!(start::probe(&subject, &cx).await.unwrap(), Probe::RunAgain);
    // It runs, and would not come up with the machine.
    apply(&host).await.unwrap();
    host.engine.state().container.as_mut().unwrap()["HostConfig"]["RestartPolicy"]["Name"] = json!("no");
    assert_eq!(start::probe(&subject, &cx).await.unwrap(), Probe::RunAgain);
    assert!(matches!(verify(&host).await, Verdict::Broken { .. }));
    apply(&host).await.unwrap();
    let Probe::Done { outcome } = start::probe(&subject, &cx).await.unwrap() else { panic!("it is done") };
    assert!(outcome.facts.contains_key(Target::KEY));
    let again = apply(&host).await.unwrap();
    assert_eq!(again.done, connect_migrator_sdk::Done::AlreadyDone);
}

#[tokio::test]
async fn verify_reads_the_world_again() {
    type Break = fn(&Host);
    let broken: [(&str, Break); 4] = [
        ("is gone", |h| h.engine.state().container = None),
        ("does not run", |h| h.engine.state().container.as_mut().unwrap()["State"]["Running"] = json!(false)),
        ("would not come up", |h| {
            h.engine.state().container.as_mut().unwrap()["HostConfig"]["RestartPolicy"]["Name"] = json!("no");
        }),
        ("no longer masked", |h| std::fs::remove_file(h.at("units/rstudio-connect.service")).unwrap()),
    ];
    for (why, break_it) in broken {
        let host = Host::new(Kind::Docker).await;
        prepare(&host).await.unwrap();
        apply(&host).await.unwrap();
        break_it(&host);
        let Verdict::Broken { why: said, .. } = verify(&host).await else { panic!("{why} goes unnoticed") };
        assert!(said.contains(why), "{said}");
    }
}

#[tokio::test]
async fn a_server_that_leaves_a_question_unanswered_is_asked_again_and_broken_only_when_it_stays_silent() {
    let mut host = Host::new(Kind::Docker).await;
    prepare(&host).await.unwrap();
    apply(&host).await.unwrap();
    host.engine.serve(None);
    let Verdict::Broken { why, .. } = verify(&host).await else { panic!("its silence goes unnoticed") };
    assert!(why.contains("does not answer"), "{why}");

    host.settings["answer-timeout"] = json!("60s");
    let (verdict, ()) = tokio::join!(verify(&host), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        host.engine.serve(Some((Some("2026.03.1"), None)));
    });
    assert!(matches!(verdict, Verdict::Holds { .. }), "{verdict:?}");
}

/// What the engine says of a container that ended and that it is about to start again.
fn is_being_started_again(host: &Host) {
    host.engine.state().container.as_mut().unwrap()["State"] = json!({ "Running": true, "Restarting": true });
}

#[tokio::test]
async fn a_container_that_the_engine_is_just_starting_again_is_waited_for() {
    let mut host = Host::new(Kind::Docker).await;
    prepare(&host).await.unwrap();
    apply(&host).await.unwrap();
    let serves = || Some((Some("2026.03.1"), None));
    // Longer than `answer-timeout`, which is 1 s here.
    host.settings["start-timeout"] = json!("60s");
    is_being_started_again(&host);
    host.engine.serve(None);
    let (verdict, ()) = tokio::join!(verify(&host), async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        host.engine.state().container.as_mut().unwrap()["State"] =
            json!({ "Running": true, "StartedAt": jiff::Timestamp::now().to_string() });
        // Its engine has started it, Connect in it is not there yet.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        host.engine.serve(serves());
    });
    assert!(matches!(verdict, Verdict::Holds { .. }), "{verdict:?}");

    host.settings["start-timeout"] = json!("1s");
    is_being_started_again(&host);
    host.engine.serve(None);
    let Verdict::Broken { why, .. } = verify(&host).await else {
        panic!("it never comes, and that goes unnoticed")
    };
    assert!(why.contains("does not answer"), "{why}");
}

#[tokio::test]
async fn an_engine_that_leaves_a_call_unanswered_is_not_waited_for_beyond_the_setting_that_the_error_names() {
    let calls = [
        ("/info", "engine-timeout", "say how it is set up"),
        ("/containers/create", "engine-timeout", "create the container"),
        ("/start", "start-timeout", "start the container"),
    ];
    for (silent_at, setting, call) in calls {
        let mut host = Host::new(Kind::Docker).await;
        for (name, value) in [("engine-timeout", "1s"), ("start-timeout", "2s")] {
            host.settings[name] = json!(value);
        }
        host.engine.state().silent_at = Some(silent_at);
        let started = std::time::Instant::now();
        let error = prepare(&host).await.unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        assert!(error.to_string().contains(call), "{error}");
        assert!(error.remedy.contains(setting), "{error}: {}", error.remedy);
        host.engine.state().silent_at = None;
        put_back_entirely(&host).await;
    }
}

#[tokio::test]
async fn a_foreign_container_is_never_touched() {
    let host = Host::new(Kind::Docker).await;
    let foreign =
        json!({ "Id": ID, "Name": "/c-1", "Config": { "Labels": {} }, "State": { "Running": true } });
    host.engine.state().container = Some(foreign.clone());
    assert!(prepare(&host).await.is_err());
    let (settings, cx) = (host.settings(), host.context(Op::Rollback));
    let subject = Subject::new(&settings, &host.world, &cx).unwrap();
    let undo = vec![Undo::Shared(Shared::Container { name: "c-1".into() })];
    undo::roll_back(&subject, &cx, undo).await.unwrap();
    assert_eq!(host.engine.state().container, Some(foreign));
}

/// A process that looks as if it belonged to the container. Its entry points through the real one, so that it ends with it.
fn process_of_container(host: &Host, script: &str) -> Child {
    let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
    std::fs::write(host.at("group"), format!("0::/docker/{ID}\n")).unwrap();
    let dir = host.at("proc").join(child.id().to_string());
    std::fs::create_dir_all(&dir).unwrap();
    let through = format!("/proc/{}/root{}", child.id(), host.at("group").display());
    std::os::unix::fs::symlink(through, dir.join("cgroup")).unwrap();
    child
}

#[tokio::test]
async fn without_the_engine_rollback_ends_the_processes_itself() {
    for script in ["exec sleep 1000", "trap '' TERM; while :; do sleep 1; done"] {
        let mut host = Host::new(Kind::Docker).await;
        host.settings["socket"] = json!("/nowhere/docker.sock");
        let mut child = process_of_container(&host, script);
        // Nobody else reaps it here; in a container its init does.
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        let (settings, cx) = (host.settings(), host.context(Op::Rollback));
        let subject = Subject::new(&settings, &host.world, &cx).unwrap();
        let undo = vec![Undo::Own(Own::Started { name: "c-1".into(), id: ID.into() })];
        let undone = undo::roll_back(&subject, &cx, undo).await.unwrap();
        assert!(!reaper.join().unwrap().success());
        assert!(undone.evidence[0].contains("no process of the container c-1 is left"), "{undone:#?}");
        assert!(undone.left[0].contains("docker rm c-1"), "{undone:#?}");
    }
}
