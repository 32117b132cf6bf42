//! A pure core: batches as official Lambda clients know them, and their answers as frames.

mod answers;
mod context;
mod kafka;
mod trace;

pub(super) use answers::{lambda_answer, record_answer};
pub(super) use context::Shared;
pub use kafka::kafka_event;
pub(super) use kafka::{Part, kafka_events};
pub(super) use trace::as_xray;
