//! `migrate db`: copies SQLite to PostgreSQL.
//!
//! <https://docs.posit.co/connect/admin/database/migration/>

use std::io::{IsTerminal, Write};
use std::path::Path;

use super::{Flags, load, runtime, tuning};
use crate::failure::Failure;
use crate::live;
use crate::settings::Provider;
use crate::store::{Row, Store, TABLES, Table, VISITS};
use crate::tuning::MigrateFault;

const USAGE: &str = "usage: migrate COMMAND\n\ncommands:\n  db    copy the SQLite database to PostgreSQL\n  help  \
                     print this";
const DB_USAGE: &str = "usage: migrate db [flags]\n\nflags:\n  --config FILE  (default \
                        /etc/rstudio-connect/rstudio-connect.gcfg)\n";
/// Releases that leave instrumentation data behind do not have it.
const DATA_USAGE: &str = "  -data KIND     core, instrumentation or all (default all)\n";
const MORE_USAGE: &str = "  --drop-all     drop all existing data in the target first\n  --verify       only compare\n  -yes           \
                          do not ask";

fn usage(instrumentation: bool) -> String {
    format!("{DB_USAGE}{}{MORE_USAGE}", if instrumentation { DATA_USAGE } else { "" })
}

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let mut flags = Flags::new(args);
    let help = flags.switch("help") | flags.switch("h");
    match flags.word().as_deref() {
        Some("help") => {
            println!("{USAGE}");
            Ok(())
        }
        Some("db") if help => {
            // Without a configuration only what is baked in counts.
            println!("{}", usage(tuning(Path::new("/nonexistent/standin"))?.migrate_instrumentation));
            Ok(())
        }
        Some("db") => db(flags),
        _ => Err(Failure::Usage(USAGE.to_owned())),
    }
}

fn db(mut flags: Flags) -> Result<(), Failure> {
    let config = flags.config()?;
    let (verify, drop_all, yes) = (flags.switch("verify"), flags.switch("drop-all"), flags.switch("yes"));
    let tuning = tuning(&config)?;
    let instrumentation = tuning.migrate_instrumentation;
    let everything = if instrumentation { "all" } else { "core" };
    let data = if instrumentation { flags.value("data")? } else { None };
    let data = data.unwrap_or_else(|| everything.to_owned());
    flags.end(&usage(instrumentation))?;
    if !["core", "instrumentation", "all"].contains(&data.as_str()) {
        return Err(Failure::Usage(format!("-data {data}: core, instrumentation or all is expected")));
    }
    let settings = load(&config)?;
    if settings.provider == Provider::Postgres {
        return Err(Failure::Refused(
            "Database.Provider is postgres already: the tool is run while it is still sqlite".to_owned(),
        ));
    }
    if live::is_running(&settings)? {
        return Err(Failure::Refused("The migration can only be run when Connect is stopped".to_owned()));
    }
    if !verify && !yes {
        confirm()?;
    }
    let job = Job { verify, drop_all, fault: tuning.migrate_fault };
    runtime()?.block_on(async {
        if data != "instrumentation" {
            let tables: Vec<&Table> = TABLES.iter().collect();
            let source = Store::open_sqlite(&settings).await?;
            job.copy(&tables, &source, &Store::open_postgres(&settings).await?).await?;
        }
        if data != "core" {
            match Store::open_visits_sqlite(&settings, false).await? {
                Some(source) => {
                    job.copy(&[&VISITS], &source, &Store::open_visits_postgres(&settings).await?).await?;
                }
                None => println!("There is no instrumentation data."),
            }
        }
        println!("Migration complete.");
        Ok(())
    })
}

fn confirm() -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Refused("Not confirmed: give -yes when there is no terminal".to_owned()));
    }
    print!("Migrate the database? [y/N] ");
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    if answer.trim().eq_ignore_ascii_case("y") {
        Ok(())
    } else {
        Err(Failure::Refused("Not confirmed".to_owned()))
    }
}

struct Job {
    verify: bool,
    drop_all: bool,
    fault: MigrateFault,
}

impl Job {
    async fn copy(&self, tables: &[&Table], source: &Store, target: &Store) -> Result<(), Failure> {
        if !self.verify {
            self.rows(tables, source, target).await?;
        }
        for table in tables.iter().filter(|t| t.migrated) {
            let sql = format!("SELECT {} FROM {}", table.column_names(), table.name);
            let sorted = |mut rows: Vec<Row>| {
                rows.sort_by_key(|r| format!("{r:?}"));
                rows
            };
            let same = sorted(source.query(&sql, &[]).await?) == sorted(target.query(&sql, &[]).await?);
            if !same && self.fault != MigrateFault::LoseRow {
                return Err(Failure::Refused(format!("Verification failed: table {} differs", table.name)));
            }
            println!("Verified {}", table.name);
        }
        Ok(())
    }

    async fn rows(&self, tables: &[&Table], source: &Store, target: &Store) -> Result<(), Failure> {
        target.execute("BEGIN", &[]).await?;
        for (at, table) in tables.iter().enumerate() {
            let name = table.name;
            if self.drop_all {
                target.execute(&format!("DELETE FROM {name}"), &[]).await?;
            } else if !target.query(&format!("SELECT 1 FROM {name} LIMIT 1"), &[]).await?.is_empty() {
                return Err(Failure::Refused(format!(
                    "The destination database is not empty (table {name}); use --drop-all to drop its data first"
                )));
            }
            if !table.migrated {
                continue;
            }
            if at == tables.len() / 2 && matches!(self.fault, MigrateFault::Fail | MigrateFault::Hang) {
                target.execute("COMMIT", &[]).await?;
                if self.fault == MigrateFault::Fail {
                    return Err(Failure::Refused(format!("Unable to migrate table {name}: unexpected EOF")));
                }
                println!("Migrating {name}");
                std::future::pending::<()>().await;
            }
            let rows = source.query(&format!("SELECT {} FROM {name}", table.column_names()), &[]).await?;
            let lost = usize::from(self.fault == MigrateFault::LoseRow && name == "content");
            for row in rows.iter().skip(lost) {
                target.insert(name, &row.0).await?;
            }
            println!("Migrated {} rows of {name}", rows.len());
        }
        target.execute("COMMIT", &[]).await.map(drop)
    }
}
