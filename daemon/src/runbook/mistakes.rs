//! Every mistake that a runbook can have, as it is shown.

use super::{Runbook, order, plugins_exist, resolve};
use connect_migrator_sdk::StepInfo;
use std::collections::BTreeMap;

fn installed() -> BTreeMap<String, Vec<StepInfo>> {
    let plugins = [
        ("systemd", vec![StepInfo::new("stop", "Stops").stops_source(), StepInfo::new("start", "Starts")]),
        ("docker", vec![StepInfo::new("docker", "Starts a container").starts_target()]),
        ("podman", vec![StepInfo::new("podman", "Starts a container").starts_target()]),
        ("postgres", vec![StepInfo::new("postgres", "Moves the database").needs_source_stopped()]),
        ("route-nginx", vec![StepInfo::new("route-nginx", "Routes").routes()]),
        ("connect-api", vec![StepInfo::new("clear-caches", "Clears"), StepInfo::new("rebuild", "Rebuilds")]),
    ];
    plugins.into_iter().map(|(name, steps)| (name.to_owned(), steps)).collect()
}

/// The runbook, and what is said about it.
fn shown(text: &str) -> String {
    let said = match Runbook::parse("prod.toml", text) {
        Err(mistakes) => mistakes,
        Ok(runbook) => match resolve(&runbook, &installed()).and_then(|infos| order(&runbook, &infos)) {
            Err(mistakes) => mistakes,
            Ok(order) => panic!("no mistake was found; order {order:?}"),
        },
    };
    assert!(!said.items().is_empty());
    assert_eq!(said.items().len(), said.list().len());
    said.render(false)
}

macro_rules! mistakes {
    ($($name:ident: $text:expr;)+) => {
        $(#[test]
        fn $name() {
            insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false, snapshot_path => "mistakes" }, {
                insta::assert_snapshot!(stringify!($name), shown($text));
            });
        })+
    };
}

const STOP: &str = "[[step]]\nid = \"stop\"\nuses = \"systemd/stop\"\n";

/// A runbook whose head is `head` and whose only step stops the source.
macro_rules! head {
    ($head:expr) => {
        concat!($head, "\n[[step]]\nid = \"stop\"\nuses = \"systemd/stop\"\n")
    };
}

/// A runbook whose steps are `steps`.
macro_rules! steps {
    ($steps:expr) => {
        concat!("version = 1\n\n", $steps)
    };
}

