//! What must hold before anything is touched.

use crate::advice::advice;
use crate::endpoint::Endpoint;
use crate::known::{self, Found, Known};
use crate::locate::{self, Leads};
use crate::nginx::{self, Service};
use crate::page;
use crate::probe::End;
use crate::route::{Route, own_page};
use connect_migrator_connect::config_file;
use connect_migrator_sdk::{Finding, StepError};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpSocket;

/// SELinux tells here whether it refuses what is not allowed.
const SELINUX_ENFORCE: &str = "/sys/fs/selinux/enforce";

impl<S: Service> Route<'_, S> {
    /// Looks at everything that the later calls need. Reads only.
    ///
    /// # Errors
    /// When where Connect answers cannot be found out.
    pub async fn check(&self) -> Result<Vec<Finding>, StepError> {
        let mut findings = Vec::new();
        let known = Known::ask(self.settings, self.cx).await?;
        self.check_nginx(&mut findings).await;
        self.check_page(&mut findings).await;
        match known.find(self.settings) {
            Err(error) => {
                findings.push(Finding::blocker(error.key(), error.to_string(), error.remedy()));
            }
            Ok(found) => {
                self.check_value(&known, &found, &mut findings);
                self.check_place(&found, &mut findings);
                findings.extend(advice(&found.configuration, &found.value));
                self.check_request(&known, &found, &mut findings).await;
            }
        }
        if self.settings.websocket_path.is_none() {
            findings.push(Finding::warning(
                "websocket-unproved",
                "no path of a content item with a websocket is set, so that none will be tried through nginx",
                "set `websocket-path` to the path of a content item that anyone may open and that uses a websocket",
            ));
        }
        if std::fs::read_to_string(SELINUX_ENFORCE).is_ok_and(|text| text.trim() == "1") {
            findings.push(Finding::warning(
                "selinux-ports",
                format!("SELinux may keep nginx from the ports of {} and {}", self.settings.maintenance, self.settings.upstream),
                "run `semanage port -a -t http_port_t -p tcp <port>` for both, and `setsebool -P httpd_can_network_connect on`",
            ));
        }
        Ok(findings)
    }

    async fn check_nginx(&self, findings: &mut Vec<Finding>) {
        let unit = &self.settings.unit;
        if !self.settings.nginx.is_file() {
            findings.push(Finding::blocker(
                "nginx-missing",
                format!("there is no nginx at {}", self.settings.nginx.display()),
                "install nginx, or set `nginx` to its binary",
            ));
            return;
        }
        findings.push(match self.service.is_active().await {
            Ok(true) => Finding::ok("nginx-active", format!("{unit} is active")),
            Ok(false) => Finding::blocker(
                "nginx-inactive",
                format!("{unit} is not active"),
                format!("run `systemctl start {unit}`, or set `unit` to the unit that runs nginx"),
            ),
            Err(error) => {
                Finding::blocker("nginx-inactive", error.to_string(), "see that D-Bus and systemd answer")
            }
        });
        findings.push(match nginx::test(self.settings, &self.settings.configuration).await {
            Ok(()) => Finding::ok("nginx-config", format!("nginx accepts {}", self.settings.configuration.display())),
            Err(error) => Finding::blocker(
                "nginx-config-broken",
                format!("nginx refuses its configuration as it is: {error}"),
                "mend what nginx names, until `nginx -t` is satisfied; a broken part anywhere keeps all of it from being reloaded",
            ),
        });
    }

    async fn check_page(&self, findings: &mut Vec<Finding>) {
        if let Some(path) = &self.settings.maintenance_page
            && let Err(error) = own_page(path)
        {
            findings.push(Finding::blocker("maintenance-page", error.to_string(), error.remedy));
        }
        let Some(endpoint) = Endpoint::parse(&self.settings.maintenance, None) else { return };
        let Some(address) = endpoint.socket() else { return };
        if known::upstream(self.settings).is_ok_and(|upstream| upstream.same_place(&endpoint)) {
            findings.push(Finding::blocker(
                "maintenance-is-upstream",
                format!(
                    "`maintenance` and `upstream` are both {endpoint}: only one of them could listen there"
                ),
                "set `maintenance` to another port of a loopback address",
            ));
            return;
        }
        // A page of ours that an earlier migration has left is no hindrance.
        if let Err(error) = can_be_bound(address)
            && self.maintenance_answers(Duration::ZERO).await.is_err()
        {
            findings.push(Finding::blocker(
                "maintenance-port-taken",
                format!("nginx could not listen on {endpoint}: {error}"),
                "set `maintenance` to a free port of a loopback address",
            ));
        } else {
            findings.push(Finding::ok(
                "maintenance-port",
                format!("{endpoint} is free for the maintenance page"),
            ));
        }
    }

    fn check_value(&self, known: &Known, found: &Found, findings: &mut Vec<Finding>) {
        let value = &found.value;
        let (Ok(upstream), Ok(wanted)) = (known::upstream(self.settings), known.wanted(self.settings)) else {
            return;
        };
        let within = match &value.upstream_block {
            Some(name) => format!(" in the upstream block `{name}`"),
            None => String::new(),
        };
        if known.source.is(&upstream) {
            findings.push(Finding::blocker(
                "upstream-is-source",
                format!("`upstream` is {upstream}, where the source itself answers"),
                "publish the container on another port, and set `upstream` to it: old and new must be told apart",
            ));
        } else if value.leads == Leads::Source {
            findings.push(Finding::ok(
                "route-found",
                format!(
                    "{}{within}: {} will become {}",
                    value.place,
                    value.text,
                    value.leading_to(&upstream)
                ),
            ));
        } else {
            findings.push(Finding::blocker(
                "route-not-at-source",
                format!("{}{within} is {}, which does not lead to the source", value.place, value.text),
                format!(
                    "let it lead to {} again and reload nginx: a rollback would have nothing to go back to",
                    known.source
                ),
            ));
        }
        let left = locate::left_behind(&found.configuration, &wanted, value);
        if !left.is_empty() {
            findings.push(Finding::warning(
                "route-elsewhere",
                format!("these may lead to the source too, and will not be changed: {}", left.join("; ")),
                "let them pass through the same upstream block if they serve Connect",
            ));
        }
        if let Ok(metadata) = std::fs::metadata(&value.file)
            && std::os::unix::fs::MetadataExt::nlink(&metadata) > 1
        {
            findings.push(Finding::warning(
                "site-hard-link",
                format!(
                    "{} has more than one name, and the other names will keep the old value",
                    value.file.display()
                ),
                "replace the other names by symbolic links",
            ));
        }
    }

    fn check_place(&self, found: &Found, findings: &mut Vec<Finding>) {
        match self.maintenance_path(found) {
            Err(error) => findings.push(Finding::blocker("maintenance-no-include", error.why, error.remedy)),
            Ok(path) if is_foreign(&path) => findings.push(Finding::blocker(
                "maintenance-file-foreign",
                format!("{} exists, and connect-migrator has not written it", path.display()),
                "move it away",
            )),
            Ok(path) => {
                findings.push(Finding::ok(
                    "maintenance-file",
                    format!("the maintenance page will stand in {}", path.display()),
                ));
            }
        }
    }

    /// What apply will rely on has to work already: a request through nginx that ends at a Connect which tells its name.
    async fn check_request(&self, known: &Known, found: &Found, findings: &mut Vec<Finding>) {
        let url = known.url_of(found);
        if known.url.is_none() {
            findings.push(Finding::blocker(
                "url-guessed",
                format!("neither the runbook nor `Server.Address` tells under which URL users reach Connect; {url} would be taken"),
                "set `url` under `[connect]`",
            ));
        }
        let prober = match known.prober(self.settings, self.cx, found) {
            Ok(prober) => prober,
            Err(error) => {
                findings.push(Finding::blocker("route-unreachable", error.to_string(), error.remedy));
                return;
            }
        };
        let through = format!("a request for {url} through nginx");
        findings.push(match prober.end().await {
            end @ End::Connect { hostname: Some(_) } => Finding::ok("route-request", format!("{through} ends at {end}")),
            end @ End::Connect { hostname: None } => Finding::blocker(
                "hostname-not-told",
                format!("{through} ends at {end}, so that the container could not be told from the source"),
                "set `api-key` under `[connect]`",
            ),
            end @ (End::Maintenance { .. } | End::Other { status: 500.. } | End::Failed { .. }) => Finding::warning(
                "route-request",
                format!("{through} ends at {end}"),
                "see that Connect runs, and that the site and `url` under `[connect]` belong together",
            ),
            end => Finding::blocker(
                "route-request",
                format!("{through} ends at {end}, and not at Connect: after the change it could not be proved"),
                "let requests from this machine through to /__api__/server_settings, or set `probe`, `server-name`, or `url` under \
                 `[connect]`",
            ),
        });
    }
}

/// Asks as nginx will. A connection would tell less: the kernel may give it the very port that it is to reach, so that it reaches itself.
fn can_be_bound(address: SocketAddr) -> std::io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

fn is_foreign(path: &Path) -> bool {
    config_file::read_if_there(path).is_ok_and(|bytes| bytes.is_some_and(|bytes| !page::is_ours(&bytes)))
}
