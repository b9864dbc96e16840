//! Whatever a plugin does becomes one failed step with a clear text, in bounded time, and the next call is as good as ever.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod hosted;
// Not by its crate: that and the daemon would bring two plugins into one program.
#[path = "../../tests/hostile/src/misdeed.rs"]
mod misdeed;

use connect_migrator::host::{
    CallFailure, CallRequest, ChildLauncher, HostLimits, Launcher, NotLaunched, PluginRef, Running, Start,
    StepProcess, Trust, call, describe,
};
use connect_migrator_sdk::{LogLevel, Op};
use futures_util::future::BoxFuture;
use hosted::{Ear, hostile, invocation, launcher, limits, told, trust};
use misdeed::Misdeed;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What a call may take that is not asked to wait.
const TIMEOUT: Duration = Duration::from_secs(20);

/// No misdeed may hold the daemon longer than this, on a slow machine, whatever the plugin does.
const BOUND: Duration = Duration::from_secs(30);

async fn commit(misdeed: Misdeed, timeout: Duration) -> (Result<Value, CallFailure>, Arc<Ear>) {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let apply = invocation("hostile", Op::Apply, json!({"misdeed": misdeed}), folder.path());
    let (result, ear) = told(&launcher(), &hostile(), apply, timeout, CancellationToken::new()).await;
    assert!(started.elapsed() < BOUND, "{misdeed:?} took {:?}", started.elapsed());
    (result, ear)
}

