//! A pure core: what was promised, in the plainest words, and whether it holds at every write,
//! every invocation and every crash. It shares no code with the cores that it judges.

use std::collections::{BTreeMap, BTreeSet};

use dispatch::Order;

use super::bus::{Move, Place};
use super::plan::{
    DEAD, Origin, PARK, Parked, Plan, Rec, TOLD, is_unwanted, output_count, output_value,
};

pub(super) use copies::{Tally, Wrote};

/// Checks a condition, counts it, and says why it does not hold.
macro_rules! hold {
    ($self:ident, $condition:expr, $($why:tt)+) => {
        $self.checks += 1;
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

mod copies;
mod following;
mod told;

use copies::Copies;

/// (trigger, partition, offset).
type Key = (usize, usize, i64);

/// A record that a trigger has to settle.
#[derive(Clone, Copy, Debug)]
struct Source {
    rec: Rec,
    /// The trigger's filter keeps it from the function.
    unwanted: bool,
    delivered: bool,
    /// Durable outputs, a bit each.
    outputs: u32,
    dead: bool,
    /// Whether a destination heard of its end.
    told: bool,
    /// The epoch whose position settled it.
    settled: Option<u64>,
    /// Whether the park topic holds it.
    parked: bool,
}

impl Source {
    /// Whether it ran, and all that it led to is durable: so many outputs or a dead letter, and the
    /// message about it.
    const fn has_end(&self, all: u32) -> bool {
        self.delivered && self.told && (self.dead || self.outputs == all)
    }
}

/// One assignment of one shard, while it runs.
#[derive(Debug)]
struct Life {
    shard: usize,
    epoch: u64,
    next: i64,
    attempts: BTreeMap<i64, u32>,
    /// Attempts of the parked records that it began with.
    resumed: BTreeMap<i64, u32>,
    /// Offsets and keys of the records that run, by invocation.
    running: BTreeMap<u64, Vec<(i64, Option<u8>)>>,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Checker {
    orders: Vec<Order>,
    attempts_max: Vec<u32>,
    /// Trigger and partition of each shard.
    shards: Vec<(usize, usize)>,
    sources: BTreeMap<Key, Source>,
    places: BTreeMap<usize, Place>,
    high: BTreeMap<(usize, usize), i64>,
    /// The last output by trigger, source partition, and key or output partition.
    last: BTreeMap<(usize, usize, usize), (i64, u32)>,
    /// The last success told by trigger, source partition, and key or destination partition.
    last_told: BTreeMap<(usize, usize, usize), i64>,
    inputs: BTreeSet<u64>,
    /// Acknowledged and not durable.
    owed: BTreeSet<u64>,
    lives: BTreeMap<u64, Life>,
    /// Whether the life is on Kafka, and what holds there.
    kafka: bool,
    filters: bool,
    copies: Copies,
    pub(super) acknowledged: usize,
    settled: usize,
    pub(super) dead: u64,
    pub(super) filtered: u64,
    pub(super) outputs: u64,
    pub(super) checks: u64,
    /// Sources that a park topic holds, and what was counted of it.
    held: BTreeSet<Key>,
    pub(super) parked: u64,
    pub(super) resumed: u64,
}

impl Checker {
    pub(super) fn new(plan: &Plan, shards: &[(usize, usize)]) -> Self {
        let triggers = plan.triggers.iter().map(|it| &it.dispatch);
        Self {
            orders: triggers.clone().map(|it| it.order).collect(),
            attempts_max: triggers.map(|it| it.retry.attempts_max.get()).collect(),
            shards: shards.to_vec(),
            sources: BTreeMap::new(),
            places: BTreeMap::new(),
            high: BTreeMap::new(),
            last: BTreeMap::new(),
            last_told: BTreeMap::new(),
            inputs: BTreeSet::new(),
            owed: BTreeSet::new(),
            lives: BTreeMap::new(),
            kafka: plan.kafka.is_some(),
            filters: plan.filters,
            copies: Copies::default(),
            acknowledged: 0,
            settled: 0,
            dead: 0,
            filtered: 0,
            outputs: 0,
            checks: 0,
            held: BTreeSet::new(),
            parked: 0,
            resumed: 0,
        }
    }

    /// A producer heard that its record is kept.
    pub(super) fn on_acknowledged(&mut self, value: u64) {
        self.acknowledged += 1;
        if !self.inputs.contains(&value) {
            self.owed.insert(value);
        }
    }

    /// A record is durable.
    pub(super) fn on_append(
        &mut self,
        topic: usize,
        partition: usize,
        offset: i64,
        rec: &Rec,
    ) -> Result<(), String> {
        match rec.origin {
            Some(origin) if rec.park.is_some() => self.on_park(rec, origin)?,
            Some(origin) if rec.told.is_some() => self.on_told(topic, partition, rec, origin)?,
            None => {
                self.inputs.insert(rec.value);
                self.owed.remove(&rec.value);
            }
            Some(origin) => self.on_output(topic, partition, rec, origin)?,
        }
        let high = self.high.entry((topic, partition)).or_default();
        *high = offset + 1;
        // The topics that a trigger reads are numbered like the triggers.
        if topic < self.orders.len() {
            let source = Source {
                rec: *rec,
                unwanted: self.filters && is_unwanted(topic, rec.value),
                delivered: false,
                outputs: 0,
                dead: false,
                told: false,
                settled: None,
                parked: false,
            };
            self.filtered += u64::from(source.unwanted);
            let held = self.sources.insert((topic, partition, offset), source);
            hold!(self, held.is_none(), "the simulated bus used offset {offset} twice");
        }
        Ok(())
    }

    /// A park topic says something of a record.
    fn on_park(&mut self, rec: &Rec, origin: Origin) -> Result<(), String> {
        let Origin { trigger, partition, offset, epoch, .. } = origin;
        let key = (trigger, partition, offset);
        let attempts_max = self.attempts_max[trigger];
        let Some(source) = self.sources.get_mut(&key) else {
            return Err(format!("DEL-4: {origin:?} does not exist"));
        };
        hold!(self, (source.rec.key, source.rec.value) == (rec.key, rec.value), "DEL-4: {rec:?}");
        source.parked = matches!(rec.park, Some(Parked::Envelope(..)));
        match rec.park {
            Some(Parked::Envelope(attempts, ..)) => {
                hold!(self, attempts < attempts_max, "SD-3: {attempts} attempts of {origin:?}");
                self.parked += 1;
                self.held.insert(key);
                self.on_envelope(trigger, partition, epoch, offset);
            }
            _ => {
                let all = (1_u32 << output_count(trigger, source.rec.value)) - 1;
                let whole = source.has_end(all);
                hold!(self, whole, "DEL-1: {origin:?} is called settled in the park topic");
                self.held.remove(&key);
                // An older owner does not know of it.
                source.settled = source.settled.map(|_| epoch);
            }
        }
        Ok(())
    }

    /// A shard begins with parked records.
    pub(super) fn on_resumed(&mut self, life: u64, resumed: &[dispatch::Resumed]) {
        self.resumed += resumed.len() as u64;
        let it = self.lives.get_mut(&life).expect("a life that began");
        it.resumed = resumed.iter().map(|it| (it.at.offset.0, it.attempts)).collect();
        let (shard, epoch) = (it.shard, it.epoch);
        let offsets: Vec<i64> = it.resumed.keys().copied().collect();
        self.owes(shard, epoch, offsets);
    }

    fn on_output(
        &mut self,
        topic: usize,
        partition: usize,
        rec: &Rec,
        origin: Origin,
    ) -> Result<(), String> {
        let Origin { trigger, partition: from, offset, index, .. } = origin;
        let Some(source) = self.sources.get_mut(&(trigger, from, offset)) else {
            return Err(format!("DEL-4: {origin:?} does not exist"));
        };
        let value = source.rec.value;
        hold!(self, source.delivered, "DEL-4: {origin:?} was never delivered");
        hold!(self, source.rec.key == rec.key, "DEL-4: the key of {origin:?} changed");
        let expected = if let Some(index) = index {
            hold!(self, index < output_count(trigger, value), "DEL-4: {origin:?} makes fewer");
            output_value(trigger, value, index)
        } else {
            hold!(self, topic == DEAD + trigger && topic < TOLD, "DEL-4: {origin:?} to {topic}");
            value
        };
        hold!(self, rec.value == expected, "DEL-4: {origin:?} has another value");
        if self.kafka {
            return self.on_end(partition, rec, origin);
        }
        let Some(index) = index else {
            hold!(self, !source.dead && source.outputs == 0, "DEL-2: {origin:?} has two ends");
            source.dead = true;
            self.dead += 1;
            return Ok(());
        };
        hold!(self, !source.dead, "DEL-2: {origin:?} was dead-lettered too");
        hold!(self, source.outputs & (1 << index) == 0, "DEL-2: {origin:?} is a duplicate");
        source.outputs |= 1 << index;
        self.outputs += 1;
        let Some(thread) = self.thread(trigger, rec, partition) else { return Ok(()) };
        let last = self.last.insert((trigger, from, thread), (offset, index));
        let ascends = last.is_none_or(|last| last < (offset, index));
        hold!(self, ascends, "DEL-6: {origin:?} comes after {last:?}");
        Ok(())
    }

    /// What the order of an output counts in, if it has one: a key, or a partition of the target.
    fn thread(&self, trigger: usize, rec: &Rec, partition: usize) -> Option<usize> {
        match self.orders[trigger] {
            Order::None => None,
            Order::Key => rec.key.map(usize::from),
            Order::Partition => Some(partition),
        }
    }

    /// A position is durable.
    pub(super) fn on_move(&mut self, moved: &Move) -> Result<(), String> {
        let (trigger, partition) = self.shards[moved.shard];
        let place = &moved.place;
        let before = self.places.insert(moved.shard, place.clone()).unwrap_or_default();
        hold!(self, before.next <= place.next, "DEL-7: {before:?} went back to {place:?}");
        let high = self.high.get(&(trigger, partition)).copied().unwrap_or(0);
        hold!(self, place.next <= high, "DEL-7: {place:?} passes the high watermark {high}");
        let mut newly = 0;
        let ranges = std::iter::once((before.next, place.next)).chain(place.completions.clone());
        for (start, end) in ranges {
            let range = (trigger, partition, start)..(trigger, partition, end);
            for ((_, _, offset), source) in self.sources.range_mut(range) {
                let all = (1_u32 << output_count(trigger, source.rec.value)) - 1;
                hold!(
                    self,
                    source.unwanted || source.parked || source.has_end(all),
                    "DEL-7: offset {offset} of shard {} is not settled, but {place:?}",
                    moved.shard
                );
                if source.settled.is_none() {
                    source.settled = Some(moved.epoch);
                    newly += 1;
                }
            }
        }
        for &(start, end) in &before.completions {
            let range = (trigger, partition, start)..(trigger, partition, end);
            for &(_, _, offset) in self.sources.range(range).map(|it| it.0) {
                hold!(self, place.tells(offset), "DEL-7: {before:?} forgot {offset}: {place:?}");
            }
        }
        let records = moved.records;
        hold!(self, newly == records, "DEL-9: a commit of {records} records settles {newly}");
        self.settled += newly as usize;
        Ok(())
    }

    /// A shard was assigned and goes on here.
    pub(super) fn on_life(&mut self, life: u64, shard: usize, epoch: u64, next: i64) {
        let (attempts, resumed, running) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        self.lives.insert(life, Life { shard, epoch, next, attempts, resumed, running });
    }

    /// A core runs records: offsets, keys and attempts.
    pub(super) fn on_invoke(
        &mut self,
        life: u64,
        invocation: u64,
        records: impl Iterator<Item = (i64, Option<u8>, u32)>,
    ) -> Result<(), String> {
        let it = self.lives.get_mut(&life).expect("a life that began");
        let (trigger, partition) = self.shards[it.shard];
        let order = self.orders[trigger];
        let mut run = Vec::new();
        for (offset, key, attempt) in records {
            let Some(source) = self.sources.get_mut(&(trigger, partition, offset)) else {
                return Err(format!("DEL-4: offset {offset} was delivered and does not exist"));
            };
            hold!(self, !source.unwanted, "SD-8: offset {offset} is filtered and runs");
            source.delivered = true;
            let anew = if self.kafka {
                self.copies.tells(it.shard, it.epoch, offset)
                    && !self.copies.owes(it.shard, it.epoch, offset)
            } else {
                source.settled.is_some_and(|epoch| epoch <= it.epoch) && !source.parked
            };
            hold!(self, !anew, "OT-4: offset {offset} is settled and runs again");
            let last = it.attempts.insert(offset, attempt);
            let last = last.or_else(|| it.resumed.get(&offset).copied());
            let follows = last.map_or(attempt == 1, |last| attempt == last || attempt == last + 1);
            hold!(self, follows, "SD-3: attempt {attempt} of {offset} follows {last:?}");
            let most = self.attempts_max[trigger];
            hold!(self, attempt <= most, "SD-3: attempt {attempt} of {offset}, {most} allowed");
            for &(other, with) in it.running.values().flatten() {
                let together = match order {
                    Order::None => false,
                    Order::Key => key.is_some() && key == with,
                    Order::Partition => true,
                };
                hold!(self, !together && other != offset, "SD-5: {offset} runs beside {other}");
            }
            run.push((offset, key));
        }
        it.running.insert(invocation, run);
        Ok(())
    }

    /// A record is given up because nodes ended while it ran, or was about to.
    pub(super) fn on_suspect(
        &mut self,
        life: u64,
        offset: i64,
        attempts: u32,
    ) -> Result<(), String> {
        let shard = self.lives.get(&life).expect("a life that began").shard;
        let before = self.lives.range(..life).filter(|(_, it)| it.shard == shard);
        let (nodes, (trigger, partition)) = (before.count(), self.shards[shard]);
        let least = self.attempts_max[trigger].max(7);
        hold!(self, least <= attempts, "NK-2: {offset} is given up after {attempts} attempts");
        hold!(self, attempts as usize <= nodes, "NK-2: {attempts} attempts on {nodes} nodes");
        let it = self.lives.get_mut(&life).expect("a life that began");
        let ran = it.attempts.insert(offset, attempts).is_some();
        hold!(self, !ran, "NK-2: {offset} is given up and runs");
        if let Some(source) = self.sources.get_mut(&(trigger, partition, offset)) {
            source.delivered = true;
        }
        Ok(())
    }

    /// An invocation was reported as over.
    pub(super) fn on_over(&mut self, life: u64, invocation: u64) {
        if let Some(it) = self.lives.get_mut(&life) {
            it.running.remove(&invocation);
        }
    }

    /// A core asks for a commit.
    pub(super) fn on_commit(&mut self, life: u64, epoch: u64, place: &Place) -> Result<(), String> {
        let it = self.lives.get_mut(&life).expect("a life that began");
        hold!(self, it.epoch == epoch, "OWN-1: a commit of epoch {epoch} in {}", it.epoch);
        hold!(self, it.next <= place.next, "OT-1: {} went back to {place:?}", it.next);
        it.next = place.next;
        Ok(())
    }

    /// A core's own account of what it holds.
    pub(super) fn on_counted(
        &mut self,
        admitted: u64,
        settled: u64,
        open: u64,
    ) -> Result<(), String> {
        hold!(self, admitted == settled + open, "DEL-9: {admitted} in, {settled} out, {open} held");
        Ok(())
    }

    /// After a crash only what is durable is left.
    pub(super) fn after_crash(&mut self) -> Result<(), String> {
        let owed = self.owed.len();
        hold!(self, owed == 0, "DEL-1: {owed} acknowledged inputs are lost");
        Ok(())
    }

    /// Records that no trigger has settled yet.
    pub(super) fn open(&self) -> usize {
        // On Kafka an envelope may come when its record has been settled by another owner.
        let held = if self.kafka { 0 } else { self.held.len() };
        self.sources.len() - self.settled + held
    }

    /// What was counted on Kafka.
    pub(super) const fn tally(&self) -> Tally {
        self.copies.tally
    }

    /// All is quiet: nothing may be left.
    pub(super) fn at_end(&mut self) -> Result<(), String> {
        self.groups_at_end()?;
        let (open, owed) = (self.open(), self.owed.len());
        hold!(self, open == 0 && owed == 0, "DEL-1: {open} records open, {owed} inputs lost");
        let mut tally = [0_usize; 4];
        for (&(trigger, ..), source) in &self.sources {
            let is_mute = output_count(trigger, source.rec.value) == 0;
            let all = (1_u32 << output_count(trigger, source.rec.value)) - 1;
            let whole = source.has_end(all);
            hold!(self, whole || source.unwanted, "DEL-1: {source:?} has no end");
            tally[match source {
                Source { unwanted: true, .. } => 3,
                Source { dead: true, .. } => 0,
                _ => usize::from(is_mute) + 1,
            }] += 1;
        }
        let (all, ends) = (self.sources.len(), tally.iter().sum::<usize>());
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let (dead, filtered) = (count(self.dead), count(self.filtered));
        let whole = all == ends && tally[0] == dead && tally[3] == filtered;
        hold!(self, whole, "DEL-9: {all} in, {tally:?} out");
        Ok(())
    }
}
