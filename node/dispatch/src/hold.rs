//! A pure core: tokens held back because a record of theirs failed, and when they are tried again.
//!
//! A held token keeps the failed record and, behind it, every later record of the token that a
//! batch would have taken. The rest of the strand goes on. When the failed record is settled,
//! what is behind it goes back to the front of the strand.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Instant;

use crate::records::{Queue, RecordId, Records};

/// A token that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    /// The record that failed.
    front: RecordId,
    pub(crate) strand: u16,
    /// Later records of the token, in order.
    pub(crate) followers: Queue,
    pub(crate) follower_bytes: u64,
}

/// What is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Retry {
    /// The failed record of a held token.
    Token(u64),
    /// A record without an order.
    Record(RecordId),
}

/// The held tokens of a shard, and all records that wait for a retry.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    tokens: BTreeMap<u64, Hold>,
    /// Soonest first.
    due: BinaryHeap<Reverse<(Instant, u64, Retry)>>,
    /// Due already.
    ripe: VecDeque<Retry>,
    /// Whether held records are copied out of their batches.
    detach: bool,
}

impl Holds {
    /// `detach`: held records are overtaken by others, so their batches should not wait for them.
    pub(crate) fn new(detach: bool) -> Self {
        Self { detach, ..Self::default() }
    }

    #[inline]
    pub(crate) fn contains(&self, token: u64) -> bool {
        !self.tokens.is_empty() && self.tokens.contains_key(&token)
    }

    /// Whether `record` is the one its token is held for.
    pub(crate) fn is_front(&self, token: u64, record: RecordId) -> bool {
        self.tokens.get(&token).is_some_and(|hold| hold.front == record)
    }

    /// Holds the token of a record that failed until it is due, or goes on holding it.
    pub(crate) fn hold(&mut self, records: &mut Records, record: RecordId, due_at: Instant) {
        let entry = *records.entry(record);
        let hold = Hold {
            front: record,
            strand: entry.strand,
            followers: Queue::default(),
            follower_bytes: 0,
        };
        let held = self.tokens.entry(entry.token).or_insert(hold);
        assert_eq!(held.front, record, "SD-5: one record of a token runs ahead of the others");
        self.due.push(Reverse((due_at, entry.arrival, Retry::Token(entry.token))));
        self.detach(records, record);
    }

    /// Lets a record without an order wait until it is due.
    pub(crate) fn delay(&mut self, records: &mut Records, record: RecordId, due_at: Instant) {
        let arrival = records.entry(record).arrival;
        self.due.push(Reverse((due_at, arrival, Retry::Record(record))));
        self.detach(records, record);
    }

    /// Puts a record behind the held ones of its token.
    pub(crate) fn follow(&mut self, records: &mut Records, token: u64, record: RecordId) {
        let bytes = records.entry(record).bytes;
        let hold = self.tokens.get_mut(&token).expect("only a held token is followed");
        hold.followers.push_back(records, record);
        hold.follower_bytes += u64::from(bytes);
        self.detach(records, record);
    }

    fn detach(&self, records: &mut Records, record: RecordId) {
        if self.detach {
            records.detach(record);
        }
    }

    /// Ends a hold: its record is settled.
    pub(crate) fn end(&mut self, token: u64) -> Option<Hold> {
        self.tokens.remove(&token)
    }

    /// The record of a retry.
    pub(crate) fn record(&self, retry: Retry) -> RecordId {
        match retry {
            Retry::Token(token) => self.tokens.get(&token).expect("a retry has its hold").front,
            Retry::Record(record) => record,
        }
    }

    /// Takes note of the time.
    pub(crate) fn ripen(&mut self, now: Instant) {
        while let Some(&Reverse((due_at, _, retry))) = self.due.peek() {
            if now < due_at {
                return;
            }
            self.due.pop();
            self.ripe.push_back(retry);
        }
    }

    /// When the next retry is due that is not yet.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((due_at, ..))| *due_at)
    }

    pub(crate) fn first_ripe(&self) -> Option<Retry> {
        self.ripe.front().copied()
    }

    pub(crate) fn pop_ripe(&mut self) {
        self.ripe.pop_front();
    }

    /// A retry that could not run stays the next one.
    pub(crate) fn push_ripe(&mut self, retry: Retry) {
        self.ripe.push_front(retry);
    }
}
