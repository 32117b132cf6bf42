//! A pure core: what every shard has committed, under which epoch, and which copy of it is the
//! truth after a restart.
//!
//! ```text
//! outputs acknowledged ─▶ position log (sled) ─▶ the group's offset, with a note, within 1 s
//!                         the truth of this node  the truth of whoever owns the shard next
//! ```
//!
//! The position log of this node holds one row per partition, under `topic@id`: a topic that was
//! deleted and made again under its name has another row. A row under `@epoch` holds the newest
//! epoch this node owned the shard at (`@` is in no name of a topic).
//!
//! - **KL-1** An owner writes its epoch into the group before anything else says that it owned the
//!   shard: at recovery for what was committed, at the first commit of an epoch for what was not.
//!   So a group whose notes have no higher epoch than this node owned the shard at was written
//!   last by this node, or by a late word of an owner before it, and the log, which is ahead of it
//!   by up to a second, is the truth.
//!   Otherwise somebody else owned the shard since, and the group is. An epoch that was seen, or
//!   asked for in vain, was not owned.
//! - **KL-2** A partition that the group does not know goes on from the log whatever the epochs
//!   say: by KL-1 nobody else has moved it, and the group has lost it to retention.
//! - **KL-3** A commit or recovery below the newest epoch known is refused.
//! - **KL-4** Within an epoch a position's `next` does not decrease.
//! - **KL-6** What the owner before has handed over is the truth for the epoch right behind its own,
//!   where no newer one was seen. It is owned when the group knows (KL-1), not before.
//! - **KL-5** Notes of another shard, or of no shard, are ignored: offsets that were left behind
//!   by a trigger of the same name say nothing about this one.
//! - **KL-7** Where another node may own the shard next, what may have ended this one is in the group
//!   before the commit that says so is durable, and so is that it no longer may have.

#![cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "the simulation plays it"))]

use std::collections::BTreeMap;

use super::note::Note;
use crate::{
    Completions, Epoch, Error, Handed, HandedRow, Offset, Position, PositionKey, ShardId,
    TopicPartition,
};

/// The pseudo topic of the row that holds a shard's epoch.
const FENCE: &str = "@epoch";

/// What the shards committed, as this node knows it.
#[derive(Debug, Default)]
pub struct Ledger {
    shards: BTreeMap<ShardId, Shard>,
}

#[derive(Clone, Debug, Default)]
struct Shard {
    /// The newest epoch known: older ones are refused.
    epoch: Epoch,
    /// The newest epoch that was this node's, as the group knows: KL-1.
    owned: Epoch,
    rows: BTreeMap<TopicPartition, Row>,
}

impl Shard {
    fn own(&mut self, epoch: Epoch) {
        self.owned = self.owned.max(epoch);
        self.epoch = self.epoch.max(epoch);
    }
}

/// One partition's position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The topic it is of.
    pub topic_id: u64,
    /// Where its shard goes on.
    pub position: Position,
    /// The newest epoch under which this node knows the group to hold an offset.
    pub anchored: Option<Epoch>,
}

/// An offset that a group holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Of which partition.
    pub partition: TopicPartition,
    /// The next record to read.
    pub next: Offset,
    /// What was committed beside it.
    pub note: Note,
}

/// A position to commit, with the id of its topic.
#[derive(Clone, Debug)]
pub struct Move {
    /// Of which partition.
    pub partition: TopicPartition,
    /// The topic it is of.
    pub topic_id: u64,
    /// Where its shard goes on.
    pub position: Position,
}

impl Ledger {
    /// What the rows of a position log say. Rows of another bus are left out.
    pub fn load(rows: impl IntoIterator<Item = (PositionKey, Position)>) -> Self {
        let mut ledger = Self::default();
        for (key, position) in rows {
            let PositionKey { shard, partition } = key;
            if &*partition.topic == FENCE {
                ledger.shards.entry(shard).or_default().own(position.epoch);
            } else if let Some((name, id)) = partition.topic.rsplit_once('@')
                && let Ok(topic_id) = u64::from_str_radix(id, 16)
            {
                let partition = TopicPartition::new(name, partition.partition);
                let shard = ledger.shards.entry(shard).or_default();
                shard.epoch = shard.epoch.max(position.epoch);
                shard.rows.insert(partition, Row { topic_id, position, anchored: None });
            }
        }
        ledger
    }

