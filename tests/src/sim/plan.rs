//! What a seed decides before anything runs: the shape of the application, its limits, and what
//! the function does with a value. The handler and the checker both read it, the cores never.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use dispatch::{
    BatchLimits, CircuitPolicy, DispatchConfig, Order, ParkLimits, RetryPolicy, WindowLimits,
};
use runtime::slots::SlotsConfig;

use crate::harness::rng::Rng;

/// Where the producers write.
pub(super) const IN: usize = 0;
/// Between the two triggers.
pub(super) const MID: usize = 1;
/// The end of the chain.
pub(super) const OUT: usize = 2;
/// Dead letters of the first trigger; those of the second follow.
pub(super) const DEAD: usize = 3;
/// What the first trigger tells of records that have their end; that of the second follows.
pub(super) const TOLD: usize = 5;
/// The park topic of the first trigger; that of the second follows.
pub(super) const PARK: usize = 7;
/// Topics in all.
pub(super) const TOPICS: usize = 9;
/// How long an invocation may run, in microseconds.
pub(super) const TIMEOUT: u64 = 20_000;

/// A record as the simulated bus holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rec {
    pub(super) key: Option<u8>,
    pub(super) value: u64,
    pub(super) origin: Option<Origin>,
    /// In a park topic, of the record that its origin names.
    pub(super) park: Option<Parked>,
    /// In a destination: whether the record that its origin names succeeded.
    pub(super) told: Option<bool>,
}

/// What a park topic says of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parked {
    /// It waits there: attempts made, when it is due, by the wall clock, and how many nodes may have
    /// ended while it ran.
    Envelope(u32, i64, u32),
    /// It is settled.
    Tombstone,
}

/// What an output says about where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) trigger: usize,
    pub(super) partition: usize,
    pub(super) offset: i64,
    /// `None` for a dead letter.
    pub(super) index: Option<u32>,
    pub(super) epoch: u64,
}

/// What is wrong with a value, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Poison {
    Fine,
    /// The function fails it.
    Fails,
    /// The function takes the whole batch down with it.
    Kills,
}

/// One trigger.
#[derive(Clone, Debug)]
pub(super) struct TriggerPlan {
    pub(super) source: usize,
    pub(super) target: usize,
    pub(super) dispatch: DispatchConfig,
    pub(super) slots: SlotsConfig,
}

/// What is different on Kafka.
#[derive(Clone, Copy, Debug)]
pub(super) struct KafkaPlan {
    pub(super) homes: usize,
    /// How often the groups follow, in microseconds.
    pub(super) follow_every: u64,
}

/// What is different where a whole cluster lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct FleetPlan {
    /// Machines at the start.
    pub(super) founders: u64,
    /// Faults that have an effect, at least.
    pub(super) faults: u64,
}

/// One simulated life.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// By topic.
    pub(super) partitions: [usize; TOPICS],
    pub(super) triggers: Vec<TriggerPlan>,
    /// Acknowledged inputs, at least.
    pub(super) records: usize,
    /// Crashes with something in flight.
    pub(super) crashes: u64,
    pub(super) keys: u64,
    /// A key whose records mostly fail until all is healed.
    pub(super) stubborn: Option<u8>,
    /// `None`: on the embedded bus.
    pub(super) kafka: Option<KafkaPlan>,
    /// `None`: the nodes are told by nobody what to run.
    pub(super) fleet: Option<FleetPlan>,
    /// Whether the triggers have filters.
    pub(super) filters: bool,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 1);
        let one_to = |rng: &mut Rng, most| 1 + rng.draw(most) as usize;
        let (inputs, middles) = (one_to(&mut rng, 3), one_to(&mut rng, 2));
        let partitions = [inputs, middles, one_to(&mut rng, 2), 1, 1, 2, 2, inputs, middles];
        let kafka = seed.is_multiple_of(2).then(|| {
            let mut rng = Rng::new(seed, 7);
            let homes = 2 + rng.draw(2) as usize;
            KafkaPlan { homes, follow_every: 100_000 + rng.draw(400_000) }
        });
        let triggers = [(IN, MID), (MID, OUT)];
        let mut triggers = triggers.map(|(source, target)| TriggerPlan {
            source,
            target,
            dispatch: dispatch(&mut rng),
            slots: slots(&mut rng),
        });
        let (records, crashes) = (500 + rng.draw(100) as usize, 3 + rng.draw(3));
        let keys = 2 + rng.draw(30);
        let mut rng = Rng::new(seed, 8);
        let parks = rng.draw(5) != 0;
        let stubborn = (rng.draw(3) != 0).then(|| rng.draw(keys) as u8);
        for trigger in triggers.iter_mut().filter(|_| parks) {
            trigger.dispatch.park = Some(ParkLimits {
                token_records: count(1 + rng.draw(6)),
                records: count(2 + rng.draw(40)),
                bytes: 100 + rng.draw(4_000),
                parked_max: 5 + rng.draw(400) as usize,
            });
            if stubborn.is_some() {
                let attempts = 1 + rng.draw(30) as u32;
                trigger.dispatch.retry.attempts_max = NonZeroU32::new(attempts).expect("1 or more");
            }
        }
        let triggers = triggers.into();
        let (fleet, filters) = (None, seed.is_multiple_of(3));
        Self { seed, partitions, triggers, records, crashes, keys, stubborn, kafka, fleet, filters }
    }

    /// A life of a whole cluster, with more partitions and fewer records.
    pub(super) fn of_fleet(seed: u64) -> Self {
        let mut plan = Self::new(seed);
        let mut rng = Rng::new(seed, 12);
        let (inputs, middles) = (3 + rng.draw(4) as usize, 2 + rng.draw(3) as usize);
        (plan.partitions[IN], plan.partitions[PARK]) = (inputs, inputs);
        (plan.partitions[MID], plan.partitions[PARK + 1]) = (middles, middles);
        let founders = 3 + 2 * (rng.draw(4) / 3);
        let follow_every = 100_000 + rng.draw(400_000);
        plan.kafka = Some(KafkaPlan { homes: founders as usize + 2, follow_every });
        plan.fleet = Some(FleetPlan { founders, faults: 5 + rng.draw(4) });
        (plan.records, plan.crashes) = (200, 0);
        plan
    }
}

