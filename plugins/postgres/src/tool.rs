//! The product's tools: `migrate` and `rscadmin`.
//!
//! <https://docs.posit.co/connect/admin/database/migration/>, <https://docs.posit.co/connect/admin/appendix/cli/>

use crate::program;
use connect_migrator_sdk::{Secret, StepError};
use std::path::Path;

/// What is known of `migrate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// It carries the instrumentation data too.
    pub instrumentation: bool,
}

/// Asks `migrate` what it can. It is not told to do anything.
///
/// # Errors
/// When it cannot be run, or does not know `db`.
pub async fn probe(migrate: &Path) -> Result<Tool, StepError> {
    let tried = || StepError::new(format!("run {} db --help", migrate.display()));
    if !migrate.is_file() {
        return Err(tried().because("there is no such file").remedy("see that Connect is installed there"));
    }
    let (ran, out, err) = program::ask(migrate, &["db", "--help"], b"").await?;
    let help = format!("{out}\n{err}");
    // Go programs of some ages end with a status other than 0 when they print their usage.
    if !help.to_lowercase().contains("config") {
        return Err(tried()
            .because(format!("its answer (status {:?}) is not the usage of a migration tool", ran.status))
            .remedy("see that the installation of Connect is whole"));
    }
    let instrumentation = help.lines().any(|line| {
        line.split_whitespace().next().is_some_and(|word| {
            word.starts_with('-') && word.trim_start_matches('-').split('=').next() == Some("data")
        })
    });
    Ok(Tool { instrumentation })
}

/// The ways to ask `rscadmin` for an encryption, newest first.
const ENCRYPT: [&[&str]; 2] = [&["encrypt-config-value"], &["configure", "--encrypt-config-value"]];
/// A value in Base64 is not shorter: a nonce and a seal are part of it.
const ENCRYPTED_MIN_CHARS: usize = 32;

/// Encrypts a value for the configuration file. It goes through standard input: arguments and environment can be seen by others.
///
/// # Errors
/// When the program refuses, with what it says.
pub async fn encrypt(rscadmin: &Path, config: &Path, value: &Secret) -> Result<String, StepError> {
    let config = config.to_string_lossy();
    let mut why = String::new();
    for command in ENCRYPT {
        let mut arguments = vec!["--config", config.as_ref()];
        arguments.extend_from_slice(command);
        let input = zeroize::Zeroizing::new(format!("{}\n", value.expose()));
        let (ran, out, err) = program::ask(rscadmin, &arguments, input.as_bytes()).await?;
        // Older releases print a prompt first.
        let last = out.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let last = last.rsplit(' ').next().unwrap_or_default().trim();
        if ran.succeeded() && is_encrypted(last, value) {
            return Ok(last.to_owned());
        }
        if why.is_empty() {
            let said =
                err.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it printed no encrypted value");
            why = said.replace(value.expose(), "(not shown)");
        }
    }
    Err(StepError::new(format!("encrypt the password with {}", rscadmin.display()))
        .because(why)
        .remedy("see that `rscadmin encrypt-config-value` works on this host; its key is `secret.key` in Database.Dir"))
}

fn is_encrypted(text: &str, plain: &Secret) -> bool {
    let base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_');
    text.len() >= ENCRYPTED_MIN_CHARS && text.chars().all(base64) && text != plain.expose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(dir: &Path, name: &str, text: &str) -> std::path::PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn whether_instrumentation_is_carried_is_read_from_the_tools_own_help() {
        let dir = tempfile::tempdir().unwrap();
        let new = script(
            dir.path(),
            "new",
            "echo '  --config FILE'; echo '  -data string  which databases' >&2; exit 2",
        );
        let old = script(dir.path(), "old", "echo '  --config FILE  all data is migrated'");
        let other = script(dir.path(), "other", "echo hello");
        assert!(probe(&new).await.unwrap().instrumentation);
        assert!(!probe(&old).await.unwrap().instrumentation);
        assert!(probe(&other).await.is_err());
        assert!(probe(&dir.path().join("none")).await.is_err());
    }

    #[tokio::test]
    async fn the_password_is_not_in_the_arguments_and_a_prompt_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let seen = dir.path().join("seen");
        let tool = script(
            dir.path(),
            "rscadmin",
            &format!(
                "echo \"$@\" >{0}; env >>{0}; read -r value; printf 'Value: '; printf '%s' \"$value\" | sha256sum | cut -c1-64",
                seen.display()
            ),
        );
        let value = Secret::new("pa ss$word".into());
        let encrypted = encrypt(&tool, Path::new("/etc/x.gcfg"), &value).await.unwrap();
        assert_eq!(encrypted.len(), 64);
        let seen = std::fs::read_to_string(seen).unwrap();
        assert!(
            seen.starts_with("--config /etc/x.gcfg encrypt-config-value") && !seen.contains("pa ss"),
            "{seen}"
        );
    }

    #[tokio::test]
    async fn the_older_spelling_is_tried_and_a_refusal_is_told_without_the_password() {
        let dir = tempfile::tempdir().unwrap();
        let old = script(
            dir.path(),
            "old",
            "[ \"$3\" = configure ] || exit 2; cat >/dev/null; echo Password:; printf '%040d\\n' 7",
        );
        let value = Secret::new("geheim".into());
        assert_eq!(encrypt(&old, Path::new("/c"), &value).await.unwrap().len(), 40);
        let refuses = script(dir.path(), "refuses", "read -r v; echo \"no: $v\" >&2; exit 1");
        let error = encrypt(&refuses, Path::new("/c"), &value).await.unwrap_err().to_string();
        assert!(error.contains("no: (not shown)"), "{error}");
    }
}
