//! The calls that move the value forward: prepare, enter_window, apply, verify, finalize.

use crate::advice::intercepts_errors;
use crate::endpoint::Endpoint;
use crate::known::{self, Found, Known};
use crate::listen::Entry;
use crate::locate::Leads;
use crate::nginx::{self, Service, TestError};
use crate::page;
use crate::plan::changed_lines;
use crate::probe::{End, Prober};
use crate::settings::Settings;
use crate::stage::{Edit, Stage, spliced};
use crate::undo::{Undo, ValueChange, digest};
use connect_migrator_connect::config_file::{self, ReplaceError};
use connect_migrator_sdk::{Context, Op, Outcome, Progress, StepError, Target, Verdict};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The folder for staged copies, in the state folder.
const STAGE: &str = "stage";
/// Tries of a websocket upgrade through nginx that the container itself takes.
const UPGRADE_TRIES: usize = 3;
/// The pause between them.
const UPGRADE_PAUSE_MILLIS: u64 = 200;

/// One call of the step.
#[derive(Debug)]
pub struct Route<'a, S> {
    /// The settings.
    pub settings: &'a Settings,
    /// The daemon's side.
    pub cx: &'a Context,
    /// What runs nginx.
    pub service: S,
}

/// `nginx -t` refused `what`.
pub(crate) fn refused(what: &str, error: &TestError) -> StepError {
    StepError::new(format!("have {what} accepted by `nginx -t`"))
        .because(error)
        .remedy("mend what nginx names; nothing that users see was changed")
}

