//! A pure core: finds the parked record that ends the node which runs it.
//!
//! What a shard finds in its park topic may have been running when a node ended. So its first run
//! after such a start is named: its envelope says, durably and before it runs, how many nodes have
//! ended since it was named first. Whatever ends its invocation, or ten seconds of it, clears it.
//!
//! ```text
//! 0, 1      it runs as parked records do
//! 2, ...    alone on the node, of those that may have ended one
//! 7, ...    it is a dead letter, and is not run (as in suspects.rs, attempts if they are more)
//! ```
//!
//! - **NK-6** A parked record that was there when its shard started is in no invocation before an
//!   envelope that counts this run is durable, unless this shard has outlived a run of it.
//! - **NK-7** A parked record is given up as one that ends its node only after that many starts have
//!   named it and none has outlived it; one that always does is given up after no more than two ends
//!   above them.

use std::time::Instant;

use super::{Lineage, Mode, NODE_ENDED, ShardDispatch};
use crate::command::{Command, Park};
use crate::parking::Read;
use crate::records::RecordId;
use crate::suspects::{ATTEMPTS_MIN, TURN};

/// What parked records that may have ended a node wait for.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// Read back, and run once the commit that names them is durable.
    naming: Option<Vec<RecordId>>,
    alone: Alone,
    /// The last failure of the record that runs alone.
    failure: (String, String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Alone {
    #[default]
    No,
    Wanted,
    /// It has its turn, until then at the latest; the record, once it was read back.
    Has(Option<RecordId>, Instant),
}

impl Doubts {
    /// Whether a parked record waits for its turn.
    pub(super) const fn wants_turn(&self) -> bool {
        matches!(self.alone, Alone::Wanted)
    }

    /// Whether a parked record has its turn.
    pub(super) const fn has_turn(&self) -> bool {
        matches!(self.alone, Alone::Has(..))
    }

    pub(super) fn on_turn(&mut self, now: Instant) {
        if self.wants_turn() {
            // From the grant on: what cannot run for another reason keeps nobody waiting.
            self.alone = Alone::Has(None, now + TURN);
        }
    }

    /// When a turn is over, if it does not end before.
    pub(super) fn turn_ends_at(&self) -> Option<Instant> {
        match self.alone {
            Alone::Has(_, until) => Some(until),
            _ => None,
        }
    }
}

impl ShardDispatch {
    fn ends_max(&self) -> u32 {
        self.config.retry.attempts_max.get().max(ATTEMPTS_MIN)
    }

    /// Whether the parked record that is next may be read back now. One that is in doubt waits for a
    /// turn.
    pub(super) fn may_load(&mut self) -> bool {
        if self.doubts.naming.is_some() {
            return false;
        }
        if !self.holds.next_is_alone() {
            if self.doubts.alone != Alone::No && self.holds.parking.busy() == 0 {
                self.doubts.alone = Alone::No;
            }
            return true;
        }
        match self.doubts.alone {
            // Suspects that were let in come first, and whatever else was read back.
            Alone::No if !self.suspicions.has_open() && self.holds.parking.busy() == 0 => {
                self.doubts.alone = Alone::Wanted;
                false
            }
            Alone::Has(None, _) => self.holds.parking.busy() == 0,
            _ => false,
        }
    }

    /// A record that was read back and is in doubt: whether it runs, once it is named.
    pub(super) fn doubt(
        &mut self,
        record: RecordId,
        it: &Read,
        ended: u32,
        failure: (String, String),
    ) -> bool {
        if let Alone::Has(None, until) = self.doubts.alone {
            self.doubts.alone = Alone::Has(Some(record), until);
        }
        if self.ends_max() <= ended {
            self.doubts.alone = Alone::No;
            self.records.entry_mut(record).attempts = ended;
            let message = format!("the node ended {ended} times while it ran this record");
            self.dead_letter(record, NODE_ENDED.to_owned(), message);
            return false;
        }
        let ended = ended.saturating_add(1);
        self.holds.parking.doubt(it.lot, it.slip.offset, Some(ended));
        self.doubts.failure.clone_from(&failure);
        self.commits.name((record, it.lot), it.slip.offset);
        self.say_ended(record, ended, failure);
        true
    }

    /// Says durably how many nodes may have ended while the record ran.
    fn say_ended(&mut self, record: RecordId, ended: u32, failure: (String, String)) {
        let entry = *self.records.entry(record);
        self.commits.touch(entry.partition);
        let (attempts, due) = (entry.attempts, self.wall(self.clock.0));
        self.commands.push_back(Command::Park(Park { record, attempts, due, failure, ended }));
    }

    /// Runs records that were read back, at once or when they are named.
    pub(super) fn run_back(&mut self, records: Vec<RecordId>, is_named: bool) {
        if is_named {
            self.doubts.naming = Some(records);
        } else if !records.is_empty() {
            let part = self.piece(records, true);
            self.lineages.push_back(Lineage::from([part]));
        }
    }

    /// A commit that names records is durable.
    pub(super) fn are_named(&mut self) {
        let records = self.doubts.naming.take().unwrap_or_default();
        self.run_back(records, false);
    }

    /// These were in an invocation that ended.
    pub(super) fn have_outlived(&mut self, records: &[RecordId]) {
        if self.holds.parking.len() == 0 {
            return;
        }
        for &record in records {
            if self.records.entry(record).is_parked() {
                let (lot, offset) = self.lot_of(record);
                self.holds.parking.doubt(lot, offset, None);
            }
            if matches!(self.doubts.alone, Alone::Has(Some(it), _) if it == record) {
                self.doubts.alone = Alone::No;
            }
        }
    }

    /// Takes note of the time: a turn is over, and what has run for all of it did not end the node.
    pub(super) fn outlive_parked(&mut self, now: Instant) {
        let Alone::Has(record, until) = self.doubts.alone else { return };
        if now < until {
            return;
        }
        self.doubts.alone = Alone::No;
        let runs = |it: RecordId| self.running.values().any(|run| run.part.records.contains(&it));
        if let Some(record) = record.filter(|it| self.mode == Mode::Running && runs(*it)) {
            let (lot, offset) = self.lot_of(record);
            self.holds.parking.doubt(lot, offset, None);
            self.commits.park((record, lot), offset, false);
            let failure = std::mem::take(&mut self.doubts.failure);
            self.say_ended(record, 0, failure);
        }
    }
}
