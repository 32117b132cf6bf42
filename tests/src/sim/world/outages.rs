//! What befalls the homes of a life on Kafka: crashes, position logs that are deleted, homes that
//! stand still and go on as if nothing had been, and shards that get another owner.

use super::kafka::KafkaEvent;
use super::{Event, World};

impl World {
    /// Every home starts, and the cluster gives its shards away.
    pub(super) fn open_homes(&mut self) -> Result<(), String> {
        for home in 0..self.kafka.homes.len() {
            self.open_home(home)?;
        }
        for shard in 0..self.kafka.owners.len() {
            let home = self.faults.draw(self.kafka.homes.len() as u64) as usize;
            self.give(shard, home)?;
        }
        self.after(100_000, 900_000, Event::Kafka(KafkaEvent::Pause));
        Ok(())
    }

    pub(super) fn open_home(&mut self, home: usize) -> Result<(), String> {
        self.node += 1;
        self.kafka.open(home);
        self.open_pools(home)?;
        self.kafka.homes[home].start();
        self.follow_home(home)
    }

    /// The cluster agrees on a new owner. The old one hears of it, soon or never.
    fn give(&mut self, shard: usize, home: usize) -> Result<(), String> {
        let epoch = self.ground.assign(&[shard])?[0].0;
        self.kafka.life.assigned += 1;
        let (_, before) = std::mem::replace(&mut self.kafka.owners[shard], (home, epoch));
        let old = self.shells.values().find(|it| (it.shard, it.epoch) == (shard, before));
        if let Some(life) = old.map(|it| it.life)
            && self.faults.draw(2) == 0
        {
            self.after(0, 400_000, Event::Kafka(KafkaEvent::Told { life }));
        }
        self.after(100, 2_000, Event::Kafka(KafkaEvent::Assigned { home, shard, epoch }));
        Ok(())
    }

    /// A home that runs, if there is one.
    fn any_home(&mut self) -> Option<usize> {
        let runs = |home: &usize| self.kafka.up[*home] && !self.kafka.is_still(*home, self.now);
        let homes: Vec<usize> = (0..self.kafka.homes.len()).filter(runs).collect();
        let drawn = self.faults.draw(homes.len().max(1) as u64) as usize;
        homes.get(drawn).copied()
    }

    pub(super) fn fail_over(&mut self, shard: usize, epoch: u64) -> Result<(), String> {
        if self.kafka.owners[shard].1 != epoch {
            return Ok(());
        }
        match self.any_home() {
            Some(home) => self.give(shard, home),
            None => {
                let event = KafkaEvent::Failover { shard, epoch };
                self.after(50_000, 50_000, Event::Kafka(event));
                Ok(())
            }
        }
    }

    /// The cluster gives some of a home's shards to others.
    fn abandon(&mut self, home: usize, of: u64) {
        for shard in 0..self.kafka.owners.len() {
            let (owner, epoch) = self.kafka.owners[shard];
            if owner == home && self.faults.draw(of) != 0 {
                let event = KafkaEvent::Failover { shard, epoch };
                self.after(20_000, 280_000, Event::Kafka(event));
            }
        }
    }

    pub(super) fn takeover_home(&mut self) -> Result<(), String> {
        let shard = self.faults.draw(self.kafka.owners.len() as u64) as usize;
        if let Some(home) = self.any_home() {
            self.give(shard, home)?;
        }
        let next = 200_000 + self.faults.draw(1_500_000);
        self.at(self.now + next, Event::Takeover);
        Ok(())
    }

    /// A home dies, or its machine does. What it had sent gets lost, or comes late.
    pub(super) fn crash_home(&mut self) -> Result<(), String> {
        let works = |home: &usize| {
            let mut shells = self.shells.values().filter(|it| it.home == *home);
            let runs = shells.any(|it| 0 < it.core.running_invocations());
            self.kafka.up[*home] && (runs || self.kafka.homes[*home].is_busy())
        };
        let homes: Vec<usize> = (0..self.kafka.homes.len()).filter(works).collect();
        if homes.is_empty() {
            // It would show nothing.
            self.after(500, 4_000, Event::Crash);
            return Ok(());
        }
        let home = homes[self.faults.draw(homes.len() as u64) as usize];
        self.crashes += 1;
        let is_power = self.faults.draw(3) != 0;
        self.kill_home(home, is_power)?;
        if self.faults.draw(8) == 0 {
            self.kafka.homes[home].disk.clear();
            self.kafka.life.deleted += 1;
            self.checker.on_log_deleted(home);
        }
        self.abandon(home, 2);
        let down = 5_000 + self.faults.draw(800_000);
        self.at(self.now + down, Event::Kafka(KafkaEvent::RestartHome { home }));
        if self.crashes < self.plan.crashes {
            let next = down + 100_000 + self.faults.draw(900_000);
            self.at(self.now + next, Event::Crash);
        }
        self.note(&("crash", self.crashes, home));
        Ok(())
    }

    /// A home's process is gone; with the power some of what it had written, too.
    pub(super) fn kill_home(&mut self, home: usize, is_power: bool) -> Result<(), String> {
        self.shells.retain(|_, it| it.home != home);
        let triggers = self.plan.triggers.len();
        self.pools.retain(|pool, _| pool / triggers != home);
        self.kafka.up[home] = false;
        self.lose_sent(home);
        let power = is_power.then_some(&mut self.faults);
        let it = &mut self.kafka.homes[home];
        it.die();
        self.kafka.lost += it.disk.crash(power, home, self.now, &mut self.checker)?;
        self.checker.on_home_died(home);
        Ok(())
    }

    fn lose_sent(&mut self, home: usize) {
        let sent = |event: &Event| match event {
            Event::Kafka(
                KafkaEvent::Batch { home: from, .. } | KafkaEvent::Alter { home: from, .. },
            ) => *from == home,
            _ => false,
        };
        let keys: Vec<(u64, u64)> =
            self.events.iter().filter(|(_, event)| sent(event)).map(|(&key, _)| key).collect();
        for key in keys {
            let event = self.events.remove(&key).expect("it was just listed");
            if self.faults.draw(2) == 0 {
                self.after(1_000, 1_500_000, event);
            }
        }
    }

    pub(super) fn restart_home(&mut self, home: usize) -> Result<(), String> {
        self.open_home(home)?;
        for shard in 0..self.kafka.owners.len() {
            if self.kafka.owners[shard].0 == home {
                self.give(shard, home)?;
            }
        }
        Ok(())
    }

    /// A home stands still, and the cluster takes it for dead.
    pub(super) fn pause(&mut self) -> Result<(), String> {
        if self.healed {
            return Ok(());
        }
        if let Some(home) = self.any_home() {
            let until = self.now + 50_000 + self.faults.draw(2_500_000);
            self.stand_still(home, until);
            self.abandon(home, 3);
        }
        self.after(200_000, 2_000_000, Event::Kafka(KafkaEvent::Pause));
        Ok(())
    }

    /// A home does nothing until then, and goes on as if nothing had been.
    pub(super) fn stand_still(&mut self, home: usize, until: u64) {
        self.kafka.still[home] = until;
        self.kafka.life.pauses += 1;
        self.checker.on_excused(home, until);
        let lives: Vec<u64> =
            self.shells.values().filter(|it| it.home == home).map(|it| it.life).collect();
        lives.into_iter().for_each(|life| self.at(until, Event::Wake(life)));
    }
}
