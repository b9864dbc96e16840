//! Each prerequisite broken on purpose, one at a time.

use super::{Scenario, one_with_all};
use crate::ensure;
use crate::lab::{Lab, Runbook, Tried, difference};
use serde_json::Value;

pub(super) const ALL: &[Scenario] = &[one_with_all(
    "each broken prerequisite is named by check with its remedy, blocks the start, and nothing is touched",
    prerequisites,
)];

const GCFG: &str = "/etc/rstudio-connect/rstudio-connect.gcfg";

/// A prerequisite and how it is broken.
pub(super) struct Broken {
    pub(super) what: &'static str,
    /// The finding that must be told.
    pub(super) key: &'static str,
    /// Shell commands.
    pub(super) breaks: String,
    /// Shell commands.
    pub(super) mends: String,
    pub(super) runbook: Runbook,
}

/// Broken by a change of the configuration file.
fn in_gcfg(what: &'static str, key: &'static str, change: &str) -> Broken {
    Broken {
        what,
        key,
        breaks: format!("cp -p {GCFG} /root/lab/gcfg; {change}"),
        mends: format!("cp -p /root/lab/gcfg {GCFG}"),
        runbook: Runbook::default(),
    }
}

/// Broken by what the runbook says.
fn in_runbook(what: &'static str, key: &'static str, runbook: Runbook) -> Broken {
    Broken { what, key, breaks: String::new(), mends: String::new(), runbook }
}

/// Broken by a file that is not there.
fn away(what: &'static str, key: &'static str, file: &str) -> Broken {
    Broken {
        what,
        key,
        breaks: format!("mv {file} /root/lab/away"),
        mends: format!("mv /root/lab/away {file}"),
        runbook: Runbook::default(),
    }
}

fn all() -> Vec<Broken> {
    let key = |name: &str| Runbook { key: name.into(), ..Runbook::default() };
    vec![
        in_gcfg(
            "SQLite in use",
            "database-sqlite",
            &format!("sed -i 's/^Provider = Postgres/Provider = sqlite/' {GCFG}"),
        ),
        in_gcfg(
            "data on local disk",
            "data-local",
            &format!(
                "cp -a /mnt/connect/data /srv/local-data; sed -i 's|^DataDir = .*|DataDir = /srv/local-data|' {GCFG}"
            ),
        ),
        in_gcfg(
            "unknown RunAs user",
            "run-as-unknown",
            &format!("printf '\\n[Applications]\\nRunAs = nobody-here\\n' >>{GCFG}"),
        ),
        in_gcfg(
            "configuration file syntax error",
            "config-syntax",
            &format!("sed -i 's/^\\[HTTP\\]/[HTTP/' {GCFG}"),
        ),
        in_runbook("version mismatch", "image-version", Runbook::tag("2026.02.1-ubuntu-24.04-std")),
        in_runbook("no image", "image-missing", Runbook::tag("2026.03.1-nowhere")),
        in_runbook("key of a non-administrator", "api-key-role", key("publisher-key")),
        in_runbook("expired key", "api-key-invalid", key("expired-key")),
        away("no licence", "licence-missing", "/var/lib/rstudio-connect/lab.lic"),
        away("secret.key missing", "secret-key-missing", "/mnt/connect/data/db/secret.key"),
        Broken {
            what: "port taken",
            key: "port-taken",
            breaks:
                "systemd-run --quiet --unit=lab-port systemd-socket-activate --accept -l 127.0.0.1:3940 cat; \
                     timeout 60 sh -c 'until ss -ltn | grep -q 127.0.0.1:3940; do sleep 0.1; done'"
                    .into(),
            mends: "systemctl stop lab-port; systemctl reset-failed lab-port 2>/dev/null; true".into(),
            runbook: Runbook::default(),
        },
        Broken {
            what: "proxy configuration already broken",
            key: "nginx-config-broken",
            breaks: "echo 'listen nowhere;' >/etc/nginx/conf.d/zz.conf".into(),
            mends: "rm /etc/nginx/conf.d/zz.conf".into(),
            runbook: Runbook::default(),
        },
    ]
}

fn prerequisites(lab: &Lab) -> Tried {
    let mut wrong = Vec::new();
    for broken in all() {
        if let Err(why) = named(lab, &broken, broken.key == "nginx-config-broken") {
            wrong.push(format!("{}: {why}", broken.what));
        }
        lab.must(&broken.mends)?;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    lab.must("rm -rf /srv/local-data")?;
    // And with nothing broken nothing blocks.
    lab.write_runbook(&Runbook::default().text())?;
    let good = lab.machine.run("connect-migrator check prod")?;
    ensure!(good.success(), "with nothing broken check answers {}:\n{}", good.status, good.stdout);
    lab.assert_as_before()
}

/// Breaks it, and asserts that `check` names it; with `start`, that a migration does not begin either.
pub(super) fn named(lab: &Lab, broken: &Broken, start: bool) -> Tried {
    lab.must(&broken.breaks)?;
    lab.write_runbook(&broken.runbook.text())?;
    let before = lab.all_now()?;
    let check = lab.machine.run("connect-migrator check prod --json")?;
    ensure!(check.status == 4, "check answers {}:\n{}{}", check.status, check.stdout, check.stderr);
    let steps: Value = serde_json::from_str(&check.stdout)?;
    let findings: Vec<&Value> = steps
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|step| step.get("findings").and_then(Value::as_array).into_iter().flatten())
        .collect();
    let text =
        |finding: &Value, key: &str| finding.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let found = findings
        .iter()
        .find(|finding| text(finding, "severity") == "blocker" && text(finding, "key") == broken.key);
    let Some(found) = found else {
        return Err(format!("no blocker `{}` among the findings:\n{}", broken.key, check.stdout).into());
    };
    ensure!(
        !text(found, "text").is_empty() && !text(found, "remedy").is_empty(),
        "it lacks text or remedy: {found}"
    );
    if start {
        ensure!(!lab.start_migration()?, "`systemctl start` succeeds");
        lab.wait_standing("blocked")?;
        let journal = lab.ask("journalctl -u connect-migrator@prod -o cat --no-pager")?;
        ensure!(journal.contains(broken.key), "the journal does not name it:\n{journal}");
    }
    let touched = difference(&before, &lab.all_now()?);
    ensure!(touched.is_empty(), "something was touched:\n{touched}");
    Ok(())
}