mistakes! {
    empty_file: "";
    only_a_comment: "# nothing yet\n";
    missing_version: head!("on-failure = \"pause\"");
    version_of_the_future: head!("version = 2");
    version_as_text: head!("version = \"1\"");
    not_toml: head!("version = 1\nsoak = { for = \"30m\", then = commit }");
    several_lines_that_are_not_toml: head!("version = 1\non-failure = rollback\nconnect = [\nsoak = {");
    unclosed_string: head!("version = 1\n[connect]\nunit = \"rstudio-connect.service");
    key_given_twice: head!("version = 1\non-failure = \"pause\"\non-failure = \"rollback\"");
    unknown_setting_with_underscore: head!("version = 1\non_failure = \"pause\"");
    unknown_setting_far_from_any: head!("version = 1\nbanana = 5");
    on_failure_misspelt: head!("version = 1\non-failure = \"rolback\"");
    on_failure_of_wrong_type: head!("version = 1\non-failure = true");
    soak_then_unknown: head!("version = 1\nsoak = { for = \"30m\", then = \"comit\" }");
    soak_as_text: head!("version = 1\nsoak = \"30m\"");
    soak_for_without_unit: head!("version = 1\nsoak = { for = 30 }");
    soak_for_number_without_unit_in_quotes: head!("version = 1\nsoak = { for = \"30\" }");
    soak_for_with_unknown_unit: head!("version = 1\nsoak = { for = \"30 minutes\" }");
    soak_every_out_of_bounds: head!("version = 1\nsoak = { every = \"1ms\" }");
    unknown_time_out: head!("version = 1\n[timeouts]\nenter_window = \"1m\"");
    negative_time_out: head!("version = 1\n[timeouts]\napply = \"-1h\"");
    time_out_of_no_time: head!("version = 1\n[timeouts]\napply = \"0s\"");
    unknown_setting_of_connect: head!("version = 1\n[connect]\nconfg = \"/etc/connect.gcfg\"");
    relative_path: head!("version = 1\n[connect]\nconfig = \"rstudio-connect.gcfg\"");
    unit_without_suffix: head!("version = 1\n[connect]\nunit = \"rstudio-connect\"");
    url_without_scheme: head!("version = 1\n[connect]\nurl = \"connect.example.com\"");
    api_key_in_plain_text: head!("version = 1\n[connect]\napi-key = \"xYzzY1234567890plain\"");
    credential_misspelt: head!("version = 1\n[connect]\napi-key = { credentials = \"connect-api-key\" }");
    credential_with_a_path: head!("version = 1\n[connect]\napi-key = { credential = \"/etc/key\" }");
    no_steps: "version = 1\n";
    steps_in_the_plural: "version = 1\n[[steps]]\nid = \"stop\"\nuses = \"systemd/stop\"\n";
    step_with_one_bracket: "version = 1\n[step]\nid = \"stop\"\nuses = \"systemd/stop\"\n";
    step_without_id_or_uses: steps!("[[step]]\nwith = { a = 1 }\n");
    step_with_misspelt_uses: steps!("[[step]]\nid = \"stop\"\nuse = \"systemd/stop\"\n");
    id_with_capitals_and_spaces: steps!("[[step]]\nid = \"The Stop\"\nuses = \"systemd/stop\"\n");
    id_used_twice: steps!("[[step]]\nid = \"a\"\nuses = \"systemd/stop\"\n[[step]]\nid = \"b\"\nuses = \"docker\"\n[[step]]\nid = \"a\"\nuses = \"route-nginx\"\n");
    uses_with_two_slashes: steps!("[[step]]\nid = \"a\"\nuses = \"systemd/stop/now\"\n");
    with_as_text: steps!("[[step]]\nid = \"a\"\nuses = \"docker\"\nwith = \"ubuntu\"\n");
    allow_as_text: steps!("[[step]]\nid = \"a\"\nuses = \"docker\"\nallow = \"some-warning\"\n");
    password_in_plain_text: steps!("[[step]]\nid = \"db\"\nuses = \"postgres\"\nwith = { url = \"postgres://c@db/c\", password = \"hunter2\" }\n");
    password_in_the_query_of_a_url: steps!("[[step]]\nid = \"db\"\nuses = \"postgres\"\nwith = { url = \"postgres://connect@db.example.com/connect?password=hunter2&sslmode=require\" }\n");
    password_in_a_url: steps!("[[step]]\nid = \"db\"\nuses = \"postgres\"\nwith = { url = \"postgres://connect:hunter2@db.example.com/connect\" }\n");
    password_on_a_line_that_is_not_toml: steps!("[[step]]\nid = \"db\"\nuses = \"postgres\"\n[step.with]\npassword = \"hun\"ter2\"\n");
    number_that_is_none: steps!("[[step]]\nid = \"a\"\nuses = \"docker\"\nwith = { limit = nan }\n");
    unknown_plugin: steps!("[[step]]\nid = \"a\"\nuses = \"dokcer\"\n");
    unknown_step_of_a_plugin: steps!("[[step]]\nid = \"a\"\nuses = \"systemd/stopp\"\n");
    plugin_without_its_step: steps!("[[step]]\nid = \"a\"\nuses = \"connect-api\"\n");
    no_stop_before_the_start: steps!("[[step]]\nid = \"container\"\nuses = \"docker\"\n");
    stop_after_the_start: steps!("[[step]]\nid = \"container\"\nuses = \"docker\"\n\n[[step]]\nid = \"stop\"\nuses = \"systemd/stop\"\n");
    two_stops: steps!("[[step]]\nid = \"stop\"\nuses = \"systemd/stop\"\n\n[[step]]\nid = \"again\"\nuses = \"systemd/stop\"\n");
    two_new_servers: steps!("[[step]]\nid = \"stop\"\nuses = \"systemd/stop\"\n\n[[step]]\nid = \"one\"\nuses = \"docker\"\n\n[[step]]\nid = \"two\"\nuses = \"podman\"\n");
    route_before_the_start: steps!("[[step]]\nid = \"stop\"\nuses = \"systemd/stop\"\n\n[[step]]\nid = \"route\"\nuses = \"route-nginx\"\n\n[[step]]\nid = \"container\"\nuses = \"docker\"\n");
    route_to_nothing: steps!("[[step]]\nid = \"stop\"\nuses = \"systemd/stop\"\n\n[[step]]\nid = \"route\"\nuses = \"route-nginx\"\n");
    database_after_the_start: steps!("[[step]]\nid = \"stop\"\nuses = \"systemd/stop\"\n\n[[step]]\nid = \"container\"\nuses = \"docker\"\n\n[[step]]\nid = \"database\"\nuses = \"postgres\"\n");
    database_without_a_stop: steps!("[[step]]\nid = \"database\"\nuses = \"postgres\"\n");
    many_mistakes_at_once: "version = \"1\"\non-failure = \"stop\"\nsoak = { for = \"1 hour\", them = \"wait\" }\n[connect]\nunit = 5\n[[step]]\nid = \"Stop\"\nuses = \"systemd/stop\"\n[[step]]\nuses = \"docker\"\nwith = { token = \"abc\" }\n";
}

