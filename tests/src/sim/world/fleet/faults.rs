//! What befalls a fleet: crashes, power cuts, lost disks, cuts of the network, machines that stand
//! still, Kafka out of reach; and what operators do in the middle of it. A fault is counted when it
//! had an effect.

use cluster::{Image, changes_members};

use super::machine::Machine;
use super::{Event, FleetEvent, Gap, World};
use crate::raft_sim::member::Member;
use crate::sim::Bug;

impl World {
    pub(super) fn fault(&mut self) -> Result<(), String> {
        if self.healed {
            return Ok(());
        }
        self.after(150_000, 900_000, Event::Fleet(FleetEvent::Fault));
        match self.faults.draw(24) {
            0..=4 => self.crash_some(),
            5 => self.cut_power(),
            6 => self.lose_disk(),
            7..=10 => self.cut_network(),
            11..=13 => self.stop(),
            14..=15 => self.cut_kafka(),
            16..=17 => self.transfer(),
            18 => self.add_machine(),
            19 => self.begin_removal(),
            20..=21 => self.begin_drain(),
            _ => self.begin_retirement(),
        }
    }

    fn some_up(&mut self) -> Option<usize> {
        let machines = self.fleet.machines.iter().enumerate();
        let homes: Vec<usize> = machines.filter(|(_, it)| it.is_up()).map(|(at, _)| at).collect();
        let drawn = self.faults.draw(homes.len().max(1) as u64) as usize;
        homes.get(drawn).copied()
    }

    fn crash_some(&mut self) -> Result<(), String> {
        let is_power = self.faults.draw(2) == 0;
        match self.some_up() {
            Some(home) => self.crash_machine(home, is_power),
            None => Ok(()),
        }
    }

    /// A process ends where it is, or its machine does. It comes back.
    pub(super) fn crash_machine(&mut self, home: usize, is_power: bool) -> Result<(), String> {
        let machine = &self.fleet.machines[home];
        if !machine.is_up() {
            return Ok(());
        }
        let works = machine.leads() || self.shells.values().any(|it| it.home == home);
        self.fleet.life.crashes += u64::from(works);
        self.end_machine(home, is_power)
    }

    pub(super) fn end_machine(&mut self, home: usize, is_power: bool) -> Result<(), String> {
        self.end_process(home, is_power)?;
        let down = 100_000 + self.faults.draw(2_500_000);
        self.at(self.now + down, Event::Fleet(FleetEvent::Restart { home }));
        Ok(())
    }

    fn end_process(&mut self, home: usize, is_power: bool) -> Result<(), String> {
        self.note(&("ends", home, is_power));
        let fleet = &mut self.fleet;
        let machine = &mut fleet.machines[home];
        if !is_power {
            // What was written is with the system.
            machine.raft.sync(&mut fleet.judge)?;
        }
        machine.raft.crash();
        machine.mind = None;
        if self.kafka.up[home] { self.kill_home(home, is_power) } else { Ok(()) }
    }

    pub(super) fn restart_machine(&mut self, home: usize) -> Result<(), String> {
        let machine = &self.fleet.machines[home];
        let is_broken = self.fleet.broken == Some(home);
        if machine.raft.id == 0 || machine.is_up() || is_broken {
            return Ok(());
        }
        self.note(&("starts", home));
        self.start_machine(home)
    }

    fn cut_power(&mut self) -> Result<(), String> {
        self.fleet.life.power_cuts += 1;
        for home in 0..self.fleet.machines.len() {
            if self.fleet.machines[home].is_up() {
                self.end_machine(home, true)?;
            }
        }
        Ok(())
    }

    /// Whether the group must survive the loss of this disk: one of at least three that vote, while
    /// everybody knows who votes and nobody is about to change it.
    fn may_lose(&self, home: usize) -> bool {
        let (at, group) = self.fleet.judge.group();
        let is_newer = |entry: &cluster::Entry| changes_members(entry) && at < entry.index;
        let mut inside = self.fleet.machines.iter().filter(|it| group.contains(it.raft.id));
        let id = self.fleet.machines[home].raft.id;
        let knows =
            inside.clone().all(|it| it.raft.unsynced.is_empty() && at <= it.raft.disk.hard.commit);
        let none_changes = !inside.any(|it| it.raft.disk.entries.iter().any(is_newer));
        let is_on_its_way = self.events.values().any(|event| match event {
            Event::Fleet(FleetEvent::Message { message, .. }) => {
                message.entries.iter().any(is_newer)
            }
            _ => false,
        });
        let is_first = self.fleet.life.disks_lost == 0 && self.fleet.leaving.is_empty();
        let enough = 3 <= group.voters.len() && group.learners.is_empty();
        is_first && enough && knows && none_changes && !is_on_its_way && group.contains(id)
    }

    /// A disk is lost: its machine comes back with an empty one, under a new id.
    fn lose_disk(&mut self) -> Result<(), String> {
        let Some(home) = self.some_up().filter(|home| self.may_lose(*home)) else { return Ok(()) };
        self.fleet.life.disks_lost += 1;
        let id = self.fleet.machines[home].raft.id;
        self.end_machine(home, true)?;
        self.forget_home(home);
        if self.bug == Some(Bug::OldId) {
            let machine = &mut self.fleet.machines[home];
            machine.raft = Member::new(id, &Image::joining());
            machine.packages.clear();
            return Ok(());
        }
        self.fleet.dead.insert(id);
        self.fleet.draining.remove(&home);
        self.new_machine(home);
        Ok(())
    }

    fn new_machine(&mut self, home: usize) {
        self.fleet.newest += 1;
        let member = Member::new(self.fleet.newest, &Image::joining());
        self.fleet.machines[home] = Machine::new(member);
    }

