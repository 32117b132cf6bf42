//! Deletes whole batches that a topic no longer keeps, oldest first, in pieces between groups. It
//! never passes a committed position that still needs a record: it is held back, and says so.

use std::sync::Arc;

use super::rows::IndexRow;
use super::state::Partition;
use super::store::WriteSet;
use super::writer::Writer;
use crate::{Cleanup, Error, Offset, Retention, Timestamp, metrics as names};

/// What one write deletes at most, so that operations behind it wait only for that.
const PIECE_BATCHES: usize = 1024;
const PIECE_BYTES: u64 = 64 << 20;
/// How many batches are looked at to say how much is held back.
const LOOK_BATCHES: usize = 65_536;

/// What may go of one partition.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expired {
    batches: Vec<Offset>,
    bytes: u64,
    start: Option<Offset>,
    held_bytes: u64,
    more: bool,
}

/// Decides about a partition's batches, one after the other, oldest first.
struct Judge {
    /// Batches with nothing newer than this go.
    oldest: Option<Timestamp>,
    /// The partition's bytes, and how many it may keep.
    bytes: u64,
    bytes_max: Option<u64>,
    /// The lowest committed position.
    needed: Option<Offset>,
    seen: usize,
    expired: Expired,
}

impl Judge {
    fn new(retention: Retention, now: Timestamp, bytes: u64, needed: Option<Offset>) -> Self {
        let oldest = retention.age.map(|age| {
            Timestamp(now.0.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)))
        });
        let (bytes_max, expired) = (retention.bytes, Expired::default());
        Self { oldest, bytes, bytes_max, needed, seen: 0, expired }
    }

    /// Looks at the next batch; `false` when no later one can go.
    fn look(&mut self, base: Offset, row: IndexRow) -> bool {
        self.seen += 1;
        let bytes = u64::from(row.bytes);
        let is_old = self.oldest.is_some_and(|oldest| row.timestamp_max < oldest.0);
        // Like Kafka: what stays is never less than the bound.
        let is_over = self.bytes_max.is_some_and(|max| max.saturating_add(bytes) <= self.bytes);
        if !is_old && !is_over {
            return false;
        }
        let end = Offset(base.0.saturating_add(row.count.into()));
        self.bytes = self.bytes.saturating_sub(bytes);
        if self.expired.held_bytes != 0 || self.needed.is_some_and(|needed| needed < end) {
            self.expired.held_bytes += bytes;
            return self.seen < LOOK_BATCHES;
        }
        if PIECE_BATCHES <= self.expired.batches.len() || PIECE_BYTES <= self.expired.bytes {
            self.expired.more = true;
            return false;
        }
        self.expired.batches.push(base);
        self.expired.bytes += bytes;
        self.expired.start = Some(end);
        true
    }
}

impl Writer {
    /// Deletes a piece of what every partition's retention lets go at `now`; gives whether there
    /// is more.
    pub(super) fn retain(&mut self, now: Timestamp) -> bool {
        let needed = self.needed();
        let (mut more, mut held_bytes) = (false, 0);
        for topic in self.shared.topics() {
            let retention = topic.info.spec.retention;
            if topic.info.spec.cleanup == Cleanup::Compact {
                continue;
            }
            if retention.age.is_none() && retention.bytes.is_none() {
                continue;
            }
            for partition in &topic.partitions {
                let bytes = partition.watermarks().bytes;
                if bytes == 0 || (retention.age.is_none() && Some(bytes) <= retention.bytes) {
                    self.held.remove(&partition.uid);
                    continue;
                }
                let judge = Judge::new(retention, now, bytes, needed.get(&partition.uid).copied());
                match self.trim(partition, judge) {
                    Ok(expired) => {
                        more |= expired.more;
                        held_bytes += expired.held_bytes;
                    }
                    Err(error) => {
                        tracing::warn!(partition = %partition.place, %error, "could not apply retention");
                    }
                }
            }
        }
        metrics::gauge!(names::RETENTION_HELD_BYTES).set(held_bytes as f64);
        more
    }