#[test]
fn every_unknown_plugin_is_shown_at_once() {
    let runbook = Runbook::parse(
        "prod.toml",
        "version = 1\n[[step]]\nid = \"a\"\nuses = \"dokcer\"\n[[step]]\nid = \"b\"\nuses = \"route-nginks\"\n",
    )
    .unwrap();
    let hints: Vec<_> = plugins_exist(&runbook, &["docker", "route-nginx"])
        .unwrap_err()
        .list()
        .into_iter()
        .map(|mistake| (mistake.line, mistake.hint.unwrap()))
        .collect();
    assert_eq!(
        hints,
        [(4, "did you mean `docker`?".to_owned()), (7, "did you mean `route-nginx`?".to_owned())]
    );
}

#[test]
fn secrets_are_never_shown() {
    for name in [
        "password_in_plain_text",
        "password_in_a_url",
        "password_in_the_query_of_a_url",
        "password_on_a_line_that_is_not_toml",
        "api_key_in_plain_text",
        "many_mistakes_at_once",
    ] {
        let path = format!("{}/src/runbook/mistakes/{name}.snap", env!("CARGO_MANIFEST_DIR"));
        let shown = std::fs::read_to_string(path).unwrap();
        for secret in ["hunter2", "hun\"", "ter2", "xYzzY", "\"abc\""] {
            assert!(!shown.contains(secret), "{name} shows {secret}");
        }
    }
}

#[test]
fn colours_are_only_there_when_asked_for() {
    let mistakes = Runbook::parse("prod.toml", "version = 2").unwrap_err();
    assert!(!mistakes.render(false).contains('\u{1b}'));
    assert!(mistakes.render(true).contains('\u{1b}'));
    assert_eq!(mistakes.to_string(), mistakes.render(false));
}

const WITH: &str = r#"version = 1
[[step]]
id = "container"
uses = "docker"
with = { publish = "127.0.0.1:3940", image = { version = "match-source", oss = "ubuntu-24.04" } }
"#;

#[test]
fn a_setting_that_a_plugin_refuses_is_pointed_at() {
    let runbook = Runbook::parse("prod.toml", WITH).unwrap();
    let unknown = runbook.point_at(
        "container",
        "with.image.oss",
        "unknown field `oss`, expected one of `version`, `os`, `variant`",
        None,
    );
    let wrong = runbook.point_at("container", "publish", "no port is given", Some("write `host:port`"));
    let missing = runbook.point_at("container", "image", "missing field `variant`", None);
    let nowhere = runbook.point_at("container", "with.restart.policy", "cannot be `never`", None);
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false, snapshot_path => "mistakes" }, {
        insta::assert_snapshot!(
            "setting_that_a_plugin_refuses",
            [unknown, wrong, missing, nowhere].map(|mistakes| mistakes.render(false)).join("\n\n")
        );
    });
}

#[test]
fn a_setting_is_found_by_its_path() {
    let runbook = Runbook::parse("prod.toml", WITH).unwrap();
    let place = runbook.locate("container", "with.image.version").unwrap();
    assert_eq!(&WITH[place.key], "version");
    assert_eq!(&WITH[place.value], "\"match-source\"");
    assert_eq!(runbook.locate("container", "/image/version"), runbook.locate("container", "image.version"));
    assert_eq!(runbook.locate("container", "image.os"), None);
    assert_eq!(runbook.locate("nobody", "image"), None);
}

#[test]
fn the_stop_alone_has_no_mistake() {
    let text = format!("version = 1\n{STOP}");
    let runbook = Runbook::parse("prod.toml", &text).unwrap();
    let infos = resolve(&runbook, &installed()).unwrap();
    assert_eq!(order(&runbook, &infos).unwrap(), [0]);
}
