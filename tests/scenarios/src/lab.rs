//! A machine on which Connect serves content, with our package installed and a runbook in place.

use crate::artifacts::{Artifacts, target};
use connect_migrator_rig::{Cache, Image, Key, Machine, Snapshot, Suite};
use serde_json::Value;
use std::time::{Duration, Instant};

pub use crate::runbook::Runbook;

/// How long a migration may take in the emulated machine, also when the host is busy.
pub const MIGRATION_DEADLINE: Duration = Duration::from_secs(900);
/// How long one command may take there.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(240);
/// How long turning a Debian into a server with Connect may take.
const PROVISION_DEADLINE: Duration = Duration::from_secs(1800);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);

const PROVISION: &str = include_str!("guest/provision.sh");
const BEFORE: &str = include_str!("guest/before.sh");
const CONTENT: &str = include_str!("guest/content.sh");
const INSTALL: &str = include_str!("guest/install.sh");
const STORY: &str = include_str!("guest/story.sh");
const SECRETS: &str = include_str!("guest/secrets.sh");

/// Why a scenario failed, as text.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
/// What a scenario answers.
pub type Tried<T = ()> = Result<T, Failure>;

/// Fails a scenario.
#[macro_export]
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        let holds: bool = $holds;
        if !holds {
            return Err(format!($($why)+).into());
        }
    };
}

/// The state of the server before a migration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Before {
    /// Every file that matters, with owner, mode and digest; the unit; the containers.
    pub all: String,
    /// What may never change.
    pub kept: String,
    /// What users see.
    pub content: String,
}

/// See above.
#[derive(Debug)]
pub struct Lab {
    /// The machine.
    pub machine: Machine,
    /// What was, before anything was migrated.
    pub before: Before,
    /// What can be put into it.
    pub artifacts: Artifacts,
}

/// The cache of machines of this workspace.
#[must_use]
pub fn cache() -> Cache {
    Cache::new(target().join("rig"))
}

/// The bare machine, booted: of `suite` or the default one. Made once, then kept below `target/rig`.
///
/// # Errors
/// When the machine cannot be made.
pub fn booted(suite: Option<Suite>) -> Tried {
    let suite = suite.map_or_else(|| Suite::best_for_host().map(|best| best.suite), Ok)?;
    let cache = cache();
    Snapshot::booted(&cache, &Image::build(suite, &cache)?)?;
    Ok(())
}

/// The machine with Connect in it, as a snapshot that scenarios start from; made once, then kept below `target/rig`.
///
/// # Errors
/// When the machine cannot be made.
pub fn snapshot(suite: Suite, artifacts: &Artifacts) -> Tried<Snapshot> {
    let cache = cache();
    let booted = Snapshot::booted(&cache, &Image::build(suite, &cache)?)?;
    let mut parts = vec![PROVISION.into(), BEFORE.into(), CONTENT.into(), std::fs::read(&artifacts.standin)?];
    let scripts =
        ["build-image.sh", "build-deb.sh", "image/startup.sh", "deb/postinst", "deb/rstudio-connect.service"];
    for script in scripts {
        parts.push(std::fs::read(artifacts.image_scripts.join(script))?);
    }
    Ok(booted.prepared(&cache, "connect", &Key::of(parts), |machine| -> Tried {
        machine.copy_to(&artifacts.connect, "/root/lab/rstudio-connect.deb")?;
        machine.copy_to(&artifacts.standin, "/root/lab/standin")?;
        machine.copy_to(&artifacts.image_scripts, "/root/lab/package")?;
        machine.write_file("/root/lab/provision.sh", PROVISION)?;
        machine.write_file("/root/lab/before.sh", BEFORE)?;
        machine.write_file("/root/lab/content.sh", CONTENT)?;
        machine.check_within("bash /root/lab/provision.sh", PROVISION_DEADLINE)?;
        Ok(())
    })?)
}

