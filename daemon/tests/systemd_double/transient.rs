//! Transient units: really started, without their sandbox.

use super::manager::Shared;
use super::world::{Unit, World};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::Arc;
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

pub type Properties = Vec<(String, OwnedVariant)>;
pub type Listed =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

const EXITED: i32 = 1;
const KILLED: i32 = 2;

/// Starts the process that the properties describe. As the real one, holds its ends of standard input, output and error until it
/// has ended, and forgets a unit only when it has ended and nobody holds it.
pub fn start(world: &Shared, name: &str, properties: Properties) {
    let get =
        |property: &str| properties.iter().find(|(name, _)| name == property).map(|(_, value)| &**value);
    let fd = |property: &str| -> OwnedFd {
        let Some(Variant::Fd(fd)) = get(property) else { panic!("{name} has no {property}") };
        fd.as_fd().try_clone_to_owned().unwrap()
    };
    let Some(Variant::Array(commands)) = get("ExecStart") else { panic!("{name} has nothing to start") };
    let Some(Variant::Structure(command)) = commands.iter().next() else { panic!("{commands:?}") };
    let [Variant::Str(program), Variant::Array(words), Variant::Bool(false)] = command.fields() else {
        panic!("{command:?}")
    };
    let words: Vec<String> = words.iter().map(text).collect();
    let Some(Variant::Array(environment)) = get("Environment") else { panic!("{name} has no environment") };
    let mut command = Command::new(program.as_str());
    command.arg0(&words[0]).args(&words[1..]).env_clear().process_group(0).current_dir("/");
    for pair in environment.iter().map(text) {
        let (key, value) = pair.split_once('=').unwrap();
        command.env(key, value);
    }
    if let Some(Variant::Array(folders)) = get("RuntimeDirectory") {
        for folder in folders.iter().map(text) {
            std::fs::create_dir_all(world.lock().unwrap().run_dir().join(folder)).unwrap();
        }
    }
    let held = ["StandardInputFileDescriptor", "StandardOutputFileDescriptor", "StandardErrorFileDescriptor"]
        .map(fd);
    let again = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
    command.stdin(again(&held[0])).stdout(again(&held[1])).stderr(again(&held[2]));
    let mut child = command.spawn().unwrap();
    drop(command);
    let shown = properties.iter().map(|(name, value)| (name.clone(), format!("{}", **value))).collect();
    world.lock().unwrap().units.insert(
        name.into(),
        Unit {
            active: "active".into(),
            sub: "running".into(),
            pids: vec![child.id()],
            transient: Some(shown),
            ..Unit::named(name)
        },
    );
    let (world, name) = (Arc::clone(world), name.to_owned());
    std::thread::spawn(move || {
        let status = child.wait().unwrap();
        // As with `KillMode=control-group`.
        let _ = killpg(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGKILL);
        let mut world = world.lock().unwrap();
        let run_dir = world.run_dir().join(name.trim_end_matches(".service"));
        if let Some(unit) = world.units.get_mut(&name) {
            unit.main_end = match status.code() {
                Some(code) => (EXITED, code),
                None => (KILLED, status.signal().unwrap()),
            };
            unit.pids.clear();
            let (active, result) = match unit.main_end {
                (EXITED, 0) => ("inactive", "success"),
                (EXITED, _) => ("failed", "exit-code"),
                _ => ("failed", "signal"),
            };
            (unit.active, unit.result) = (active.into(), result.into());
        }
        drop(world);
        let _ = std::fs::remove_dir_all(run_dir);
        drop(held);
    });
}

/// Sends a signal to the processes; `None` when there is no such unit.
pub fn kill(world: &Shared, name: &str, signal: i32) -> Option<()> {
    let pids = world.lock().unwrap().units.get(name)?.pids.clone();
    for pid in pids {
        let _ = killpg(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::try_from(signal).unwrap());
    }
    Some(())
}

/// Patterns with one `*`.
pub fn listed(world: &World, patterns: &[String]) -> Vec<Listed> {
    let fits = |name: &str| {
        patterns.iter().any(|pattern| {
            let (start, end) = pattern.split_once('*').unwrap();
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        })
    };
    let none = || OwnedObjectPath::try_from("/").unwrap();
    world
        .units
        .values()
        .filter(|unit| fits(&unit.id))
        .map(|unit| {
            let state =
                (unit.id.clone(), String::new(), "loaded".into(), unit.active.clone(), unit.sub.clone());
            (state.0, state.1, state.2, state.3, state.4, String::new(), none(), 0, String::new(), none())
        })
        .collect()
}

fn text(value: &Variant<'_>) -> String {
    match value {
        Variant::Str(text) => text.to_string(),
        other => panic!("{other:?} is no text"),
    }
}
