//! What must hold on Kafka, where a shard's position has copies: the row of each home and the group's
//! offset. At least once: what is settled durably under an epoch is not repeated under it, and what
//! an owner starts from is a copy that says all that it has to.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, Place, Rec, Source};
use crate::sim::groups::Mark;
use crate::sim::plan::{Origin, output_count};

/// How long the group may be behind, or a stale commit stand, in microseconds.
pub(super) const FOLLOWS_WITHIN: u64 = 2_000_000;

/// What a row of a position log is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Wrote {
    /// A recovery takes a position over.
    Taken,
    /// The first half of a commit that was torn apart.
    Part,
    /// A commit whose outputs are still to be produced: a planted bug, of which nothing is demanded
    /// here.
    Early,
    /// A commit of so many records.
    Commit(u64),
}

/// Counted, and judged nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sim) struct Tally {
    /// Outputs and dead letters that were there already.
    pub(in crate::sim) duplicates: u64,
    /// Group commits of an epoch that was over.
    pub(in crate::sim) stale: u64,
    /// Those that moved the offset back.
    pub(in crate::sim) moved_back: u64,
    /// Moves back that the owner's next commit made good.
    pub(in crate::sim) restored: u64,
    /// The longest that took from the commit on, in microseconds.
    pub(in crate::sim) restored_within: u64,
    /// Moves back after the owner's last commit: they stand until its next one.
    pub(in crate::sim) left_back: u64,
    /// Owners that started from the group, and from a row of their own.
    pub(in crate::sim) from_group: u64,
    pub(in crate::sim) from_log: u64,
}

impl Tally {
    /// Counts another one with it.
    pub(in crate::sim) fn add(&mut self, other: &Self) {
        self.duplicates += other.duplicates;
        self.stale += other.stale;
        self.moved_back += other.moved_back;
        self.restored += other.restored;
        self.restored_within = self.restored_within.max(other.restored_within);
        self.left_back += other.left_back;
        self.from_group += other.from_group;
        self.from_log += other.from_log;
    }
}

/// How one owner ended a record.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    outputs: u32,
    dead: bool,
    told: bool,
}

/// An assignment that started.
#[derive(Debug, Default)]
pub(super) struct Owner {
    pub(super) home: usize,
    life: u64,
    /// Where it started, then what it made durable.
    pub(super) place: Place,
    committed: bool,
    ends: BTreeMap<i64, Ends>,
    /// The last output by key or output partition: of all that came first, and since the last
    /// commit whose outcome was unknown.
    pub(super) last: BTreeMap<usize, (i64, u32)>,
    run: BTreeMap<usize, (i64, u32)>,
    /// Records that it began with or put into the park topic.
    parked: BTreeSet<i64>,
    /// What such commits had in them.
    unsure: BTreeSet<(i64, Option<u32>)>,
    /// Records that they told destinations of.
    unsure_told: BTreeSet<i64>,
}

/// What an owner that recovers finds.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) group: Option<Place>,
    pub(super) row: Option<Place>,
    /// What it must not forget.
    pub(super) musts: Vec<Place>,
}

/// A place that the group has to hold.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) epoch: u64,
    pub(super) home: usize,
    pub(super) place: Place,
    pub(super) due: u64,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// By shard and epoch.
    pub(super) owners: BTreeMap<(usize, u64), Owner>,
    /// Durable rows by home and shard.
    pub(super) rows: BTreeMap<(usize, usize), (u64, Place)>,
    /// What each shard's group holds.
    pub(super) groups: BTreeMap<usize, (u64, Place)>,
    /// The last place under each epoch, and the newest epoch.
    under: BTreeMap<(usize, u64), Place>,
    pub(super) newest: BTreeMap<usize, u64>,
    /// The newest epoch that each home saw, and that it wrote into the group.
    pub(super) seen: BTreeMap<(usize, usize), u64>,
    pub(super) wrote: BTreeMap<(usize, usize), u64>,
    /// Who owned last as far as anybody could know: epoch, home, and whether it started.
    pub(super) last: BTreeMap<usize, (u64, usize, bool)>,
    /// What the next owner of the shard at each home can start from.
    pub(super) reads: BTreeMap<(usize, usize), Read>,
    pub(super) owed: BTreeMap<usize, Owed>,
    /// Until when each home cannot help it.
    pub(super) excused: BTreeMap<usize, u64>,
    /// Groups that a stale commit has moved back, and since when their owners owe them more.
    pub(super) back: BTreeMap<usize, Option<u64>>,
    pub(super) tally: Tally,
}

