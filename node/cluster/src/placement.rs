//! A pure core: which member should own which shard. The same input gives the same plan.
//!
//! ```text
//! keep       what has an owner that may have it
//! place      the rest, the heaviest first, where the load will be lightest
//! balance    only if some member is further than a tenth from the mean, or three tenths where shards
//!            differ in weight: from the fullest to the emptiest, until no move is worth it
//! ```
//!
//! Load is compared as weight over capacity. A move is worth it when it makes the gap smaller by at
//! least half of what it moves: two heavy shards whose measured weights take turns stay where they
//! are. What is left where it may not be counts as nobody's load.
//!
//! Invariants, checked by the model test:
//!
//! - **PP-1** a shard goes to a live member only that has the labels and room; it is left where it
//!   is, or without an owner, only when there is none.
//! - **PP-2** no move without a [`Cause`] that is true: a shard whose owner may have it moves only
//!   off a member over its capacity, or to balance members that are out of balance.
//! - **PP-3** a draining member gets nothing, and keeps only what fits nowhere else.
//! - **PP-4** where members are out of balance afterwards, no single move would be worth it.
//! - **PP-5** a plan that was carried out leads to one without moves.

use std::collections::{BTreeMap, BTreeSet};

use bus::ShardId;

/// How far from the mean load a member may be before shards move to balance, as a percentage of it.
/// Weights that were measured are never quite what they were: they get more.
const TOLERANCE: u128 = 10;
const TOLERANCE_MEASURED: u128 = 30;

/// Whether a member may own shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Live,
    /// It gives away what it has.
    Draining,
    /// It is not there: what it had is without an owner.
    Gone,
}

/// What can own shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The weight that it takes at most.
    pub capacity: u64,
    /// What it has that a shard can ask for.
    pub labels: BTreeSet<String>,
    /// Whether it may own shards.
    pub standing: Standing,
}

/// What is owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// As it was measured; 0 counts as 1.
    pub weight: u64,
    /// What its owner must have.
    pub requires: BTreeSet<String>,
    /// Who has it now.
    pub owner: Option<u64>,
}

/// Why a shard moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Nobody had it.
    New,
    /// Its owner is gone.
    Gone,
    /// Its owner drains.
    Draining,
    /// Its owner lacks a label.
    Labels,
    /// Its owner had more than its capacity.
    Capacity,
    /// The members were out of balance.
    Balance,
}

/// A shard that gets another owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub shard: ShardId,
    /// Who has it; `None` also when that member is unknown.
    pub from: Option<u64>,
    /// Who gets it.
    pub to: u64,
    /// Why.
    pub cause: Cause,
}

/// What should change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By shard, each once.
    pub moves: Vec<Move>,
    /// Shards that should move, and fit nowhere.
    pub unplaced: Vec<ShardId>,
}

/// Who should own what from now on.
#[must_use]
pub fn plan(hosts: &BTreeMap<u64, Host>, shards: &BTreeMap<ShardId, Load>) -> Plan {
    let mut planner = Planner::new(hosts, shards);
    loop {
        // What moves to balance can make room for what waits.
        let placed = planner.place();
        let moved = planner.balance();
        if planner.waiting.is_empty() || !(placed || moved) {
            return planner.into_plan();
        }
    }
}

/// The same, but nothing moves for balance alone: while nobody knows what shards weigh.
#[must_use]
pub fn place(hosts: &BTreeMap<u64, Host>, shards: &BTreeMap<ShardId, Load>) -> Plan {
    let mut planner = Planner::new(hosts, shards);
    planner.place();
    planner.into_plan()
}

#[derive(Clone, Debug, Default)]
struct Held {
    weight: u64,
    shards: BTreeSet<ShardId>,
}

struct Planner<'a> {
    hosts: &'a BTreeMap<u64, Host>,
    shards: &'a BTreeMap<ShardId, Load>,
    /// What live members would own.
    held: BTreeMap<u64, Held>,
    /// What has no owner that may have it, the heaviest first.
    waiting: Vec<(ShardId, Cause)>,
    causes: BTreeMap<ShardId, Cause>,
    /// How far from the mean a member may be, as a percentage of it.
    tolerance: u128,
}

impl<'a> Planner<'a> {
    fn new(hosts: &'a BTreeMap<u64, Host>, shards: &'a BTreeMap<ShardId, Load>) -> Self {
        let live = hosts.iter().filter(|(_, it)| it.standing == Standing::Live);
        let held = live.map(|(id, _)| (*id, Held::default())).collect();
        let (waiting, causes) = (Vec::new(), BTreeMap::new());
        let mut weights = shards.values().map(weight);
        let first = weights.next();
        let is_measured = weights.any(|it| Some(it) != first);
        let tolerance = if is_measured { TOLERANCE_MEASURED } else { TOLERANCE };
        let mut this = Self { hosts, shards, held, waiting, causes, tolerance };
        for (id, load) in shards {
            match this.cause(load) {
                Some(cause) => this.waiting.push((*id, cause)),
                None => this.put(*id, load.owner.expect("it has no cause to move")),
            }
        }
        this.waiting.sort_by_key(|(id, _)| (std::cmp::Reverse(weight(&shards[id])), *id));
        this
    }

    /// Why a shard cannot stay, if it cannot.
    fn cause(&self, load: &Load) -> Option<Cause> {
        let Some(owner) = load.owner else { return Some(Cause::New) };
        match self.hosts.get(&owner) {
            None => Some(Cause::Gone),
            Some(host) if host.standing == Standing::Gone => Some(Cause::Gone),
            Some(host) if host.standing == Standing::Draining => Some(Cause::Draining),
            Some(host) if !load.requires.is_subset(&host.labels) => Some(Cause::Labels),
            Some(_) => None,
        }
    }

