//! A pure core: tokens held back because a record of theirs failed, and when they are tried again.
//!
//! A held token keeps the failed record and, behind it, every later record of the token that a
//! batch would have taken. The rest of the strand goes on. When the failed record is settled,
//! what is behind it goes back to the front of the strand. Where too many wait, the shard parks
//! them ([`Parking`]): what comes later of a parked token is parked, too.
//!
//! A record that failed alone and as a whole (a crash, a timeout) would take a whole batch with it
//! again: such risky records are tried among themselves, never beside records that have not failed,
//! and one by one as long as they fail like that.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Instant;

use crate::claims::Claims;
use crate::command::ParkLimits;
use crate::parking::{Lot, Parking};
use crate::records::{Entry, Queue, RecordId, Records};

/// A token that waits.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    /// The record that failed.
    pub(crate) front: RecordId,
    arrival: u64,
    /// When it is tried again.
    pub(crate) due_at: Instant,
    /// So late that it leaves the memory at once, if it can.
    pub(crate) is_late: bool,
    /// Whether that time has not come yet.
    pub(crate) is_waiting: bool,
    /// The name of its failure and its account.
    pub(crate) failure: (String, String),
    pub(crate) strand: u16,
    /// Later records of the token, in order.
    pub(crate) followers: Queue,
    pub(crate) follower_bytes: u64,
}

/// With whom a record that failed is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Company {
    /// With others that would fail their whole batch.
    Risky,
    /// With whatever there is.
    Any,
}

/// When a record is tried again, and with whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    pub(crate) at: Instant,
    pub(crate) company: Company,
    /// So late that it waits in the park topic, if there is one: in memory it would pin the position
    /// and its place in the window.
    pub(crate) is_late: bool,
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
    due: BinaryHeap<Reverse<(Instant, u64, Retry, Company)>>,
    /// Due already.
    ripe: VecDeque<Retry>,
    /// The same of risky ones.
    risky: VecDeque<Retry>,
    /// Whether held records are copied out of their batches.
    detach: bool,
    limits: Option<ParkLimits>,
    /// Records that wait for a retry, or behind one, and their bytes.
    waiting: usize,
    waiting_bytes: u64,
    pub(crate) parking: Parking,
    /// Tokens of batches that failed, while they are run in pieces.
    pub(crate) claims: Claims,
    /// Tokens that hold too much.
    crowded: BTreeSet<u64>,
    /// Records behind others of their token that are parked.
    to_park: Vec<RecordId>,
}

impl Holds {
    /// `detach`: held records are overtaken by others, so their batches should not wait for them.
    /// Without `limits` nothing is parked.
    pub(crate) fn new(detach: bool, limits: Option<ParkLimits>) -> Self {
        Self { detach, limits, ..Self::default() }
    }

    #[inline]
    pub(crate) fn is_held(&self, token: u64) -> bool {
        !self.tokens.is_empty() && self.tokens.contains_key(&token)
    }

    /// Whether the record has to wait behind others of its token. One that was read back only does
    /// behind a failed one.
    #[inline]
    pub(crate) fn blocks(&self, entry: &Entry) -> bool {
        self.is_held(entry.token) || (!entry.is_parked() && self.parking.has_token(entry.token))
    }

    /// Whether a record that has not run has to wait: behind others of its token, or for pieces of a
    /// batch that have some.
    #[inline]
    pub(crate) fn keeps_back(&self, entry: &Entry) -> bool {
        self.blocks(entry) || self.claims.has(entry.token)
    }

    /// Whether `record` is the one its token is held for.
    pub(crate) fn is_front(&self, token: u64, record: RecordId) -> bool {
        self.tokens.get(&token).is_some_and(|hold| hold.front == record)
    }

    pub(crate) fn get(&self, token: u64) -> Option<&Hold> {
        self.tokens.get(&token)
    }

