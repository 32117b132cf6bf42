//! A life on Kafka: what is on its way between the homes, the brokers, their groups and the homes'
//! disks, and what it does when it arrives.

use std::rc::Rc;

use bus::kafka::cores::{Committed, Note, agrees};
use bus::{Epoch, Handed, Offset, ShardId, TopicPartition};

use super::{Event, FleetEvent, KafkaLife, World};
use crate::sim::Bug;
use crate::sim::bus::Refused;
use crate::sim::groups::{Groups, Mark};
use crate::sim::home::{Home, HomeAsks, Name, Reading, Turn, Work};
use crate::sim::plan::{Plan, Rec, partition_of};

/// Records for one partition of one topic.
type Batch = ((usize, usize), Vec<(usize, Rec)>);

/// To and from the brokers and the disks: what is for a home is for one process of it.
#[derive(Debug)]
pub(super) enum KafkaEvent {
    /// Records of one partition reach their broker.
    Batch {
        home: usize,
        appends: Vec<(usize, Rec)>,
    },
    Produced {
        home: usize,
        process: u64,
        shard: usize,
        ok: bool,
    },
    /// A group is asked, and has answered.
    Ask {
        home: usize,
        process: u64,
        reading: Reading,
        trigger: usize,
    },
    Read {
        home: usize,
        process: u64,
        reading: Reading,
        held: Vec<Mark>,
    },
    /// A group's coordinator takes offsets or refuses, and has answered.
    Alter {
        home: usize,
        process: u64,
        turn: Turn,
        marks: Vec<Mark>,
        ok: bool,
    },
    Altered {
        home: usize,
        process: u64,
        turn: Turn,
        ok: bool,
    },
    Sync {
        home: usize,
        process: u64,
    },
    Tick {
        home: usize,
        process: u64,
    },
    /// The cluster's word reaches a home: it owns a shard.
    Assigned {
        home: usize,
        shard: usize,
        epoch: u64,
    },
    /// And it owns one no more.
    Told {
        life: u64,
    },
    /// The cluster gives a shard to somebody else, if that home still has it at this epoch.
    Failover {
        shard: usize,
        epoch: u64,
    },
    RestartHome {
        home: usize,
    },
    Pause,
}

impl KafkaEvent {
    /// The home that has to do something about it.
    pub(super) const fn home(&self) -> Option<usize> {
        match self {
            Self::Produced { home, .. }
            | Self::Read { home, .. }
            | Self::Altered { home, .. }
            | Self::Sync { home, .. }
            | Self::Tick { home, .. }
            | Self::Assigned { home, .. } => Some(*home),
            _ => None,
        }
    }
}

/// The state of a life on Kafka.
#[derive(Debug)]
pub(super) struct Kafka {
    pub(super) homes: Vec<Home>,
    pub(super) up: Vec<bool>,
    /// Until when each home stands still.
    pub(super) still: Vec<u64>,
    sync_due: Vec<bool>,
    ticked: Vec<u64>,
    /// Whom the cluster gave each shard last: home and epoch.
    pub(super) owners: Vec<(usize, u64)>,
    groups: Groups,
    names: Rc<[Name]>,
    pub(super) lost: u64,
    pub(super) fenced: u64,
    pub(super) life: KafkaLife,
}

impl Kafka {
    /// No homes on the embedded bus.
    pub(super) fn new(
        plan: &Plan,
        ids: &[ShardId],
        places: &[(usize, usize)],
        bug: Option<Bug>,
    ) -> Self {
        let name = |(&id, &(trigger, partition)): (&ShardId, &(usize, usize))| {
            let topic = format!("t{}", plan.triggers[trigger].source);
            Name { id, trigger, partition: TopicPartition::new(topic, partition as i32) }
        };
        let names: Rc<[Name]> = ids.iter().zip(places).map(name).collect();
        let homes = plan.kafka.map_or(0, |it| it.homes);
        Self {
            homes: (0..homes).map(|_| Home::new(Rc::clone(&names), bug)).collect(),
            up: vec![false; homes],
            still: vec![0; homes],
            sync_due: vec![false; homes],
            ticked: vec![0; homes],
            owners: vec![(0, 0); ids.len()],
            groups: Groups::default(),
            names,
            lost: 0,
            fenced: 0,
            life: KafkaLife::default(),
        }
    }

