//! The reasons that log lines of refusals carry, as a subscriber of this process gets them.

use std::fmt;
use std::sync::{Mutex, OnceLock};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::promise::{During, NotShown};

static REASONS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Begins to listen, once in a process.
pub(super) fn listen() -> Result<(), NotShown> {
    static SET: OnceLock<Result<(), String>> = OnceLock::new();
    let set = SET.get_or_init(|| {
        tracing::subscriber::set_global_default(Listener).map_err(|error| error.to_string())
    });
    set.clone().during("listen to the log")
}

/// What came since the last call.
pub(super) fn take() -> Vec<String> {
    std::mem::take(&mut *REASONS.lock().expect("nothing panics with it"))
}

struct Listener;

struct Reason(Option<String>);

impl Visit for Reason {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "reason" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("millrace_exchange") && *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut reason = Reason(None);
        event.record(&mut reason);
        REASONS.lock().expect("nothing panics with it").extend(reason.0);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}