    fn put(&mut self, shard: ShardId, to: u64) {
        let held = self.held.entry(to).or_default();
        held.weight += weight(&self.shards[&shard]);
        held.shards.insert(shard);
    }

    fn take(&mut self, shard: ShardId, from: u64) {
        let held = self.held.entry(from).or_default();
        held.weight -= weight(&self.shards[&shard]);
        held.shards.remove(&shard);
    }

    fn may_take(&self, id: u64, load: &Load) -> bool {
        let host = &self.hosts[&id];
        let room = host.capacity.saturating_sub(self.held[&id].weight);
        weight(load) <= room && load.requires.is_subset(&host.labels)
    }

    /// The share of its capacity that a member would use with this much more, as a fraction.
    fn share(&self, id: u64, more: u64) -> (u128, u128) {
        (u128::from(self.held[&id].weight + more), u128::from(self.hosts[&id].capacity))
    }

    /// Gives what waits to whom it fits best; whether anything was given.
    fn place(&mut self) -> bool {
        let before = self.waiting.len();
        for (shard, cause) in std::mem::take(&mut self.waiting) {
            let load = &self.shards[&shard];
            let takers = self.held.keys().copied().filter(|id| self.may_take(*id, load));
            let more = weight(load);
            let best = takers
                .min_by(|a, b| compare(self.share(*a, more), self.share(*b, more)).then(a.cmp(b)));
            match best {
                Some(to) => {
                    self.put(shard, to);
                    self.causes.insert(shard, cause);
                }
                None => self.waiting.push((shard, cause)),
            }
        }
        self.waiting.len() < before
    }

    /// Moves what is worth it, if members are out of balance; whether anything moved.
    fn balance(&mut self) -> bool {
        let mut moved = false;
        if !self.is_out_of_balance() {
            return moved;
        }
        while let Some((shard, from, to)) = self.next_move() {
            let is_over = self.hosts[&from].capacity < self.held[&from].weight;
            self.take(shard, from);
            self.put(shard, to);
            let cause = if is_over { Cause::Capacity } else { Cause::Balance };
            self.causes.entry(shard).or_insert(cause);
            moved = true;
        }
        moved
    }

    fn is_out_of_balance(&self) -> bool {
        let capacity: u128 = self.held.keys().map(|id| self.share(*id, 0).1).sum();
        let total: u128 = self.held.keys().map(|id| self.share(*id, 0).0).sum();
        self.held.keys().any(|id| {
            let (load, own) = self.share(*id, 0);
            let far = (load * capacity).abs_diff(total * own);
            own < load || total * own * self.tolerance < 100 * far
        })
    }

    /// From the fullest that can give to the emptiest that can take: the heaviest shard that does
    /// not turn the gap round, else the lightest that is worth it.
    fn next_move(&self) -> Option<(ShardId, u64, u64)> {
        let mut ids: Vec<u64> = self.held.keys().copied().collect();
        ids.sort_by(|a, b| compare(self.share(*a, 0), self.share(*b, 0)).then(a.cmp(b)));
        for from in ids.iter().rev() {
            for to in ids.iter().take_while(|to| *to != from) {
                let shards = self.held[from].shards.iter().copied();
                let worth: Vec<(u64, ShardId)> = shards
                    .filter(|shard| self.is_worth(*shard, *from, *to))
                    .map(|shard| (weight(&self.shards[&shard]), shard))
                    .collect();
                let keeps_the_gap = |(weight, _): &&(u64, ShardId)| {
                    let left =
                        (self.share(*from, 0).0 - u128::from(*weight), self.share(*from, 0).1);
                    compare(self.share(*to, *weight), left).is_le()
                };
                let heaviest = worth.iter().filter(keeps_the_gap);
                let heaviest =
                    heaviest.max_by_key(|(weight, id)| (*weight, std::cmp::Reverse(*id)));
                if let Some((_, shard)) = heaviest.or_else(|| worth.iter().min()) {
                    return Some((*shard, *from, *to));
                }
            }
        }
        None
    }

    /// Whether a move makes the gap smaller by at least half of what it moves.
    fn is_worth(&self, shard: ShardId, from: u64, to: u64) -> bool {
        let load = &self.shards[&shard];
        let (full, full_of) = self.share(from, 0);
        let (empty, empty_of) = self.share(to, 0);
        let moved = u128::from(weight(load));
        (2 * empty + 3 * moved) * full_of <= 2 * full * empty_of && self.may_take(to, load)
    }

    fn into_plan(self) -> Plan {
        let mut moves = Vec::new();
        for (to, held) in &self.held {
            for shard in &held.shards {
                let from = self.shards[shard].owner;
                if from != Some(*to) {
                    let from = from.filter(|id| self.hosts.contains_key(id));
                    moves.push(Move { shard: *shard, from, to: *to, cause: self.causes[shard] });
                }
            }
        }
        moves.sort_by_key(|it| it.shard);
        let mut unplaced: Vec<ShardId> = self.waiting.iter().map(|(shard, _)| *shard).collect();
        unplaced.sort();
        Plan { moves, unplaced }
    }
}

fn weight(load: &Load) -> u64 {
    load.weight.max(1)
}

/// Of two fractions. One of nothing is the largest.
fn compare(a: (u128, u128), b: (u128, u128)) -> std::cmp::Ordering {
    match (a.1, b.1) {
        (0, 0) => a.0.cmp(&b.0),
        (0, _) => std::cmp::Ordering::Greater,
        (_, 0) => std::cmp::Ordering::Less,
        _ => (a.0 * b.1).cmp(&(b.0 * a.1)),
    }
}

#[cfg(test)]
mod tests;
