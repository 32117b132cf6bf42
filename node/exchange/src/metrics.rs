//! Names of what is counted between nodes.

use live::Reason;
use metrics::{counter, describe_counter, describe_gauge, gauge};

use crate::frame::Kind;
use crate::refusal::Refusal;

pub(crate) fn refused(refusal: Refusal) {
    counter!("millrace_exchange_refused_total", "reason" => refusal.name()).increment(1);
}

pub(crate) fn connected(side: &'static str) {
    counter!("millrace_exchange_connections_total", "side" => side).increment(1);
}

pub(crate) fn served(kind: Kind, end: &'static str) {
    counter!("millrace_exchange_requests_total", "kind" => kind.name(), "end" => end).increment(1);
}

/// When what the node shows, and the first of the CAs that it trusts, ends: Unix seconds.
pub(crate) fn expire(node: u64, ca: Option<u64>) {
    let set = |certificate: &'static str, until: u64| {
        gauge!("millrace_certificate_expiry_seconds", "certificate" => certificate)
            .set(until as f64);
    };
    set("node", node);
    if let Some(until) = ca {
        set("ca", until);
    }
}

pub(crate) fn came(format: u8) {
    counter!("millrace_exchange_frames_total", "format" => format.to_string()).increment(1);
}

pub(crate) fn subscriber_refused(reason: Reason) {
    counter!("millrace_subscribers_refused_total", "reason" => reason.name()).increment(1);
}

pub(crate) fn sent(records: u64, bytes: usize) {
    counter!("millrace_subscribers_records_total").increment(records);
    counter!("millrace_subscribers_bytes_total").increment(bytes as u64);
}

/// A subscriber that is there as long as this is.
pub(crate) struct Subscribed(());

impl Subscribed {
    pub(crate) fn new() -> Self {
        gauge!("millrace_subscribers").increment(1.0);
        Self(())
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        gauge!("millrace_subscribers").decrement(1.0);
    }
}

/// Tells the recorder what each of these is.
pub fn describe_metrics() {
    describe_counter!("millrace_exchange_refused_total", "Peers, requests and tokens refused.");
    describe_counter!(
        "millrace_exchange_connections_total",
        "Connections between nodes that were made, by who dialled."
    );
    describe_counter!(
        "millrace_exchange_requests_total",
        "Requests of other nodes, by kind and how they ended."
    );
    describe_gauge!(
        "millrace_certificate_expiry_seconds",
        "When the node's certificate and its CA's end, in Unix seconds."
    );
    describe_counter!(
        "millrace_exchange_frames_total",
        "Requests of other nodes, by the format that they were written in."
    );
    describe_gauge!("millrace_subscribers", "Subscribers that follow topics now.");
    describe_counter!(
        "millrace_subscribers_refused_total",
        "Subscriptions that were refused or ended, by reason."
    );
    describe_counter!("millrace_subscribers_records_total", "Records sent to subscribers.");
    describe_counter!("millrace_subscribers_bytes_total", "Bytes of frames sent to subscribers.");
}
