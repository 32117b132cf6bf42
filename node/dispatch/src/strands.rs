//! A pure core: the queues of records that wait for their first run, and how a batch is gathered
//! from them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::hold::Holds;
use crate::records::{Queue, RecordId, Records};
use crate::token::UNORDERED;

/// One queue of records that run in order, or the one of those without an order.
#[derive(Clone, Copy, Debug, Default)]
struct Strand {
    queue: Queue,
    bytes: u64,
    /// Batches, running or waiting to, that have records of the strand.
    busy: u32,
    /// The arrival of the oldest record, when the strand is among the ready ones.
    listed: Option<u64>,
}

/// How much a batch may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    /// Ordered strands that one batch may make busy.
    pub(crate) strands: usize,
}

/// A batch in the making.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) records: Vec<RecordId>,
    pub(crate) strands: Vec<u16>,
    pub(crate) bytes: usize,
}

impl Gathered {
    /// Takes the record if there is room.
    pub(crate) fn take(&mut self, room: Room, record: RecordId, bytes: u32) -> bool {
        let full = room.records <= self.records.len()
            || (!self.records.is_empty() && room.bytes < self.bytes + bytes as usize);
        if full {
            return false;
        }
        self.records.push(record);
        self.bytes += bytes as usize;
        true
    }
}

/// The strands of a shard.
#[derive(Debug)]
pub(crate) struct Strands {
    strands: Vec<Strand>,
    /// Idle strands that have records, oldest record first. An entry that does not say what the
    /// strand says is stale.
    ready: BinaryHeap<Reverse<(u64, u16)>>,
    ready_records: usize,
    ready_bytes: u64,
}

impl Strands {
    pub(crate) fn new(count: usize) -> Self {
        let strands = vec![Strand::default(); count];
        Self { strands, ready: BinaryHeap::new(), ready_records: 0, ready_bytes: 0 }
    }

    fn at(&mut self, strand: u16) -> &mut Strand {
        &mut self.strands[usize::from(strand)]
    }

    /// Records in idle strands.
    pub(crate) const fn ready_records(&self) -> usize {
        self.ready_records
    }

    /// Their bytes.
    pub(crate) const fn ready_bytes(&self) -> u64 {
        self.ready_bytes
    }

    /// Queues a record that just came.
    #[inline]
    pub(crate) fn push_back(&mut self, records: &mut Records, record: RecordId) {
        let entry = records.entry(record);
        let (strand, bytes) = (entry.strand, u64::from(entry.bytes));
        let it = &mut self.strands[usize::from(strand)];
        it.queue.push_back(records, record);
        it.bytes += bytes;
        if it.listed.is_some() {
            self.ready_records += 1;
            self.ready_bytes += bytes;
        } else if it.busy == 0 {
            self.list(records, strand);
        }
    }

    /// Puts records back before all others, the first of `returned` first.
    pub(crate) fn push_front(&mut self, records: &mut Records, returned: &[RecordId]) {
        for &record in returned.iter().rev() {
            let entry = records.entry(record);
            let (strand, bytes) = (entry.strand, u64::from(entry.bytes));
            let mut queue = Queue::default();
            queue.push_back(records, record);
            self.prepend(records, strand, queue, bytes);
        }
    }

    /// Puts a queue of the strand's records before all others.
    pub(crate) fn prepend(&mut self, records: &mut Records, strand: u16, queue: Queue, bytes: u64) {
        self.unlist(strand);
        let it = self.at(strand);
        it.queue.prepend(records, queue);
        it.bytes += bytes;
        self.list(records, strand);
    }

    /// A batch that [`gather`](Self::gather) filled from the strand is over.
    pub(crate) fn release(&mut self, records: &Records, strand: u16) {
        self.at(strand).busy -= 1;
        self.list(records, strand);
    }

    /// Lists the strand as ready, if it is.
    fn list(&mut self, records: &Records, strand: u16) {
        let it = &mut self.strands[usize::from(strand)];
        let Some(front) = it.queue.front() else { return };
        if it.busy != 0 || it.listed.is_some() {
            return;
        }
        let arrival = records.entry(front).arrival;
        it.listed = Some(arrival);
        self.ready_records += it.queue.count as usize;
        self.ready_bytes += it.bytes;
        self.ready.push(Reverse((arrival, strand)));
    }

