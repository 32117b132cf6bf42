//! The simulated position log of one home: a call is one batch, a sync makes what was written
//! durable, a crash loses what was not, and a row that would move back stays.

use std::collections::{BTreeMap, VecDeque};

use bus::{Position, PositionKey};

use super::checker::{Checker, Wrote};
use super::shell::place;
use crate::harness::rng::Rng;

/// One atomic batch.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) shard: usize,
    /// The assignment that writes it.
    pub(super) epoch: u64,
    pub(super) rows: Vec<(PositionKey, Position)>,
    pub(super) wrote: Wrote,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Disk {
    rows: BTreeMap<PositionKey, Position>,
    pending: VecDeque<Batch>,
}

impl Disk {
    pub(super) fn write(&mut self, batch: Batch) {
        self.pending.push_back(batch);
    }

    /// Every durable row.
    pub(super) fn rows(&self) -> Vec<(PositionKey, Position)> {
        self.rows.iter().map(|(key, position)| (key.clone(), position.clone())).collect()
    }

    /// Makes what was written durable; whose it was.
    pub(super) fn sync(
        &mut self,
        home: usize,
        now: u64,
        checker: &mut Checker,
    ) -> Result<Vec<usize>, String> {
        let told = self.pending.iter().filter(|it| it.wrote != Wrote::Early);
        let mut shards: Vec<usize> = told.map(|it| it.shard).collect();
        shards.dedup();
        while let Some(batch) = self.pending.pop_front() {
            self.apply(batch, home, now, checker)?;
        }
        Ok(shards)
    }

    /// Nothing of what was written took place; whose it was.
    pub(super) fn fail(&mut self) -> Vec<usize> {
        let mut shards: Vec<usize> = self.pending.drain(..).map(|it| it.shard).collect();
        shards.dedup();
        shards
    }

    /// The process dies. What it wrote is with the system; if the machine dies too, only some of it
    /// is on the disk. How many batches are lost.
    pub(super) fn crash(
        &mut self,
        power: Option<&mut Rng>,
        home: usize,
        now: u64,
        checker: &mut Checker,
    ) -> Result<u64, String> {
        let all = self.pending.len() as u64;
        let kept = power.map_or(all, |rng| rng.draw(all + 1));
        for _batch in 0..kept {
            let batch = self.pending.pop_front().expect("no more than there are");
            self.apply(batch, home, now, checker)?;
        }
        self.pending.clear();
        Ok(all - kept)
    }

    /// Somebody deletes the directory.
    pub(super) fn clear(&mut self) {
        self.rows.clear();
    }

    fn apply(
        &mut self,
        batch: Batch,
        home: usize,
        now: u64,
        checker: &mut Checker,
    ) -> Result<(), String> {
        for (key, position) in batch.rows {
            let held = self.rows.get(&key).map(|held| (held.epoch, held.next));
            if held.is_some_and(|held| (position.epoch, position.next) < held) {
                continue;
            }
            // The row of an epoch says nothing of a record.
            if !key.partition.topic.starts_with('@') {
                let row = (position.epoch.0, place(&position));
                checker.on_row(now, home, (batch.shard, batch.epoch), row, batch.wrote)?;
            }
            self.rows.insert(key, position);
        }
        Ok(())
    }
}
