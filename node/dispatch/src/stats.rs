//! What a shard says of itself.

use std::collections::VecDeque;
use std::time::Duration;

use bus::{Position, ShardId, Timestamp, TopicPartition};

use crate::driver::ShardConfig;
use crate::scaling::ShardLoad;
use crate::{Counters, PartitionStart, ShardDispatch, State};

/// Run times that percentiles are taken from.
const RECENT: usize = 256;

/// A snapshot.
#[derive(Clone, Debug)]
pub struct ShardStats {
    /// Which shard.
    pub shard: ShardId,
    /// What it reads, and how far it is; empty until the bus has said where it goes on.
    pub positions: Vec<(TopicPartition, Position)>,
    /// What it is doing.
    pub state: State,
    /// What it did.
    pub counters: Counters,
    /// Outputs gathered.
    pub outputs: u64,
    /// Records let in and not settled.
    pub open_records: usize,
    /// Records in the park topic.
    pub parked_records: usize,
    /// Invocations that run.
    pub running_invocations: usize,
    /// Records in them.
    pub running_records: usize,
    /// How long recent invocations ran, oldest first.
    pub recent_runs: Vec<Duration>,
    /// How long invocations ran together. The first of an instance is slower and says nothing of how
    /// many are needed: it counts only where none has run a second one.
    pub busy: Duration,
    /// Records of those invocations.
    pub ran: u64,
    /// Records that are there and were not fetched yet.
    pub behind: u64,
    /// The newest failure: its name, its account, when.
    pub last_error: Option<(String, String, Timestamp)>,
}

/// Keeps the snapshot up to date.
#[derive(Debug)]
pub(crate) struct StatsKeeper {
    stats: ShardStats,
    runs: VecDeque<Duration>,
    /// An instance has run a second time.
    has_warm: bool,
}

impl StatsKeeper {
    pub(crate) fn new(config: &ShardConfig) -> Self {
        let stats = ShardStats {
            shard: config.shard,
            positions: Vec::new(),
            state: State::Running,
            counters: Counters::default(),
            outputs: 0,
            open_records: 0,
            parked_records: 0,
            running_invocations: 0,
            running_records: 0,
            recent_runs: Vec::new(),
            busy: Duration::ZERO,
            ran: 0,
            behind: 0,
            last_error: None,
        };
        Self { stats, runs: VecDeque::with_capacity(RECENT), has_warm: false }
    }

    /// The bus has said where the shard goes on.
    pub(crate) fn starts_at(&mut self, config: &ShardConfig, starts: &[PartitionStart]) {
        let positions = config.partitions.iter().zip(starts);
        let positions = positions.map(|(it, start)| (it.clone(), start.position.clone()));
        self.stats.positions = positions.collect();
        self.stats.state = State::Running;
    }

    pub(crate) const fn state(&self) -> &State {
        &self.stats.state
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.stats.state = state;
    }

    pub(crate) fn stats(&self) -> ShardStats {
        let recent_runs = self.runs.iter().copied().collect();
        ShardStats { recent_runs, ..self.stats.clone() }
    }

    /// What scaling has to know, without the rest.
    pub(crate) fn load(&self) -> ShardLoad {
        let ShardStats { counters, open_records, behind, ran, busy, .. } = self.stats;
        let lag = behind + open_records as u64;
        ShardLoad { lag, settled: counters.settled, ran, busy }
    }

    pub(crate) fn set_behind(&mut self, behind: u64) {
        self.stats.behind = behind;
    }

    pub(crate) fn ran(&mut self, run: Duration, records: usize, cold: bool) {
        self.has_warm |= !cold;
        if !cold || !self.has_warm {
            self.stats.busy += run;
            self.stats.ran += records as u64;
        }
        if self.runs.len() == RECENT {
            self.runs.pop_front();
        }
        self.runs.push_back(run);
    }

    pub(crate) fn failed(&mut self, code: String, message: String) {
        self.stats.last_error = Some((code, message, Timestamp::now()));
    }

    pub(crate) fn note(&mut self, core: &ShardDispatch, counters: Counters, outputs: u64) {
        let stats = &mut self.stats;
        if counters.settled != stats.counters.settled || counters.commits != stats.counters.commits
        {
            for (index, (_, position)) in (0..).zip(&mut stats.positions) {
                *position = core.position(index);
            }
        }
        stats.counters = counters;
        stats.outputs = outputs;
        stats.state = core.state();
        stats.open_records = core.open_records();
        stats.parked_records = core.parked_records();
        stats.running_invocations = core.running_invocations();
        stats.running_records = core.running_records();
    }
}
