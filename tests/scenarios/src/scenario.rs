//! The scenarios, and how they are run: each on a machine of its own that is thrown away.

mod after;
mod bus;
mod first_steps;
mod images;
mod kills;
mod moves;
mod operator;
mod package;
mod package_states;
mod podman;
mod prerequisites;
mod relocation_faults;
mod relocations;
mod rollbacks;
mod round_trips;
mod unfit_targets;

use crate::artifacts::Artifacts;
use crate::lab::{self, Lab, Tried};
use crate::local;
use connect_migrator_rig::{Snapshot, Suite};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How many machines run at once: a scenario waits a good part of its time, and each machine has two processors.
const MACHINES_AT_ONCE: usize = 2;

/// On which Debian releases a scenario runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// On each that this host runs well.
    Each,
    /// On the default one.
    One,
    /// On the one beside the default one, where this host runs two.
    Other,
    /// On none: only when all of it is asked for, or it is named.
    None,
}

/// The machine that a scenario starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scene {
    /// The vendor's prerequisites hold: PostgreSQL and shared storage.
    Shared,
    /// Connect uses SQLite and local disk.
    Local,
}

impl Scene {
    fn snapshot(self, suite: Suite, artifacts: &Artifacts) -> Tried<Snapshot> {
        match self {
            Scene::Shared => lab::installed(suite, artifacts),
            Scene::Local => local::snapshot(suite, artifacts),
        }
    }
}

/// One behaviour, seen on a whole machine.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// States the behaviour.
    pub name: &'static str,
    /// What it starts from.
    pub scene: Scene,
    /// Where it runs every time.
    pub on: On,
    /// Where it runs when all of it is asked for: more than `on` if the release may matter.
    pub on_with_all: On,
    /// Makes it happen on a fresh machine with the default runbook, and asserts the end.
    pub run: fn(&Lab) -> Tried,
}

/// Where another scenario shows as much on the default release.
const fn other_or_each(name: &'static str, run: fn(&Lab) -> Tried) -> Scenario {
    Scenario { name, scene: Scene::Shared, on: On::Other, on_with_all: On::Each, run }
}

/// The release may matter.
const fn one_or_each(name: &'static str, run: fn(&Lab) -> Tried) -> Scenario {
    Scenario { name, scene: Scene::Shared, on: On::One, on_with_all: On::Each, run }
}

/// The release does not matter.
const fn one(name: &'static str, run: fn(&Lab) -> Tried) -> Scenario {
    Scenario { name, scene: Scene::Shared, on: On::One, on_with_all: On::One, run }
}

/// The release does not matter, and it takes long: only with everything.
const fn one_with_all(name: &'static str, run: fn(&Lab) -> Tried) -> Scenario {
    Scenario { name, scene: Scene::Shared, on: On::None, on_with_all: On::One, run }
}

/// The same, on each Debian.
const fn each_with_all(name: &'static str, run: fn(&Lab) -> Tried) -> Scenario {
    Scenario { name, scene: Scene::Shared, on: On::None, on_with_all: On::Each, run }
}

/// The same on the lab whose Connect uses SQLite and local disk.
const fn local(name: &'static str, on: On, on_with_all: On, run: fn(&Lab) -> Tried) -> Scenario {
    Scenario { name, scene: Scene::Local, on, on_with_all, run }
}

/// All of them, the longest first: two run at once.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [
        kills::ALL,
        after::ALL,
        prerequisites::ALL,
        operator::ALL,
        bus::ALL,
        first_steps::ALL,
        package::ALL,
        package_states::ALL,
        podman::ALL,
        moves::ALL,
        rollbacks::ALL,
        relocations::ALL,
        relocation_faults::ALL,
        unfit_targets::ALL,
        round_trips::ALL,
        images::ALL,
    ]
    .concat()
}

/// What is to be run.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Only those whose name contains one of these; empty: every one.
    pub only: Vec<String>,
    /// Only on this Debian.
    pub suite: Option<Suite>,
    /// On every Debian on which the outcome may differ.
    pub all: bool,
    /// Leave the machine of a failed one running.
    pub keep: bool,
}

impl Choice {
    fn has(&self, scenario: &Scenario) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| scenario.name.contains(part.as_str()))
    }

    /// Where to run what, in order. On the second Debian first: its machine is made while the first one is at work.
    fn jobs(&self, suites: &[Suite]) -> VecDeque<(Scenario, Suite)> {
        let on = |scenario: &Scenario| if self.all { scenario.on_with_all } else { scenario.on };
        let mut jobs = VecDeque::new();
        for (place, suite) in suites.iter().enumerate().rev() {
            let fits = |scenario: &Scenario| {
                let here = match on(scenario) {
                    On::Each => true,
                    On::One => place == 0,
                    On::Other => place + 1 == suites.len(),
                    On::None => place == 0 && !self.only.is_empty(),
                };
                self.has(scenario) && here
            };
            jobs.extend(all().into_iter().filter(fits).map(|scenario| (scenario, *suite)));
        }
        jobs
    }
}

