//! From heartbeats and locks, seen over time, to the verdict that another copy is alive.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::{Copy, LOCK_KEPT_MILLIS, STALE_MILLIS};

/// One copy's sign of life.
#[derive(Debug, Clone)]
pub(super) struct Heartbeat {
    pub(super) copy: Copy,
    pub(super) beat: i64,
}

/// What one look at a place shows.
pub(super) struct Sight {
    /// `None`: the place has no lock.
    pub(super) lock_is_ours: Option<bool>,
    pub(super) others: Vec<Heartbeat>,
}

/// Turns sights over time into verdicts. Pure: time is given.
#[derive(Default)]
pub(super) struct Judge {
    seen: HashMap<String, (Heartbeat, Instant)>,
    convicted: HashSet<String>,
    refused_since: Option<Instant>,
}

/// What a sight means.
pub(super) struct Verdict {
    /// Copies alive beside us, each told once.
    pub(super) alive: Vec<Copy>,
    /// Heartbeats of copies that are dead.
    pub(super) gone: Vec<String>,
}

impl Judge {
    pub(super) fn look(&mut self, now: Instant, sight: &Sight) -> Verdict {
        let mut verdict = Verdict { alive: Vec::new(), gone: Vec::new() };
        let locked_out = sight.lock_is_ours == Some(false);
        let mut still_there = HashSet::new();
        for heartbeat in &sight.others {
            let id = &heartbeat.copy.id;
            still_there.insert(id.clone());
            let (first, since) = self.seen.entry(id.clone()).or_insert_with(|| (heartbeat.clone(), now));
            if first.beat != heartbeat.beat {
                (*first, *since) = (heartbeat.clone(), now);
                verdict.alive.push(heartbeat.copy.clone());
            } else if !locked_out && now.duration_since(*since) >= Duration::from_millis(STALE_MILLIS) {
                verdict.gone.push(id.clone());
            }
        }
        // A heartbeat that its owner took away while we were up: it stopped cleanly, beside us.
        self.seen.retain(|id, (heartbeat, _)| {
            if !still_there.contains(id) {
                verdict.alive.push(heartbeat.copy.clone());
            }
            still_there.contains(id)
        });
        for id in &verdict.gone {
            self.seen.remove(id);
        }
        if locked_out {
            let since = *self.refused_since.get_or_insert(now);
            if now.duration_since(since) >= Duration::from_millis(LOCK_KEPT_MILLIS) {
                match sight.others.first() {
                    Some(heartbeat) => verdict.alive.push(heartbeat.copy.clone()),
                    None => verdict.alive.push(unknown()),
                }
            }
        } else {
            self.refused_since = None;
        }
        verdict.alive.retain(|copy| self.convicted.insert(copy.id.clone()));
        verdict
    }

    pub(super) fn is_suspicious(&self) -> bool {
        self.refused_since.is_some() || self.seen.keys().any(|id| !self.convicted.contains(id))
    }
}

pub(super) fn unknown() -> Copy {
    let text = || "unknown".to_owned();
    Copy { id: text(), hostname: text(), boot_id: text(), pid: 0, started: text() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(lock_is_ours: Option<bool>, beats: &[(&str, i64)]) -> Sight {
        let others = beats
            .iter()
            .map(|(id, beat)| Heartbeat { copy: Copy { id: (*id).to_owned(), ..unknown() }, beat: *beat })
            .collect();
        Sight { lock_is_ours, others }
    }

    fn ids(verdict: &Verdict) -> Vec<&str> {
        verdict.alive.iter().map(|c| c.id.as_str()).collect()
    }

    #[test]
    fn a_moving_heartbeat_is_another_copy_and_told_once() {
        let (mut judge, t) = (Judge::default(), Instant::now());
        assert!(ids(&judge.look(t, &sight(None, &[("a", 4)]))).is_empty());
        assert_eq!(ids(&judge.look(t, &sight(None, &[("a", 5)]))), ["a"]);
        assert!(ids(&judge.look(t, &sight(None, &[("a", 6)]))).is_empty());
    }

    #[test]
    fn a_heartbeat_left_by_a_killed_copy_is_forgotten_without_a_violation() {
        let (mut judge, t) = (Judge::default(), Instant::now());
        judge.look(t, &sight(Some(true), &[("a", 4)]));
        let verdict = judge.look(t + Duration::from_millis(STALE_MILLIS), &sight(Some(true), &[("a", 4)]));
        assert!(verdict.alive.is_empty());
        assert_eq!(verdict.gone, ["a"]);
        assert!(judge.look(t, &sight(Some(true), &[])).alive.is_empty());
        assert!(!judge.is_suspicious());
    }

    #[test]
    fn a_heartbeat_taken_away_beside_us_is_a_copy_that_ran_beside_us() {
        let (mut judge, t) = (Judge::default(), Instant::now());
        judge.look(t, &sight(None, &[("a", 4)]));
        assert!(judge.is_suspicious());
        assert_eq!(ids(&judge.look(t, &sight(None, &[]))), ["a"]);
    }

    #[test]
    fn a_lock_that_stays_taken_is_a_violation_even_of_a_frozen_copy() {
        let (mut judge, t) = (Judge::default(), Instant::now());
        judge.look(t, &sight(Some(false), &[]));
        assert!(judge.is_suspicious());
        let kept = t + Duration::from_millis(LOCK_KEPT_MILLIS);
        assert_eq!(ids(&judge.look(kept, &sight(Some(false), &[]))), ["unknown"]);
    }

    #[test]
    fn a_lock_that_a_dead_copy_gives_back_late_is_none() {
        let (mut judge, t) = (Judge::default(), Instant::now());
        judge.look(t, &sight(Some(false), &[("a", 1)]));
        let later = t + Duration::from_millis(300);
        assert!(judge.look(later, &sight(Some(true), &[("a", 1)])).alive.is_empty());
    }
}
