//! What check finds, what plan shows, and that a refusal changes nothing.

use crate::machine::{Machine, SITE, user};
use connect_migrator_sdk::{Finding, Op, SecretRef, Severity};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

async fn check(machine: &Machine) -> Vec<Finding> {
    machine.call(Op::Check).route().check().await.unwrap()
}

fn of<'a>(findings: &'a [Finding], key: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.key == key).unwrap_or_else(|| panic!("no {key} in {findings:#?}"))
}

fn keys(findings: &[Finding], severity: Severity) -> Vec<&str> {
    findings
        .iter()
        .filter(|finding| finding.severity == severity)
        .map(|finding| finding.key.as_str())
        .collect()
}

/// Every file of nginx' configuration.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(snapshot(&path));
        } else {
            files.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_site_passes_with_the_value_shown_and_nothing_touched() {
    let machine = Machine::with_site(SITE).await;
    let _source = machine.serve_source().await;
    let before = snapshot(&machine.etc());
    let findings = check(&machine).await;
    assert_eq!(keys(&findings, Severity::Blocker), Vec::<&str>::new(), "{findings:#?}");
    assert_eq!(keys(&findings, Severity::Warning), ["websocket-unproved"], "{findings:#?}");
    let found = of(&findings, "route-found");
    let wanted = format!(
        "sites-enabled/connect:11: http://127.0.0.1:{} will become http://127.0.0.1:{}",
        machine.source, machine.target
    );
    assert!(found.text.ends_with(&wanted), "{}", found.text);
    assert!(of(&findings, "route-request").text.ends_with("ends at the Connect with the host name `vm`"));
    assert_eq!(snapshot(&machine.etc()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_shows_both_changes_of_the_site_and_the_new_file() {
    let machine = Machine::with_site(SITE).await;
    let before = snapshot(&machine.etc());
    let plan = machine.call(Op::Plan).route().plan().await.unwrap();
    let whens: Vec<Op> = plan.iter().map(|change| change.when).collect();
    assert_eq!(whens, [Op::Prepare, Op::EnterWindow, Op::Apply, Op::Rollback, Op::Finalize]);
    let diff = plan[2].diff.as_deref().unwrap();
    let changed: Vec<&str> = diff
        .lines()
        .filter(|line| line.starts_with(['-', '+']) && !line.starts_with("---") && !line.starts_with("+++"))
        .collect();
    let line = "\t\tproxy_pass   \"http://ADDRESS\" ;  # the VM";
    assert_eq!(
        changed,
        [
            line.replace("ADDRESS", &format!("127.0.0.1:{}", machine.source)).replacen('\t', "-\t", 1),
            line.replace("ADDRESS", &format!("127.0.0.1:{}", machine.target)).replacen('\t', "+\t", 1),
        ],
        "{diff}"
    );
    let page = plan[0].diff.as_deref().unwrap();
    assert!(page.starts_with("--- /dev/null\n+++ ") && page.contains("+    return 503 "), "{page}");
    assert_eq!(snapshot(&machine.etc()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unrelated_broken_site_blocks_with_the_line_that_nginx_names() {
    let machine = Machine::with_site(SITE).await;
    let _source = machine.serve_source().await;
    machine.write("sites-enabled/shop", "server {\n  listen 127.0.0.1:1;\n  nonsense on;\n}\n");
    let before = snapshot(&machine.etc());
    let findings = check(&machine).await;
    let broken = of(&findings, "nginx-config-broken");
    assert_eq!(broken.severity, Severity::Blocker);
    let wanted =
        format!("unknown directive \"nonsense\" in {}/sites-enabled/shop:3", machine.etc().display());
    assert!(broken.text.contains(&wanted), "{}", broken.text);

    let call = machine.call(Op::Prepare);
    let error = call.route().prepare().await.unwrap_err();
    assert!(error.why.contains(&wanted), "{error}");
    assert_eq!(call.undo(), []);
    assert_eq!(snapshot(&machine.etc()), before);
    assert_eq!(user(&machine).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_value_that_nginx_refuses_is_found_on_the_staged_copy() {
    let mut machine = Machine::with_site(SITE).await;
    let _source = machine.serve_source().await;
    // Only a name can be refused: nginx resolves it when it reads the configuration.
    machine.settings.upstream = format!("no-such-host.invalid:{}", machine.target);
    let before = snapshot(&machine.etc());
    let call = machine.call(Op::Prepare);
    let error = call.route().prepare().await.unwrap_err();
    assert!(error.tried.contains("the staged configuration that leads to the container"), "{error}");
    let wanted = format!(
        "host not found in upstream \"no-such-host.invalid\" in {}/sites-enabled/connect:11",
        machine.etc().display()
    );
    assert!(error.why.contains(&wanted), "{error}");
    assert_eq!(call.undo(), []);
    assert_eq!(snapshot(&machine.etc()), before);
    assert_eq!(
        std::fs::read_dir(machine.dir.path().join("state")).unwrap().count(),
        1,
        "only what is known is kept"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_nginx_refuses_in_the_window_is_taken_back_at_once() {
    let machine = Machine::with_site(SITE).await;
    let _source = machine.serve_source().await;
    machine.call(Op::Prepare).route().prepare().await.unwrap();
    machine.call(Op::EnterWindow).route().enter_window().await.unwrap();
    let in_window = machine.site_bytes();
    let _target = machine.serve_target().await;
    machine.write("sites-enabled/shop", "server { nonsense on; }\n");
    let call = machine.call(Op::Apply);
    let error = call.route().apply().await.unwrap_err();
    assert!(error.why.contains("unknown directive \"nonsense\""), "{error}");
    assert_eq!(machine.site_bytes(), in_window);
    assert_eq!(call.undo().len(), 1);
    assert_eq!(user(&machine).await.unwrap().status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_broken_prerequisite_has_its_key() {
    type Break = fn(&mut Machine);
    let cases: [(&str, Break); 12] = [
        ("site-missing", |machine| machine.settings.site = "/absent/site".into()),
        ("site-not-read", |machine| {
            machine.write("sites-available/other", "server {}");
            machine.settings.site = machine.etc().join("sites-available/other");
        }),
        ("nginx-missing", |machine| machine.settings.nginx = "/absent/nginx".into()),
        ("nginx-inactive", |machine| machine.stop_nginx()),
        ("maintenance-address", |machine| machine.settings.maintenance = "192.0.2.1:80".into()),
        ("upstream-is-source", |machine| machine.settings.upstream = machine.filled("SOURCE")),
        ("maintenance-port-taken", |machine| machine.settings.maintenance = machine.filled("LISTEN")),
        ("url-guessed", |machine| {
            machine.source_url = None;
            machine.write("connect.gcfg", "[HTTP]\nListen = :3939\n");
            machine.settings.source_address = Some(machine.filled("SOURCE"));
        }),
        ("maintenance-is-upstream", |machine| {
            machine.settings.maintenance = machine.settings.upstream.clone()
        }),
        ("maintenance-file-foreign", |machine| {
            machine.write("conf.d/connect-migrator-prod-maintenance.conf", "# mine\n");
        }),
        ("maintenance-page", |machine| machine.settings.maintenance_page = Some("/absent.html".into())),
        ("route-not-at-source", |machine| {
            machine.write("sites-available/connect", &SITE.replace("http://SOURCE", "http://TARGET"));
        }),
    ];
    for (key, break_it) in cases {
        let mut machine = Machine::with_site(SITE).await;
        let _source = machine.serve_source().await;
        break_it(&mut machine);
        let before = snapshot(&machine.etc());
        let findings = check(&machine).await;
        let finding = of(&findings, key);
        assert_eq!(finding.severity, Severity::Blocker, "{findings:#?}");
        assert!(!finding.remedy.is_empty());
        assert_eq!(snapshot(&machine.etc()), before, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_gets_to_connect_blocks() {
    let site = "server { listen LISTEN; location / { auth_basic x; auth_basic_user_file users; proxy_pass http://SOURCE; } }\n";
    let machine = Machine::with(site, &[("users", "ada:x\n")]).await;
    let _source = machine.serve_source().await;
    let findings = check(&machine).await;
    let finding = of(&findings, "route-request");
    assert_eq!(finding.severity, Severity::Blocker);
    assert!(finding.text.contains("ends at an answer with status 401"), "{}", finding.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_connect_needs_of_a_proxy_and_lacks_is_a_warning() {
    let site = "server { listen LISTEN; proxy_set_header Upgrade $http_upgrade; location / { proxy_set_header Host x; proxy_read_timeout 5s;\n\
                proxy_intercept_errors on; proxy_pass http://SOURCE; } }\n";
    let machine = Machine::with_site(site).await;
    let _source = machine.serve_source().await;
    let findings = check(&machine).await;
    assert_eq!(
        keys(&findings, Severity::Warning),
        [
            "websocket-headers",
            "original-url-header",
            "body-size",
            "read-timeout",
            "intercepted-errors",
            "websocket-unproved"
        ]
    );
    let text = &of(&findings, "websocket-headers").text;
    let wanted = "sites-enabled/connect:2 (no proxy_set_header Upgrade, no proxy_set_header Connection, no proxy_http_version 1.1)";
    assert!(
        text.ends_with(wanted),
        "headers of the server block do not reach a location that sets its own: {text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_tells_strangers_no_name_is_asked_with_the_key() {
    let mut machine = Machine::with_site(SITE).await;
    let source = machine.serve_source().await;
    source.shy.store(true, Ordering::SeqCst);
    let findings = check(&machine).await;
    assert_eq!(of(&findings, "hostname-not-told").severity, Severity::Blocker);
    machine.api_key = Some(SecretRef { credential: "connect-api-key".into() });
    let findings = check(&machine).await;
    assert!(
        of(&findings, "route-request").text.ends_with("ends at the Connect with the host name `vm`"),
        "{findings:#?}"
    );
}
