//! The end of a life: no more faults, everything that can come back does, and all of it has to be
//! settled in time (OWN-4). In every other life a minority stays broken. Where none does, one more
//! machine joins when all is quiet, and may not move more than its share (OWN-3).

use std::collections::BTreeMap;

use super::{Event, FleetEvent, Phase, World};
use crate::sim::shell::Shell;

/// How long everything may take to be settled, in microseconds: elections, members that are found to
/// be gone, hand-overs that are not answered, drains that had begun.
const HEALED_WITHIN: u64 = 30_000_000;
/// And balanced: who was gone again and again gets nothing for half a minute (PL-3).
const BALANCED_WITHIN: u64 = 60_000_000;
/// How long things happen at least: a member that is gone is found to be so after a second.
const LIVES_FOR: u64 = 4_000_000;
/// How long the owners have to stay as they are before a balance is judged.
const QUIET: u64 = 1_500_000;

impl World {
    /// Whether enough has happened to a fleet.
    pub(in crate::sim::world) fn is_enough(&self) -> bool {
        self.plan.fleet.is_none_or(|plan| {
            let life = self.fleet.life();
            plan.faults <= life.faults && 0 < life.deploys && LIVES_FOR <= self.now
        })
    }

    /// Nothing more goes wrong; a minority may stay as it is.
    pub(in crate::sim::world) fn heal(&mut self) -> Result<(), String> {
        self.healed = true;
        if self.plan.fleet.is_none() {
            return Ok(());
        }
        self.fleet.phase = Phase::Healed(self.now);
        self.fleet.gaps.clear();
        for drain in self.fleet.draining.values_mut() {
            drain.0 = self.now;
        }
        self.note(&"heals");
        if self.plan.seed.is_multiple_of(2) {
            return Ok(());
        }
        let fleet = &self.fleet;
        let (_, group) = fleet.judge.group();
        let is_settled = fleet.dead.is_empty() && fleet.leaving.is_empty();
        let voters: Vec<u64> = group.voters.iter().copied().collect();
        if !is_settled || !group.learners.is_empty() || voters.len() < 3 {
            return Ok(());
        }
        let id = voters[self.faults.draw(voters.len() as u64) as usize];
        let Some(home) = self.fleet.home_of(id) else { return Ok(()) };
        self.fleet.broken = Some(home);
        self.fleet.draining.remove(&home);
        self.fleet.life.minorities += 1;
        match self.faults.draw(5) {
            0 if self.fleet.machines[home].is_up() => self.end_machine(home, true),
            1 if self.fleet.machines[home].is_up() => {
                self.stand_still(home, u64::MAX >> 1);
                Ok(())
            }
            0 | 1 => Ok(()),
            kind => {
                let broken = self.fleet.broken.take();
                self.restart_machine(home)?;
                self.fleet.broken = broken;
                self.isolate(home, kind - 2, u64::MAX);
                Ok(())
            }
        }
    }

    /// Somebody looks after the fleet.
    pub(super) fn look(&mut self) -> Result<(), String> {
        self.after(100_000, 1, Event::Fleet(FleetEvent::Look));
        self.demand_packages()?;
        self.operate()?;
        match self.fleet.phase {
            Phase::Faults | Phase::Over => Ok(()),
            Phase::Healed(since) => {
                if let Some(left) = self.left()? {
                    if since + HEALED_WITHIN < self.now {
                        return Err(format!("OWN-4: 30 s after it healed: {left}"));
                    }
                    return Ok(());
                }
                let life = &mut self.fleet.life;
                if life.healed_within == 0 {
                    life.healed_within = self.now - since;
                }
                self.demand_all_is_known()?;
                self.let_one_join(since)
            }
            Phase::Joining(since) => self.look_at_balance(since),
        }
    }

    /// What is not as it should be yet, if anything.
    fn left(&self) -> Result<Option<String>, String> {
        let fleet = &self.fleet;
        if !fleet.dead.is_empty() || !fleet.leaving.is_empty() || !fleet.draining.is_empty() {
            let (dead, leaving) = (&fleet.dead, &fleet.leaving);
            return Ok(Some(format!("{dead:?} and {leaving:?} are still members, or one drains")));
        }
        if let Some(drained) = self.forgotten_drain() {
            return Ok(Some(format!("member {drained} drains")));
        }
        if let Some(down) = self.healthy().find(|home| !fleet.machines[*home].is_up()) {
            return Ok(Some(format!("machine {down} is down")));
        }
        let (_, group) = fleet.judge.group();
        let outside = self.healthy().map(|home| fleet.machines[home].raft.id);
        if let Some(outside) = outside.into_iter().find(|id| !group.voters.contains(id)) {
            return Ok(Some(format!("member {outside} does not vote")));
        }
        let open = self.checker.open();
        if open != 0 || self.bus.has_pending() {
            return Ok(Some(format!("{open} records are not settled: {}", self.behind())));
        }
        // What stays broken owns its shards until it is found to be gone. Their positions may say
        // that all is settled, and what is parked is owed all the same.
        let counts = |it: &Shell| {
            let owns = self.kafka.owners[it.shard] == (it.home, it.epoch);
            owns || Some(it.home) != fleet.broken
        };
        let owes = |it: &&Shell| counts(it) && it.core.owed_records() != 0;
        if let Some(it) = self.shells.values().find(owes) {
            let (owed, Shell { shard, home, epoch, .. }) = (it.core.owed_records(), it);
            return Ok(Some(format!(
                "shard {shard} of home {home} at epoch {epoch} owes {owed} records"
            )));
        }
        let is_behind = || format!("no owner is at the end: {}", self.behind());
        Ok((!self.have_groups_followed()).then(is_behind))
    }

