//! What must hold between the homes and the groups: who has seen a higher epoch does nothing more for
//! the shard, and the group follows its owner, whatever a stale commit does to it.

use super::copies::{FOLLOWS_WITHIN, Owed, Read};
use super::{Checker, Place};
use crate::sim::groups::Mark;

impl Checker {
    /// What the group owed is there, and what has been committed since is owed.
    pub(super) fn pay(&mut self, now: u64, shard: usize, epoch: u64, place: &Place) {
        let Some(owed) = self.copies.owed.get(&shard) else { return };
        if owed.epoch == epoch && self.lacking(shard, place, &owed.place).is_some() {
            return;
        }
        self.copies.owed.remove(&shard);
        let Some(owner) = self.copies.owners.get(&(shard, epoch)) else { return };
        if self.lacking(shard, place, &owner.place).is_some() {
            let (home, place) = (owner.home, owner.place.clone());
            self.owe(now, (shard, epoch), home, &place);
        }
    }

    /// A home sees what a group held; for an owner that recovers, it is what decides.
    pub(in crate::sim) fn on_read(&mut self, home: usize, held: &[Mark], recovers: Option<usize>) {
        for Mark { shard, epoch, .. } in held {
            self.on_seen(home, *shard, *epoch);
        }
        let Some(shard) = recovers else { return };
        let copies = &self.copies;
        let row = copies.rows.get(&(home, shard)).map(|it| it.1.clone());
        let wrote = copies.wrote.get(&(home, shard)).copied().unwrap_or(0);
        let group = held.iter().find(|it| it.shard == shard);
        // Somebody else wrote after this home did, or this home has forgotten that it ever did.
        let others = group.filter(|it| wrote < it.epoch).map(|it| it.place.clone());
        // Nobody else has owned the shard since.
        let is_last = copies.last.get(&shard).is_some_and(|last| (last.1, last.2) == (home, true));
        let own = row.clone().filter(|_| is_last);
        let musts = others.into_iter().chain(own).collect();
        let group = group.map(|it| it.place.clone());
        self.copies.reads.insert((home, shard), Read { group, row, musts });
    }

    pub(in crate::sim) fn on_seen(&mut self, home: usize, shard: usize, epoch: u64) {
        let seen = self.copies.seen.entry((home, shard)).or_default();
        *seen = epoch.max(*seen);
        self.on_superseded(home, shard, epoch);
    }

    /// A home has no earlier epoch of the shard any more: what that owed the group, the next brings.
    pub(in crate::sim) fn on_superseded(&mut self, home: usize, shard: usize, epoch: u64) {
        let over = |it: &Owed| it.home == home && it.epoch < epoch;
        if self.copies.owed.get(&shard).is_some_and(over) {
            self.copies.owed.remove(&shard);
        }
    }

    /// A home begins to produce or to commit for a shard.
    pub(in crate::sim) fn on_act(
        &mut self,
        home: usize,
        shard: usize,
        epoch: u64,
        what: &str,
    ) -> Result<(), String> {
        let seen = self.copies.seen.get(&(home, shard)).copied().unwrap_or(0);
        hold!(
            self,
            seen <= epoch,
            "OWN-5: home {home} has seen epoch {seen} of shard {shard} and {what} under {epoch}"
        );
        Ok(())
    }

    /// A home died: what it owed the group, the next owner brings.
    pub(in crate::sim) fn on_home_died(&mut self, home: usize) {
        self.copies.owed.retain(|_, it| it.home != home);
        self.copies.seen.retain(|it, _| it.0 != home);
    }

    /// A home's position log was deleted.
    pub(in crate::sim) fn on_log_deleted(&mut self, home: usize) {
        self.copies.rows.retain(|it, _| it.0 != home);
        self.copies.wrote.retain(|it, _| it.0 != home);
    }

    /// A home stands still, or its group refuses or is slow: it has its time from then on.
    pub(in crate::sim) fn on_excused(&mut self, home: usize, until: u64) {
        self.copies.excused.insert(home, until);
        for owed in self.copies.owed.values_mut().filter(|it| it.home == home) {
            owed.due = owed.due.max(until + FOLLOWS_WITHIN);
        }
    }

    /// From now on the group owes this place of its newest owner.
    pub(super) fn owe(
        &mut self,
        now: u64,
        (shard, epoch): (usize, u64),
        home: usize,
        place: &Place,
    ) {
        let from = self.copies.excused.get(&home).copied().unwrap_or(0).max(now);
        let owed = Owed { epoch, home, place: place.clone(), due: from + FOLLOWS_WITHIN };
        self.copies.owed.insert(shard, owed);
        if let Some(since) = self.copies.back.get_mut(&shard) {
            since.get_or_insert(now);
        }
    }

    /// Time passes.
    pub(in crate::sim) fn on_time(&self, now: u64) -> Result<(), String> {
        let Some((shard, owed)) = self.copies.owed.iter().find(|it| it.1.due < now) else {
            return Ok(());
        };
        let Owed { epoch, place, .. } = owed;
        Err(format!(
            "OWN-5: the group of shard {shard} has lacked {place:?} of epoch {epoch} for 2 s"
        ))
    }

    /// Whether this owner has settled all there is, and its group knows.
    pub(in crate::sim) fn is_at_end(&self, shard: usize, epoch: u64) -> bool {
        let (trigger, partition) = self.shards[shard];
        let end = self.high.get(&(trigger, partition)).copied().unwrap_or(0);
        let whole = Place { next: end, ..Place::default() };
        let owner = self.copies.owners.get(&(shard, epoch));
        owner.is_some_and(|it| self.lacking(shard, &it.place, &whole).is_none())
            && !self.copies.owed.contains_key(&shard)
    }

    /// The last word of each group.
    pub(in crate::sim::checker) fn groups_at_end(&mut self) -> Result<(), String> {
        for (&shard, &newest) in &self.copies.newest.clone() {
            let Some(owner) = self.copies.owners.get(&(shard, newest)) else { continue };
            let (epoch, place) = &self.copies.groups[&shard];
            let lacks = self.lacking(shard, place, &owner.place);
            hold!(
                self,
                lacks.is_none() || *epoch < newest,
                "DEL-7: the group of shard {shard} never got to {lacks:?}"
            );
            self.copies.tally.left_back += u64::from(lacks.is_some());
        }
        Ok(())
    }
}
