//! One simulated life: virtual time, the nodes' shards and pools, producers, and crashes, all from
//! one seed. Everything random comes from streams of their own, so that one leaves others alone.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::rc::Rc;
use std::time::{Duration, Instant};

use dispatch::{CommitFailure, CommitId, InvocationId, StopReason, Wanted};
use runtime::slots::SlotId;

use super::Bug;
use super::bus::{Ack, Refused, SimBus, SimCommit, Write};
use super::checker::Checker;
use super::cluster::Ground;
use super::handler::Answer;
use super::home::Work;
use super::plan::{IN, Plan, Rec};
use super::pool::{Pool, Request};
use super::shell::{Asks, Shell};
use crate::harness::rng::Rng;

mod faults;
mod fleet;
mod kafka;
mod life;
mod outages;
mod parked;
mod pools;

pub(super) use fleet::FleetLife;
use fleet::{Fleet, FleetEvent};
use kafka::{Kafka, KafkaEvent};
pub(super) use life::{KafkaLife, Life};

/// More events than any life needs: what is not settled by then never will be.
const EVENTS_MAX: u64 = 300_000;

#[derive(Debug)]
enum Event {
    Wake(u64),
    PoolWake(usize, u64),
    /// An answer; with the place of the instance when it is the first.
    Answer {
        life: u64,
        id: InvocationId,
        answer: Rc<Answer>,
        place: Option<(usize, u64, SlotId)>,
    },
    Prepared {
        pool: usize,
        node: u64,
        slot: SlotId,
        started: bool,
    },
    Arrive(SimCommit),
    Report(u64, CommitId, Result<(), Refused>),
    /// Parked records are read back.
    Load(u64, Vec<Wanted>),
    Sync,
    Produce,
    Crash,
    Restart,
    /// A shard is given away while its old owner still works on it.
    Takeover,
    Kafka(KafkaEvent),
    Fleet(FleetEvent),
}

/// See the module's head.
pub(super) struct World {
    plan: Plan,
    bug: Option<Bug>,
    base: Instant,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    bus: SimBus,
    checker: Checker,
    ground: Ground,
    shells: BTreeMap<u64, Shell>,
    /// By node and trigger.
    pools: BTreeMap<usize, Pool>,
    /// Nodes that started so far.
    node: u64,
    kafka: Kafka,
    fleet: Fleet,
    next_life: u64,
    sync_due: bool,
    /// No crash and no fault any more, and no more input.
    healed: bool,
    crashes: u64,
    next_value: u64,
    inputs: Rng,
    handler: Rng,
    times: Rng,
    faults: Rng,
    trace: Trace,
}

/// FNV-1a over all that was decided.
struct Trace(u64);

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

impl World {
    pub(super) fn new(plan: Plan, bug: Option<Bug>) -> Self {
        let seed = plan.seed;
        let homes = plan.kafka.map_or(0, |it| it.homes);
        let fleet = plan.fleet.map(|it| Fleet::new(seed, it.founders, homes));
        let ground = Ground::new(&plan);
        let base = Instant::now();
        Self {
            bus: SimBus::new(&plan, bug),
            kafka: Kafka::new(&plan, ground.ids(), ground.places(), bug),
            checker: Checker::new(&plan, ground.places()),
            fleet: fleet.unwrap_or_else(Fleet::none),
            ground,
            bug,
            base,
            now: 0,
            events: BTreeMap::new(),
            next_event: 0,
            shells: BTreeMap::new(),
            pools: BTreeMap::new(),
            node: 0,
            next_life: 0,
            sync_due: false,
            healed: false,
            crashes: 0,
            next_value: 0,
            inputs: Rng::new(seed, 3),
            handler: Rng::new(seed, 4),
            times: Rng::new(seed, 5),
            faults: Rng::new(seed, 6),
            trace: Trace(0xcbf2_9ce4_8422_2325),
            plan,
        }
    }

