//! What many lives came to.

use super::world::{FleetLife, KafkaLife, Life};

/// What many lives came to.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) lives: u64,
    pub(super) total: Life,
    pub(super) crashes_least: u64,
    pub(super) records_least: u64,
    pub(super) twice: u64,
    /// Lives on Kafka, and what was counted in them alone.
    pub(super) kafka_lives: u64,
    pub(super) kafka_records: u64,
    pub(super) kafka_crashes: u64,
    pub(super) kafka: KafkaLife,
    /// Lives of whole clusters, and what was counted in them alone.
    pub(super) fleet: FleetLife,
    pub(super) faults_least: u64,
    pub(super) failed: Option<(u64, String)>,
}

impl Sum {
    pub(super) fn add(&mut self, life: &Life) {
        let first = self.lives == 0;
        self.lives += 1;
        let least = |held: u64, it: u64| if first { it } else { held.min(it) };
        self.crashes_least = least(self.crashes_least, life.crashes);
        self.records_least = least(self.records_least, life.records);
        let total = &mut self.total;
        total.records += life.records;
        total.outputs += life.outputs;
        total.dead += life.dead;
        total.filtered += life.filtered;
        total.crashes += life.crashes;
        total.lost_writes += life.lost_writes;
        total.fenced += life.fenced;
        total.checks += life.checks;
        total.parked += life.parked;
        total.resumed += life.resumed;
        if let Some(it) = &life.kafka {
            self.kafka_lives += 1;
            self.kafka_records += life.records;
            self.kafka_crashes += life.crashes;
            self.kafka.add(it);
        }
        if let Some(it) = &life.fleet {
            self.faults_least = least(self.faults_least, it.faults);
            self.fleet.add(it);
        }
    }

    pub(super) fn join(mut self, other: Self) -> Self {
        if self.lives == 0 || other.lives == 0 {
            let failed = [self.failed.take(), other.failed.clone()].into_iter().flatten().min();
            let whole = if self.lives == 0 { other } else { self };
            return Self { failed, ..whole };
        }
        let least = (
            self.crashes_least.min(other.crashes_least),
            self.records_least.min(other.records_least),
            self.faults_least.min(other.faults_least),
        );
        self.add(&other.total);
        (self.crashes_least, self.records_least, self.faults_least) = least;
        self.lives += other.lives - 1;
        self.twice += other.twice;
        self.kafka_lives += other.kafka_lives;
        self.kafka_records += other.kafka_records;
        self.kafka_crashes += other.kafka_crashes;
        self.kafka.add(&other.kafka);
        self.fleet.add(&other.fleet);
        self.failed = [self.failed, other.failed].into_iter().flatten().min();
        self
    }
}
