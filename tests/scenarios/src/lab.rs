//! A machine on which Connect serves content, with our package installed and a runbook in place.

use crate::artifacts::{Artifacts, CONNECT_VERSION};
use connect_migrator_rig::{Image, Machine, Snapshot, Suite};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a migration may take in the emulated machine.
pub const MIGRATION_DEADLINE: Duration = Duration::from_secs(300);
/// How long one command may take there.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(120);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);

const PROVISION: &str = include_str!("guest/provision.sh");
const BEFORE: &str = include_str!("guest/before.sh");
const CONTENT: &str = include_str!("guest/content.sh");

/// Why a scenario failed, as text.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
/// What a scenario answers.
pub type Tried<T = ()> = Result<T, Failure>;

/// Fails a scenario.
#[macro_export]
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+).into());
        }
    };
}

/// The state of the server before a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

/// The machine with Connect in it, as a snapshot that scenarios start from; made once, then kept below `target/rig`.
///
/// # Errors
/// When the machine cannot be made.
pub fn snapshot(suite: Suite, artifacts: &Artifacts) -> Tried<Snapshot> {
    let image = Image::build(suite, &crate::artifacts::target().join("rig"))?;
    let mut key = Sha256::new();
    key.update(PROVISION);
    for file in [&artifacts.standin, &artifacts.image_scripts.join("build-image.sh")] {
        key.update(std::fs::read(file)?);
    }
    let key: String = key.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(Snapshot::make(&image, &key, |machine| {
        machine.check("mkdir -p /root/lab")?;
        machine.copy_to(&artifacts.connect, Path::new("/root/lab/rstudio-connect.deb"))?;
        machine.copy_to(&artifacts.standin, Path::new("/root/lab/standin"))?;
        machine.copy_to(&artifacts.image_scripts, Path::new("/root/lab/package"))?;
        machine.write_file(Path::new("/root/lab/provision.sh"), PROVISION.as_bytes())?;
        machine.write_file(Path::new("/root/lab/before.sh"), BEFORE.as_bytes())?;
        machine.write_file(Path::new("/root/lab/content.sh"), CONTENT.as_bytes())?;
        machine.check_within("bash /root/lab/provision.sh", Duration::from_secs(900))?;
        Ok(())
    })?)
}

/// The runbook of the lab. Each part can be replaced by a scenario.
#[derive(Debug, Clone)]
pub struct Runbook {
    /// Before the steps.
    pub head: String,
    /// The image.
    pub image: String,
    /// More settings of the container step, each beginning with a comma.
    pub container: String,
    /// Steps between the container and the caches.
    pub after_container: String,
    /// The site file.
    pub site: String,
    /// `soak`.
    pub soak: String,
    /// The credential of the key.
    pub key: String,
}

impl Default for Runbook {
    fn default() -> Self {
        Runbook {
            head: String::new(),
            image: format!("127.0.0.1:5000/posit/connect:{CONNECT_VERSION}-ubuntu-24.04-std"),
            container: String::new(),
            after_container: String::new(),
            site: "/etc/nginx/sites-enabled/connect".into(),
            soak: r#"{ for = "2s", then = "commit", every = "1s" }"#.into(),
            key: "connect-api-key".into(),
        }
    }
}

impl Runbook {
    /// As it stands in the file.
    #[must_use]
    pub fn text(&self) -> String {
        let Runbook { head, image, container, after_container, site, soak, key } = self;
        format!(
            r#"version = 1
soak = {soak}
{head}
[connect]
url = "http://connect.example.com"
api-key = {{ credential = "{key}" }}

[[step]]
id = "stop"
uses = "systemd/stop"

[[step]]
id = "container"
uses = "docker"
with = {{ image = "{image}", publish = "127.0.0.1:3940"{container} }}
{after_container}
[[step]]
id = "caches"
uses = "connect-api/clear-caches"

[[step]]
id = "route"
uses = "route-nginx"
with = {{ site = "{site}", upstream = "127.0.0.1:3940" }}

[[step]]
id = "content"
uses = "connect-api/rebuild"
with = {{ parallelism = 4 }}
"#
        )
    }
}

