//! What the double knows, and how it is to behave.

use super::{GROUP, MAIN_PID, UNIT};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A unit.
#[derive(Debug, Clone)]
pub struct Unit {
    pub id: String,
    pub active: String,
    pub sub: String,
    pub loaded: bool,
    pub enabled: bool,
    /// The link to `/dev/null` is there.
    pub mask_on_disk: bool,
    /// systemd has read it.
    pub mask_loaded: bool,
    pub fragment: String,
    pub group: String,
    pub pids: Vec<u32>,
    pub job: Option<u32>,
    pub kill_mode: String,
    pub stop_micros: u64,
    pub start_micros: u64,
    pub needs_reload: bool,
    /// The drop-ins that systemd has read.
    pub drop_ins: Vec<PathBuf>,
    pub triggered_by: Vec<String>,
    pub required_by: Vec<String>,
    pub behaviour: Behaviour,
    /// How the last run ended, in systemd's word.
    pub result: String,
    /// `ExecMainCode` and `ExecMainStatus`.
    pub main_end: (i32, i32),
    /// Made without a file: the names and values of its properties, as text.
    pub transient: Option<Vec<(String, String)>>,
}

impl Unit {
    pub fn named(id: &str) -> Unit {
        Unit {
            id: id.into(),
            active: "inactive".into(),
            sub: "dead".into(),
            loaded: true,
            enabled: false,
            mask_on_disk: false,
            mask_loaded: false,
            fragment: format!("/lib/systemd/system/{id}"),
            group: String::new(),
            pids: Vec::new(),
            job: None,
            kill_mode: "control-group".into(),
            stop_micros: 90_000_000,
            start_micros: 90_000_000,
            needs_reload: false,
            drop_ins: Vec::new(),
            triggered_by: Vec::new(),
            required_by: Vec::new(),
            behaviour: Behaviour::default(),
            result: "success".into(),
            main_end: (0, 0),
            transient: None,
        }
    }

    /// A Connect that serves.
    pub fn connect() -> Unit {
        Unit {
            active: "active".into(),
            sub: "running".into(),
            enabled: true,
            group: format!("/{GROUP}"),
            pids: vec![MAIN_PID, MAIN_PID + 1],
            ..Unit::named(UNIT)
        }
    }

    /// What lies on the disk, or what systemd has read of it.
    pub fn file_state(&self, on_disk: bool) -> &'static str {
        let masked = if on_disk { self.mask_on_disk } else { self.mask_loaded };
        match (self.loaded, masked, self.enabled) {
            (false, _, _) => "",
            (_, true, _) => "masked",
            (_, _, true) => "enabled",
            _ => "disabled",
        }
    }

    pub fn load_state(&self) -> &'static str {
        match (self.loaded, self.mask_loaded) {
            (_, true) => "masked",
            (true, _) => "loaded",
            _ => "not-found",
        }
    }

    /// A drop-in that was read asserts that something is not there which is.
    pub fn fails_its_assertions(&self) -> bool {
        let mask = format!("/etc/systemd/system/{}", self.id);
        let is_there = |path: &str| if path == mask { self.mask_on_disk } else { Path::new(path).exists() };
        self.drop_ins
            .iter()
            .filter_map(|path| std::fs::read_to_string(path).ok())
            .any(|text| text.lines().filter_map(|line| line.strip_prefix("AssertPathExists=!")).any(is_there))
    }

    pub fn is_running(&self) -> bool {
        self.active == "active"
    }
}

/// How jobs of a unit go.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// How they end.
    pub result: String,
    /// How long they take.
    pub takes: Duration,
    pub told: Told,
    /// The job takes effect.
    pub effective: bool,
    /// The job never ends.
    pub endless: bool,
    /// The processes that are left after a stop.
    pub leaves: Vec<u32>,
    /// How often somebody starts the unit between a stop and the mask.
    pub started_in_the_gap: u32,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            result: "done".into(),
            takes: Duration::from_millis(20),
            told: Told::Once,
            effective: true,
            endless: false,
            leaves: Vec::new(),
            started_in_the_gap: 0,
        }
    }
}

