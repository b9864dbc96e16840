//! The engine on a simulated world: killed at every append, on the way there and on the way back.

mod asked;
mod way_back;

use super::*;
use crate::host::{Listener, PluginRef};
use crate::runbook::{OnFailure, Soak, Then, Timeouts};
use crate::state::{End, Event, Failure, MemoryStore, Record, Store, StoreError, View};
use connect_migrator_sdk::{
    Finding, Invocation, Op, Outcome, Probe, Role, Secret, Source, StepInfo, Undone, Verdict,
};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What the steps change. Two Connects at once are never forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
struct World {
    source_runs: bool,
    target_runs: bool,
    two_connects: bool,
    things: BTreeMap<String, String>,
}

impl World {
    fn new() -> Self {
        World { source_runs: true, target_runs: false, two_connects: false, things: BTreeMap::new() }
    }

    fn set(&mut self, key: &str, value: Option<&str>) {
        match (key, value) {
            ("source", value) => self.source_runs = value == Some("runs"),
            ("target", value) => self.target_runs = value == Some("runs"),
            (key, Some(value)) => drop(self.things.insert(key.into(), value.into())),
            (key, None) => drop(self.things.remove(key)),
        }
        self.two_connects |= self.source_runs && self.target_runs;
    }

    fn get(&self, key: &str) -> Option<String> {
        match key {
            "source" => self.source_runs.then(|| "runs".into()),
            "target" => self.target_runs.then(|| "runs".into()),
            key => self.things.get(key).cloned(),
        }
    }
}

