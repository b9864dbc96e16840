//! The lab whose Connect uses SQLite and local disk, and the runbook that moves it to a container on PostgreSQL and NFS.

use crate::artifacts::Artifacts;
use crate::ensure;
use crate::lab::{self, Lab, Runbook, Tried, difference, standing};
use connect_migrator_rig::{Key, Snapshot, Suite};
use serde_json::Value;
use std::time::Duration;

/// How long making this lab of the other one may take.
const PROVISION_DEADLINE: Duration = Duration::from_secs(900);

const LOCAL: &str = include_str!("guest/local.sh");
const BEFORE: &str = include_str!("guest/local-before.sh");
const COMPARE: &str = include_str!("guest/compare.sh");
const TWO: &str = include_str!("guest/two.sh");

/// The configuration of the host.
pub const GCFG: &str = "/etc/rstudio-connect/rstudio-connect.gcfg";
/// The data directory on local disk.
pub const OLD_DATA: &str = "/var/lib/connect-data";
/// A step that compares old and new, at the one moment at which nobody writes to either: the last pass has ended, the new server has
/// not begun.
pub const COMPARES: &str =
    "\n[[step]]\nid = \"compare\"\nuses = \"systemd/start\"\nwith = { unit = \"lab-compare.service\" }\n";
/// What it starts.
const COMPARE_UNIT: &str = "[Service]\nType=oneshot\nRemainAfterExit=yes\nTimeoutStartSec=300\n\
     ExecStart=/bin/bash /root/lab/compare.sh\nStandardOutput=truncate:/root/lab/compared\nStandardError=inherit\n";

/// The machine with that lab, our package installed; made once, then kept below `target/rig`.
///
/// # Errors
/// When the machine cannot be made.
pub fn snapshot(suite: Suite, artifacts: &Artifacts) -> Tried<Snapshot> {
    let installed = lab::installed(suite, artifacts)?;
    let key = Key::of([LOCAL, BEFORE, COMPARE, TWO]);
    Ok(installed.prepared(&lab::cache(), "local", &key, |machine| -> Tried {
        machine.write_file("/root/lab/before.sh", BEFORE)?;
        machine.write_file("/root/lab/compare.sh", COMPARE)?;
        machine.write_file("/root/lab/two.sh", TWO)?;
        machine.write_file("/root/lab/local.sh", LOCAL)?;
        machine.check_within("bash /root/lab/local.sh", PROVISION_DEADLINE)?;
        Ok(())
    })?)
}

/// The two steps that move database and data, as a scenario wants them.
#[derive(Debug, Clone)]
pub struct Relocation {
    /// `url` of the database step.
    pub url: String,
    /// The credential of its password.
    pub password: String,
    /// The export.
    pub export: String,
    /// Where it is mounted.
    pub mount: String,
    /// More settings of the storage step, each beginning with a comma.
    pub storage: String,
    /// Only the step of the data, without that of the database.
    pub without_database: bool,
}

impl Default for Relocation {
    fn default() -> Self {
        Relocation {
            url: "postgres://connect@db.example.com/connect?sslmode=verify-full&sslrootcert=/etc/ssl/lab/authority.pem"
                .into(),
            password: "postgres-password".into(),
            export: "127.0.0.1:/srv/nfs/connect".into(),
            mount: "/mnt/connect".into(),
            storage: String::new(),
            without_database: false,
        }
    }
}

impl Relocation {
    /// With more settings of the storage step.
    #[must_use]
    pub fn storage(settings: &str) -> Self {
        Relocation { storage: settings.into(), ..Relocation::default() }
    }

    /// As they stand in the runbook, before the stop.
    #[must_use]
    pub fn steps(&self) -> String {
        let Relocation { url, password, export, mount, storage, without_database } = self;
        let database = format!(
            "\n[[step]]\nid = \"database\"\nuses = \"postgres\"\nwith = {{ url = \"{url}\", password = {{ credential = \"{password}\" }} }}\n"
        );
        let database = if *without_database { "" } else { &database };
        format!(
            "{database}\n[[step]]\nid = \"storage\"\nuses = \"nfs\"\nwith = {{ export = \"{export}\", mount = \"{mount}\"{storage} }}\n"
        )
    }

    /// Put into a runbook.
    #[must_use]
    pub fn runbook(&self, rest: Runbook) -> Runbook {
        Runbook { before_stop: self.steps(), ..rest }
    }
}

