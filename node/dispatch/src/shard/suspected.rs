//! A pure core: what a shard does about records that may have ended a node.

use std::time::Instant;

use bus::Offset;

use super::{Mode, NODE_ENDED, ShardDispatch, Verdict};
use crate::records::RecordId;
use crate::suspects::Turn;

impl ShardDispatch {
    /// What records that may have ended a node wait for, if any do. Ask after every input, and answer
    /// with [`on_turn`](Self::on_turn).
    #[must_use]
    pub fn wants_turn(&self) -> Option<Turn> {
        if self.runs_nothing_more() {
            return None;
        }
        let parked = self.doubts.wants_turn().then_some(Turn::Alone);
        self.suspicions.wants_turn().or(parked)
    }

    /// Whether it keeps its turn. Ask after every input, once it has one.
    #[must_use]
    pub fn has_turn(&self) -> bool {
        !self.runs_nothing_more() && (self.suspicions.has_turn() || self.doubts.has_turn())
    }

    /// Whether nothing is in flight, and nothing will be.
    fn runs_nothing_more(&self) -> bool {
        self.is_stopped() || (self.mode == Mode::Draining && self.running.is_empty())
    }

    /// It has the turn that it waits for, until it [gives it up](Self::has_turn).
    pub fn on_turn(&mut self, now: Instant) {
        if !self.is_stopped() {
            let named = self.suspicions.on_turn();
            named.into_iter().for_each(|partition| self.commits.touch(partition));
            self.doubts.on_turn(now);
            self.proceed(now);
        }
    }

    /// Whether a record that was let in may run. One that has ended its last node is given up.
    pub(super) fn is_innocent(&mut self, partition: u16, record: RecordId, offset: Offset) -> bool {
        match self.suspicions.admitted(partition, record, offset) {
            Verdict::Run => true,
            Verdict::Guilty(attempts) => {
                self.records.entry_mut(record).attempts = attempts;
                let message = format!("the node ended {attempts} times while it ran this record");
                self.dead_letter(record, NODE_ENDED.to_owned(), message);
                false
            }
        }
    }

    /// These were in an invocation that ended.
    pub(super) fn outlived(&mut self, records: &[RecordId]) {
        if !self.suspicions.is_over() {
            self.suspicions.clear(records);
        }
        self.have_outlived(records);
    }

    /// Lets positions say what is no longer suspected, with the next commit there is.
    pub(super) fn sweep_suspicions(&mut self) {
        if self.suspicions.is_over() {
            return;
        }
        let newest = |partition| self.trackers[usize::from(partition)].newest();
        let told = if self.mode == Mode::Draining && self.running.is_empty() {
            self.suspicions.end(newest)
        } else {
            self.suspicions.sweep(newest)
        };
        told.into_iter().for_each(|partition| self.commits.touch(partition));
    }
}