/// How the end of a job is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Once,
    Twice,
    Never,
    /// First the end of another job, with another result, then of this one.
    AfterAnother,
    /// Before the job's path is answered.
    BeforeReply,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    pub units: BTreeMap<String, Unit>,
    pub subscribers: BTreeSet<String>,
    /// What was asked that changes something: `StopUnit rstudio-connect.service`.
    pub asked: Vec<String>,
    pub next_job: u32,
    /// Properties of units that an older systemd does not have.
    pub unknown_properties: Vec<&'static str>,
    folder: PathBuf,
}

impl World {
    pub fn new(folder: &Path) -> World {
        let namespace = folder.join("proc/self/ns");
        std::fs::create_dir_all(&namespace).unwrap();
        std::os::unix::fs::symlink("pid:[1]", namespace.join("pid")).unwrap();
        std::fs::create_dir_all(folder.join("cgroup")).unwrap();
        World {
            units: BTreeMap::new(),
            subscribers: BTreeSet::new(),
            asked: Vec::new(),
            next_job: 1,
            unknown_properties: Vec::new(),
            folder: folder.into(),
        }
    }

    /// What stands for /run.
    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("runtime")
    }

    pub fn add(&mut self, unit: Unit) {
        self.show_processes(&unit);
        self.units.insert(unit.id.clone(), unit);
    }

    /// Writes the unit's processes into the tree of control groups.
    pub fn show_processes(&self, unit: &Unit) {
        if unit.group.is_empty() {
            return;
        }
        let folder = self.folder.join("cgroup").join(unit.group.trim_start_matches('/'));
        if unit.pids.is_empty() {
            let _ = std::fs::remove_dir_all(&folder);
            return;
        }
        std::fs::create_dir_all(&folder).unwrap();
        let pids: String = unit.pids.iter().map(|pid| format!("{pid}\n")).collect();
        std::fs::write(folder.join("cgroup.procs"), pids).unwrap();
        for pid in &unit.pids {
            self.run(*pid, "/opt/rstudio-connect/bin/connect", "pid:[1]");
        }
    }

    /// systemd reads all unit files.
    pub fn reload(&mut self) {
        for unit in self.units.values_mut() {
            unit.mask_loaded = unit.mask_on_disk;
            unit.needs_reload = false;
            let folder = self.folder.join("run").join(format!("{}.d", unit.id));
            let entries = std::fs::read_dir(folder).into_iter().flatten();
            unit.drop_ins = entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
                .collect();
        }
    }

    /// A process that `/proc` shows.
    pub fn run(&self, pid: u32, exe: &str, namespace: &str) {
        let dir = self.folder.join("proc").join(pid.to_string());
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("ns")).unwrap();
        std::os::unix::fs::symlink(exe, dir.join("exe")).unwrap();
        std::os::unix::fs::symlink(namespace, dir.join("ns/pid")).unwrap();
        std::fs::write(dir.join("cmdline"), format!("{exe}\0--config\0")).unwrap();
    }

    /// The process has ended.
    pub fn end(&self, pid: u32) {
        let _ = std::fs::remove_dir_all(self.folder.join("proc").join(pid.to_string()));
    }

    /// A job of the unit takes effect.
    pub fn carry_out(&mut self, name: &str, verb: &str) {
        let Some(unit) = self.units.get_mut(name) else { return };
        unit.job = None;
        if unit.behaviour.effective {
            if verb == "StopUnit" {
                unit.active = "inactive".into();
                unit.sub = "dead".into();
                let left = unit.behaviour.leaves.clone();
                let ended: Vec<u32> = unit.pids.iter().copied().filter(|pid| !left.contains(pid)).collect();
                unit.pids = left;
                for pid in ended {
                    let _ = std::fs::remove_dir_all(self.folder.join("proc").join(pid.to_string()));
                }
            } else if unit.active != "active" {
                unit.active = "active".into();
                unit.sub = "running".into();
                unit.pids = vec![MAIN_PID + 10];
            }
        }
        let unit = unit.clone();
        self.show_processes(&unit);
    }
}
