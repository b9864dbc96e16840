//! Signals: each event at once, changed properties a few times a second at most.

use super::migration::{Migration, changes, tell_changes};
use crate::service::{News, Shown, Teller};
use crate::systemd::journal::ids;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use zbus::Connection;
use zbus::object_server::SignalEmitter;

/// How often properties may change on the bus: a step may report progress a thousand times a second.
const CHANGES_EVERY_MILLIS: u64 = 250;

/// Sends signals until the connection is lost or the task is ended.
pub(super) async fn broadcast(connection: Connection, teller: Arc<Teller>) {
    let mut news = teller.news();
    let mut told = Shown::default();
    let mut tick = tokio::time::interval(Duration::from_millis(CHANGES_EVERY_MILLIS));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let sent = tokio::select! {
            _ = tick.tick() => tell_what_changed(&connection, &teller, &mut told).await,
            event = news.recv() => match event {
                Ok(event) => tell_event(&connection, &event).await,
                Err(RecvError::Lagged(_)) => Ok(()),
                Err(RecvError::Closed) => return,
            },
        };
        // Nobody is told any more; the run goes on, and the journal and the state have it all.
        if sent.is_err() && connection.is_closed() {
            return;
        }
    }
}

/// Sends what changed since it was told last.
pub(super) async fn tell_what_changed(
    connection: &Connection,
    teller: &Teller,
    told: &mut Shown,
) -> zbus::Result<()> {
    let now = teller.shown();
    let changed = changes(told, &now);
    if changed.is_empty() {
        return Ok(());
    }
    *told = now;
    tell_changes(connection, changed).await
}

async fn tell_event(connection: &Connection, event: &News) -> zbus::Result<()> {
    let emitter = SignalEmitter::new(connection, super::PATH)?;
    let name = ids::kind(event.id).map_or("", |kind| kind.name);
    Migration::event(&emitter, &event.id.to_string(), name, &event.step, &event.phase, &event.text).await
}