    fn unlist(&mut self, strand: u16) {
        let it = &mut self.strands[usize::from(strand)];
        if it.listed.take().is_some() {
            self.ready_records -= it.queue.count as usize;
            self.ready_bytes -= it.bytes;
        }
    }

    /// The ready strand with the oldest record.
    fn peek(&mut self) -> Option<u16> {
        while let Some(&Reverse((arrival, strand))) = self.ready.peek() {
            if self.at(strand).listed == Some(arrival) {
                return Some(strand);
            }
            self.ready.pop();
        }
        None
    }

    /// The oldest record that could run now.
    pub(crate) fn oldest(&mut self) -> Option<RecordId> {
        let strand = self.peek()?;
        self.at(strand).queue.front()
    }

    /// Adds records to a batch: of idle strands, those with the oldest records first, and of
    /// those the older records before the newer. Records of held tokens are put behind them.
    pub(crate) fn gather(
        &mut self,
        records: &mut Records,
        holds: &mut Holds,
        room: Room,
        batch: &mut Gathered,
    ) {
        let mut set = self.choose(room.strands);
        let Some(&(oldest, _)) = set.first() else { return };
        let oldest = self.at(oldest).queue.front().map_or(0, |it| records.entry(it).arrival);
        let (mut count, mut newest) = (0, oldest);
        for &(strand, _) in &set {
            let queue = self.at(strand).queue;
            count += queue.count as usize;
            for end in [queue.front(), queue.back()].into_iter().flatten() {
                newest = newest.max(records.entry(end).arrival);
            }
        }
        // Where there is more than fits, strands give in turn, each up to a common age.
        let left = room.records.saturating_sub(batch.records.len()).max(1) as u64;
        let step = if count as u64 <= left {
            u64::MAX
        } else {
            ((newest - oldest) * left / count as u64).max(16)
        };
        let mut until = oldest;
        loop {
            until = until.saturating_add(step);
            let full = set.iter_mut().any(|(strand, used)| {
                let before = batch.records.len();
                let full = !self.take_older(records, holds, (*strand, until), room, batch);
                *used |= before < batch.records.len();
                full
            });
            if full || newest < until {
                break;
            }
        }
        for (strand, used) in set {
            if used && strand != UNORDERED {
                self.at(strand).busy += 1;
                batch.strands.push(strand);
            } else {
                self.list(records, strand);
            }
        }
    }

    /// Takes up to `strands` ordered strands, and the unordered one, off the ready ones.
    fn choose(&mut self, strands: usize) -> Vec<(u16, bool)> {
        let mut set = Vec::with_capacity(strands.min(32) + 1);
        let mut ordered = 0;
        while let Some(strand) = self.peek() {
            if strand != UNORDERED {
                if ordered == strands {
                    break;
                }
                ordered += 1;
            }
            self.ready.pop();
            self.unlist(strand);
            set.push((strand, false));
        }
        set
    }

    /// Moves the strand's records that came before `until` to the batch; `false` when it is full.
    fn take_older(
        &mut self,
        records: &mut Records,
        holds: &mut Holds,
        (strand, until): (u16, u64),
        room: Room,
        batch: &mut Gathered,
    ) -> bool {
        let it = &mut self.strands[usize::from(strand)];
        while let Some(front) = it.queue.front() {
            let entry = records.entry(front);
            let (arrival, bytes, token) = (entry.arrival, entry.bytes, entry.token);
            if until <= arrival {
                break;
            }
            if strand != UNORDERED && holds.keeps_back(entry) {
                it.queue.pop_front(records);
                it.bytes -= u64::from(bytes);
                holds.follow(records, token, front);
                continue;
            }
            if !batch.take(room, front, bytes) {
                return false;
            }
            it.queue.pop_front(records);
            it.bytes -= u64::from(bytes);
        }
        true
    }
}
