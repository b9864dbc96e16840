use super::*;
use crate::engine::StepFindings;
use crate::state::Phase;
use connect_migrator_sdk::{Finding, Op, Target};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_770_000_000 + second).unwrap()
}

fn call(op: Op, started: i64, seconds: f64, evidence: &str) -> CallReport {
    CallReport {
        op,
        of: None,
        attempt: 1,
        started: at(started),
        seconds: Some(seconds),
        ended: Ended::Done,
        evidence: vec![evidence.into()],
        details: serde_json::Value::Null,
    }
}

/// A migration as it might be, with `name` wherever something comes from outside.
pub(crate) fn sample(name: &str) -> (Report, Vec<Build>) {
    let step = |id: &str, uses: &str, summary: &str, calls| super::super::StepReport {
        id: id.into(),
        uses: uses.into(),
        summary: summary.into(),
        calls,
    };
    let mut routed = call(Op::Apply, 341, 2.1, &format!("users reach {name}"));
    routed.details = serde_json::json!({ "diff": "-proxy_pass http://127.0.0.1:3939;\n+proxy_pass http://127.0.0.1:3940;" });
    let mut failed = call(Op::Verify, 350, 0.4, name);
    failed.ended = Ended::Failed;
    let report = Report {
        instance: "prod".into(),
        migration: "019a8d3e-0000-7000-8000-000000000000".into(),
        standing: Standing::Committed,
        phase: Phase::Commit,
        started: at(0),
        ended: Some(at(600)),
        windows: vec![super::super::Window {
            span: crate::engine::Span { opened: at(310), closed: Some(at(344)) },
            seconds: 34.0,
        }],
        target: Some(Target {
            engine: "docker".into(),
            name: "connect-prod".into(),
            hostname: "rig-connect-prod".into(),
            address: "127.0.0.1:3940".into(),
            version: "2026.03.1".into(),
            image: "docker.io/posit/connect@sha256:0123".into(),
        }),
        findings: vec![StepFindings {
            step: "container".into(),
            findings: vec![
                Finding::warning("image-large", format!("the image is large: {name}"), "pull it beforehand"),
                Finding::ok("engine", "Docker 28.1 answers"),
            ],
        }],
        steps: vec![
            step(
                "stop",
                "systemd/stop",
                "Stops Connect",
                vec![
                    call(Op::Check, 1, 2.0, "looked"),
                    call(Op::Apply, 311, 6.0, "rstudio-connect.service is inactive and masked"),
                ],
            ),
            step(
                "container",
                "docker",
                "Starts the image",
                vec![
                    call(Op::Prepare, 10, 280.0, "pulled the image"),
                    call(Op::Apply, 318, 21.0, "the container is healthy"),
                ],
            ),
            step(
                "route",
                "route-nginx",
                "Leads requests",
                vec![call(Op::EnterWindow, 310, 0.9, "maintenance page"), routed, failed],
            ),
            step(
                "content",
                "connect-api/rebuild",
                name,
                vec![call(Op::Apply, 352, 200.0, "built 2 of 3 items")],
            ),
        ],
        cause: None,
        left: Vec::new(),
        waits: None,
        may: Vec::new(),
        runbook_digest: "abcd".into(),
    };
    let build = |guid: &str, built, error: &str| Build {
        guid: guid.into(),
        name: name.into(),
        owner: name.into(),
        built,
        error: error.into(),
        failures: u32::from(!built),
        log: format!("Building environment\n{name}"),
    };
    (report, vec![build("6e3a", false, name), build("77aa", true, ""), build("91bc", true, "")])
}

#[test]
fn hostile_names_stay_text_everywhere() {
    let hostile = "</pre><script>alert(1)</script>\"' onmouseover=x \u{202e}\u{1b}&";
    let (report, builds) = sample(hostile);
    let page = html(&report, hostile, &builds, at(700));
    assert!(!page.contains("<script"), "a script got in");
    assert!(!page.contains("\u{202e}") && !page.contains('\u{1b}'));
    assert!(page.contains("&lt;script&gt;"));
    for tag in ["pre", "table", "details", "div", "td", "figure", "body", "html"] {
        let count = |text: String| page.matches(text.as_str()).count();
        let opened = count(format!("<{tag}>")) + count(format!("<{tag} "));
        assert_eq!(opened, count(format!("</{tag}>")), "{tag}");
    }
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    let (report, builds) = sample("x");
    let page = html(&report, "version = 1", &builds, at(700));
    for what in
        ["http-equiv=\"Content-Security-Policy\"", "class=\"window\"", "class=\"removed\"", "built 2 of 3"]
    {
        assert!(page.contains(what), "{what}");
    }
    for what in ["<link", "<img", "src=", "url(", "@import", "<script", "href="] {
        assert!(!page.contains(what), "{what}");
    }
}

#[test]
fn a_migration_that_has_just_begun_has_a_report() {
    let (mut report, _) = sample("x");
    report.ended = None;
    report.windows.clear();
    report.steps.iter_mut().for_each(|step| step.calls.clear());
    assert!(html(&report, "", &[], at(0)).ends_with("</html>\n"));
}

/// Run by hand to look at it: `CONNECT_MIGRATOR_SAMPLE=/tmp/report.html cargo test -p connect-migrator --lib a_sample`.
#[test]
fn a_sample_can_be_looked_at() {
    let (report, builds) = sample("Quarterly <sales> & “more”");
    let page = html(&report, "version = 1\n", &builds, at(700));
    if let Some(path) = std::env::var_os("CONNECT_MIGRATOR_SAMPLE") {
        std::fs::write(path, page).unwrap();
    }
}
