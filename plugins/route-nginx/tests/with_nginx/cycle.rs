//! The way there.

use crate::machine::{Machine, SITE, Users, statuses, user};
use connect_migrator_route_nginx::conf::Configuration;
use connect_migrator_sdk::{Done, Op, Verdict};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;
use std::time::Instant;

fn replaced(bytes: &[u8], old: &str, new: &str) -> Vec<u8> {
    String::from_utf8(bytes.to_vec()).unwrap().replace(old, new).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_go_from_source_to_container_by_one_value_and_never_see_a_502() {
    let machine = Machine::with_site(SITE).await;
    let source = machine.serve_source().await;
    std::fs::set_permissions(machine.site(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let before = machine.site_bytes();
    let quoted = |port: u16| format!("\"http://127.0.0.1:{port}\"");
    let maintenance = format!("\"http://{}\"", machine.settings.maintenance);
    let users = Users::start(&machine);
    let start = Instant::now();

    let call = machine.call(Op::Prepare);
    let outcome = call.route().prepare().await.unwrap();
    assert_eq!(outcome.done, Done::Changed, "{outcome:?}");
    assert_eq!(machine.site_bytes(), before, "prepare leaves the site alone");
    assert_eq!(user(&machine).await.unwrap().status, 200);

    let call = machine.call(Op::EnterWindow);
    let entering = Instant::now();
    call.route().enter_window().await.unwrap();
    let entered = Instant::now();
    assert_eq!(machine.site_bytes(), replaced(&before, &quoted(machine.source), &maintenance));
    source.stop().await;
    let seen = user(&machine).await.unwrap();
    assert_eq!((seen.status, seen.retry_after.as_deref()), (503, Some("30")));
    assert!(seen.body.contains("Back in a moment"), "{}", seen.body);

    let _target = machine.serve_target().await;
    let call = machine.call(Op::Apply);
    let applying = Instant::now();
    let outcome = call.route().apply().await.unwrap();
    let applied = Instant::now();
    assert!(outcome.evidence.iter().any(|text| text.contains("host name `container`")), "{outcome:?}");
    let after = machine.site_bytes();
    assert_eq!(after, replaced(&before, &quoted(machine.source), &quoted(machine.target)));
    assert_eq!(std::fs::metadata(machine.site()).unwrap().permissions().mode() & 0o7777, 0o640);
    assert!(machine.etc().join("sites-enabled/connect").is_symlink());

    let verdict = machine.call(Op::Verify).route().verify().await.unwrap();
    assert!(matches!(verdict, Verdict::Holds { .. }), "{verdict:?}");
    machine.call(Op::Finalize).route().finalize().await.unwrap();
    assert!(!machine.maintenance_file().exists());
    assert_eq!(machine.site_bytes(), after);
    assert_eq!(user(&machine).await.unwrap().status, 200);

    let seen = users.seen().await;
    for (_, seen) in seen.iter().filter(|(_, seen)| seen.as_ref().is_some_and(|seen| seen.status == 503)) {
        assert_eq!(seen.as_ref().unwrap().retry_after.as_deref(), Some("30"));
    }
    let both = BTreeSet::from([200, 503]);
    assert_eq!(statuses(&seen, start, entering), [200].into());
    assert!(statuses(&seen, entering, entered).is_subset(&both));
    assert_eq!(statuses(&seen, entered, applying), [503].into());
    assert!(statuses(&seen, applying, applied).is_subset(&both));
    assert_eq!(statuses(&seen, applied, Instant::now()), [200].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_may_be_made_twice() {
    let machine = Machine::with_site(SITE).await;
    let source = machine.serve_source().await;
    assert_eq!(machine.call(Op::Prepare).route().prepare().await.unwrap().done, Done::Changed);
    assert_eq!(machine.call(Op::Prepare).route().prepare().await.unwrap().done, Done::AlreadyDone);
    assert_eq!(machine.call(Op::EnterWindow).route().enter_window().await.unwrap().done, Done::Changed);
    let again = machine.call(Op::EnterWindow);
    assert_eq!(again.route().enter_window().await.unwrap().done, Done::AlreadyDone);
    assert_eq!(again.undo(), []);
    source.stop().await;
    let _target = machine.serve_target().await;
    assert_eq!(machine.call(Op::Apply).route().apply().await.unwrap().done, Done::Changed);
    assert_eq!(machine.call(Op::Apply).route().apply().await.unwrap().done, Done::AlreadyDone);
    assert_eq!(machine.call(Op::Finalize).route().finalize().await.unwrap().done, Done::Changed);
    assert_eq!(machine.call(Op::Finalize).route().finalize().await.unwrap().done, Done::AlreadyDone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_cut_off_between_file_and_reload_is_finished_by_the_next() {
    let mut machine = Machine::with_site(SITE).await;
    let source = machine.serve_source().await;
    machine.call(Op::Prepare).route().prepare().await.unwrap();
    machine.settings.verify_timeout = 1;
    machine.lose_reloads(true);
    let call = machine.call(Op::EnterWindow);
    call.route().enter_window().await.expect_err("users still see the source");
    assert_eq!(call.undo().len(), 1);
    machine.lose_reloads(false);
    assert_eq!(machine.call(Op::EnterWindow).route().enter_window().await.unwrap().done, Done::Changed);
    source.stop().await;
    let _target = machine.serve_target().await;
    machine.lose_reloads(true);
    machine.call(Op::Apply).route().apply().await.expect_err("users still see the page");
    machine.lose_reloads(false);
    machine.call(Op::Apply).route().apply().await.unwrap();
    assert_eq!(user(&machine).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_another_name_is_not_taken_for_ours() {
    let mut machine = Machine::with_site(SITE).await;
    let _source = machine.serve_source().await;
    machine.settings.verify_timeout = 1;
    machine.call(Op::Prepare).route().prepare().await.unwrap();
    machine.call(Op::EnterWindow).route().enter_window().await.unwrap();
    let _target = machine.serve_target().await;
    machine.facts["target"]["hostname"] = "another".into();
    let error = machine.call(Op::Apply).route().apply().await.unwrap_err();
    assert!(error.why.contains("it ended at the Connect with the host name `container`"), "{error}");

    machine.facts["target"]["address"] = "127.0.0.1:1".into();
    let error = machine.call(Op::Apply).route().apply().await.unwrap_err();
    assert!(error.why.contains("it answers on 127.0.0.1:1, and `upstream` is "), "{error}");
    machine.facts.clear();
    let error = machine.call(Op::Apply).route().apply().await.unwrap_err();
    assert!(error.remedy.contains("before this one"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_proves_the_route_or_shows_that_nginx_stands_in_the_way() {
    let plain = "server { listen LISTEN; server_name connect.example.com; location / { proxy_pass http://SOURCE; } }\n";
    for (site, passes) in [(SITE, true), (plain, false)] {
        let mut machine = Machine::with_site(site).await;
        machine.settings.websocket_path = Some("/content/ws/".into());
        let source = machine.serve_source().await;
        machine.call(Op::Prepare).route().prepare().await.unwrap();
        machine.call(Op::EnterWindow).route().enter_window().await.unwrap();
        source.stop().await;
        let target = machine.serve_target().await;

        // Content that is not rebuilt yet is not nginx' fault.
        target.takes_websockets.store(false, Ordering::SeqCst);
        let outcome = machine.call(Op::Apply).route().apply().await.unwrap();
        assert!(
            outcome.evidence.iter().any(|text| text.contains("takes no websocket yet (status 500)")),
            "{outcome:?}"
        );
        target.takes_websockets.store(true, Ordering::SeqCst);
        let verdict = machine.call(Op::Verify).route().verify().await.unwrap();
        match verdict {
            Verdict::Holds { evidence } => {
                assert!(passes && evidence.contains("opens through nginx"), "{evidence}")
            }
            Verdict::Broken { why, remedy } => {
                assert!(!passes && why.contains("and through nginx there is status 400"), "{why}");
                assert!(remedy.contains("proxy_set_header Upgrade"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_sees_a_value_that_was_changed_and_no_other_change() {
    let machine = Machine::with_site(SITE).await;
    let source = machine.serve_source().await;
    machine.call(Op::Prepare).route().prepare().await.unwrap();
    machine.call(Op::EnterWindow).route().enter_window().await.unwrap();
    source.stop().await;
    let _target = machine.serve_target().await;
    machine.call(Op::Apply).route().apply().await.unwrap();

    let after = machine.site_bytes();
    let theirs = [b"# a note of somebody else\n".as_slice(), &after].concat();
    std::fs::write(machine.site(), &theirs).unwrap();
    let verdict = machine.call(Op::Verify).route().verify().await.unwrap();
    assert!(matches!(verdict, Verdict::Holds { .. }), "{verdict:?}");

    let back = replaced(&theirs, &format!(":{}", machine.target), &format!(":{}", machine.source));
    std::fs::write(machine.site(), back).unwrap();
    let verdict = machine.call(Op::Verify).route().verify().await.unwrap();
    assert!(
        matches!(&verdict, Verdict::Broken { why, .. } if why.contains("and not 127.0.0.1:")),
        "{verdict:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_block_and_an_own_page_with_dollars_work() {
    let page = "<p>$(document) costs ${5} \"today\" \\o/</p>\n".repeat(200);
    let mut machine = Machine::with(
        "server { listen LISTEN; location / { proxy_pass http://connect; } location /x/ { proxy_pass http://connect; } }\n",
        &[("conf.d/upstream.conf", "upstream connect { server SOURCE; } # shared\n")],
    )
    .await;
    std::fs::write(machine.dir.path().join("page.html"), &page).unwrap();
    machine.settings.maintenance_page = Some(machine.dir.path().join("page.html"));
    machine.settings.retry_after = 77;
    let source = machine.serve_source().await;
    let upstream = machine.etc().join("conf.d/upstream.conf");
    let site = machine.site_bytes();
    machine.call(Op::Prepare).route().prepare().await.unwrap();
    machine.call(Op::EnterWindow).route().enter_window().await.unwrap();
    assert_eq!(
        std::fs::read_to_string(&upstream).unwrap(),
        format!("upstream connect {{ server {}; }} # shared\n", machine.settings.maintenance)
    );
    let seen = user(&machine).await.unwrap();
    assert_eq!((seen.status, seen.retry_after.as_deref()), (503, Some("77")));
    assert_eq!(seen.body, page);
    source.stop().await;
    let _target = machine.serve_target().await;
    machine.call(Op::Apply).route().apply().await.unwrap();
    assert_eq!(machine.site_bytes(), site);
    let text = std::fs::read_to_string(&upstream).unwrap();
    assert_eq!(text, machine.filled("upstream connect { server TARGET; } # shared\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_with_tls_is_asked_over_tls_with_the_name_of_the_url() {
    let certificates = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=connect.example.com",
        ])
        .arg("-keyout")
        .arg(certificates.path().join("key"))
        .arg("-out")
        .arg(certificates.path().join("cert"))
        .output()
        .expect("openssl can be run; else: apt-get install -y openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |name| std::fs::read_to_string(certificates.path().join(name)).unwrap();
    let (cert, key) = (read("cert"), read("key"));
    // The certificate stands at a relative path, which must keep its meaning in the staged copy.
    let site = "server { listen LISTEN ssl default_server; ssl_certificate certs/cert; ssl_certificate_key certs/key; return 421; }\n\
                server { listen LISTEN ssl; server_name connect.example.com; ssl_certificate certs/cert; ssl_certificate_key certs/key;\n\
                location / { proxy_pass http://SOURCE; } }\n";
    let mut machine = Machine::with(site, &[("certs/cert", &cert), ("certs/key", &key)]).await;
    machine.source_url = Some("https://connect.example.com".into());
    let source = machine.serve_source().await;
    machine.call(Op::Prepare).route().prepare().await.unwrap();
    machine.call(Op::EnterWindow).route().enter_window().await.unwrap();
    source.stop().await;
    let _target = machine.serve_target().await;
    machine.call(Op::Apply).route().apply().await.unwrap();
    assert!(Configuration::read(&machine.settings.configuration).is_ok());
}
