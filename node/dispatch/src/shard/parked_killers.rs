//! Parked records that end the node which runs them, under a supervisor: NK-6 and NK-7 in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::{Duration, Instant};

use bus::{BatchBuilder, Epoch, Headers, Offset, Position, RecordBatch, Timestamp};

use super::{NODE_ENDED, PartitionStart, ShardDispatch};
use crate::command::{
    BatchLimits, Command, DispatchConfig, End, Loaded, Outcome, ParkLimits, Resumed, Wanted,
};
use crate::suspects::ATTEMPTS_MIN;
use crate::{CommitId, InvocationId};

const RECORDS: i64 = 60;

/// What an envelope says: attempts, and ends of nodes. `None`: a tombstone.
type Said = Option<(u32, u32)>;
/// A dead letter: its record, attempts and failure.
type Dead = (i64, u32, String);
/// A commit in flight: its envelopes, and its dead letters.
type Sent = (CommitId, Vec<(i64, Said)>, Vec<Dead>);

struct World {
    rng: u64,
    config: DispatchConfig,
    now: Instant,
    killers: BTreeSet<i64>,
    log: Vec<(i64, Said)>,
    dead: Vec<Dead>,
    lives: u64,
    deaths: u32,
}

/// What a life of the node holds.
struct Life {
    core: ShardDispatch,
    running: Vec<(InvocationId, Vec<i64>)>,
    loading: Option<Vec<Wanted>>,
    parks: Vec<(i64, Said)>,
    gathered: Vec<Dead>,
    sent: Option<Sent>,
    /// What envelopes said when it began, of records that it has not outlived.
    doubted: BTreeMap<i64, u32>,
}

fn key(offset: i64) -> [u8; 1] {
    [(offset % 15) as u8]
}