impl Copies {
    /// Whether it is durably settled for this owner.
    pub(super) fn tells(&self, shard: usize, epoch: u64, offset: i64) -> bool {
        self.owners.get(&(shard, epoch)).is_some_and(|owner| owner.place.tells(offset))
    }

    /// Whether this owner has it in the park topic, or had.
    pub(super) fn owes(&self, shard: usize, epoch: u64, offset: i64) -> bool {
        self.owners.get(&(shard, epoch)).is_some_and(|owner| owner.parked.contains(&offset))
    }
}

impl Source {
    fn is_whole(&self, trigger: usize, ends: Ends) -> bool {
        let all = (1_u32 << output_count(trigger, self.rec.value)) - 1;
        ends.told && (ends.dead || ends.outputs == all)
    }
}

impl Checker {
    /// An owner starts here.
    pub(in crate::sim) fn on_owner(
        &mut self,
        life: u64,
        home: usize,
        (shard, epoch): (usize, u64),
        place: &Place,
    ) -> Result<(), String> {
        self.settled_all(shard, None, place)?;
        let read = self.copies.reads.remove(&(home, shard)).unwrap_or_default();
        for must in read.musts {
            let forgot = self.lacking(shard, place, &must);
            hold!(
                self,
                forgot.is_none(),
                "KL-1: epoch {epoch} of shard {shard} at home {home} starts from {place:?} and \
                 forgets {forgot:?} of {must:?}"
            );
        }
        let from_group = read.group.as_ref() == Some(place);
        let from_log = !from_group && read.row.as_ref() == Some(place);
        self.copies.tally.from_group += u64::from(from_group);
        self.copies.tally.from_log += u64::from(from_log);
        let owner = Owner { home, life, place: place.clone(), ..Owner::default() };
        let held = self.copies.owners.insert((shard, epoch), owner);
        hold!(self, held.is_none(), "RS-1: epoch {epoch} of shard {shard} was given twice");
        let last = self.copies.last.entry(shard).or_default();
        if last.0 <= epoch {
            *last = (epoch, home, true);
        }
        Ok(())
    }

    /// An owner has put a record into the park topic.
    pub(super) fn on_envelope(
        &mut self,
        trigger: usize,
        partition: usize,
        epoch: u64,
        offset: i64,
    ) {
        let shard = self.shards.iter().position(|it| *it == (trigger, partition));
        self.owes(shard.expect("a shard"), epoch, vec![offset]);
    }

    /// An owner owes these records of the park topic.
    pub(super) fn owes(&mut self, shard: usize, epoch: u64, offsets: Vec<i64>) {
        if let Some(owner) = self.copies.owners.get_mut(&(shard, epoch)) {
            owner.parked.extend(offsets);
        }
    }

    /// An output or a dead letter is in its topic, for the first time or again.
    pub(super) fn on_end(
        &mut self,
        partition: usize,
        rec: &Rec,
        origin: Origin,
    ) -> Result<(), String> {
        let Origin { trigger, partition: from, offset, index, epoch } = origin;
        let shard = self.shards.iter().position(|it| *it == (trigger, from)).expect("a shard");
        let order = self.thread(trigger, rec, partition);
        let Some(owner) = self.copies.owners.get_mut(&(shard, epoch)) else {
            return Err(format!("DEL-4: {origin:?} of an epoch that never started"));
        };
        let ran = self.lives.get(&owner.life).is_some_and(|it| it.attempts.contains_key(&offset));
        hold!(self, ran, "DEL-4: {origin:?} was not delivered under its epoch");
        let again = owner.place.tells(offset) && !owner.parked.contains(&offset);
        hold!(self, !again, "DEL-7: {origin:?} comes again, though its epoch has it settled");
        let ends = owner.ends.entry(offset).or_default();
        let (first, other) = match index {
            None => (!std::mem::replace(&mut ends.dead, true), ends.outputs != 0),
            Some(index) => {
                let first = ends.outputs & (1 << index) == 0;
                ends.outputs |= 1 << index;
                (first, ends.dead)
            }
        };
        hold!(self, !other, "DEL-9: {origin:?} has two ends under one epoch");
        let known = owner.unsure.contains(&(offset, index));
        hold!(
            self,
            first || known,
            "DEL-7: {origin:?} comes again under its epoch without a cause"
        );
        if let (Some(thread), Some(index)) = (order, index) {
            let run = owner.run.insert(thread, (offset, index));
            hold!(self, run < Some((offset, index)), "DEL-6: {origin:?} comes after {run:?}");
            if first {
                let last = owner.last.insert(thread, (offset, index));
                hold!(self, last < Some((offset, index)), "DEL-6: {origin:?} comes after {last:?}");
            }
        }
        let source = self.sources.get_mut(&(trigger, from, offset)).expect("it was just there");
        let is_new = match index {
            None => !std::mem::replace(&mut source.dead, true),
            Some(index) => {
                let is_new = source.outputs & (1 << index) == 0;
                source.outputs |= 1 << index;
                is_new
            }
        };
        self.dead += u64::from(is_new && index.is_none());
        self.outputs += u64::from(is_new && index.is_some());
        self.copies.tally.duplicates += u64::from(!is_new);
        Ok(())
    }