    /// A home starts.
    pub(super) fn open(&mut self, home: usize) {
        self.up[home] = true;
        self.still[home] = 0;
        self.sync_due[home] = false;
    }

    /// Whether this home stands still.
    pub(super) fn is_still(&self, home: usize, now: u64) -> bool {
        self.still.get(home).is_some_and(|until| now < *until)
    }

    /// Whether the group of a shard is no farther than what was handed over.
    pub(super) fn agrees(&self, shard: usize, handed: &Handed) -> bool {
        let held = self.groups.read(|it| it == shard);
        let committed = held.iter().filter_map(|it| {
            let partition = self.names[it.shard].partition.clone();
            Some(Committed { partition, next: Offset(it.offset), note: Note::decode(&it.text)? })
        });
        agrees(self.names[shard].id, handed, &committed.collect::<Vec<_>>())
    }

    pub(super) fn runs(&self, home: usize, process: u64) -> bool {
        self.up[home] && self.homes[home].process == process
    }
}

impl World {
    /// A home that stands still does nothing until then.
    pub(super) fn held_until(&self, event: &Event) -> Option<u64> {
        let triggers = self.plan.triggers.len();
        let home = match event {
            Event::Answer { place: Some((pool, ..)), .. }
            | Event::PoolWake(pool, _)
            | Event::Prepared { pool, .. } => Some(pool / triggers),
            Event::Wake(life)
            | Event::Answer { life, .. }
            | Event::Report(life, ..)
            | Event::Kafka(KafkaEvent::Told { life }) => self.shells.get(life).map(|it| it.home),
            Event::Kafka(event) => event.home(),
            Event::Fleet(event) => event.home(),
            _ => None,
        }?;
        let until = *self.kafka.still.get(home)?;
        (self.now < until).then_some(until)
    }

    /// Whether nothing is left to settle anywhere, nor to tell the groups.
    pub(super) fn have_groups_followed(&self) -> bool {
        let runs = |whose| self.shells.values().any(|it| (it.shard, it.epoch) == whose);
        let mut owners = self.kafka.owners.iter().enumerate().map(|(shard, it)| (shard, it.1));
        self.plan.kafka.is_none()
            || owners.all(|whose| runs(whose) && self.checker.is_at_end(whose.0, whose.1))
    }

    pub(super) fn submit(&mut self, home: usize, shard: usize, work: Work) -> Result<(), String> {
        self.kafka.homes[home].submit(shard, work)?;
        self.follow_home(home)
    }

