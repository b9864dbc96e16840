//! What the step knows about the source, and keeps from prepare on: in the window nothing is asked again that costs time.

use crate::conf::{ConfError, Configuration};
use crate::endpoint::{Endpoint, SourcePlace};
use crate::listen::{self, Entry};
use crate::locate::{self, NoValue, Value, Wanted, names_of, server_of};
use crate::probe::{ProbeError, Prober};
use crate::settings::Settings;
use connect_migrator_connect::config_file;
use connect_migrator_connect::installation::Installation;
use connect_migrator_sdk::{Context, StepError};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The file in the state folder.
const FILE: &str = "known.json";

/// What the settings and the source's own configuration tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Where the source answers.
    pub source: SourcePlace,
    /// The URL that users type, when it is told anywhere.
    pub url: Option<String>,
}

/// The configuration as it is now, and the one value in it.
#[derive(Debug)]
pub struct Found {
    /// All of it.
    pub configuration: Configuration,
    /// The value.
    pub value: Value,
}

/// Why the value was not found.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotFound {
    /// The settings make no sense.
    #[error("the setting `{setting}` is `{value}`, which is not {expected}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// There is no such file.
    #[error("the site {} cannot be found: {why}", path.display())]
    Site {
        /// The site.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The configuration cannot be read.
    #[error("{0}")]
    Unreadable(#[from] ConfError),
    /// There is no such value, or more than one.
    #[error("{0}")]
    NoValue(#[from] NoValue),
}

impl NotFound {
    /// The stable key of the finding.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            NotFound::Setting { setting: "maintenance", .. } => "maintenance-address",
            NotFound::Setting { setting: "upstream", .. } => "upstream-address",
            NotFound::Setting { .. } => "source-address",
            NotFound::Site { .. } => "site-missing",
            NotFound::Unreadable(_) => "nginx-config-unreadable",
            NotFound::NoValue(why) => why.key(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            NotFound::Setting { .. } => "correct it in the runbook",
            NotFound::Site { .. } => {
                "set `site` to the file that holds Connect's server block; `nginx -T` lists all that nginx reads"
            }
            NotFound::Unreadable(_) => "run `nginx -t`, and mend the configuration until it is satisfied",
            NotFound::NoValue(why) => why.remedy(),
        }
    }
}

impl From<NotFound> for StepError {
    fn from(error: NotFound) -> Self {
        StepError::new("find the one value of nginx' configuration that leads to Connect")
            .because(&error)
            .remedy(error.remedy())
    }
}

impl From<ProbeError> for StepError {
    fn from(error: ProbeError) -> Self {
        StepError::new(format!("make requests to {}", error.url))
            .because(error.why)
            .remedy("correct `url` under `[connect]`, or `probe` of this step")
    }
}

impl Known {
    /// Asks the settings, the runbook, and where these say nothing the source's configuration. Runs Connect's binary for its version
    /// in the latter case: not for the window.
    ///
    /// # Errors
    /// When the source's configuration is needed and cannot be read, or a setting is not an address.
    pub async fn ask(settings: &Settings, cx: &Context) -> Result<Self, StepError> {
        let url = cx.source().url.clone();
        let exactly = match &settings.source_address {
            None => None,
            Some(text) => Some(address("source-address", text)?),
        };
        if let (Some(url), Some(place)) = (&url, &exactly) {
            return Ok(Known { source: SourcePlace::Exactly(place.clone()), url: Some(url.clone()) });
        }
        let source = cx.source().clone();
        let tried = "find out where Connect answers on this machine";
        let installation = tokio::task::spawn_blocking(move || Installation::read(&source))
            .await
            .map_err(|error| StepError::new(tried).because(error))?
            .map_err(|error| {
                StepError::new(tried).because_of(&error).remedy("set `source-address` of this step")
            })?;
        Ok(Known {
            source: exactly.map_or(SourcePlace::AnyLocal(installation.listen.port), SourcePlace::Exactly),
            url: url.or(installation.address),
        })
    }

    /// What prepare has kept, or else asks.
    ///
    /// # Errors
    /// As [`Known::ask`].
    pub async fn kept(settings: &Settings, cx: &Context) -> Result<Self, StepError> {
        let kept = config_file::read_if_there(&cx.state_dir().join(FILE)).ok().flatten();
        match kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            Some(known) => Ok(known),
            None => Known::ask(settings, cx).await,
        }
    }

    /// Keeps it for the calls that follow.
    ///
    /// # Errors
    /// When the state folder cannot be written.
    pub fn keep(&self, cx: &Context) -> Result<(), StepError> {
        let path = cx.state_dir().join(FILE);
        let failed =
            |why: &dyn std::fmt::Display| StepError::new(format!("write {}", path.display())).because(why);
        let bytes = serde_json::to_vec(self).map_err(|error| failed(&error))?;
        config_file::keep(&path, &bytes).map_err(|error| failed(&error))
    }

    /// Reads nginx' configuration and finds the value.
    ///
    /// # Errors
    /// When it is not there, or not one.
    pub fn find(&self, settings: &Settings) -> Result<Found, NotFound> {
        let wanted = self.wanted(settings)?;
        let configuration = Configuration::read(&settings.configuration)?;
        let value = locate::locate(&configuration, &wanted)?;
        Ok(Found { configuration, value })
    }

    /// What to look for.
    ///
    /// # Errors
    /// When an address of the settings is none, or the site does not exist.
    pub fn wanted(&self, settings: &Settings) -> Result<Wanted, NotFound> {
        let site = settings
            .site
            .canonicalize()
            .map_err(|error| NotFound::Site { path: settings.site.clone(), why: error.to_string() })?;
        Ok(Wanted {
            site,
            server_name: settings.server_name.clone(),
            source: self.source.clone(),
            maintenance: maintenance(settings)?,
            upstream: upstream(settings)?,
        })
    }

    /// Makes requests that pass through the server block of the value.
    ///
    /// # Errors
    /// When there is no way in, or the URL is none.
    pub fn prober(&self, settings: &Settings, cx: &Context, found: &Found) -> Result<Prober, StepError> {
        let url = self.url_of(found);
        let entry = self.entry(settings, found, &url)?;
        // Only needed when Connect does not tell strangers its host name; a key that cannot be had is found by the steps that
        // cannot do without.
        let key = cx.source().api_key.as_ref().and_then(|key| cx.secret(key).ok());
        Ok(Prober::new(&url, &entry, key)?)
    }

    /// The URL that users type, or else one that the server block answers to.
    #[must_use]
    pub fn url_of(&self, found: &Found) -> String {
        self.url.clone().unwrap_or_else(|| {
            let servers = found.value.proxies.iter().filter_map(|id| server_of(&found.configuration, *id));
            let names = servers.flat_map(|server| names_of(&found.configuration, server));
            let name =
                names.into_iter().find(|name| Endpoint::parse(name, Some(80)).is_some() && name != "_");
            format!("http://{}", name.unwrap_or_else(|| "localhost".into()))
        })
    }

    fn entry(&self, settings: &Settings, found: &Found, url: &str) -> Result<Entry, StepError> {
        if let Some(probe) = &settings.probe {
            return listen::given(probe).ok_or_else(|| {
                StepError::new("make requests through nginx")
                    .because(format!("the setting `probe` is `{probe}`"))
                    .remedy("write `http://` or `https://`, an IP address, a colon and a port")
            });
        }
        let failed = |why: &str| StepError::new("make requests through nginx").because(why);
        let parsed = reqwest::Url::parse(url).map_err(|error| failed(&format!("the URL {url}: {error}")))?;
        let host = parsed.host_str().unwrap_or_default();
        let port = parsed.port_or_known_default().unwrap_or_default();
        listen::entry(&found.configuration, &found.value, parsed.scheme() == "https", host, port).ok_or_else(|| {
            failed("the server block listens on no address that a plain request can be made to")
                .remedy("set `probe` to an address on which nginx takes plain HTTP or HTTPS requests for this site")
        })
    }
}

/// The address of the maintenance page.
///
/// # Errors
/// When the setting is not an address on loopback.
pub fn maintenance(settings: &Settings) -> Result<Endpoint, NotFound> {
    address("maintenance", &settings.maintenance).ok().filter(Endpoint::is_loopback).ok_or_else(|| {
        wrong("maintenance", &settings.maintenance, "a loopback address with a port, such as 127.0.0.1:3941")
    })
}

/// The address of the container.
///
/// # Errors
/// When the setting is not an address.
pub fn upstream(settings: &Settings) -> Result<Endpoint, NotFound> {
    address("upstream", &settings.upstream)
}

fn address(setting: &'static str, text: &str) -> Result<Endpoint, NotFound> {
    Endpoint::parse(text, None).ok_or_else(|| wrong(setting, text, "`host:port`"))
}

fn wrong(setting: &'static str, value: &str, expected: &'static str) -> NotFound {
    NotFound::Setting { setting, value: value.into(), expected }
}
