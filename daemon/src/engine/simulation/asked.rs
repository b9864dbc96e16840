//! What an operator asks of a run that is under way.

use super::*;

/// Told of each event, and asks when its time has come.
struct Asks {
    when: fn(&Event) -> bool,
    commands: tokio::sync::mpsc::Sender<(Command, Reply)>,
    /// Asked one after the other.
    questions: Mutex<Vec<Command>>,
    answers: Mutex<Vec<tokio::sync::oneshot::Receiver<Result<String, String>>>>,
}

impl Observer for Asks {
    fn note(&self, note: &Note<'_>) {
        let Note::Event { event, .. } = note else { return };
        if (self.when)(event) {
            for question in self.questions.lock().unwrap().drain(..) {
                let (reply, answer) = tokio::sync::oneshot::channel();
                self.commands.try_send((question, reply)).unwrap();
                self.answers.lock().unwrap().push(answer);
            }
        }
    }
}

/// Calls that leave time to ask while they are under way.
struct Slow(Steps);

impl Caller for Slow {
    fn call<'a>(
        &'a self,
        step: &'a PlannedStep,
        call: Called,
        listener: Arc<dyn Listener>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            if step.id == "container" && call.invocation.op == Op::Apply {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            self.0.call(step, call, listener, cancel).await
        })
    }

    fn await_end<'a>(
        &'a self,
        step: &'a PlannedStep,
        call: Called,
        listener: Arc<dyn Listener>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<RealEnd, String>> {
        self.0.await_end(step, call, listener, cancel)
    }
}

/// How a run went that was asked something in its window.
struct Asked {
    finish: Finish,
    answers: Vec<Result<String, String>>,
    events: Vec<Event>,
}

/// Asked once the source has been stopped.
fn asked_in_the_window(questions: &[Command]) -> Asked {
    let when =
        |event: &Event| matches!(event, Event::Intent { step, op: Op::Apply, .. } if step == "container");
    asked_when(when, &Script::default(), questions)
}

fn asked_when(when: fn(&Event) -> bool, script: &Script, questions: &[Command]) -> Asked {
    let lab = Lab::new();
    let (send, mut commands) = tokio::sync::mpsc::channel(8);
    let asks = Arc::new(Asks {
        when,
        commands: send,
        questions: Mutex::new(questions.to_vec()),
        answers: Mutex::default(),
    });
    let steps =
        Steps { world: Arc::new(Mutex::new(World::new())), script: script.clone(), left: Arc::default() };
    let plan = plan(lab.dir.path(), script);
    let started = started(&plan);
    let store = Arc::new(MemoryStore::default());
    let mut engine = Engine::new(
        plan,
        Arc::clone(&store) as Arc<dyn Store>,
        Arc::new(Slow(steps)),
        Arc::new(NoSecrets),
        Arc::clone(&asks) as Arc<dyn Observer>,
        Arc::new(LateClock::default()),
    )
    .unwrap();
    engine.start(&started).unwrap();
    let finish = lab.runtime.block_on(engine.run(&mut commands)).unwrap();
    let answers = asks.answers.lock().unwrap().iter_mut().map(|answer| answer.try_recv().unwrap()).collect();
    let events = store.load().unwrap().into_iter().map(|record| record.event).collect();
    Asked { finish, answers, events }
}

#[test]
fn a_pause_that_is_taken_back_before_it_parks_does_not_park_later() {
    let asked = asked_in_the_window(&[Command::Park]);
    assert_eq!(asked.finish, Finish::Parked);
    assert_eq!(asked.answers, [Ok("parks as soon as users are served again".into())]);

    let asked = asked_in_the_window(&[Command::Park, Command::Resume]);
    assert_eq!(end_of(&asked.finish), &End::Committed);
    let taken_back = "goes on: the pause was taken back before it parked";
    assert_eq!(asked.answers.last(), Some(&Ok(taken_back.into())));
}

#[test]
fn a_stop_by_systemd_is_not_taken_back() {
    let asked = asked_in_the_window(&[Command::Park, Command::Stop, Command::Resume]);
    assert_eq!(asked.finish, Finish::Parked);
    assert!(asked.answers.last().unwrap().is_err(), "{:?}", asked.answers);
}