    pub(super) fn on_kafka(&mut self, event: KafkaEvent) -> Result<(), String> {
        self.note(&event);
        match event {
            KafkaEvent::Batch { appends, .. } => {
                self.bus.append(&appends, &mut self.checker)?;
                return self.pump_all();
            }
            KafkaEvent::Ask { home, process, reading, trigger } => {
                let names = &self.kafka.names;
                let held = self.kafka.groups.read(|shard| names[shard].trigger == trigger);
                let event = KafkaEvent::Read { home, process, reading, held };
                self.travel(Event::Kafka(event));
            }
            KafkaEvent::Alter { home, process, turn, marks, ok } => {
                if ok {
                    for mark in &marks {
                        self.checker.on_group(self.now, home, mark)?;
                    }
                    self.kafka.groups.alter(&marks);
                } else {
                    self.checker.on_excused(home, self.now);
                }
                self.travel(Event::Kafka(KafkaEvent::Altered { home, process, turn, ok }));
            }
            KafkaEvent::Produced { home, process, shard, ok } => {
                if self.kafka.runs(home, process) {
                    self.kafka.homes[home].on_produced(shard, ok)?;
                    self.follow_home(home)?;
                }
            }
            KafkaEvent::Read { home, process, reading, held } => {
                if self.kafka.runs(home, process) {
                    let recovers = match reading {
                        Reading::Recover(shard) => Some(shard),
                        Reading::Follow(_) | Reading::Release(_) => None,
                    };
                    self.checker.on_read(home, &held, recovers);
                    self.kafka.homes[home].on_read(reading, &held)?;
                    self.follow_home(home)?;
                }
            }
            KafkaEvent::Altered { home, process, turn, ok } => {
                if self.kafka.runs(home, process) {
                    self.kafka.homes[home].on_altered(turn, ok)?;
                    self.follow_home(home)?;
                }
            }
            KafkaEvent::Sync { home, process } => {
                if self.kafka.runs(home, process) {
                    self.sync_home(home)?;
                }
            }
            KafkaEvent::Tick { home, process } => {
                if self.kafka.runs(home, process) {
                    self.kafka.ticked[home] = self.now;
                    self.kafka.homes[home].on_tick()?;
                    self.follow_home(home)?;
                }
            }
            KafkaEvent::Assigned { home, shard, epoch } => {
                if self.kafka.up[home] {
                    self.submit(home, shard, Work::Recover(epoch))?;
                }
            }
            KafkaEvent::Told { life } => drop(self.shells.remove(&life)),
            KafkaEvent::Failover { shard, epoch } => self.fail_over(shard, epoch)?,
            KafkaEvent::RestartHome { home } => self.restart_home(home)?,
            KafkaEvent::Pause => self.pause()?,
        }
        Ok(())
    }

    fn sync_home(&mut self, home: usize) -> Result<(), String> {
        self.kafka.sync_due[home] = false;
        let fails = !self.healed && self.faults.draw(80) == 0;
        let it = &mut self.kafka.homes[home];
        let shards =
            if fails { it.disk.fail() } else { it.disk.sync(home, self.now, &mut self.checker)? };
        it.on_written(&shards, !fails)?;
        self.follow_home(home)
    }

    /// Sends something from a home to Kafka.
    fn travel_from(&mut self, home: usize, event: Event) {
        let slow = !self.healed && self.times.draw(50) == 0;
        let at = self.now + 300 + self.times.draw(if slow { 100_000 } else { 3_000 });
        let at = self.reaches_kafka(home, at);
        self.at(at, event);
    }

    /// Sends something over the network.
    fn travel(&mut self, event: Event) {
        let slow = !self.healed && self.times.draw(50) == 0;
        self.after(300, if slow { 100_000 } else { 3_000 }, event);
    }

