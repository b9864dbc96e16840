//! Which login goes to which registry: a password is shown to the registry that it is for, and to no other.

use crate::engine::Credentials;
use crate::reference;
use crate::settings::{Image, Settings};
use crate::world::Subject;
use connect_migrator_images::choice::first_registry;
use connect_migrator_images::credentials;
use connect_migrator_images::reference::host_and_repository;
use connect_migrator_sdk::{Context, Finding, StepError};
use std::path::PathBuf;

pub use connect_migrator_images::credentials::Login;

/// The logins that a step has.
#[derive(Debug, Clone, Default)]
pub struct Logins {
    /// That of the settings, with the registry that it is for.
    own: Option<(String, Login)>,
    /// In which docker and podman keep theirs.
    files: Vec<PathBuf>,
}

impl Logins {
    /// Fetches the password of the settings' login.
    ///
    /// # Errors
    /// When it is not stored, or it is not said which registry it is for.
    pub fn of(subject: &Subject<'_>, cx: &Context) -> Result<Self, StepError> {
        let files = credentials::files();
        let login = match &subject.settings.image {
            // Nothing is fetched for it.
            Image::Archive(_) => None,
            _ => subject.settings.login.as_ref(),
        };
        let Some(login) = login else { return Ok(Logins { own: None, files }) };
        let Some(registry) = registry(subject.settings) else {
            return Err(StepError::new(format!("use the login of {} for the image", login.user))
                .because("it does not say which registry it is for, and an image that is built may begin from images of several")
                .remedy("name it: `login = { registry = \"…\", user = \"…\", password = { credential = \"…\" } }`"));
        };
        let password = cx.secret(&login.password)?;
        let login = Login { user: login.user.clone(), password, from: "the runbook".into() };
        Ok(Logins { own: Some((registry, login)), files })
    }

    /// Only those of docker and podman.
    #[must_use]
    pub fn of_files() -> Self {
        Logins { own: None, files: credentials::files() }
    }

    /// The login for a repository: the settings' own where it is for that registry, else what docker or podman have.
    #[must_use]
    pub fn of_repository(&self, repository: &str) -> Option<Login> {
        let (host, name) = host_and_repository(repository);
        match &self.own {
            Some((registry, login)) if *registry == canonical(&host) => Some(login.clone()),
            _ => credentials::find(&self.files, &host, &name),
        }
    }

    /// The same for the engine, which looks into no such file itself.
    #[must_use]
    pub fn of_reference(&self, reference: &str) -> Option<Credentials> {
        let login = self.of_repository(reference::split(reference).0)?;
        Some(Credentials { user: login.user, password: login.password })
    }

    /// What docker or podman leave to a helper program, for the first of these references that has no login otherwise.
    #[must_use]
    pub fn left_to_helper(&self, references: &[String]) -> Option<Finding> {
        references.iter().filter(|reference| self.of_reference(reference).is_none()).find_map(|reference| {
            let host = host_of(reference);
            let helper = credentials::helper(&self.files, &host)?;
            Some(Finding::warning(
                "registry-helper",
                format!(
                    "{} leaves the login for {host} to {}, which this step does not ask: {host} is asked without a login",
                    helper.file.display(),
                    helper.program
                ),
                format!(
                    "give this step `login = {{ registry = \"{host}\", user = \"…\", password = {{ credential = \"…\" }} }}`, or write the login into a file: `podman login --authfile /root/.config/containers/auth.json {host}`"
                ),
            ))
        })
    }
}

/// The registry that the settings' login is for: the one that it names, that of the reference, or the first that is searched.
#[must_use]
pub fn registry(settings: &Settings) -> Option<String> {
    if let Some(named) = settings.login.as_ref().and_then(|login| login.registry.as_ref()) {
        return Some(canonical(named));
    }
    match &settings.image {
        Image::Reference(reference) => Some(host_of(reference)),
        Image::Chosen(chosen) => Some(canonical(&first_registry(chosen.registries.as_deref()))),
        Image::Archive(_) | Image::Build(_) => None,
    }
}

/// The registry of a reference.
#[must_use]
pub fn host_of(reference: &str) -> String {
    canonical(&host_and_repository(reference::split(reference).0).0)
}

