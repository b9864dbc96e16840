//! The way back.

use crate::machine::{Machine, SITE, Users, statuses, user};
use connect_migrator_route_nginx::Undo;
use connect_migrator_sdk::{Op, Undone};
use std::collections::BTreeSet;
use std::time::Instant;

struct Records {
    prepare: Vec<Undo>,
    enter_window: Vec<Undo>,
    apply: Vec<Undo>,
}

/// All the way to the container.
async fn moved(machine: &Machine) -> Records {
    let source = machine.serve_source().await;
    let prepare = machine.call(Op::Prepare);
    prepare.route().prepare().await.unwrap();
    let enter_window = machine.call(Op::EnterWindow);
    enter_window.route().enter_window().await.unwrap();
    source.stop().await;
    let target = machine.serve_target().await;
    let apply = machine.call(Op::Apply);
    apply.route().apply().await.unwrap();
    target.stop().await;
    Records { prepare: prepare.undo(), enter_window: enter_window.undo(), apply: apply.undo() }
}

async fn rollback(machine: &Machine, of: Op, undo: &[Undo]) -> Undone {
    machine.call(Op::Rollback).route().rollback(of, undo.to_vec()).await.unwrap()
}

fn has(texts: &[String], part: &str) -> bool {
    texts.iter().any(|text| text.contains(part))
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_restores_every_byte_and_users_reach_the_source_again() {
    let machine = Machine::with_site(SITE).await;
    let before = machine.site_bytes();
    let records = moved(&machine).await;
    assert_eq!((records.prepare.len(), records.enter_window.len(), records.apply.len()), (1, 1, 1));
    let target = machine.serve_target().await;
    let users = Users::start(&machine);
    let start = Instant::now();

    let undone = rollback(&machine, Op::Apply, &records.apply).await;
    let at_page = Instant::now();
    assert_eq!(undone.left, Vec::<String>::new());
    assert_eq!(user(&machine).await.unwrap().status, 503);
    target.stop().await;
    let _source = machine.serve_source().await;
    let leaving = Instant::now();
    let undone = rollback(&machine, Op::EnterWindow, &records.enter_window).await;
    let at_source = Instant::now();
    assert_eq!(undone.left, Vec::<String>::new());
    assert!(has(&undone.evidence, "ends at the Connect with the host name `vm`"), "{undone:?}");
    assert_eq!(machine.site_bytes(), before);
    let undone = rollback(&machine, Op::Prepare, &records.prepare).await;
    assert_eq!(undone.left, Vec::<String>::new());
    assert!(!machine.maintenance_file().exists());

    // Once more, as after a crash in the middle of it.
    for (of, undo) in [(Op::EnterWindow, &records.enter_window), (Op::Prepare, &records.prepare)] {
        let undone = rollback(&machine, of, undo).await;
        assert_eq!(undone.left, Vec::<String>::new());
    }
    assert_eq!(machine.site_bytes(), before);
    let seen = users.seen().await;
    assert!(statuses(&seen, start, Instant::now()).is_subset(&BTreeSet::from([200, 503])), "never a 502");
    assert_eq!(statuses(&seen, at_page, leaving), [503].into());
    assert_eq!(statuses(&seen, at_source, Instant::now()), [200].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_recorded_and_never_made_is_undone_by_nothing() {
    let machine = Machine::with_site(SITE).await;
    let before = machine.site_bytes();
    let records = moved(&machine).await;
    let _source = machine.serve_source().await;
    std::fs::write(machine.site(), &before).unwrap();
    std::fs::remove_file(machine.maintenance_file()).unwrap();
    for (of, undo) in [(Op::EnterWindow, &records.enter_window), (Op::Prepare, &records.prepare)] {
        let undone = rollback(&machine, of, undo).await;
        assert_eq!(undone.left, Vec::<String>::new());
    }
    assert_eq!(machine.site_bytes(), before);
    assert_eq!(user(&machine).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_somebody_else_survive_rollback_and_are_told() {
    let machine = Machine::with_site(SITE).await;
    let before = machine.site_bytes();
    let records = moved(&machine).await;
    let _source = machine.serve_source().await;
    let note = b"# a note of somebody else, longer than nothing\n";
    std::fs::write(machine.site(), [note.as_slice(), &machine.site_bytes()].concat()).unwrap();

    let undone = rollback(&machine, Op::Apply, &records.apply).await;
    assert!(has(&undone.evidence, "was changed by somebody else meanwhile: only http://"), "{undone:?}");
    let undone = rollback(&machine, Op::EnterWindow, &records.enter_window).await;
    assert!(has(&undone.evidence, "was changed by somebody else meanwhile: only http://"), "{undone:?}");
    assert_eq!(undone.left, Vec::<String>::new());
    assert_eq!(machine.site_bytes(), [note.as_slice(), &before].concat());
    assert_eq!(user(&machine).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_in_which_the_value_is_gone_is_left_alone_and_told() {
    let machine = Machine::with_site(SITE).await;
    let records = moved(&machine).await;
    let theirs = machine.filled("server { listen LISTEN; return 204; }\n");
    std::fs::write(machine.site(), &theirs).unwrap();
    let undone = rollback(&machine, Op::Apply, &records.apply).await;
    assert!(has(&undone.left, "the value cannot be found in it; write http://127.0.0.1:"), "{undone:?}");
    assert_eq!(machine.site_bytes(), theirs.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_come_back_without_the_kept_copy_and_without_nginx() {
    let machine = Machine::with_site(SITE).await;
    let before = machine.site_bytes();
    let records = moved(&machine).await;
    machine.stop_nginx();
    for kept in ["before-apply", "before-enter-window", "known.json"] {
        std::fs::remove_file(machine.dir.path().join("state").join(kept)).unwrap();
    }
    for (of, undo) in [
        (Op::Apply, &records.apply),
        (Op::EnterWindow, &records.enter_window),
        (Op::Prepare, &records.prepare),
    ] {
        let undone = rollback(&machine, of, undo).await;
        assert_eq!(undone.left, Vec::<String>::new());
        assert!(has(&undone.evidence, "is not active, and was not reloaded"), "{undone:?}");
    }
    assert_eq!(machine.site_bytes(), before);
    assert!(!machine.maintenance_file().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_somebody_else_broke_gets_its_bytes_back_and_the_operator_is_told() {
    let machine = Machine::with_site(SITE).await;
    let before = machine.site_bytes();
    let records = moved(&machine).await;
    let _source = machine.serve_source().await;
    machine.write("sites-enabled/broken", "server { nonsense on; }\n");
    rollback(&machine, Op::Apply, &records.apply).await;
    let undone = rollback(&machine, Op::EnterWindow, &records.enter_window).await;
    assert!(has(&undone.left, "unknown directive \"nonsense\""), "{undone:?}");
    assert_eq!(machine.site_bytes(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_stays_while_users_are_led_to_it() {
    let machine = Machine::with_site(SITE).await;
    let _source = machine.serve_source().await;
    let prepare = machine.call(Op::Prepare);
    prepare.route().prepare().await.unwrap();
    machine.call(Op::EnterWindow).route().enter_window().await.unwrap();
    let undone = rollback(&machine, Op::Prepare, &prepare.undo()).await;
    assert!(has(&undone.left, "users are still led to the maintenance page"), "{undone:?}");
    assert!(machine.maintenance_file().exists());
    assert_eq!(user(&machine).await.unwrap().status, 503);
    machine.call(Op::Finalize).route().finalize().await.expect_err("nor does a commit take it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_does_not_answer_after_rollback_is_told() {
    let mut machine = Machine::with_site(SITE).await;
    let records = moved(&machine).await;
    rollback(&machine, Op::Apply, &records.apply).await;
    machine.settings.verify_timeout = 1;
    let undone = rollback(&machine, Op::EnterWindow, &records.enter_window).await;
    assert!(has(&undone.left, "ends at an answer with status 502, not at the source"), "{undone:?}");
}
