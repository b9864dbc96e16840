//! What `check` finds.

use crate::settings::{Settings, Which};
use crate::sqlite_files::{self, SqliteFile};
use crate::subject::{self, Chosen, Subject};
use crate::tool;
use crate::url::{PostgresUrl, has_placeholder};
use connect_migrator_connect::installation::{DatabaseProvider, Installation, variable};
use connect_migrator_sdk::{Finding, Secret};
use std::path::{Path, PathBuf};

/// Copies of the SQLite files that the window needs room for: the backup, the one that the tool works on, and one to compare with when
/// there is a log.
const COPIES: u64 = 3;
/// Characters that a URL cannot hold as they are.
const SPECIAL: &[char] = &['@', '#', '!', '$', '%', '/', '?', ':', '&', '=', ' '];
/// Settings that the environment must not decide once the step has switched them.
const SWITCHED: [(&str, &str); 6] = [
    ("Database", "Provider"),
    ("Postgres", "URL"),
    ("Postgres", "Password"),
    ("Postgres", "InstrumentationURL"),
    ("Postgres", "InstrumentationPassword"),
    ("SQLite", "Dir"),
];

/// Every finding; a part that cannot be read does not keep the others back. Reads only.
pub async fn all(subject: &Subject<'_>) -> Vec<Finding> {
    let installation = match subject.installation() {
        Ok(installation) => installation,
        Err(error) => {
            return vec![Finding::blocker(
                "configuration",
                error.to_string(),
                "correct the file, or name the right one under `[connect]`",
            )];
        }
    };
    let (mut found, goes_on) = provider(subject, &installation);
    if !goes_on {
        return found;
    }
    found.extend(environment(subject, &installation));
    found.extend(placeholder(subject, &installation));
    let urls_are_good = urls(subject, &mut found);
    let passwords_are_good = passwords(subject, &mut found);
    if urls_are_good
        && passwords_are_good
        && let Ok(doors) = subject.doors()
    {
        for (which, door) in &doors {
            found.extend(crate::server::check(*which, door, subject.settings).await);
        }
    }
    found.extend(sqlite(subject, &installation).await);
    found.extend(tools(subject, &installation).await);
    found.push(rollback());
    if urls_are_good {
        let text = format!("{} will be switched to PostgreSQL in the window", subject.config().display());
        found.push(Finding::ok("switch", text).fact(subject.edits_key(), &subject.edits()));
    }
    found
}

/// What the operator must know beforehand about the way back.
pub const WAY_BACK: &str = "until users are sent to the new server, rollback returns to SQLite exactly as it was; after that, the source \
                            comes back on PostgreSQL, because SQLite does not have what users have done since";

fn rollback() -> Finding {
    Finding::ok("rollback", WAY_BACK)
}

fn provider(subject: &Subject<'_>, installation: &Installation) -> (Vec<Finding>, bool) {
    match &installation.database_provider {
        DatabaseProvider::Sqlite => (vec![Finding::ok("provider", "Connect uses SQLite")], true),
        DatabaseProvider::Other(name) => {
            let text = format!("Database.Provider is `{name}`, which is neither sqlite nor postgres");
            (vec![Finding::blocker("provider", text, "correct it in the configuration file")], false)
        }
        DatabaseProvider::Postgres => {
            let current =
                installation.setting("Postgres", "URL").and_then(|url| PostgresUrl::parse(&url).ok());
            let wanted = PostgresUrl::parse(&subject.settings.url).ok();
            let same = match (&current, &wanted) {
                (Some(current), Some(wanted)) => current.same_database(wanted),
                _ => false,
            };
            let finding = if same {
                Finding::ok(
                    "provider",
                    "Connect uses this PostgreSQL database already: there is nothing to do",
                )
            } else {
                Finding::blocker(
                    "provider",
                    "Connect uses PostgreSQL already, and another database than `url` names",
                    "take this step out of the runbook, or correct its `url`",
                )
            };
            (vec![finding], false)
        }
    }
}

fn environment(subject: &Subject<'_>, installation: &Installation) -> Option<Finding> {
    let set: Vec<String> = SWITCHED
        .iter()
        .map(|(section, key)| variable(section, key))
        .filter(|name| installation.environment.contains_key(name))
        .collect();
    (!set.is_empty()).then(|| {
        Finding::blocker(
            "environment-overrides",
            format!(
                "{} sets {}: it would go on deciding, whatever the configuration file says",
                subject.places.environment_file.display(),
                set.join(", ")
            ),
            "put these settings into the configuration file and take them out of there",
        )
    })
}