    /// Carries out what a home asks for.
    pub(super) fn follow_home(&mut self, home: usize) -> Result<(), String> {
        let process = self.kafka.homes[home].process;
        for asks in std::mem::take(&mut self.kafka.homes[home].asks) {
            if !self.kafka.runs(home, process) {
                break;
            }
            self.note(&asks);
            match asks {
                HomeAsks::Produce { shard, epoch, appends } => {
                    self.checker.on_act(home, shard, epoch, "produces")?;
                    self.produce_outputs(home, shard, appends);
                }
                HomeAsks::Read { reading, trigger, recovers } => {
                    if let Some((shard, epoch)) = recovers {
                        self.checker.on_superseded(home, shard, epoch);
                    }
                    let event = KafkaEvent::Ask { home, process, reading, trigger };
                    self.travel_from(home, Event::Kafka(event));
                }
                HomeAsks::Alter { turn, marks } => {
                    for mark in &marks {
                        self.checker.on_act(home, mark.shard, mark.epoch, "commits an offset")?;
                    }
                    let ok = self.healed || self.faults.draw(30) != 0;
                    let event = Event::Kafka(KafkaEvent::Alter { home, process, turn, marks, ok });
                    if self.healed || self.faults.draw(25) != 0 {
                        self.travel_from(home, event);
                    } else {
                        // So late that somebody else may own the shard by then.
                        let at = self.now + 100_000 + self.faults.draw(1_200_000);
                        self.checker.on_excused(home, at);
                        self.at(at, event);
                    }
                }
                HomeAsks::Write { shard, epoch } => {
                    self.checker.on_act(home, shard, epoch, "commits")?;
                    if !std::mem::replace(&mut self.kafka.sync_due[home], true) {
                        self.after(200, 5_000, Event::Kafka(KafkaEvent::Sync { home, process }));
                    }
                }
                HomeAsks::Report { commit, result } => {
                    match result {
                        Err(Refused::Fenced) => self.kafka.fenced += 1,
                        Err(Refused::Retry) => {
                            self.kafka.life.unsure += 1;
                            self.checker.on_unsure(commit.shard, commit.epoch, &commit.appends);
                        }
                        Ok(()) => {}
                    }
                    self.after(20, 100, Event::Report(commit.life, commit.id, result));
                }
                HomeAsks::Started { shard, epoch, place } => {
                    if self.plan.fleet.is_none() || self.is_begun(home, shard, epoch) {
                        self.start(home, shard, Epoch(epoch), place)?;
                    }
                }
                HomeAsks::Released { shard } => {
                    let event = FleetEvent::Released { home, process, shard };
                    self.after(20, 100, Event::Fleet(event));
                }
                HomeAsks::NotStarted { shard, epoch } if self.plan.fleet.is_some() => {
                    if self.is_begun(home, shard, epoch) {
                        let event = FleetEvent::Recover { home, process, shard, epoch };
                        self.after(20_000, 100_000, Event::Fleet(event));
                    }
                }
                HomeAsks::NotStarted { shard, epoch } => {
                    let event = KafkaEvent::Failover { shard, epoch };
                    self.after(20_000, 200_000, Event::Kafka(event));
                }
                HomeAsks::Tick => {
                    let every = self.plan.kafka.map_or(1, |it| it.follow_every);
                    let at = self.now.max(self.kafka.ticked[home] + every);
                    self.at(at, Event::Kafka(KafkaEvent::Tick { home, process }));
                }
            }
        }
        Ok(())
    }

    /// Each partition's records travel by themselves; the last acknowledgement is the commit's.
    fn produce_outputs(&mut self, home: usize, shard: usize, appends: Vec<(usize, Rec)>) {
        let process = self.kafka.homes[home].process;
        let ok = self.healed || self.faults.draw(40) != 0;
        let mut batches: Vec<Batch> = Vec::new();
        for (topic, rec) in appends {
            let to = (topic, partition_of(&rec, self.plan.partitions[topic]));
            match batches.iter_mut().find(|it| it.0 == to) {
                Some((_, batch)) => batch.push((topic, rec)),
                None => batches.push((to, vec![(topic, rec)])),
            }
        }
        let mut last = self.now;
        for (_, mut appends) in batches {
            let slow = !self.healed && self.times.draw(50) == 0;
            let at = self.now + 300 + self.times.draw(if slow { 100_000 } else { 8_000 });
            let at = self.reaches_kafka(home, at);
            last = last.max(at);
            if !ok {
                // Some of them arrived, and nobody heard of it.
                let arrived = self.faults.draw(appends.len() as u64 + 1) as usize;
                appends.truncate(arrived);
            }
            if !appends.is_empty() {
                self.at(at, Event::Kafka(KafkaEvent::Batch { home, appends }));
            }
        }
        let answered = last + 200 + self.times.draw(2_000);
        self.at(answered, Event::Kafka(KafkaEvent::Produced { home, process, shard, ok }));
    }
}
