//! `connect --config FILE`, `connect --version`

use std::net::SocketAddr;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use super::{Flags, load, runtime, tuning};
use crate::failure::Failure;
use crate::release;
use crate::server::{Checks, Launch, Server};

const USAGE: &str = "usage: connect [--version] [--config FILE]";

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let mut flags = Flags::new(args);
    if flags.switch("version") {
        println!("{}", release::version());
        return Ok(());
    }
    let config = flags.config()?;
    flags.end(USAGE)?;
    let launch = Launch {
        settings: load(&config)?,
        tuning: tuning(&config)?,
        checks: Checks::strict(),
        version: release::version(),
        distribution: release::distribution(Path::new("/etc/os-release")),
        interpreters: release::interpreter_root(),
        store: None,
    };
    runtime()?.block_on(serve(launch, |_| ()))
}

/// Serves until SIGTERM or SIGINT. SIGHUP, which reloads settings in the product, changes nothing here.
pub(crate) async fn serve(launch: Launch, ready: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(|e| Failure::Refused(format!("cannot listen for signals: {e}")));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let _hup = listen(SignalKind::hangup())?;
    let mut stopped = std::pin::pin!(async {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    });
    let server = tokio::select! {
        server = Server::start(launch) => server?,
        () = &mut stopped => return Ok(()),
    };
    ready(server.address());
    stopped.await;
    server.stop().await;
    Ok(())
}
