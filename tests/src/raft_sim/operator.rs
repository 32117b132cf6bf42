//! What people do to a group while it lives: they add machines, promote, remove and replace them,
//! and hand over the lead; and what happens to their disks. Every machine has an id of its own; one
//! that lost its disk comes back under a new one.

use std::collections::BTreeSet;

use cluster::{Change, Image, changes_members};

use super::Bug;
use super::member::Member;
use super::world::World;

/// Machines at a time.
const MACHINES: usize = 6;

impl World {
    /// Machines come, are switched off when they are removed, and lose their disks.
    pub(super) fn change_machines(&mut self) {
        let machines: BTreeSet<u64> = self.members.iter().map(|it| it.id).collect();
        self.wire.retain(|message| machines.contains(&message.to));
        if self.heals {
            return;
        }
        let there = self.members.iter().filter(|it| !self.is_former(it.id)).count();
        if there < MACHINES && self.rng.draw(100) == 0 {
            self.add_machine();
        }
        if self.rng.draw(30) == 0 && self.all_know() {
            let (judge, members) = (&self.judge, &mut self.members);
            members.retain(|it| !judge.was_used(it.id) || judge.group().1.contains(it.id));
        }
        if self.rng.draw(60) == 0 {
            let place = self.rng.draw(self.members.len() as u64) as usize;
            if self.may_lose(self.members[place].id) {
                self.lose_disk(place);
            }
        }
    }

    fn add_machine(&mut self) {
        self.newest += 1;
        self.members.push(Member::new(self.newest, &Image::joining()));
    }

    fn lose_disk(&mut self, place: usize) {
        self.life.disks_lost += 1;
        self.crash(place);
        let id = self.members[place].id;
        if self.bug == Some(Bug::OldId) {
            let voters = self.judge.group().1.voters.iter().copied().collect();
            let first = match self.rng.draw(2) {
                0 => Image::joining(),
                _ => Image::founding(voters, Vec::new()),
            };
            self.members[place] = Member::new(id, &first);
            return;
        }
        self.dead.insert(id);
        self.members.remove(place);
        self.add_machine();
    }

    fn is_former(&self, id: u64) -> bool {
        self.judge.was_used(id) && !self.judge.group().1.contains(id)
    }

    /// Whether the newest change is known to be committed on the disk of everybody in the group
    /// whose disk is there, and no other is on its way.
    fn all_know(&self) -> bool {
        let (at, group) = self.judge.group();
        let knows = |it: &Member| it.unsynced.is_empty() && at <= it.disk.hard.commit;
        let mut inside = self.members.iter().filter(|it| group.contains(it.id));
        let is_newer = |entry: &cluster::Entry| changes_members(entry) && at < entry.index;
        inside.all(knows)
            && !self.members.iter().any(|it| it.disk.entries.iter().any(is_newer))
            && !self.wire.iter().any(|message| message.entries.iter().any(is_newer))
    }

    /// Whether the group must survive the loss of this disk: a minority of those who vote, also
    /// when learners that are dead are promoted by a leader who heard of them a moment ago, and
    /// nobody is about to be removed.
    fn may_lose(&self, id: u64) -> bool {
        let (_, group) = self.judge.group();
        let is_dead = |it: &&u64| **it == id || self.dead.contains(it);
        let there = group.voters.len() - group.voters.iter().filter(is_dead).count();
        let most = group.voters.len() + group.learners.iter().filter(is_dead).count();
        group.contains(id) && most / 2 < there && self.all_know()
    }

    /// What the operator asks of a leader.
    pub(super) fn operate(&mut self, place: usize) -> Result<(), String> {
        let id = self.members[place].id;
        let promotion = match &self.members[place].process {
            Some(process) if process.group.leads() => process.group.promotion(),
            _ => return Ok(()),
        };
        let (_, group) = self.judge.group();
        let others: Vec<u64> =
            group.voters.union(&group.learners).copied().filter(|it| *it != id).collect();
        let dead = others.iter().copied().find(|it| self.dead.contains(it));
        let waiting = self.members.iter().map(|it| it.id).find(|id| !self.judge.was_used(*id));
        let voters = group.voters.len() as u64;
        let change = match self.rng.draw(if self.heals { 3 } else { 60 }) {
            0 => waiting.map(Change::AddLearner),
            1 if dead.is_some() || self.heals => dead.map(Change::Remove),
            1 if 1 + self.rng.draw(3) < voters => self.pick(&others).map(Change::Remove),
            // Rarely one that is not caught up, or no learner at all.
            2 if !self.heals && self.rng.draw(9) == 0 => self.pick(&others).map(Change::Promote),
            2..10 => promotion,
            10 => {
                let Some(heir) = self.pick(&others) else { return Ok(()) };
                let mut begun = false;
                self.input(place, |process| begun = process.group.transfer(heir).is_ok())?;
                self.heir = begun.then_some(heir).or(self.heir);
                return Ok(());
            }
            _ => None,
        };
        let Some(change) = change else { return Ok(()) };
        let Some(process) = &mut self.members[place].process else { return Ok(()) };
        let request = process.next_request(id);
        let begun = process.group.change(request, change).is_ok();
        self.life.refused += u64::from(!begun);
        if let (true, Change::Promote(learner)) = (begun, change)
            && let Some(disk) = self.members.iter().find(|it| it.id == learner)
        {
            self.judge.promoted(learner, &self.members[place].disk, &disk.disk)?;
        }
        self.steps(place)
    }

    fn pick(&mut self, ids: &[u64]) -> Option<u64> {
        ids.get(self.rng.draw(ids.len().max(1) as u64) as usize).copied()
    }
}
