use super::*;
use crate::testing::MemoryHost;
use crate::{Finding, Migration, Outcome, Probe, Source, Undone, Verdict};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Image {
    os: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Which image.
    #[serde(default)]
    image: Option<Image>,
    #[serde(default)]
    misdeed: String,
}

struct Container;

impl Step for Container {
    type Config = Settings;
    type Undo = u32;

    fn info() -> StepInfo {
        StepInfo::new("container", "Starts it").starts_target()
    }

    async fn check(config: &Settings, _: &Context) -> Result<Vec<Finding>, StepError> {
        let os = config.image.as_ref().map_or("none", |image| image.os.as_str());
        Ok(vec![Finding::ok("os", os)])
    }

    async fn apply(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        match config.misdeed.as_str() {
            "panic" => panic!("over the cliff"),
            "task" => {
                let span = tracing::info_span!("pull", layer = 7);
                let _entered = span.enter();
                std::thread::spawn(|| ()).join().map_err(|_| StepError::new("join"))?;
                tracing::warn!(attempt = 2, "slow registry");
                tracing::debug!("not for operators");
                drop(_entered);
            }
            _ => {}
        }
        cx.record_undo(&41)?;
        Ok(Outcome::changed("started"))
    }

    async fn probe(_: &Settings, _: &Context, of: Op) -> Result<Probe, StepError> {
        Ok(Probe::Unknown { why: format!("asked about {of}") })
    }

    async fn rollback(_: &Settings, _: &Context, of: Op, undo: Vec<u32>) -> Result<Undone, StepError> {
        Ok(Undone::restored(format!("{of} {undo:?}")))
    }
}

struct Plain;

impl Step for Plain {
    type Config = ();
    type Undo = ();

    fn info() -> StepInfo {
        StepInfo::new("plain", "Has no settings")
    }

    async fn check((): &(), _: &Context) -> Result<Vec<Finding>, StepError> {
        Ok(Vec::new())
    }

    async fn apply((): &(), _: &Context) -> Result<Outcome, StepError> {
        Ok(Outcome::already_done("nothing"))
    }

    async fn rollback((): &(), _: &Context, _: Op, _: Vec<()>) -> Result<Undone, StepError> {
        Ok(Undone::restored("nothing"))
    }
}

pub(crate) fn invocation(uses: &str, op: Op, config: Value) -> Invocation {
    Invocation {
        step: "box".into(),
        uses: uses.into(),
        op,
        of: None,
        attempt: 1,
        config,
        migration: Migration { id: String::new(), instance: "test".into() },
        source: Source::default(),
        state_dir: "/nonexistent".into(),
        facts: Map::new(),
        routed: None,
        checkpoint: None,
        undo: Vec::new(),
    }
}

fn plugin() -> Plugin {
    crate::plugin_of!(name = "docker", Container, Plain)
}

fn call(invocation: Invocation) -> Answer {
    plugin().call(invocation, MemoryHost::new())
}

fn error_of(answer: Answer) -> String {
    match answer {
        Answer::Error(error) => error.to_string(),
        other => panic!("an error was expected, not {other:?}"),
    }
}

#[test]
fn a_plugin_is_named_after_its_crate() {
    assert_eq!(name_of_crate("connect-migrator-docker"), "docker");
    assert_eq!(name_of_crate("connect-migrator-"), "connect-migrator-");
    assert_eq!(name_of_crate("acme-balancer"), "acme-balancer");
    assert_eq!(name_of_crate("connect-migrator_and_more"), "connect-migrator_and_more");
}

#[test]
fn the_description_carries_the_schema_of_the_settings() {
    let description = plugin().describe();
    assert_eq!(description.plugin, "docker");
    let [container, plain] = description.steps.as_slice() else { panic!("two steps") };
    assert_eq!(container.name, "container");
    assert_eq!(container.settings_schema["properties"]["image"]["description"], "Which image.");
    assert_eq!(container.settings_schema["additionalProperties"], false);
    assert_eq!(plain.settings_schema["type"], "null");
}

#[test]
fn a_call_reaches_the_function_that_it_names() {
    let config = json!({"image": {"os": "ubuntu"}});
    let Answer::Ok(found) = call(invocation("container", Op::Check, config)) else { panic!("ok") };
    assert_eq!(found[0]["text"], "ubuntu");

    let mut rollback = invocation("container", Op::Rollback, Value::Null);
    rollback.of = Some(Op::Apply);
    rollback.undo = vec![json!(1), json!(2)];
    let Answer::Ok(undone) = call(rollback) else { panic!("ok") };
    assert_eq!(undone["evidence"][0], "apply [1, 2]");

    let mut probe = invocation("container", Op::Probe, Value::Null);
    probe.of = Some(Op::Prepare);
    let Answer::Ok(probe) = call(probe) else { panic!("ok") };
    assert_eq!(probe, json!({"probe": "unknown", "why": "asked about prepare"}));

    let Answer::Ok(verdict) = call(invocation("container", Op::Verify, Value::Null)) else { panic!("ok") };
    let verdict: Verdict = serde_json::from_value(verdict).unwrap();
    assert_eq!(verdict, Verdict::holds("this step has nothing to verify"));
}

