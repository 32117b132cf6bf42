//! Who runs which shard, as node/src/node does it around the real cores: the leader plans
//! (planner.rs there), every machine follows the state (converge.rs), and gives shards away in order
//! (handing.rs).

use std::collections::BTreeSet;
use std::time::Duration;

use bus::{Epoch, Handed, ShardId};
use cluster::placing::{Planner, Sight};
use cluster::reconcile::{Action, Scene, actions};
use cluster::{Command, Placing};

use super::machine::{Leaving, Seat};
use super::{Event, FleetEvent, TICK, World};
use crate::sim::Bug;
use crate::sim::home::Work;

/// How long what is in flight may take to end before it is cut off, in microseconds.
const DRAIN_PATIENCE: u64 = 1_500_000;
/// How long the bus may take to say where the next owner goes on.
const RELEASE_PATIENCE: u64 = 1_000_000;
/// How long a proposal of the planner may be on its way.
const PLAN_PATIENCE: u64 = 2_000_000;

impl World {
    /// Has shards assigned and handed over while this member leads.
    pub(super) fn place(&mut self, home: usize) -> Result<(), String> {
        let now = self.now;
        let machine = &mut self.fleet.machines[home];
        let me = machine.raft.id;
        let (Some(process), Some(mind)) = (&machine.raft.process, &mut machine.mind) else {
            return Ok(());
        };
        if !process.group.leads() || mind.used.is_none() {
            mind.seat = None;
            return Ok(());
        }
        let (term, tick) = (process.group.term(), process.group.ticks());
        if mind.seat.as_ref().is_none_or(|it| it.term != term) {
            let planner = Planner::default();
            mind.seat = Some(Seat { term, since: now, tick, planner, asked: None });
        }
        let seat = mind.seat.as_mut().expect("it was just taken");
        let waits =
            |(request, at)| process.asked.contains_key(&request) && now < at + PLAN_PATIENCE;
        if seat.asked.is_some_and(waits) {
            return Ok(());
        }
        let unheard = process.group.unheard(seat.tick).into_iter();
        let per_tick = if self.bug == Some(Bug::NobodyRelieved) { 0 } else { TICK };
        let since = |(id, ticks)| (id, Duration::from_micros(per_tick * ticks));
        let unheard = unheard.map(since).collect();
        let led_for = Duration::from_micros(now - seat.since);
        let (state, unheard, limits) = (&mind.state, &unheard, &std::collections::BTreeMap::new());
        let sight = Sight { me, state, unheard, led_for, weighing: None, limits };
        let proposals = seat.planner.plan(sight);
        if proposals.is_empty() {
            return Ok(());
        }
        self.note(&("plan", home, &proposals));
        let commands = [
            (proposals.assign.len(), Command::Assign { moves: proposals.assign }),
            (proposals.hand.len(), Command::Hand { moves: proposals.hand }),
        ];
        for (_, command) in commands.into_iter().filter(|it| 0 < it.0) {
            let request = self.propose(home, &command)?;
            let mind = self.fleet.machines[home].mind.as_mut();
            if let Some(seat) = mind.and_then(|it| it.seat.as_mut()) {
                seat.asked = request.map(|it| (it, now));
            }
        }
        Ok(())
    }

    /// Brings what runs on a machine to what the state says.
    pub(super) fn converge(&mut self, home: usize) -> Result<(), String> {
        let machine = &mut self.fleet.machines[home];
        let (me, packages) = (machine.raft.id, &machine.packages);
        let Some(mind) = &mut machine.mind else { return Ok(()) };
        mind.wakes = false;
        let Some(used) = &mind.used else { return Ok(()) };
        if !mind.ending.is_empty() || !mind.starting.is_empty() {
            return Ok(());
        }
        let leaving: BTreeSet<ShardId> = mind.leaving.keys().copied().collect();
        let (shards, present) = (mind.state.shards(), &mind.present);
        let scene = Scene { me, shards, present, leaving: &leaving, used };
        // What ran before goes on until what is deployed is here.
        let can_run = !packages.is_empty();
        let actions = actions(scene, |_trigger| can_run);
        if !actions.is_empty() {
            self.note(&("converge", home, &actions));
        }
        for action in actions {
            if !self.fleet.machines[home].is_up() {
                return Ok(());
            }
            self.act(home, action)?;
        }
        Ok(())
    }