impl<S: Service> Route<'_, S> {
    /// Tests both values on a staged copy, and puts the maintenance page up where only this machine sees it.
    ///
    /// # Errors
    /// When nginx does not run, refuses a configuration, or does not serve the page.
    pub async fn prepare(&self) -> Result<Outcome, StepError> {
        self.doing("finding the value in nginx' configuration");
        if !self.is_active().await? {
            return Err(StepError::new(format!("prepare the route in {}", self.settings.unit))
                .because("the unit is not active")
                .remedy(format!("run `systemctl start {}`", self.settings.unit)));
        }
        let known = Known::ask(self.settings, self.cx).await?;
        let found = known.find(self.settings)?;
        if found.value.leads != Leads::Source {
            return Err(StepError::new("prepare the route")
                .because(format!("{} at {} does not lead to the source", found.value.text, found.value.place))
                .remedy(format!("let it lead to {} again, and reload nginx", known.source)));
        }
        known.keep(self.cx)?;
        nginx::test(self.settings, &self.settings.configuration)
            .await
            .map_err(|error| refused("the configuration as it is", &error))?;

        let (path, text) = (self.maintenance_path(&found)?, self.maintenance_text()?);
        for (name, endpoint) in [
            ("the maintenance page", known::maintenance(self.settings)?),
            ("the container", known::upstream(self.settings)?),
        ] {
            self.doing(&format!("testing the configuration that leads to {name}"));
            self.test_staged(&found, name, &endpoint, (&path, text.as_bytes())).await?;
        }
        let new = found.value.leading_to(&known::upstream(self.settings)?);
        let bytes = config_file::read(&found.value.file)?;
        config_file::rehearse(&found.value.file, &spliced(&bytes, vec![(found.value.span.clone(), new)]))?;
        if self.cx.is_cancelled() {
            return Err(StepError::cancelled("prepare the route"));
        }

        self.doing("putting up the maintenance page");
        let there = config_file::read_if_there(&path)?;
        let as_wanted = there.as_deref() == Some(text.as_bytes());
        if as_wanted && self.maintenance_answers(Duration::ZERO).await.is_ok() {
            return Ok(Outcome::already_done(format!("{} is there, and the page answers", path.display())));
        }
        if there.is_some_and(|bytes| !page::is_ours(&bytes)) {
            return Err(StepError::new(format!("write {}", path.display()))
                .because("there is a file of this name that connect-migrator has not written")
                .remedy("move it away"));
        }
        self.cx.record_undo(&Undo::MaintenanceFile { path: path.clone() })?;
        config_file::create(&path, text.as_bytes())?;
        if let Err(error) = nginx::test(self.settings, &self.settings.configuration).await {
            config_file::remove(&path)?;
            return Err(refused(&path.display().to_string(), &error));
        }
        self.reload().await?;
        self.maintenance_answers(self.settings.verify_time()).await.map_err(|end| {
            StepError::new(format!("see the maintenance page on {}", self.settings.maintenance))
                .because(format!("a request ended at {end}"))
                .remedy(format!(
                    "`journalctl -u {}` and nginx' error log tell why; with SELinux the port must be allowed: `semanage port -a -t \
                     http_port_t -p tcp <port>`",
                    self.settings.unit
                ))
        })?;
        Ok(Outcome::changed(format!("the maintenance page answers 503 on {}", self.settings.maintenance))
            .with_detail("diff", &changed_lines(None, &path, b"", text.as_bytes()))
            .and(format!(
                "`nginx -t` accepts {} at {} with both new values",
                found.value.text, found.value.place
            )))
    }

    /// Shows users the maintenance page.
    ///
    /// # Errors
    /// When the value cannot be changed, or requests do not end at the page.
    pub async fn enter_window(&self) -> Result<Outcome, StepError> {
        let known = Known::kept(self.settings, self.cx).await?;
        let found = known.find(self.settings)?;
        let maintenance = known::maintenance(self.settings)?;
        let prober = known.prober(self.settings, self.cx, &found)?;
        let any_page = intercepts_errors(&found.configuration, &found.value);
        let at_page = |end: &End| matches!(end, End::Maintenance { ours, .. } if *ours || any_page);
        let outcome = match found.value.leads {
            Leads::Maintenance if prober.until(Duration::ZERO, at_page).await.is_ok() => {
                return Ok(Outcome::already_done("users see the maintenance page"));
            }
            // A crash came between the change and the reload.
            Leads::Maintenance => {
                self.reload().await?;
                Outcome::changed(format!("{} leads to the maintenance page", found.value.place))
            }
            Leads::Source | Leads::Target => self.switch(Op::EnterWindow, &found, &maintenance).await?,
        };
        self.doing("waiting until requests end at the maintenance page");
        prober
            .until(self.settings.verify_time(), at_page)
            .await
            .map_err(|end| self.ends_elsewhere("the maintenance page", &end))?;
        Ok(outcome.and("a request through nginx is answered by 503"))
    }

    /// Sends users to the container.
    ///
    /// # Errors
    /// When nginx refuses the new value, which is then taken back at once; or when requests do not reach the container.
    pub async fn apply(&self) -> Result<Outcome, StepError> {
        let target = self.target()?;
        let known = Known::kept(self.settings, self.cx).await?;
        let found = known.find(self.settings)?;
        let upstream = known::upstream(self.settings)?;
        let prober = known.prober(self.settings, self.cx, &found)?;
        let at_target = |end: &End| is_target(end, &target);
        let outcome = match found.value.leads {
            Leads::Target if prober.until(Duration::ZERO, at_target).await.is_ok() => {
                Outcome::already_done(format!("{} leads to {}", found.value.place, found.value.text))
            }
            Leads::Target => {
                self.reload().await?;
                Outcome::changed(format!("{} leads to {}", found.value.place, found.value.text))
            }
            Leads::Source | Leads::Maintenance => self.switch(Op::Apply, &found, &upstream).await?,
        };
        self.doing("waiting until requests end at the container");
        let end = prober
            .until(self.settings.verify_time(), at_target)
            .await
            .map_err(|end| self.ends_elsewhere(&format!("the container `{}`", target.hostname), &end))?;
        let outcome = outcome.and(format!("a request through nginx ends at {end}"));
        let websocket = self.websocket(&known.url_of(&found), &prober, &target).await;
        match websocket {
            Ok(evidence) => Ok(outcome.and(evidence)),
            Err(why) => {
                Err(StepError::new("open a websocket through nginx").because(why).remedy(WEBSOCKET_REMEDY))
            }
        }
    }

    /// Whether the file and the requests are as apply made them.
    ///
    /// # Errors
    /// When the container is not known.
    pub async fn verify(&self) -> Result<Verdict, StepError> {
        let target = self.target()?;
        let known = Known::kept(self.settings, self.cx).await?;
        let found = match known.find(self.settings) {
            Ok(found) => found,
            Err(error) => return Ok(Verdict::broken(error.to_string(), error.remedy())),
        };
        if found.value.leads != Leads::Target {
            return Ok(Verdict::broken(
                format!("{} is {} and not {}", found.value.place, found.value.text, self.settings.upstream),
                "somebody has changed it: put it back and reload nginx, or roll the migration back",
            ));
        }
        let prober = known.prober(self.settings, self.cx, &found)?;
        let end = match prober.until(self.settings.verify_time(), |end| is_target(end, &target)).await {
            Ok(end) => end,
            Err(end) => {
                let error = self.ends_elsewhere(&format!("the container `{}`", target.hostname), &end);
                return Ok(Verdict::broken(error.why, error.remedy));
            }
        };
        Ok(match self.websocket(&known.url_of(&found), &prober, &target).await {
            Ok(websocket) => Verdict::holds(format!(
                "{} is {}; a request through nginx ends at {end}; {websocket}",
                found.value.place, found.value.text
            )),
            Err(why) => Verdict::broken(why, WEBSOCKET_REMEDY),
        })
    }

    /// Takes the maintenance page down. The value stays.
    ///
    /// # Errors
    /// When the file cannot be removed or nginx cannot be reloaded.
    pub async fn finalize(&self) -> Result<Outcome, StepError> {
        let known = Known::kept(self.settings, self.cx).await?;
        let found = known.find(self.settings)?;
        if found.value.leads == Leads::Maintenance {
            return Err(StepError::new("take the maintenance page down")
                .because(format!("{} leads to it", found.value.place))
                .remedy(format!(
                    "let it lead to {}, reload nginx, and commit again",
                    self.settings.upstream
                )));
        }
        let path = self.maintenance_path(&found)?;
        if !config_file::read_if_there(&path)?.is_some_and(|bytes| page::is_ours(&bytes)) {
            return Ok(Outcome::already_done("the maintenance page is gone"));
        }
        config_file::remove(&path)?;
        let outcome = Outcome::changed(format!("{} is removed", path.display()));
        if !self.is_active().await? {
            return Ok(outcome.and(format!("{} is not active, and was not reloaded", self.settings.unit)));
        }
        self.reload().await?;
        Ok(outcome.and(format!("{} is reloaded", self.settings.unit)))
    }

    /// Where our own file goes.
    ///
    /// # Errors
    /// When there is no place for it.
    pub(crate) fn maintenance_path(&self, found: &Found) -> Result<PathBuf, StepError> {
        page::place(&found.configuration, &self.cx.migration().instance).ok_or_else(|| {
            StepError::new("find a place for the maintenance page")
                .because(format!(
                    "the http block of {} includes no folder of `*.conf` files",
                    found.configuration.main().display()
                ))
                .remedy("put `include /etc/nginx/conf.d/*.conf;` into its http block, make that folder, and reload nginx")
        })
    }

    /// What stands in our own file.
    ///
    /// # Errors
    /// When the administrator's page cannot be read.
    pub(crate) fn maintenance_text(&self) -> Result<String, StepError> {
        let own = match &self.settings.maintenance_page {
            None => None,
            Some(path) => Some(own_page(path)?),
        };
        let listen = known::maintenance(self.settings)?;
        Ok(page::server(&self.cx.migration().instance, &listen, self.settings.retry_after, own.as_deref()))
    }

    pub(crate) async fn is_active(&self) -> Result<bool, StepError> {
        self.service.is_active().await.map_err(|error| {
            StepError::new(format!("{} {}", error.tried, error.unit))
                .because(error.why)
                .remedy("see that D-Bus and systemd answer: `systemctl status`")
        })
    }

    pub(crate) async fn reload(&self) -> Result<(), StepError> {
        self.doing("reloading nginx");
        nginx::reload(self.settings, &self.service).await.map_err(|error| {
            StepError::new(format!("{} {}", error.tried, error.unit))
                .because(error.why)
                .remedy(format!("`systemctl status {}` tells more", self.settings.unit))
        })
    }

    async fn test_staged(
        &self,
        found: &Found,
        name: &str,
        endpoint: &Endpoint,
        added: (&Path, &[u8]),
    ) -> Result<(), StepError> {
        let edit = Edit {
            file: found.value.file.clone(),
            span: found.value.span.clone(),
            text: found.value.leading_to(endpoint),
        };
        let root = self.cx.state_dir().join(STAGE);
        let failed = |error: &dyn std::fmt::Display| {
            StepError::new("test a staged copy of nginx' configuration").because(error)
        };
        let stage =
            Stage::write(&found.configuration, &root, &edit, added).map_err(|error| failed(&error))?;
        let result = nginx::test(self.settings, stage.main()).await;
        stage.discard().map_err(|error| failed(&error))?;
        result.map_err(|error| {
            let error = match error {
                TestError::Refused(said) => TestError::Refused(stage.as_originals(&said)),
                other => other,
            };
            refused(&format!("the staged configuration that leads to {name}"), &error)
        })
    }

    /// Changes the value and has nginx read it. When nginx refuses it, takes it back before it answers.
    async fn switch(&self, op: Op, found: &Found, to: &Endpoint) -> Result<Outcome, StepError> {
        let value = &found.value;
        let new_text = value.leading_to(to);
        let old = config_file::read(&value.file)?;
        if old.get(value.span.clone()) != Some(value.text.as_bytes()) {
            return Err(ReplaceError::ChangedMeanwhile { path: value.file.clone() }.into());
        }
        let new = spliced(&old, vec![(value.span.clone(), new_text.clone())]);
        let kept = format!("before-{}", op.name());
        config_file::keep(&self.cx.state_dir().join(&kept), &old)?;
        self.cx.record_undo(&Undo::Value(ValueChange {
            file: value.file.clone(),
            start: value.span.start,
            old: value.text.clone(),
            new: new_text.clone(),
            before: digest(&old),
            after: digest(&new),
            kept,
        }))?;
        self.doing(&format!("changing {} to {new_text}", value.place));
        config_file::replace(&value.file, &old, &new)?;
        if let Err(error) = nginx::test(self.settings, &self.settings.configuration).await {
            config_file::replace(&value.file, &new, &old)?;
            return Err(refused(&format!("{} with {new_text}", value.place), &error));
        }
        self.reload().await?;
        Ok(Outcome::changed(format!("{}: {} became {new_text}", value.place, value.text))
            .with_detail("diff", &changed_lines(Some(&value.file), &value.file, &old, &new)))
    }

    pub(crate) async fn maintenance_answers(&self, limit: Duration) -> Result<End, End> {
        let failed = |why: String| End::Failed { why };
        let endpoint = known::maintenance(self.settings).map_err(|error| failed(error.to_string()))?;
        let address = endpoint.socket().ok_or_else(|| failed(format!("{endpoint} is no address")))?;
        let entry = Entry { tls: false, address, place: "the setting `maintenance`".into() };
        let prober = Prober::new(&format!("http://{endpoint}"), &entry, None)
            .map_err(|error| failed(error.to_string()))?;
        prober.until(limit, |end| matches!(end, End::Maintenance { ours: true, retry_after: Some(_) })).await
    }

    fn target(&self) -> Result<Target, StepError> {
        let target: Option<Target> = self.cx.fact(Target::KEY)?;
        let target = target.ok_or_else(|| {
            StepError::new("route users to the container")
                .because("no step has told which container that is")
                .remedy("put the step that starts the container before this one")
        })?;
        let upstream = known::upstream(self.settings)?;
        if Endpoint::parse(&target.address, Some(80)).is_some_and(|address| address.port != upstream.port) {
            return Err(StepError::new("route users to the container")
                .because(format!("it answers on {}, and `upstream` is {upstream}", target.address))
                .remedy(
                    "let `upstream` of this step and the published address of the container be the same",
                ));
        }
        Ok(target)
    }

    fn ends_elsewhere(&self, wanted: &str, end: &End) -> StepError {
        let remedy = match end {
            End::Connect { hostname: None } => {
                "set `api-key` under `[connect]`: this Connect tells its host name only to those who are logged in"
            }
            End::Other { status: 401 | 403 } => "let requests from this machine through, or set `probe`",
            _ => "nginx' error log tells more",
        };
        StepError::new(format!("see a request through nginx end at {wanted}"))
            .because(format!("within {} s it ended at {end}", self.settings.verify_timeout))
            .remedy(remedy)
    }

    /// Answers what the websocket has proved.
    ///
    /// # Errors
    /// When nginx stands in the way: the container itself takes the upgrade, and through nginx it fails.
    async fn websocket(&self, url: &str, prober: &Prober, target: &Target) -> Result<String, String> {
        let Some(path) = &self.settings.websocket_path else {
            return Ok("no websocket was tried: `websocket-path` is not set".into());
        };
        let mut through = prober.upgrade(path).await;
        if through == Ok(101) {
            return Ok(format!("a websocket at {path} opens through nginx"));
        }
        let direct = match Endpoint::parse(&target.address, Some(80)).and_then(|endpoint| endpoint.socket()) {
            Some(address) => {
                let entry = Entry { tls: false, address, place: "the container".into() };
                let prober = Prober::new(url, &entry, None).map_err(|error| error.to_string())?;
                prober.upgrade(path).await
            }
            None => Err(format!("{} is no address", target.address)),
        };
        if direct != Ok(101) {
            let text = format!(
                "the content at {path} takes no websocket yet ({}), so none was tried through nginx",
                shown(&direct)
            );
            self.cx.warn(&text);
            return Ok(text);
        }
        for _ in 0..UPGRADE_TRIES {
            if through == Ok(101) {
                return Ok(format!("a websocket at {path} opens through nginx"));
            }
            tokio::time::sleep(Duration::from_millis(UPGRADE_PAUSE_MILLIS)).await;
            through = prober.upgrade(path).await;
        }
        Err(format!(
            "the container opens a websocket at {path}, and through nginx there is {}",
            shown(&through)
        ))
    }

    fn doing(&self, what: &str) {
        self.cx.progress(&Progress { doing: what.into(), ..Progress::default() });
    }
}

