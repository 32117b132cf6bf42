//! A pure core: what a shard puts into its park topic, reads back and settles of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bus::{Offset, Timestamp};

use super::{Mode, ShardDispatch};
use crate::command::{Command, Loaded, Park, Resumed};
use crate::parking::{Lot, Read, Slip};
use crate::records::RecordId;
use crate::token::UNORDERED;

impl ShardDispatch {
    /// Takes what lay in the park topic when the shard started: what is parked, and the records (index
    /// of the partition, offset) whose envelopes do not count because the position does not say
    /// that they are settled. To be called before any other input, at the moment of
    /// [`new`](Self::new).
    pub fn resume_parked(&mut self, parked: Vec<Resumed>, untold: Vec<(u32, Offset)>) {
        let now = self.clock.0;
        let mut lots = BTreeSet::new();
        self.counters.resumed += parked.len() as u64;
        self.out += parked.len().cast_signed();
        for it in parked {
            let partition = u16::try_from(it.at.partition).expect("a partition of the shard");
            let offset = it.at.offset;
            let (strand, token) = self.tokens.of(partition, it.key.as_deref());
            let lot = lot(strand, token, partition, offset);
            let due = self.due_at(it.due);
            let (place, attempts, bytes) = (Some(it.at.place), it.attempts, it.bytes);
            let ended = Some(it.ended);
            let slip = Slip { partition, offset, place, attempts, due, bytes, ended };
            self.take_in(lot, strand, slip);
            lots.insert(lot);
        }
        self.untold.extend(untold);
        lots.into_iter().for_each(|lot| self.reconsider(lot));
        self.proceed(now);
    }

    /// When a record is due by the shard's clock; `None` when it is.
    pub(super) fn due_at(&self, due: Timestamp) -> Option<Instant> {
        let wait = u64::try_from(due.0.saturating_sub(self.clock.1.0)).unwrap_or(0);
        (0 < wait).then(|| self.clock.0 + Duration::from_millis(wait))
    }

    /// A record was parked before the shard started.
    pub(super) fn take_in(&mut self, lot: Lot, strand: u16, slip: Slip) {
        let (partition, offset) = (slip.partition, slip.offset);
        self.holds.parking.park(lot, strand, slip);
        if strand != UNORDERED && self.trackers[usize::from(partition)].next() <= offset {
            self.holds.parking.wait_for(lot, partition, offset);
        }
    }

    /// Takes what was read back of the records of the last [`Command::Load`]; what is missing is
    /// asked for again.
    pub fn on_loaded(&mut self, now: Instant, loaded: Vec<Loaded>) {
        if self.is_stopped() {
            return;
        }
        let mut found: BTreeMap<(u32, Offset), Loaded> =
            loaded.into_iter().map(|it| ((it.partition, it.batch.base()), it)).collect();
        let at = |slip: &Slip| (u32::from(slip.partition), slip.offset);
        let (read, again) = self.holds.parking.loaded(|slip| found.contains_key(&at(slip)));
        let (mut records, mut is_named) = (Vec::with_capacity(read.len()), false);
        for it in read {
            let Read { lot, slip, strand } = it;
            let Loaded { batch, failure, .. } =
                found.remove(&at(&slip)).expect("it was looked for");
            let token = if let Lot::Token(token) = lot { token } else { 0 };
            let (order, past) = ((strand, token), (slip.bytes, slip.attempts));
            let record = self.records.admit_back(now, batch, slip.partition, order, past);
            self.out -= 1;
            if let Some(ended) = slip.ended {
                if !self.doubt(record, &it, ended, failure) {
                    continue;
                }
                is_named = true;
            }
            records.push(record);
        }
        again.into_iter().for_each(|lot| self.reconsider(lot));
        self.run_back(records, is_named);
        self.proceed(now);
    }

    /// Records in the park topic.
    #[must_use]
    pub const fn parked_records(&self) -> usize {
        self.holds.parking.len()
    }

    /// Records let in, now or before, and not durably settled: in memory or only in the park topic.
    #[must_use]
    pub fn owed_records(&self) -> usize {
        self.records.len().saturating_add_signed(self.out)
    }

    /// Parks what waits in memory and is too much.
    pub(super) fn park_crowded(&mut self) {
        while let Some(token) = self.holds.pop_crowded() {
            let Some(hold) = self.holds.get(token).cloned() else { continue };
            let is_parked = self.records.entry(hold.front).is_parked();
            if !is_parked && !self.holds.may_park(1 + hold.followers.count as usize) {
                continue;
            }
            let mut followers = self.holds.take_followers(token);
            let leaves = hold.is_waiting && (hold.is_late || self.holds.is_crowded());
            if leaves {
                drop(self.holds.end(&self.records, token));
            }
            self.park(hold.front, Some(hold.due_at), hold.failure, leaves);
            while let Some(record) = followers.pop_front(&self.records) {
                self.park(record, None, Default::default(), true);
            }
        }
        for record in self.holds.take_to_park() {
            self.park(record, None, Default::default(), true);
        }
    }