/// How a scenario differs from the happy path.
#[derive(Debug, Clone, Default)]
struct Script {
    /// This call fails, after this many of its changes.
    fails: Option<(&'static str, Op, usize)>,
    /// This call cannot be killed when its time is over, and goes on.
    hangs: Option<(&'static str, Op)>,
    /// This call answers with something else than it should.
    misanswers: Option<(&'static str, Op)>,
    /// This rollback fails.
    rollback_fails: Option<(&'static str, Op)>,
    /// This check is a blocker.
    blocks: Option<&'static str>,
    /// Probes look at the world instead of asking for another run.
    probes: bool,
    /// What becomes of calls when the daemon dies.
    survives: Survives,
    then: Option<Then>,
}

/// What becomes of a call that changes things when the daemon dies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Survives {
    /// It dies too, and leaves nothing.
    #[default]
    Never,
    /// It goes on until it has something to record, and dies then; how it ended before that is found.
    UntilItRecords,
    /// It waits for the next daemon when it has something to record, and goes on with it.
    Always,
}

/// What is left of calls whose daemon has died.
#[derive(Default)]
struct Left {
    /// How they ended.
    outcomes: BTreeMap<u64, Result<Value, Failure>>,
    /// Those that wait to record something.
    waiting: BTreeMap<u64, Invocation>,
    /// Those that were begun at all.
    begun: BTreeSet<u64>,
    /// The one that hung.
    hung: Option<u64>,
}

struct Steps {
    world: Arc<Mutex<World>>,
    script: Script,
    left: Arc<Mutex<Left>>,
}

/// The changes that a call makes: key and new value.
fn changes(step: &str, op: Op) -> Vec<(String, Option<String>)> {
    let own = |what: &str| (format!("{step}.{what}"), Some("done".to_owned()));
    let set = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    match (step, op) {
        ("stop", Op::Prepare) => vec![own("guard")],
        ("stop", Op::Apply) => vec![("source".into(), None), set("unit", "masked")],
        ("container", Op::Prepare) => vec![own("image"), own("created")],
        ("container", Op::Apply) => vec![set("target", "runs")],
        ("route", Op::Prepare) => vec![own("maintenance-file")],
        ("route", Op::EnterWindow) => vec![set("route", "maintenance")],
        ("route", Op::Apply) => vec![set("route", "target")],
        ("storage", Op::Prepare) => vec![own("first-pass")],
        (_, Op::Apply) => vec![own("one"), own("two")],
        _ => vec![],
    }
}

impl Steps {
    fn change(&self, invocation: &Invocation, listener: &dyn Listener) -> Result<Outcome, Failure> {
        let fail = |why: String| Failure { why, remedy: String::new(), cancelled: false, crashed: false };
        let mut changed = false;
        for (nth, (key, value)) in changes(&invocation.step, invocation.op).into_iter().enumerate() {
            if self.script.fails.as_ref().is_some_and(|&(step, op, after)| {
                step == invocation.step && op == invocation.op && after == nth
            }) {
                return Err(fail("as the script says".into()));
            }
            let before = self.world.lock().unwrap().get(&key);
            if before == value {
                continue; // done by an earlier try, which also wrote the undo record
            }
            listener.record_undo(json!({ "key": key, "before": before })).map_err(fail)?;
            self.world.lock().unwrap().set(&key, value.as_deref());
            changed = true;
        }
        let count = changes(&invocation.step, invocation.op).len();
        if self.script.fails.as_ref().is_some_and(|&(step, op, after)| {
            step == invocation.step && op == invocation.op && after >= count
        }) {
            return Err(fail("as the script says".into()));
        }
        let outcome = if changed { Outcome::changed("done") } else { Outcome::already_done("was done") };
        Ok(outcome.fact(format!("{}-{}", invocation.step, invocation.op), &true))
    }

    fn answer(&self, invocation: &Invocation, listener: &dyn Listener) -> Result<Value, Failure> {
        let applied = |op: Op| {
            let world = self.world.lock().unwrap();
            changes(&invocation.step, op).iter().all(|(key, value)| world.get(key) == *value)
        };
        let value = match invocation.op {
            Op::Check if self.script.blocks == Some(invocation.step.as_str()) => {
                json!([Finding::blocker("blocked", "it is not as it must be", "make it so")])
            }
            Op::Check => json!([Finding::ok("fine", "it is as it must be")]),
            Op::Plan => json!([]),
            Op::Prepare | Op::EnterWindow | Op::Apply => json!(self.change(invocation, listener)?),
            Op::Verify if applied(Op::Apply) => json!(Verdict::holds("it is")),
            Op::Verify => json!(Verdict::broken("it is not", "look at it")),
            Op::Probe if self.script.probes && applied(invocation.of.unwrap_or(Op::Apply)) => {
                json!(Probe::Done { outcome: Outcome::changed("found done") })
            }
            Op::Probe => json!(Probe::RunAgain),
            Op::Rollback => {
                if self
                    .script
                    .rollback_fails
                    .is_some_and(|(step, of)| step == invocation.step && Some(of) == invocation.of)
                {
                    return Err(Failure {
                        why: "stuck".into(),
                        remedy: "pull".into(),
                        cancelled: false,
                        crashed: false,
                    });
                }
                for record in invocation.undo.iter().rev() {
                    let key = record["key"].as_str().unwrap();
                    self.world.lock().unwrap().set(key, record["before"].as_str());
                }
                json!(Undone::restored("put back"))
            }
            Op::Finalize => json!(Outcome::already_done("nothing")),
        };
        let misanswers = self.script.misanswers == Some((invocation.step.as_str(), invocation.op));
        Ok(if misanswers { json!({ "failed": "no route" }) } else { value })
    }
}

impl Caller for Steps {
    fn call<'a>(
        &'a self,
        _step: &'a PlannedStep,
        call: Called,
        listener: Arc<dyn Listener>,
        _cancel: CancellationToken,
    ) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            self.left.lock().unwrap().begun.extend(call.number);
            if self.script.hangs == Some((call.invocation.step.as_str(), call.invocation.op)) {
                let (mut left, number) = (self.left.lock().unwrap(), call.number.unwrap());
                if left.hung.is_none() {
                    left.hung = Some(number);
                    left.waiting.insert(number, call.invocation);
                    return Err("it hangs in the kernel".into());
                }
            }
            let result = self.answer(&call.invocation, listener.as_ref());
            if let Some(number) = call.number.filter(|_| call.invocation.op.changes()) {
                let mut left = self.left.lock().unwrap();
                let daemon_died = result.as_ref().is_err_and(|failure| failure.why.contains("killed"));
                match self.script.survives {
                    Survives::Never => {}
                    Survives::Always if daemon_died => drop(left.waiting.insert(number, call.invocation)),
                    Survives::UntilItRecords if daemon_died => {}
                    _ => drop(left.outcomes.insert(number, result.clone())),
                }
            }
            Ok(result)
        })
    }

    fn await_end<'a>(
        &'a self,
        step: &'a PlannedStep,
        call: Called,
        listener: Arc<dyn Listener>,
        cancel: CancellationToken,
    ) -> BoxFuture<'a, Result<RealEnd, String>> {
        Box::pin(async move {
            let number = call.number.unwrap();
            let waiting = self.left.lock().unwrap().waiting.remove(&number);
            if let Some(invocation) = waiting {
                // It records for the new daemon what the old one did not acknowledge, and goes on.
                let call = Called { invocation, ..call };
                return self.call(step, call, listener, cancel).await.map(Some);
            }
            let left = self.left.lock().unwrap();
            let end = left.outcomes.get(&number).cloned();
            let went_on = self.script.survives == Survives::Always && left.begun.contains(&number);
            assert!(end.is_some() || !went_on, "the world is looked at although the call went on");
            Ok(end)
        })
    }
}

