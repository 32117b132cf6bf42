//! What one life came to.

use super::FleetLife;
use crate::sim::checker::Tally;

/// What one life came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sim) struct Life {
    pub(in crate::sim) trace: u64,
    pub(in crate::sim) records: u64,
    pub(in crate::sim) outputs: u64,
    pub(in crate::sim) dead: u64,
    pub(in crate::sim) filtered: u64,
    pub(in crate::sim) crashes: u64,
    pub(in crate::sim) lost_writes: u64,
    pub(in crate::sim) fenced: u64,
    pub(in crate::sim) checks: u64,
    /// Envelopes written, and parked records that shards began with.
    pub(in crate::sim) parked: u64,
    pub(in crate::sim) resumed: u64,
    /// `None`: on the embedded bus.
    pub(in crate::sim) kafka: Option<KafkaLife>,
    /// `None`: nodes alone.
    pub(in crate::sim) fleet: Option<FleetLife>,
}

/// What is counted on Kafka alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sim) struct KafkaLife {
    pub(in crate::sim) tally: Tally,
    /// Assignments, and nodes that stood still for a while.
    pub(in crate::sim) assigned: u64,
    pub(in crate::sim) pauses: u64,
    /// Position logs that were deleted.
    pub(in crate::sim) deleted: u64,
    /// Commits that were tried again because nobody knew what had come of them.
    pub(in crate::sim) unsure: u64,
}

impl KafkaLife {
    /// Counts another one with it.
    pub(in crate::sim) fn add(&mut self, other: &Self) {
        self.assigned += other.assigned;
        self.pauses += other.pauses;
        self.deleted += other.deleted;
        self.unsure += other.unsure;
        self.tally.add(&other.tally);
    }
}
