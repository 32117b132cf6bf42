//! A pure core: what a shard gathers for its next commit, and the one in flight.

use std::collections::BTreeSet;
use std::time::Instant;

use bus::Offset;

use crate::command::{CommitId, Wait};
use crate::parking::Lot;
use crate::records::RecordId;

#[derive(Debug)]
struct InFlight {
    id: CommitId,
    records: Vec<RecordId>,
    /// Filtered records that its positions pass.
    filtered: u64,
    parked: Vec<Parked>,
    output_bytes: usize,
    /// How often it failed.
    failures: u32,
    /// Set between a failure and the next try.
    wait: Option<Wait>,
}

/// A record whose envelope a commit carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parked {
    pub(crate) record: RecordId,
    pub(crate) lot: Lot,
    pub(crate) offset: Offset,
    /// Which it is among the envelopes of the commit.
    pub(crate) index: u32,
    /// Whether it leaves the memory then.
    pub(crate) leaves: bool,
    /// Whether it is named: it may run then.
    pub(crate) is_named: bool,
}

/// What a durable commit was about.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) records: Vec<RecordId>,
    pub(crate) filtered: u64,
    pub(crate) parked: Vec<Parked>,
}

/// The commits of a shard: one in flight, one in the making.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    records: Vec<RecordId>,
    parked: Vec<Parked>,
    /// Records that leave the window for the park topic.
    newly_parked: u32,
    output_bytes: usize,
    /// Partitions whose position goes with the next commit.
    touched: BTreeSet<u16>,
    /// Filtered records since the last one, and their partitions: they need no commit of their own.
    filtered: u64,
    passed: BTreeSet<u16>,
    in_flight: Option<InFlight>,
    started: u64,
}

/// A commit that starts.
#[derive(Debug)]
pub(crate) struct Starting<'a> {
    pub(crate) id: CommitId,
    pub(crate) records: &'a [RecordId],
    /// Filtered ones beside them.
    pub(crate) filtered: u64,
    pub(crate) newly_parked: u32,
    pub(crate) partitions: Vec<u16>,
}

impl Commits {
    /// The partition's position goes with the next commit.
    pub(crate) fn touch(&mut self, partition: u16) {
        self.touched.insert(partition);
    }

    /// A filtered record was passed: its partition's position goes with the next commit there is.
    pub(crate) fn pass(&mut self, partition: u16) {
        self.filtered += 1;
        self.passed.insert(partition);
    }

    /// Filtered records wait for no other reason to commit.
    pub(crate) fn touch_passed(&mut self) {
        self.touched.append(&mut self.passed);
    }

    /// Whether filtered records wait for a commit.
    pub(crate) fn has_passed(&self) -> bool {
        !self.passed.is_empty()
    }

    /// Filtered records that no durable commit covers.
    pub(crate) fn filtered(&self) -> u64 {
        self.filtered + self.in_flight.as_ref().map_or(0, |it| it.filtered)
    }

    pub(crate) fn add(&mut self, record: RecordId) {
        self.records.push(record);
    }

    pub(crate) fn add_all(&mut self, records: &[RecordId]) {
        self.records.extend_from_slice(records);
    }

    /// Adds an envelope.
    pub(crate) fn park(&mut self, (record, lot): (RecordId, Lot), offset: Offset, leaves: bool) {
        let index = self.parked.len() as u32;
        self.parked.push(Parked { record, lot, offset, index, leaves, is_named: false });
    }

    /// Adds an envelope that names a record which was read back and is about to run.
    pub(crate) fn name(&mut self, (record, lot): (RecordId, Lot), offset: Offset) {
        let index = self.parked.len() as u32;
        self.parked.push(Parked { record, lot, offset, index, leaves: false, is_named: true });
    }

    /// Counts a record among those that the positions settle.
    pub(crate) const fn add_newly_parked(&mut self) {
        self.newly_parked += 1;
    }

    pub(crate) const fn add_output_bytes(&mut self, bytes: usize) {
        self.output_bytes += bytes;
    }

    /// Starts the next commit, if there is something to commit and none is in flight.
    pub(crate) fn start(&mut self) -> Option<Starting<'_>> {
        if self.in_flight.is_some() || self.touched.is_empty() {
            return None;
        }
        self.touch_passed();
        let id = CommitId(self.started);
        self.started += 1;
        let commit = self.in_flight.insert(InFlight {
            id,
            records: std::mem::take(&mut self.records),
            filtered: std::mem::take(&mut self.filtered),
            parked: std::mem::take(&mut self.parked),
            output_bytes: std::mem::take(&mut self.output_bytes),
            failures: 0,
            wait: None,
        });
        let newly_parked = std::mem::take(&mut self.newly_parked);
        let partitions = std::mem::take(&mut self.touched).into_iter().collect();
        Some(Starting {
            id,
            records: &commit.records,
            filtered: commit.filtered,
            newly_parked,
            partitions,
        })
    }

    pub(crate) fn is_in_flight(&self, id: CommitId) -> bool {
        self.in_flight.as_ref().is_some_and(|it| it.id == id)
    }

    /// The records of the commit in flight, if it is this one.
    pub(crate) fn records(&self, id: CommitId) -> &[RecordId] {
        self.in_flight.as_ref().filter(|it| it.id == id).map_or(&[], |it| &it.records)
    }

    /// Whether a record is in the commit in flight or in the next one, and needs nothing more.
    pub(crate) fn has(&self, record: RecordId) -> bool {
        let in_flight = self.in_flight.as_ref().map_or(&[][..], |it| &it.records);
        self.records.contains(&record) || in_flight.contains(&record)
    }

    /// Ends the commit in flight; what it was about, if it is this one (SD-2).
    pub(crate) fn committed(&mut self, id: CommitId) -> Option<Done> {
        let commit = self.in_flight.take_if(|it| it.id == id)?;
        Some(Done { records: commit.records, filtered: commit.filtered, parked: commit.parked })
    }

    /// The commit in flight waits for its next try, if it is this one and does not wait (SD-2).
    pub(crate) fn failed(&mut self, id: CommitId, wait: impl FnOnce(u32) -> Wait) {
        if let Some(it) = self.in_flight.as_mut().filter(|it| it.id == id && it.wait.is_none()) {
            it.failures = it.failures.saturating_add(1);
            it.wait = Some(wait(it.failures));
        }
    }

    /// The commit whose next try is due.
    pub(crate) fn due(&mut self, now: Instant) -> Option<CommitId> {
        let it = self.in_flight.as_mut()?;
        it.wait.take_if(|wait| wait.until <= now).map(|_| it.id)
    }

    /// Why the commit in flight waits.
    pub(crate) fn wait(&self) -> Option<&Wait> {
        self.in_flight.as_ref()?.wait.as_ref()
    }

    /// Nothing is in flight, and nothing gathers.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.touched.is_empty() && self.passed.is_empty()
    }

    /// Bytes of outputs that are not durable.
    pub(crate) fn output_bytes(&self) -> usize {
        self.output_bytes + self.in_flight.as_ref().map_or(0, |it| it.output_bytes)
    }
}