/// Dies at one append: before it is durable, or right after.
struct MortalStore {
    inner: MemoryStore,
    left: Mutex<Option<(usize, bool)>>,
}

impl Store for MortalStore {
    fn append(&self, event: &Event) -> Result<Record, StoreError> {
        let dead = || StoreError {
            tried: "append to",
            path: "memory".into(),
            why: "killed".into(),
            remedy: "start again".into(),
        };
        let mut left = self.left.lock().unwrap();
        match left.as_mut() {
            Some((0, _)) => return Err(dead()),
            Some((n @ 1, after)) => {
                *n = 0;
                if *after {
                    self.inner.append(event)?;
                }
                return Err(dead());
            }
            Some((n, _)) => *n -= 1,
            None => {}
        }
        self.inner.append(event)
    }

    fn load(&self) -> Result<Vec<Record>, StoreError> {
        self.inner.load()
    }
}

struct NoSecrets;

impl Secrets for NoSecrets {
    fn secret(&self, _credential: &str) -> Result<Secret, String> {
        Err("there are none".into())
    }
}

struct Deaf;

impl Observer for Deaf {
    fn note(&self, _note: &Note<'_>) {}
}

/// Far after any event of the memory store. Nobody waits: what is slept is over at once.
#[derive(Default)]
struct LateClock {
    slept: Mutex<Duration>,
}

impl Clock for LateClock {
    fn now(&self) -> Timestamp {
        let slept = *self.slept.lock().unwrap();
        Timestamp::from_second(4_000_000_000).unwrap() + slept
    }