    fn act(&mut self, home: usize, action: Action) -> Result<(), String> {
        let me = self.fleet.machines[home].raft.id;
        let mind = self.fleet.machines[home].mind.as_mut().expect("it is up");
        match action {
            Action::Fence(id, epoch) => {
                mind.present.remove(&id);
                let shard = self.shard_of(id);
                self.kafka.homes[home].fence(shard, epoch.0);
                self.checker.on_seen(home, shard, epoch.0);
                self.shells.retain(|_, it| (it.home, it.shard) != (home, shard));
                self.drained(home, id)?;
            }
            Action::End(id) | Action::Forget(id) => {
                mind.present.remove(&id);
                if self.drain(home, id)? {
                    let mind = self.fleet.machines[home].mind.as_mut().expect("it is up");
                    mind.ending.insert(id);
                } else {
                    self.wake(home);
                }
            }
            Action::HandOver { shard: id, ends, .. } => {
                mind.present.remove(&id);
                mind.leaving.insert(id, Leaving { ends, drained: false, released: false });
                self.fleet.life.handed_over += 1;
                if let Some(has_left) = self.fleet.draining.get_mut(&home) {
                    has_left.1 = true;
                }
                if !self.drain(home, id)? {
                    self.drained(home, id)?;
                }
            }
            Action::Renew(shard, ends) => {
                self.propose(
                    home,
                    &Command::Assign { moves: vec![Placing { shard, ends, to: me }] },
                )?;
                let (process, at) = (self.process(home), self.now + 500_000);
                if let Some(mind) = &mut self.fleet.machines[home].mind
                    && mind.looks_again <= self.now
                {
                    mind.looks_again = at;
                    self.at(at, Event::Fleet(FleetEvent::Converge { home, process }));
                }
            }
            Action::Start(id, epoch) => {
                mind.present.insert(id, epoch);
                mind.starting.insert(id);
                mind.used.as_mut().expect("it is known").insert(id, epoch);
                self.fleet.roll.started(me, id, epoch)?;
                let handed = mind.handed.remove(&id).filter(|it| it.ends.0 + 1 == epoch.0);
                let shard = self.shard_of(id);
                let work = match handed {
                    Some(handed) => {
                        self.fleet.life.taken_over += 1;
                        self.checker.on_superseded(home, shard, epoch.0);
                        Work::TakeOver(epoch.0, handed)
                    }
                    None => Work::Recover(epoch.0),
                };
                self.submit(home, shard, work)?;
            }
        }
        Ok(())
    }

    /// Lets a shard end; false if it does not run.
    fn drain(&mut self, home: usize, id: ShardId) -> Result<bool, String> {
        let (shard, now) = (self.shard_of(id), self.instant());
        let mut shells = self.shells.values_mut();
        let Some(shell) = shells.find(|it| (it.home, it.shard) == (home, shard)) else {
            return Ok(false);
        };
        let life = shell.life;
        shell.core.on_drain(now);
        self.after(DRAIN_PATIENCE, 1, Event::Fleet(FleetEvent::Cut { home, life }));
        // It may be over at once, and is then found to be.
        self.at(self.now, Event::Wake(life));
        Ok(true)
    }

    /// What did not end in time is cut off.
    pub(super) fn cut_short(&mut self, home: usize, life: u64) -> Result<(), String> {
        match self.shells.remove(&life) {
            Some(shell) => self.on_over(home, shell.shard, shell.epoch),
            None => Ok(()),
        }
    }

    /// A shell is no more: it has ended, or was stopped.
    pub(in crate::sim::world) fn on_over(
        &mut self,
        home: usize,
        shard: usize,
        epoch: u64,
    ) -> Result<(), String> {
        let id = self.ground.ids()[shard];
        let Some(mind) = &mut self.fleet.machines[home].mind else { return Ok(()) };
        if mind.ending.remove(&id) {
            self.wake(home);
            return Ok(());
        }
        match mind.leaving.get(&id) {
            Some(leaving) if leaving.ends == Epoch(epoch) => self.drained(home, id),
            _ => Ok(()),
        }
    }

    /// A shard that is handed over has ended: the bus says where the next owner goes on.
    fn drained(&mut self, home: usize, id: ShardId) -> Result<(), String> {
        let (shard, process) = (self.shard_of(id), self.process(home));
        let Some(mind) = &mut self.fleet.machines[home].mind else { return Ok(()) };
        let Some(leaving) = mind.leaving.get_mut(&id) else { return Ok(()) };
        if std::mem::replace(&mut leaving.drained, true) {
            return Ok(());
        }
        self.after(
            RELEASE_PATIENCE,
            1,
            Event::Fleet(FleetEvent::Released { home, process, shard }),
        );
        self.tell(home, id);
        self.kafka.homes[home].release(shard)?;
        self.follow_home(home)
    }

