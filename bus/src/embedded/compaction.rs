//! Compacts partitions of which the newest record of each key is kept: in passes from the start to
//! where the partition ended, in pieces between groups. A piece is one write; whatever the power
//! does between two, each key's newest record is there.
//!
//! ```text
//! look:     read all, note where each key's newest record is
//! rewrite:  piece by piece from the start, what is kept of its batches as one batch, same offsets
//! ```
//!
//! A tombstone goes in a pass too, once it is old: what lies below it of its key went before it. Until
//! then whoever reads from the start meets it behind the record that it takes back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::state::Partition;
use super::store::{Spanned, WriteSet};
use super::writer::Writer;
use crate::{BatchBuilder, Cleanup, Error, Offset, RecordBatch, RecordView, Timestamp};

/// What one piece reads, and writes at most, so that operations behind it wait only for that.
const PIECE_BYTES: usize = 1 << 20;
/// A partition is compacted when it has so much more than after the last time, and twice as much.
const NEW_BYTES: u64 = 1 << 20;
/// Memory for the keys of a pass; one that meets more ends early.
const KEYS_BYTES_MAX: usize = 64 << 20;
/// What a key costs in memory beyond its bytes.
const KEY_OVERHEAD: usize = 64;
/// How long a tombstone is kept, by its timestamp: longer than reading a partition takes.
const TOMBSTONE_KEPT: Duration = Duration::from_secs(600);

/// How far compaction is.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    /// Bytes that each partition had after its last pass.
    done: HashMap<u64, u64>,
    pass: Option<Pass>,
}

/// One pass over one partition.
#[derive(Debug)]
struct Pass {
    partition: Arc<Partition>,
    newest: HashMap<Vec<u8>, Offset>,
    key_bytes: usize,
    /// Where it goes on, and where it ends.
    next: Offset,
    end: Offset,
    rewrites: bool,
    /// The last row that stays: its base, and how many offsets it takes.
    last: Option<(Offset, u32)>,
    /// Tombstones of before this time go.
    tombstones_from: Timestamp,
}

impl Compaction {
    /// A pass over these partitions is of no more use: their topic goes.
    pub(super) fn forget(&mut self, uids: &std::collections::HashSet<u64>) {
        self.pass.take_if(|pass| uids.contains(&pass.partition.uid));
        self.done.retain(|uid, _| !uids.contains(uid));
    }

    /// The next look finds every partition worth it.
    pub(super) fn start_over(&mut self) {
        *self = Self::default();
    }
}

impl Pass {
    fn new(partition: &Arc<Partition>, now: Timestamp) -> Self {
        let marks = partition.watermarks();
        let kept = i64::try_from(TOMBSTONE_KEPT.as_millis()).unwrap_or(i64::MAX);
        Self {
            partition: Arc::clone(partition),
            newest: HashMap::new(),
            key_bytes: 0,
            next: marks.start,
            end: marks.end,
            rewrites: false,
            last: None,
            tombstones_from: Timestamp(now.0.saturating_sub(kept)),
        }
    }

    /// Notes the keys of a batch that ends before `end`.
    fn look(&mut self, batch: &RecordBatch, end: Offset) {
        for record in batch.iter() {
            let Some(key) = record.key else { continue };
            match self.newest.get_mut(key) {
                Some(newest) => *newest = record.offset,
                None => {
                    self.key_bytes += key.len() + KEY_OVERHEAD;
                    self.newest.insert(key.to_vec(), record.offset);
                }
            }
        }
        self.next = end;
        if KEYS_BYTES_MAX < self.key_bytes {
            self.end = end;
        }
    }

    fn keeps(&self, record: &RecordView<'_>) -> bool {
        let newest = record.key.and_then(|key| self.newest.get(key));
        match newest {
            Some(newest) if record.offset < *newest => false,
            Some(_) => record.value.is_some() || self.tombstones_from <= record.timestamp,
            None => true,
        }
    }
}

/// What becomes of one piece.
#[derive(Debug, Default)]
struct Piece {
    bases: Vec<Offset>,
    bytes: u64,
    kept: Option<RecordBatch>,
    /// How many offsets the piece takes.
    span: u32,
    lost: usize,
}

