//! The step against a double of podman's API and of systemd. The guard script and the assertion of the unit are really evaluated.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

mod double;

use connect_migrator_container::settings::Settings;
use connect_migrator_container::world::Subject;
use connect_migrator_engine_double::{ID, Start};
use connect_migrator_podman::ground::Form;
use connect_migrator_podman::{check, plan, stage, start, undo};
use connect_migrator_sdk::{Done, Finding, Op, Outcome, Probe, Severity, StepError, Target, Undone, Verdict};
use double::Lab;
use serde_json::json;

async fn prepare(lab: &Lab) -> Result<Outcome, StepError> {
    let (settings, cx) = (lab.host.settings(), lab.host.context(Op::Prepare));
    stage::prepare(&lab.ground, &Subject::new(&settings, &lab.ground.world, &cx)?, &cx).await
}

async fn apply(lab: &Lab) -> Result<Outcome, StepError> {
    let (settings, cx) = (lab.host.settings(), lab.host.context(Op::Apply));
    start::apply(&lab.ground, &Subject::new(&settings, &lab.ground.world, &cx)?, &cx).await
}

async fn verify(lab: &Lab) -> Verdict {
    let (settings, cx) = (lab.host.settings(), lab.host.context(Op::Verify));
    start::verify(&lab.ground, &Subject::new(&settings, &lab.ground.world, &cx).unwrap(), &cx).await.unwrap()
}

async fn probe(lab: &Lab) -> Probe {
    let (settings, cx) = (lab.host.settings(), lab.host.context(Op::Probe));
    start::probe(&lab.ground, &Subject::new(&settings, &lab.ground.world, &cx).unwrap(), &cx).await.unwrap()
}

async fn roll_back(lab: &Lab) -> Result<Undone, StepError> {
    let (settings, cx) = (lab.host.settings(), lab.host.context(Op::Rollback));
    let subject = Subject::new(&settings, &lab.ground.world, &cx)?;
    undo::roll_back(&lab.ground, &subject, &cx, lab.host.records()).await
}

async fn put_back_entirely(lab: &Lab, before: &[String]) {
    let undone = roll_back(lab).await.unwrap();
    assert!(undone.left.is_empty(), "{undone:#?}");
    assert_eq!(lab.files(), before);
    assert!(!lab.systemd().loaded && !lab.systemd().enabled, "systemd still knows the unit");
    // Once more is the same.
    assert!(roll_back(lab).await.unwrap().left.is_empty());
}

async fn found(lab: &Lab) -> Vec<Finding> {
    let settings: Settings = lab.host.settings();
    check::check(&settings, &lab.host.context(Op::Check), &lab.ground).await.unwrap()
}

const FORMS: [Form; 2] = [Form::Quadlet, Form::Unit];

#[tokio::test]
async fn the_unit_is_written_before_the_window_and_only_started_in_it() {
    for (form, path, name) in [
        (Form::Quadlet, "etc/containers/systemd/c-1.container", "quadlet"),
        (Form::Unit, "units/c-1.service", "unit"),
    ] {
        let mut lab = Lab::new(form).await;
        lab.host.settings["environment"] = json!({ "GREETING": "50% of \"$HOME\" \\ it's" });
        let before = lab.files();
        prepare(&lab).await.unwrap();
        insta::assert_snapshot!(name, lab.masked(&std::fs::read_to_string(lab.host.at(path)).unwrap()));
        insta::assert_snapshot!(
            "guard",
            lab.masked(&std::fs::read_to_string(lab.host.at("containers/c-1/guard")).unwrap())
        );
        assert_eq!(lab.systemd().enabled, form == Form::Unit);
        // As after a reboot: nothing was handed over yet.
        let refused = lab.ground_start().await.unwrap_err();
        assert!(refused.why.contains("assert"), "{refused}");

        lab.host.engine.state().calls.clear();
        let outcome = apply(&lab).await.unwrap();
        assert!(lab.host.engine.state().calls.is_empty(), "the API is not needed in the window");
        let target: Target = serde_json::from_value(outcome.facts[Target::KEY].clone()).unwrap();
        assert_eq!(
            (target.engine.as_str(), target.image.as_str()),
            ("podman", "h:5000/posit/connect@sha256:22")
        );
        assert!(matches!(verify(&lab).await, Verdict::Holds { .. }));
        assert!(matches!(probe(&lab).await, Probe::Done { .. }));
        assert_eq!(apply(&lab).await.unwrap().done, Done::AlreadyDone);
        put_back_entirely(&lab, &before).await;
    }
}