    /// Holds the token of a record that failed until it is due, or goes on holding it.
    pub(crate) fn hold(
        &mut self,
        records: &mut Records,
        record: RecordId,
        Due { at: due_at, company, is_late }: Due,
        failure: (String, String),
    ) {
        let entry = *records.entry(record);
        self.due.push(Reverse((due_at, entry.arrival, Retry::Token(entry.token), company)));
        if let Some(held) = self.tokens.get_mut(&entry.token) {
            assert_eq!(held.front, record, "SD-5: one record of a token runs ahead of the others");
            (held.due_at, held.is_waiting, held.failure) = (due_at, true, failure);
            held.is_late = is_late;
        } else {
            let hold = Hold {
                front: record,
                arrival: entry.arrival,
                due_at,
                is_late,
                is_waiting: true,
                failure,
                strand: entry.strand,
                followers: Queue::default(),
                follower_bytes: 0,
            };
            self.tokens.insert(entry.token, hold);
            self.waits(&entry);
        }
        self.detach(records, record);
        self.look_at(entry.token);
        if entry.is_parked() || (is_late && self.limits.is_some() && self.detach) {
            // Its envelope says how often it was tried.
            self.crowded.insert(entry.token);
        }
    }

    /// Lets a record without an order wait until it is due.
    pub(crate) fn delay(
        &mut self,
        records: &mut Records,
        record: RecordId,
        Due { at: due_at, company, .. }: Due,
    ) {
        let entry = *records.entry(record);
        self.due.push(Reverse((due_at, entry.arrival, Retry::Record(record), company)));
        self.waits(&entry);
        self.detach(records, record);
    }

    /// Puts a record behind the held, parked or claimed ones of its token.
    pub(crate) fn follow(&mut self, records: &mut Records, token: u64, record: RecordId) {
        let entry = *records.entry(record);
        if self.parking.has_token(token) {
            let limits = self.limits.expect("parked within limits");
            let is_full = limits.parked_max <= self.parking.len() + self.to_park.len();
            let most = if is_full { usize::MAX } else { limits.token_records.get() };
            let may_follow = is_full || self.parking.may_follow(token, self.is_held(token), most);
            if may_follow {
                self.parking.follow(records, token, record);
            } else {
                let mut before = self.parking.take_followers(token);
                self.to_park.extend(std::iter::from_fn(|| before.pop_front(records)));
                self.to_park.push(record);
            }
        } else if let Some(hold) = self.tokens.get_mut(&token) {
            hold.followers.push_back(records, record);
            hold.follower_bytes += u64::from(entry.bytes);
            self.waits(&entry);
            self.look_at(token);
        } else {
            self.claims.follow(records, record);
        }
        self.detach(records, record);
    }

    fn waits(&mut self, entry: &Entry) {
        self.waiting += 1;
        self.waiting_bytes += u64::from(entry.bytes);
    }

    fn waits_no_more(&mut self, count: usize, bytes: u64) {
        self.waiting -= count;
        self.waiting_bytes -= bytes;
    }

    /// Whether more waits in memory than should.
    pub(crate) fn is_crowded(&self) -> bool {
        self.limits.is_some_and(|limits| {
            limits.records.get() < self.waiting || limits.bytes < self.waiting_bytes
        })
    }

    /// Whether there is room for so many more parked records.
    pub(crate) fn may_park(&self, count: usize) -> bool {
        let held = self.parking.len() + self.to_park.len() + count;
        self.limits.is_some_and(|limits| held <= limits.parked_max)
    }

    /// Notes a token that holds too much.
    fn look_at(&mut self, token: u64) {
        let Some(limits) = self.limits.filter(|_| self.detach) else { return };
        let held = self.tokens.get(&token).map_or(0, |hold| hold.followers.count as usize);
        if limits.token_records.get() <= held || self.is_crowded() {
            self.crowded.insert(token);
        }
    }

    /// The next token that holds too much.
    pub(crate) fn pop_crowded(&mut self) -> Option<u64> {
        self.crowded.pop_first()
    }

