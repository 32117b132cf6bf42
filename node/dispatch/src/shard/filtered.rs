//! A pure core: what becomes of records that the trigger's filter keeps from the function.

use std::time::{Duration, Instant};

use bus::RecordBatch;

use super::{Backlog, FETCH_BYTES_MAX, Mode, ShardDispatch};
use crate::unwanted::Unwanted;

/// How long filtered records wait for a commit to go with. What a kill loses of them is read and
/// filtered again.
const FILTERED_WAIT: Duration = Duration::from_secs(1);

impl ShardDispatch {
    /// As [`on_fetched`](Self::on_fetched), of a batch in which some records are unwanted.
    pub fn on_filtered(
        &mut self,
        now: Instant,
        partition: u32,
        batch: RecordBatch,
        unwanted: Option<Unwanted>,
    ) {
        if self.mode != Mode::Running {
            return;
        }
        let partition = u16::try_from(partition).expect("the index of a partition of the shard");
        let chunk = self.records.add_chunk(now, batch);
        self.fetch_bytes = FETCH_BYTES_MAX.min(2 * self.fetch_bytes);
        self.backlog.push_back(Backlog { partition, chunk, cursor: 0, unwanted });
        self.proceed(now);
    }

    /// Filtered records that no durable commit covers yet.
    #[must_use]
    pub fn filtered_records(&self) -> u64 {
        self.commits.filtered()
    }

    /// Settles an unwanted record, instead of letting it into the window (SD-8).
    pub(super) fn pass(&mut self, it: &mut Backlog, sequence: u64) {
        self.counters.filtered += 1;
        let settled = self.trackers[usize::from(it.partition)].settle(sequence);
        assert!(settled, "SD-8: an unwanted record is settled once");
        self.records.close_one(it.chunk);
        self.commits.pass(it.partition);
        it.cursor += 1;
    }

    /// Sees to it that filtered records are committed, at the latest when their time is up.
    pub(super) fn commit_passed(&mut self, now: Instant) {
        if !self.commits.has_passed() {
            self.filtered_until = None;
        } else if self.mode == Mode::Draining || self.filtered_until.is_some_and(|it| it <= now) {
            self.commits.touch_passed();
            self.filtered_until = None;
        } else {
            self.filtered_until.get_or_insert(now + FILTERED_WAIT);
        }
    }
}
