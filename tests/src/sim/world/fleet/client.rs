//! What people want of a fleet: changes that are acknowledged, reads, deploys; and what operators do
//! until it is done: let machines join, remove members, end drains.

use cluster::{Change, Command, MemberChange, Role};

use super::machine::Mind;
use super::{Event, FleetEvent, World};

impl World {
    /// A machine whose process runs and does not stand still.
    pub(super) fn some_machine(&mut self) -> Option<usize> {
        let there = |home: &usize| {
            self.fleet.machines[*home].is_up() && !self.kafka.is_still(*home, self.now)
        };
        let homes: Vec<usize> = (0..self.fleet.machines.len()).filter(there).collect();
        let drawn = self.fleet.people.draw(homes.len().max(1) as u64) as usize;
        homes.get(drawn).copied()
    }

    /// The member that has applied most.
    pub(super) fn newest(&self) -> Option<&Mind> {
        let up = self.fleet.machines.iter().filter(|it| it.is_up());
        let applied = |it: &&super::Machine| {
            it.raft.process.as_ref().map_or(0, |process| process.group.applied())
        };
        up.max_by_key(applied).and_then(|it| it.mind.as_ref())
    }

    pub(super) fn people_act(&mut self) -> Result<(), String> {
        if self.healed {
            return Ok(());
        }
        self.after(40_000, 200_000, Event::Fleet(FleetEvent::Client));
        let Some(home) = self.some_machine() else { return Ok(()) };
        let is_deployed = self.newest().is_some_and(|mind| !mind.state.apps().is_empty());
        match self.fleet.people.draw(10) {
            _ if !is_deployed => match self.fleet.deploys.is_empty() {
                true => self.deploy(home),
                false => Ok(()),
            },
            0 => self.deploy(home),
            1..=3 => self.read(home, 4 + self.now % 20).map(drop),
            _ => self.change(home),
        }
    }

    /// A change of no consequence, which must not be lost once it is acknowledged.
    fn change(&mut self, home: usize) -> Result<(), String> {
        let Some(mind) = &self.fleet.machines[home].mind else { return Ok(()) };
        let app = mind.state.apps().get("sim");
        let Some(revision) = app.map(|app| app.functions["f0"].revision.clone()) else {
            return Ok(());
        };
        let command = Command::Alias {
            name: "sim".to_owned(),
            function: "f0".to_owned(),
            alias: format!("a{}", self.now % 4),
            revision: Some(revision),
        };
        self.propose(home, &command).map(drop)
    }

