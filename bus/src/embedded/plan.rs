//! Checks a group's operations in order against what is durable and against each other, gives every
//! batch its place, and says what to write. It changes nothing but itself, so a group that is not
//! written leaves no trace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::queue::Outcome;
use super::state::{Partition, Shard, Shared};
use super::store::WriteSet;
use crate::{
    Append, Appended, BatchBuilder, Commit, Epoch, Error, Offset, Position, PositionKey,
    RecordBatch, Recovered, ShardId, TopicPartition,
};

/// Batches below this are joined when they follow each other in a group: many small commits to
/// one partition then read like few large ones.
const SMALL_BYTES: usize = 16 << 10;
/// How large a joined batch gets.
const JOINED_BYTES_MAX: usize = 128 << 10;

/// A partition that the group appends to.
#[derive(Debug)]
pub(super) struct Appends {
    pub(super) partition: Arc<Partition>,
    pub(super) end: Offset,
    pub(super) batches: Vec<RecordBatch>,
}

/// A shard that the group moves.
#[derive(Debug)]
pub(super) struct Moves {
    pub(super) epoch: Epoch,
    raised: bool,
    pub(super) positions: BTreeMap<TopicPartition, (u64, Position)>,
}

/// A group while it is put together.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) appends: BTreeMap<u64, Appends>,
    pub(super) shards: BTreeMap<ShardId, Moves>,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Plan {
    /// Whether nothing has to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty()
            && self.shards.values().all(|it| !it.raised && it.positions.is_empty())
    }

    /// A source's appends: all of them, or none.
    pub(super) fn append(
        &mut self,
        shared: &Shared,
        appends: Vec<Append>,
    ) -> Result<Outcome, Error> {
        let placed = self.locate(shared, &appends)?;
        Ok(Outcome::Appended(self.place(placed, appends)))
    }

    /// A commit: appends and positions, all of it or nothing.
    pub(super) fn commit(&mut self, shared: &Shared, commit: Commit) -> Result<Outcome, Error> {
        let Commit { shard, epoch, mut appends, settles, positions } = commit;
        appends.extend(settles);
        self.check_fence(shared, shard, epoch)?;
        let placed = self.locate(shared, &appends)?;
        let mut ends: BTreeMap<u64, Offset> = BTreeMap::new();
        for (partition, append) in placed.iter().zip(&appends) {
            let end = ends.entry(partition.uid).or_insert_with(|| self.end_of(partition));
            end.0 += append.batch.len() as i64;
        }
        let mut moved = Vec::with_capacity(positions.len());
        for it in positions {
            let (_, partition) = shared.partition(&it.partition)?;
            let end = ends.get(&partition.uid).copied();
            let end = end.unwrap_or_else(|| self.end_of(&partition));
            let current = self.position_of(shared, shard, &it.partition);
            let from = current.filter(|it| it.epoch == epoch).map_or(Offset(0), |it| it.next);
            let next = it.position.next;
            let last = it.position.completions.ranges().last().map_or(next, |range| range.1);
            if next < from || end < next.max(last) {
                let partition = it.partition;
                return Err(Error::Position { partition, next, from, end });
            }
            let position = Position { epoch, ..it.position };
            moved.push((it.partition, (partition.uid, position)));
        }
        self.moves(shared, shard, epoch).positions.extend(moved);
        Ok(Outcome::Appended(self.place(placed, appends)))
    }

    /// A new assignment.
    pub(super) fn recover(
        &mut self,
        shared: &Shared,
        shard: ShardId,
        epoch: Epoch,
    ) -> Result<Outcome, Error> {
        self.check_fence(shared, shard, epoch)?;
        let moves = self.moves(shared, shard, epoch);
        let mut positions = BTreeMap::new();
        if let Some(state) = shared.shards().get(&shard) {
            positions.extend(state.positions.clone());
        }
        positions.extend(moves.positions.clone());
        let positions = positions.into_iter().map(|(place, (_, position))| (place, position));
        Ok(Outcome::Recovered(Recovered { positions: positions.collect() }))
    }

    fn check_fence(&self, shared: &Shared, shard: ShardId, presented: Epoch) -> Result<(), Error> {
        let current = match self.shards.get(&shard) {
            Some(moves) => moves.epoch,
            None => shared.shards().get(&shard).map_or(Epoch(0), |it| it.epoch),
        };
        if presented < current {
            return Err(Error::Fenced { shard, presented, current });
        }
        Ok(())
    }

    /// The shard's part of the group; `epoch` was checked.
    fn moves(&mut self, shared: &Shared, shard: ShardId, epoch: Epoch) -> &mut Moves {
        let moves = self.shards.entry(shard).or_insert_with(|| {
            let durable = shared.shards().get(&shard).map(|it| it.epoch);
            Moves { epoch, raised: durable != Some(epoch), positions: BTreeMap::new() }
        });
        moves.raised |= moves.epoch < epoch;
        moves.epoch = epoch;
        moves
    }

    fn position_of(
        &self,
        shared: &Shared,
        shard: ShardId,
        place: &TopicPartition,
    ) -> Option<Position> {
        if let Some((_, position)) =
            self.shards.get(&shard).and_then(|moves| moves.positions.get(place))
        {
            return Some(position.clone());
        }
        let shards = shared.shards();
        shards.get(&shard).and_then(|it| it.positions.get(place)).map(|(_, it)| it.clone())
    }

    fn end_of(&self, partition: &Partition) -> Offset {
        let planned = self.appends.get(&partition.uid).map(|it| it.end);
        planned.unwrap_or_else(|| partition.watermarks().end)
    }

    fn locate(&self, shared: &Shared, appends: &[Append]) -> Result<Vec<Arc<Partition>>, Error> {
        let located = appends.iter().map(|append| Ok(shared.partition(&append.to)?.1));
        located.collect()
    }

    /// Gives each batch its place; nothing can go wrong any more.
    fn place(&mut self, placed: Vec<Arc<Partition>>, appends: Vec<Append>) -> Vec<Appended> {
        let bases = placed.into_iter().zip(appends).map(|(partition, append)| {
            let base = self.end_of(&partition);
            let batch = whole(append.batch).with_base(base);
            self.records += batch.len() as u64;
            self.bytes += batch.as_bytes().len() as u64;
            let appends = self.appends.entry(partition.uid).or_insert_with(|| Appends {
                partition,
                end: base,
                batches: Vec::new(),
            });
            appends.end = batch.last_offset().next();
            appends.batches.push(batch);
            Appended { base }
        });
        bases.collect()
    }

    /// Joins small batches, and gives what to write.
    pub(super) fn finish(&mut self) -> WriteSet {
        let mut set = WriteSet::default();
        for (uid, appends) in &mut self.appends {
            appends.batches = join_small(std::mem::take(&mut appends.batches));
            set.batches.extend(appends.batches.iter().map(|batch| (*uid, batch.clone())));
        }
        for (shard, moves) in &self.shards {
            if moves.raised {
                set.fences.push((*shard, Some(moves.epoch)));
            }
            let rows = moves.positions.values();
            let rows = rows.map(|(uid, position)| (*shard, *uid, Some(position.clone())));
            set.positions.extend(rows);
        }
        set
    }

    /// Puts the shards' part into force; gives the rows that moved.
    pub(super) fn publish_shards(&mut self, shared: &Shared) -> BTreeSet<PositionKey> {
        let mut moved = BTreeSet::new();
        let mut shards = shared.shards();
        for (shard, moves) in std::mem::take(&mut self.shards) {
            let state: &mut Shard = shards.entry(shard).or_default();
            state.epoch = moves.epoch;
            for (partition, row) in moves.positions {
                moved.insert(PositionKey { shard, partition: partition.clone() });
                state.positions.insert(partition, row);
            }
        }
        moved
    }
}

