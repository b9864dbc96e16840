//! `migrate db`: copies SQLite to PostgreSQL.
//!
//! <https://docs.posit.co/connect/admin/database/migration/>

use std::io::{IsTerminal, Write};

use super::{Flags, load, runtime};
use crate::failure::Failure;
use crate::live;
use crate::settings::{Provider, Settings};
use crate::store::{Row, Store, TABLES};

const USAGE: &str = "usage: migrate COMMAND\n\ncommands:\n  db    copy the SQLite database to PostgreSQL\n  help  \
                     print this";
const DB_USAGE: &str = "usage: migrate db [flags]\n\nflags:\n  --config FILE  (default \
                        /etc/rstudio-connect/rstudio-connect.gcfg)\n  -data KIND     core, instrumentation or all \
                        (default all)\n  --drop-all     drop all existing data in the target first\n  --verify       \
                        only compare\n  -yes           do not ask";

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let mut flags = Flags::new(args);
    let help = flags.switch("help") | flags.switch("h");
    match flags.word().as_deref() {
        Some("help") => {
            println!("{USAGE}");
            Ok(())
        }
        Some("db") if help => {
            println!("{DB_USAGE}");
            Ok(())
        }
        Some("db") => db(flags),
        _ => Err(Failure::Usage(USAGE.to_owned())),
    }
}

fn db(mut flags: Flags) -> Result<(), Failure> {
    let config = flags.config()?;
    let (verify, drop_all, yes) = (flags.switch("verify"), flags.switch("drop-all"), flags.switch("yes"));
    let data = flags.value("data")?.unwrap_or_else(|| "all".to_owned());
    flags.end(DB_USAGE)?;
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
    if data == "instrumentation" {
        println!("There is no instrumentation data.");
        return Ok(());
    }
    runtime()?.block_on(copy(&settings, verify, drop_all))
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

async fn copy(settings: &Settings, verify: bool, drop_all: bool) -> Result<(), Failure> {
    let source = Store::open_sqlite(settings).await?;
    let target = Store::open_postgres(settings).await?;
    if !verify {
        target.execute("BEGIN", &[]).await?;
        for table in TABLES {
            let name = table.name;
            if drop_all {
                target.execute(&format!("DELETE FROM {name}"), &[]).await?;
            } else if !target.query(&format!("SELECT 1 FROM {name} LIMIT 1"), &[]).await?.is_empty() {
                return Err(Failure::Refused(format!(
                    "The destination database is not empty (table {name}); use --drop-all to drop its data first"
                )));
            }
            if !table.migrated {
                continue;
            }
            let rows = source.query(&format!("SELECT {} FROM {name}", table.column_names()), &[]).await?;
            for row in &rows {
                target.insert(name, &row.0).await?;
            }
            println!("Migrated {} rows of {name}", rows.len());
        }
        target.execute("COMMIT", &[]).await?;
    }
    for table in TABLES.iter().filter(|t| t.migrated) {
        let sql = format!("SELECT {} FROM {}", table.column_names(), table.name);
        let sorted = |mut rows: Vec<Row>| {
            rows.sort_by_key(|r| format!("{r:?}"));
            rows
        };
        if sorted(source.query(&sql, &[]).await?) != sorted(target.query(&sql, &[]).await?) {
            return Err(Failure::Refused(format!("Verification failed: table {} differs", table.name)));
        }
        println!("Verified {}", table.name);
    }
    println!("Migration complete.");
    Ok(())
}