fn placeholder(subject: &Subject<'_>, installation: &Installation) -> Vec<Finding> {
    let mut places = Vec::new();
    for which in [Which::Core, Which::Instrumentation] {
        if installation.setting("Postgres", which.url_key()).is_some_and(|url| has_placeholder(&url)) {
            places.push(format!("Postgres.{} of {}", which.url_key(), subject.config().display()));
        }
    }
    let settings = subject.settings;
    for (name, url) in
        [("url", Some(&settings.url)), ("instrumentation-url", settings.instrumentation_url.as_ref())]
    {
        if url.is_some_and(|url| has_placeholder(url)) {
            places.push(format!("`{name}` of the runbook"));
        }
    }
    if places.is_empty() {
        return Vec::new();
    }
    let text = format!(
        "{} holds the password placeholder `{{$}}`, which Connect no longer knows",
        places.join(" and ")
    );
    vec![Finding::blocker("placeholder", text, "take `:{$}` out: the password is applied by itself")]
}

fn urls(subject: &Subject<'_>, found: &mut Vec<Finding>) -> bool {
    let urls = match subject.urls() {
        Ok(urls) => urls,
        Err((which, error)) => {
            let key = format!("{}url", which.prefix());
            let text = format!("the URL of {which} cannot be used: {error}");
            found.push(Finding::blocker(
                key,
                text,
                "write `postgres://user@host:5432/database`, special characters percent-encoded",
            ));
            return false;
        }
    };
    let mut good = true;
    for (which, url) in &urls {
        let key = format!("{}url", which.prefix());
        if url.password.is_some() {
            good = false;
            let text = format!("the URL of {which} holds a password; a runbook is no place for one");
            found.push(Finding::blocker(
                key,
                text,
                "take it out, store it as a credential, and name that under `password`",
            ));
        } else {
            found.push(Finding::ok(key, format!("{which} is {}", url.place())));
        }
    }
    let in_file = subject.installation().ok().and_then(|i| i.setting("Postgres", "InstrumentationURL"));
    if subject.settings.instrumentation_url.is_none() && in_file.is_some() {
        good = false;
        found.push(Finding::blocker(
            "instrumentation-url",
            format!("{} names another place for instrumentation data (Postgres.InstrumentationURL), the runbook does not", subject.config().display()),
            "set `instrumentation-url` (and `instrumentation-password`) for this step, or take the setting out of the configuration file",
        ));
    }
    good
}

fn passwords(subject: &Subject<'_>, found: &mut Vec<Finding>) -> bool {
    let mut good = true;
    for which in [Which::Core, Which::Instrumentation] {
        let named = match which {
            Which::Core => &subject.settings.password,
            Which::Instrumentation => &subject.settings.instrumentation_password,
        };
        if named.is_none() {
            continue;
        }
        let key = format!("{}password", which.prefix());
        match subject.password(which) {
            Err(error) => {
                good = false;
                found.push(Finding::blocker(
                    key,
                    error.to_string(),
                    "store it under the name that the runbook says",
                ));
            }
            Ok(None) => {}
            Ok(Some(password)) => {
                let finding = characters(key, which, &password);
                good &= finding.severity != connect_migrator_sdk::Severity::Blocker;
                found.push(finding);
            }
        }
    }
    good
}

fn characters(key: String, which: Which, password: &Secret) -> Finding {
    let text = password.expose();
    let is_encoded = text.match_indices('%').any(|(at, _)| {
        text.get(at + 1..at + 3).is_some_and(|pair| pair.chars().all(|c| c.is_ascii_hexdigit()))
    });
    if text.is_empty() {
        return Finding::blocker(
            key,
            format!("the stored password of {which} is empty"),
            "store the password",
        );
    }
    if text.chars().any(char::is_control) {
        let text = format!(
            "the stored password of {which} holds a control character (a tab, a line end in its middle)"
        );
        return Finding::blocker(
            key,
            text,
            "`rscadmin` reads one line: store the password alone, or give the user another one",
        );
    }
    if text.trim() != text {
        let text = format!("the stored password of {which} begins or ends with a blank");
        return Finding::blocker(
            key,
            text,
            "Connect's tools cut such blanks off: store it without, or give the user another one",
        );
    }
    if is_encoded {
        let text = format!("the stored password of {which} looks percent-encoded");
        return Finding::warning(
            key,
            text,
            "store it as it is: it goes into Postgres.Password, where nothing is decoded",
        );
    }
    if text.contains(SPECIAL) {
        return Finding::ok(
            key,
            format!(
                "the password of {which} has special characters; it goes encrypted into Postgres.Password, where they are allowed"
            ),
        );
    }
    Finding::ok(key, format!("the password of {which} is stored"))
}