/// The same with our package installed by apt and the credentials stored, so that not every scenario waits for that.
///
/// # Errors
/// When the machine cannot be made.
pub fn installed(suite: Suite, artifacts: &Artifacts) -> Tried<Snapshot> {
    let connect = snapshot(suite, artifacts)?;
    let parts = [INSTALL.into(), std::fs::read(&artifacts.package)?, std::fs::read(&artifacts.watcher)?];
    let key = Key::of(parts);
    Ok(connect.prepared(&cache(), "installed", &key, |machine| install(machine, artifacts))?)
}

/// Installs our package as an administrator does, and stores the credentials.
fn install(machine: &Machine, artifacts: &Artifacts) -> Tried {
    machine.copy_to(&artifacts.package, "/root/lab/connect-migrator.deb")?;
    machine.copy_to(&artifacts.watcher, "/root/lab/state-watcher")?;
    machine.write_file("/root/lab/install.sh", INSTALL)?;
    machine.check_within("bash /root/lab/install.sh", COMMAND_DEADLINE)?;
    Ok(())
}

impl Lab {
    /// A fresh machine from [`snapshot`], Connect serving, our package installed by apt, the runbook of `prod` written, its
    /// credential stored.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn start(snapshot: &Snapshot, artifacts: &Artifacts, runbook: &Runbook) -> Tried<Self> {
        let machine = Machine::from_snapshot(&cache(), snapshot)?;
        install(&machine, artifacts)?;
        let lab = Lab::on(machine, artifacts)?;
        lab.write_runbook(&runbook.text())?;
        Ok(lab)
    }

    /// A fresh machine from [`installed`], with the default runbook.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn fresh(installed: &Snapshot, artifacts: &Artifacts) -> Tried<Self> {
        let lab = Lab::on(Machine::from_snapshot(&cache(), installed)?, artifacts)?;
        lab.write_runbook(&Runbook::default().text())?;
        Ok(lab)
    }

    fn on(machine: Machine, artifacts: &Artifacts) -> Tried<Self> {
        // Written down before our package was installed: that it changes nothing is asserted along with the rest.
        let before = Before {
            all: machine.read_file("/root/lab/before.all")?,
            kept: machine.read_file("/root/lab/before.kept")?,
            content: machine.read_file("/root/lab/before.content")?,
        };
        Ok(Lab { machine, before, artifacts: artifacts.clone() })
    }

    /// Writes `/etc/connect-migrator/prod.toml`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_runbook(&self, text: &str) -> Tried {
        Ok(self.machine.write_file("/etc/connect-migrator/prod.toml", text)?)
    }

    /// Runs a command and answers what it printed, whatever its status.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub fn ask(&self, command: &str) -> Tried<String> {
        Ok(self.machine.run_within(command, COMMAND_DEADLINE)?.stdout.trim().to_owned())
    }

    /// Runs a command that must succeed.
    ///
    /// # Errors
    /// With its output when it does not.
    pub fn must(&self, command: &str) -> Tried<String> {
        Ok(self.machine.check_within(command, COMMAND_DEADLINE)?)
    }

    /// What must be the same again after a rollback, as it is now. Not while a container serves: its files come and go.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn all_now(&self) -> Tried<String> {
        self.must("bash /root/lab/before.sh all")
    }

    /// What may never change, as it is now.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn kept_now(&self) -> Tried<String> {
        self.must("bash /root/lab/before.sh kept")
    }

    /// What users see now.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn content_now(&self) -> Tried<String> {
        self.must("bash /root/lab/content.sh")
    }

    /// `systemctl start connect-migrator@prod`. `false` when it fails, as it must when the checks find a blocker.
    ///
    /// # Errors
    /// When it cannot be called.
    pub fn start_migration(&self) -> Tried<bool> {
        Ok(self.machine.run_within("systemctl start connect-migrator@prod", MIGRATION_DEADLINE)?.success())
    }

    /// `connect-migrator status prod --json`.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn status(&self) -> Tried<Value> {
        Ok(serde_json::from_str(&self.must("connect-migrator status prod --json")?)?)
    }

    /// Waits until the migration stands like this: `committed`, `rolled-back`, `blocked`, `waiting`.
    ///
    /// # Errors
    /// When it stands otherwise, or does not end.
    pub fn wait_standing(&self, wanted: &str) -> Tried<Value> {
        self.wait_any(&[wanted])
    }

    /// Waits until the migration stands in one of these ways.
    ///
    /// # Errors
    /// When it stands otherwise, or does not end.
    pub fn wait_any(&self, wanted: &[&str]) -> Tried<Value> {
        self.wait_any_within(wanted, MIGRATION_DEADLINE)
    }

    /// The same with a deadline of its own.
    ///
    /// # Errors
    /// When it stands otherwise, or does not end.
    pub fn wait_any_within(&self, wanted: &[&str], deadline: Duration) -> Tried<Value> {
        let until = Instant::now() + deadline;
        loop {
            let status = self.status()?;
            let standing = standing(&status);
            if wanted.contains(&standing) {
                return Ok(status);
            }
            let ended = ["committed", "rolled-back", "blocked", "waiting"].contains(&standing);
            let wanted = wanted.join(" or ");
            ensure!(!ended, "the migration is {standing}, not {wanted}");
            ensure!(Instant::now() < until, "the migration is still {standing}, not {wanted}");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until the migration soaks.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn wait_soak(&self) -> Tried {
        let until = Instant::now() + MIGRATION_DEADLINE;
        loop {
            let status = self.status()?;
            let phase = status.get("phase").and_then(Value::as_str).unwrap_or_default();
            let standing = standing(&status);
            if standing == "running" && phase == "soak" {
                return Ok(());
            }
            ensure!(
                matches!(standing, "running" | "none"),
                "the migration is {standing}, in {phase}, and should soak"
            );
            ensure!(Instant::now() < until, "the migration is still in {phase}, and should soak");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until a shell command succeeds.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_for(&self, what: &str, command: &str) -> Tried {
        self.machine.wait_for(what, MIGRATION_DEADLINE, command)?;
        Ok(())
    }

    /// The report, the journal and the containers, for a person who looks why a scenario failed.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub fn story(&self) -> Tried<String> {
        let out = self.machine.run_within(STORY, COMMAND_DEADLINE)?;
        Ok(out.stdout + &out.stderr)
    }

    /// Asserts that none of the lab's secrets stands where it must not.
    ///
    /// # Errors
    /// With where one stands.
    pub fn assert_no_secret(&self) -> Tried {
        self.machine.write_file("/root/lab/secrets.sh", SECRETS)?;
        let seen = self.must("bash /root/lab/secrets.sh")?;
        ensure!(seen.trim().is_empty(), "a secret stands in:\n{seen}");
        Ok(())
    }

    /// Asserts the good end: Connect in the container, the old unit inactive and masked, users served as before.
    ///
    /// # Errors
    /// With what is not so.
    pub fn assert_moved(&self) -> Tried {
        let unit = self.ask("systemctl is-active rstudio-connect; systemctl is-enabled rstudio-connect")?;
        ensure!(unit == "inactive\nmasked", "the old unit is {unit:?}");
        self.assert_container_stays()?;
        let content = self.content_now()?;
        let seen = difference(&self.before.content, &content);
        ensure!(seen.is_empty(), "content is not served as before:\n{seen}");
        let good = |line: &str| line.starts_with("200 ") || line.starts_with("101 ");
        ensure!(content.lines().count() > 3 && content.lines().all(good), "{content}");
        let changed = difference(&self.before.kept, &self.kept_now()?);
        ensure!(changed.is_empty(), "data or configuration was changed:\n{changed}");
        let (here, there) = (self.ask("hostname")?, self.served_by()?);
        ensure!(here != there, "the URL is still served by the host itself");
        self.assert_never_two()
    }

    /// The step of the runbook that runs the container.
    fn engine(&self) -> Tried<String> {
        self.ask("sed -nE 's/^uses = \"(docker|podman)\"$/\\1/p' /etc/connect-migrator/prod.toml")
    }

    /// Asserts that the container runs and comes up with the machine.
    fn assert_container_stays(&self) -> Tried {
        if self.engine()? == "podman" {
            let state = self.ask(
                "podman inspect -f '{{.State.Status}}' connect-prod; systemctl show -p ActiveState,WantedBy connect-prod | sort",
            )?;
            let good = "running\nActiveState=active\nWantedBy=multi-user.target";
            ensure!(state == good, "the container and its unit are {state:?}");
            return Ok(());
        }
        let state = self
            .ask("docker inspect -f '{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}' connect-prod")?;
        ensure!(state == "running unless-stopped" || state == "running always", "the container is {state:?}");
        Ok(())
    }

    /// Asserts that nothing of podman's is left but images.
    fn assert_no_podman(&self) -> Tried {
        let left = self.ask(
            "podman ps -aq; podman volume ls -q; systemctl list-unit-files --no-legend 'connect-prod*'; ls -A /etc/containers/systemd 2>/dev/null | grep -v '^users$'; systemctl is-active -q podman.socket && echo podman.socket",
        )?;
        ensure!(left.is_empty(), "left of podman's: {left}");
        Ok(())
    }

    /// Asserts the other good end: everything as before.
    ///
    /// # Errors
    /// With what is not so.
    pub fn assert_as_before(&self) -> Tried {
        self.wait_for(
            "the source to serve",
            "curl -fs -m 5 -o /dev/null http://connect.example.com/__ping__",
        )?;
        let changed = difference(&self.before.all, &self.all_now()?);
        ensure!(changed.is_empty(), "not as before:\n{changed}");
        let seen = difference(&self.before.content, &self.content_now()?);
        ensure!(seen.is_empty(), "content is not served as before:\n{seen}");
        let (here, there) = (self.ask("hostname")?, self.served_by()?);
        ensure!(here == there, "the URL is served by {there}, not by the host");
        if self.engine()? == "podman" {
            self.assert_no_podman()?;
        }
        self.assert_never_two()
    }

    /// Asserts that the migration ended in one of the two good ways, and that the machine is as it says.
    ///
    /// # Errors
    /// With what is not so.
    pub fn assert_good_end(&self) -> Tried<String> {
        self.assert_good_end_within(MIGRATION_DEADLINE)
    }

    /// The same with a deadline of its own.
    ///
    /// # Errors
    /// With what is not so.
    pub fn assert_good_end_within(&self, deadline: Duration) -> Tried<String> {
        let status = self.wait_any_within(&["committed", "rolled-back"], deadline)?;
        match standing(&status) {
            "committed" => self.assert_moved()?,
            _ => self.assert_as_before()?,
        }
        Ok(standing(&status).to_owned())
    }

    /// Asserts that no two copies of Connect were ever alive on the same database or data.
    ///
    /// # Errors
    /// With the violations.
    pub fn assert_never_two(&self) -> Tried {
        let out = self.machine.run("/opt/rstudio-connect/bin/standin violations")?;
        ensure!(out.success(), "two Connects were alive at once: {} {}", out.stdout, out.stderr);
        Ok(())
    }

    /// The host name that Connect reports through nginx.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn served_by(&self) -> Tried<String> {
        let text = self.must(
            "curl -fsS -m 10 -H @/root/lab/keys/admin.header http://connect.example.com/__api__/server_settings",
        )?;
        let settings: Value = serde_json::from_str(&text)?;
        Ok(settings.get("hostname").and_then(Value::as_str).unwrap_or_default().to_owned())
    }
}

/// Where a migration stands, from its status.
#[must_use]
pub fn standing(status: &Value) -> &str {
    status.get("standing").and_then(Value::as_str).unwrap_or("none")
}

/// The lines in which two texts differ; empty when they are the same.
#[must_use]
pub fn difference(before: &str, now: &str) -> String {
    let only = |a: &str, b: &str, sign: char| -> String {
        let b: std::collections::HashSet<&str> = b.lines().collect();
        a.lines().filter(|line| !b.contains(line)).take(40).map(|line| format!("{sign} {line}\n")).collect()
    };
    only(before, now, '-') + &only(now, before, '+')
}
