//! The double's D-Bus objects.

use super::transient::{self, Properties};
use super::world::{Told, Unit, World};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zbus::message::Header;
use zbus::{Connection, OwnedObjectPath};

const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

pub type Shared = Arc<Mutex<World>>;
type Changes = Vec<(String, String, String)>;

/// systemd's own errors.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    #[zbus(error)]
    Bus(zbus::Error),
    NoSuchUnit(String),
    UnitExists(String),
    UnitMasked(String),
}

/// What a transient unit may be refused for: of systemd's own, and of the bus'.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop")]
enum StartRefusal {
    #[zbus(error)]
    Bus(zbus::Error),
    #[zbus(name = "systemd1.UnitExists")]
    UnitExists(String),
    #[zbus(name = "DBus.Error.PropertyReadOnly")]
    PropertyReadOnly(String),
}

/// Serves the world on the bus.
pub async fn serve(address: &str, world: &Shared) -> Connection {
    let connection = zbus::connection::Builder::address(address)
        .serve_at(MANAGER_PATH, Manager { world: Arc::clone(world) })
        .build()
        .await
        .unwrap();
    // Objects before the name: nobody may find the name without them.
    let names: Vec<String> = world.lock().unwrap().units.keys().cloned().collect();
    for name in names {
        show(&connection, world, &name).await;
    }
    connection.request_name("org.freedesktop.systemd1").await.unwrap();
    connection
}

fn unit_path(name: &str) -> OwnedObjectPath {
    let escaped: String = name
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("_{b:02x}") })
        .collect();
    OwnedObjectPath::try_from(format!("{MANAGER_PATH}/unit/{escaped}")).unwrap()
}

fn job_path(job: u32) -> OwnedObjectPath {
    OwnedObjectPath::try_from(format!("{MANAGER_PATH}/job/{job}")).unwrap()
}

async fn show(connection: &Connection, world: &Shared, name: &str) {
    let (path, world, name) = (unit_path(name), Arc::clone(world), name.to_owned());
    let server = connection.object_server();
    let service = UnitService { world: Arc::clone(&world), name: name.clone() };
    server.at(path.clone(), UnitObject { world, name }).await.unwrap();
    server.at(path, service).await.unwrap();
}

struct Manager {
    world: Shared,
}

impl Manager {
    fn ask(&self, what: &str, unit: &str) {
        self.world.lock().unwrap().asked.push(format!("{what} {unit}"));
    }

    async fn tell(connection: &Connection, world: &Shared, job: u32, unit: &str, result: &str) {
        // As the real one: without a subscriber there are no signals.
        if world.lock().unwrap().subscribers.is_empty() {
            return;
        }
        let body = (job, job_path(job), unit, result);
        let _ = connection.emit_signal(None::<&str>, MANAGER_PATH, MANAGER, "JobRemoved", &body).await;
    }

