//! A pure core: what becomes of each record of an invocation that ended.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Invocation, Lineage, Part, Retry, ShardDispatch};
use crate::bisect::{Halves, halve};
use crate::command::{Command, DeadLetter, End, InvocationId, Kept};
use crate::hold::{Company, Due};
use crate::parking::Lot;
use crate::records::RecordId;
use crate::retry::Share;

/// A pause from which on a record waits in the park topic.
pub(super) const LATE: Duration = Duration::from_secs(10);

/// A batch whose records are looked at one by one.
#[derive(Debug)]
struct Tally {
    kept: Vec<bool>,
    /// Tokens with a record that is not settled: the later ones of the batch do not count.
    broken: BTreeSet<u64>,
    /// Records that go back to where they came from, in order.
    returned: Vec<RecordId>,
    /// The pause of all of them, where they failed as one.
    share: Option<Share>,
}

impl ShardDispatch {
    /// The function answered.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        id: InvocationId,
        invocation: Invocation,
        exceptions: Vec<(u32, End)>,
        output_bytes: usize,
    ) {
        if invocation.part.is_of_risky() {
            let most = self.config.batch.records.get();
            self.risky_records_max = (2 * self.risky_records_max).min(most);
        }
        if exceptions.is_empty() && !invocation.part.retries {
            let Invocation { part, rest, .. } = invocation;
            let claimed = self.claimed(&part);
            self.commits.add_all(&part.records);
            if !self.untold.is_empty() {
                part.records.iter().for_each(|&record| self.unpark(record));
            }
            self.touch_all(&part.records);
            self.finish(id, part.records, None, output_bytes);
            self.release(&part.strands);
            self.end_claims(claimed);
            self.push_lineage(rest);
        } else if self.made_progress(&invocation.part, &exceptions) {
            self.settle_one_by_one(now, id, invocation, (exceptions, None), output_bytes);
        } else {
            // Else the same batch would run for ever.
            let message = "the answer says of no record that it was run".to_owned();
            let cause = ("Millrace.BrokenAnswer".to_owned(), message);
            self.whole_batch_failed(now, id, invocation, cause);
        }
    }

    /// The batch as a whole had a failure that one of its records is to blame for.
    pub(super) fn whole_batch_failed(
        &mut self,
        now: Instant,
        id: InvocationId,
        invocation: Invocation,
        (code, message): (String, String),
    ) {
        let count = invocation.part.records.len();
        if invocation.part.is_of_risky() {
            self.risky_records_max = 1;
        }
        if 1 < count && self.config.retry.bisect {
            self.bisect(invocation);
            return;
        }
        let failed = End::Failed { code, message };
        let exceptions = (0..).zip(std::iter::repeat_n(failed, count)).collect();
        // What failed as a batch is tried as one.
        let share = Some(self.jitter.draw());
        self.settle_one_by_one(now, id, invocation, (exceptions, share), 0);
    }

    /// Whether a record was settled or charged: what comes first of its token and was run.
    fn made_progress(&self, part: &Part, exceptions: &[(u32, End)]) -> bool {
        let mut not_run = BTreeSet::new();
        let mut exceptions = exceptions.iter().peekable();
        part.records.iter().zip(0..).any(|(&record, index)| {
            let entry = self.records.entry(record);
            let end = exceptions.next_if(|it| it.0 == index).map(|it| &it.1);
            match end {
                Some(End::NotRun) => {
                    if entry.is_ordered() {
                        not_run.insert(entry.token);
                    }
                    false
                }
                Some(_) => true,
                None => !entry.is_ordered() || !not_run.contains(&entry.token),
            }
        })
    }

    fn settle_one_by_one(
        &mut self,
        now: Instant,
        id: InvocationId,
        invocation: Invocation,
        (exceptions, share): (Vec<(u32, End)>, Option<Share>),
        output_bytes: usize,
    ) {
        let Invocation { part, mut rest, .. } = invocation;
        let claimed = self.claimed(&part);
        let count = part.records.len();
        let mut tally = Tally {
            kept: vec![false; count],
            broken: BTreeSet::new(),
            returned: Vec::new(),
            share,
        };
        let mut exceptions = exceptions.into_iter().peekable();
        for (index, &record) in part.records.iter().enumerate() {
            let end = exceptions.next_if(|it| it.0 as usize == index).map(|it| it.1);
            tally.kept[index] = self.settle_one(now, record, end, &mut tally);
        }
        let Tally { kept, returned, .. } = tally;
        if kept.contains(&true) {
            let only = kept.contains(&false).then_some(kept);
            self.finish(id, part.records, only, output_bytes);
        }
        // A hold may end before the rest runs: what it has of the token must wait behind the hold,
        // or it would run ahead of what waits there already (SD-5).
        rest.iter_mut().for_each(|part| self.hold_back(part));
        if !rest.is_empty() && !returned.is_empty() {
            let is_risky = part.is_risky;
            rest.push_front(Part { is_risky, ..self.piece(returned, part.retries) });
            self.end_claims(claimed);
        } else {
            // What was returned comes before what waited for it.
            self.end_claims(claimed);
            let (parked, returned): (Vec<_>, Vec<_>) =
                returned.into_iter().partition(|&it| self.records.entry(it).is_parked());
            self.strands.push_front(&mut self.records, &returned);
            parked.into_iter().for_each(|record| self.unload(record));
        }
        self.release(&part.strands);
        self.push_lineage(rest);
    }

    /// Decides one record; `true` when its outputs are kept.
    fn settle_one(
        &mut self,
        now: Instant,
        record: RecordId,
        end: Option<End>,
        tally: &mut Tally,
    ) -> bool {
        let entry = *self.records.entry(record);
        let is_front = entry.is_ordered() && self.holds.is_front(entry.token, record);
        let blocked = entry.is_ordered() && tally.broken.contains(&entry.token);
        let dead = match end {
            // It ran ahead of a record of its token that must come first (SD-5).
            None | Some(End::NotRun) if blocked => false,
            None => {
                self.commits.add(record);
                self.commits.touch(entry.partition);
                self.unpark(record);
                if is_front {
                    self.end_hold(entry.token);
                }
                return true;
            }
            Some(End::NotRun) => false,
            Some(End::Undecodable { code, message }) => {
                self.dead_letter(record, code, message);
                true
            }
            Some(End::Failed { code, message }) => {
                match self.charge(now, record, &code, tally.share) {
                    None => {
                        self.dead_letter(record, code, message);
                        true
                    }
                    Some(due) if !blocked => {
                        self.counters.retried += 1;
                        self.back_off(record, due, (code, message));
                        if entry.is_ordered() {
                            tally.broken.insert(entry.token);
                        }
                        return false;
                    }
                    Some(_) => false,
                }
            }
        };
        match dead {
            true if is_front => self.end_hold(entry.token),
            true => {}
            false => self.put_back(record, is_front, tally),
        }
        false
    }

    /// A record that is as it was before the invocation, or behind one that is.
    fn put_back(&mut self, record: RecordId, is_front: bool, tally: &mut Tally) {
        let entry = *self.records.entry(record);
        if is_front {
            self.holds.push_ripe(Retry::Token(entry.token));
        } else if entry.is_ordered() && entry.is_parked() && self.holds.is_held(entry.token) {
            self.unload(record);
        } else if entry.is_ordered() && self.holds.blocks(&entry) {
            self.holds.follow(&mut self.records, entry.token, record);
        } else {
            tally.returned.push(record);
        }
        if entry.is_ordered() {
            tally.broken.insert(entry.token);
        }
    }

    /// Charges an attempt; when the record may be tried again, if it may.
    fn charge(
        &mut self,
        now: Instant,
        record: RecordId,
        code: &str,
        share: Option<Share>,
    ) -> Option<Due> {
        self.counters.failed += 1;
        let retry = &self.config.retry;
        let entry = self.records.entry_mut(record);
        entry.attempts += 1;
        let attempts = entry.attempts;
        if retry.attempts_max.get() <= attempts || retry.is_final(code) {
            return None;
        }
        let company = share.map_or(Company::Any, |_| Company::Risky);
        let share = share.unwrap_or_else(|| self.jitter.draw());
        let pause = retry.pause(attempts, share);
        let due_at = now + pause;
        let too_old = retry.age_max.is_some_and(|age_max| {
            let passed = due_at.saturating_duration_since(self.clock.0).as_millis();
            let wall = i128::from(self.clock.1.0) + passed.cast_signed();
            let age = wall - i128::from(self.records.get(record).view.timestamp.0);
            age_max.as_millis().cast_signed() < age
        });
        let is_late = LATE <= pause;
        (!too_old).then_some(Due { at: due_at, company, is_late })
    }

    fn back_off(&mut self, record: RecordId, due: Due, failure: (String, String)) {
        let entry = *self.records.entry(record);
        let (lot, _) = self.lot_of(record);
        if entry.is_parked() {
            self.holds.parking.failed(lot);
            if !(entry.is_ordered() && self.holds.is_front(entry.token, record)) {
                self.holds.parking.idle(lot);
            }
        }
        if entry.is_ordered() {
            self.holds.hold(&mut self.records, record, due, failure);
        } else if entry.is_parked()
            || ((due.is_late || self.holds.is_crowded()) && self.holds.may_park(1))
        {
            self.park(record, Some(due.at), failure, true);
        } else {
            self.holds.delay(&mut self.records, record, due);
        }
    }

    pub(super) fn dead_letter(&mut self, record: RecordId, code: String, message: String) {
        let &crate::records::Entry { attempts, partition, .. } = self.records.entry(record);
        self.counters.dead_lettered += 1;
        self.commits.add(record);
        self.commits.touch(partition);
        let letter = DeadLetter { record, attempts, code, message };
        self.commands.push_back(Command::DeadLetter(letter));
        self.unpark(record);
    }

    /// The record a token was held for is settled: the others go on.
    fn end_hold(&mut self, token: u64) {
        let hold = self.holds.end(&self.records, token);
        let hold = hold.expect("the record is one a token is held for");
        let (queue, bytes) = (hold.followers, hold.follower_bytes);
        self.strands.prepend(&mut self.records, hold.strand, queue, bytes);
        self.reconsider(Lot::Token(token));
    }

    fn touch_all(&mut self, records: &[RecordId]) {
        if self.trackers.len() == 1 {
            self.commits.touch(0);
            return;
        }
        for &record in records {
            self.commits.touch(self.records.entry(record).partition);
        }
    }

    fn finish(
        &mut self,
        id: InvocationId,
        records: Vec<RecordId>,
        only: Option<Vec<bool>>,
        output_bytes: usize,
    ) {
        self.commits.add_output_bytes(output_bytes);
        self.commands.push_back(Command::Gather { id, kept: Kept { records, only } });
    }

    fn bisect(&mut self, invocation: Invocation) {
        let Invocation { part, mut rest, .. } = invocation;
        self.counters.bisected += 1;
        let claimed = self.claimed(&part);
        let Halves { first, second, in_turn } = halve(&self.records, part.records);
        let mut risky = |records| Part { is_risky: true, ..self.piece(records, part.retries) };
        let (first, second) = (risky(first), risky(second));
        rest.push_front(second);
        self.release(&part.strands);
        self.end_claims(claimed);
        if in_turn {
            rest.push_front(first);
            self.lineages.push_front(rest);
        } else {
            self.lineages.push_front(rest);
            self.lineages.push_front(Lineage::from([first]));
        }
    }

    /// Puts the records of held tokens behind those that the tokens are held for.
    pub(super) fn hold_back(&mut self, part: &mut Part) {
        let (records, holds) = (&mut self.records, &mut self.holds);
        let (mut unloaded, mut claimed) = (Vec::new(), Vec::new());
        part.records.retain(|&record| {
            let entry = *records.entry(record);
            let token = entry.token;
            if !entry.is_ordered() || !holds.blocks(&entry) || holds.is_front(token, record) {
                return true;
            }
            if entry.is_parked() {
                unloaded.push(record);
            } else {
                holds.follow(records, token, record);
            }
            if part.is_piece {
                claimed.push(token);
            }
            false
        });
        self.end_claims(claimed);
        unloaded.into_iter().for_each(|record| self.unload(record));
    }

    fn push_lineage(&mut self, rest: Lineage) {
        if !rest.is_empty() {
            self.lineages.push_front(rest);
        }
    }
}