    /// The newest epoch known of a shard.
    pub fn epoch(&self, shard: ShardId) -> Epoch {
        self.shards.get(&shard).map(|it| it.epoch).unwrap_or_default()
    }

    /// KL-3.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`].
    pub fn check(&self, shard: ShardId, presented: Epoch) -> Result<(), Error> {
        let current = self.epoch(shard);
        if presented < current {
            return Err(Error::Fenced { shard, presented, current });
        }
        Ok(())
    }

    /// Takes in what a group's notes say of all shards that this node has known; those for which a
    /// higher epoch is news. Somebody else owns them.
    pub fn saw(&mut self, committed: &[Committed]) -> Vec<(ShardId, Epoch)> {
        let mut news = Vec::new();
        for Note { shard, epoch, .. } in committed.iter().map(|it| &it.note) {
            if let Some(known) = self.shards.get_mut(shard).filter(|it| it.epoch < *epoch) {
                known.epoch = *epoch;
                news.push((*shard, *epoch));
            }
        }
        news
    }

    /// Somebody else owns the shard at this epoch: KL-3. It was not owned here.
    pub fn fence(&mut self, shard: ShardId, epoch: Epoch) {
        if let Some(known) = self.shards.get_mut(&shard) {
            known.epoch = known.epoch.max(epoch);
        }
    }

    /// Decides where `shard` goes on under `epoch`, and takes that over. `committed` is what its
    /// group holds, of any shard. The group has to know before the log does: KL-1.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`].
    pub fn recover(
        &mut self,
        shard: ShardId,
        epoch: Epoch,
        committed: impl IntoIterator<Item = Committed>,
    ) -> Result<(), Error> {
        let committed: Vec<Committed> =
            committed.into_iter().filter(|it| it.note.shard == shard).collect(); // KL-5
        let newest = committed.iter().map(|it| it.note.epoch).max().unwrap_or_default();
        let current = self.epoch(shard).max(newest);
        if epoch < current {
            return Err(Error::Fenced { shard, presented: epoch, current }); // KL-3
        }
        let entry = self.shards.entry(shard).or_default();
        let log_is_true = newest <= entry.owned; // KL-1
        for Committed { partition, next, note } in committed {
            if log_is_true && entry.rows.contains_key(&partition) {
                continue;
            }
            let Note { epoch, topic_id, completions, suspects, .. } = note;
            let position = Position { epoch, next, completions, suspects };
            entry.rows.insert(partition, Row { topic_id, position, anchored: None });
        }
        entry.epoch = epoch;
        Ok(())
    }

    /// Where a shard stands that has ended at this epoch, if the group knows that it was owned at it.
    /// What may have ended a node is the bus's to tell: who starts from it has to say so first.
    pub fn handed(&self, shard: ShardId, ends: Epoch) -> Option<Handed> {
        let shard = self.shards.get(&shard).filter(|it| it.epoch == ends)?;
        let is_whole = |row: &Row| row.anchored == Some(ends) && row.position.suspects.is_none();
        if shard.rows.is_empty() || !shard.rows.values().all(is_whole) {
            return None;
        }
        let row = |(partition, row): (&TopicPartition, &Row)| HandedRow {
            partition: partition.clone(),
            topic_id: row.topic_id,
            position: row.position.clone(),
        };
        Some(Handed { ends, rows: shard.rows.iter().map(row).collect() })
    }