async fn sqlite(subject: &Subject<'_>, installation: &Installation) -> Vec<Finding> {
    let dir = subject::sqlite_dir(installation);
    let settings: Settings = subject.settings.clone();
    let scratch = existing_ancestor(subject.cx.state_dir());
    let names = dir.clone();
    let looked = tokio::task::spawn_blocking(move || look(&settings, &names, &scratch)).await;
    looked.unwrap_or_else(|error| {
        vec![Finding::blocker(
            "sqlite-files",
            format!("could not look into {}: {error}", dir.display()),
            "run the check again",
        )]
    })
}

fn look(settings: &Settings, dir: &Path, scratch: &Path) -> Vec<Finding> {
    let chosen = match subject::choose(settings, dir) {
        Ok(chosen) => chosen,
        Err(error) => {
            return vec![Finding::blocker(
                "sqlite-files",
                error.to_string(),
                "see SQLite.Dir in the configuration file",
            )];
        }
    };
    let Chosen { files, copies } = chosen;
    if files.is_empty() {
        let text = format!("there is no SQLite file in {}", dir.display());
        return vec![Finding::blocker("sqlite-files", text, "see SQLite.Dir in the configuration file")];
    }
    let total: u64 = files.iter().map(|file| file.bytes).sum();
    let names: Vec<String> =
        files.iter().map(|file| format!("{} ({})", file.name(), size(file.bytes))).collect();
    let mut found = vec![Finding::ok("sqlite-files", format!("{} in {}", names.join(", "), dir.display()))];
    for (copy, of) in &copies {
        found.push(Finding::warning(
            format!(
                "sqlite-copy-{}",
                copy.name().to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
            ),
            format!(
                "{} has the same tables as {of} and is older: it is taken for a copy and left out",
                copy.path.display()
            ),
            "move it elsewhere, or name the right files under `sqlite-files`",
        ));
    }
    let space = space(scratch, total);
    let enough = space.severity == connect_migrator_sdk::Severity::Ok;
    found.push(space);
    if enough {
        found.push(integrity(&files, scratch));
    }
    found
}

fn space(scratch: &Path, total: u64) -> Finding {
    let needed = total.saturating_mul(COPIES);
    match nix::sys::statvfs::statvfs(scratch) {
        Ok(stat) => {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            if free > needed {
                Finding::ok(
                    "space",
                    format!("{} has {} free; {} are needed", scratch.display(), size(free), size(needed)),
                )
            } else {
                Finding::blocker(
                    "space",
                    format!(
                        "{} has {} free; the backup and the working copies need {}",
                        scratch.display(),
                        size(free),
                        size(needed)
                    ),
                    "make room there",
                )
            }
        }
        Err(error) => Finding::warning(
            "space",
            format!("how much room {} has cannot be told: {error}", scratch.display()),
            format!("see that there are {} free", size(needed)),
        ),
    }
}

fn integrity(files: &[SqliteFile], scratch: &Path) -> Finding {
    let key = "sqlite-integrity";
    let remedy = "repair it first (`sqlite3 FILE '.recover'`, or a backup), with Connect stopped";
    let dir = match tempfile::Builder::new().prefix(".connect-migrator-check-").tempdir_in(scratch) {
        Ok(dir) => dir,
        Err(error) => {
            let text = format!("could not make a folder in {}: {error}", scratch.display());
            return Finding::blocker(
                key,
                text,
                "see that this runs as root and that the disk can be written to",
            );
        }
    };
    for file in files {
        let copy = dir.path().join(file.name());
        let checked =
            sqlite_files::copy_consistent(file, &copy).and_then(|()| sqlite_files::integrity(&copy));
        match checked {
            Err(error) => {
                let text = format!("the integrity of {} cannot be checked: {error}", file.path.display());
                return Finding::blocker(key, text, remedy);
            }
            Ok(lines) if !lines.is_empty() => {
                let text = format!("{} is damaged: {}", file.path.display(), lines.join("; "));
                return Finding::blocker(key, text, remedy);
            }
            Ok(_) => {}
        }
    }
    Finding::ok(key, "SQLite finds nothing wrong with a copy of its files")
}