    /// Shards whose owner is not at the end, with where it is and its epoch, and whether it runs.
    fn behind(&self) -> String {
        let owners = self.kafka.owners.iter().enumerate();
        let behind = owners.filter(|(shard, it)| !self.checker.is_at_end(*shard, it.1));
        let tell = |(shard, (home, epoch)): (usize, &(usize, u64))| {
            let mut runs =
                self.shells.values().filter(|it| (it.shard, it.epoch) == (shard, *epoch));
            let state = runs.next().map(|it| it.core.state());
            format!("shard {shard} of home {home} at epoch {epoch}: {state:?}")
        };
        behind.map(tell).collect::<Vec<_>>().join(", ")
    }

    fn healthy(&self) -> impl Iterator<Item = usize> {
        let there = |home: &usize| {
            self.fleet.machines[*home].raft.id != 0 && self.fleet.broken != Some(*home)
        };
        (0..self.fleet.machines.len()).filter(there)
    }

    /// CLU-2: what was acknowledged is in the state of the newest of a quorum.
    fn demand_all_is_known(&mut self) -> Result<(), String> {
        let applied = |home: &usize| {
            let process = self.fleet.machines[*home].raft.process.as_ref();
            process.map_or(0, |it| it.group.applied())
        };
        let newest = self.healthy().max_by_key(applied).ok_or("CLU-2: nobody is there")?;
        let fleet = &mut self.fleet;
        let all = fleet.judge.acknowledged().len();
        let process = fleet.machines[newest].raft.process.as_ref().ok_or("CLU-2: nobody is up")?;
        fleet.judge.read(all, &process.numbers)
    }

    fn owners(&self) -> BTreeMap<bus::ShardId, u64> {
        let shards = self.newest().into_iter().flat_map(|mind| mind.state.shards());
        shards.filter_map(|(id, it)| Some((*id, it.owner?))).collect()
    }

    fn let_one_join(&mut self, since: u64) -> Result<(), String> {
        let is_free = self.fleet.machines.iter().any(|it| it.raft.id == 0);
        if self.fleet.broken.is_some() || !is_free {
            self.fleet.phase = Phase::Over;
            return Ok(());
        }
        if !self.is_quiet() || 1 < self.imbalance() {
            let is_late = since + BALANCED_WITHIN < self.now;
            let owners = self.owners();
            return match is_late {
                true => Err(format!("OWN-3: a minute after it healed: {owners:?}")),
                false => Ok(()),
            };
        }
        self.fleet.before = self.owners();
        self.fleet.phase = Phase::Joining(self.now);
        self.add_machine()
    }

    /// How many shards the fullest member owns more than the emptiest.
    fn imbalance(&self) -> usize {
        let owners = self.owners();
        let owned = |id: &u64| owners.values().filter(|owner| *owner == id).count();
        let counts = || self.fleet.judge.group().1.voters.iter().map(owned);
        counts().max().unwrap_or_default() - counts().min().unwrap_or_default()
    }

    /// Whether nobody owns anything else since a while, nothing is to be handed over, and nobody
    /// stands still: what such a machine owns is about to be somebody else's.
    fn is_quiet(&mut self) -> bool {
        let owners = self.owners();
        let shards = self.newest().into_iter().flat_map(|mind| mind.state.shards().values());
        let stays = shards.into_iter().all(|it| it.target.is_none());
        let runs = !self.healthy().any(|home| self.kafka.is_still(home, self.now));
        if !stays || !runs || owners != self.fleet.quiet.1 {
            self.fleet.quiet = (self.now, owners);
        }
        self.fleet.quiet.0 + QUIET <= self.now
    }

    /// OWN-3.
    fn look_at_balance(&mut self, since: u64) -> Result<(), String> {
        let voters = self.fleet.judge.group().1.voters.clone();
        let is_in = voters.contains(&self.fleet.newest);
        let is_quiet = self.is_quiet() && since + QUIET <= self.now;
        if !is_in || !is_quiet || self.left()?.is_some() {
            if since + HEALED_WITHIN < self.now {
                let left = self.left()?;
                return Err(format!("OWN-4: a machine that joined changes nothing: {left:?}"));
            }
            return Ok(());
        }
        let (before, after) = (&self.fleet.before, self.owners());
        let moved = after.iter().filter(|(id, owner)| before.get(id) != Some(owner)).count();
        let most = after.len().div_ceil(voters.len()) + 1;
        self.fleet.roll.checks += 2;
        if most < moved {
            return Err(format!("OWN-3: a join moved {moved} shards, {most} allowed"));
        }
        if 1 < self.imbalance() {
            return Err(format!("OWN-3: after a join it is out of balance: {after:?}"));
        }
        self.fleet.life.rebalanced += 1;
        self.fleet.life.moved += moved as u64;
        self.fleet.phase = Phase::Over;
        Ok(())
    }
}