    /// Takes over what was handed over: KL-6.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`].
    pub fn take_over(
        &mut self,
        shard: ShardId,
        epoch: Epoch,
        handed: &Handed,
    ) -> Result<(), Error> {
        self.check(shard, epoch)?; // KL-3
        if Epoch(handed.ends.0 + 1) != epoch {
            let current = handed.ends;
            return Err(Error::Fenced { shard, presented: epoch, current });
        }
        let entry = self.shards.entry(shard).or_default();
        for HandedRow { partition, topic_id, position } in handed.rows.clone() {
            entry.rows.insert(partition, Row { topic_id, position, anchored: None });
        }
        entry.epoch = epoch;
        Ok(())
    }

    /// The newest epoch that was this node's, as the group knows.
    pub fn owned_at(&self, shard: ShardId) -> Epoch {
        self.shards.get(&shard).map(|it| it.owned).unwrap_or_default()
    }

    /// KL-4, for a commit that passed [`check`](Self::check): the position that it would move
    /// back. And whether the row belongs to the topic that there is now.
    ///
    /// # Errors
    ///
    /// [`Error::Position`], [`Error::TopicReplaced`].
    pub fn check_move(&self, shard: ShardId, epoch: Epoch, it: &Move) -> Result<(), Error> {
        let row = self.shards.get(&shard).and_then(|shard| shard.rows.get(&it.partition));
        let Some(row) = row else { return Ok(()) };
        if row.topic_id != it.topic_id {
            return Err(Error::TopicReplaced { topic: it.partition.topic.to_string() });
        }
        if row.position.epoch == epoch && it.position.next < row.position.next {
            return Err(Error::Position {
                partition: it.partition.clone(),
                next: it.position.next,
                from: row.position.next,
                end: row.position.next,
            });
        }
        Ok(())
    }

    /// Whether the group must learn of this partition before its position moves (KL-1).
    pub fn wants_anchor(&self, shard: ShardId, epoch: Epoch, it: &TopicPartition) -> bool {
        let row = self.shards.get(&shard).and_then(|shard| shard.rows.get(it));
        row.and_then(|row| row.anchored) != Some(epoch)
    }

    /// Whether the group must learn of this position before it counts: what may have ended a node is
    /// of no use where only that node has it (KL-7).
    pub fn changes_suspects(&self, shard: ShardId, it: &Move) -> bool {
        let row = self.shards.get(&shard).and_then(|shard| shard.rows.get(&it.partition));
        row.and_then(|row| row.position.suspects) != it.position.suspects
    }

    /// The group holds offsets of these partitions under `epoch`.
    pub fn anchored<'a>(
        &mut self,
        shard: ShardId,
        epoch: Epoch,
        partitions: impl IntoIterator<Item = &'a TopicPartition>,
    ) {
        let Some(shard) = self.shards.get_mut(&shard) else { return };
        shard.own(epoch);
        for partition in partitions {
            if let Some(row) = shard.rows.get_mut(partition) {
                row.anchored = Some(epoch);
            }
        }
    }

    /// Takes a commit over, anchors included. It is durable.
    pub fn moved(&mut self, shard: ShardId, epoch: Epoch, moves: Vec<Move>) {
        let shard = self.shards.entry(shard).or_default();
        shard.own(epoch);
        for Move { partition, topic_id, position } in moves {
            let anchored = Some(epoch);
            shard.rows.insert(partition, Row { topic_id, position, anchored });
        }
    }

    /// A shard's partitions.
    pub fn rows(&self, shard: ShardId) -> Vec<(TopicPartition, Row)> {
        let rows = self.shards.get(&shard).map(|shard| shard.rows.clone());
        rows.unwrap_or_default().into_iter().collect()
    }

    /// Shards of which the group holds this node's offsets under the newest epoch known.
    pub fn owned(&self) -> Vec<ShardId> {
        let owned = self
            .shards
            .iter()
            .filter(|(_, shard)| shard.rows.values().any(|row| row.anchored == Some(shard.epoch)));
        owned.map(|(id, _)| *id).collect()
    }

    /// Every shard there is.
    pub fn shards(&self) -> Vec<ShardId> {
        self.shards.keys().copied().collect()
    }

    /// Every position.
    pub fn positions(&self) -> Vec<(PositionKey, u64, Position)> {
        let rows = self.shards.iter().flat_map(|(shard, it)| {
            it.rows.iter().map(|(partition, row)| {
                let key = PositionKey { shard: *shard, partition: partition.clone() };
                (key, row.topic_id, row.position.clone())
            })
        });
        rows.collect()
    }

    /// Drops a shard and its epoch; the partitions it had.
    pub fn forget(&mut self, shard: ShardId) -> Vec<TopicPartition> {
        self.shards.remove(&shard).map(|it| it.rows.into_keys().collect()).unwrap_or_default()
    }

    /// Drops the positions in a topic.
    pub fn forget_topic(&mut self, name: &str) {
        for shard in self.shards.values_mut() {
            shard.rows.retain(|partition, _| &*partition.topic != name);
        }
    }

    /// Every row of the position log, for one that is written anew.
    pub fn log_rows(&self) -> Vec<(PositionKey, Position)> {
        let mut rows = Vec::new();
        for (shard, it) in &self.shards {
            rows.push(epoch_row(*shard, it.owned));
            rows.extend(it.rows.iter().map(|(partition, row)| {
                log_row(*shard, partition, row.topic_id, row.position.clone())
            }));
        }
        rows
    }
}