impl Lab {
    /// A fresh machine, Connect serving, our package installed by apt, the runbook of `prod` written, its credential stored.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn start(snapshot: &Snapshot, artifacts: &Artifacts, runbook: &Runbook) -> Tried<Self> {
        let machine = Machine::from_snapshot(snapshot)?;
        let lab = Lab { machine, before: Before { all: String::new(), kept: String::new(), content: String::new() } };
        lab.install(artifacts)?;
        lab.write_runbook(&runbook.text())?;
        lab.machine.check(
            "install -m 600 /root/lab/keys/admin /etc/connect-migrator/credentials/connect-api-key &&
             install -m 600 /root/lab/keys/publisher /etc/connect-migrator/credentials/publisher-key &&
             install -m 600 /root/lab/keys/expired /etc/connect-migrator/credentials/expired-key",
        )?;
        let before = lab.now()?;
        Ok(Lab { before, ..lab })
    }

    /// Installs our package as an administrator does.
    ///
    /// # Errors
    /// When apt fails.
    pub fn install(&self, artifacts: &Artifacts) -> Tried {
        self.machine.copy_to(&artifacts.package, Path::new("/root/connect-migrator.deb"))?;
        self.machine.check_within(
            "DEBIAN_FRONTEND=noninteractive apt-get install -qy /root/connect-migrator.deb 2>&1",
            COMMAND_DEADLINE,
        )?;
        Ok(())
    }

    /// Writes `/etc/connect-migrator/prod.toml`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_runbook(&self, text: &str) -> Tried {
        Ok(self.machine.write_file(Path::new("/etc/connect-migrator/prod.toml"), text.as_bytes())?)
    }

    /// What is now.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn now(&self) -> Tried<Before> {
        let look = |command: &str| self.machine.check_within(command, COMMAND_DEADLINE);
        Ok(Before {
            all: look("bash /root/lab/before.sh all")?,
            kept: look("bash /root/lab/before.sh kept")?,
            content: look("bash /root/lab/content.sh")?,
        })
    }

    /// `systemctl start connect-migrator@prod`. It fails when the checks find a blocker.
    ///
    /// # Errors
    /// When it cannot be called.
    pub fn start_migration(&self) -> Tried<bool> {
        let out = self.machine.run_within("systemctl start connect-migrator@prod", MIGRATION_DEADLINE)?;
        Ok(out.success())
    }

    /// `connect-migrator status prod --json`.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn status(&self) -> Tried<Value> {
        Ok(serde_json::from_str(&self.machine.check("connect-migrator status prod --json")?)?)
    }

    /// Waits until the migration stands like this: `committed`, `rolled-back`, `blocked`, `waiting`.
    ///
    /// # Errors
    /// With the journal when it stands otherwise, or does not end.
    pub fn wait_standing(&self, wanted: &str) -> Tried<Value> {
        let until = Instant::now() + MIGRATION_DEADLINE;
        loop {
            let status = self.status()?;
            let standing = status.get("standing").and_then(Value::as_str).unwrap_or("none").to_owned();
            if standing == wanted {
                return Ok(status);
            }
            let ended = ["committed", "rolled-back", "blocked", "waiting"].contains(&standing.as_str());
            if ended || Instant::now() > until {
                return Err(format!("the migration is {standing}, not {wanted}:\n{}", self.story()?).into());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until a shell command succeeds.
    ///
    /// # Errors
    /// With the journal when it does not in time.
    pub fn wait_for(&self, what: &str, command: &str) -> Tried {
        let until = Instant::now() + MIGRATION_DEADLINE;
        while !self.machine.run(command)?.success() {
            if Instant::now() > until {
                return Err(format!("waited in vain for {what}:\n{}", self.story()?).into());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// The report and the journal of the migration, for a person who looks why a scenario failed.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub fn story(&self) -> Tried<String> {
        let out = self.machine.run(
            "connect-migrator status prod; journalctl -u connect-migrator@prod -o short-precise --no-pager | tail -n 60;
             systemctl is-active rstudio-connect; docker ps -a; docker logs connect-prod 2>&1 | tail -n 5",
        )?;
        Ok(out.stdout)
    }

    /// Asserts the good end: Connect in the container, the old unit inactive and masked, users served as before.
    ///
    /// # Errors
    /// With what is not so.
    pub fn assert_moved(&self) -> Tried {
        let run = |command: &str| -> Tried<String> { Ok(self.machine.run(command)?.stdout.trim().to_owned()) };
        let unit = run("systemctl is-active rstudio-connect; systemctl is-enabled rstudio-connect")?;
        ensure!(unit == "inactive\nmasked", "the old unit is {unit:?}");
        let state = run("docker inspect -f '{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}' connect-prod")?;
        ensure!(state == "running unless-stopped" || state == "running always", "the container is {state:?}");
        let now = self.now()?;
        ensure!(
            now.content == self.before.content,
            "content is not served as before:\n{}\nbefore:\n{}",
            now.content,
            self.before.content
        );
        ensure!(now.content.lines().all(|line| line.starts_with("200 ") || line.starts_with("101 ")), "{}", now.content);
        ensure!(now.kept == self.before.kept, "data or configuration was changed:\n{}", difference(&self.before.kept, &now.kept));
        let here = run("hostname")?;
        let there = self.served_by()?;
        ensure!(here != there, "the URL is still served by the host itself");
        self.assert_never_two()
    }

    /// Asserts the other good end: everything as before.
    ///
    /// # Errors
    /// With what is not so.
    pub fn assert_as_before(&self) -> Tried {
        self.wait_for("the source to serve", "curl -fs -m 5 http://connect.example.com/__ping__ >/dev/null")?;
        let now = self.now()?;
        ensure!(now.all == self.before.all, "not as before:\n{}", difference(&self.before.all, &now.all));
        ensure!(now.content == self.before.content, "content is not served as before:\n{}", difference(&self.before.content, &now.content));
        let here = self.machine.run("hostname")?.stdout.trim().to_owned();
        let there = self.served_by()?;
        ensure!(here == there, "the URL is served by {there}, not by the host");
        self.assert_never_two()
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
        let text = self.machine.check(
            "curl -fsS -m 10 -H \"Authorization: Key $(cat /root/lab/keys/admin)\" http://connect.example.com/__api__/server_settings",
        )?;
        let settings: Value = serde_json::from_str(&text)?;
        Ok(settings.get("hostname").and_then(Value::as_str).unwrap_or_default().to_owned())
    }
}

/// The lines in which two texts differ.
fn difference(before: &str, now: &str) -> String {
    let only = |a: &str, b: &str, sign: char| -> String {
        let b: std::collections::HashSet<&str> = b.lines().collect();
        a.lines().filter(|line| !b.contains(line)).take(40).map(|line| format!("{sign} {line}\n")).collect()
    };
    only(before, now, '-') + &only(now, before, '+')
}
