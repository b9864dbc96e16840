//! The runbook that fits what was seen, with its reasons.

use super::seen::{API_KEY, Connect, POSTGRES_PASSWORD, Seen};
use crate::instance::Instance;
use crate::systemd::credentials::CREDENTIALS_FOLDER;
use connect_migrator_connect::installation::DatabaseProvider;
use std::fmt::Write;
use std::path::Path;

/// Comments are folded at this column.
const COMMENT_CHARS: usize = 110;
/// How much foreign text goes into a comment.
const QUOTED_CHARS: usize = 400;

/// A runbook, and what is still open in it.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// The text.
    pub(super) text: String,
    /// What could not be found, one sentence each.
    pub(super) gaps: Vec<String>,
    /// What was found, for the terminal.
    found: Vec<(&'static str, String)>,
    /// Credentials that it names and that are not stored: with the command that stores each.
    credentials: Vec<(&'static str, String)>,
}

impl Draft {
    /// The runbook for this host.
    pub(super) fn of(seen: &Seen) -> Self {
        let mut draft = Draft::default();
        draft.head(seen);
        draft.source(seen);
        if let Ok(connect) = &seen.installation {
            draft.database(seen, connect);
            draft.storage(seen, connect);
        }
        draft.step("stop", "systemd/stop", "Stops Connect on this host and masks its unit, so that nothing starts it while the container runs.");
        draft.container(seen);
        draft.step(
            "caches",
            "connect-api/clear-caches",
            "Caches built on this host do not fit the image's distribution. They are kept until commit.",
        );
        draft.route(seen);
        draft.step("content", "connect-api/rebuild", &content(seen));
        let _ = writeln!(draft.text, "with = {{ parallelism = {} }}", seen.parallelism);
        draft
    }

    fn head(&mut self, seen: &Seen) {
        let name = &seen.instance;
        self.comment(&format!("The migration `{name}` of the Posit Connect on this host, written by `connect-migrator init {name}` after a look at it. prod.toml.example beside this file tells everything that can be set."));
        self.line("#");
        for (command, what) in [
            (format!("connect-migrator check {name}"), "every prerequisite; changes nothing"),
            (format!("connect-migrator plan {name}"), "what will change; changes nothing"),
            (format!("systemctl start connect-migrator@{name}"), "does it"),
        ] {
            self.line(&format!("#   {command:<42} {what}"));
        }
        self.line("");
        self.line("version = 1");
        self.line("");
        self.comment("When a step fails: \"rollback\" (everything is put back at once) or \"pause\" (wait for the operator).");
        self.line("on-failure = \"rollback\"");
        self.line("");
        self.comment("After the last step the new server is watched for this long; then \"commit\", \"wait\" (for you) or \"rollback\".");
        self.line("soak = { for = \"30m\", then = \"wait\" }");
    }

    fn source(&mut self, seen: &Seen) {
        self.line("");
        match &seen.unit_state {
            Ok(state) => self.found("unit", format!("{}: {state}", seen.unit)),
            Err(why) => {
                self.gap(&format!("the unit of Connect was not found: {why}. Set `unit` to its name."))
            }
        }
        match &seen.installation {
            Ok(connect) => {
                let version = connect.version.clone();
                match version {
                    Some(version) => self.found("Connect", format!("version {version}, listens on port {}", connect.port)),
                    None => self.gap("`connect --version` told no version, which the image has to match: set `install-dir` to the folder that holds `bin/connect`."),
                }
            }
            Err(why) => self.gap(&format!("Connect's configuration was not read: {why}. Set `config` to the file, and run `connect-migrator init` again with --config: database, data and proxy follow from it.")),
        }
        self.line("[connect]");
        self.line(&format!("unit = {}", quoted(&seen.unit)));
        self.line(&format!("config = {}", quoted(&seen.config.display().to_string())));
        if let Ok(connect) = &seen.installation {
            match (&connect.address, &seen.site) {
                (Some(address), _) => {
                    self.comment("Server.Address of the configuration: where users reach Connect.");
                    self.line(&format!("url = {}", quoted(address)));
                    self.found("URL", address.clone());
                }
                (None, Ok(site)) if !site.names.is_empty() => {
                    let names = site.names.join(", ");
                    self.gap(&format!("Server.Address is not set, so the URL that users type is not known; nginx serves Connect as {names}. Take away the `#` once the line is right."));
                    self.line("# url = \"https://connect.example.com\"");
                }
                (None, _) => {
                    self.gap("Server.Address is not set, so the URL that users type is not known. Take away the `#` once the line is right.");
                    self.line("# url = \"https://connect.example.com\"");
                }
            }
            if connect.licences.is_empty() {
                self.gap("no licence file was found in /var/lib/rstudio-connect, and a container cannot be activated by a key: ask Posit for a file, and put it there or name it as `licence` of the step `container`.");
            } else {
                let files: Vec<String> =
                    connect.licences.iter().map(|path| path.display().to_string()).collect();
                self.found("licence", files.join(", "));
            }
        }
        self.line("");
        self.comment("An administrator's API key: to clear the caches and to build the content. Only its name stands here.");
        self.credential(seen, API_KEY, seen.key_file.as_deref());
        self.line(&format!("api-key = {{ credential = \"{API_KEY}\" }}"));
    }

    fn database(&mut self, seen: &Seen, connect: &Connect) {
        match &connect.database {
            DatabaseProvider::Postgres => self.found("database", "PostgreSQL: it stays where it is".into()),
            DatabaseProvider::Sqlite => {
                self.found("database", "SQLite: it has to move to PostgreSQL".into());
                self.step("database", "postgres", "The database of this host is SQLite, which only one host can use: it moves to PostgreSQL inside the window. Its URL stands here without the password.");
                self.credential(seen, POSTGRES_PASSWORD, None);
                if seen.postgres_url.is_none() {
                    self.gap("which PostgreSQL database to move to cannot be found out by looking. Fill in its URL, and take away the `#`; or run `connect-migrator init` with --postgres-url.");
                }
                let sign = if seen.postgres_url.is_none() { "# " } else { "" };
                let url = seen.postgres_url.as_deref().unwrap_or("postgres://USER@HOST/DATABASE");
                self.line(&format!("{sign}with = {{ url = {}, password = {{ credential = \"{POSTGRES_PASSWORD}\" }} }}", quoted(url)));
            }
            DatabaseProvider::Other(name) => self.gap(&format!("Database.Provider is `{name}`, which is neither sqlite nor postgres. Correct it in Connect's configuration.")),
        }
    }

    fn storage(&mut self, seen: &Seen, connect: &Connect) {
        let dir = connect.data_dir.display();
        match &connect.storage {
            Ok(storage) if storage.is_shared() => {
                self.found("data", format!("{dir} on {} ({}): they stay where they are", storage.source, storage.kind));
            }
            Ok(storage) => {
                self.found("data", format!("{dir} on {} ({}), a local disk: they have to move to shared storage", storage.source, storage.kind));
                self.step("storage", "nfs", &format!("The data directory {dir} lies on a local disk ({}, {}). It is copied to an NFS export while Connect serves, and caught up with inside the window. To keep it on this host instead, remove this step and set `allow-local-data = true` in the step `container`.", storage.source, storage.kind));
                if seen.nfs_export.is_none() {
                    self.gap("which NFS export the data are to move to cannot be found out by looking. Fill it in, and take away the `#`; or run `connect-migrator init` with --nfs-export.");
                }
                let sign = if seen.nfs_export.is_none() { "# " } else { "" };
                let export = seen.nfs_export.as_deref().unwrap_or("SERVER:/EXPORT");
                let mount = seen.nfs_mount.display().to_string();
                self.line(&format!("{sign}with = {{ export = {}, mount = {} }}", quoted(export), quoted(&mount)));
            }
            Err(why) => self.gap(&format!("the data directory {dir} cannot be looked at: {why}. Mount its storage, and run `connect-migrator init` again.")),
        }
    }

    fn container(&mut self, seen: &Seen) {
        let engine = match &seen.engine {
            Ok(engine) => engine,
            Err(why) => {
                self.line("");
                self.gap(&format!("no container engine was found: {why}."));
                self.line("# [[step]]");
                self.line("# id = \"container\"");
                self.line("# uses = \"docker\"");
                self.line("# with = { image = { version = \"match-source\" } }");
                return;
            }
        };
        self.found("engine", format!("{} ({})", engine.name, engine.found));
        self.step("container", engine.name, "Starts the same version from an image, which is pulled, and pinned by digest, before the window.");
        if let Some(other) = engine.other {
            self.comment(&format!(
                "`uses = \"{other}\"` would do the same with the other engine on this host."
            ));
        }
        self.line("[step.with]");
        let mut image = "version = \"match-source\"".to_owned();
        if seen.registries.is_empty() {
            self.comment("The version that runs here, from Posit's repositories. `os` and `variant` choose among its images; for a mirror of your own add `registries = [\"mirror.example.com:5000\"]`.");
        } else {
            let list: Vec<String> = seen.registries.iter().map(|registry| quoted(registry)).collect();
            let _ = write!(image, ", registries = [{}]", list.join(", "));
            self.comment("The version that runs here. `os` and `variant` choose among its images.");
        }
        self.line(&format!("image = {{ {image} }}"));
        match &seen.publish {
            Ok(port) => {
                self.comment("Where the container answers on this host: the port was free.");
                self.line(&format!("publish = \"127.0.0.1:{port}\""));
            }
            Err(why) => {
                self.gap(&format!("no free port was found for the container: {why}. Choose one, here and in the step `route`."));
                self.line("# publish = \"127.0.0.1:PORT\"");
            }
        }
        let Ok(connect) = &seen.installation else { return };
        if connect.other_ids() {
            let (uid, gid) = connect.run_as_ids.unwrap_or_default();
            self.comment(&format!("`{}`, which runs content and owns data, has the numbers {uid}:{gid} on this host and others in the image: the container keeps this host's.", connect.run_as));
            self.line("run-as-ids = \"keep\"");
        } else if connect.run_as_ids.is_none() {
            self.gap(&format!("the user `{}`, which is to run content (Applications.RunAs), does not exist on this host. Correct it in Connect's configuration.", connect.run_as));
        }
        if connect.database_on_loopback {
            self.comment("The database is reached over a loopback address of this host, which a network of the container's own would not see.");
            self.line("network = \"host\"");
        }
    }

    fn route(&mut self, seen: &Seen) {
        self.step("route", "route-nginx", "Sends users to the container: exactly one value of this site changes. In the window users see a maintenance page.");
        let port = seen.publish.as_ref().map_or_else(|_| "PORT".to_owned(), ToString::to_string);
        match &seen.site {
            Ok(site) => {
                self.found("proxy", format!("nginx, {}", site.value));
                self.comment(&format!("It is `{}`.", site.value));
                let sign = if seen.publish.is_err() { "# " } else { "" };
                let file = quoted(&site.file.display().to_string());
                self.line(&format!("{sign}with = {{ site = {file}, upstream = \"127.0.0.1:{port}\" }}"));
            }
            Err(why) => {
                self.gap(&format!("the proxy in front of Connect was not found: {why}. Fill in the file, and take away the `#`."));
                self.line(&format!(
                    "# with = {{ site = \"/etc/nginx/sites-enabled/FILE\", upstream = \"127.0.0.1:{port}\" }}"
                ));
            }
        }
    }

    fn step(&mut self, id: &str, uses: &str, why: &str) {
        self.line("");
        self.comment(why);
        self.line("[[step]]");
        self.line(&format!("id = \"{id}\""));
        self.line(&format!("uses = \"{uses}\""));
    }

    fn credential(&mut self, seen: &Seen, name: &'static str, file: Option<&Path>) {
        if seen.stored.contains(&name) {
            self.comment(&format!("`{name}` is stored already, in {CREDENTIALS_FOLDER}."));
            return;
        }
        let from = file.map_or_else(|| "/dev/stdin".to_owned(), |file| shell(&file.display().to_string()));
        let command = format!("install -D -m 0600 {from} {CREDENTIALS_FOLDER}/{name}");
        let how = if file.is_some() { "" } else { " (paste it, Enter, Ctrl-D)" };
        self.comment(&format!("`{name}` is stored by this command{how}:"));
        self.line(&format!("#   {command}"));
        self.credentials.push((name, command));
    }

    fn found(&mut self, what: &'static str, text: String) {
        self.found.push((what, plain(&text)));
    }

    fn gap(&mut self, text: &str) {
        let text = plain(text);
        self.comment(&format!("GAP: {text}"));
        self.gaps.push(text);
    }

    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn comment(&mut self, text: &str) {
        let mut line = "#".to_owned();
        for word in plain(text).split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > COMMENT_CHARS && line != "#" {
                self.line(&line);
                line = "#".into();
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(&line);
    }

    /// What is told in the terminal once the file is written.
    pub(super) fn told(&self, instance: &Instance, path: &Path) -> String {
        let mut out = String::from("Found on this host\n");
        for (what, text) in &self.found {
            let _ = writeln!(out, "  {what:<9} {text}");
        }
        let _ = writeln!(out, "\nWritten: {}", path.display());
        if !self.gaps.is_empty() {
            let _ = writeln!(
                out,
                "\nNot found; the runbook explains each gap where it stands, and does not run before it is filled"
            );
            for gap in &self.gaps {
                let _ = writeln!(out, "  - {gap}");
            }
        }
        if !self.credentials.is_empty() {
            let _ = writeln!(out, "\nCredentials to store");
        }
        for (_, command) in &self.credentials {
            let _ = writeln!(out, "  {command}");
        }
        let name = instance.name();
        let _ = writeln!(
            out,
            "\nThen\n  connect-migrator check {name}\n  connect-migrator plan {name}\n  systemctl start connect-migrator@{name}"
        );
        out
    }
}

fn content(seen: &Seen) -> String {
    let why = "Builds the environments of all content, the most recently deployed first, while users are already served.";
    match &seen.content {
        None => why.to_owned(),
        Some(Err(error)) => format!("{why} The content could not be looked at: {error}"),
        Some(Ok(content)) => {
            let needs: Vec<String> = content
                .needs
                .iter()
                .map(|((language, version), items)| format!("{language} {version} ({items})"))
                .collect();
            let needs = if needs.is_empty() {
                String::new()
            } else {
                format!("; deployed with {}", needs.join(", "))
            };
            format!(
                "{why} Now there are {} items{needs}. `check` tells which of them the image has no interpreter for.",
                content.items
            )
        }
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A word for a shell.
fn shell(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if text.chars().all(safe) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Foreign text as one bounded line: nothing in it may end a comment.
fn plain(text: &str) -> String {
    let line: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    line.join(" ").chars().take(QUOTED_CHARS).collect()
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