fn existing_ancestor(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

async fn tools(subject: &Subject<'_>, installation: &Installation) -> Vec<Finding> {
    let mut found = Vec::new();
    match tool::probe(&subject.program("migrate")).await {
        Err(error) => found.push(Finding::blocker("tool", error.to_string(), "see that the installation of Connect is whole")),
        Ok(tool::Tool { instrumentation: true }) => {
            found.push(Finding::ok("tool", "this release's `migrate` carries instrumentation data too"));
        }
        Ok(tool::Tool { instrumentation: false }) => found.push(Finding::warning(
            "tool",
            "this release's `migrate` has no `-data`: it carries no instrumentation data, the usage history stays behind in SQLite",
            "upgrade Connect on this host first if the history is to come along",
        )),
    }
    if subject.settings.password.is_some() {
        let rscadmin = subject.program("rscadmin");
        if !rscadmin.is_file() {
            let text = format!("there is no {}, which encrypts the password", rscadmin.display());
            found.push(Finding::blocker("secret-key", text, "see that the installation of Connect is whole"));
        } else if !installation.secret_key_path().is_file() {
            let text = format!(
                "there is no {}, the key that encrypts the password",
                installation.secret_key_path().display()
            );
            found.push(Finding::blocker(
                "secret-key",
                text,
                "see Database.Dir in the configuration file; Connect makes the key when it first starts",
            ));
        } else {
            found.push(Finding::ok(
                "secret-key",
                format!("{} encrypts the password", installation.secret_key_path().display()),
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use connect_migrator_sdk::Severity;

    #[test]
    fn passwords_that_the_products_tools_would_spoil_are_found_and_never_shown() {
        for (password, severity) in [
            ("plain", Severity::Ok),
            ("p@ss#w!rd$/?", Severity::Ok),
            ("p%40ss", Severity::Warning),
            ("50%", Severity::Ok),
            ("", Severity::Blocker),
            ("a\tb", Severity::Blocker),
            ("a\nb", Severity::Blocker),
            (" a", Severity::Blocker),
        ] {
            let finding = characters("password".into(), Which::Core, &Secret::new(password.into()));
            assert_eq!(finding.severity, severity, "{password:?}");
            assert!(password.len() < 3 || !finding.text.contains(password), "{finding:?}");
        }
    }

    #[test]
    fn of_two_files_with_the_same_tables_the_older_one_is_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let settings: Settings = serde_json::from_str(r#"{"url": "u"}"#).unwrap();
        let make = |name: &str, table: &str| {
            let connection = rusqlite::Connection::open(dir.path().join(name)).unwrap();
            connection.execute_batch(&format!("CREATE TABLE {table} (id)")).unwrap();
        };
        make("a-backup.db", "users");
        make("visits.db", "visits");
        std::fs::File::options()
            .append(true)
            .open(dir.path().join("a-backup.db"))
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
        make("connect.db", "users");
        let chosen = subject::choose(&settings, dir.path()).unwrap();
        let names: Vec<String> = chosen.files.iter().map(SqliteFile::name).collect();
        assert_eq!(names, ["connect.db", "visits.db"]);
        assert_eq!(chosen.copies.len(), 1);
        let named = Settings { sqlite_files: vec!["a-backup.db".into()], ..settings.clone() };
        assert_eq!(subject::choose(&named, dir.path()).unwrap().files[0].name(), "a-backup.db");
        let absent = Settings { sqlite_files: vec!["none.db".into()], ..settings };
        assert!(subject::choose(&absent, dir.path()).is_err());
    }

    #[test]
    fn a_damaged_file_is_a_blocker_and_the_copy_is_gone_afterwards() {
        let (dir, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let settings: Settings = serde_json::from_str(r#"{"url": "u"}"#).unwrap();
        let path = dir.path().join("connect.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE t (id PRIMARY KEY, x)").unwrap();
        for n in 0..3000 {
            connection.execute("INSERT INTO t VALUES (?1, 'some text that takes room')", [n]).unwrap();
        }
        drop(connection);
        let severity =
            |found: &[Finding]| found.iter().find(|f| f.key == "sqlite-integrity").map(|f| f.severity);
        assert_eq!(severity(&look(&settings, dir.path(), scratch.path())), Some(Severity::Ok));
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at..at + 4000].fill(0xee);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(severity(&look(&settings, dir.path(), scratch.path())), Some(Severity::Blocker));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