    fn monotonic(&self) -> Duration {
        *self.slept.lock().unwrap()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'_, ()> {
        *self.slept.lock().unwrap() += duration;
        Box::pin(async {})
    }
}

fn plan(dir: &std::path::Path, script: &Script) -> Plan {
    let step = |id: &str, role: Role| {
        let mut info = StepInfo::new(id, "simulated");
        info.role = role;
        PlannedStep {
            id: id.into(),
            plugin: PluginRef::BuiltIn(id.into()),
            info,
            config: Value::Null,
            credentials: Default::default(),
            allow: vec![],
        }
    };
    let mut steps = vec![
        step("storage", Role::Other),
        step("stop", Role::StopsSource),
        step("container", Role::StartsTarget),
        step("caches", Role::Other),
        step("route", Role::Routes),
        step("content", Role::Other),
    ];
    // It is applied right after the stop.
    if let Some(storage) = steps.first_mut() {
        storage.info.needs_source_stopped = true;
    }
    let program = Plan::program(&steps, &[1, 0, 2, 3, 4, 5]);
    Plan {
        instance: "test".into(),
        source: Source::default(),
        steps,
        program,
        on_failure: OnFailure::Rollback,
        soak: Soak {
            for_: Duration::from_secs(1),
            then: script.then.unwrap_or(Then::Commit),
            every: Duration::from_secs(1),
        },
        timeouts: Timeouts::default(),
        steps_dir: dir.into(),
    }
}

struct Lab {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    clock: Arc<LateClock>,
}

impl Lab {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Lab { dir: tempfile::tempdir().unwrap(), runtime, clock: Arc::default() }
    }

    /// Starts at `records`, dies at append `dies_at` if given. Answers the finish unless it died, and what was durable then.
    fn run(
        &self,
        script: &Script,
        world: &Arc<Mutex<World>>,
        left: &Arc<Mutex<Left>>,
        records: Vec<Record>,
        dies_at: Option<(usize, bool)>,
    ) -> (Option<Finish>, Vec<Record>) {
        let store =
            Arc::new(MortalStore { inner: MemoryStore::holding(records.clone()), left: Mutex::new(dies_at) });
        let steps = Steps { world: Arc::clone(world), script: script.clone(), left: Arc::clone(left) };
        let plan = plan(self.dir.path(), script);
        let started = started(&plan);
        let mut engine = Engine::new(
            plan,
            Arc::clone(&store) as Arc<dyn Store>,
            Arc::new(steps),
            Arc::new(NoSecrets),
            Arc::new(Deaf),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
        )
        .unwrap();
        let (_keep, mut commands) = tokio::sync::mpsc::channel(1);
        let finish = self.runtime.block_on(async {
            if records.is_empty() {
                engine.start(&started).ok()?;
            }
            engine.run(&mut commands).await.ok()
        });
        let durable = store.load().unwrap();
        (finish, durable)
    }

    /// As a daemon does that is started again after each death.
    fn run_killed(&self, script: &Script, deaths: &[(usize, bool)]) -> (Finish, World, usize) {
        let world = Arc::new(Mutex::new(World::new()));
        let left = Arc::default();
        let mut records = Vec::new();
        let mut died = 0;
        for &death in deaths {
            let (finish, durable) = self.run(script, &world, &left, records, Some(death));
            if let Some(finish) = finish {
                let world = world.lock().unwrap().clone();
                return (finish, world, died);
            }
            died += 1;
            records = durable;
        }
        let (finish, _) = self.run(script, &world, &left, records, None);
        let world = world.lock().unwrap().clone();
        (finish.expect("a run that is not killed ends"), world, died)
    }
}

fn started(plan: &Plan) -> Event {
    Event::Started {
        migration: "m".into(),
        instance: "test".into(),
        runbook: String::new(),
        runbook_digest: String::new(),
        plugins: BTreeMap::new(),
        version: "0".into(),
        outline: plan.outline(),
    }
}

