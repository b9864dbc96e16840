//! What an operator asks of a run that is under way.

use super::*;

/// Told of each event, and asks when its time has come.
struct Asks {
    commands: tokio::sync::mpsc::Sender<(Command, Reply)>,
    /// Asked one after the other once the source has been stopped.
    questions: Mutex<Vec<Command>>,
    answers: Mutex<Vec<tokio::sync::oneshot::Receiver<Result<String, String>>>>,
}

impl Observer for Asks {
    fn note(&self, note: &Note<'_>) {
        let Note::Event { event: Event::Intent { step, op: Op::Apply, .. }, .. } = note else { return };
        if step == "container" {
            for question in self.questions.lock().unwrap().drain(..) {
                let (reply, answer) = tokio::sync::oneshot::channel();
                self.commands.try_send((question, reply)).unwrap();
                self.answers.lock().unwrap().push(answer);
            }
        }
    }
}

/// The finish of a run that is asked these things in its window, and the answers.
fn asked_in_the_window(questions: &[Command]) -> (Finish, Vec<Result<String, String>>) {
    let lab = Lab::new();
    let script = Script::default();
    let (send, mut commands) = tokio::sync::mpsc::channel(8);
    let asks = Arc::new(Asks {
        commands: send,
        questions: Mutex::new(questions.to_vec()),
        answers: Mutex::default(),
    });
    let steps =
        Steps { world: Arc::new(Mutex::new(World::new())), script: script.clone(), left: Arc::default() };
    let plan = plan(lab.dir.path(), &script);
    let started = started(&plan);
    let mut engine = Engine::new(
        plan,
        Arc::new(MemoryStore::default()),
        Arc::new(steps),
        Arc::new(NoSecrets),
        Arc::clone(&asks) as Arc<dyn Observer>,
        Arc::new(LateClock),
    )
    .unwrap();
    engine.start(&started).unwrap();
    let finish = lab.runtime.block_on(engine.run(&mut commands)).unwrap();
    let answers = asks.answers.lock().unwrap().iter_mut().map(|answer| answer.try_recv().unwrap()).collect();
    (finish, answers)
}

#[test]
fn a_pause_that_is_taken_back_before_it_parks_does_not_park_later() {
    let (finish, answers) = asked_in_the_window(&[Command::Park]);
    assert_eq!(finish, Finish::Parked);
    assert_eq!(answers, [Ok("parks as soon as users are served again".into())]);

    let (finish, answers) = asked_in_the_window(&[Command::Park, Command::Resume]);
    assert_eq!(end_of(&finish), &End::Committed);
    assert_eq!(answers.last(), Some(&Ok("goes on: the pause was taken back before it parked".into())));
}

#[test]
fn a_stop_by_systemd_is_not_taken_back() {
    let (finish, answers) = asked_in_the_window(&[Command::Park, Command::Stop, Command::Resume]);
    assert_eq!(finish, Finish::Parked);
    assert!(answers.last().unwrap().is_err(), "{answers:?}");
}