impl Lab {
    /// Begins to look whether two Connects are alive at once.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn watch_for_two(&self) -> Tried {
        self.must("rm -f /root/lab/two-enough /root/lab/two-rounds; systemd-run --quiet --collect --unit=lab-two bash /root/lab/two.sh")?;
        Ok(())
    }

    /// Ends that, and asserts that there never were two.
    ///
    /// # Errors
    /// When there were, or nobody looked.
    pub fn never_two_seen(&self) -> Tried {
        self.must("touch /root/lab/two-enough; while systemctl is-active -q lab-two; do sleep 0.1; done")?;
        let seen = self.ask("cat /root/lab/two-seen")?;
        ensure!(seen.is_empty(), "two Connects were alive at once:\n{seen}");
        let rounds: u32 = self.ask("cat /root/lab/two-rounds")?.parse()?;
        ensure!(rounds > 20, "it was looked {rounds} times only");
        Ok(())
    }

    /// Makes the unit that [`COMPARES`] starts.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn can_compare(&self) -> Tried {
        // Not below /etc, which is looked at, nor below /run, which a cut of the power empties.
        self.must("mkdir -p /usr/local/lib/systemd/system")?;
        self.machine.write_file("/usr/local/lib/systemd/system/lab-compare.service", COMPARE_UNIT)?;
        self.must("systemctl daemon-reload")?;
        Ok(())
    }

    /// Asserts that this comparison was made and found no difference. Answers its last line.
    ///
    /// # Errors
    /// With the differences.
    pub fn compared_equal(&self) -> Tried<String> {
        let compared = self.ask("cat /root/lab/compared")?;
        let one_line = compared.lines().count() == 1 && compared.starts_with("compared ");
        ensure!(one_line, "old and new are not equal:\n{compared}");
        Ok(compared)
    }

    /// Asserts the good end of a relocation: [`Lab::assert_moved`], the host's configuration on the new database and storage, TLS.
    ///
    /// # Errors
    /// With what is not so.
    pub fn assert_relocated(&self) -> Tried {
        self.assert_moved()?;
        let gcfg = self.must(&format!("cat {GCFG}"))?;
        ensure!(
            gcfg.contains("Provider = postgres   ; one host") && gcfg.contains("DataDir = /mnt/connect"),
            "the configuration is\n{gcfg}"
        );
        ensure!(!gcfg.contains("lab-database-password"), "the password stands in clear in\n{gcfg}");
        let mounted = self.ask("findmnt -no FSTYPE,OPTIONS /mnt/connect")?;
        ensure!(
            mounted.starts_with("nfs4") && mounted.contains("vers=4.2") && mounted.contains("hard"),
            "mounted is {mounted:?}"
        );
        let unit = self.ask("systemctl is-enabled mnt-connect.mount")?;
        ensure!(unit == "enabled", "the mount unit is {unit}");
        let clear = self.ask(
            "cd /; runuser -u postgres -- psql -qAtc \"select count(*) filter (where ssl) || ' of ' || count(*) from pg_stat_ssl join pg_stat_activity using (pid) where usename = 'connect'\"",
        )?;
        let (encrypted, sessions) = clear.split_once(" of ").unwrap_or_default();
        ensure!(encrypted == sessions && sessions != "0", "{clear} sessions of Connect are encrypted");
        Ok(())
    }

    /// Starts a migration with this runbook after others have ended, and waits until it is this one that `status` tells of.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_another(&self, runbook: &str) -> Tried {
        let id = |lab: &Lab| -> Tried<String> {
            let status: Value =
                serde_json::from_str(&lab.ask("connect-migrator status prod --json")?).unwrap_or_default();
            Ok(status.get("migration").and_then(Value::as_str).unwrap_or_default().to_owned())
        };
        let before = id(self)?;
        self.write_runbook(runbook)?;
        ensure!(self.start_migration()?, "it did not start");
        ensure!(id(self)? != before, "the migration is still {before:?}");
        Ok(())
    }

    /// Asserts one of the two good ends.
    ///
    /// # Errors
    /// With what is not so.
    pub fn assert_good_relocation(&self) -> Tried<String> {
        let status = self.wait_any(&["committed", "rolled-back"])?;
        match standing(&status) {
            "committed" => self.assert_relocated()?,
            _ => self.assert_as_before()?,
        }
        Ok(standing(&status).to_owned())
    }

    /// What `status` says is being done now.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn doing(&self) -> Tried<String> {
        self.ask("systemctl show -P StatusText connect-migrator@prod")
    }

    /// Asserts that what may never change did not, though Connect goes on with another database.
    ///
    /// # Errors
    /// With what changed.
    pub fn assert_kept(&self) -> Tried {
        let changed = difference(&self.before.kept, &self.kept_now()?);
        ensure!(changed.is_empty(), "what may never change did:\n{changed}");
        Ok(())
    }
}

/// How long users were not served, by the status of a migration.
#[must_use]
pub fn window(status: &Value) -> f64 {
    status.pointer("/windows/0/seconds").and_then(Value::as_f64).unwrap_or(f64::NAN)
}
