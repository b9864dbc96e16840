//! Events of libraries, which speak `tracing`, become entries.

use super::{Entry, Priority};
use std::fmt::{self, Write as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

/// Our own crates begin like this; of all others only warnings are of interest.
const OUR_TARGET: &str = "connect_migrator";

struct ToJournal;

/// Makes the layer the process's subscriber, unless there is one already.
pub(super) fn install() {
    let _ = tracing::subscriber::set_global_default(Registry::default().with(ToJournal));
}

impl<S: Subscriber> Layer<S> for ToJournal {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let limit = if metadata.target().starts_with(OUR_TARGET) { Level::INFO } else { Level::WARN };
        *metadata.level() <= limit
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let priority = match *event.metadata().level() {
            Level::ERROR => Priority::Error,
            Level::WARN => Priority::Warning,
            Level::INFO => Priority::Info,
            Level::DEBUG | Level::TRACE => Priority::Debug,
        };
        let message = format!("{}: {}{}", event.metadata().target(), text.message, text.fields);
        Entry { priority, message: &message, ..Entry::default() }.send();
    }
}

/// The message, and behind it the fields: they become text, never fields of the journal.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
