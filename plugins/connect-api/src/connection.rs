//! Which server is asked, with which key, and whether that key may do what is needed.

use connect_migrator_connect::api::{Api, ApiError, KeyHeader};
use connect_migrator_connect::installation::Installation;
use connect_migrator_connect::source_edits::SourceEdits;
use connect_migrator_sdk::prelude::*;

const KEY_REMEDY: &str =
    "log in to Connect as an administrator, create an API key under your name > API Keys, and store it again";

/// How the settings of a step name the server.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// The setting `url`: the server to ask, whatever the migration knows.
    pub url: Option<String>,
    /// The setting `api-key`, in place of the one of `[connect]`.
    pub api_key: Option<SecretRef>,
    /// The setting `key-header`.
    pub key_header: KeyHeader,
}

impl Connection {
    fn key(&self, cx: &Context) -> Result<Secret, Finding> {
        let Some(name) = self.api_key.as_ref().or(cx.source().api_key.as_ref()) else {
            return Err(Finding::blocker(
                "api-key-missing",
                "the runbook names no API key",
                "set `api-key = { credential = \"connect-api-key\" }` under [connect], and store the key of an administrator",
            ));
        };
        cx.secret(name).map_err(|error| {
            Finding::blocker(
                "api-key-not-stored",
                format!("the credential `{}` cannot be read: {error}", name.credential),
                KEY_REMEDY,
            )
        })
    }

    /// A client of the server that the step is about: the one of the setting `url`; else the new server once it is there,
    /// asked under its public name; else the source, asked on this machine or, when it does not answer there, at its URL.
    ///
    /// # Errors
    /// When there is no key, or no usable address.
    pub async fn open(&self, cx: &Context) -> Result<Api, StepError> {
        let key = self.key(cx).map_err(|finding| {
            StepError::new("get the API key").because(finding.text).remedy(finding.remedy)
        })?;
        self.open_with(cx, key).await
    }

    async fn open_with(&self, cx: &Context, key: Secret) -> Result<Api, StepError> {
        let failed = |error: ApiError| StepError::new("reach the Connect server").because_of(&error);
        if let Some(url) = &self.url {
            return Ok(Api::new(url, Some(key)).map_err(failed)?.key_in(self.key_header));
        }
        if let Some(target) = cx.fact::<Target>(Target::KEY)? {
            let public = match &cx.source().url {
                Some(url) => url.clone(),
                None => {
                    installation(cx).await?.address.unwrap_or_else(|| format!("http://{}", target.address))
                }
            };
            let api = Api::with_address(&public, &target.address, Some(key)).map_err(failed)?;
            return Ok(api.key_in(self.key_header));
        }
        let local = installation(cx).await?.local_url();
        let api = Api::new(&local, Some(key.clone())).map_err(failed)?.key_in(self.key_header);
        match (&cx.source().url, api.ping().await) {
            (Some(public), Err(ApiError::Unreachable { .. })) => {
                Ok(Api::new(public, Some(key)).map_err(failed)?.key_in(self.key_header))
            }
            _ => Ok(api),
        }
    }

    /// Whether the server answers, and the key is one of an administrator. Answers the client only if so.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub async fn check(&self, cx: &Context) -> Result<(Option<Api>, Vec<Finding>), StepError> {
        let key = match self.key(cx) {
            Ok(key) => key,
            Err(finding) => return Ok((None, vec![finding])),
        };
        let api = self.open_with(cx, key).await?;
        let user = match api.user().await {
            Ok(user) => user,
            Err(error) => return Ok((None, vec![refused(&error)])),
        };
        if user.locked {
            let text = format!("the API key belongs to `{}`, who is locked", user.username);
            let remedy =
                "unlock that user in Connect under People, or store the key of another administrator";
            return Ok((None, vec![Finding::blocker("api-key-locked", text, remedy)]));
        }
        if !user.is_administrator() {
            let text =
                format!("the API key belongs to `{}`, whose role is {}", user.username, user.user_role);
            let remedy =
                "store the key of an administrator: only they may clear caches and build all content";
            return Ok((None, vec![Finding::blocker("api-key-role", text, remedy)]));
        }
        let text = format!("the API key belongs to `{}`, an administrator", user.username);
        Ok((Some(api), vec![Finding::ok("api-key", text)]))
    }
}

fn refused(error: &ApiError) -> Finding {
    match error.status() {
        Some(401) if error.text().to_lowercase().contains("expired") => {
            Finding::blocker("api-key-expired", format!("the API key has expired: {error}"), KEY_REMEDY)
        }
        // The server need not tell why.
        Some(401) => {
            let text = format!("the API key is unknown to the server, was deleted, or has expired: {error}");
            Finding::blocker("api-key-invalid", text, KEY_REMEDY)
        }
        _ => Finding::blocker(
            "api-unreachable",
            format!("the server's API cannot be used: {error}"),
            "see that Connect runs and answers there; set `url` under `with` if it is to be asked elsewhere",
        ),
    }
}

/// Reads the source's installation, as it will be once other steps have changed its configuration, on a thread where it may block.
///
/// # Errors
/// When its configuration cannot be read.
pub async fn installation(cx: &Context) -> Result<Installation, StepError> {
    let (source, edits) = (cx.source().clone(), SourceEdits::of_others(cx));
    let config = source.config.display().to_string();
    let tried = || StepError::new(format!("read the Connect configuration {config}"));
    tokio::task::spawn_blocking(move || Installation::read(&source)?.edited(edits))
        .await
        .map_err(|error| tried().because(error))?
        .map_err(|error| tried().because_of(&error))
}
