//! A database or an export that is not fit to be moved to: named beforehand, with what to do about it, and nothing is touched.

use super::prerequisites::{Broken, named};
use super::{On, Scenario, local};
use crate::ensure;
use crate::lab::{Lab, Runbook, Tried};
use crate::local::Relocation;

pub(super) const ALL: &[Scenario] = &[local(
    "each unfit database and export is named by check with its remedy, and nothing is touched",
    On::None,
    On::One,
    unfit_targets,
)];

/// Where the file of who may come in lies.
const HBA: &str = "runuser -u postgres -- psql -qAtc 'show hba_file'";
/// PostgreSQL reads its configuration after it has answered.
const RELOADED: &str = r#"sql() { runuser -u postgres -- psql -qAtc "$1"; }
    before=$(sql 'select pg_conf_load_time()'); sql 'select pg_reload_conf()' >/dev/null
    timeout 60 sh -c 'until [ "$(runuser -u postgres -- psql -qAtc "select pg_conf_load_time()")" != "$0" ]; do sleep 0.1; done' "$before""#;
const PSQL: &str = "cd /; runuser -u postgres -- psql -qAtc";
const EXPORTS: &str = "/etc/exports";

fn broken(what: &'static str, key: &'static str, breaks: &str, mends: &str) -> Broken {
    let runbook = Relocation::default().runbook(Runbook::default());
    Broken { what, key, breaks: breaks.into(), mends: mends.into(), runbook }
}

fn named_so(what: &'static str, key: &'static str, relocation: &Relocation) -> Broken {
    let runbook = relocation.runbook(Runbook::default());
    Broken { what, key, breaks: String::new(), mends: String::new(), runbook }
}

fn exported(what: &'static str, key: &'static str, change: &str) -> Broken {
    broken(
        what,
        key,
        &format!("cp -p {EXPORTS} /root/lab/exports; {change}; exportfs -ra"),
        &format!("cp -p /root/lab/exports {EXPORTS}; chmod 755 /srv/nfs/connect; exportfs -ra"),
    )
}

fn all() -> Vec<Broken> {
    let url = |place: &str, authority: &str| Relocation {
        url: format!(
            "postgres://connect@{place}?sslmode=verify-full&sslrootcert=/etc/ssl/lab/{authority}.pem"
        ),
        ..Relocation::default()
    };
    vec![
        broken(
            "a database that is not empty",
            "empty",
            &format!("{PSQL} 'create table theirs (id int)' connect"),
            &format!("{PSQL} 'drop table theirs' connect"),
        ),
        named_so(
            "a wrong password",
            "login",
            &Relocation { password: "wrong-password".into(), ..Relocation::default() },
        ),
        broken(
            "a server without TLS",
            "tls",
            &format!("{PSQL} 'alter system set ssl = off'; {RELOADED}"),
            &format!("{PSQL} 'alter system reset ssl'; {RELOADED}"),
        ),
        named_so("a certificate of a stranger", "tls", &url("db.example.com/connect", "stranger")),
        named_so("a certificate for another name", "tls", &url("10.0.2.15/connect", "authority")),
        Broken {
            breaks: format!(
                "cd /; cp -p $({HBA}) /root/lab/hba
                 echo 'hostssl nowhere connect 10.0.2.0/24 scram-sha-256' >>$({HBA}); {RELOADED}"
            ),
            mends: format!("cd /; cat /root/lab/hba >$({HBA}); {RELOADED}"),
            ..named_so(
                "a database that is not there",
                "database",
                &url("db.example.com/nowhere", "authority"),
            )
        },
        named_so("nobody at that port", "reach", &url("db.example.com:5439/connect", "authority")),
        broken(
            "a user without rights",
            "rights",
            &format!("{PSQL} 'alter database connect owner to postgres' connect"),
            &format!("{PSQL} 'alter database connect owner to connect' connect"),
        ),
        broken(
            "the environment decides the provider",
            "environment-overrides",
            "cp -p /etc/default/rstudio-connect /root/lab/env; echo CONNECT_DATABASE_PROVIDER=sqlite >>/etc/default/rstudio-connect",
            "cp -p /root/lab/env /etc/default/rstudio-connect",
        ),
        named_so("a soft mount", "nfs-soft", &Relocation::storage(", options = \"nfsvers=4.2,soft\"")),
        named_so(
            "an export that is not there",
            "nfs-reachable",
            &Relocation { export: "127.0.0.1:/srv/nfs/nowhere".into(), ..Relocation::default() },
        ),
        exported(
            "root may not write",
            "nfs-write",
            &format!("sed -i s/no_root_squash/root_squash/ {EXPORTS}"),
        ),
        exported(
            "root may not give files away",
            "nfs-owners",
            &format!("sed -i s/no_root_squash/root_squash/ {EXPORTS}; chmod 777 /srv/nfs/connect"),
        ),
        broken(
            "an export that is not empty",
            "nfs-empty",
            "touch /srv/nfs/connect/theirs",
            "rm /srv/nfs/connect/theirs",
        ),
        broken(
            "an export without room",
            "nfs-room",
            "fallocate -l $(( $(df --output=avail -B1 /srv/nfs/connect | tail -n 1) - 9000000 )) /srv/nfs/connect/lost+found/full",
            "rm /srv/nfs/connect/lost+found/full",
        ),
        broken(
            "a mount point that is in use",
            "nfs-mount-point",
            "mkdir /mnt/connect && touch /mnt/connect/theirs",
            "rm -r /mnt/connect",
        ),
        named_so(
            "SQLite on NFS",
            "nfs-sqlite",
            &Relocation { without_database: true, ..Relocation::default() },
        ),
        broken(
            "the environment decides the data directory",
            "nfs-data-directory-overridden",
            "cp -p /etc/default/rstudio-connect /root/lab/env; echo CONNECT_SERVER_DATADIR=/var/lib/connect-data >>/etc/default/rstudio-connect",
            "cp -p /root/lab/env /etc/default/rstudio-connect",
        ),
    ]
}

fn unfit_targets(lab: &Lab) -> Tried {
    let mut wrong = Vec::new();
    for broken in all() {
        if let Err(why) = named(lab, &broken, false) {
            wrong.push(format!("{}: {why}", broken.what));
        }
        lab.must(&broken.mends)?;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    lab.assert_as_before()
}
