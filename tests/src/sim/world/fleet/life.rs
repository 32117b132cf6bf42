//! What a life of a whole cluster came to.

/// What a life came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sim) struct FleetLife {
    /// Faults that had an effect: the sum of the next ones.
    pub(in crate::sim) faults: u64,
    pub(in crate::sim) crashes: u64,
    pub(in crate::sim) power_cuts: u64,
    pub(in crate::sim) disks_lost: u64,
    pub(in crate::sim) cuts: u64,
    pub(in crate::sim) stops: u64,
    pub(in crate::sim) without_kafka: u64,
    pub(in crate::sim) transfers: u64,
    pub(in crate::sim) joined: u64,
    pub(in crate::sim) removed: u64,
    pub(in crate::sim) drained: u64,
    pub(in crate::sim) retired: u64,
    /// Lives in which a minority stayed broken.
    pub(in crate::sim) minorities: u64,
    pub(in crate::sim) installs: u64,
    pub(in crate::sim) deploys: u64,
    pub(in crate::sim) changes: u64,
    pub(in crate::sim) reads: u64,
    pub(in crate::sim) assigned: u64,
    pub(in crate::sim) handed_over: u64,
    /// Shards that began where their owner before had said that it ended.
    pub(in crate::sim) taken_over: u64,
    /// Joins into a fleet at rest, and the shards that they moved.
    pub(in crate::sim) rebalanced: u64,
    pub(in crate::sim) moved: u64,
    /// The longest from healing until nothing was left to do, in microseconds.
    pub(in crate::sim) healed_within: u64,
    pub(in crate::sim) checks: u64,
}

impl FleetLife {
    /// With the sum of its faults.
    pub(super) const fn summed(mut self) -> Self {
        self.faults = self.crashes
            + self.power_cuts
            + self.disks_lost
            + self.cuts
            + self.stops
            + self.without_kafka
            + self.transfers
            + self.joined
            + self.removed
            + self.drained
            + self.retired;
        self
    }

    /// Counts another one with it.
    pub(in crate::sim) fn add(&mut self, other: &Self) {
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.power_cuts += other.power_cuts;
        self.disks_lost += other.disks_lost;
        self.cuts += other.cuts;
        self.stops += other.stops;
        self.without_kafka += other.without_kafka;
        self.transfers += other.transfers;
        self.joined += other.joined;
        self.removed += other.removed;
        self.drained += other.drained;
        self.retired += other.retired;
        self.minorities += other.minorities;
        self.installs += other.installs;
        self.deploys += other.deploys;
        self.changes += other.changes;
        self.reads += other.reads;
        self.assigned += other.assigned;
        self.handed_over += other.handed_over;
        self.taken_over += other.taken_over;
        self.rebalanced += other.rebalanced;
        self.moved += other.moved;
        self.healed_within = self.healed_within.max(other.healed_within);
        self.checks += other.checks;
    }
}
