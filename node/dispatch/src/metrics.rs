//! Names of what shards count: twelve counters, two gauges and a histogram a trigger, brought up to date
//! once per turn.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::Counters;

/// Handles of one shard, looked up once, and what was added so far.
pub(crate) struct ShardMetrics {
    handles: [Counter; COUNTERS],
    last: [u64; COUNTERS],
    /// Of all shards of the trigger together.
    parked: Gauge,
    last_parked: f64,
    /// Of the trigger, how many are open.
    open: Gauge,
    last_open: f64,
    pub(crate) commit_seconds: Histogram,
}

const COUNTERS: usize = 12;

const NAMES: [&str; COUNTERS] = [
    "millrace_trigger_records_polled_total",
    "millrace_trigger_records_filtered_total",
    "millrace_trigger_invocations_total",
    "millrace_trigger_attempts_total",
    "millrace_trigger_attempts_failed_total",
    "millrace_trigger_records_retried_total",
    "millrace_trigger_records_dead_lettered_total",
    "millrace_trigger_records_parked_total",
    "millrace_trigger_records_settled_total",
    "millrace_trigger_outputs_total",
    "millrace_trigger_on_success_delivered_total",
    "millrace_trigger_on_failure_delivered_total",
];

/// Partitions whose circuit is open.
const OPEN: &str = "millrace_trigger_circuits_open";

/// Records that lie in the park topic now.
const PARKED: &str = "millrace_trigger_parked_records";

const HELP: [&str; COUNTERS] = [
    "Records read and let in, or filtered.",
    "Records that the trigger's filter leaves out: they are settled without being run.",
    "Invocations started: each a batch.",
    "Records in invocations: one that is tried again counts again.",
    "Records that an invocation failed.",
    "Records that failed and are tried again.",
    "Records given up on: each is in the dead-letter topic.",
    "Records put into the park topic, where they wait for the ones before them of their key.",
    "Records settled: their outputs or dead letters are durable.",
    "Outputs that records led to.",
    "Messages to on-success that are durable: one for each record that succeeded.",
    "Messages to on-failure that are durable: one for each record that was given up.",
];

const COMMIT_SECONDS: &str = "millrace_trigger_commit_seconds";

/// Shards that began, by who said where: the `owner` before, or the `bus`.
pub(crate) const SHARD_STARTS: &str = "millrace_shard_starts_total";

/// Tells the recorder what each of these is.
pub fn describe_metrics() {
    metrics::describe_counter!(
        SHARD_STARTS,
        "Partitions that this node began to work on, by who said where: the owner before, or the bus."
    );
    for (name, help) in NAMES.into_iter().zip(HELP) {
        metrics::describe_counter!(name, help);
    }
    metrics::describe_gauge!(PARKED, "Records that wait in the park topic now.");
    metrics::describe_gauge!(
        OPEN,
        "Partitions whose circuit is open: too many attempts failed, and only probes run."
    );
    metrics::describe_histogram!(
        COMMIT_SECONDS,
        "How long a commit of outputs, dead letters and positions took until it was durable."
    );
}

impl ShardMetrics {
    pub(crate) fn new(function: &str, trigger: &str) -> Self {
        let handle = |name| counter!(name, "function" => function.to_owned(), "trigger" => trigger.to_owned());
        let parked =
            gauge!(PARKED, "function" => function.to_owned(), "trigger" => trigger.to_owned());
        let open = gauge!(OPEN, "function" => function.to_owned(), "trigger" => trigger.to_owned());
        open.increment(0.0);
        let commit_seconds = histogram!(
            COMMIT_SECONDS, "function" => function.to_owned(), "trigger" => trigger.to_owned()
        );
        let handles = NAMES.map(handle);
        Self {
            handles,
            last: [0; COUNTERS],
            parked,
            last_parked: 0.0,
            open,
            last_open: 0.0,
            commit_seconds,
        }
    }

    pub(crate) fn note(
        &mut self,
        counters: &Counters,
        (outputs, [on_success, on_failure]): (u64, [u64; 2]),
        parked: usize,
    ) {
        self.note_parked(parked as f64);
        let now = [
            counters.admitted,
            counters.filtered,
            counters.invocations,
            counters.attempts,
            counters.failed,
            counters.retried,
            counters.dead_lettered,
            counters.parked,
            counters.settled,
            outputs,
            on_success,
            on_failure,
        ];
        for ((handle, last), now) in self.handles.iter().zip(&mut self.last).zip(now) {
            // Attempts go down again when a batch that was nobody's fault will be run once more.
            if *last < now {
                handle.increment(now - *last);
                *last = now;
            }
        }
    }
}

impl ShardMetrics {
    fn note_parked(&mut self, parked: f64) {
        if parked.to_bits() != self.last_parked.to_bits() {
            self.parked.increment(parked - self.last_parked);
            self.last_parked = parked;
        }
    }
}

impl ShardMetrics {
    /// Whether the shard's circuit is open.
    pub(crate) fn note_circuit(&mut self, is_open: bool) {
        let open = f64::from(u8::from(is_open));
        if open.to_bits() != self.last_open.to_bits() {
            self.open.increment(open - self.last_open);
            self.last_open = open;
        }
    }
}

impl Drop for ShardMetrics {
    fn drop(&mut self) {
        self.note_circuit(false);
        self.note_parked(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_goes_down_is_not_counted_again_when_it_is_back() {
        let mut metrics = ShardMetrics::new("f", "a/f/f");
        for attempts in [5, 3, 5, 6] {
            metrics.note(&Counters { attempts, ..Counters::default() }, (0, [0; 2]), 0);
        }
        assert_eq!(metrics.last[3], 6);
    }
}