#[test]
fn settings_may_be_left_out_where_none_are_needed() {
    assert!(matches!(call(invocation("container", Op::Check, Value::Null)), Answer::Ok(_)));
    // As a daemon sends it, and as one may write a test.
    for none in [json!({}), Value::Null] {
        assert!(matches!(call(invocation("plain", Op::Check, none)), Answer::Ok(_)));
    }
    assert!(matches!(call(invocation("plain", Op::Check, json!({"x": 1}))), Answer::Error(_)));
}

#[test]
fn a_wrong_setting_is_named_with_its_path() {
    let wrong = [
        json!({"image": {"os": 24}}),
        json!({"image": {"os": "ubuntu", "oss": "x"}}),
        json!({"imagee": {}}),
        json!("image"),
    ];
    let told: Vec<_> =
        wrong.into_iter().map(|config| error_of(call(invocation("container", Op::Check, config)))).collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    could not read the settings of the step `box`: `with.image.os`: invalid type: integer `24`, expected a string; correct `with.image.os` of this step in the runbook
    could not read the settings of the step `box`: `with.image.oss`: unknown field `oss`, expected `os`; correct `with.image.oss` of this step in the runbook
    could not read the settings of the step `box`: `with.imagee`: unknown field `imagee`, expected `image` or `misdeed`; correct `with.imagee` of this step in the runbook
    could not read the settings of the step `box`: `with`: invalid type: string "image", expected struct Settings; correct `with` of this step in the runbook
    "#);
}

#[test]
fn a_call_that_cannot_be_dispatched_says_why() {
    let mut bad_record = invocation("container", Op::Rollback, Value::Null);
    bad_record.of = Some(Op::Apply);
    bad_record.undo = vec![json!(1), json!("two")];
    let told = [
        error_of(call(invocation("pod", Op::Check, Value::Null))),
        error_of(call(invocation("container", Op::Rollback, Value::Null))),
        error_of(call(bad_record)),
    ];
    insta::assert_snapshot!(told.join("\n"), @r#"
    could not find the step `pod` in the plugin `docker`: version 0.1.0 of it has `container`, `plain`; correct `uses` in the runbook, or install the version of the plugin that has it
    could not make the call `rollback` of the step `box`: the daemon did not say which call is meant; the plugin and the daemon do not fit together; install the plugin of this release
    could not read undo record 2 of the step `box`: invalid type: string "two", expected u32; install the version of the plugin that wrote the record, then roll back again
    "#);
}

#[test]
fn a_panic_is_an_answer() {
    let answer = call(invocation("container", Op::Apply, json!({"misdeed": "panic"})));
    let Answer::Panic(text) = answer else { panic!("a panic was expected, not {answer:?}") };
    assert!(text.contains("over the cliff"), "{text}");
}

#[test]
fn events_of_the_plugin_are_forwarded_with_the_fields_of_their_spans() {
    type Line = (LogLevel, String, Map<String, Value>);
    struct Keep(std::sync::Mutex<Vec<Line>>, Arc<MemoryHost>);
    impl HostCalls for Keep {
        fn log(&self, level: LogLevel, message: &str, fields: &Map<String, Value>) {
            self.0.lock().unwrap().push((level, message.into(), fields.clone()));
        }
        fn progress(&self, _: &crate::Progress) {}
        fn record_undo(&self, record: &Value) -> Result<(), crate::HostRefused> {
            self.1.record_undo(record)
        }
        fn checkpoint(&self, _: &Value) -> Result<(), crate::HostRefused> {
            Ok(())
        }
        fn secret(&self, credential: &str) -> Result<crate::Secret, crate::HostRefused> {
            self.1.secret(credential)
        }
        fn is_cancelled(&self) -> bool {
            false
        }
    }
    let host = Arc::new(Keep(std::sync::Mutex::default(), MemoryHost::new()));
    let answer =
        plugin().call(invocation("container", Op::Apply, json!({"misdeed": "task"})), Arc::clone(&host) as _);
    assert!(matches!(answer, Answer::Ok(_)), "{answer:?}");
    let logged = host.0.lock().unwrap();
    let [(level, message, fields)] = logged.as_slice() else { panic!("one event, not {logged:?}") };
    assert_eq!((*level, message.as_str()), (LogLevel::Warn, "slow registry"));
    assert_eq!(fields["layer"], 7);
    assert_eq!(fields["attempt"], 2);
    assert_eq!(fields["target"], "connect_migrator_sdk::plugin::tests");
    assert_eq!(host.1.told().undo, [json!(41)]);
}