/// docker's hub has more names than one.
fn canonical(host: &str) -> String {
    match host.to_ascii_lowercase() {
        host if matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io") => "docker.io".into(),
        host => host,
    }
}

/// A login for a registry in which the image is not looked for is a slip of the pen.
#[must_use]
pub fn unused(settings: &Settings, hosts: &[String]) -> Option<Finding> {
    settings.login.as_ref()?;
    let registry = registry(settings)?;
    (!hosts.is_empty() && !hosts.contains(&registry)).then(|| {
        Finding::warning(
            "login-unused",
            format!("`login` is for the registry {registry}, from which nothing is fetched"),
            "correct its `registry`, or leave `login` out",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use connect_migrator_sdk::Secret;
    use serde_json::json;

    fn settings(image: serde_json::Value, registry: Option<&str>) -> Settings {
        let mut login = json!({ "user": "ann", "password": { "credential": "registry" } });
        if let Some(registry) = registry {
            login["registry"] = json!(registry);
        }
        serde_json::from_value(json!({ "image": image, "login": login })).unwrap()
    }

    #[test]
    fn a_login_is_for_one_registry() {
        let chosen = |registries: &[&str]| json!({ "version": "match-source", "registries": registries });
        for (image, named, registry) in [
            (json!("ghcr.io/own/connect:1"), None, Some("ghcr.io")),
            (json!("own/connect:1"), None, Some("docker.io")),
            (json!("h:5000/own/connect@sha256:00"), None, Some("h:5000")),
            (json!({ "version": "match-source" }), None, Some("docker.io")),
            (chosen(&["h:5000/own/connect", "ghcr.io"]), None, Some("h:5000")),
            (chosen(&["mirror", "ghcr.io"]), None, Some("mirror")),
            (chosen(&["h:5000/own/connect", "ghcr.io"]), Some("ghcr.io"), Some("ghcr.io")),
            (json!({ "containerfile": "/c" }), None, None),
            (json!({ "containerfile": "/c" }), Some("index.docker.io"), Some("docker.io")),
        ] {
            let settings = settings(image.clone(), named);
            assert_eq!(super::registry(&settings).as_deref(), registry, "{image}");
        }
    }

    #[test]
    fn a_password_is_shown_to_its_registry_and_to_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        // bob:b
        std::fs::write(&file, r#"{ "auths": { "ghcr.io": { "auth": "Ym9iOmI=" } } }"#).unwrap();
        let login =
            Login { user: "ann".into(), password: Secret::new("a".to_owned()), from: "the runbook".into() };
        let logins = Logins { own: Some(("docker.io".into(), login)), files: vec![file] };
        let user = |reference: &str| logins.of_reference(reference).map(|login| login.user);
        assert_eq!(user("docker.io/posit/connect:1").as_deref(), Some("ann"));
        assert_eq!(user("ubuntu:24.04").as_deref(), Some("ann"));
        assert_eq!(user("ghcr.io/posit-dev/connect:1").as_deref(), Some("bob"));
        assert_eq!(user("quay.io/x/y:1"), None);
        assert_eq!(user("docker.io.example.com/x/y:1"), None);
    }

    #[test]
    fn a_login_that_is_left_to_a_helper_program_is_pointed_out_where_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(
            &file,
            r#"{ "auths": { "quay.io": { "auth": "Ym9iOmI=" } }, "credHelpers": { "ghcr.io": "gh", "quay.io": "q" } }"#,
        )
        .unwrap();
        let logins = Logins { own: None, files: vec![file] };
        let told = |references: &[&str]| {
            logins.left_to_helper(&references.iter().map(|&r| r.to_owned()).collect::<Vec<_>>())
        };
        let finding = told(&["docker.io/x/y:1", "ghcr.io/x/y:1"]).unwrap();
        assert_eq!(finding.key, "registry-helper");
        assert!(finding.text.contains("ghcr.io to docker-credential-gh"), "{finding:?}");
        assert!(finding.remedy.contains("registry = \"ghcr.io\""), "{finding:?}");
        // There is a login besides, or the registry is another one.
        assert_eq!(told(&["quay.io/x/y:1", "docker.io/x/y:1"]), None);
    }
}
