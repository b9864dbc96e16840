//! What `check` finds about a server and a database on it.

use crate::connection::{DbError, Door, Session, Trouble};
use crate::objects::{self, Inventory};
use crate::settings::{Settings, Which};
use crate::url::{Host, SslMode};
use connect_migrator_connect::installation::is_loopback;
use connect_migrator_sdk::Finding;

/// Databases that every server has for itself.
const OWN_DATABASES: [&str; 3] = ["postgres", "template0", "template1"];

/// Everything about one database. Changes nothing: the rights are tried in a transaction that is rolled back.
pub async fn check(which: Which, door: &Door, settings: &Settings) -> Vec<Finding> {
    let key = |name: &str| format!("{}{name}", which.prefix());
    let session = match door.open().await {
        Ok(session) => session,
        Err(error) => return vec![not_open(which, door, &error)],
    };
    let mut found = vec![Finding::ok(
        key("reach"),
        format!("{which}, {}, answers and lets the user {} in", session.place, door.url.user),
    )];
    found.push(match tls(which, door, &session).await {
        Ok(finding) => finding,
        Err(error) => unreadable(key("tls"), &error),
    });
    match facts(which, &session, door, settings).await {
        Ok(more) => found.extend(more),
        Err(error) => found.push(unreadable(key("server"), &error)),
    }
    match contents(which, &session).await {
        Ok(more) => found.extend(more),
        Err(error) => found.push(unreadable(key("empty"), &error)),
    }
    found.push(rights(which, &session, &door.url.user).await);
    found
}

fn unreadable(key: String, error: &DbError) -> Finding {
    Finding::blocker(key, error.to_string(), "see the server's log, then run the check again")
}

fn not_open(which: Which, door: &Door, error: &DbError) -> Finding {
    let key = |name: &str| format!("{}{name}", which.prefix());
    let text = format!("{which}: {error}");
    let (user, database) = (&door.url.user, &door.url.database);
    match error.trouble {
        Trouble::Tls => Finding::blocker(
            key("tls"),
            text,
            format!(
                "`sslmode={}` asks for TLS: turn `ssl` on at the server and give it a certificate that the authorities in `sslrootcert` (default: this system's) signed for the name in the URL; without TLS at the server the URL needs `sslmode=disable`",
                door.url.ssl_mode.name()
            ),
        ),
        Trouble::Login => Finding::blocker(
            key("login"),
            text,
            format!(
                "see that the stored password is that of {user} (as it is, nothing percent-encoded), and that pg_hba.conf lets this host in"
            ),
        ),
        Trouble::NoDatabase => Finding::blocker(
            key("database"),
            text,
            format!(
                "create it: `CREATE DATABASE \"{database}\" OWNER \"{user}\" ENCODING 'UTF8' TEMPLATE template0`"
            ),
        ),
        Trouble::Unreachable | Trouble::TimedOut | Trouble::Refused => Finding::blocker(
            key("reach"),
            text,
            "see that the server runs, listens on that address, and that no firewall is in between",
        ),
    }
}

async fn tls(which: Which, door: &Door, session: &Session) -> Result<Finding, DbError> {
    let key = format!("{}tls", which.prefix());
    let sql = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let rows = session.rows("look at the session's TLS", sql).await?;
    let encrypted = rows.first().and_then(|row| row.try_get::<_, bool>(0).ok()).unwrap_or_default();
    let version =
        rows.first().and_then(|row| row.try_get::<_, Option<String>>(1).ok().flatten()).unwrap_or_default();
    let near = door.url.hosts.iter().all(|host| match host {
        Host::Socket(..) => true,
        Host::Tcp(name, _) => is_loopback(name),
    });
    let mode = door.url.ssl_mode;
    Ok(match (encrypted, mode) {
        (true, SslMode::VerifyCa | SslMode::VerifyFull) => {
            Finding::ok(key, format!("{which} is reached over {version}, its certificate was checked"))
        }
        (true, _) if near || door.url.root_cert.is_some() => {
            Finding::ok(key, format!("{which} is reached over {version}"))
        }
        (true, _) => Finding::warning(
            key,
            format!(
                "{which} is reached over {version}, but `sslmode={}` trusts whoever answers",
                mode.name()
            ),
            "use `sslmode=verify-full`, with `sslrootcert` if the authority is your own",
        ),
        (false, _) if near => Finding::ok(key, format!("{which} is on this machine, without TLS")),
        (false, _) => Finding::warning(
            key,
            format!("{which} is reached without TLS: passwords and data cross the network in the clear"),
            "turn TLS on at the server and leave `sslmode=disable` out of the URL",
        ),
    })
}

async fn text(session: &Session, doing: &str, sql: &str) -> Result<String, DbError> {
    let rows = session.rows(doing, sql).await?;
    Ok(rows.first().and_then(|row| row.try_get::<_, Option<String>>(0).ok().flatten()).unwrap_or_default())
}