    /// A machine that never was here joins.
    pub(super) fn add_machine(&mut self) -> Result<(), String> {
        let free = self.fleet.machines.iter().position(|it| it.raft.id == 0);
        let Some(home) = free else { return Ok(()) };
        self.new_machine(home);
        self.note(&("joins", home));
        self.start_machine(home)
    }

    /// A machine of a former member is no more.
    pub(super) fn take_away(&mut self, home: usize) -> Result<(), String> {
        self.end_process(home, true)?;
        self.forget_home(home);
        self.fleet.draining.remove(&home);
        self.fleet.machines[home] = Machine::new(Member::new(0, &Image::joining()));
        Ok(())
    }

    fn cut_network(&mut self) -> Result<(), String> {
        let Some(one) = self.some_up() else { return Ok(()) };
        let until = self.now + 100_000 + self.faults.draw(3_000_000);
        let kind = self.faults.draw(4);
        self.isolate(one, kind, until);
        Ok(())
    }

    /// Messages to this machine, from it, or both are lost from now on.
    pub(super) fn isolate(&mut self, one: usize, kind: u64, until: u64) {
        self.note(&("cut", one, kind, until));
        self.fleet.next_cut += 1;
        let gap = Gap { until, cut: self.fleet.next_cut };
        for other in (0..self.fleet.machines.len()).filter(|other| *other != one) {
            if kind != 1 {
                self.fleet.gaps.insert((one, other), gap);
            }
            if kind != 0 {
                self.fleet.gaps.insert((other, one), gap);
            }
        }
    }

    /// Whether the network carries a message now.
    pub(super) fn carries(&mut self, from: usize, to: usize) -> bool {
        let now = self.now;
        let Some(gap) = self.fleet.gaps.get(&(from, to)).filter(|gap| now < gap.until) else {
            return true;
        };
        self.fleet.life.cuts += u64::from(!self.healed && self.fleet.struck.insert(gap.cut));
        false
    }

    fn stop(&mut self) -> Result<(), String> {
        let Some(home) = self.some_up() else { return Ok(()) };
        if !self.kafka.is_still(home, self.now) {
            self.fleet.life.stops += 1;
            let until = self.now + 100_000 + self.faults.draw(3_500_000);
            self.stand_still(home, until);
        }
        Ok(())
    }

    fn cut_kafka(&mut self) -> Result<(), String> {
        let Some(home) = self.some_up() else { return Ok(()) };
        let until = self.now + 200_000 + self.faults.draw(2_000_000);
        self.fleet.cut_off[home] = until;
        self.fleet.has_no_kafka.insert(home);
        self.checker.on_excused(home, until + 1_000_000);
        let lives: Vec<u64> =
            self.shells.values().filter(|it| it.home == home).map(|it| it.life).collect();
        lives.into_iter().for_each(|life| self.at(until, Event::Wake(life)));
        Ok(())
    }

    /// When a request of this home reaches Kafka that would do so at that time.
    pub(in crate::sim::world) fn reaches_kafka(&mut self, home: usize, at: u64) -> u64 {
        let until = self.fleet.cut_off.get(home).copied().unwrap_or_default();
        if self.now < until {
            let is_first = self.fleet.has_no_kafka.remove(&home);
            self.fleet.life.without_kafka += u64::from(is_first);
            return until + (at - self.now);
        }
        at
    }

    /// Until when this home can read nothing, if it cannot now.
    pub(in crate::sim::world) fn cut_off_until(&self, home: usize) -> Option<u64> {
        self.fleet.cut_off.get(home).copied().filter(|until| self.now < *until)
    }

    fn transfer(&mut self) -> Result<(), String> {
        let Some(home) = self.fleet.machines.iter().position(|it| it.is_up() && it.leads()) else {
            return Ok(());
        };
        let me = self.fleet.machines[home].raft.id;
        let voters = self.fleet.judge.group().1.voters.iter();
        let others: Vec<u64> = voters.copied().filter(|it| *it != me).collect();
        let drawn = self.faults.draw(others.len().max(1) as u64) as usize;
        let Some(heir) = others.get(drawn).copied() else { return Ok(()) };
        let mut begun = false;
        if !self.kafka.is_still(home, self.now) {
            self.input(home, |process| begun = process.group.transfer(heir).is_ok())?;
        }
        self.fleet.heir = begun.then_some(heir).or(self.fleet.heir);
        Ok(())
    }

    fn begin_removal(&mut self) -> Result<(), String> {
        let (_, group) = self.fleet.judge.group();
        let there = group.voters.iter().filter(|it| !self.fleet.dead.contains(it)).count();
        if 3 < there
            && self.fleet.leaving.is_empty()
            && self.fleet.dead.is_empty()
            && let Some(home) = self.some_up()
        {
            let id = self.fleet.machines[home].raft.id;
            if self.fleet.judge.group().1.voters.contains(&id) {
                self.fleet.leaving.insert(id);
            }
        }
        Ok(())
    }

    fn begin_drain(&mut self) -> Result<(), String> {
        let until = self.now + 1_500_000 + self.faults.draw(2_000_000);
        if self.fleet.draining.is_empty()
            && let Some(home) = self.some_up()
        {
            self.fleet.draining.insert(home, (until, false));
        }
        Ok(())
    }

    fn begin_retirement(&mut self) -> Result<(), String> {
        let now = self.now;
        if let Some(home) = self.some_up()
            && let Some(mind) = &mut self.fleet.machines[home].mind
        {
            mind.retires.get_or_insert(now);
        }
        Ok(())
    }

    /// Nothing of what its position log said is there any more.
    fn forget_home(&mut self, home: usize) {
        self.kafka.homes[home].disk.clear();
        self.kafka.life.deleted += 1;
        self.checker.on_log_deleted(home);
    }
}