fn count(number: u64) -> NonZeroUsize {
    NonZeroUsize::new(number as usize).expect("drawn from 1 on")
}

fn dispatch(rng: &mut Rng) -> DispatchConfig {
    let order = [Order::Key, Order::Key, Order::Partition, Order::None][rng.draw(4) as usize];
    let long = rng.draw(3) == 0;
    DispatchConfig {
        order,
        batch: BatchLimits {
            records: count(1 + rng.draw(40)),
            bytes: if rng.draw(4) == 0 { 100 } else { 1 << 20 },
            window: Duration::from_micros(if long { 3_000 } else { 0 }),
        },
        invocations_max: count(1 + rng.draw(4)),
        circuit: circuit(rng),
        retry: RetryPolicy {
            attempts_max: NonZeroU32::new(1 + rng.draw(5) as u32).expect("at least 1"),
            backoff_min: Duration::from_micros(500 + rng.draw(2_000)),
            backoff_max: Duration::from_micros(3_000 + rng.draw(20_000)),
            pauses: Vec::new(),
            age_max: (rng.draw(8) == 0).then_some(Duration::from_millis(400)),
            bisect: rng.draw(5) != 0,
            no_retry: Vec::new(),
        },
        window: WindowLimits {
            records: count(16 + rng.draw(150)),
            bytes: count(1 << 16),
            span: count(20 + rng.draw(300)),
            output_bytes: count(200 + rng.draw(8_000)),
        },
        park: None,
    }
}

/// One that opens soon, for a quarter of the triggers.
fn circuit(rng: &mut Rng) -> Option<CircuitPolicy> {
    let policy = CircuitPolicy {
        failures_percent: 1 + rng.draw(60) as u32,
        attempts_min: NonZeroU32::new(1 + rng.draw(20) as u32).expect("at least 1"),
        window: Duration::from_micros(5_000 + rng.draw(50_000)),
        pause_min: Duration::from_micros(500 + rng.draw(5_000)),
        pause_max: Duration::from_micros(6_000 + rng.draw(20_000)),
    };
    (rng.draw(4) == 0).then_some(policy)
}

fn slots(rng: &mut Rng) -> SlotsConfig {
    SlotsConfig {
        warm: rng.draw(3) as u32,
        max: 1 + rng.draw(4) as u32,
        queue_max: 1 + rng.draw(6) as usize,
        idle_expiry: Duration::from_micros(3_000 + rng.draw(30_000)),
        invocations_max: 1 + rng.draw(40),
        age_max: Duration::from_micros(15_000 + rng.draw(200_000)),
        patience: Duration::ZERO,
    }
}

/// Numbers that a value fixes for good.
const fn mix(value: u64, salt: u64) -> u64 {
    let mut it = value.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)) ^ 0x5bf0_3635;
    it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    it ^ (it >> 31)
}

/// How many outputs the function makes of a value; none for one that it filters.
pub(super) const fn output_count(trigger: usize, value: u64) -> u32 {
    match mix(value, 10 + trigger as u64) % 8 {
        0 => 0,
        1..=5 => 1,
        6 => 2,
        _ => 3,
    }
}

/// Whether a trigger's filter keeps a value from the function.
pub(super) const fn is_unwanted(trigger: usize, value: u64) -> bool {
    mix(value, 30 + trigger as u64).is_multiple_of(6)
}

/// What they are.
pub(super) fn output_value(trigger: usize, value: u64, index: u32) -> u64 {
    mix(value, 100 + 10 * trigger as u64 + u64::from(index))
}

/// What is wrong with a value.
pub(super) const fn poison(trigger: usize, value: u64) -> Poison {
    match mix(value, 20 + trigger as u64) % 240 {
        0..=3 => Poison::Fails,
        4..=5 => Poison::Kills,
        _ => Poison::Fine,
    }
}

/// The partition that a record is written to.
pub(super) fn partition_of(rec: &Rec, partitions: usize) -> usize {
    if let (Some(_), Some(origin)) = (rec.park, rec.origin) {
        return origin.partition;
    }
    let spread = rec.key.map_or_else(|| mix(rec.value, 3), |key| mix(u64::from(key), 4));
    (spread % partitions as u64) as usize
}