    /// Parks a record, or says anew how often and when it is tried. Its position settles it by the
    /// commit that carries the envelope (PK-1).
    pub(super) fn park(
        &mut self,
        record: RecordId,
        due_at: Option<Instant>,
        failure: (String, String),
        leaves: bool,
    ) {
        let entry = *self.records.entry(record);
        let (lot, offset) = self.lot_of(record);
        if !self.suspicions.is_over() {
            self.suspicions.clear(&[record]);
        }
        let (partition, attempts, bytes) = (entry.partition, entry.attempts, entry.bytes);
        let (place, due, ended) = (None, due_at, None);
        let slip = Slip { partition, offset, place, attempts, due, bytes, ended };
        if self.holds.parking.park(lot, entry.strand, slip) {
            self.counters.parked += 1;
        }
        if !entry.is_parked() {
            let sequence = self.records.park(record);
            let settled = self.trackers[usize::from(partition)].settle(sequence);
            assert!(settled, "SD-1: a record is in one commit");
            self.untold.remove(&(partition.into(), offset));
            self.commits.add_newly_parked();
        }
        self.commits.park((record, lot), offset, leaves);
        self.commits.touch(partition);
        let due = self.wall(due_at.unwrap_or(self.clock.0));
        let park = Park { record, attempts, due, failure, ended: 0 };
        self.commands.push_back(Command::Park(park));
    }

    pub(super) fn wall(&self, at: Instant) -> Timestamp {
        let passed = at.saturating_duration_since(self.clock.0).as_millis();
        Timestamp(self.clock.1.0.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX)))
    }

    /// What became of the envelopes of a durable commit, the first of which lies at `base`.
    pub(super) fn are_parked(&mut self, parked: &[crate::commits::Parked], base: Option<Offset>) {
        // Without a place the search starts where the topic does.
        let base = base.unwrap_or_default();
        for it in parked {
            let place = Offset(base.0 + i64::from(it.index));
            self.holds.parking.placed(it.lot, it.offset, place);
            if it.leaves {
                self.records.release(it.record);
                self.out += 1;
            }
            self.reconsider(it.lot);
        }
        if parked.iter().any(|it| it.is_named) {
            self.are_named();
        }
    }

    /// A record is settled: if it has an envelope, its tombstone goes into the same commit.
    pub(super) fn unpark(&mut self, record: RecordId) {
        let entry = *self.records.entry(record);
        if !entry.is_parked() && self.untold.is_empty() {
            return;
        }
        let (lot, offset) = self.lot_of(record);
        if !entry.is_parked() {
            if self.untold.remove(&(entry.partition.into(), offset)) {
                self.commands.push_back(Command::Unpark(record));
            }
            return;
        }
        self.commands.push_back(Command::Unpark(record));
        self.holds.parking.settled(lot, offset, self.config.batch.records.get());
        if !(entry.is_ordered() && self.holds.is_front(entry.token, record)) {
            self.holds.parking.idle(lot);
            self.reconsider(lot);
        }
    }

    /// Lets go of a record that was read back and cannot run now.
    pub(super) fn unload(&mut self, record: RecordId) {
        let (lot, _) = self.lot_of(record);
        self.records.release(record);
        self.out += 1;
        self.holds.parking.idle(lot);
        self.reconsider(lot);
    }

    /// Looks what the line waits for.
    pub(super) fn reconsider(&mut self, lot: Lot) {
        let is_held = matches!(lot, Lot::Token(token) if self.holds.is_held(token));
        if let Some(it) = self.holds.parking.reconsider(lot, is_held) {
            self.strands.prepend(&mut self.records, it.strand, it.followers, it.bytes);
        }
    }

    /// Asks for parked records that can run.
    pub(super) fn load_next(&mut self) {
        if self.holds.parking.has_unread() {
            for partition in 0..self.trackers.len() {
                let newest = self.trackers[partition].newest();
                let lots = self.holds.parking.have_read(partition as u16, newest);
                lots.into_iter().for_each(|lot| self.reconsider(lot));
            }
        }
        let Some(limits) = self.config.park else { return };
        let may_run = self.mode == Mode::Running
            && !self.paused
            && self.wait.is_none()
            && 0 < self.circuit.admits(1);
        // What was read back and has ended is in memory until its commit is durable (SD-6).
        let most = self.config.window.records.get() + limits.records.get();
        let is_full = most <= self.records.len();
        if !may_run || is_full || limits.records.get() <= self.holds.parking.busy() {
            return;
        }
        if !self.may_load() {
            return;
        }
        let batch = self.config.batch;
        let wanted = self.holds.load(batch.records.get(), batch.bytes);
        if !wanted.is_empty() {
            self.commands.push_back(Command::Load(wanted));
        }
    }

    pub(super) fn lot_of(&self, record: RecordId) -> (Lot, Offset) {
        let entry = self.records.entry(record);
        let offset = self.records.get(record).view.offset;
        (lot(entry.strand, entry.token, entry.partition, offset), offset)
    }
}

const fn lot(strand: u16, token: u64, partition: u16, offset: Offset) -> Lot {
    if strand == UNORDERED { Lot::Single(partition, offset) } else { Lot::Token(token) }
}