/// The batch itself if its view leaves nothing out and its offsets have no gap, else a copy.
fn whole(batch: RecordBatch) -> RecordBatch {
    if batch.is_whole() {
        return batch;
    }
    join([&batch])
}

fn join<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> RecordBatch {
    let mut builder = BatchBuilder::default();
    for batch in batches {
        batch.iter().for_each(|record| builder.push_view(record));
    }
    builder.finish().expect("a batch is never empty")
}

/// Joins runs of small batches of one partition; order and offsets stay.
fn join_small(batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    if batches.len() < 2 {
        return batches;
    }
    let mut joined = Vec::with_capacity(batches.len());
    let mut run: Vec<RecordBatch> = Vec::new();
    let mut bytes = 0;
    let close = |run: &mut Vec<RecordBatch>, joined: &mut Vec<RecordBatch>| {
        if run.len() < 2 {
            joined.append(run);
        } else {
            joined.push(join(run.iter()).with_base(run[0].base()));
            run.clear();
        }
    };
    for batch in batches {
        let size = batch.as_bytes().len();
        if SMALL_BYTES < size || JOINED_BYTES_MAX < bytes + size {
            close(&mut run, &mut joined);
            bytes = 0;
        }
        if SMALL_BYTES < size {
            joined.push(batch);
        } else {
            bytes += size;
            run.push(batch);
        }
    }
    close(&mut run, &mut joined);
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Headers, Timestamp};

    fn batch(base: i64, records: i64, bytes: usize) -> RecordBatch {
        let mut builder = BatchBuilder::default();
        for record in 0..records {
            let mut value = (base + record).to_le_bytes().to_vec();
            value.resize(bytes.max(8), 7);
            builder.push(Timestamp(record), None, Some(&value), Headers::default());
        }
        builder.finish().unwrap().with_base(Offset(base))
    }

    #[test]
    fn small_batches_are_joined_and_every_record_keeps_its_offset() {
        let batches = vec![
            batch(0, 1, 8),
            batch(1, 3, 8),
            batch(4, 1, 20_000),
            batch(5, 2, 8),
            batch(7, 1, 8),
        ];
        let joined = join_small(batches);
        assert_eq!(joined.iter().map(RecordBatch::len).collect::<Vec<_>>(), [4, 1, 3]);
        let mut expected = 0_i64;
        for record in joined.iter().flat_map(RecordBatch::iter) {
            assert_eq!(record.offset, Offset(expected));
            assert_eq!(record.value.unwrap()[..8], expected.to_le_bytes());
            expected += 1;
        }
        assert_eq!(expected, 8);
    }

    #[test]
    fn a_narrowed_batch_is_appended_as_what_it_shows() {
        let narrowed = batch(0, 5, 8).from_offset(Offset(2)).unwrap().truncated(2);
        let whole = whole(narrowed);
        assert_eq!((whole.len(), whole.is_whole()), (2, true));
        assert_eq!(whole.get(0).value.unwrap()[..8], 2_i64.to_le_bytes());
    }
}