/// Whether what was handed over of a shard is as far as its group, and nobody owned it since.
pub fn agrees(shard: ShardId, handed: &Handed, committed: &[Committed]) -> bool {
    let mut ours = committed.iter().filter(|it| it.note.shard == shard); // KL-5
    ours.all(|it| {
        let row = handed.rows.iter().find(|row| row.partition == it.partition);
        row.is_some_and(|row| {
            let HandedRow { topic_id, position, .. } = row;
            it.note.epoch <= handed.ends
                && it.note.topic_id == *topic_id
                && it.next <= position.next
                && covers(position, &it.note.completions)
        })
    })
}

/// Whether all of this is settled by a position.
fn covers(position: &Position, settled: &Completions) -> bool {
    settled.ranges().iter().all(|(start, end)| {
        let start = position.next.max(*start);
        let mut ranges = position.completions.ranges().iter();
        *end <= start || ranges.any(|it| it.0 <= start && *end <= it.1)
    })
}

/// The row of a shard's epoch.
pub fn epoch_row(shard: ShardId, epoch: Epoch) -> (PositionKey, Position) {
    let key = PositionKey { shard, partition: TopicPartition::new(FENCE, 0) };
    (key, Position { epoch, ..Position::default() })
}

/// The row of a position.
pub fn log_row(
    shard: ShardId,
    partition: &TopicPartition,
    topic_id: u64,
    position: Position,
) -> (PositionKey, Position) {
    let name = format!("{}@{topic_id:x}", partition.topic);
    (PositionKey { shard, partition: TopicPartition::new(name, partition.partition) }, position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Completions;
    use crate::Suspects;

    const SHARD: ShardId = ShardId(7);

    fn place(partition: i32) -> TopicPartition {
        TopicPartition::new("in", partition)
    }

    fn at(epoch: u64, next: i64) -> Position {
        Position { epoch: Epoch(epoch), next: Offset(next), ..Position::default() }
    }

    fn committed(shard: u64, epoch: u64, partition: i32, next: i64) -> Committed {
        let completions = Completions::default();
        let note = Note {
            shard: ShardId(shard),
            epoch: Epoch(epoch),
            topic_id: 0xab,
            completions,
            suspects: None,
        };
        Committed { partition: place(partition), next: Offset(next), note }
    }

    /// A node that committed `next` at `epoch` and was restarted.
    fn restarted(epoch: u64, next: i64) -> Ledger {
        let mut ledger = Ledger::default();
        let partition = place(0);
        let moves = vec![Move { partition, topic_id: 0xab, position: at(epoch, next) }];
        ledger.moved(SHARD, Epoch(epoch), moves);
        Ledger::load(ledger.log_rows())
    }

    fn next(ledger: &Ledger, partition: i32) -> Option<i64> {
        let rows = ledger.rows(SHARD);
        rows.iter().find(|(it, _)| *it == place(partition)).map(|(_, row)| row.position.next.0)
    }

    #[test]
    fn the_log_is_the_truth_until_somebody_else_owned_the_shard() {
        let mut own = restarted(5, 90);
        own.recover(SHARD, Epoch(6), [committed(7, 5, 0, 80)]).unwrap();
        assert_eq!(next(&own, 0), Some(90), "KL-1: the group is behind by what it may");
        let mut other = restarted(5, 90);
        other.recover(SHARD, Epoch(7), [committed(7, 6, 0, 80)]).unwrap();
        assert_eq!(next(&other, 0), Some(80), "KL-1: another owner went on from there");
        let mut empty = Ledger::default();
        empty.recover(SHARD, Epoch(7), [committed(7, 6, 0, 80)]).unwrap();
        assert_eq!(next(&empty, 0), Some(80), "a log that was lost");
        let mut expired = restarted(5, 90);
        expired.recover(SHARD, Epoch(7), [committed(7, 6, 1, 3)]).unwrap();
        assert_eq!((next(&expired, 0), next(&expired, 1)), (Some(90), Some(3)), "KL-2");
    }

    #[test]
    fn an_epoch_counts_before_a_position_moved_under_it() {
        let mut ledger = restarted(5, 90);
        ledger.recover(SHARD, Epoch(6), [committed(7, 5, 0, 80)]).unwrap();
        ledger.anchored(SHARD, Epoch(6), [&place(0)]);
        // It died after its epoch reached the group, before it committed anything.
        let mut ledger = Ledger::load(ledger.log_rows());
        assert_eq!(ledger.epoch(SHARD), Epoch(6));
        ledger.recover(SHARD, Epoch(7), [committed(7, 6, 0, 90)]).unwrap();
        assert_eq!(next(&ledger, 0), Some(90));
    }

    #[test]
    fn a_late_word_of_an_owner_before_decides_nothing() {
        let mut ledger = restarted(5, 121);
        // The owner at 4 got further than this one and was slow to say so. What it settled may run
        // again; what is true of the log stays true.
        ledger.recover(SHARD, Epoch(6), [committed(7, 4, 0, 200)]).unwrap();
        assert_eq!(next(&ledger, 0), Some(121), "KL-1");
    }

    #[test]
    fn an_epoch_that_was_only_seen_was_not_owned() {
        let mut ledger = restarted(5, 90);
        // Another node owned the shard at 6 and got to 120, which this one saw; then it gets the
        // shard back without having ended.
        ledger.saw(&[committed(7, 6, 0, 120)]);
        ledger.recover(SHARD, Epoch(7), [committed(7, 6, 0, 120)]).unwrap();
        assert_eq!(next(&ledger, 0), Some(120), "KL-1");
    }

    #[test]
    fn what_was_given_away_is_refused_until_it_comes_back_and_then_the_group_is_the_truth() {
        let mut ledger = restarted(5, 90);
        ledger.fence(SHARD, Epoch(6));
        assert!(matches!(ledger.check(SHARD, Epoch(5)), Err(Error::Fenced { .. })), "KL-3");
        ledger.fence(SHARD, Epoch(4));
        assert_eq!(ledger.epoch(SHARD), Epoch(6));
        ledger.recover(SHARD, Epoch(7), [committed(7, 6, 0, 120)]).unwrap();
        assert_eq!(next(&ledger, 0), Some(120), "KL-1");
        ledger.fence(ShardId(8), Epoch(3));
        assert_eq!(ledger.shards(), [SHARD], "one that was never here stays unknown");
    }

    #[test]
    fn a_recovery_that_did_not_reach_the_group_owned_nothing() {
        let mut ledger = restarted(5, 90);
        ledger.recover(SHARD, Epoch(7), [committed(7, 6, 0, 100)]).unwrap();
        // The group could not be written, and the owner at 6 went on.
        ledger.recover(SHARD, Epoch(8), [committed(7, 6, 0, 120)]).unwrap();
        assert_eq!(next(&ledger, 0), Some(120), "KL-1");
        let mut ledger = Ledger::load(ledger.log_rows());
        ledger.recover(SHARD, Epoch(9), [committed(7, 6, 0, 130)]).unwrap();
        assert_eq!(next(&ledger, 0), Some(130), "KL-1");
    }

    #[test]
    fn an_older_epoch_is_refused_wherever_the_newer_was_seen() {
        let mut ledger = restarted(5, 90);
        let fenced = ledger.recover(SHARD, Epoch(4), []);
        assert!(matches!(fenced, Err(Error::Fenced { current: Epoch(5), .. })), "{fenced:?}");
        let fenced = ledger.recover(SHARD, Epoch(6), [committed(7, 8, 0, 1)]);
        assert!(matches!(fenced, Err(Error::Fenced { current: Epoch(8), .. })), "{fenced:?}");
        assert_eq!((next(&ledger, 0), ledger.epoch(SHARD)), (Some(90), Epoch(5)));
        ledger.recover(SHARD, Epoch(6), [committed(9, 8, 0, 1)]).unwrap();
        assert_eq!(next(&ledger, 0), Some(90), "KL-5: the note of another shard");
        let seen = [committed(7, 9, 0, 1), committed(9, 9, 0, 1), committed(7, 8, 1, 1)];
        assert_eq!(ledger.saw(&seen), [(SHARD, Epoch(9))], "of a shard that is known");
        assert_eq!(ledger.saw(&seen), []);
        assert!(matches!(ledger.check(SHARD, Epoch(6)), Err(Error::Fenced { .. })), "KL-3");
    }

    #[test]
    fn a_position_moves_back_only_with_a_new_epoch() {
        let ledger = restarted(5, 90);
        let back = Move { partition: place(0), topic_id: 0xab, position: at(5, 89) };
        let refused = ledger.check_move(SHARD, Epoch(5), &back);
        assert!(matches!(refused, Err(Error::Position { from: Offset(90), .. })), "KL-4");
        ledger.check_move(SHARD, Epoch(6), &back).unwrap();
        let replaced = Move { topic_id: 0xcd, ..back };
        let refused = ledger.check_move(SHARD, Epoch(6), &replaced);
        assert!(matches!(refused, Err(Error::TopicReplaced { .. })), "{refused:?}");
    }

    #[test]
    fn each_epoch_is_anchored_once_per_partition() {
        let mut ledger = restarted(5, 90);
        assert!(ledger.wants_anchor(SHARD, Epoch(5), &place(0)), "not known after a restart");
        ledger.anchored(SHARD, Epoch(5), [&place(0)]);
        assert!(!ledger.wants_anchor(SHARD, Epoch(5), &place(0)));
        assert!(ledger.wants_anchor(SHARD, Epoch(6), &place(0)));
        assert!(ledger.wants_anchor(SHARD, Epoch(5), &place(1)));
    }

    fn handed(ends: u64, next: i64, settled: &[(i64, i64)]) -> Handed {
        let ranges = settled.iter().map(|(start, end)| (Offset(*start), Offset(*end)));
        let position = Position { completions: Completions::from_ranges(ranges), ..at(ends, next) };
        let row = HandedRow { partition: place(0), topic_id: 0xab, position };
        Handed { ends: Epoch(ends), rows: vec![row] }
    }

    #[test]
    fn what_was_handed_over_counts_for_the_epoch_behind_it_and_is_not_owned_yet() {
        let mut ledger = restarted(3, 40);
        for (epoch, ends) in [(7, 5), (6, 6), (5, 5)] {
            let refused = ledger.take_over(SHARD, Epoch(epoch), &handed(ends, 90, &[]));
            assert!(matches!(refused, Err(Error::Fenced { .. })), "KL-6: {epoch} behind {ends}");
        }
        assert_eq!(next(&ledger, 0), Some(40));
        ledger.take_over(SHARD, Epoch(6), &handed(5, 90, &[(92, 95)])).unwrap();
        assert_eq!((next(&ledger, 0), ledger.owned_at(SHARD)), (Some(90), Epoch(3)), "KL-6");
        assert!(ledger.wants_anchor(SHARD, Epoch(6), &place(0)), "KL-1: the group first");
        assert_eq!(ledger.handed(SHARD, Epoch(6)), None, "the group does not know yet");
        // It dies before the group knows: what it was handed is not its own.
        let mut again = Ledger::load(ledger.log_rows());
        again.recover(SHARD, Epoch(7), [committed(7, 5, 0, 85)]).unwrap();
        assert_eq!(next(&again, 0), Some(85), "KL-1");
        ledger.anchored(SHARD, Epoch(6), [&place(0)]);
        assert_eq!(ledger.handed(SHARD, Epoch(6)).unwrap().rows, handed(5, 90, &[(92, 95)]).rows);
        assert_eq!(ledger.handed(SHARD, Epoch(5)), None, "of another epoch");
        ledger.fence(SHARD, Epoch(9));
        let refused = ledger.take_over(SHARD, Epoch(7), &handed(6, 99, &[]));
        assert!(matches!(refused, Err(Error::Fenced { .. })), "KL-3");
    }

    #[test]
    fn a_position_with_suspects_is_not_handed_over() {
        let mut ledger = Ledger::default();
        let suspects = Some(Suspects { from: Offset(90), until: Offset(95), attempt: 3 });
        let position = Position { suspects, ..at(5, 90) };
        let moves = vec![Move { partition: place(0), topic_id: 0xab, position }];
        ledger.moved(SHARD, Epoch(5), moves);
        assert_eq!(ledger.handed(SHARD, Epoch(5)), None);
    }

    #[test]
    fn what_was_handed_over_is_compared_with_the_group() {
        let given = handed(5, 90, &[(92, 95)]);
        let agree = |committed: Committed| agrees(SHARD, &given, &[committed]);
        assert!(agrees(SHARD, &given, &[]), "the group has lost it: KL-2");
        assert!(agree(committed(7, 5, 0, 80)), "the group follows");
        assert!(agree(committed(7, 5, 0, 90)));
        assert!(!agree(committed(7, 5, 0, 91)), "the group is ahead");
        assert!(!agree(committed(7, 6, 0, 80)), "somebody owned it since");
        assert!(!agree(committed(7, 5, 1, 80)), "a partition that was not handed over");
        assert!(agree(committed(8, 6, 0, 99)), "KL-5");
        let mut mapped = committed(7, 5, 0, 80);
        mapped.note.completions = Completions::from_ranges([(Offset(84), Offset(94))]);
        assert!(!agree(mapped.clone()), "91 is settled there");
        mapped.note.completions = Completions::from_ranges([(Offset(93), Offset(95))]);
        assert!(agree(mapped.clone()));
        mapped.note.topic_id = 0xcd;
        assert!(!agree(mapped), "another topic of that name");
    }

    #[test]
    fn the_group_learns_at_once_what_may_end_a_node() {
        let suspects = |attempt| Suspects { from: Offset(90), until: Offset(95), attempt };
        let moved = |suspects| {
            let position = Position { suspects, ..at(5, 90) };
            Move { partition: place(0), topic_id: 0xab, position }
        };
        let mut ledger = Ledger::default();
        assert!(!ledger.changes_suspects(SHARD, &moved(None)));
        let mut now = None;
        for next in [Some(suspects(2)), Some(suspects(3)), None] {
            assert!(ledger.changes_suspects(SHARD, &moved(next)), "KL-7: {now:?} to {next:?}");
            ledger.moved(SHARD, Epoch(5), vec![moved(next)]);
            assert!(!ledger.changes_suspects(SHARD, &moved(next)));
            now = next;
        }
    }

    #[test]
    fn rows_of_another_bus_are_left_out() {
        let key = PositionKey { shard: SHARD, partition: place(0) };
        assert_eq!(Ledger::load([(key, at(5, 90))]).positions(), []);
    }
}
