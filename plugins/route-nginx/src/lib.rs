//! The step `route-nginx`: users reach the container through the same nginx, under the same URL.
//!
//! Exactly one value of the administrator's configuration changes, the one that decides where requests for Connect go: the
//! `proxy_pass` of the site, or the `server` of the upstream block that it names. Every other byte stays, and rollback puts
//! the old bytes back.
//!
//! | call | what happens |
//! |---|---|
//! | check | the value is found; nginx runs, accepts its configuration, and leads to a Connect that tells its name |
//! | prepare | both new values are tested by `nginx -t` on a staged copy; a server for the maintenance page starts on loopback |
//! | enter_window | the value leads to the maintenance page: 503 with `Retry-After`, never 502 |
//! | apply | the value leads to the container; requests through nginx must end at its host name, and a websocket must open |
//! | verify | the file and the requests once more |
//! | rollback | the value, or all bytes, as they were; nginx reloaded; requests end where they should |
//! | finalize | the maintenance page goes |
//!
//! The settings stand at [`Settings`].

pub mod advice;
mod check;
pub mod conf;
pub mod endpoint;
pub mod known;
pub mod listen;
pub mod locate;
pub mod nginx;
pub mod page;
mod plan;
pub mod probe;
pub mod route;
pub mod settings;
pub mod stage;
pub mod systemd;
pub mod undo;
pub mod workers;

pub use nginx::Service;
pub use route::Route;
pub use settings::Settings;
pub use undo::Undo;

use connect_migrator_sdk::prelude::*;
use systemd::SystemdUnit;

/// The step.
#[derive(Debug)]
pub struct RouteNginx;

fn route<'a>(settings: &'a Settings, cx: &'a Context) -> Route<'a, SystemdUnit> {
    Route { settings, cx, service: SystemdUnit::new(&settings.unit, settings.reload_time()) }
}

/// The one file that is changed, and what `nginx -t` opens and makes while it tests: logs, the number of the main process, folders
/// for temporary files, listening sockets.
fn needs() -> Needs {
    Needs::nothing()
        .network()
        .processes()
        .capabilities(&[
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_DAC_READ_SEARCH",
            "CAP_FOWNER",
            "CAP_NET_BIND_SERVICE",
        ])
        .writes(&["/etc/nginx", "/run", "/var/cache/nginx", "/var/lib/nginx", "/var/log"])
        .writes_beside("/site")
        .writes_beside("/configuration")
}

impl Step for RouteNginx {
    type Config = Settings;
    type Undo = Undo;

    fn info() -> StepInfo {
        StepInfo::new(
            "route-nginx",
            "Leads nginx' requests for Connect to the container, with a maintenance page in the window",
        )
        .routes()
        .needs(needs())
    }

    async fn check(config: &Settings, cx: &Context) -> Result<Vec<Finding>, StepError> {
        route(config, cx).check().await
    }

    async fn plan(config: &Settings, cx: &Context) -> Result<Vec<Change>, StepError> {
        route(config, cx).plan().await
    }

    async fn prepare(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        route(config, cx).prepare().await
    }

    async fn enter_window(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        route(config, cx).enter_window().await
    }

    async fn apply(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        route(config, cx).apply().await
    }

    async fn verify(config: &Settings, cx: &Context) -> Result<Verdict, StepError> {
        route(config, cx).verify().await
    }

    async fn rollback(config: &Settings, cx: &Context, of: Op, undo: Vec<Undo>) -> Result<Undone, StepError> {
        route(config, cx).rollback(of, undo).await
    }

    async fn finalize(config: &Settings, cx: &Context) -> Result<Outcome, StepError> {
        route(config, cx).finalize().await
    }
}

connect_migrator_sdk::export_plugin!(RouteNginx);