impl Piece {
    /// Joins what is kept of batches that follow one another, under their offsets.
    fn new(batches: &[Spanned], end: Offset, keeps: impl Fn(&RecordView<'_>) -> bool) -> Self {
        let Some(first) = batches.first() else { return Self::default() };
        let (base, mut builder) = (first.batch.base(), BatchBuilder::default());
        let mut piece = Self::default();
        for Spanned { batch, end: batch_end } in batches {
            let Ok(span) = u32::try_from(batch_end.0 - base.0) else { break };
            if end < *batch_end {
                break;
            }
            for record in batch.iter() {
                if keeps(&record) {
                    let delta = record.offset.0 - base.0;
                    builder.skip_to(u32::try_from(delta).expect("below the span of the piece"));
                    builder.push_view(record);
                } else {
                    piece.lost += 1;
                }
            }
            piece.bases.push(batch.base());
            piece.bytes += batch.as_bytes().len() as u64;
            piece.span = span;
        }
        piece.kept = builder.finish().map(|kept| kept.with_base(base));
        piece
    }

    /// Whether writing it anew is of use.
    fn is_better(&self) -> bool {
        let small = self.bytes / (self.bases.len() as u64).max(1) < PIECE_BYTES as u64 / 16;
        self.lost != 0 || (1 < self.bases.len() && small)
    }
}

impl Writer {
    /// Does the next piece of compaction, if something is worth it; gives whether there is more.
    pub(super) fn compact(&mut self, now: Timestamp) -> bool {
        if self.compaction.pass.is_none() {
            self.compaction.pass = self.worth_it().map(|it| Pass::new(&it, now));
        }
        let Some(mut pass) = self.compaction.pass.take() else { return false };
        let place = pass.partition.place.clone();
        match self.advance(&mut pass) {
            Ok(true) => self.compaction.pass = Some(pass),
            Ok(false) => self.pass_is_over(&pass),
            Err(error) => {
                tracing::warn!(partition = %place, %error, "could not compact the partition");
                self.pass_is_over(&pass);
            }
        }
        true
    }

    fn pass_is_over(&mut self, pass: &Pass) {
        let held = pass.partition.watermarks().bytes;
        self.compaction.done.insert(pass.partition.uid, held);
    }

    /// A partition that has grown enough.
    fn worth_it(&self) -> Option<Arc<Partition>> {
        let topics = self.shared.topics();
        let compacted = topics.iter().filter(|it| it.info.spec.cleanup == Cleanup::Compact);
        let mut partitions = compacted.flat_map(|topic| &topic.partitions);
        let grown = partitions.find(|it| {
            let bytes = it.watermarks().bytes;
            let held = self.compaction.done.get(&it.uid).copied();
            held.map_or(bytes != 0, |held| held + held.max(NEW_BYTES) <= bytes)
        });
        grown.cloned()
    }

    /// One piece of a pass; `false` when that was the last.
    fn advance(&mut self, pass: &mut Pass) -> Result<bool, Error> {
        let (uid, end) = (pass.partition.uid, pass.end);
        if end <= pass.next {
            if pass.rewrites || pass.newest.is_empty() {
                return Ok(false);
            }
            (pass.rewrites, pass.next) = (true, pass.partition.watermarks().start);
        }
        let batches = self.shared.store.read(uid, pass.next, end, PIECE_BYTES)?;
        if !pass.rewrites {
            for Spanned { batch, end } in &batches {
                if *end <= pass.end {
                    pass.look(batch, *end);
                }
            }
            return Ok(true);
        }
        let piece = Piece::new(&batches, end, |record| pass.keeps(record));
        if piece.bases.is_empty() {
            return Ok(false);
        }
        let (first, next) = (piece.bases[0], Offset(piece.bases[0].0 + i64::from(piece.span)));
        if piece.is_better() {
            self.replace(pass, &piece, next)?;
        } else {
            let last = batches[piece.bases.len() - 1].batch.base();
            pass.last = u32::try_from(next.0 - last.0).ok().map(|span| (last, span));
        }
        debug_assert!(first < next);
        pass.next = next;
        Ok(true)
    }