/// A good call, after which a test knows that the library is unharmed.
async fn is_unharmed() {
    let (result, ear) = commit(Misdeed::None, TIMEOUT).await;
    assert_eq!(result.unwrap()["evidence"], json!(["done"]));
    assert_eq!(*ear.undo.lock().unwrap(), [json!("before")]);
    assert_eq!(*ear.checkpoints.lock().unwrap(), [json!(1)]);
    assert_eq!(ear.lines(), ["working", "pulled layer=3 target=connect_migrator_hostile::step"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fatal_misdeed_is_one_failed_step_with_a_clear_text() {
    let mut texts = Vec::new();
    for misdeed in Misdeed::FATAL {
        let timeout = match misdeed {
            Misdeed::Wait | Misdeed::Hang | Misdeed::HangHard => Duration::from_millis(500),
            _ => TIMEOUT,
        };
        let (result, _) = commit(*misdeed, timeout).await;
        let name = serde_json::to_value(misdeed).unwrap();
        let failure = result.map(|value| panic!("{name} answered {value}")).unwrap_err();
        texts.push(format!("{}:\n    {}\n    {}", name.as_str().unwrap(), failure.cause(), failure.remedy()));
        is_unharmed().await;
    }
    insta::assert_snapshot!(texts.join("\n"));
}

/// Taken at its word it would be called again without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_says_it_was_asked_to_stop_and_was_not_has_failed() {
    let (result, _) = commit(Misdeed::ClaimsCancelled, TIMEOUT).await;
    assert!(matches!(&result, Err(CallFailure::Step(error)) if !error.cancelled), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_call_can_survive_it_survives() {
    for misdeed in Misdeed::SURVIVED {
        let started = Instant::now();
        let (result, _) = commit(*misdeed, TIMEOUT).await;
        let value = result.unwrap_or_else(|failure| panic!("{misdeed:?}: {failure}"));
        assert_eq!(value["done"], "changed", "{misdeed:?}");
        assert!(started.elapsed() < TIMEOUT, "{misdeed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_recorded_before_a_crash_is_there_after_it() {
    let (result, ear) = commit(Misdeed::AbortAfterUndo, TIMEOUT).await;
    let failure = result.unwrap_err();
    assert!(!failure.outcome_is_known());
    assert_eq!(*ear.undo.lock().unwrap(), [json!("before")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_progress_is_thinned_out_and_the_newest_is_kept() {
    let started = Instant::now();
    let (result, ear) = commit(Misdeed::FloodProgress, TIMEOUT).await;
    result.unwrap();
    let progress = ear.progress.lock().unwrap();
    let at_most = started.elapsed().as_millis() / limits().progress_interval.as_millis() + 2;
    assert!(progress.len() as u128 <= at_most, "{} reports, at most {at_most} expected", progress.len());
    assert_eq!(progress.last().unwrap().done, Some(100_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_log_lines_is_cut_and_says_how_many_are_missing() {
    let (result, ear) = commit(Misdeed::FloodLog, TIMEOUT).await;
    result.unwrap();
    let lines = ear.lines();
    assert_eq!(lines.len(), limits().log_lines + 1);
    assert_eq!(lines[0], "line 0");
    assert_eq!(lines.last().unwrap(), "… 90000 lines dropped: the call logged more than is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_line_has_a_longest_length() {
    let (result, ear) = commit(Misdeed::LongLogLine, TIMEOUT).await;
    result.unwrap();
    assert_eq!(ear.lines()[0].len(), connect_migrator_sdk::frames::MAX_LOG_MESSAGE_BYTES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_to_stdout_is_logged_and_is_no_frame() {
    let (result, ear) = commit(Misdeed::JunkOnStdout, TIMEOUT).await;
    assert_eq!(result.unwrap()["done"], "changed");
    let lines = ear.lines();
    let stdout: Vec<_> = lines.iter().filter(|line| line.starts_with("stdout: ")).collect();
    assert_eq!(stdout[0], "stdout: {\"type\":\"result\",\"answer\":{\"ok\":null}}");
    assert_eq!(stdout[1], "stdout: \u{fffd}\u{fffd}");
    assert_eq!(stdout[2].chars().count(), "stdout: ".len() + 4096 + 1);
    assert!(lines.contains(&"stderr: and to stderr".into()), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_told_with_its_place_and_its_backtrace() {
    let (result, ear) = commit(Misdeed::Panic, TIMEOUT).await;
    let Err(CallFailure::Panicked { text, .. }) = result else { panic!("{result:?}") };
    assert!(text.starts_with("I did not think of that, at tests/hostile/src/step.rs:"), "{text}");
    let log = ear.log.lock().unwrap();
    assert!(log.iter().any(|(level, line)| *level == LogLevel::Debug && line.contains("step.rs")), "{log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_step_leaves_behind_ends_with_it() {
    let children = |needle: &str| {
        let found = std::process::Command::new("pgrep").args(["-f", "-x", needle]).output().unwrap();
        String::from_utf8(found.stdout).unwrap().lines().count()
    };
    let before = children("sleep 31");
    let (result, _) = commit(Misdeed::LeavesChild, TIMEOUT).await;
    result.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while children("sleep 31") > before {
        assert!(Instant::now() < deadline, "the step's child is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_call_ends_by_itself_if_it_hears_and_is_killed_if_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut texts = Vec::new();
    for misdeed in [Misdeed::Wait, Misdeed::Hang, Misdeed::HangHard] {
        let cancel = CancellationToken::new();
        let asker = cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            asker.cancel();
        });
        let apply = invocation("hostile", Op::Apply, json!({"misdeed": misdeed}), folder.path());
        let started = Instant::now();
        let (result, _) = told(&launcher(), &hostile(), apply, TIMEOUT, cancel).await;
        assert!(started.elapsed() < Duration::from_secs(10), "{misdeed:?} took {:?}", started.elapsed());
        texts.push(result.unwrap_err().to_string());
    }
    is_unharmed().await;
    insta::assert_snapshot!(texts.join("\n"), @r#"
    could not wait: it was asked to stop
    apply of the step `box` (plugin hostile) did not end within 300 ms when asked to, and was killed; see in the log of this run what it was busy with
    apply of the step `box` (plugin hostile) did not end within 300 ms when asked to, and was killed; see in the log of this run what it was busy with
    "#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_cancelled_before_it_starts_ends_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let apply = invocation("hostile", Op::Apply, json!({"misdeed": "wait"}), folder.path());
    let (result, _) = told(&launcher(), &hostile(), apply, TIMEOUT, cancel).await;
    assert_eq!(result.unwrap_err().to_string(), "could not wait: it was asked to stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_refused_when_there_are_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let few = ChildLauncher::default()
        .program(env!("CARGO_BIN_EXE_connect-migrator").as_ref())
        .with_limits(HostLimits { undo_bytes: 10, ..limits() })
        .trusting(trust());
    let apply = invocation("hostile", Op::Apply, json!({}), folder.path());
    let (result, ear) = told(&few, &hostile(), apply, TIMEOUT, CancellationToken::new()).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "could not get confirmation of an undo record from the daemon: the undo records of one call may have 10 bytes in all"
    );
    assert!(ear.undo.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_reaches_the_step_and_a_missing_one_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let with =
        |name: &str| invocation("hostile", Op::Apply, json!({"secret": {"credential": name}}), folder.path());
    let (result, ear) = told(&launcher(), &hostile(), with("key"), TIMEOUT, CancellationToken::new()).await;
    assert_eq!(result.unwrap()["evidence"][1], "a secret of 5 bytes");
    assert!(!ear.lines().iter().any(|line| line.contains("12345")));
    let (result, _) = told(&launcher(), &hostile(), with("other"), TIMEOUT, CancellationToken::new()).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "could not get the secret `other` from the daemon: no credential `other` is stored"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_describe_is_told() {
    let plugin = PluginRef::File(hosted::built("libconnect_migrator_hostile.so", "panics-in-describe.so"));
    let failure = describe(&launcher(), &plugin).await.unwrap_err();
    assert_eq!(failure.cause(), "the description of the plugin panics-in-describe panicked: who am I?");
    assert_eq!(describe(&launcher(), &hostile()).await.unwrap().steps[0].name, "hostile");
}

/// A launcher whose step host runs these lines of shell first.
fn beginning_with(lines: &str, folder: &std::path::Path, limits: HostLimits) -> ChildLauncher {
    let program = folder.join("step-host.sh");
    let text = format!("#!/bin/sh\n{lines}\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_connect-migrator"));
    std::fs::write(&program, text).unwrap();
    hosted::mode(&program, 0o755);
    launcher().program(&program).with_limits(limits)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_host_that_starts_slowly_describes_its_plugin_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let limits = HostLimits { hello: BOUND, describe: Duration::from_millis(500), ..limits() };
    let slow = beginning_with("sleep 1", folder.path(), limits);
    assert_eq!(describe(&slow, &hostile()).await.unwrap().steps[0].name, "hostile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_host_that_says_nothing_is_told_as_that_and_not_as_a_fault_of_the_plugin() {
    let folder = tempfile::tempdir().unwrap();
    let limits = HostLimits { hello: Duration::from_secs(1), ..limits() };
    let silent = beginning_with("exec sleep 60", folder.path(), limits);
    let failure = describe(&silent, &hostile()).await.unwrap_err();
    assert_eq!(
        failure.cause(),
        "the description of the plugin hostile did not begin: its process said nothing within 1 s"
    );
    assert!(failure.remedy().contains("less busy"), "{}", failure.remedy());
}

/// A long first line fills the socket, and is read only once the process has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_call_waits_for_a_step_host_that_starts_slowly_and_one_that_never_begins_is_told_as_that() {
    let folder = tempfile::tempdir().unwrap();
    let mut rollback = invocation("hostile", Op::Rollback, json!({}), folder.path());
    rollback.of = Some(Op::Apply);
    rollback.undo = vec![json!("x".repeat(1000)); 4000];
    for (begins, hello, is_told) in
        [("sleep 1", BOUND, false), ("exec sleep 60", Duration::from_secs(1), true)]
    {
        let limits = HostLimits { hello, write: Duration::from_millis(200), ..limits() };
        let slow = beginning_with(begins, folder.path(), limits);
        let (result, _) = told(&slow, &hostile(), rollback.clone(), TIMEOUT, CancellationToken::new()).await;
        let silent = matches!(&result, Err(CallFailure::Silent { .. }));
        assert!(if is_told { silent } else { result.is_ok() }, "{begins}: {result:?}");
    }
}

/// The rest of a rollback whose records would not fit into a frame is a refusal before anything runs, not a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_with_as_many_records_as_a_call_may_make_fits_into_a_frame() {
    let folder = tempfile::tempdir().unwrap();
    let mut rollback = invocation("hostile", Op::Rollback, json!({}), folder.path());
    rollback.of = Some(Op::Apply);
    rollback.undo = vec![json!("x".repeat(1000)); limits().undo_bytes / 1003];
    let records = rollback.undo.len();
    let (result, _) =
        told(&launcher(), &hostile(), rollback.clone(), TIMEOUT, CancellationToken::new()).await;
    assert_eq!(result.unwrap()["evidence"][0], format!("apply: {records} records"));

    rollback.undo = vec![json!("x".repeat(1000)); 70_000];
    let (result, _) = told(&launcher(), &hostile(), rollback, TIMEOUT, CancellationToken::new()).await;
    assert!(matches!(result, Err(CallFailure::TooLarge { .. })), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_call_kills_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let beat = folder.path().join("beat");
    let apply = invocation("hostile", Op::Apply, json!({"misdeed": "beats-for-ever"}), folder.path());
    let request = CallRequest::new(hostile(), apply, TIMEOUT);
    let running = tokio::spawn(async move {
        let launcher = launcher();
        call(&launcher, request, Arc::new(Ear::default()), CancellationToken::new()).await
    });
    hosted::until(Duration::from_secs(10), || beat.exists()).await;
    running.abort();
    hosted::stands_still(&beat).await;
    hosted::stands_still(&folder.path().join("childs-beat")).await;
}

/// Where the daemon that is killed finds its folder.
const FOLDER: &str = "HOSTILE_PLUGINS_FOLDER";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the daemon that another test kills; it does nothing by itself"]
async fn acts_as_a_daemon() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let apply =
        invocation("hostile", Op::Apply, json!({"misdeed": "beats-for-ever"}), std::path::Path::new(&folder));
    let (result, _) = told(&launcher(), &hostile(), apply, TIMEOUT, CancellationToken::new()).await;
    panic!("the daemon was not killed: {result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_daemon_is_killed_nothing_goes_on_changing_things() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "acts_as_a_daemon", "--ignored"])
        .env(FOLDER, folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let beats = [folder.path().join("beat"), folder.path().join("childs-beat")];
    hosted::until(Duration::from_secs(20), || beats.iter().all(|beat| beat.exists())).await;
    daemon.kill().unwrap(); // SIGKILL: no handler, no destructor
    daemon.wait().unwrap();
    let killed = Instant::now();
    for beat in &beats {
        hosted::stands_still(beat).await;
    }
    // Each is seen to stand still for 300 ms.
    assert!(killed.elapsed() < Duration::from_secs(2), "they went on for {:?}", killed.elapsed());
}

/// Starts processes that SIGKILL does not end.
struct Unkillable(HostLimits, Trust);

struct Hangs;

impl Launcher for Unkillable {
    fn launch<'a>(&'a self, _: &'a Start) -> BoxFuture<'a, Result<Running, NotLaunched>> {
        Box::pin(async {
            let (socket, _closed) = tokio::net::UnixStream::pair().unwrap();
            Ok(Running { socket, outputs: Vec::new(), process: Box::new(Hangs) })
        })
    }

    fn limits(&self) -> &HostLimits {
        &self.0
    }

    fn trust(&self) -> &Trust {
        &self.1
    }
}

impl StepProcess for Hangs {
    fn terminate(&mut self) {}

    fn kill(&mut self) {}

    fn ended(&mut self, _: Duration) -> BoxFuture<'_, Option<String>> {
        Box::pin(async { None })
    }

    fn finish(&mut self, _: Duration) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }
}

#[tokio::test]
async fn a_call_whose_process_cannot_be_killed_has_not_failed_but_still_runs() {
    let folder = tempfile::tempdir().unwrap();
    let apply = invocation("hostile", Op::Apply, json!({}), folder.path());
    let launcher = Unkillable(limits(), trust());
    let (result, _) = told(&launcher, &hostile(), apply, TIMEOUT, CancellationToken::new()).await;
    let failure = result.unwrap_err();
    assert!(matches!(failure, CallFailure::StillRuns { .. }), "{failure:?}");
    assert!(!failure.outcome_is_known());
    let text = failure.to_string();
    assert!(
        text.starts_with("apply of the step `box` (plugin hostile) does not end although it was sent"),
        "{text}"
    );
}
