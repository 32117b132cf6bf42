//! Names of what pools count.

use metrics::{Counter, Histogram, counter, histogram};

/// Handles of one pool, looked up once.
#[derive(Clone)]
pub(crate) struct PoolMetrics {
    pub(crate) cold_starts: Counter,
    pub(crate) start_seconds: Histogram,
    pub(crate) queue_seconds: Histogram,
    pub(crate) run_seconds: Histogram,
}

impl PoolMetrics {
    pub(crate) fn new(function: &str) -> Self {
        let function = || function.to_owned();
        Self {
            cold_starts: counter!("millrace_instance_cold_starts_total", "function" => function()),
            start_seconds: histogram!("millrace_instance_start_seconds", "function" => function()),
            queue_seconds: histogram!("millrace_invocation_queue_seconds", "function" => function()),
            run_seconds: histogram!("millrace_invocation_run_seconds", "function" => function()),
        }
    }
}

impl std::fmt::Debug for PoolMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PoolMetrics")
    }
}

/// Tells the recorder what each of these is.
pub fn describe_metrics() {
    use metrics::{describe_counter, describe_histogram};
    describe_counter!("millrace_instance_cold_starts_total", "Instances that were started.");
    describe_histogram!("millrace_instance_start_seconds", "How long an instance took to start.");
    describe_histogram!(
        "millrace_invocation_queue_seconds",
        "How long an invocation waited for an instance."
    );
    describe_histogram!("millrace_invocation_run_seconds", "How long an invocation ran.");
}