    fn trim(&mut self, partition: &Arc<Partition>, mut judge: Judge) -> Result<Expired, Error> {
        self.shared.store.scan(partition.uid, |base, row| judge.look(base, row))?;
        let Judge { expired, needed, .. } = judge;
        self.say_held(partition, expired.held_bytes, needed);
        let Some(start) = expired.start else { return Ok(expired) };
        let batches = expired.batches.iter().map(|base| (partition.uid, *base));
        let set = WriteSet {
            batches_deleted: batches.collect(),
            starts: vec![(partition.uid, Some(start))],
            ..WriteSet::default()
        };
        self.write(&set).map_err(|refused| self.error_of(&refused))?;
        partition.trim(start, expired.bytes);
        metrics::counter!(names::RETENTION_DELETED_BYTES).increment(expired.bytes);
        Ok(expired)
    }

    fn say_held(&mut self, partition: &Partition, held_bytes: u64, needed: Option<Offset>) {
        if held_bytes == 0 {
            self.held.remove(&partition.uid);
        } else if self.held.insert(partition.uid) {
            tracing::warn!(
                partition = %partition.place,
                held_bytes,
                position = needed.map(|it| it.0),
                "retention is held back: a trigger has not settled these records yet"
            );
        }
    }

    /// Deletes a piece of what deleted topics left; gives whether there is more.
    pub(super) fn remove_garbage(&mut self) -> bool {
        let Some(uid) = self.garbage.front().copied() else { return false };
        let (mut set, mut bytes) = (WriteSet::default(), 0);
        let looked = self.shared.store.scan(uid, |base, row| {
            set.batches_deleted.push((uid, base));
            bytes += u64::from(row.bytes);
            set.batches_deleted.len() < PIECE_BATCHES && bytes < PIECE_BYTES
        });
        let removed = looked.and_then(|()| {
            if set.is_empty() {
                return Ok(());
            }
            self.write(&set).map_err(|refused| self.error_of(&refused))
        });
        if let Err(error) = &removed {
            tracing::warn!(%error, "could not remove the batches of a deleted topic: the next start does");
        }
        if set.is_empty() || removed.is_err() {
            self.garbage.pop_front();
        }
        !self.garbage.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::rows::Place;
    use super::*;

    fn judged(retention: Retention, needed: Option<i64>) -> Expired {
        let mut judge = Judge::new(retention, Timestamp(1000), 400, needed.map(Offset));
        for batch in 0..4 {
            let place = Place { commit: 1, ordinal: 0 };
            let row = IndexRow { count: 10, bytes: 100, timestamp_max: 100 * batch, place };
            if !judge.look(Offset(batch * 10), row) {
                break;
            }
        }
        judge.expired
    }

    #[test]
    fn old_batches_go_and_young_ones_stay() {
        let age = Some(Duration::from_millis(800));
        let expired = judged(Retention { age, bytes: None }, None);
        assert_eq!(expired.batches, [Offset(0), Offset(10)]);
        assert_eq!((expired.start, expired.bytes), (Some(Offset(20)), 200));
    }

    #[test]
    fn what_stays_is_never_less_than_the_bound() {
        let expired = |bytes| judged(Retention { age: None, bytes: Some(bytes) }, None).bytes;
        assert_eq!([expired(400), expired(399), expired(300), expired(50)], [0, 0, 100, 300]);
    }

    #[test]
    fn a_position_holds_back_its_batch_and_all_behind_it() {
        let retention = Retention { age: None, bytes: Some(0) };
        let expired = judged(retention, Some(15));
        assert_eq!((expired.start, expired.held_bytes), (Some(Offset(10)), 300));
        assert_eq!(judged(retention, Some(20)).start, Some(Offset(20)));
        assert_eq!(judged(retention, Some(40)).held_bytes, 0);
    }
}
