//! A pure core: the memory of one shard's window, records and the batches they lie in.
//!
//! Records live in a slab and are queued by links inside their entries, batches stay as they were
//! fetched until the last of their records is released: no allocation per record.

use std::collections::BTreeSet;
use std::time::Instant;

use bus::{BatchBuilder, Offset, RecordBatch, RecordView};

use crate::token::UNORDERED;

const NONE: u32 = u32::MAX;
/// The sequence of a record that its position has settled: it is parked.
const PARKED: u64 = u64::MAX;

/// A record that a shard holds. Valid until the commit that settles it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordId(pub(crate) u32);

/// A record, as it is handed to the function.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Index of its partition in the shard.
    pub partition: u32,
    /// The number of the attempt that runs or ran last, from 1.
    pub attempt: u32,
    /// The record.
    pub view: RecordView<'a>,
}

/// What the core knows of a record. 48 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// In the tracker of its partition, unless it is parked.
    pub(crate) sequence: u64,
    pub(crate) token: u64,
    /// In which order records came to the shard.
    pub(crate) arrival: u64,
    /// Where its bytes are.
    chunk: u32,
    index: u32,
    /// The next in its queue.
    link: u32,
    /// Key, value and headers.
    pub(crate) bytes: u32,
    /// Attempts that failed.
    pub(crate) attempts: u32,
    pub(crate) partition: u16,
    pub(crate) strand: u16,
}

impl Entry {
    /// Whether it must keep its place among the records of its token.
    #[inline]
    pub(crate) const fn is_ordered(&self) -> bool {
        self.strand != UNORDERED
    }

    /// Whether its position has settled it, and the park topic holds it.
    #[inline]
    pub(crate) const fn is_parked(&self) -> bool {
        self.sequence == PARKED
    }
}

/// A batch that has records in the window.
#[derive(Debug)]
struct Chunk {
    batch: RecordBatch,
    /// Records of it that are held or not admitted yet.
    open: u32,
    fetched_at: Instant,
}

/// Everything the shard holds.
#[derive(Debug, Default)]
pub(crate) struct Records {
    entries: Vec<Entry>,
    free: Vec<u32>,
    chunks: Vec<Option<Chunk>>,
    free_chunks: Vec<u32>,
    bytes: usize,
    arrivals: u64,
}

impl Records {
    /// Takes a batch, none of whose records is admitted yet.
    pub(crate) fn add_chunk(&mut self, now: Instant, batch: RecordBatch) -> u32 {
        let open = u32::try_from(batch.len()).expect("a batch counts its records in 32 bits");
        self.bytes += batch.as_bytes().len();
        let chunk = Some(Chunk { batch, open, fetched_at: now });
        match self.free_chunks.pop() {
            Some(at) => {
                self.chunks[at as usize] = chunk;
                at
            }
            None => {
                self.chunks.push(chunk);
                u32::try_from(self.chunks.len() - 1).expect("the window bounds the batches")
            }
        }
    }

    pub(crate) fn batch(&self, chunk: u32) -> &RecordBatch {
        &self.chunk(chunk).batch
    }

    fn chunk(&self, chunk: u32) -> &Chunk {
        self.chunks[chunk as usize].as_ref().expect("a chunk lives while it has open records")
    }

    /// Admits the record at `index` of `chunk`.
    #[inline]
    pub(crate) fn admit(
        &mut self,
        (chunk, index): (u32, u32),
        (partition, sequence): (u16, u64),
        (strand, token): (u16, u64),
        bytes: u32,
    ) -> RecordId {
        let arrival = self.arrivals;
        self.arrivals += 1;
        let entry = Entry {
            sequence,
            token,
            arrival,
            chunk,
            index,
            link: NONE,
            bytes,
            attempts: 0,
            partition,
            strand,
        };
        match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                RecordId(at)
            }
            None => {
                self.entries.push(entry);
                RecordId(u32::try_from(self.entries.len() - 1).expect("the window bounds records"))
            }
        }
    }

    #[inline]
    pub(crate) fn entry(&self, record: RecordId) -> &Entry {
        &self.entries[record.0 as usize]
    }

    #[inline]
    pub(crate) fn entry_mut(&mut self, record: RecordId) -> &mut Entry {
        &mut self.entries[record.0 as usize]
    }

    /// Takes in a parked record that was read back, as a batch of its own.
    pub(crate) fn admit_back(
        &mut self,
        now: Instant,
        batch: RecordBatch,
        partition: u16,
        order: (u16, u64),
        (bytes, attempts): (u32, u32),
    ) -> RecordId {
        let chunk = self.add_chunk(now, batch);
        let record = self.admit((chunk, 0), (partition, PARKED), order, bytes);
        self.entry_mut(record).attempts = attempts;
        record
    }

    /// The park topic takes a record over; the sequence it had.
    pub(crate) fn park(&mut self, record: RecordId) -> u64 {
        std::mem::replace(&mut self.entry_mut(record).sequence, PARKED)
    }

    /// The record as the function sees it.
    #[inline]
    pub(crate) fn get(&self, record: RecordId) -> RecordRef<'_> {
        let entry = self.entry(record);
        RecordRef {
            partition: u32::from(entry.partition),
            attempt: entry.attempts + 1,
            view: self.chunk(entry.chunk).batch.get(entry.index as usize),
        }
    }

    /// The record at this offset, if it is held. Looks at all of them.
    pub(crate) fn find(&self, partition: u16, offset: Offset) -> Option<RecordId> {
        let free: BTreeSet<u32> = self.free.iter().copied().collect();
        let mut held = (0..).zip(&self.entries).filter(|(at, _)| !free.contains(at));
        let found = held.find(|(at, entry)| {
            entry.partition == partition && self.get(RecordId(*at)).view.offset == offset
        });
        found.map(|(at, _)| RecordId(at))
    }

    pub(crate) fn fetched_at(&self, record: RecordId) -> Instant {
        self.chunk(self.entry(record).chunk).fetched_at
    }

    /// Lets go of a record.
    #[inline]
    pub(crate) fn release(&mut self, record: RecordId) {
        let chunk = self.entry(record).chunk;
        self.close_one(chunk);
        self.free.push(record.0);
    }

    /// One record less of `chunk` is open: settled, or skipped and never admitted.
    #[inline]
    pub(crate) fn close_one(&mut self, chunk: u32) {
        let slot = &mut self.chunks[chunk as usize];
        let it = slot.as_mut().expect("a chunk lives while it has open records");
        it.open -= 1;
        if it.open == 0 {
            self.bytes -= it.batch.as_bytes().len();
            *slot = None;
            self.free_chunks.push(chunk);
        }
    }

    /// Copies a record that will stay for a while out of its batch, so that the batch can go.
    pub(crate) fn detach(&mut self, record: RecordId) {
        let &Entry { chunk, index, bytes, .. } = self.entry(record);
        let Chunk { batch, fetched_at, .. } = self.chunk(chunk);
        if batch.as_bytes().len() / 4 < bytes as usize + 1024 {
            return;
        }
        let view = batch.get(index as usize);
        let mut builder = BatchBuilder::default();
        builder.push_view(view);
        let (base, fetched_at) = (view.offset, *fetched_at);
        let own = builder.finish().expect("a record was pushed").with_base(base);
        let own = self.add_chunk(fetched_at, own);
        self.close_one(chunk);
        let entry = self.entry_mut(record);
        (entry.chunk, entry.index) = (own, 0);
    }

    /// How many records are held.
    pub(crate) const fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Bytes of the batches in memory.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A queue of records, linked through their entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    head: u32,
    tail: u32,
    pub(crate) count: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, count: 0 }
    }
}