/// The happy path, a rollback at the end, and every call failing after every number of its changes.
fn scripts() -> Vec<(String, Script)> {
    let mut scripts = vec![
        ("happy".to_owned(), Script::default()),
        ("rollback after the soak".into(), Script { then: Some(Then::Rollback), ..Script::default() }),
        ("a blocker".into(), Script { blocks: Some("caches"), ..Script::default() }),
    ];
    for step in ["storage", "stop", "container", "caches", "route", "content"] {
        for op in [Op::Prepare, Op::EnterWindow, Op::Apply] {
            let count = changes(step, op).len();
            for after in 0..=count {
                scripts.push((
                    format!("{step} fails in {op} after {after} changes"),
                    Script { fails: Some((step, op, after)), ..Script::default() },
                ));
            }
        }
    }
    // A call that fails after its last change and is killed before it can say so looks done to a probe: another end, as good.
    let failed_half_way =
        |script: &Script| script.fails.is_none_or(|(step, op, after)| after < changes(step, op).len());
    let probing = scripts.clone().into_iter().filter(|(_, script)| failed_half_way(script));
    scripts.extend(
        probing.map(|(name, script)| (format!("{name}, probes look"), Script { probes: true, ..script })),
    );
    for (how, survives) in
        [("until they record", Survives::UntilItRecords), ("calls survive", Survives::Always)]
    {
        let surviving = scripts.clone().into_iter().filter(|(_, script)| script.survives == Survives::Never);
        scripts.extend(
            surviving.map(|(name, script)| (format!("{name}, {how}"), Script { survives, ..script })),
        );
    }
    scripts
}

fn end_of(finish: &Finish) -> &End {
    match finish {
        Finish::Closed(end) => end,
        other => panic!("not an end: {other:?}"),
    }
}

#[test]
fn the_window_opens_when_users_are_sent_away_and_not_before() {
    let plan = plan(std::path::Path::new("/nowhere"), &Script::default());
    let mut events = vec![started(&plan)];
    let mut windows_after = |op: Op, step: usize| {
        let place = plan.program.iter().position(|at| at.op == op && at.step == step).unwrap();
        let (call, step) = (place as u64, plan.steps[step].id.clone());
        events.push(Event::Intent { call, place, step, op, of: None, attempt: 1 });
        let at = Timestamp::UNIX_EPOCH;
        let records = events.iter().cloned().zip(1..).map(|(event, seq)| Record { seq, at, event });
        windows(&View::of(&records.collect::<Vec<_>>())).len()
    };
    for step in [0, 1, 2, 3, 5] {
        assert_eq!(windows_after(Op::EnterWindow, step), 0);
    }
    assert_eq!(windows_after(Op::EnterWindow, 4), 1);
    assert_eq!(windows_after(Op::Apply, 1), 1);
}