#[tokio::test]
async fn a_start_after_a_reboot_needs_the_mask_and_the_data_and_says_so() {
    for form in FORMS {
        let lab = Lab::new(form).await;
        prepare(&lab).await.unwrap();
        apply(&lab).await.unwrap();
        let mask = lab.host.at("units/rstudio-connect.service");
        std::fs::remove_file(&mask).unwrap();
        lab.reboot();
        lab.ground_start().await.unwrap_err();
        assert!(lab.printed().contains("rstudio-connect.service is not masked, and two servers would use"));
        // A unit file of the administrator's own is no mask.
        std::fs::write(&mask, "[Service]\n").unwrap();
        lab.ground_start().await.unwrap_err();
        std::fs::remove_file(&mask).unwrap();
        std::os::unix::fs::symlink("/dev/null", &mask).unwrap();
        let marker = lab.host.at("data/.c-1-data");
        std::fs::rename(&marker, lab.host.at("marker")).unwrap();
        lab.ground_start().await.unwrap_err();
        assert!(lab.printed().contains("is not the data directory that it was made for"));
        std::fs::rename(lab.host.at("marker"), &marker).unwrap();
        lab.ground_start().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_not_the_right_one_fails_and_is_taken_away() {
    let cases: [(Start, &str, &str); 6] = [
        (Start::Exit(1), "ended with status 1", "privileges"),
        (Start::Silent, "does not answer at", "start-timeout"),
        (Start::Serve { version: Some("2025.12.1"), hostname: None }, "has version 2025.12.1", "2026.03.1"),
        (Start::Serve { version: Some("2026.03.1"), hostname: Some("vm") }, "its host is `vm`", "publish"),
        (Start::Refused("statfs /x: no such file or directory"), "/x", "a path that the container needs"),
        (Start::Refused("bind: address already in use"), "already in use", "another program"),
    ];
    for (behaviour, why, remedy) in cases {
        let lab = Lab::new(Form::Quadlet).await;
        let before = lab.files();
        prepare(&lab).await.unwrap();
        lab.host.engine.state().start = behaviour;
        lab.prints("dial postgres://c:pw1234@db hunter2hunter2\nError: Unable to launch a sandbox with Applications.RunAs");
        let error = apply(&lab).await.unwrap_err();
        assert!(error.why.contains(why) && error.remedy.contains(remedy), "{error}");
        assert!(!error.why.contains("hunter2hunter2") && !error.why.contains("pw1234"), "{error}");
        put_back_entirely(&lab, &before).await;
    }
}

#[tokio::test]
async fn rollback_tells_whether_connect_ended_when_it_was_asked_to() {
    for (status, words) in
        [(0, "ended when it was asked to"), (137, "did not end by itself within 1 s and was killed")]
    {
        let lab = Lab::new(Form::Quadlet).await;
        prepare(&lab).await.unwrap();
        apply(&lab).await.unwrap();
        lab.systemd().exit = status;
        let undone = roll_back(&lab).await.unwrap();
        let told = format!("container c-1 {words}");
        assert!(undone.evidence.contains(&told) && undone.left.is_empty(), "{undone:#?}");
    }
}

#[tokio::test]
async fn nothing_is_started_while_the_source_could_run() {
    let lab = Lab::new(Form::Quadlet).await;
    prepare(&lab).await.unwrap();
    std::fs::remove_file(lab.host.at("units/rstudio-connect.service")).unwrap();
    let error = apply(&lab).await.unwrap_err();
    assert!(error.why.contains("is not masked"), "{error}");
    assert!(!lab.host.at("containers/c-1/handed-over").exists());
    assert!(!lab.systemd().calls.iter().any(|call| call.starts_with("start c-1")));
}

#[tokio::test]
async fn verify_reads_the_world_again() {
    type Break = fn(&Lab);
    let broken: [(&str, Break); 5] = [
        ("is gone", |lab| std::fs::remove_file(lab.host.at("etc/containers/systemd/c-1.container")).unwrap()),
        ("is failed", |lab| lab.systemd().active = "failed"),
        ("would not come up", |lab| {
            std::fs::remove_file(lab.host.at("containers/c-1/handed-over")).unwrap();
        }),
        ("no longer masked", |lab| {
            std::fs::remove_file(lab.host.at("units/rstudio-connect.service")).unwrap();
        }),
        ("does not answer", |lab| lab.host.engine.serve(None)),
    ];
    for (why, break_it) in broken {
        let lab = Lab::new(Form::Quadlet).await;
        prepare(&lab).await.unwrap();
        apply(&lab).await.unwrap();
        break_it(&lab);
        let Verdict::Broken { why: said, .. } = verify(&lab).await else { panic!("{why} goes unnoticed") };
        assert!(said.contains(why), "{said}");
    }
}

#[tokio::test]
async fn a_service_that_systemd_is_just_starting_again_is_waited_for() {
    let lab = Lab::new(Form::Quadlet).await;
    prepare(&lab).await.unwrap();
    apply(&lab).await.unwrap();
    lab.systemd().active = "activating";
    let (verdict, ()) = tokio::join!(verify(&lab), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        lab.systemd().active = "active";
    });
    assert!(matches!(verdict, Verdict::Holds { .. }), "{verdict:?}");

    lab.systemd().active = "activating";
    let Verdict::Broken { why, .. } = verify(&lab).await else {
        panic!("it never comes, and that goes unnoticed")
    };
    assert!(why.contains("is activating"), "{why}");
}

#[tokio::test]
async fn a_start_that_was_cut_off_is_finished() {
    let lab = Lab::new(Form::Unit).await;
    prepare(&lab).await.unwrap();
    assert_eq!(probe(&lab).await, Probe::RunAgain);
    // Killed after the hand-over was written and before the start.
    std::fs::write(lab.host.at("containers/c-1/handed-over"), "").unwrap();
    assert_eq!(probe(&lab).await, Probe::RunAgain);
    lab.ground_start().await.unwrap();
    assert!(matches!(probe(&lab).await, Probe::Done { .. }));
}

#[tokio::test]
async fn a_unit_that_somebody_else_wrote_is_never_touched() {
    for (form, path) in
        [(Form::Quadlet, "etc/containers/systemd/c-1.container"), (Form::Unit, "units/c-1.service")]
    {
        let lab = Lab::new(form).await;
        let path = lab.host.at(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "[Unit]\nDescription=theirs\n").unwrap();
        let taken = found(&lab).await;
        assert!(taken.iter().any(|f| f.key == "unit-taken" && f.severity == Severity::Blocker), "{taken:#?}");
        prepare(&lab).await.unwrap_err();
        roll_back(&lab).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[Unit]\nDescription=theirs\n");
    }
}

#[tokio::test]
async fn what_podman_refuses_to_make_a_unit_of_ends_prepare() {
    let lab = Lab::new(Form::Quadlet).await;
    let before = lab.files();
    lab.systemd().takes_units = false;
    let error = prepare(&lab).await.unwrap_err();
    assert!(error.remedy.contains("--dryrun"), "{error}");
    put_back_entirely(&lab, &before).await;
}

#[tokio::test]
async fn another_init_of_the_host_does_as_well() {
    let mut lab = Lab::new(Form::Unit).await;
    std::fs::rename(lab.host.at("catatonit"), lab.host.at("tini-static")).unwrap();
    prepare(&lab).await.unwrap();
    let text = std::fs::read_to_string(lab.host.at("units/c-1.service")).unwrap();
    let path = lab.host.at("tini-static").display().to_string();
    assert!(text.contains("--init ") && text.contains(&format!("--init-path={path} ")), "{text}");
    // The image's start script runs as it is.
    lab.host.settings["command"] = json!("image");
    prepare(&lab).await.unwrap();
    let text = std::fs::read_to_string(lab.host.at("units/c-1.service")).unwrap();
    assert!(
        !text.contains("--init") && !text.contains("--entrypoint") && !text.contains("--config"),
        "{text}"
    );
}

#[tokio::test]
async fn the_socket_is_put_back_as_it_was() {
    let mut lab = Lab::new(Form::Quadlet).await;
    // The double's socket is one that the settings name, and left alone.
    found(&lab).await;
    assert_eq!(lab.systemd().calls, Vec::<String>::new());
    lab.host.settings.as_object_mut().unwrap().remove("socket");
    let blocked = found(&lab).await;
    assert_eq!(lab.systemd().calls, ["start podman.socket", "stop podman.socket"]);
    if !std::path::Path::new("/run/podman/podman.sock").exists() {
        assert!(blocked.iter().any(|f| f.key == "podman-unreachable"), "{blocked:#?}");
    }
}

#[tokio::test]
async fn each_broken_prerequisite_is_a_blocker_of_its_own() {
    type Break = fn(&mut Lab);
    let broken: [(&str, Break); 12] = [
        ("podman-unreachable", |l| l.host.settings["socket"] = json!("/nowhere/podman.sock")),
        ("podman-old", |l| l.host.engine.state().api = "1.24"),
        ("podman-rootless", |l| {
            l.host.settings["privileges"] = json!("none");
            l.host.engine.state().security.push("name=rootless");
        }),
        ("registry-unreachable", |l| {
            l.host.engine.state().local = false;
            l.host.settings["image"] = json!("127.0.0.1:1/posit/connect:2026.03.1-ubuntu-24.04-std");
        }),
        ("image-version", |l| {
            l.host.engine.state().labels = json!({ "co.posit.image.version": "2025.12.1" });
        }),
        ("name-taken", |l| {
            l.host.engine.state().container =
                Some(json!({ "Id": ID, "Name": "/c-1", "Config": { "Labels": {} } }));
        }),
        ("init-missing", |l| std::fs::remove_file(l.host.at("catatonit")).unwrap()),
        ("unit-taken", |l| l.systemd().loaded = true),
        ("path-characters", |l| {
            std::fs::create_dir(l.host.at("my data")).unwrap();
            l.host.settings["mounts"] = json!([{ "source": l.host.at("my data") }]);
        }),
        ("environment-value", |l| l.host.settings["environment"] = json!({ "A": "b\nc" })),
        ("database-sqlite", |l| l.host.edit_config("Provider = postgres", "Provider = sqlite")),
        ("licence-missing", |l| std::fs::remove_file(l.host.at("lic/x.lic")).unwrap()),
    ];
    for (key, break_it) in broken {
        let mut lab = Lab::new(Form::Quadlet).await;
        lab.with_free_port();
        break_it(&mut lab);
        let found = found(&lab).await;
        let blockers: Vec<&str> =
            found.iter().filter(|f| f.severity == Severity::Blocker).map(|f| f.key.as_str()).collect();
        assert_eq!(blockers, [key], "{found:#?}");
    }
}

#[tokio::test]
async fn a_sound_host_has_nothing_but_ok() {
    for form in FORMS {
        let mut lab = Lab::new(form).await;
        lab.with_free_port();
        let found = found(&lab).await;
        assert!(found.iter().all(|f| f.severity == Severity::Ok), "{found:#?}");
        for key in ["podman", "image", "image-version", "name", "unit", "database", "data", "licence", "port"]
        {
            assert!(found.iter().any(|f| f.key == key), "{key} is missing");
        }
    }
}

#[tokio::test]
async fn selinux_is_told_and_nothing_but_the_own_folder_is_relabelled() {
    let mut lab = Lab::new(Form::Quadlet).await;
    lab.with_free_port();
    let selinux = |use_nfs: &str| {
        std::fs::create_dir_all(lab.host.at("selinux/booleans")).unwrap();
        std::fs::write(lab.host.at("selinux/enforce"), "1").unwrap();
        std::fs::write(lab.host.at("selinux/booleans/virt_use_nfs"), use_nfs).unwrap();
    };
    selinux("0 0");
    let text = async |lab: &Lab| {
        prepare(lab).await.unwrap();
        std::fs::read_to_string(lab.host.at("etc/containers/systemd/c-1.container")).unwrap()
    };
    let told = found(&lab).await;
    assert!(told.iter().any(|f| f.key == "selinux" && f.text.contains("privileged")), "{told:#?}");
    assert!(!text(&lab).await.contains("label=disable"));

    lab.host.settings["privileges"] = json!("none");
    let told = found(&lab).await;
    let lifted = told.iter().find(|f| f.key == "selinux-lifted").unwrap();
    assert_eq!(lifted.severity, Severity::Warning);
    assert!(lifted.remedy.contains("setsebool -P virt_use_nfs 1"), "{lifted:?}");
    let written = text(&lab).await;
    assert!(
        written.contains("PodmanArgs=--security-opt=label=disable") && !written.contains(",Z"),
        "{written}"
    );
    let shown = planned(&lab).await;
    assert!(shown.contains("limits are lifted") && shown.contains("virt_use_nfs is off"), "{shown}");
}

#[tokio::test]
async fn selinux_confines_the_container_where_it_may_and_only_its_own_files_get_its_label() {
    for (form, file) in
        [(Form::Quadlet, "etc/containers/systemd/c-1.container"), (Form::Unit, "units/c-1.service")]
    {
        let mut lab = Lab::new(form).await;
        lab.with_free_port();
        lab.host.settings["privileges"] = json!("none");
        std::fs::create_dir_all(lab.host.at("selinux/booleans")).unwrap();
        std::fs::write(lab.host.at("selinux/enforce"), "1").unwrap();
        std::fs::write(lab.host.at("selinux/booleans/virt_use_nfs"), "1 1").unwrap();
        std::fs::write(lab.host.at("mountinfo"), "1 0 0:1 / / rw - nfs4 nas:/ rw\n").unwrap();
        let told = found(&lab).await;
        assert!(told.iter().any(|f| f.key == "selinux" && f.text.contains("confines")), "{told:#?}");
        let shown = planned(&lab).await;
        assert!(shown.contains("SELinux confines the container"), "{shown}");

        prepare(&lab).await.unwrap();
        let written = std::fs::read_to_string(lab.host.at(file)).unwrap();
        assert!(!written.contains("label=disable"), "{written}");
        let own = format!("{}/", lab.host.at("containers/c-1").display());
        let mounts: Vec<&str> = written
            .lines()
            .map(|line| line.trim().trim_end_matches(" \\"))
            .filter_map(|line| line.strip_prefix("Volume=").or(line.strip_prefix("--volume ")))
            .collect();
        assert!(mounts.iter().any(|mount| mount.starts_with(&own)), "{written}");
        for mount in mounts {
            assert_eq!(mount.ends_with(",Z"), mount.starts_with(&own), "{mount}");
            assert!(shown.contains(mount), "{mount}: {shown}");
        }
    }
}

/// What `connect-migrator plan` shows.
async fn planned(lab: &Lab) -> String {
    let (settings, cx) = (lab.host.settings(), lab.host.context(Op::Plan));
    let subject = Subject::new(&settings, &lab.ground.world, &cx).unwrap();
    let mut text = String::new();
    for change in plan::plan(&lab.ground, &subject, &cx).await.unwrap() {
        text.push_str(&format!("{}: {}\n", change.when, change.what));
        if let Some(diff) = &change.diff {
            text.push_str(diff);
        }
    }
    text
}

#[tokio::test]
async fn the_plan_shows_every_change_with_its_reason_and_no_secret() {
    for (form, name) in [(Form::Quadlet, "plan_quadlet"), (Form::Unit, "plan_unit")] {
        let mut lab = Lab::new(form).await;
        lab.with_free_port();
        let text = planned(&lab).await;
        assert!(!text.contains("hunter2hunter2"));
        insta::assert_snapshot!(name, lab.masked(&text));
    }
}