    /// Records to park behind others of their token.
    pub(crate) fn take_to_park(&mut self) -> Vec<RecordId> {
        std::mem::take(&mut self.to_park)
    }

    /// Takes the records behind the front of a held token.
    pub(crate) fn take_followers(&mut self, token: u64) -> Queue {
        let Some(hold) = self.tokens.get_mut(&token) else { return Queue::default() };
        let (queue, bytes) = (std::mem::take(&mut hold.followers), hold.follower_bytes);
        hold.follower_bytes = 0;
        self.waits_no_more(queue.count as usize, bytes);
        queue
    }

    fn detach(&self, records: &mut Records, record: RecordId) {
        if self.detach {
            records.detach(record);
        }
    }

    /// Ends a hold: its record is settled, or waits elsewhere.
    pub(crate) fn end(&mut self, records: &Records, token: u64) -> Option<Hold> {
        let hold = self.tokens.remove(&token)?;
        let bytes = hold.follower_bytes + u64::from(records.entry(hold.front).bytes);
        self.waits_no_more(1 + hold.followers.count as usize, bytes);
        Some(hold)
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
        let tokens = &self.tokens;
        self.parking.ripen(now, |lot| is_held(tokens, lot));
        while let Some(&Reverse((due_at, arrival, retry, company))) = self.due.peek() {
            if now < due_at {
                return;
            }
            self.due.pop();
            if let Retry::Token(token) = retry {
                // A front that was let go of, and perhaps held again since, is tried by another.
                let hold = self.tokens.get_mut(&token).filter(|it| it.arrival == arrival);
                let Some(hold) = hold else { continue };
                hold.is_waiting = false;
            }
            self.queue(company).push_back(retry);
        }
    }

    const fn queue(&mut self, company: Company) -> &mut VecDeque<Retry> {
        match company {
            Company::Risky => &mut self.risky,
            Company::Any => &mut self.ripe,
        }
    }

    /// When a record without an order is tried again, if it waits for that.
    pub(crate) fn due_of(&self, record: RecordId) -> Option<Instant> {
        let mut waiting = self.due.iter();
        waiting.find(|it| it.0.2 == Retry::Record(record)).map(|it| it.0.0)
    }

    /// When the next retry is due that is not yet.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let held = self.due.peek().map(|Reverse((due_at, ..))| *due_at);
        held.into_iter().chain(self.parking.next_due()).min()
    }

    /// With whom those are tried that are due, risky ones first if they may be; `None` when none is.
    pub(crate) fn ripe_company(&self, may_risk: bool) -> Option<Company> {
        if may_risk && !self.risky.is_empty() {
            return Some(Company::Risky);
        }
        (!self.ripe.is_empty()).then_some(Company::Any)
    }

    pub(crate) fn first_ripe(&mut self, company: Company) -> Option<Retry> {
        self.queue(company).front().copied()
    }

    pub(crate) fn pop_ripe(&mut self, records: &Records, company: Company) {
        if let Some(Retry::Record(record)) = self.queue(company).pop_front() {
            self.waits_no_more(1, u64::from(records.entry(record).bytes));
        }
    }

    /// A retry that could not run stays the next one.
    pub(crate) fn push_ripe(&mut self, retry: Retry) {
        self.ripe.push_front(retry);
    }

    /// Whether what is to be read back next is to be alone.
    pub(crate) fn next_is_alone(&mut self) -> bool {
        let tokens = &self.tokens;
        self.parking.next_is_alone(|lot| is_held(tokens, lot))
    }

    /// What is to be read back from the park topic next.
    pub(crate) fn load(&mut self, records_max: usize, bytes_max: usize) -> Vec<crate::Wanted> {
        let tokens = &self.tokens;
        self.parking.load(records_max, bytes_max, |lot| is_held(tokens, lot))
    }
}

fn is_held(tokens: &BTreeMap<u64, Hold>, lot: Lot) -> bool {
    matches!(lot, Lot::Token(token) if tokens.contains_key(&token))
}