#[test]
fn users_wait_until_the_route_is_applied_and_for_nothing_after_it() {
    let mut plan = plan(std::path::Path::new("/nowhere"), &Script::default());
    let told = |plan: &Plan, op: Op, step: usize| {
        let place = plan.program.iter().position(|at| at.op == op && at.step == step).unwrap();
        let calls = plan.until_served(place).iter().map(|at| format!("{} {}", at.op, plan.steps[at.step].id));
        calls.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(
        told(&plan, Op::Apply, 1),
        "verify stop, apply storage, verify storage, apply container, verify container, apply caches, verify caches, apply route"
    );
    assert_eq!(told(&plan, Op::Apply, 3), "verify caches, apply route");
    for (op, step) in [(Op::Check, 1), (Op::Prepare, 1), (Op::Apply, 4), (Op::Apply, 5), (Op::Finalize, 5)] {
        assert_eq!(told(&plan, op, step), "", "{op} of step {step}");
    }
    plan.steps[4].info.role = Role::Other;
    assert_eq!(told(&plan, Op::Apply, 4), "verify route, apply content, verify content");
}

#[test]
fn killed_at_every_append_it_ends_as_an_undisturbed_run() {
    let lab = Lab::new();
    let (mut points, mut runs) = (0, 0);
    for (name, script) in scripts() {
        let (finish, world, _) = lab.run_killed(&script, &[]);
        assert!(!world.two_connects, "{name}: two Connects");
        match end_of(&finish) {
            End::Committed => {
                assert!(world.target_runs && !world.source_runs, "{name}");
                assert_eq!(world.get("route").as_deref(), Some("target"), "{name}");
            }
            End::RolledBack { left } => {
                assert_eq!(world, World::new(), "{name}: the world is as it was");
                assert!(left.is_empty());
            }
            End::Blocked => assert_eq!(world, World::new(), "{name}: nothing was touched"),
        }
        for at in 1.. {
            let mut any = false;
            for after in [false, true] {
                let (again, world_again, died) = lab.run_killed(&script, &[(at, after)]);
                runs += 1;
                if died > 0 {
                    any = true;
                    points += 1;
                }
                assert_eq!(again, finish, "{name}: killed at append {at} (durable: {after})");
                assert_eq!(world_again, world, "{name}: killed at append {at} (durable: {after})");
            }
            if !any {
                break;
            }
        }
    }
    tell(&format!("killed at {points} points in {runs} runs of {} scenarios", scripts().len()));
    assert!(points > 6000, "the enumeration has shrunk to {points} points");
}

/// Also where the output of a test that passes is kept back.
fn tell(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[test]
fn killed_twice_in_one_run_it_ends_as_an_undisturbed_run() {
    let lab = Lab::new();
    let mut points = 0;
    for script in [
        Script::default(),
        Script { fails: Some(("route", Op::Apply, 1)), ..Script::default() },
        Script { fails: Some(("caches", Op::Apply, 1)), probes: true, ..Script::default() },
        Script { survives: Survives::Always, ..Script::default() },
        Script { fails: Some(("route", Op::Apply, 1)), survives: Survives::Always, ..Script::default() },
        Script {
            fails: Some(("caches", Op::Apply, 1)),
            survives: Survives::UntilItRecords,
            ..Script::default()
        },
    ] {
        let (finish, world, _) = lab.run_killed(&script, &[]);
        for first in 1..60 {
            for second in (1..60).step_by(3) {
                let after = (first + second) % 2 == 0;
                let (again, world_again, died) = lab.run_killed(&script, &[(first, after), (second, !after)]);
                points += usize::from(died == 2);
                assert_eq!(
                    (&again, &world_again),
                    (&finish, &world),
                    "killed at {first} and then at {second}"
                );
            }
        }
    }
    tell(&format!("killed twice at {points} pairs of points"));
    assert!(points > 2000, "the enumeration has shrunk to {points} pairs");
}

#[test]
fn nothing_is_done_beside_a_call_that_cannot_be_ended_and_its_real_end_is_learnt() {
    for hangs in [("storage", Op::Prepare), ("container", Op::Apply), ("route", Op::Apply)] {
        let lab = Lab::new();
        let script = Script { hangs: Some(hangs), ..Script::default() };
        let (world, left) = (Arc::new(Mutex::new(World::new())), Arc::default());
        let (finish, records) = lab.run(&script, &world, &left, vec![], None);
        assert_eq!(finish, None, "the run went on");
        let last = records.last().map(|record| &record.event);
        let Some(Event::Intent { step, op, .. }) = last else { panic!("{last:?}") };
        assert_eq!((step.as_str(), *op), hangs);
        let (finish, records) = lab.run(&script, &world, &left, records, None);
        assert_eq!(finish, Some(Finish::Closed(End::Committed)));
        let calls = records.iter().filter(
            |record| matches!(&record.event, Event::Intent { step, op, .. } if (step.as_str(), *op) == hangs),
        );
        assert_eq!(calls.count(), 1, "{hangs:?} was called again although it had gone on");
    }
}

#[test]
fn a_soak_that_nobody_watched_begins_anew() {
    let lab = Lab::new();
    let world = Arc::new(Mutex::new(World::new()));
    let (finish, _) = lab.run(&Script::default(), &world, &Arc::default(), vec![], None);
    assert!(matches!(finish, Some(Finish::Closed(_))), "{finish:?}");
    // By the clock it began long ago.
    assert!(*lab.clock.slept.lock().unwrap() >= Duration::from_secs(1), "it was over at once");
}
