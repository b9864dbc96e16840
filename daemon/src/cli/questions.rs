//! What is asked before something is done that cannot simply be taken back: what will really be done, as things stand.

use crate::engine::windows;
use crate::state::{Decision, View};
use connect_migrator_sdk::Op;
use std::io::{IsTerminal, Write};

/// What taking the way back will do. `None`: how things stand may not be read.
pub(super) fn rollback(view: Option<&View>) -> String {
    let Some(view) = view else {
        return "What the migration has changed will be put back. If Connect runs in the container already, it is stopped there and \
                started again on the host; users are not served meanwhile."
            .into();
    };
    let decided = match view.decision {
        Some(Decision::Rollback { .. }) => "It is being rolled back already. ",
        _ => "",
    };
    let undone = undone(view);
    let put_back = if undone.is_empty() {
        "Nothing is to be put back".to_owned()
    } else {
        format!("What these steps did is put back, in this order: {}", undone.join(", "))
    };
    let users = match windows(view).last() {
        None if undone.is_empty() => "Connect serves on the host as before; the migration ends.",
        None => "Connect serves on the host meanwhile.",
        Some(span) if span.closed.is_none() => {
            "Users are not served now, and will be when Connect runs on the host again."
        }
        Some(_) => {
            "Connect will be stopped in the container and started again on the host; users are not served meanwhile."
        }
    };
    format!("{decided}{put_back}. {users}")
}

/// What a commit will do.
pub(super) fn commit(_: Option<&View>) -> String {
    "Connect will stay in the container, and what only a rollback needs is removed: there will be no way back.".into()
}

/// The steps that wrote down how they are undone and have not been, the newest first.
fn undone(view: &View) -> Vec<&str> {
    let mut steps: Vec<&str> = Vec::new();
    for call in view.calls.iter().rev().filter(|call| !call.undo.is_empty()) {
        let back = view.tries(call.place, Op::Rollback, Some(call.op)).any(|back| back.answer().is_some());
        if !back && !steps.contains(&call.step.as_str()) {
            steps.push(&call.step);
        }
    }
    steps
}

/// Asks, where there is somebody who can be asked.
pub(super) fn agreed(question: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        complain!("{question}\nNot asked, because this is no terminal; say `--yes`.");
        return false;
    }
    say!("{question}\nGo on? [y/N] ");
    let mut answer = String::new();
    std::io::stdout().flush().is_ok()
        && std::io::stdin().read_line(&mut answer).is_ok()
        && matches!(answer.trim(), "y" | "Y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{CallResult, Event, MemoryStore, Outline, OutlineStep, Phase, Place, Store};
    use connect_migrator_sdk::Role;
    use serde_json::json;
    use std::collections::BTreeMap;

    const STEPS: [(&str, Role); 3] =
        [("stop", Role::StopsSource), ("container", Role::StartsTarget), ("route", Role::Routes)];

    /// The view after so many calls of an undisturbed run: checks, prepares, applies each with its verify.
    fn after(calls: usize) -> View {
        let step = |(id, role): &(&str, Role)| OutlineStep {
            id: (*id).into(),
            uses: (*id).into(),
            summary: String::new(),
            role: *role,
            allow: vec![],
        };
        let place = |step, op, phase| Place { step, op, phase };
        let every = |op, phase| (0..STEPS.len()).map(move |step| place(step, op, phase));
        let applies =
            (0..STEPS.len()).flat_map(|step| [Op::Apply, Op::Verify].map(|op| place(step, op, Phase::Apply)));
        let program: Vec<Place> =
            every(Op::Check, Phase::Check).chain(every(Op::Prepare, Phase::Prepare)).chain(applies).collect();
        let store = MemoryStore::default();
        let started = Event::Started {
            migration: "m".into(),
            instance: "prod".into(),
            runbook: String::new(),
            runbook_digest: String::new(),
            plugins: BTreeMap::new(),
            version: "0".into(),
            outline: Outline { steps: STEPS.iter().map(step).collect(), program: program.clone() },
        };
        store.append(&started).unwrap();
        for (index, place) in program.iter().enumerate().take(calls) {
            let (call, op) = (index as u64, place.op);
            let step = STEPS[place.step].0.to_owned();
            store.append(&Event::Intent { call, place: index, step, op, of: None, attempt: 1 }).unwrap();
            if matches!(op, Op::Prepare | Op::Apply) {
                store.append(&Event::Undo { call, data: json!({}) }).unwrap();
            }
            let answer = match op {
                Op::Check => json!([]),
                Op::Verify => json!({"verdict": "holds", "evidence": "seen"}),
                _ => json!({"done": "changed", "evidence": []}),
            };
            store
                .append(&Event::Outcome { call, result: CallResult::Answered { answer, probed: false } })
                .unwrap();
        }
        if calls == program.len() {
            store.append(&Event::SoakStarted).unwrap();
        }
        View::of(&store.load().unwrap())
    }

    #[test]
    fn the_question_says_what_rollback_does_in_each_phase() {
        let phases = [("check", 2), ("prepare", 5), ("window", 8), ("soak", 12)];
        let mut told: Vec<String> = phases
            .iter()
            .map(|(name, calls)| format!("{name}: {}", rollback(Some(&after(*calls)))))
            .collect();
        told.push(format!("not known: {}", rollback(None)));
        insta::assert_snapshot!(told.join("\n\n"));
    }
}
