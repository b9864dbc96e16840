//! Our object on a private bus with our own policy, a small double of polkit, and callers of two users.
//!
//! Run as root, the ordinary user is `nobody`; run by anybody else, the ordinary user is that one, and what root may is not seen.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what goes wrong here is a failed test"
)]

use connect_migrator::bus::{self, Bus, INTERFACE, PATH, Watcher};
use connect_migrator::engine::{Command as Asked, Note, Observer, Reply};
use connect_migrator::instance::Instance;
use connect_migrator::service::Teller;
use connect_migrator::state::{Event, MayDo, MemoryStore, Outline, Phase, SqliteStore, Store, View};
use connect_migrator::systemd::journal::{Priority, ids};
use connect_migrator::systemd::notify::Notify;
use connect_migrator::systemd::units::BusAddress;
use connect_migrator_sdk::Progress;
use futures_util::StreamExt;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZero;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use zbus::{MessageStream, OwnedVariant};

const NAME: &str = "org.connect_migrator.prod";
const NOBODY: &str = "65534";

fn am_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A bus as strict as the system's: nobody may own a name or call anything but what a policy allows.
struct Daemon {
    address: String,
    child: Child,
    folder: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let me = nix::unistd::geteuid().to_string();
        let policy = include_str!("../../packaging/dbus/org.connect_migrator.conf")
            .replace("user=\"root\"", &format!("user=\"{me}\""));
        std::fs::write(folder.path().join("ours.conf"), policy).unwrap();
        let socket = folder.path().join("bus");
        let text = format!(
            "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\" \
             \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
             <busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow user=\"*\"/><deny own=\"*\"/><deny send_type=\"method_call\"/>\
             <allow send_type=\"signal\"/><allow send_requested_reply=\"true\" send_type=\"method_return\"/>\
             <allow send_requested_reply=\"true\" send_type=\"error\"/><allow receive_type=\"method_call\"/>\
             <allow receive_type=\"method_return\"/><allow receive_type=\"error\"/><allow receive_type=\"signal\"/>\
             <allow send_destination=\"org.freedesktop.DBus\" send_interface=\"org.freedesktop.DBus\"/></policy>\
             <policy user=\"{me}\"><allow own=\"org.freedesktop.PolicyKit1\"/>\
             <allow send_destination=\"org.freedesktop.PolicyKit1\"/></policy><include>ours.conf</include></busconfig>",
            socket.display()
        );
        let config = folder.path().join("bus.conf");
        std::fs::write(&config, text).unwrap();
        let child = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon is needed: install Debian's package `dbus`");
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "the bus does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Daemon { address: format!("unix:path={}", socket.display()), child, folder }
    }

    async fn connect(&self) -> zbus::Connection {
        zbus::connection::Builder::address(self.address.as_str()).build().await.unwrap()
    }

    /// Calls a method of our object as an ordinary user.
    fn call(&self, member: &str, arguments: &[&str]) -> Output {
        let mut call = if am_root() {
            let mut call = Command::new("setpriv");
            call.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "dbus-send"]);
            call
        } else {
            Command::new("dbus-send")
        };
        call.arg(format!("--bus={}", self.address));
        call.args(["--print-reply", "--reply-timeout=20000"]).arg(format!("--dest={NAME}"));
        call.arg(PATH).arg(member).args(arguments).output().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = &self.folder;
    }
}

/// What polkit was asked: the action, the instance, the flags.
type Questions = Arc<Mutex<Vec<(String, String, u32)>>>;

struct Polkit {
    answer: (bool, bool),
    asked: Questions,
}

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    fn check_authorization(
        &self,
        subject: (String, HashMap<String, OwnedVariant>),
        action: String,
        details: HashMap<String, String>,
        flags: u32,
        _cancellation: String,
    ) -> ((bool, bool, HashMap<String, String>),) {
        assert_eq!(subject.0, "system-bus-name");
        assert!(subject.1.contains_key("name"));
        let instance = details.get("instance").cloned().unwrap_or_default();
        self.asked.lock().unwrap().push((action, instance, flags));
        ((self.answer.0, self.answer.1, HashMap::new()),)
    }
}