    async fn job(
        &self,
        verb: &'static str,
        name: String,
        connection: &Connection,
    ) -> Result<OwnedObjectPath, Refusal> {
        self.ask(verb, &name);
        let (job, behaviour) = {
            let mut world = self.world.lock().unwrap();
            let job = world.next_job;
            world.next_job += 1;
            let Some(unit) = world.units.get_mut(&name).filter(|unit| unit.loaded) else {
                return Err(Refusal::NoSuchUnit(format!("Unit {name} not loaded.")));
            };
            if verb != "StopUnit" && unit.mask_loaded {
                return Err(Refusal::UnitMasked(format!("Unit {name} is masked.")));
            }
            unit.job = Some(job);
            let mut behaviour = unit.behaviour.clone();
            if verb != "StopUnit" && unit.fails_its_assertions() {
                behaviour.result = "assert".into();
                unit.behaviour.effective = false;
            }
            (job, behaviour)
        };
        let told = behaviour.told;
        let (world, connection) = (Arc::clone(&self.world), connection.clone());
        let end = async move {
            tokio::time::sleep(behaviour.takes).await;
            if behaviour.endless {
                return;
            }
            let ours = world.lock().unwrap().units.get(&name).is_some_and(|unit| unit.job == Some(job));
            if !ours {
                return;
            }
            world.lock().unwrap().carry_out(&name, verb);
            if behaviour.told == Told::AfterAnother {
                Manager::tell(&connection, &world, job + 1000, &name, "failed").await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            for _ in 0..match behaviour.told {
                Told::Never => 0,
                Told::Twice => 2,
                _ => 1,
            } {
                Manager::tell(&connection, &world, job, &name, &behaviour.result).await;
            }
        };
        if told == Told::BeforeReply {
            end.await;
        } else {
            tokio::spawn(end);
        }
        Ok(job_path(job))
    }

    fn files(
        &self,
        what: &str,
        files: &[String],
        change: impl Fn(&mut Unit) -> Result<(), Refusal>,
    ) -> Result<Changes, Refusal> {
        let mut changes = Changes::new();
        for file in files {
            self.ask(what, file);
            let mut world = self.world.lock().unwrap();
            let unit = world
                .units
                .get_mut(file)
                .filter(|unit| unit.loaded)
                .ok_or_else(|| Refusal::NoSuchUnit(format!("Unit file {file} does not exist.")))?;
            change(unit)?;
            changes.push(("symlink".into(), format!("/etc/systemd/system/{file}"), "/dev/null".into()));
        }
        Ok(changes)
    }
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    async fn subscribe(&self, #[zbus(header)] header: Header<'_>) {
        let sender = header.sender().map(ToString::to_string).unwrap_or_default();
        self.world.lock().unwrap().subscribers.insert(sender);
    }

    async fn load_unit(&self, name: String, #[zbus(connection)] connection: &Connection) -> OwnedObjectPath {
        let known = self.world.lock().unwrap().units.contains_key(&name);
        if !known {
            let unit = Unit { loaded: false, fragment: String::new(), ..Unit::named(&name) };
            self.world.lock().unwrap().add(unit);
        }
        show(connection, &self.world, &name).await;
        unit_path(&name)
    }

    async fn stop_unit(
        &self,
        name: String,
        _mode: String,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, Refusal> {
        self.job("StopUnit", name, connection).await
    }

    async fn start_unit(
        &self,
        name: String,
        _mode: String,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, Refusal> {
        self.job("StartUnit", name, connection).await
    }

    async fn restart_unit(
        &self,
        name: String,
        _mode: String,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, Refusal> {
        self.job("RestartUnit", name, connection).await
    }

    async fn reload_unit(
        &self,
        name: String,
        _mode: String,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, Refusal> {
        self.job("ReloadUnit", name, connection).await
    }

    async fn mask_unit_files(
        &self,
        files: Vec<String>,
        runtime: bool,
        force: bool,
    ) -> Result<Changes, Refusal> {
        assert!(!runtime && !force);
        for file in &files {
            let mut world = self.world.lock().unwrap();
            let Some(unit) = world.units.get_mut(file) else { continue };
            if unit.behaviour.started_in_the_gap > 0 {
                unit.behaviour.started_in_the_gap -= 1;
                world.carry_out(file, "StartUnit");
            }
        }
        self.files("MaskUnitFiles", &files, |unit| {
            if unit.fragment.starts_with("/etc/systemd/system/") {
                return Err(Refusal::UnitExists(format!("File {} already exists.", unit.fragment)));
            }
            unit.mask_on_disk = true;
            Ok(())
        })
    }

    async fn unmask_unit_files(&self, files: Vec<String>, _runtime: bool) -> Result<Changes, Refusal> {
        self.files("UnmaskUnitFiles", &files, |unit| {
            unit.mask_on_disk = false;
            Ok(())
        })
    }

    async fn enable_unit_files(
        &self,
        files: Vec<String>,
        _runtime: bool,
        _force: bool,
    ) -> Result<(bool, Changes), Refusal> {
        let changes = self.files("EnableUnitFiles", &files, |unit| {
            unit.enabled = true;
            Ok(())
        })?;
        Ok((true, changes))
    }

    async fn disable_unit_files(&self, files: Vec<String>, _runtime: bool) -> Result<Changes, Refusal> {
        self.files("DisableUnitFiles", &files, |unit| {
            unit.enabled = false;
            Ok(())
        })
    }

    async fn get_unit_file_state(&self, file: String) -> Result<String, Refusal> {
        let world = self.world.lock().unwrap();
        match world.units.get(&file).filter(|unit| unit.loaded) {
            Some(unit) => Ok(unit.file_state(true).into()),
            None => Err(Refusal::NoSuchUnit(format!("Unit file {file} does not exist."))),
        }
    }

    async fn start_transient_unit(
        &self,
        name: String,
        mode: String,
        properties: Properties,
        _beside: Vec<(String, Properties)>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, StartRefusal> {
        assert_eq!(mode, "fail");
        self.ask("StartTransientUnit", &name);
        if self.world.lock().unwrap().units.contains_key(&name) {
            return Err(StartRefusal::UnitExists(format!("Unit {name} was already loaded.")));
        }
        let unknown = self.world.lock().unwrap().unknown_properties.clone();
        if let Some((property, _)) = properties.iter().find(|(name, _)| unknown.contains(&name.as_str())) {
            let told = format!("Cannot set property {property}, or unknown property.");
            return Err(StartRefusal::PropertyReadOnly(told));
        }
        transient::start(&self.world, &name, properties);
        show(connection, &self.world, &name).await;
        Ok(job_path(0))
    }

    async fn get_unit(&self, name: String) -> Result<OwnedObjectPath, Refusal> {
        if self.world.lock().unwrap().units.contains_key(&name) {
            return Ok(unit_path(&name));
        }
        Err(Refusal::NoSuchUnit(format!("Unit {name} not loaded.")))
    }

    async fn kill_unit(&self, name: String, whom: String, signal: i32) -> Result<(), Refusal> {
        assert_eq!(whom, "all");
        self.ask(&format!("KillUnit {signal}"), &name);
        transient::kill(&self.world, &name, signal)
            .ok_or_else(|| Refusal::NoSuchUnit(format!("Unit {name} not loaded.")))
    }

    async fn ref_unit(&self, name: String) -> Result<(), Refusal> {
        self.get_unit(name).await.map(drop)
    }

    async fn unref_unit(&self, name: String) -> Result<(), Refusal> {
        let mut world = self.world.lock().unwrap();
        match world.units.get(&name).map(|unit| unit.is_running()) {
            Some(false) => drop(world.units.remove(&name)),
            Some(true) => {}
            None => return Err(Refusal::NoSuchUnit(format!("Unit {name} not loaded."))),
        }
        Ok(())
    }

    async fn list_units_by_patterns(
        &self,
        states: Vec<String>,
        patterns: Vec<String>,
    ) -> Vec<transient::Listed> {
        assert!(states.is_empty());
        transient::listed(&self.world.lock().unwrap(), &patterns)
    }

    async fn reload(&self) {
        let mut world = self.world.lock().unwrap();
        world.asked.push("Reload".into());
        world.reload();
    }
}

struct UnitObject {
    world: Shared,
    name: String,
}

impl UnitObject {
    fn read<T>(&self, look: impl FnOnce(&Unit) -> T) -> T {
        // A unit that was forgotten between two questions.
        let gone = Unit { loaded: false, ..Unit::named(&self.name) };
        look(self.world.lock().unwrap().units.get(&self.name).unwrap_or(&gone))
    }
}

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl UnitObject {
    #[zbus(property)]
    async fn id(&self) -> String {
        self.read(|unit| unit.id.clone())
    }
    #[zbus(property)]
    async fn load_state(&self) -> String {
        self.read(|unit| unit.load_state().into())
    }
    #[zbus(property)]
    async fn active_state(&self) -> String {
        self.read(|unit| unit.active.clone())
    }
    #[zbus(property)]
    async fn sub_state(&self) -> String {
        self.read(|unit| unit.sub.clone())
    }
    #[zbus(property)]
    async fn unit_file_state(&self) -> String {
        self.read(|unit| unit.file_state(false).into())
    }
    #[zbus(property)]
    async fn fragment_path(&self) -> String {
        self.read(|unit| if unit.mask_loaded { String::new() } else { unit.fragment.clone() })
    }
    #[zbus(property)]
    async fn drop_in_paths(&self) -> Vec<String> {
        self.read(|unit| unit.drop_ins.iter().map(|path| path.display().to_string()).collect())
    }
    #[zbus(property)]
    async fn need_daemon_reload(&self) -> bool {
        self.read(|unit| unit.needs_reload)
    }
    #[zbus(property)]
    async fn triggered_by(&self) -> Vec<String> {
        self.read(|unit| unit.triggered_by.clone())
    }
    #[zbus(property)]
    async fn required_by(&self) -> Vec<String> {
        self.read(|unit| unit.required_by.clone())
    }
    #[zbus(property)]
    async fn job(&self) -> (u32, OwnedObjectPath) {
        match self.read(|unit| unit.job) {
            Some(job) => (job, job_path(job)),
            None => (0, OwnedObjectPath::try_from("/").unwrap()),
        }
    }
}

struct UnitService {
    world: Shared,
    name: String,
}

impl UnitService {
    fn read<T>(&self, look: impl FnOnce(&Unit) -> T) -> T {
        // A unit that was forgotten between two questions.
        let gone = Unit { loaded: false, ..Unit::named(&self.name) };
        look(self.world.lock().unwrap().units.get(&self.name).unwrap_or(&gone))
    }
}

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl UnitService {
    #[zbus(property, name = "MainPID")]
    async fn main_pid(&self) -> u32 {
        self.read(|unit| unit.pids.first().copied().filter(|_| unit.is_running()).unwrap_or(0))
    }
    #[zbus(property)]
    async fn control_group(&self) -> String {
        self.read(|unit| if unit.pids.is_empty() { String::new() } else { unit.group.clone() })
    }
    #[zbus(property, name = "Type")]
    async fn kind(&self) -> String {
        "simple".into()
    }
    #[zbus(property)]
    async fn restart(&self) -> String {
        "always".into()
    }
    #[zbus(property)]
    async fn kill_mode(&self) -> String {
        self.read(|unit| unit.kill_mode.clone())
    }
    #[zbus(property)]
    async fn result(&self) -> String {
        self.read(|unit| unit.result.clone())
    }
    #[zbus(property)]
    async fn exec_main_code(&self) -> i32 {
        self.read(|unit| unit.main_end.0)
    }
    #[zbus(property)]
    async fn exec_main_status(&self) -> i32 {
        self.read(|unit| unit.main_end.1)
    }
    #[zbus(property, name = "TimeoutStopUSec")]
    async fn stop_timeout(&self) -> u64 {
        self.read(|unit| unit.stop_micros)
    }
    #[zbus(property, name = "TimeoutStartUSec")]
    async fn start_timeout(&self) -> u64 {
        self.read(|unit| unit.start_micros)
    }
}
