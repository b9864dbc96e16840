//! Logins for registries, from the files in which podman and docker keep them.

use base64::Engine as _;
use connect_migrator_sdk::Secret;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// No such file is larger; a larger one is not read.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// A login for a registry.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password or token.
    pub password: Secret,
    /// Where it comes from, for messages.
    pub from: String,
}

/// A program that keeps logins for docker or podman. It is not asked: it runs as it likes, and may want a person at a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helper {
    /// The program.
    pub program: String,
    /// The file that names it.
    pub file: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
}

/// The files of this machine's root, in the order in which podman and docker look.
#[must_use]
pub fn files() -> Vec<PathBuf> {
    ["/run/containers/0/auth.json", "/root/.config/containers/auth.json", "/root/.docker/config.json"]
        .map(PathBuf::from)
        .to_vec()
}

/// The login that the first of these files has for a repository: the most exact entry of a file counts. What cannot be read has
/// none.
#[must_use]
pub fn find(files: &[PathBuf], host: &str, repository: &str) -> Option<Login> {
    files.iter().find_map(|path| in_file(path, host, repository))
}

/// The program that keeps the login for a registry, where one of these files leaves it to one.
#[must_use]
pub fn helper(files: &[PathBuf], host: &str) -> Option<Helper> {
    files.iter().find_map(|path| {
        let file = read(path)?;
        let own = file.cred_helpers.iter().find(|(key, _)| fits(key, host, host)).map(|(_, name)| name);
        // A store for all registries has a login for those that were logged in to: they have an entry without one.
        let logged_in = || file.auths.keys().any(|key| fits(key, host, host));
        let name = own.or_else(|| Some(&file.creds_store).filter(|_| logged_in()))?;
        let program = format!("docker-credential-{name}");
        (!name.is_empty()).then(|| Helper { program, file: path.clone() })
    })
}

fn read(path: &Path) -> Option<File> {
    if std::fs::metadata(path).ok()?.len() > FILE_MAX_BYTES {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn in_file(path: &Path, host: &str, repository: &str) -> Option<Login> {
    let file = read(path)?;
    let full = format!("{host}/{repository}");
    let best = file.auths.iter().filter(|(key, entry)| !entry.auth.is_empty() && fits(key, host, &full));
    let (_, entry) = best.max_by_key(|(key, _)| key.len())?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(entry.auth.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Login {
        user: user.into(),
        password: Secret::new(password.trim_end_matches('\0').to_owned()),
        from: path.display().to_string(),
    })
}

fn fits(key: &str, host: &str, full: &str) -> bool {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    // docker writes its hub as an old address. Below it lies what is no password: the tokens of a login by browser.
    if host == "docker.io" && matches!(bare, "index.docker.io" | "index.docker.io/v1") {
        return true;
    }
    bare == host || full == bare || full.strip_prefix(bare).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_entry_of_the_first_file_that_has_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        let auth = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let write = |name: &str, auths: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("{{\"auths\": {{{auths}}}}}")).unwrap();
            path
        };
        let podman = write(
            "auth.json",
            &format!(r#""q.io": {{"auth": "{}"}}, "q.io/own": {{"auth": "{}"}}"#, auth("a:1"), auth("b:2:3")),
        );
        let docker = write(
            "config.json",
            &format!(
                r#""https://index.docker.io/v1/": {{"auth": "{}"}}, "https://index.docker.io/v1/refresh-token": {{"auth": "{}"}}, "h:1": {{}}"#,
                auth("c:4"),
                auth("c:refresh")
            ),
        );
        let files = [dir.path().join("none"), podman, docker];
        let user = |host: &str, repository: &str| {
            find(&files, host, repository).map(|login| (login.user, login.password.expose().to_owned()))
        };
        assert_eq!(user("q.io", "x/y"), Some(("a".into(), "1".into())));
        assert_eq!(user("q.io", "own/y"), Some(("b".into(), "2:3".into())));
        assert_eq!(user("docker.io", "posit/connect"), Some(("c".into(), "4".into())));
        assert_eq!(user("h:1", "x"), None);
        assert_eq!(user("ghcr.io", "x"), None);
    }

    #[test]
    fn a_login_that_is_left_to_a_program_is_told_from_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let helper = |text: &str, host: &str| {
            std::fs::write(&path, text).unwrap();
            helper(std::slice::from_ref(&path), host).map(|helper| helper.program)
        };
        let own = r#"{ "credHelpers": { "ghcr.io": "gh", "https://index.docker.io/v1/": "pass" } }"#;
        assert_eq!(helper(own, "ghcr.io").as_deref(), Some("docker-credential-gh"));
        assert_eq!(helper(own, "docker.io").as_deref(), Some("docker-credential-pass"));
        assert_eq!(helper(own, "quay.io"), None);
        let store = r#"{ "auths": { "ghcr.io": {} }, "credsStore": "secretservice" }"#;
        assert_eq!(helper(store, "ghcr.io").as_deref(), Some("docker-credential-secretservice"));
        assert_eq!(helper(store, "quay.io"), None);
        assert_eq!(helper(r#"{ "auths": { "ghcr.io": { "auth": "YTpi" } } }"#, "ghcr.io"), None);
    }
}
