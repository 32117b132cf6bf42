//! Crashes, restarts and takeovers: what dies, what survives, and where each shard goes on.

use bus::{Completions, Epoch, Offset, Position, Timestamp};
use dispatch::{PartitionStart, ShardDispatch};

use super::{Event, World};
use crate::sim::bus::Place;
use crate::sim::shell::Shell;

impl World {
    /// A node dies, or its machine does. Commits on their way get lost, or come late.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        if self.plan.kafka.is_some() {
            return self.crash_home();
        }
        let on_way: Vec<(u64, u64)> = self
            .events
            .iter()
            .filter(|(_, event)| matches!(event, Event::Arrive(_)))
            .map(|(&key, _)| key)
            .collect();
        let runs = self.shells.values().any(|it| 0 < it.core.running_invocations());
        if !runs && on_way.is_empty() {
            // It would show nothing.
            self.after(500, 4_000, Event::Crash);
            return Ok(());
        }
        self.crashes += 1;
        self.shells.clear();
        self.pools.clear();
        self.node += 1;
        for key in on_way {
            let commit = self.events.remove(&key).expect("it was just listed");
            if self.faults.draw(2) == 0 {
                self.after(1_000, 60_000, commit);
            }
        }
        if self.faults.draw(3) != 0 {
            self.bus.crash(&mut self.faults, &mut self.checker)?;
        }
        let down = 500 + self.faults.draw(15_000);
        self.at(self.now + down, Event::Restart);
        if self.crashes < self.plan.crashes {
            let next = down + 10_000 + self.faults.draw(90_000);
            self.at(self.now + next, Event::Crash);
        }
        self.note(&("crash", self.crashes));
        Ok(())
    }

    pub(super) fn restart(&mut self) -> Result<(), String> {
        if self.plan.fleet.is_some() {
            return self.open_fleet();
        }
        if self.plan.kafka.is_some() {
            return self.open_homes();
        }
        self.open_pools(0)?;
        let all: Vec<usize> = (0..self.ground.places().len()).collect();
        self.assign(&all)
    }

    pub(super) fn takeover(&mut self) -> Result<(), String> {
        if self.healed {
            return Ok(());
        }
        if self.plan.kafka.is_some() {
            return self.takeover_home();
        }
        if !self.pools.is_empty() {
            let shard = self.faults.draw(self.ground.places().len() as u64) as usize;
            self.assign(&[shard])?;
        }
        let next = 40_000 + self.faults.draw(150_000);
        self.at(self.now + next, Event::Takeover);
        Ok(())
    }

    /// Assigns shards anew, recovers them and starts them.
    fn assign(&mut self, shards: &[usize]) -> Result<(), String> {
        let epochs = self.ground.assign(shards)?;
        for (&shard, epoch) in shards.iter().zip(epochs) {
            let (place, acks) = self.bus.recover(shard, epoch.0, &mut self.checker)?;
            self.acknowledge(acks);
            self.start(0, shard, epoch, place)?;
        }
        self.pump_all()
    }

    pub(super) fn start(
        &mut self,
        home: usize,
        shard: usize,
        epoch: Epoch,
        place: Option<Place>,
    ) -> Result<(), String> {
        let (trigger, partition) = self.ground.places()[shard];
        let life = self.next_life;
        self.next_life += 1;
        let fresh = place.is_none();
        let place = place.unwrap_or_default();
        self.checker.on_life(life, shard, epoch.0, place.next);
        if self.plan.kafka.is_some() {
            self.checker.on_owner(life, home, (shard, epoch.0), &place)?;
        }
        let (resumed, untold) = self.beginning(trigger, partition, &place);
        self.checker.on_resumed(life, &resumed);
        let Place { next, completions, suspects } = place;
        let ranges = completions.into_iter().map(|(start, end)| (Offset(start), Offset(end)));
        let completions = Completions::from_ranges(ranges);
        let position = Position { epoch, next: Offset(next), completions, suspects };
        let end = Offset(self.bus.end(self.plan.triggers[trigger].source, partition));
        let start = PartitionStart { position, fresh, end };
        let config = self.plan.triggers[trigger].dispatch.clone();
        let wall = Timestamp(1_000 + (self.now / 1_000).cast_signed());
        let seed = self.plan.seed ^ (life << 40);
        let mut core = ShardDispatch::new(config, epoch, &[start], seed, self.instant(), wall);
        core.resume_parked(resumed, untold);
        let whose = (life, home, shard, epoch.0);
        let shell = Shell::new(&self.plan, whose, (trigger, partition), core, self.bug);
        self.shells.insert(life, shell);
        if let Some(until) = self.cut_off_until(home) {
            self.at(until, Event::Wake(life));
        }
        self.pump(life)
    }
}
