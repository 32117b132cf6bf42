//! A pure core: what a shard does about records that may have ended a node.

use std::time::Instant;

use bus::Offset;

use super::{Mode, NODE_ENDED, ShardDispatch, Verdict};
use crate::records::RecordId;

impl ShardDispatch {
    /// Whether records that may have ended a node wait until no other shard of the node runs such.
    /// Ask after every input, and answer with [`on_alone`](Self::on_alone).
    #[must_use]
    pub fn wants_alone(&self) -> bool {
        !self.is_stopped() && self.suspicions.wants_alone()
    }

    /// Whether it has to stay alone. Ask after every input, once it is.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        !self.is_stopped() && self.suspicions.is_alone()
    }

    /// No other shard of the node runs records that may have ended one, for as long as this one
    /// [is alone](Self::is_alone).
    pub fn on_alone(&mut self, now: Instant) {
        if !self.is_stopped()
            && let Some(partition) = self.suspicions.on_alone()
        {
            self.commits.touch(partition);
            self.proceed(now);
        }
    }

    /// Whether a record that was let in may run. One that has ended its last node is given up.
    pub(super) fn is_innocent(&mut self, partition: u16, record: RecordId, offset: Offset) -> bool {
        match self.suspicions.admitted(partition, record, offset) {
            Verdict::Run => true,
            Verdict::Name => {
                self.commits.touch(partition);
                true
            }
            Verdict::Guilty(attempts) => {
                self.records.entry_mut(record).attempts = attempts;
                let message = format!("the node ended {attempts} times while it ran this record");
                self.dead_letter(record, NODE_ENDED.to_owned(), message);
                false
            }
        }
    }

    /// Lets positions say what is no longer suspected, with the next commit there is.
    pub(super) fn sweep_suspicions(&mut self) {
        if self.suspicions.is_over() {
            return;
        }
        let told = if self.mode == Mode::Draining && self.running.is_empty() {
            self.suspicions.end()
        } else {
            self.suspicions.sweep(|partition| self.trackers[usize::from(partition)].newest())
        };
        told.into_iter().for_each(|partition| self.commits.touch(partition));
    }
}
