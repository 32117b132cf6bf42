//! Names of what the bus counts.

use std::time::Duration;

/// One group was written: its batches, and how long the synced write took.
pub(crate) fn group(batches: usize, took: Duration) {
    metrics::counter!("millrace_bus_groups_total").increment(1);
    metrics::counter!("millrace_bus_batches_total").increment(batches as u64);
    metrics::histogram!("millrace_bus_write_seconds").record(took.as_secs_f64());
}

/// Partitions whose retention waits for a position.
pub(crate) fn retention_held(partitions: usize) {
    metrics::gauge!("millrace_bus_retention_held_partitions").set(partitions as f64);
}