impl Queue {
    #[inline]
    pub(crate) fn front(&self) -> Option<RecordId> {
        (self.head != NONE).then_some(RecordId(self.head))
    }

    #[inline]
    pub(crate) fn back(&self) -> Option<RecordId> {
        (self.tail != NONE).then_some(RecordId(self.tail))
    }

    #[inline]
    pub(crate) fn push_back(&mut self, records: &mut Records, record: RecordId) {
        records.entry_mut(record).link = NONE;
        if self.head == NONE {
            self.head = record.0;
        } else {
            records.entry_mut(RecordId(self.tail)).link = record.0;
        }
        self.tail = record.0;
        self.count += 1;
    }

    #[inline]
    pub(crate) fn pop_front(&mut self, records: &Records) -> Option<RecordId> {
        let front = self.front()?;
        self.head = records.entry(front).link;
        if self.head == NONE {
            self.tail = NONE;
        }
        self.count -= 1;
        Some(front)
    }

    /// Puts all of `first` before what is here.
    pub(crate) fn prepend(&mut self, records: &mut Records, first: Self) {
        if first.head == NONE {
            return;
        }
        records.entry_mut(RecordId(first.tail)).link = self.head;
        if self.head == NONE {
            self.tail = first.tail;
        }
        self.head = first.head;
        self.count += first.count;
    }
}

#[cfg(test)]
mod tests {
    use bus::{Headers, Offset, Timestamp};

    use super::*;

    fn records(values: &[&[u8]]) -> (Records, Vec<RecordId>) {
        let mut builder = BatchBuilder::default();
        for value in values {
            builder.push(Timestamp(1), None, Some(value), Headers::default());
        }
        let mut records = Records::default();
        let batch = builder.finish().unwrap().with_base(Offset(40));
        let chunk = records.add_chunk(Instant::now(), batch);
        let ids = (0..values.len() as u32)
            .map(|index| records.admit((chunk, index), (0, u64::from(index)), (0, 0), 9))
            .collect();
        (records, ids)
    }

    #[test]
    fn a_batch_goes_with_its_last_record() {
        let (mut records, ids) = records(&[b"a", b"b"]);
        assert!(0 < records.bytes());
        records.release(ids[0]);
        assert_eq!((records.len(), records.get(ids[1]).view.value), (1, Some(&b"b"[..])));
        records.release(ids[1]);
        assert_eq!((records.len(), records.bytes()), (0, 0));
    }

    #[test]
    fn a_detached_record_frees_its_batch_and_keeps_its_place() {
        let large = [7_u8; 100_000];
        let (mut records, ids) = records(&[b"small", &large]);
        records.detach(ids[0]);
        records.release(ids[1]);
        assert!(records.bytes() < 200);
        let view = records.get(ids[0]).view;
        assert_eq!((view.offset, view.value), (Offset(40), Some(&b"small"[..])));
    }

    #[test]
    fn queues_keep_their_order() {
        let (mut records, ids) = records(&[b"a", b"b", b"c", b"d"]);
        let (mut one, mut two) = (Queue::default(), Queue::default());
        one.push_back(&mut records, ids[2]);
        one.push_back(&mut records, ids[3]);
        two.push_back(&mut records, ids[0]);
        two.push_back(&mut records, ids[1]);
        one.prepend(&mut records, two);
        one.prepend(&mut records, Queue::default());
        assert_eq!(one.count, 4);
        let order: Vec<_> = std::iter::from_fn(|| one.pop_front(&records)).collect();
        assert_eq!(order, ids);
        assert_eq!((one.front(), one.count), (None, 0));
    }
}