/// What to do about websockets that nginx does not pass.
pub(crate) const WEBSOCKET_REMEDY: &str = "put `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \
     $connection_upgrade;` into the location, and the map of https://nginx.org/en/docs/http/websocket.html into the http block";

fn shown(answer: &Result<u16, String>) -> String {
    match answer {
        Ok(status) => format!("status {status}"),
        Err(why) => format!("no answer: {why}"),
    }
}

fn is_target(end: &End, target: &Target) -> bool {
    matches!(end, End::Connect { hostname: Some(name) } if *name == target.hostname)
}

/// The administrator's own maintenance page.
pub(crate) fn own_page(path: &Path) -> Result<String, StepError> {
    let remedy = "set `maintenance-page` to an HTML file in UTF-8 of at most 64 KiB, or leave it out";
    let failed = |why: String| {
        StepError::new(format!("read the maintenance page {}", path.display())).because(why).remedy(remedy)
    };
    let bytes = config_file::read(path).map_err(|error| failed(error.to_string()))?;
    if bytes.len() > page::PAGE_MAX_BYTES {
        return Err(failed(format!("it has {} bytes", bytes.len())));
    }
    if bytes.contains(&0) {
        return Err(failed("it has a NUL byte".into()));
    }
    String::from_utf8(bytes).map_err(|error| failed(error.to_string()))
}