#[test]
fn a_rollback_that_was_promised_during_a_call_is_durable_before_the_call_has_ended() {
    for question in [Command::Rollback, Command::Abort] {
        let asked = asked_in_the_window(std::slice::from_ref(&question));
        assert_eq!(end_of(&asked.finish), &End::RolledBack { left: vec![] });
        assert_eq!(asked.answers, [Ok("rolls back when the running call (apply) has ended".into())]);
        let began = asked.events.iter().position(
            |event| matches!(event, Event::Intent { step, op: Op::Apply, .. } if step == "container"),
        );
        let after: Vec<&Event> = asked.events.iter().skip(began.unwrap() + 1).collect();
        let at = |wanted: fn(&Event) -> bool| after.iter().position(|event| wanted(event)).unwrap();
        let decided = at(|event| matches!(event, Event::RollbackDecided { .. }));
        assert!(decided < at(|event| matches!(event, Event::Outcome { .. })), "{question:?}: {after:?}");
    }
}

#[test]
fn a_rollback_that_is_asked_for_after_a_pause_does_not_stand_still_first() {
    let asked = asked_in_the_window(&[Command::Park, Command::Rollback]);
    assert_eq!(end_of(&asked.finish), &End::RolledBack { left: vec![] });
    assert!(!asked.events.contains(&Event::Parked), "{:?}", asked.answers);
}

#[test]
fn a_commit_that_was_promised_is_durable_and_the_next_daemon_keeps_it() {
    let script = Script { then: Some(Then::Wait), ..Script::default() };
    let asked = asked_when(
        |event| matches!(event, Event::SoakStarted),
        &script,
        std::slice::from_ref(&Command::Commit),
    );
    assert_eq!(end_of(&asked.finish), &End::Committed);
    assert!(asked.answers[0].is_ok(), "{:?}", asked.answers);
    let at = asked.events.iter().position(|event| *event == Event::CommitAsked).unwrap();

    assert_eq!(gone_on(&asked.events[..=at], &script), Finish::Closed(End::Committed));
}

/// How the next daemon ends what died right after these events; nobody asks again.
fn gone_on(events: &[Event], script: &Script) -> Finish {
    let store = MemoryStore::default();
    for event in events {
        store.append(event).unwrap();
    }
    let (lab, world) = (Lab::new(), Arc::new(Mutex::new(World::new())));
    // What the calls before it changed.
    for (step, op) in events.iter().filter_map(|event| match event {
        Event::Intent { step, op, .. } => Some((step, *op)),
        _ => None,
    }) {
        for (key, value) in changes(step, op) {
            world.lock().unwrap().set(&key, value.as_deref());
        }
    }
    lab.run(script, &world, &Arc::default(), store.load().unwrap(), None).0.unwrap()
}

#[test]
fn a_pause_that_was_promised_is_durable_before_the_call_has_ended_and_the_next_daemon_keeps_it() {
    let asked = asked_in_the_window(std::slice::from_ref(&Command::Park));
    assert_eq!(asked.finish, Finish::Parked);
    let at = |wanted: &Event| asked.events.iter().position(|event| event == wanted);
    let paused = at(&Event::PauseAsked).unwrap();
    let apply =
        |event: &&Event| matches!(event, Event::Intent { step, op: Op::Apply, .. } if step == "container");
    let call = asked.events.iter().position(|event| apply(&event)).unwrap();
    assert!(matches!(asked.events[call + 1], Event::PauseAsked), "{:?}", &asked.events[call..]);
    assert_eq!(gone_on(&asked.events[..=paused], &Script::default()), Finish::Parked);
    // Once it has stood still, a start is what resumes it.
    assert_eq!(gone_on(&asked.events, &Script::default()), Finish::Closed(End::Committed));
}