fn alone(offset: i64) -> RecordBatch {
    let mut builder = BatchBuilder::default();
    builder.push(Timestamp(0), Some(&key(offset)), Some(b"v"), Headers::default());
    builder.finish().unwrap().with_base(Offset(offset))
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            config: DispatchConfig::default(),
            now: Instant::now(),
            killers: BTreeSet::new(),
            log: (0..RECORDS).map(|offset| (offset, Some((1, 0)))).collect(),
            dead: Vec::new(),
            lives: 0,
            deaths: 0,
        };
        let count = |count| NonZeroUsize::new(count).unwrap();
        let records = count(1 + world.draw(12));
        world.config.batch = BatchLimits { records, window: Duration::ZERO, ..world.config.batch };
        world.config.invocations_max = count(1 + world.draw(3));
        world.config.park = Some(ParkLimits::default());
        let attempts = u32::try_from(2 + world.draw(8)).unwrap();
        world.config.retry.attempts_max = NonZeroU32::new(attempts).unwrap();
        for _killer in 0..1 + world.draw(3) {
            let offset = world.draw(RECORDS as usize) as i64;
            world.killers.insert(offset);
        }
        world
    }

    fn draw(&mut self, below: usize) -> usize {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        (self.rng % below as u64) as usize
    }

    /// What is parked, durably: where, attempts, ends of nodes.
    fn parked(&self) -> BTreeMap<i64, (i64, u32, u32)> {
        let mut parked = BTreeMap::new();
        for (at, (offset, said)) in (0..).zip(&self.log) {
            match said {
                Some((attempts, ended)) => drop(parked.insert(*offset, (at, *attempts, *ended))),
                None => drop(parked.remove(offset)),
            }
        }
        parked
    }

    fn start(&mut self) -> Life {
        self.lives += 1;
        let next = Offset(RECORDS);
        let position = Position { next, ..Position::default() };
        let start = PartitionStart { position, fresh: false, end: next };
        let (config, epoch) = (self.config.clone(), Epoch(self.lives));
        let mut core =
            ShardDispatch::new(config, epoch, &[start], self.lives, self.now, Timestamp(0));
        let parked = self.parked();
        let resumed = |(offset, &(place, attempts, ended)): (&i64, &(i64, u32, u32))| Resumed {
            at: Wanted { partition: 0, offset: Offset(*offset), place: Offset(place) },
            key: Some(key(*offset).to_vec()),
            bytes: 2,
            attempts,
            due: Timestamp(0),
            ended,
        };
        core.resume_parked(parked.iter().map(resumed).collect(), Vec::new());
        let doubted = parked.iter().map(|(offset, it)| (*offset, it.2)).collect();
        let (running, parks, gathered) = (Vec::new(), Vec::new(), Vec::new());
        let mut life = Life { core, running, loading: None, parks, gathered, sent: None, doubted };
        self.follow(&mut life);
        life
    }

    fn follow(&self, life: &mut Life) {
        while let Some(command) = life.core.poll_command() {
            let offset = |core: &ShardDispatch, record| core.record(record).view.offset.0;
            match command {
                Command::Invoke { id, .. } => {
                    let ids = life.core.records(id);
                    let offsets: Vec<i64> = ids.iter().map(|it| offset(&life.core, *it)).collect();
                    self.check_named(life, &offsets);
                    life.running.push((id, offsets));
                }
                Command::Gather { .. } | Command::Drained => {}
                Command::DeadLetter(it) => {
                    let at = offset(&life.core, it.record);
                    life.gathered.push((at, it.attempts, it.code));
                }
                Command::Park(park) => {
                    let said = Some((park.attempts, park.ended));
                    life.parks.push((offset(&life.core, park.record), said));
                }
                Command::Unpark(record) => life.parks.push((offset(&life.core, record), None)),
                Command::Load(wanted) => life.loading = Some(wanted),
                Command::Commit { id, .. } => {
                    let mut parks = std::mem::take(&mut life.parks);
                    parks.sort_by_key(|it| it.1.is_none());
                    life.sent = Some((id, parks, std::mem::take(&mut life.gathered)));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// NK-6: one more than when the shard began; and alone from the third on.
    fn check_named(&self, life: &Life, offsets: &[i64]) {
        let parked = self.parked();
        for offset in offsets {
            if let Some(before) = life.doubted.get(offset) {
                assert_eq!(parked[offset].2, before + 1, "NK-6: {offset}");
                assert!(*before < 2 || offsets.len() == 1, "NK-6: {offset} is not alone");
            }
        }
    }

    /// The bus has the commit in flight, whether or not the shard hears of it.
    fn make_durable(&mut self, life: &mut Life) -> Option<(CommitId, i64)> {
        let (id, parks, dead) = life.sent.take()?;
        let at = self.log.len() as i64;
        self.log.extend(parks);
        self.dead.extend(dead);
        Some((id, at))
    }

    /// One thing happens; whether the node outlives it.
    fn step(&mut self, life: &mut Life) -> bool {
        if life.core.wants_turn().is_some() {
            life.core.on_turn(self.now);
        } else if let Some(wanted) = life.loading.take() {
            let loaded = wanted.iter().map(|it| Loaded {
                partition: 0,
                batch: alone(it.offset.0),
                failure: ("E".to_owned(), String::new()),
            });
            life.core.on_loaded(self.now, loaded.collect());
        } else if life.sent.is_some() && (life.running.is_empty() || self.draw(2) == 0) {
            if let Some((id, at)) = self.make_durable(life) {
                life.core.on_committed(self.now, id, Some(Offset(at)));
            }
        } else if !life.running.is_empty() {
            let at = self.draw(life.running.len());
            let (id, offsets) = life.running.swap_remove(at);
            if offsets.iter().any(|it| self.killers.contains(it)) {
                if self.draw(2) == 0 {
                    self.make_durable(life);
                }
                self.deaths += 1;
                return false;
            }
            life.doubted.retain(|it, _| !offsets.contains(it));
            let fails = self.draw(6) == 0 && 2 < self.config.retry.attempts_max.get();
            let end = End::Failed { code: "E".to_owned(), message: String::new() };
            let exceptions = if fails { vec![(0, end)] } else { Vec::new() };
            life.core.on_outcome(self.now, id, Outcome::Ended { exceptions, output_bytes: 0 });
        } else {
            self.now = life.core.next_timeout().expect("something is to be done").max(self.now);
            life.core.on_timeout(self.now);
        }
        self.follow(life);
        true
    }

    fn play(mut self, seed: u64) {
        let ends_max = self.config.retry.attempts_max.get().max(ATTEMPTS_MIN);
        let mut life = self.start();
        for _step in 0..50_000 {
            if self.parked().is_empty() {
                break;
            }
            if !self.step(&mut life) {
                life = self.start();
            }
        }
        assert!(self.parked().is_empty(), "seed {seed}: something never ends");
        let ended = |it: &&Dead| it.2 == NODE_ENDED;
        let found: BTreeSet<i64> = self.dead.iter().filter(ended).map(|it| it.0).collect();
        assert_eq!(found, self.killers, "seed {seed}: NK-7");
        let attempts = self.dead.iter().filter(ended).map(|it| it.1);
        assert!(attempts.min() >= Some(ends_max), "seed {seed}: NK-7");
        let most = (ends_max + 2) * self.killers.len() as u32;
        assert!(self.deaths <= most, "seed {seed}: NK-7, {} of {most} deaths", self.deaths);
    }
}

#[test]
fn a_parked_record_that_ends_its_node_is_found() {
    for seed in 1..=500 {
        World::new(seed).play(seed);
    }
}
