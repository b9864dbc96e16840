//! What is put back, what is not, and who is sent where.

use super::*;

#[test]
fn while_the_new_server_may_live_the_source_is_not_started_again() {
    let lab = Lab::new();
    let script = Script {
        fails: Some(("route", Op::Apply, 1)),
        rollback_fails: Some(("container", Op::Apply)),
        ..Script::default()
    };
    let (finish, world, _) = lab.run_killed(&script, &[]);
    let Finish::Waiting(stop) = finish else { panic!("{finish:?}") };
    assert!(world.target_runs && !world.source_runs && !world.two_connects);
    assert!(stop.why.contains("stuck") && stop.why.contains("not two Connects"), "{}", stop.why);
    let data: Vec<_> = world.things.keys().filter(|key| key.starts_with("storage")).collect();
    assert!(!data.is_empty(), "the data were put back under the new server");
    assert!(world.get("stop.guard").is_some(), "anybody could start the source beside the new server");
}

#[test]
fn a_call_that_answers_with_something_else_than_an_outcome_has_failed() {
    for misanswers in [("storage", Op::Prepare), ("route", Op::EnterWindow), ("route", Op::Apply)] {
        let lab = Lab::new();
        let script = Script { misanswers: Some(misanswers), ..Script::default() };
        let world = Arc::new(Mutex::new(World::new()));
        let (finish, records) = lab.run(&script, &world, &Arc::default(), vec![], None);
        assert_eq!(finish, Some(Finish::Closed(End::RolledBack { left: vec![] })), "{misanswers:?}");
        assert_eq!(*world.lock().unwrap(), World::new(), "{misanswers:?}: the world is as it was");
        let why = records.iter().find_map(|record| match &record.event {
            Event::RollbackDecided { cause } => Some(cause.why.clone()),
            _ => None,
        });
        assert!(
            why.as_ref().is_some_and(|why| why.contains("was not understood")),
            "{misanswers:?}: {why:?}"
        );
    }
}

/// The calls that were rolled back, in their order.
fn undone(records: &[Record]) -> Vec<String> {
    let undone = records.iter().filter_map(|record| match &record.event {
        Event::Intent { step, op: Op::Rollback, of: Some(of), .. } => Some(format!("{step} {of}")),
        _ => None,
    });
    undone.collect()
}

#[test]
fn while_the_data_are_not_back_the_source_is_not_started_and_what_holds_them_stays() {
    let lab = Lab::new();
    let script = Script {
        fails: Some(("route", Op::Apply, 1)),
        rollback_fails: Some(("storage", Op::Apply)),
        ..Script::default()
    };
    let world = Arc::new(Mutex::new(World::new()));
    let (finish, records) = lab.run(&script, &world, &Arc::default(), vec![], None);
    let Some(Finish::Waiting(stop)) = finish else { panic!("{finish:?}") };
    let world = world.lock().unwrap().clone();
    assert!(!world.target_runs && !world.source_runs && !world.two_connects);
    assert!(stop.why.contains("data that are not put back"), "{}", stop.why);
    let undone = undone(&records);
    assert!(undone.contains(&"storage apply".into()), "{undone:?}");
    for stays in ["storage prepare", "stop apply"] {
        assert!(!undone.contains(&stays.into()), "{undone:?}");
    }
}

#[test]
fn while_the_source_does_not_serve_users_are_not_sent_back_to_it() {
    for fails in ["stop", "storage", "container"] {
        let lab = Lab::new();
        let script = Script {
            fails: Some(("route", Op::Apply, 1)),
            rollback_fails: Some((fails, Op::Apply)),
            ..Script::default()
        };
        let world = Arc::new(Mutex::new(World::new()));
        let (finish, records) = lab.run(&script, &world, &Arc::default(), vec![], None);
        let Some(Finish::Waiting(stop)) = finish else { panic!("{fails}: {finish:?}") };
        assert!(stop.why.contains("`route` still sends users away"), "{}", stop.why);
        let undone = undone(&records);
        assert!(undone.contains(&"route apply".into()), "{undone:?}");
        for stays in ["route enter-window", "route prepare"] {
            assert!(!undone.contains(&stays.into()), "{fails}: {undone:?}");
        }
        assert_eq!(world.lock().unwrap().get("route").as_deref(), Some("maintenance"), "{fails}");

        // The operator mended it, and asks for rollback again.
        let mended = Script { rollback_fails: None, ..script };
        let (finish, _) = lab.run(&mended, &world, &Arc::default(), records, None);
        assert!(matches!(&finish, Some(Finish::Closed(End::RolledBack { .. }))), "{finish:?}");
        let world = world.lock().unwrap();
        assert!(world.source_runs && !world.target_runs && !world.two_connects && world.things.is_empty());
    }
}

#[test]
fn a_failed_rollback_does_not_keep_the_others_from_being_put_back() {
    let lab = Lab::new();
    let script = Script {
        fails: Some(("content", Op::Apply, 0)),
        rollback_fails: Some(("caches", Op::Apply)),
        ..Script::default()
    };
    let (finish, world, _) = lab.run_killed(&script, &[]);
    assert!(matches!(finish, Finish::Waiting(_)), "{finish:?}");
    assert!(world.source_runs && !world.target_runs && !world.two_connects);
    assert_eq!(world.things.keys().collect::<Vec<_>>(), ["caches.one", "caches.two"]);
}

#[test]
fn users_are_sent_back_only_when_the_source_serves_again() {
    let lab = Lab::new();
    let script = Script { fails: Some(("content", Op::Apply, 0)), ..Script::default() };
    let world = Arc::new(Mutex::new(World::new()));
    let (_, records) = lab.run(&script, &world, &Arc::default(), vec![], None);
    assert_eq!(
        undone(&records),
        [
            "route apply",
            "caches apply",
            "container apply",
            "storage apply",
            "stop apply",
            "route enter-window",
            "route prepare",
            "container prepare",
            "stop prepare",
            "storage prepare",
        ]
    );
}