    /// A destination hears of a record under this epoch, for the first time or again.
    pub(super) fn on_told_again(&mut self, origin: Origin, epoch: u64) -> Result<(), String> {
        let Origin { trigger, partition: from, offset, .. } = origin;
        let shard = self.shards.iter().position(|it| *it == (trigger, from)).expect("a shard");
        let Some(owner) = self.copies.owners.get_mut(&(shard, epoch)) else {
            return Err(format!("DEL-4: {origin:?} of an epoch that never started"));
        };
        let again = owner.place.tells(offset) && !owner.parked.contains(&offset);
        hold!(self, !again, "DEL-7: {origin:?} is told of again, though its epoch has it settled");
        let told = std::mem::replace(&mut owner.ends.entry(offset).or_default().told, true);
        let known = owner.unsure_told.contains(&offset);
        hold!(self, !told || known, "DEL-7: {origin:?} is told of again without a cause");
        Ok(())
    }

    /// Nobody knows what of this commit is in the topics: it will be tried again.
    pub(in crate::sim) fn on_unsure(&mut self, shard: usize, epoch: u64, appends: &[(usize, Rec)]) {
        let Some(owner) = self.copies.owners.get_mut(&(shard, epoch)) else { return };
        owner.run.clear();
        for (rec, origin) in appends.iter().filter_map(|(_, rec)| Some((rec, rec.origin?))) {
            if rec.told.is_some() {
                owner.unsure_told.insert(origin.offset);
            } else {
                owner.unsure.insert((origin.offset, origin.index));
            }
        }
    }

    /// A row of a position log is durable.
    pub(in crate::sim) fn on_row(
        &mut self,
        now: u64,
        home: usize,
        (shard, epoch): (usize, u64),
        row: (u64, Place),
        wrote: Wrote,
    ) -> Result<(), String> {
        let (of, place) = row.clone();
        if wrote == Wrote::Early {
            self.copies.rows.insert((home, shard), row);
            self.settle(shard, epoch, 0, &place);
            return Ok(());
        }
        self.within(shard, &place)?;
        if let Some((before, held)) = self.copies.rows.insert((home, shard), row)
            && before == of
        {
            self.never_back(shard, &held, &place)?;
        }
        let Wrote::Commit(records) = wrote else {
            let by = (wrote == Wrote::Part).then_some(epoch);
            return self.settled_all(shard, by, &place).map(drop);
        };
        let newly = self.settled_all(shard, Some(epoch), &place)?;
        hold!(self, newly == records, "DEL-9: a commit of {records} records settles {newly}");
        let owner = self.copies.owners.get_mut(&(shard, epoch)).expect("it commits");
        owner.committed = true;
        let before = std::mem::replace(&mut owner.place, place.clone());
        self.settle(shard, epoch, before.next, &place);
        let is_newest = self.copies.newest.get(&shard).is_none_or(|newest| *newest <= epoch);
        let saw = self.copies.seen.get(&(home, shard)).is_some_and(|seen| epoch < *seen);
        if is_newest && !saw && !self.copies.owed.contains_key(&shard) {
            self.owe(now, (shard, epoch), home, &place);
        }
        Ok(())
    }

