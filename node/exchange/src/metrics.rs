//! Names of what is counted between nodes.

use metrics::{counter, describe_counter};

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
}
