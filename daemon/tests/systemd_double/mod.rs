//! A small double of systemd on a private bus: as strict as the real one where callers go wrong.
//!
//! It sends `JobRemoved` only to those who subscribed, knows units, jobs, masks and control groups, and can be told to answer
//! badly.

#![allow(dead_code, reason = "each test file uses another part of it")]

pub mod bus;
pub mod manager;
pub mod scene;
pub mod transient;
pub mod web;
pub mod world;

use bus::Bus;
use connect_migrator::systemd::cgroup::Cgroups;
use connect_migrator::systemd::processes::Processes;
use connect_migrator::systemd::steps::Ground;
use connect_migrator::systemd::units::{BusAddress, Units};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use world::{Unit, World};

/// The unit of most tests.
pub const UNIT: &str = "rstudio-connect.service";
/// Where its processes are.
pub const GROUP: &str = "system.slice/rstudio-connect.service";
/// Its main process.
pub const MAIN_PID: u32 = 4242;

/// A machine: a bus, a systemd, control groups, processes.
pub struct Machine {
    pub bus: Bus,
    pub world: Arc<Mutex<World>>,
    server: Option<zbus::Connection>,
    folder: tempfile::TempDir,
}

impl Machine {
    /// A machine with an active [`UNIT`].
    pub async fn boot() -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::start(folder.path());
        let mut world = World::new(folder.path());
        world.add(Unit::connect());
        let world = Arc::new(Mutex::new(world));
        let server = manager::serve(&bus.address, &world).await;
        Machine { bus, world, server: Some(server), folder }
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn cgroup_root(&self) -> PathBuf {
        self.folder.path().join("cgroup")
    }

    pub fn proc_dir(&self) -> PathBuf {
        self.folder.path().join("proc")
    }

    pub async fn units(&self) -> Units {
        let cgroups = Cgroups::at(&self.cgroup_root(), Processes::at(&self.proc_dir()));
        Units::connect(BusAddress::At(self.bus.address.clone()), cgroups).await.unwrap()
    }

    pub fn runtime_units(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub fn ground(&self) -> Ground {
        Ground::at(&self.bus.address, &self.cgroup_root(), &self.proc_dir(), &self.runtime_units())
    }

    /// Looks at, or changes, the world.
    pub fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.world.lock().unwrap())
    }

    /// Looks at, or changes, [`UNIT`].
    pub fn unit<T>(&self, look: impl FnOnce(&mut Unit) -> T) -> T {
        self.world(|world| look(world.units.get_mut(UNIT).unwrap()))
    }

    /// Everybody is thrown off the bus, as when its daemon crashes.
    pub async fn lose_bus(&mut self) {
        self.server = None;
        self.bus.stop();
    }

    /// The bus is there again, at the same address, with the same systemd.
    pub async fn find_bus(&mut self) {
        self.bus = Bus::start(self.folder.path());
        self.world(|world| world.subscribers.clear());
        self.server = Some(manager::serve(&self.bus.address, &self.world).await);
    }

    /// What was asked of systemd, without mere questions.
    pub fn asked(&self) -> Vec<String> {
        self.world(|world| world.asked.clone())
    }
}

/// Waits until something holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