async fn facts(
    which: Which,
    session: &Session,
    door: &Door,
    settings: &Settings,
) -> Result<Vec<Finding>, DbError> {
    let key = |name: &str| format!("{}{name}", which.prefix());
    let mut found = Vec::new();
    let number =
        text(session, "read the server's version", "SELECT current_setting('server_version_num')").await?;
    let major = number.parse::<u32>().unwrap_or_default() / 10_000;
    let (oldest, newest) = settings.server_versions;
    found.push(if (oldest..=newest).contains(&major) {
        Finding::ok(key("server-version"), format!("{which} is on PostgreSQL {major}"))
    } else {
        Finding::blocker(
            key("server-version"),
            format!("{which} is on PostgreSQL {major}; versions {oldest} to {newest} are supported"),
            "use a server of a supported version, or set `server-versions` to what the documentation of your release of Connect says",
        )
    });
    let encoding = text(session, "read the encoding", "SELECT current_setting('server_encoding')").await?;
    if encoding != "UTF8" {
        found.push(Finding::blocker(
            key("encoding"),
            format!("{which} stores text as {encoding}, not as UTF8"),
            "create the database anew with `ENCODING 'UTF8' TEMPLATE template0`",
        ));
    }
    let sql = "SELECT (pg_is_in_recovery() OR current_setting('transaction_read_only')::bool)::text";
    if text(session, "see whether it can be written to", sql).await? == "true" {
        found.push(Finding::blocker(
            key("read-only"),
            format!("{which} can only be read: it is a standby, or read-only by default"),
            "let the URL lead to the primary server",
        ));
    }
    if text(session, "read the schema", "SELECT current_schema()::text").await?.is_empty() {
        found.push(Finding::blocker(
            key("schema"),
            format!("{which} has no schema that `search_path` names"),
            format!("create it there: `CREATE SCHEMA … AUTHORIZATION \"{}\"`", door.url.user),
        ));
    }
    Ok(found)
}

async fn contents(which: Which, session: &Session) -> Result<Vec<Finding>, DbError> {
    let key = |name: &str| format!("{}{name}", which.prefix());
    let mut found = Vec::new();
    let name = text(session, "read the database's name", "SELECT current_database()::text").await?;
    let others = objects::other_sessions(session).await?;
    if OWN_DATABASES.contains(&name.as_str()) {
        found.push(Finding::blocker(
            key("dedicated"),
            format!("`{name}` is a database that the server has for itself"),
            "create one for Connect alone",
        ));
    } else if others.is_empty() {
        found.push(Finding::ok(key("dedicated"), format!("nobody else uses {which}")));
    } else {
        found.push(Finding::warning(
            key("dedicated"),
            format!("{which} is also used by {others}"),
            "give Connect a database of its own, and end these sessions before the window",
        ));
    }
    let content: Vec<_> = Inventory::read(session).await?.content().cloned().collect();
    found.push(if content.is_empty() {
        Finding::ok(key("empty"), format!("{which} is empty"))
    } else {
        Finding::blocker(
            key("empty"),
            format!("{which} is not empty: {}", objects::list(&content)),
            "give Connect an empty database of its own; if these are the remains of an earlier try, drop the database and create it anew",
        )
    });
    Ok(found)
}

/// What Connect will do, tried out.
const TRIALS: [(&str, &str); 8] = [
    ("create a table", "CREATE TABLE connect_migrator_trial (id bigint PRIMARY KEY, name text)"),
    ("alter it", "ALTER TABLE connect_migrator_trial ADD COLUMN more text"),
    ("index it", "CREATE INDEX connect_migrator_trial_name ON connect_migrator_trial (name)"),
    ("write to it", "INSERT INTO connect_migrator_trial (id, name) VALUES (1, 'a')"),
    ("change a row", "UPDATE connect_migrator_trial SET name = 'b' WHERE id = 1"),
    ("read it", "SELECT name FROM connect_migrator_trial"),
    ("delete a row", "DELETE FROM connect_migrator_trial"),
    ("drop it", "DROP TABLE connect_migrator_trial"),
];

async fn rights(which: Which, session: &Session, user: &str) -> Finding {
    let key = format!("{}rights", which.prefix());
    let mut refused = None;
    if let Err(error) = session.run("begin a transaction", "BEGIN").await {
        refused = Some(("begin a transaction", error));
    }
    for (what, sql) in TRIALS {
        if refused.is_some() {
            break;
        }
        if let Err(error) = session.run(what, sql).await {
            refused = Some((what, error));
        }
    }
    // The transaction is gone with the session in any case.
    let ended = session.run("roll back the trial", "ROLLBACK").await;
    match (refused, ended) {
        (None, Ok(())) => {
            Finding::ok(key, format!("{user} may create, alter, read and write tables in {which}"))
        }
        (None, Err(error)) => unreadable(key, &error),
        (Some((what, error)), _) => Finding::blocker(
            key,
            format!("{user} may not do in {which} what Connect needs ({what}): {}", error.why),
            format!(
                "make the user its owner: `ALTER DATABASE … OWNER TO \"{user}\"`, or `GRANT CREATE, USAGE ON SCHEMA public TO \"{user}\"`"
            ),
        ),
    }
}