struct Scene {
    daemon: Daemon,
    bus: Bus,
    teller: Arc<Teller>,
    /// What reached the engine.
    commands: Arc<Mutex<Vec<Asked>>>,
    questions: Questions,
    _polkit: Option<zbus::Connection>,
}

async fn scene(polkit: Option<(bool, bool)>) -> Scene {
    let daemon = Daemon::start();
    let questions = Questions::default();
    let polkit = match polkit {
        Some(answer) => {
            let double = Polkit { answer, asked: Arc::clone(&questions) };
            let builder = zbus::connection::Builder::address(daemon.address.as_str());
            let builder = builder.serve_at("/org/freedesktop/PolicyKit1/Authority", double);
            Some(builder.name("org.freedesktop.PolicyKit1").build().await.unwrap())
        }
        None => None,
    };
    let (send, mut receive) = mpsc::channel::<(Asked, Reply)>(8);
    let commands = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&commands);
    tokio::spawn(async move {
        while let Some((command, reply)) = receive.recv().await {
            taken.lock().unwrap().push(command);
            let _: Result<(), _> = reply.send(Ok("it will be done".into()));
        }
    });
    let teller = Arc::new(Teller::new("prod", Notify::from_environment()));
    let instance = Instance::below(daemon.folder.path(), "prod").unwrap();
    let address = BusAddress::At(daemon.address.clone());
    let bus = Bus::serve(address, &instance, send, Arc::clone(&teller)).await.unwrap();
    Scene { daemon, bus, teller, commands, questions, _polkit: polkit }
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// Each method with the action that it needs and what then reaches the engine.
const METHODS: [(&str, &str, Option<Asked>); 5] = [
    ("Rollback", "org.connect-migrator.rollback", Some(Asked::Rollback)),
    ("Abort", "org.connect-migrator.rollback", Some(Asked::Abort)),
    ("Commit", "org.connect-migrator.commit", Some(Asked::Commit)),
    ("Park", "org.connect-migrator.run", Some(Asked::Park)),
    ("Resume", "org.connect-migrator.run", Some(Asked::Resume)),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_may_look_without_being_asked_anything() {
    let scene = scene(Some((false, false))).await;
    let all = scene.daemon.call("org.freedesktop.DBus.Properties.GetAll", &[&format!("string:{INTERFACE}")]);
    assert!(all.status.success(), "{}", text(&all));
    for property in [
        "Instance",
        "Version",
        "MigrationId",
        "Phase",
        "Step",
        "Status",
        "Standing",
        "MayDo",
        "Progress",
        "Window",
        "WindowSeconds",
    ] {
        assert!(text(&all).contains(&format!("\"{property}\"")), "no {property} in\n{}", text(&all));
    }
    let seen = scene.daemon.call("org.freedesktop.DBus.Introspectable.Introspect", &[]);
    assert!(seen.status.success() && text(&seen).contains("name=\"Rollback\""), "{}", text(&seen));
    assert!(scene.questions.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_user_whom_polkit_does_not_allow_touches_nothing() {
    let scene = scene(Some((false, false))).await;
    for method in ["Rollback", "Abort", "Commit", "Park", "Resume", "Check", "Plan", "Report"] {
        let out = scene.daemon.call(&format!("{INTERFACE}.{method}"), &[]);
        assert!(text(&out).contains("org.freedesktop.DBus.Error.AccessDenied"), "{method}: {}", text(&out));
    }
    assert!(scene.commands.lock().unwrap().is_empty());
    let actions: Vec<String> = scene.questions.lock().unwrap().iter().map(|asked| asked.0.clone()).collect();
    let expected = ["rollback", "rollback", "commit", "run", "run", "check", "check", "view"]
        .map(|word| format!("org.connect-migrator.{word}"));
    assert_eq!(actions, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_polkit_allows_something_may_do_just_that() {
    let scene = scene(Some((true, false))).await;
    for (method, action, command) in METHODS {
        let out = scene.daemon.call(&format!("{INTERFACE}.{method}"), &[]);
        assert!(out.status.success() && text(&out).contains("it will be done"), "{method}: {}", text(&out));
        let asked = scene.questions.lock().unwrap().pop();
        assert_eq!(asked, Some((action.to_owned(), "prod".to_owned(), 0)));
        assert_eq!(scene.commands.lock().unwrap().pop(), command);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_could_prove_to_be_an_administrator_is_told_so() {
    let scene = scene(Some((false, true))).await;
    let out = scene.daemon.call(&format!("{INTERFACE}.Rollback"), &[]);
    let wanted = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";
    assert!(text(&out).contains(wanted), "{}", text(&out));
    assert!(scene.commands.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_polkit_root_may_and_nobody_else() {
    let scene = scene(None).await;
    let out = scene.daemon.call(&format!("{INTERFACE}.Rollback"), &[]);
    assert!(text(&out).contains("org.freedesktop.DBus.Error.AccessDenied"), "{}", text(&out));
    assert!(scene.commands.lock().unwrap().is_empty());
    if am_root() {
        let connection = scene.daemon.connect().await;
        let reply = connection.call_method(Some(NAME), PATH, Some(INTERFACE), "Rollback", &()).await.unwrap();
        assert_eq!(reply.body().deserialize::<String>().unwrap(), "it will be done");
        assert_eq!(*scene.commands.lock().unwrap(), [Asked::Rollback]);
    }
}

fn started(store: &MemoryStore) -> View {
    let event = Event::Started {
        migration: "0199-1".into(),
        instance: "prod".into(),
        runbook: String::new(),
        runbook_digest: String::new(),
        plugins: BTreeMap::new(),
        version: "0.1.0".into(),
        outline: Outline::default(),
    };
    store.append(&event).unwrap();
    View::of(&store.load().unwrap())
}

/// The next signal of this name.
async fn next(stream: &mut MessageStream, member: &str) -> zbus::Message {
    let found = async {
        loop {
            let message = stream.next().await.unwrap().unwrap();
            if message.header().member().is_some_and(|name| name.as_str() == member) {
                return message;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.expect("no such signal within 20 s")
}

async fn listen(scene: &Scene) -> MessageStream {
    let rule = zbus::MatchRule::builder().msg_type(zbus::message::Type::Signal).path(PATH).build().unwrap();
    MessageStream::for_match_rule(rule, &scene.daemon.connect().await, NonZero::new(4096)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_told_by_a_signal_and_changes_the_properties() {
    let scene = scene(None).await;
    let mut signals = listen(&scene).await;
    let store = MemoryStore::default();
    let mut view = started(&store);
    let stopped = Event::Stopped { why: "the disk is full\nsecond line".into(), may: vec![MayDo::Rollback] };
    view.add(&store.append(&stopped).unwrap());
    scene.teller.note(&Note::Event { event: &stopped, view: &view, phase: Phase::Check });

    let event = next(&mut signals, "Event").await;
    let told: (String, String, String, String, String) = event.body().deserialize().unwrap();
    let told = [told.0.as_str(), &told.1, &told.2, &told.3, &told.4];
    assert_eq!(told, ["6f2d31c193b04f0e9a540b7c5d1e8a08", "needs-operator", "", "check", "the disk is full"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        assert!(Instant::now() < deadline, "the standing was not told");
        let message = next(&mut signals, "PropertiesChanged").await;
        let body = message.body();
        let (interface, changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) =
            body.deserialize().unwrap();
        assert_eq!(interface, INTERFACE);
        if let Some(standing) = changed.get("Standing") {
            assert_eq!(String::try_from(standing.clone()).unwrap(), "waiting");
            assert_eq!(Vec::<String>::try_from(changed["MayDo"].clone()).unwrap(), ["rollback"]);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_around_the_migration_is_told_by_signals_too() {
    let scene = scene(None).await;
    let mut signals = listen(&scene).await;
    let left = Duration::from_secs(60);
    scene.teller.note(&Note::Soaked { broken: Some("no answer from /__ping__"), left });
    scene.teller.failed("could not write the report");
    scene.teller.aside(ids::ASKED_TO_STOP, Priority::Notice, "asked to stop: parks now");
    for expected in [
        ("soak-broken", "soak: no answer from /__ping__"),
        ("daemon-failed", "could not write the report"),
        ("asked-to-stop", "asked to stop: parks now"),
    ] {
        let event = next(&mut signals, "Event").await;
        let told: (String, String, String, String, String) = event.body().deserialize().unwrap();
        assert_eq!((told.1.as_str(), told.4.as_str()), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_reports_without_end_makes_few_signals_and_its_last_word_is_told() {
    let scene = scene(None).await;
    let mut signals = listen(&scene).await;
    let began = Instant::now();
    let mut done = 0;
    while began.elapsed() < Duration::from_millis(1500) {
        done += 1;
        let progress = Progress {
            doing: format!("item {done}"),
            done: Some(done),
            total: None,
            unit: Some("items".into()),
        };
        scene.teller.note(&Note::Progress { step: "content", progress: &progress });
    }
    let told = scene.teller.shown().progress.unwrap().doing;
    let mut count = 0;
    loop {
        let message = next(&mut signals, "PropertiesChanged").await;
        count += 1;
        let body = message.body();
        let (_, changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) =
            body.deserialize().unwrap();
        let progress = changed.get("Progress").map(|progress| format!("{progress:?}")).unwrap_or_default();
        if progress.contains(&format!("\"{told}\"")) {
            break;
        }
    }
    // Four a second at most, for the 1.5 s and however long the machine took.
    let most = began.elapsed().as_millis() / 250 + 2;
    assert!(done > 1000 && count <= most, "{count} signals for {done} reports");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_read_the_state_is_told_by_the_daemon_where_it_stands() {
    let scene = scene(Some((true, false))).await;
    let instance = Instance::below(scene.daemon.folder.path(), "prod").unwrap();
    let watcher = Watcher::on(BusAddress::At(scene.daemon.address.clone()), &instance).await.unwrap();
    assert_eq!(watcher.status().await.unwrap(), None, "nothing has been started");

    std::fs::create_dir_all(instance.state_dir()).unwrap();
    let view = started(&MemoryStore::default());
    let event = view.started.as_ref().unwrap().event.clone();
    SqliteStore::open(&instance.state_path()).unwrap().append(&event).unwrap();
    let progress = Progress { doing: "pulling".into(), done: Some(1), total: None, unit: None };
    scene.teller.note(&Note::Progress { step: "container", progress: &progress });
    let status = watcher.status().await.unwrap().unwrap();
    assert_eq!((status.report.migration.as_str(), status.daemon_runs), ("0199-1", true));
    assert_eq!(status.live.unwrap().doing, "pulling");

    let other = Instance::named("other").unwrap();
    let nobody = Watcher::on(BusAddress::At(scene.daemon.address.clone()), &other).await.unwrap();
    assert_eq!(nobody.ask("Rollback").await, Ok(None), "no daemon runs");
}

/// Runs our command as an ordinary user who may not read the state; answers its exit code and all that it prints.
fn command_of_an_ordinary_user(scene: &Scene, arguments: &[&str]) -> (Option<i32>, String) {
    let folder = scene.daemon.folder.path();
    // The binary itself lies where nobody may look. Copied by a process of its own, so that no other test holds it open for writing.
    let binary = folder.join("connect-migrator");
    if !binary.exists() {
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_connect-migrator")).arg(&binary).status();
        assert!(copied.unwrap().success());
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(binary).args(arguments);
    command.env("CONNECT_MIGRATOR_TEST_ROOT", folder).env("DBUS_SYSTEM_BUS_ADDRESS", &scene.daemon.address);
    let out = command.stdin(Stdio::null()).output().unwrap();
    (out.status.code(), text(&out))
}

fn migration_that_only_root_may_read(scene: &Scene) {
    let instance = Instance::below(scene.daemon.folder.path(), "prod").unwrap();
    std::fs::create_dir_all(instance.state_dir()).unwrap();
    let event = started(&MemoryStore::default()).started.unwrap().event;
    SqliteStore::open(&instance.state_path()).unwrap().append(&event).unwrap();
    std::fs::set_permissions(instance.state_dir(), PermissionsExt::from_mode(0o700)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_polkit_allows_needs_not_read_the_state() {
    if !am_root() {
        return;
    }
    let scene = scene(Some((true, false))).await;
    migration_that_only_root_may_read(&scene);
    let (code, told) = command_of_an_ordinary_user(&scene, &["status", "prod"]);
    assert!(code == Some(0) && told.contains("0199-1"), "{told}");
    let (code, told) = command_of_an_ordinary_user(&scene, &["rollback", "prod"]);
    assert!(code == Some(1) && told.contains("will be put back") && told.contains("--yes"), "{told}");
    for (arguments, asked) in [
        (&["pause", "prod"][..], Asked::Park),
        (&["resume", "prod"], Asked::Resume),
        (&["abort", "prod", "--yes", "--no-wait"], Asked::Abort),
        (&["rollback", "prod", "--yes", "--no-wait"], Asked::Rollback),
        (&["commit", "prod", "--yes", "--no-wait"], Asked::Commit),
    ] {
        let (code, told) = command_of_an_ordinary_user(&scene, arguments);
        assert!(code == Some(0) && told.contains("it will be done"), "{arguments:?}: {told}");
        assert_eq!(scene.commands.lock().unwrap().pop(), Some(asked));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_polkit_does_not_allow_is_told_by_both_ways_why_not() {
    if !am_root() {
        return;
    }
    let scene = scene(Some((false, false))).await;
    migration_that_only_root_may_read(&scene);
    let (code, told) = command_of_an_ordinary_user(&scene, &["status", "prod"]);
    assert!(code == Some(1) && told.contains("run as root") && told.contains("not allowed to"), "{told}");
    let (code, told) = command_of_an_ordinary_user(&scene, &["pause", "prod"]);
    assert!(code == Some(1) && told.contains("not allowed to org.connect-migrator.run"), "{told}");
    assert!(scene.commands.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_the_engine_refuses_is_told_in_its_words() {
    let daemon = Daemon::start();
    let (send, mut receive) = mpsc::channel::<(Asked, Reply)>(8);
    tokio::spawn(async move {
        while let Some((_, reply)) = receive.recv().await {
            let _: Result<(), _> = reply.send(Err("the migration is over".into()));
        }
    });
    let teller = Arc::new(Teller::new("prod", Notify::from_environment()));
    let instance = Instance::below(daemon.folder.path(), "prod").unwrap();
    let address = BusAddress::At(daemon.address.clone());
    let _bus = Bus::serve(address.clone(), &instance, send, teller).await.unwrap();
    let watcher = Watcher::on(address, &instance).await.unwrap();
    if am_root() {
        assert_eq!(watcher.ask("Rollback").await, Err("the migration is over".into()));
    } else {
        assert!(watcher.ask("Rollback").await.unwrap_err().starts_with("not allowed to"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_told_before_the_name_is_given_back() {
    let scene = scene(None).await;
    let mut signals = listen(&scene).await;
    let view = started(&MemoryStore::default());
    scene.teller.recovered(&view);
    scene.bus.close().await;
    next(&mut signals, "PropertiesChanged").await;
    let connection = scene.daemon.connect().await;
    let names = zbus::fdo::DBusProxy::new(&connection).await.unwrap();
    let name = zbus::names::BusName::try_from(bus::name_of(&Instance::named("prod").unwrap())).unwrap();
    assert!(!names.name_has_owner(name).await.unwrap());
}