    /// Tells the next owner of a shard where it has ended.
    fn tell(&mut self, from: usize, id: ShardId) {
        let shard = self.shard_of(id);
        let Some(mind) = &self.fleet.machines[from].mind else { return };
        let Some(ends) = mind.leaving.get(&id).map(|it| it.ends) else { return };
        let target = mind.state.shards().get(&id).and_then(|it| it.target);
        let home = target.and_then(|it| self.fleet.home_of(it));
        let handed = self.kafka.homes[from].handed(shard, ends);
        if let (Some(home), Some(handed)) = (home, handed.map(Box::new)) {
            let delay = 200 + self.fleet.network.draw(20_000);
            let event = FleetEvent::Handed { home, from, shard, handed };
            self.at(self.now + delay, Event::Fleet(event));
        }
    }

    /// What the owner before says arrives: it counts as long as the state says that it owns the
    /// shard and is to hand it over to this machine, and the group is no farther.
    pub(super) fn inherit(&mut self, home: usize, from: usize, shard: usize, handed: Handed) {
        if !self.fleet.machines[home].is_up() || !self.carries(from, home) {
            return;
        }
        let id = self.ground.ids()[shard];
        let (me, sender) = (self.fleet.machines[home].raft.id, self.fleet.machines[from].raft.id);
        let agrees = self.kafka.agrees(shard, &handed);
        let Some(mind) = &mut self.fleet.machines[home].mind else { return };
        let is_expected = mind.state.shards().get(&id).is_some_and(|it| {
            it.epoch == handed.ends && (it.owner, it.target) == (Some(sender), Some(me))
        });
        if is_expected && agrees {
            mind.handed.insert(id, handed);
        }
    }

    /// The bus has said it, or had its time.
    pub(in crate::sim::world) fn released(
        &mut self,
        home: usize,
        shard: usize,
    ) -> Result<(), String> {
        let id = self.ground.ids()[shard];
        let Some(mind) = &mut self.fleet.machines[home].mind else { return Ok(()) };
        let Some(leaving) = mind.leaving.get_mut(&id) else { return Ok(()) };
        if !leaving.drained || std::mem::replace(&mut leaving.released, true) {
            return Ok(());
        }
        let next = leaving.ends.0 + 1;
        // What was cut off may still be on its way to the bus.
        self.kafka.homes[home].fence(shard, next);
        self.checker.on_superseded(home, shard, next);
        self.give_away(home, id)
    }

    pub(super) fn give_away(&mut self, home: usize, id: ShardId) -> Result<(), String> {
        let process = self.process(home);
        let machine = &mut self.fleet.machines[home];
        let me = machine.raft.id;
        let Some(mind) = &mut machine.mind else { return Ok(()) };
        let Some(leaving) = mind.leaving.get(&id).filter(|it| it.released) else { return Ok(()) };
        let ends = leaving.ends;
        let known = &mind.state.shards()[&id];
        if known.owner != Some(me) || known.epoch != ends {
            mind.leaving.remove(&id);
            self.wake(home);
            return Ok(());
        }
        // Whoever was to get it may have gone meanwhile.
        let to = known.target.unwrap_or(me);
        self.propose(home, &Command::Assign { moves: vec![Placing { shard: id, ends, to }] })?;
        self.after(100_000, 50_000, Event::Fleet(FleetEvent::Give { home, process, shard: id }));
        Ok(())
    }

    /// Kafka has said where a shard goes on, or not; whether it is wanted here still.
    pub(in crate::sim::world) fn is_begun(
        &mut self,
        home: usize,
        shard: usize,
        epoch: u64,
    ) -> bool {
        let id = self.ground.ids()[shard];
        let Some(mind) = &mut self.fleet.machines[home].mind else { return false };
        if mind.starting.remove(&id) {
            self.wake(home);
        }
        self.is_wanted(home, shard, epoch)
    }

    fn is_wanted(&self, home: usize, shard: usize, epoch: u64) -> bool {
        let mind = self.fleet.machines[home].mind.as_ref();
        let present = mind.and_then(|it| it.present.get(&self.ground.ids()[shard]));
        present == Some(&Epoch(epoch))
    }

    pub(super) fn recover_again(
        &mut self,
        home: usize,
        shard: usize,
        epoch: u64,
    ) -> Result<(), String> {
        match self.is_wanted(home, shard, epoch) {
            true => self.submit(home, shard, Work::Recover(epoch)),
            false => Ok(()),
        }
    }
}
