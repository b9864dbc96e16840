//! Which files are loaded: old plugins yes, wrong or untrusted ones no, each with its own message.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod hosted;

use connect_migrator::host::{PluginRef, describe, digest_of};
use connect_migrator_sdk::{LogLevel, Op};
use hosted::{honest, in_c, invocation, launcher, mode, told};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_of_the_macro_describes_itself_and_works_both_ways() {
    let description = describe(&launcher(), &honest()).await.unwrap();
    assert_eq!(
        (description.plugin.as_str(), description.version.as_str()),
        ("honest", env!("CARGO_PKG_VERSION"))
    );
    let names: Vec<_> = description.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["honest", "noop"]);
    assert_eq!(description.steps[0].settings_schema["required"], json!(["text"]));

    let folder = tempfile::tempdir().unwrap();
    let apply = invocation("honest", Op::Apply, json!({"text": "hello"}), folder.path());
    let (result, ear) = told(&launcher(), &honest(), apply.clone(), TIMEOUT, CancellationToken::new()).await;
    assert_eq!(result.unwrap()["done"], "changed");
    let (again, _) = told(&launcher(), &honest(), apply, TIMEOUT, CancellationToken::new()).await;
    assert_eq!(again.unwrap()["done"], "already-done");

    let mut rollback = invocation("honest", Op::Rollback, json!({"text": "hello"}), folder.path());
    rollback.of = Some(Op::Apply);
    rollback.undo = ear.undo.lock().unwrap().clone();
    let (undone, _) = told(&launcher(), &honest(), rollback, TIMEOUT, CancellationToken::new()).await;
    assert_eq!(undone.unwrap()["evidence"], json!(["the text is as it was"]));
    assert!(!folder.path().join("text").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_setting_is_named_with_its_path_across_the_boundary() {
    let folder = tempfile::tempdir().unwrap();
    let apply = invocation("honest", Op::Apply, json!({"text": 1}), folder.path());
    let (result, _) = told(&launcher(), &honest(), apply, TIMEOUT, CancellationToken::new()).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "could not read the settings of the step `box`: `with.text`: invalid type: integer `1`, expected a string; \
         correct `with.text` of this step in the runbook"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_built_with_the_header_of_1_0_works() {
    let plugin = in_c("c-plugin.so", &[]);
    assert_eq!(describe(&launcher(), &plugin).await.unwrap().plugin, "c-plugin");
    let folder = tempfile::tempdir().unwrap();
    let apply = invocation("c-plugin", Op::Apply, json!({}), folder.path());
    let (result, ear) = told(&launcher(), &plugin, apply, TIMEOUT, CancellationToken::new()).await;
    assert_eq!(result.unwrap()["details"], json!({"recorded": {"ok": null}, "secret": {"ok": "12345"}}));
    assert_eq!(*ear.log.lock().unwrap(), [(LogLevel::Warn, "hello from C".to_string())]);
    assert_eq!(ear.progress.lock().unwrap()[0].doing, "working in C");
    assert_eq!(*ear.undo.lock().unwrap(), [json!({"was": 1})]);

    // It has no `cancel`, and what lies behind its table is a trap.
    let cancel = CancellationToken::new();
    let apply = invocation("c-plugin", Op::Apply, json!({"how": "wait"}), folder.path());
    let asker = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        asker.cancel();
    });
    let (result, _) = told(&launcher(), &plugin, apply, TIMEOUT, cancel).await;
    assert_eq!(result.unwrap_err().to_string(), "could not wait: it was asked to stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_of_a_newer_minor_works() {
    let plugin = in_c("newer-minor.so", &["MINOR=7"]);
    assert_eq!(describe(&launcher(), &plugin).await.unwrap().plugin, "c-plugin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_with_a_message_of_its_own() {
    let mut texts = Vec::new();
    let cases: &[(&str, &[&str])] = &[
        ("missing-symbol.so", &["SYMBOL=some_other_function"]),
        ("next-major-only.so", &["SYMBOL=connect_migrator_plugin_v2"]),
        ("null-descriptor.so", &["DESCRIPTOR=NULL"]),
        ("wrong-magic.so", &["MAGIC=0x1234"]),
        ("short-descriptor.so", &["STRUCT_SIZE=16"]),
        ("wrong-major.so", &["MAJOR=2"]),
        ("older-major.so", &["MAJOR=0", "MINOR=9"]),
        ("null-vtable.so", &["VTABLE=NULL"]),
        ("short-vtable.so", &["VTABLE_SIZE=24"]),
        ("no-call.so", &["CALL=NULL"]),
    ];
    for (name, defines) in cases {
        texts.push(refusal(&in_c(name, defines)).await);
    }
    let no_library = in_c("no-library.so", &[]);
    let PluginRef::File(path) = &no_library else { unreachable!() };
    std::fs::write(path, "#!/bin/sh\n").unwrap();
    texts.push(refusal(&no_library).await);
    insta::assert_snapshot!(texts.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_untrusted_file_is_refused_before_a_process_is_started_and_by_the_process_too() {
    let plugin = in_c("writable.so", &[]);
    let PluginRef::File(path) = &plugin else { unreachable!() };
    mode(path, 0o666);
    let refused = refusal(&plugin).await;
    assert!(refused.contains("writable.so is writable by everybody (mode 0666)"), "{refused}");
    assert!(refused.contains("`chmod go-w "), "{refused}");
    assert!(digest_of(&hosted::trust(), &plugin).is_err());

    // The default trust: root's files from `/` on. The launcher refuses; a step host that is asked all the same refuses too.
    let refused = hosted::ask_by_hand(&["--file", path.to_str().unwrap()]);
    assert!(refused.contains("\"type\":\"not-loaded\""), "{refused}");
    assert!(refused.contains("writable by") || refused.contains("belongs to"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_built_in_plugin_runs_in_a_step_host_of_its_own_too() {
    let folder = tempfile::tempdir().unwrap();
    let systemd = PluginRef::BuiltIn("systemd".into());
    let steps = describe(&launcher(), &systemd).await.unwrap().steps;
    assert_eq!(steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["stop", "start"]);
    // The settings are read there; nothing of the machine is touched.
    let wrong = invocation("stop", Op::Check, json!({"no-such-setting": 1}), folder.path());
    let (result, _) = told(&launcher(), &systemd, wrong, TIMEOUT, CancellationToken::new()).await;
    let text = result.unwrap_err().to_string();
    assert!(text.contains("`with.no-such-setting`: unknown field"), "{text}");

    let unknown = PluginRef::BuiltIn("launchd".into());
    assert_eq!(
        describe(&launcher(), &unknown).await.unwrap_err().to_string(),
        "the plugin launchd was not loaded: no plugin `launchd` is built in; install the connect-migrator that has it"
    );
}

async fn refusal(plugin: &PluginRef) -> String {
    let refused = describe(&launcher(), plugin).await.unwrap_err();
    assert!(refused.outcome_is_known());
    let PluginRef::File(path) = plugin else { unreachable!() };
    refused.to_string().replace(&*path.parent().unwrap().to_string_lossy(), "<plugins>")
}

/// Unlike the clock, it does not count what else the machine does.
fn cpu_of_children() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
    let micros =
        [usage.user_time(), usage.system_time()].map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    Duration::from_micros(u64::try_from(micros.iter().sum::<i64>()).unwrap())
}

/// What a call costs; printed by `cargo test -p connect-migrator --test plugin_files -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn what_a_call_costs() {
    const CALLS: usize = 200;
    let (launcher, plugin) = (launcher(), honest());
    let folder = tempfile::tempdir().unwrap();
    let mut whole = Vec::new();
    let before = cpu_of_children();
    for _ in 0..CALLS {
        let apply = invocation("noop", Op::Apply, json!(null), folder.path());
        let started = std::time::Instant::now();
        let (result, _) = told(&launcher, &plugin, apply, TIMEOUT, CancellationToken::new()).await;
        whole.push(started.elapsed());
        result.unwrap();
    }
    let cpu = (cpu_of_children() - before) / u32::try_from(CALLS).unwrap();
    let mut bare = Vec::new();
    for _ in 0..CALLS {
        let started = std::time::Instant::now();
        assert!(tokio::process::Command::new("/bin/true").status().await.unwrap().success());
        bare.push(started.elapsed());
    }
    for times in [&mut whole, &mut bare] {
        times.sort();
    }
    let (median, tenth) = (whole[CALLS / 2], whole[CALLS * 9 / 10]);
    println!("spawn, load, call and exit: median {median:?}, 90th percentile {tenth:?}, over {CALLS} calls");
    println!("processor time of a step host: mean {cpu:?}");
    println!("spawn and exit of /bin/true: median {:?}", bare[CALLS / 2]);
}