    /// Whoever asked for a command hears that it is done.
    pub(super) fn on_acknowledged(
        &mut self,
        command: &Command,
        is_done: bool,
    ) -> Result<(), String> {
        match command {
            Command::Deploy { .. } if is_done => self.deployed(command),
            Command::Alias { .. } => {
                self.fleet.life.changes += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The first member applies a command.
    pub(super) fn on_agreed(&mut self, home: usize, command: &Command) {
        if !matches!(command, Command::Assign { .. } | Command::Deploy { .. }) {
            return;
        }
        let ids = self.ground.ids().to_vec();
        for (shard, id) in ids.iter().enumerate() {
            let mind = self.fleet.machines[home].mind.as_ref().expect("it applies");
            let Some(known) = mind.state.shards().get(id) else { continue };
            let (owner, epoch) = (known.owner, known.epoch.0);
            let home = owner.and_then(|owner| self.fleet.home_of(owner));
            self.kafka.owners[shard] = (home.unwrap_or(usize::MAX), epoch);
        }
        self.fleet.life.assigned = self.fleet.roll.assigned;
        self.deploy_agreed(command);
    }

    /// The first member applies a change of who belongs to the group.
    pub(super) fn on_changed(&mut self, change: Change) {
        match change {
            Change::AddLearner(_) => {}
            Change::Promote(_) => self.fleet.life.joined += 1,
            Change::Remove(id) => {
                self.fleet.life.removed += 1;
                self.fleet.leaving.remove(&id);
                self.fleet.dead.remove(&id);
            }
        }
    }

    /// Operators go on with what they have begun.
    pub(super) fn operate(&mut self) -> Result<(), String> {
        self.let_join()?;
        self.remove_members()?;
        self.end_drains()?;
        self.end_retired()?;
        self.switch_off()
    }

    /// Machines that nobody knows yet say that they want to join.
    fn let_join(&mut self) -> Result<(), String> {
        let Some(newest) = self.newest() else { return Ok(()) };
        let known = newest.state.roster().members();
        let ids = self.fleet.machines.iter().map(|it| it.raft.id).filter(|id| *id != 0);
        // Ids are given in order.
        let Some(member) = ids.filter(|id| !known.contains_key(id)).min() else { return Ok(()) };
        if self.fleet.judge.was_used(member) {
            return Ok(());
        }
        let Some(home) = self.some_machine() else { return Ok(()) };
        if self.fleet.machines[home].raft.id == member {
            return Ok(());
        }
        let (name, key) = (format!("n{member}"), [member as u8; 32]);
        let change = MemberChange::Join { name, address: String::new(), key, token: None };
        self.propose(home, &Command::Member { member, change }).map(drop)
    }

    fn remove_members(&mut self) -> Result<(), String> {
        let fleet = &mut self.fleet;
        let ids = fleet.dead.union(&fleet.leaving);
        let (_, group) = fleet.judge.group();
        let Some(id) = ids.copied().find(|id| group.contains(*id)) else { return Ok(()) };
        let Some(home) = fleet.machines.iter().position(|it| it.is_up() && it.leads()) else {
            return Ok(());
        };
        let me = fleet.machines[home].raft.id;
        let heir = group.voters.iter().copied().find(|it| *it != me && !fleet.dead.contains(it));
        let process = fleet.machines[home].raft.process.as_mut().expect("it leads");
        let request = process.next_request(me);
        if me == id {
            if let Some(heir) = heir {
                process.group.transfer(heir).ok();
            }
        } else {
            process.group.change(request, Change::Remove(id)).ok();
        }
        self.steps(home)
    }

    fn end_drains(&mut self) -> Result<(), String> {
        let homes: Vec<usize> = self.fleet.draining.keys().copied().collect();
        for home in homes {
            let (until, has_left) = self.fleet.draining[&home];
            let member = self.fleet.machines[home].raft.id;
            let known = self.newest().and_then(|it| it.state.roster().members().get(&member));
            let is_draining = known.is_some_and(|it| it.is_draining);
            let is_member = known.is_some_and(|it| it.role == Role::Voter);
            if !is_member || (until <= self.now && !is_draining) {
                self.fleet.draining.remove(&home);
                self.fleet.life.drained += u64::from(has_left);
            } else if let Some(by) = self.some_machine() {
                let change = match (until <= self.now, is_draining) {
                    (true, true) => MemberChange::Undrain,
                    (false, false) => MemberChange::Drain,
                    _ => continue,
                };
                self.propose(by, &Command::Member { member, change })?;
            }
        }
        if let Some(member) = self.forgotten_drain()
            && let Some(by) = self.some_machine()
        {
            let change = MemberChange::Undrain;
            self.propose(by, &Command::Member { member, change })?;
        }
        Ok(())
    }

    /// What drains although nobody wants it any more: the word came late.
    pub(super) fn forgotten_drain(&self) -> Option<u64> {
        let members = self.newest()?.state.roster().members();
        let is_wanted = |id: u64| {
            let home = self.fleet.home_of(id);
            home.is_some_and(|home| self.fleet.draining.contains_key(&home))
        };
        let mut drained = members.iter().filter(|(_, it)| it.is_draining && it.role == Role::Voter);
        drained.find(|(id, _)| !is_wanted(**id)).map(|(id, _)| *id)
    }

    /// Processes that were to end, and whose shards are others' or have had their time.
    fn end_retired(&mut self) -> Result<(), String> {
        for home in 0..self.fleet.machines.len() {
            let machine = &self.fleet.machines[home];
            let id = machine.raft.id;
            let Some(mind) = machine.mind.as_ref() else { continue };
            let Some(since) = mind.retires else { continue };
            if self.kafka.is_still(home, self.now) {
                continue;
            }
            let has_none = mind.state.shards().values().all(|it| it.owner != Some(id));
            let is_told = mind.state.is_stopping(id);
            if (is_told && has_none) || since + 10_000_000 < self.now {
                self.fleet.life.retired += u64::from(has_none);
                self.end_machine(home, false)?;
            } else if !is_told {
                self.propose(home, &Command::Stop { member: id })?;
            }
        }
        Ok(())
    }

    /// Machines of former members are switched off.
    fn switch_off(&mut self) -> Result<(), String> {
        for home in 0..self.fleet.machines.len() {
            let id = self.fleet.machines[home].raft.id;
            let (_, group) = self.fleet.judge.group();
            if id == 0 || !self.fleet.judge.was_used(id) || group.contains(id) {
                continue;
            }
            if self.healed || self.fleet.people.draw(20) == 0 {
                self.take_away(home)?;
            }
        }
        Ok(())
    }
}