    /// A group takes an offset with its note.
    pub(in crate::sim) fn on_group(
        &mut self,
        now: u64,
        home: usize,
        mark: &Mark,
    ) -> Result<(), String> {
        let Mark { shard, epoch, place, .. } = mark;
        let (shard, epoch) = (*shard, *epoch);
        self.within(shard, place)?;
        self.settled_all(shard, Some(epoch), place)?;
        if let Some(owner) = self.copies.owners.get(&(shard, epoch)).filter(|it| it.committed) {
            let ahead = self.lacking(shard, &owner.place, place);
            hold!(self, ahead.is_none(), "DEL-7: the group has {ahead:?} before the position log");
        }
        if let Some(held) = self.copies.under.insert((shard, epoch), place.clone()) {
            self.never_back(shard, &held, place)?;
        }
        if let Some(owner) = self.copies.owners.get(&(shard, epoch)) {
            self.settle(shard, epoch, owner.place.next, place);
        }
        let before = self.copies.groups.insert(shard, (epoch, place.clone()));
        // Late or not, this home has had its word under that epoch.
        let wrote = self.copies.wrote.entry((home, shard)).or_default();
        *wrote = epoch.max(*wrote);
        let newest = self.copies.newest.get(&shard).copied().unwrap_or(0);
        if epoch < newest {
            let before = before.map(|it| it.1).unwrap_or_default();
            let is_back = self.lacking(shard, place, &before).is_some();
            self.copies.tally.stale += 1;
            if is_back {
                self.copies.tally.moved_back += 1;
                let owes = self.copies.owed.contains_key(&shard).then_some(now);
                self.copies.back.entry(shard).or_insert(owes);
            }
            return Ok(());
        }
        if let Some(Some(since)) = self.copies.back.remove(&shard)
            && epoch == newest
        {
            let tally = &mut self.copies.tally;
            tally.restored += 1;
            tally.restored_within = tally.restored_within.max(now - since);
        }
        self.copies.newest.insert(shard, epoch);
        let last = self.copies.last.entry(shard).or_default();
        if last.0 < epoch {
            *last = (epoch, home, false);
        }
        self.pay(now, shard, epoch, place);
        Ok(())
    }

    /// The first record that `of` says is settled and `place` does not.
    pub(super) fn lacking(&self, shard: usize, place: &Place, of: &Place) -> Option<i64> {
        let (trigger, partition) = self.shards[shard];
        let ranges = std::iter::once((place.next, of.next)).chain(of.completions.iter().copied());
        let ranges = ranges.filter(|(start, end)| start < end);
        let offsets = ranges.flat_map(|(start, end)| {
            self.sources.range((trigger, partition, start)..(trigger, partition, end))
        });
        offsets.map(|it| it.0.2).find(|offset| !place.tells(*offset))
    }

    fn within(&mut self, shard: usize, place: &Place) -> Result<(), String> {
        let high = self.high.get(&self.shards[shard]).copied().unwrap_or(0);
        hold!(self, place.next <= high, "DEL-7: {place:?} passes the high watermark {high}");
        Ok(())
    }

    fn never_back(&mut self, shard: usize, held: &Place, place: &Place) -> Result<(), String> {
        hold!(self, held.next <= place.next, "DEL-7: {held:?} went back to {place:?}");
        let forgot = self.lacking(shard, place, held);
        hold!(self, forgot.is_none(), "DEL-7: {held:?} forgot {forgot:?}: {place:?}");
        Ok(())
    }

    /// Everything that a place says is settled is: durably already, or by what this epoch has put
    /// into the topics. How many records are news to the epoch.
    fn settled_all(
        &mut self,
        shard: usize,
        epoch: Option<u64>,
        place: &Place,
    ) -> Result<u64, String> {
        let (trigger, partition) = self.shards[shard];
        let owner = epoch.and_then(|epoch| self.copies.owners.get(&(shard, epoch)));
        let none = Place::default();
        let known = owner.map_or(&none, |owner| &owner.place);
        let ranges = std::iter::once((known.next, place.next)).chain(place.completions.clone());
        let mut newly = 0;
        for (start, end) in ranges.filter(|(start, end)| start < end) {
            let range = (trigger, partition, start)..(trigger, partition, end);
            for (&(_, _, offset), source) in self.sources.range(range) {
                if known.tells(offset) {
                    continue;
                }
                newly += 1;
                let ended = owner.is_some_and(|owner| {
                    let ends = owner.ends.get(&offset).copied().unwrap_or_default();
                    let ran = |life: &super::Life| life.attempts.contains_key(&offset);
                    let is_whole = source.is_whole(trigger, ends);
                    source.unwanted
                        || owner.parked.contains(&offset)
                        || (self.lives.get(&owner.life).is_some_and(ran) && is_whole)
                });
                hold!(
                    self,
                    ended || (owner.is_none() && source.settled.is_some()),
                    "DEL-7: offset {offset} of shard {shard} is not settled, but {place:?}"
                );
            }
        }
        Ok(newly)
    }

    /// What a durable place says is settled for good. Up to `from` it was.
    fn settle(&mut self, shard: usize, epoch: u64, from: i64, place: &Place) {
        let (trigger, partition) = self.shards[shard];
        let ranges = std::iter::once((from, place.next)).chain(place.completions.clone());
        for (start, end) in ranges.filter(|(start, end)| start < end) {
            let range = (trigger, partition, start)..(trigger, partition, end);
            for (_, source) in self.sources.range_mut(range).filter(|it| it.1.settled.is_none()) {
                source.settled = Some(epoch);
                self.settled += 1;
            }
        }
    }
}