/// Runs what was chosen, and tells each as it ends. Answers how many passed and failed.
///
/// # Errors
/// When there is no machine to run them on.
pub fn run(artifacts: &Artifacts, choice: &Choice) -> Tried<(usize, usize)> {
    let jobs = choice.jobs(&suites(choice.suite)?);
    if jobs.is_empty() {
        return Err("no scenario has such a name".into());
    }
    println!("{} scenarios", jobs.len());
    let at_once = std::thread::available_parallelism().map_or(1, usize::from).min(MACHINES_AT_ONCE);
    let scenes = Scenes::default();
    let queue = Mutex::new(jobs);
    let passed = Mutex::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let Some((scenario, suite)) = held(&queue).pop_front() else { return };
                    match run_one(&scenario, suite, &scenes, artifacts, choice.keep) {
                        Ok(()) => *held(&passed) += 1,
                        Err(why) => held(&failed).push(format!("{} ({suite}): {why}", scenario.name)),
                    }
                }
            });
        }
    });
    let failed = held(&failed);
    if !failed.is_empty() {
        println!("\nfailed:\n{}", indented(&failed.join("\n")));
    }
    Ok((*held(&passed), failed.len()))
}

/// The snapshots that scenarios start from, each made when its first scenario wants it, while others go on.
#[derive(Debug, Default)]
struct Scenes(Mutex<BTreeMap<(Suite, Scene), Place>>);

/// Locked while its snapshot is made.
type Place = Arc<Mutex<Option<Snapshot>>>;

impl Scenes {
    fn of(&self, scene: Scene, suite: Suite, artifacts: &Artifacts) -> Tried<Snapshot> {
        let place = Arc::clone(held(&self.0).entry((suite, scene)).or_default());
        let mut place = held(&place);
        let snapshot = match place.take() {
            Some(snapshot) => snapshot,
            None => scene.snapshot(suite, artifacts)?,
        };
        *place = Some(snapshot.clone());
        Ok(snapshot)
    }
}

/// Those to run on, the default one first.
fn suites(wanted: Option<Suite>) -> Tried<Vec<Suite>> {
    if let Some(suite) = wanted {
        suite.runs_here()??;
        return Ok(vec![suite]);
    }
    let first = Suite::best_for_host()?.suite;
    let mut suites = vec![first];
    for suite in Suite::ALL.into_iter().filter(|suite| *suite != first) {
        match suite.runs_here()? {
            Ok(()) => suites.push(suite),
            Err(why) => println!("{suite} is left out: {why}"),
        }
    }
    Ok(suites)
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one, and tells it.
///
/// # Errors
/// When it failed, with why in one line.
fn run_one(
    scenario: &Scenario,
    suite: Suite,
    scenes: &Scenes,
    artifacts: &Artifacts,
    keep: bool,
) -> Result<(), String> {
    let told = |word: &str, began: Instant| {
        println!("{word:<4} {} ({suite}, {:.1} s)", scenario.name, began.elapsed().as_secs_f64());
    };
    let scene = scenes.of(scenario.scene, suite, artifacts);
    let began = Instant::now();
    let lab = match scene.and_then(|snapshot| Lab::fresh(&snapshot, artifacts)) {
        Ok(lab) => lab,
        Err(error) => {
            told("FAIL", began);
            let why = format!("no machine to run it on: {error}");
            println!("{}", indented(&why));
            return Err(first_line(&why));
        }
    };
    let Err(error) = (scenario.run)(&lab).and_then(|()| lab.assert_no_secret()) else {
        told("ok", began);
        return Ok(());
    };
    let story = lab.story().unwrap_or_else(|error| format!("the machine tells no story: {error}"));
    told("FAIL", began);
    println!("{}", indented(&format!("{error}\n{story}")));
    if keep {
        println!("     The machine is left running. Log in with\n       {}", lab.machine.login_hint());
        lab.machine.keep();
    }
    Err(first_line(&error.to_string()))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("     {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_there_runs_on_each_debian_every_time() {
        let jobs = Choice::default().jobs(&[Suite::Trixie, Suite::Bookworm]);
        let runs = |scenario: Scenario, on: Suite| {
            jobs.iter().any(|(s, suite)| s.name == scenario.name && *suite == on)
        };
        assert!(runs(moves::ALL[0], Suite::Bookworm) && runs(first_steps::ALL[0], Suite::Trixie));
        let alone = Choice::default().jobs(&[Suite::Trixie]);
        assert_eq!(alone.len(), jobs.len());
        let all = Choice { all: true, ..Choice::default() }.jobs(&[Suite::Trixie, Suite::Bookworm]);
        assert_eq!(all.iter().filter(|(s, _)| s.name == moves::ALL[0].name).count(), 2);
    }

    #[test]
    fn only_what_is_named_runs_and_on_one_debian_if_that_is_named() {
        let only = vec!["docker dies".to_owned()];
        let choice = Choice { only, all: true, ..Choice::default() };
        assert_eq!(choice.jobs(&[Suite::Trixie, Suite::Bookworm]).len(), 2);
        assert_eq!(choice.jobs(&[Suite::Bookworm]).len(), 1);
    }

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> = all().iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), all().len());
    }
}