    /// Writes a piece anew: its batches go, one of what is kept takes their place. Where nothing is,
    /// the batch before takes their offsets too, or the partition starts behind them.
    fn replace(&mut self, pass: &mut Pass, piece: &Piece, next: Offset) -> Result<(), Error> {
        let uid = pass.partition.uid;
        let deleted = piece.bases.iter().map(|base| (uid, *base)).collect();
        let mut set = WriteSet { batches_deleted: deleted, ..WriteSet::default() };
        let mut start = None;
        let last = match (&piece.kept, pass.last) {
            (Some(kept), _) => {
                set.batches_kept.push((uid, kept.clone(), piece.span));
                Some((kept.base(), piece.span))
            }
            (None, None) => {
                start = Some(next);
                set.starts.push((uid, start));
                None
            }
            (None, Some((base, _))) => {
                // Too far for one row, which is no more than a missed chance.
                let Ok(span) = u32::try_from(next.0 - base.0) else { return Ok(()) };
                set.spans.push((uid, base, span));
                Some((base, span))
            }
        };
        self.write(&set).map_err(|refused| self.error_of(&refused))?;
        pass.last = last;
        let kept = piece.kept.as_ref().map_or(0, |kept| kept.as_bytes().len() as u64);
        pass.partition.compacted(start, piece.bytes, kept);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{compacted, keyed, read_keyed};
    use super::super::{Embedded, EmbeddedConfig};
    use super::*;
    use crate::{Bus as _, TopicPartition};

    /// Any sequence of writes, passes and restarts keeps what the simplest model keeps.
    #[tokio::test]
    async fn whatever_is_written_each_key_keeps_its_newest_record_at_its_offset() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = EmbeddedConfig::new(dir.path());
        config.cache_bytes = 4 << 10;
        let mut bus = Embedded::open(config.clone(), None).unwrap();
        bus.create_topic(compacted("t")).await.unwrap();
        let mut rng = 7_u64;
        let mut draw = |below: u64| {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            (rng >> 11) % below
        };
        let mut log: Vec<(u64, Option<String>)> = Vec::new();
        let mut gone: Vec<i64> = Vec::new();
        for round in 0..60_u64 {
            for _append in 0..1 + draw(12) {
                let records: Vec<(u64, Option<String>)> = (0..1 + draw(30))
                    .map(|_| {
                        let size = if draw(10) == 0 { 9_000 } else { 20 };
                        let value = (draw(4) != 0).then(|| format!("{round:0>size$}"));
                        (draw(40), value)
                    })
                    .collect();
                bus.append(vec![keyed("t", Timestamp(1_000), &records)]).await.unwrap();
                log.extend(records);
            }
            // Tombstones are young in one pass and old in the next.
            let drops = draw(2) == 0;
            let now = Timestamp(if drops { 10_000_000 } else { 2_000 });
            bus.apply_retention(now).await.unwrap();
            if draw(5) == 0 {
                bus.close().await;
                bus = Embedded::open(config.clone(), None).unwrap();
            }
            let newest: HashMap<u64, usize> = log.iter().map(|it| it.0).zip(0..).collect();
            let mut expected: Vec<_> = newest.iter().map(|(key, at)| (*at as i64, *key)).collect();
            if drops {
                let tombstones = expected.iter().filter(|(at, _)| log[*at as usize].1.is_none());
                gone.extend(tombstones.map(|(at, _)| *at));
            }
            expected.retain(|(at, _)| !gone.contains(at));
            expected.sort_unstable();
            let end = log.len() as i64;
            let place = TopicPartition::new("t", 0);
            let marks = bus.watermarks(&place).await.unwrap();
            assert_eq!(marks.end, Offset(end), "round {round}: the end stays");
            // From the start, and from the middle of a hole. What is in memory may say more.
            for from in
                [marks.start.0, marks.start.0 + draw((end - marks.start.0 + 1) as u64) as i64]
            {
                let found = read_keyed(&bus, "t", from, end).await;
                let mut last: HashMap<u64, (i64, Option<String>)> = HashMap::new();
                for (offset, key, value) in found {
                    assert!(from <= offset, "round {round}");
                    assert_eq!((key, &value), (log[offset as usize].0, &log[offset as usize].1));
                    last.insert(key, (offset, value));
                }
                for (at, key) in expected.iter().filter(|(at, _)| from <= *at) {
                    assert_eq!(last[key].0, *at, "round {round}: the newest of {key}");
                }
            }
            if draw(6) == 0 {
                // With nothing in memory it is exactly what is kept.
                bus.close().await;
                bus = Embedded::open(config.clone(), None).unwrap();
                let found = read_keyed(&bus, "t", marks.start.0, end).await;
                let found: Vec<_> =
                    found.into_iter().map(|(offset, key, _)| (offset, key)).collect();
                let kept: Vec<_> = found.iter().filter(|it| expected.contains(it)).collect();
                assert_eq!(kept.len(), expected.len(), "round {round}: all that is kept");
                assert_eq!(found.len(), expected.len(), "round {round}: and no more");
            }
        }
    }
}