    /// Plays it to its end.
    pub(super) fn play(mut self) -> Result<Life, String> {
        self.at(0, Event::Restart);
        self.at(100, Event::Produce);
        let first = 20_000 + self.faults.draw(60_000);
        let takeover = 10_000 + self.faults.draw(150_000);
        if self.plan.fleet.is_none() {
            self.at(first, Event::Crash);
            self.at(takeover, Event::Takeover);
        }
        for _event in 0..EVENTS_MAX {
            let Some(((at, number), event)) = self.events.pop_first() else { break };
            self.now = at;
            if let Some(until) = self.held_until(&event) {
                self.events.insert((until, number), event);
                continue;
            }
            self.handle(event)?;
            if self.plan.fleet.is_some() {
                if self.fleet.is_over() {
                    break;
                }
                continue;
            }
            let is_settled = self.healed
                && self.checker.open() == 0
                && !self.bus.has_pending()
                && self.shells.values().all(|it| it.core.owed_records() == 0);
            if is_settled && self.have_groups_followed() {
                break;
            }
        }
        if !self.have_groups_followed() {
            return Err("OWN-4: some shard's owner never got to the end".to_owned());
        }
        self.checker.at_end()?;
        Ok(Life {
            trace: self.trace.0,
            records: self.checker.acknowledged as u64,
            outputs: self.checker.outputs,
            dead: self.checker.dead,
            filtered: self.checker.filtered,
            crashes: self.crashes,
            lost_writes: self.bus.lost + self.kafka.lost,
            fenced: self.bus.fenced + self.kafka.fenced,
            checks: self.checker.checks,
            parked: self.checker.parked,
            resumed: self.checker.resumed,
            kafka: self
                .plan
                .kafka
                .is_some()
                .then(|| KafkaLife { tally: self.checker.tally(), ..self.kafka.life }),
            fleet: self.plan.fleet.map(|_| self.fleet.life()),
        })
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.now)
    }

    /// A moment of the cores, rounded up.
    fn micros(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.base).as_nanos();
        u64::try_from(nanos.div_ceil(1_000)).unwrap_or(u64::MAX).max(self.now)
    }

    fn at(&mut self, at: u64, event: Event) {
        self.events.insert((at, self.next_event), event);
        self.next_event += 1;
    }

    fn after(&mut self, least: u64, spread: u64, event: Event) {
        let at = self.now + least + self.times.draw(spread.max(1));
        self.at(at, event);
    }

    fn note(&mut self, what: &impl fmt::Debug) {
        writeln!(self.trace, "{} {what:?}", self.now).expect("hashing cannot fail");
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        let now = self.instant();
        self.checker.on_time(self.now)?;
        match event {
            Event::Wake(life) => {
                if let Some(shell) = self.shells.get_mut(&life) {
                    shell.wake = None;
                    shell.core.on_timeout(now);
                    self.pump(life)?;
                }
            }
            Event::PoolWake(pool, node) => {
                if let Some(it) = self.pool_of(pool, node) {
                    it.wake = None;
                    it.slots.on_timeout(now);
                    self.pump_pool(pool)?;
                }
            }
            Event::Answer { life, id, answer, place } => {
                if let Some((pool, node, slot)) = place
                    && let Some(it) = self.pool_of(pool, node)
                {
                    let keep = matches!(answer.outcome, dispatch::Outcome::Ended { .. });
                    it.finished(now, slot, keep);
                    self.pump_pool(pool)?;
                }
                if let Some(shell) = self.shells.get_mut(&life) {
                    let asks = shell.on_answer(now, id, &answer, &mut self.checker)?;
                    self.carry_out(life, asks)?;
                    self.pump(life)?;
                }
            }
            Event::Prepared { pool, node, slot, started } => {
                if let Some(it) = self.pool_of(pool, node) {
                    it.prepared(now, slot, started);
                    self.pump_pool(pool)?;
                }
            }
            Event::Arrive(commit) => self.arrive(&commit)?,
            Event::Report(life, id, result) => self.report(life, id, result)?,
            Event::Load(life, wanted) => self.load(life, &wanted)?,
            Event::Sync => {
                self.sync_due = false;
                let acks = self.bus.sync(&mut self.checker)?;
                self.acknowledge(acks);
                self.pump_all()?;
            }
            Event::Produce => self.produce()?,
            Event::Crash => self.crash()?,
            Event::Restart => self.restart()?,
            Event::Takeover => self.takeover()?,
            Event::Kafka(event) => self.on_kafka(event)?,
            Event::Fleet(event) => self.on_fleet(event)?,
        }
        Ok(())
    }

    fn arrive(&mut self, commit: &SimCommit) -> Result<(), String> {
        self.note(commit);
        match self.bus.commit(commit, !self.healed) {
            Ok(early) => {
                self.acknowledge(early);
                self.want_sync();
            }
            Err(refused) => {
                self.after(50, 500, Event::Report(commit.life, commit.id, Err(refused)));
            }
        }
        Ok(())
    }

    fn report(
        &mut self,
        life: u64,
        id: CommitId,
        result: Result<(), Refused>,
    ) -> Result<(), String> {
        let now = self.instant();
        let Some(shell) = self.shells.get_mut(&life) else { return Ok(()) };
        match result {
            Ok(()) => {
                let parked_at = self.bus.parked_at.remove(&(life, id));
                shell.on_committed(now, id, parked_at);
                let counters = *shell.core.counters();
                let owed = shell.core.owed_records() as u64 + shell.core.filtered_records();
                let taken_in = counters.admitted + counters.resumed;
                self.checker.on_counted(taken_in, counters.settled, owed)?;
            }
            Err(Refused::Fenced) => {
                shell.core.on_commit_failed(now, id, CommitFailure::Final(StopReason::Fenced));
            }
            Err(Refused::Retry) => {
                let (code, message) = ("Millrace.Bus".to_owned(), "no room".to_owned());
                shell.core.on_commit_failed(now, id, CommitFailure::Retryable { code, message });
            }
        }
        self.pump(life)
    }

    fn want_sync(&mut self) {
        if !self.sync_due {
            self.sync_due = true;
            self.after(200, 3_000, Event::Sync);
        }
    }

    fn acknowledge(&mut self, acks: impl IntoIterator<Item = Ack>) {
        for ack in acks {
            self.note(&ack);
            match ack {
                Ack::Produced(values) => {
                    values.into_iter().for_each(|it| self.checker.on_acknowledged(it));
                }
                Ack::Committed(life, id) => self.after(50, 500, Event::Report(life, id, Ok(()))),
            }
        }
    }

    fn produce(&mut self) -> Result<(), String> {
        let enough = self.plan.records <= self.checker.acknowledged;
        if enough && self.plan.crashes <= self.crashes && self.is_enough() {
            return self.heal();
        }
        let mut appends = Vec::new();
        let mut values = Vec::new();
        for _record in 0..1 + self.inputs.draw(if enough { 8 } else { 20 }) {
            self.next_value += 1;
            let key = (self.inputs.draw(8) != 0).then(|| self.inputs.draw(self.plan.keys) as u8);
            let value = (self.plan.seed << 20) + self.next_value;
            appends.push((IN, Rec { key, value, origin: None, park: None, told: None }));
            values.push(value);
        }
        let ack = Some(Ack::Produced(values));
        let early = self.bus.write(Write { appends, moved: None, ack });
        self.acknowledge(early);
        self.want_sync();
        let (least, spread) = if enough { (4_000, 8_000) } else { (1_000, 9_000) };
        // The groups follow within a second: a life on Kafka has to have a few of them.
        let slower = match (self.plan.fleet, self.plan.kafka) {
            (Some(_), _) => 30,
            (None, Some(_)) => 10,
            (None, None) => 1,
        };
        let (least, spread) = (slower * least, slower * spread);
        self.after(least, spread, Event::Produce);
        Ok(())
    }

    fn pump_all(&mut self) -> Result<(), String> {
        let lives: Vec<u64> = self.shells.keys().copied().collect();
        lives.into_iter().try_for_each(|life| self.pump(life))
    }

    /// Lets a shard do all that it can do now.
    fn pump(&mut self, life: u64) -> Result<(), String> {
        loop {
            let Some(shell) = self.shells.get_mut(&life) else { return Ok(()) };
            if self.kafka.is_still(shell.home, self.now) {
                return Ok(());
            }
            let asks = shell.follow(&mut self.checker)?;
            self.carry_out(life, asks)?;
            let now = self.instant();
            let Some(shell) = self.shells.get_mut(&life) else { return Ok(()) };
            if shell.core.wants_turn().is_some() {
                shell.core.on_turn(now);
                continue;
            }
            if !shell.core.wants_records() || self.cut_off_until(self.shells[&life].home).is_some()
            {
                break;
            }
            let shell = self.shells.get_mut(&life).expect("it was just there");
            let topic = self.plan.triggers[shell.trigger].source;
            let Some(batch) = self.bus.fetch(topic, shell.partition, shell.reader) else { break };
            shell.reader = batch.last_offset().0 + 1;
            let unwanted = shell.unwanted(&batch);
            shell.core.on_filtered(now, 0, batch, unwanted);
        }
        let due = self.shells[&life].core.next_timeout().map(|at| self.micros(at));
        let shell = self.shells.get_mut(&life).expect("it was just there");
        if let Some(due) = due
            && shell.wake.is_none_or(|wake| due < wake)
        {
            shell.wake = Some(due);
            self.at(due, Event::Wake(life));
        }
        Ok(())
    }

    fn carry_out(&mut self, life: u64, asks: Vec<Asks>) -> Result<(), String> {
        for ask in asks {
            self.note(&ask);
            match ask {
                Asks::Invoke(id, given) => {
                    let shell = &self.shells[&life];
                    let pool = shell.home * self.plan.triggers.len() + shell.trigger;
                    let now = self.instant();
                    let it = self.pools.get_mut(&pool).ok_or("a shell without a node")?;
                    it.request(now, Request { life, id, given });
                    self.pump_pool(pool)?;
                }
                Asks::Commit(commit) if self.plan.kafka.is_some() => {
                    let home = self.shells[&life].home;
                    self.submit(home, commit.shard, Work::Commit(commit))?;
                }
                Asks::Commit(commit) => self.after(50, 2_000, Event::Arrive(commit)),
                Asks::Load(wanted) => self.after(100, 4_000, Event::Load(life, wanted)),
                Asks::Over => {
                    let over = self.shells.remove(&life);
                    if let Some(shell) = over.filter(|_| self.plan.fleet.is_some()) {
                        self.on_over(shell.home, shell.shard, shell.epoch)?;
                    }
                }
            }
        }
        Ok(())
    }
}
