//! The scenarios, and how they are run: each on a machine of its own that is thrown away.

mod after;
mod kills;
mod moves;
mod operator;
mod package;
mod prerequisites;
mod rollbacks;

use crate::artifacts::Artifacts;
use crate::lab::{self, Lab, Tried};
use connect_migrator_rig::{Snapshot, Suite};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How many machines run at once: a scenario waits a good part of its time, and each machine has two processors.
const MACHINES_AT_ONCE: usize = 2;

/// On which Debian releases a scenario runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// On each that this host runs well.
    Each,
    /// On the default one, for what does not depend on the release.
    One,
}

/// One behaviour, seen on a whole machine.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// States the behaviour.
    pub name: &'static str,
    /// Where it runs.
    pub on: On,
    /// Makes it happen on a fresh machine with the default runbook, and asserts the end.
    pub run: fn(&Lab) -> Tried,
}

const fn each(name: &'static str, run: fn(&Lab) -> Tried) -> Scenario {
    Scenario { name, on: On::Each, run }
}

const fn one(name: &'static str, run: fn(&Lab) -> Tried) -> Scenario {
    Scenario { name, on: On::One, run }
}

/// All of them, the longest first: two run at once.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [kills::ALL, after::ALL, prerequisites::ALL, operator::ALL, package::ALL, moves::ALL, rollbacks::ALL]
        .concat()
}

/// Runs those that are `wanted`, on `suite` or on every Debian that this host runs well, and tells each as it ends.
/// `keep` leaves the machine of a failed one running. Answers how many passed and failed.
///
/// # Errors
/// When there is no machine to run them on.
pub fn run(
    artifacts: &Artifacts,
    wanted: &dyn Fn(&Scenario) -> bool,
    suite: Option<Suite>,
    keep: bool,
) -> Tried<(usize, usize)> {
    let chosen: Vec<Scenario> = all().into_iter().filter(wanted).collect();
    if chosen.is_empty() {
        return Err("no scenario has such a name".into());
    }
    let suites = suites(suite)?;
    let mut jobs = VecDeque::new();
    for (place, suite) in suites.iter().enumerate() {
        let fits = |scenario: &&Scenario| scenario.on == On::Each || place == 0;
        let fitting: Vec<Scenario> = chosen.iter().filter(fits).copied().collect();
        if fitting.is_empty() {
            continue;
        }
        let snapshot = lab::installed(*suite, artifacts)?;
        jobs.extend(fitting.into_iter().map(|scenario| Job {
            scenario,
            suite: *suite,
            snapshot: snapshot.clone(),
        }));
    }
    println!("{} scenarios", jobs.len());
    let at_once = std::thread::available_parallelism().map_or(1, usize::from).min(MACHINES_AT_ONCE);
    let queue = Mutex::new(jobs);
    let count = Mutex::new((0, 0));
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let Some(job) = held(&queue).pop_front() else { return };
                    let passed = job.run(artifacts, keep);
                    let mut count = held(&count);
                    if passed { count.0 += 1 } else { count.1 += 1 }
                }
            });
        }
    });
    Ok(*held(&count))
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

struct Job {
    scenario: Scenario,
    suite: Suite,
    snapshot: Snapshot,
}

impl Job {
    fn run(&self, artifacts: &Artifacts, keep: bool) -> bool {
        let began = Instant::now();
        let name = self.scenario.name;
        let told = |word: &str| {
            println!("{word:<4} {name} ({}, {:.1} s)", self.suite, began.elapsed().as_secs_f64());
        };
        let lab = match Lab::fresh(&self.snapshot, artifacts) {
            Ok(lab) => lab,
            Err(error) => {
                told("FAIL");
                println!("{}", indented(&format!("no machine to run it on: {error}")));
                return false;
            }
        };
        let result = (self.scenario.run)(&lab);
        let Err(error) = result else {
            told("ok");
            return true;
        };
        let story = lab.story().unwrap_or_else(|error| format!("the machine tells no story: {error}"));
        told("FAIL");
        println!("{}", indented(&format!("{error}\n{story}")));
        if keep {
            println!("     The machine is left running. Log in with\n       {}", lab.machine.login_hint());
            lab.machine.keep();
        }
        false
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("     {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> = all().iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), all().len());
    }
}