#[test]
fn a_pause_is_over_when_an_operator_decides_or_resumes_and_not_when_systemd_stops_it_or_a_step_fails() {
    let paused = |questions: &[Command]| {
        let asked = asked_in_the_window(questions);
        let store = MemoryStore::default();
        asked.events.iter().for_each(|event| drop(store.append(event).unwrap()));
        View::of(&store.load().unwrap()).paused
    };
    assert!(paused(&[Command::Park]) && paused(&[Command::Park, Command::Stop]));
    assert!(!paused(&[Command::Stop]) && !paused(&[Command::Park, Command::Resume]));
    // A reboot comes between: it is to be carried out by the next start.
    assert!(!paused(&[Command::Park, Command::Stop, Command::Rollback]));

    // Also one that asks for what is decided already.
    assert!(!paused(&[Command::Rollback, Command::Park, Command::Rollback]));

    let script = Script { then: Some(Then::Wait), ..Script::default() };
    let questions = [Command::Park, Command::Commit];
    let asked = asked_when(|event| matches!(event, Event::SoakStarted), &script, &questions);
    assert_eq!(end_of(&asked.finish), &End::Committed, "it stood still although it had promised to commit");

    let script = Script { fails: Some(("container", Op::Apply, 0)), ..Script::default() };
    let apply =
        |event: &Event| matches!(event, Event::Intent { step, op: Op::Apply, .. } if step == "container");
    let asked = asked_when(apply, &script, std::slice::from_ref(&Command::Park));
    let store = MemoryStore::default();
    asked.events.iter().for_each(|event| drop(store.append(event).unwrap()));
    assert!(asked.finish != Finish::Parked || View::of(&store.load().unwrap()).paused, "{:?}", asked.events);
}

#[test]
fn a_pause_takes_a_commit_back_and_a_stop_by_systemd_does_not() {
    let script = Script { then: Some(Then::Wait), ..Script::default() };
    for (command, taken_back) in [(Command::Park, true), (Command::Stop, false)] {
        let questions = [Command::Commit, command];
        let asked = asked_when(|event| matches!(event, Event::SoakStarted), &script, &questions);
        assert_eq!(asked.finish, Finish::Parked);
        assert_eq!(asked.events.contains(&Event::CommitTakenBack), taken_back, "{:?}", asked.events);
        let told = asked.answers[1].as_ref().unwrap();
        assert_eq!(told.contains("is taken back"), taken_back, "{told}");
    }
}

#[test]
fn what_users_work_on_cannot_be_aborted_and_can_be_rolled_back() {
    let content =
        |event: &Event| matches!(event, Event::Intent { step, op: Op::Apply, .. } if step == "content");
    let asked = asked_when(content, &Script::default(), &[Command::Abort]);
    assert_eq!(end_of(&asked.finish), &End::Committed);
    assert_eq!(asked.answers, [Err(NOTHING_TO_ABORT.to_owned())]);
    let asked = asked_when(content, &Script::default(), &[Command::Rollback]);
    assert_eq!(end_of(&asked.finish), &End::RolledBack { left: vec![] });
}

#[test]
fn what_failed_because_the_machine_goes_down_is_tried_again_and_a_pause_stays() {
    for pauses in [false, true] {
        let lab = Lab::new();
        let plan = plan(lab.dir.path(), &Script::default());
        let store = Arc::new(MemoryStore::default());
        let stopped = Event::Stopped { why: "systemd refuses jobs".into(), may: vec![] };
        for event in
            [Some(started(&plan)), pauses.then_some(Event::PauseAsked), Some(stopped)].iter().flatten()
        {
            store.append(event).unwrap();
        }
        let steps = Steps {
            world: Arc::new(Mutex::new(World::new())),
            script: Script::default(),
            left: Arc::default(),
        };
        let engine = Engine::new(
            plan,
            Arc::clone(&store) as Arc<dyn Store>,
            Arc::new(steps),
            Arc::new(NoSecrets),
            Arc::new(Deaf),
            Arc::new(LateClock::default()),
        )
        .unwrap();
        engine.put_off().unwrap();
        let view = View::of(&store.load().unwrap());
        assert_eq!((view.stop, view.paused, view.parked), (None, pauses, false));
    }
}
