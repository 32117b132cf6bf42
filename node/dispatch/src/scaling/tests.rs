//! AS-1 to AS-5, with shards that are worked off by what they are given, and with drawn loads.

use super::*;

const LOOK: Duration = Duration::from_millis(250);

/// Shards whose records come at a pace and take their time, worked off by what they are given.
struct World {
    scaling: Scaling,
    now: Duration,
    function: FunctionLoad,
    /// Records a second that come, by shard.
    rates: BTreeMap<ShardId, f64>,
    each: Duration,
    owed: BTreeMap<ShardId, f64>,
    last: Wanted,
}

impl World {
    fn new(shards: u64, max: u32, each: Duration) -> Self {
        let scaled = Scaled { most: WIDEST, ..Scaled::default() };
        let shards: BTreeMap<_, _> = (1..=shards).map(|id| (ShardId(id), scaled)).collect();
        let rates = shards.keys().map(|id| (*id, 0.0)).collect();
        let owed = shards.keys().map(|id| (*id, 0.0)).collect();
        let function = FunctionLoad { warm: 0, max, shards };
        let (scaling, now, last) = (Scaling::default(), Duration::ZERO, Wanted::default());
        Self { scaling, now, function, rates, each, owed, last }
    }

    fn width(&self, id: u64) -> u32 {
        self.last.widths[&ShardId(id)]
    }

    fn look(&mut self) {
        self.now += LOOK;
        let elapsed_s = LOOK.as_secs_f64();
        for (id, shard) in &mut self.function.shards {
            let owed = self.owed.get_mut(id).unwrap();
            *owed += self.rates[id] * elapsed_s;
            let width = self.last.widths.get(id).copied().unwrap_or(BASE);
            // One of them waits for its turn.
            let can = f64::from((width - 1).max(1)) * elapsed_s / self.each.as_secs_f64();
            let done = owed.min(can).floor();
            *owed -= done;
            shard.load.settled += done as u64;
            shard.load.ran += done as u64;
            shard.load.busy += self.each * done as u32;
            shard.load.lag = *owed as u64;
        }
        let functions = [("a/f".to_owned(), self.function.clone())].into();
        self.last = self.scaling.look(self.now, &functions, 16).remove("a/f").unwrap();
    }

    fn looks(&mut self, count: u32) {
        (0..count).for_each(|_| self.look());
    }
}

#[test]
fn a_hot_partition_is_seen_within_a_second_however_idle_the_others_are() {
    let mut world = World::new(64, 8, Duration::from_millis(1));
    world.rates.values_mut().for_each(|rate| *rate = 10.0);
    world.looks(20);
    assert!(world.last.widths.values().all(|width| *width == BASE), "AS-1");
    assert_eq!(world.last.instances, 1);
    world.rates.insert(ShardId(7), 4_000.0);
    world.looks(4);
    assert!(5 <= world.width(7), "AS-2, AS-4: four are busy, and one is ready: {}", world.width(7));
    assert!(4 < world.last.instances, "{}", world.last.instances);
    world.looks(20);
    assert!(world.owed[&ShardId(7)] < 1_100.0, "it keeps up: {}", world.owed[&ShardId(7)]);
    let others = world.last.widths.iter().filter(|(id, _)| id.0 != 7);
    assert!(others.clone().all(|(_, width)| *width == BASE), "AS-1");
}

#[test]
fn a_lag_that_grows_counts_before_it_is_large() {
    let mut shard = Scaled { most: WIDEST, ..Scaled::default() };
    let mut scaling = Scaling::default();
    let mut look = |shard: Scaled, at: u64| {
        let shards = [(ShardId(1), shard)].into();
        let function = FunctionLoad { warm: 0, max: 12, shards };
        let functions = [("f".to_owned(), function)].into();
        scaling.look(Duration::from_millis(at), &functions, 16);
        scaling.tracks[&ShardId(1)].need
    };
    look(shard, 0);
    shard.load = ShardLoad { lag: 0, settled: 100, ran: 100, busy: Duration::from_millis(200) };
    look(shard, 250);
    // 2 ms each; the same lag, once as it is and once from nothing in a look.
    shard.load.lag = 500;
    let rising = look(shard, 500);
    look(shard, 750);
    look(shard, 1_000);
    let still = look(shard, 10_000);
    assert!(
        1.0 <= still && 2.0 * still < rising,
        "{rising} while it grows, {still} when it stands"
    );
}

#[test]
fn what_is_not_needed_any_more_is_kept_for_a_while() {
    let mut world = World::new(2, 8, Duration::from_millis(1));
    world.rates.insert(ShardId(1), 3_000.0);
    world.looks(12);
    assert!(4 <= world.width(1), "{}", world.width(1));
    world.rates.insert(ShardId(1), 0.0);
    world.looks(19);
    assert!(!world.scaling.is_at_rest());
    assert!(4 <= world.width(1), "AS-2: nearly five seconds later: {}", world.width(1));
    let Wanted { instances, needed, .. } = world.last;
    assert!(4 <= instances && needed <= 1, "{instances} are kept, {needed} are needed");
    world.looks(44);
    assert_eq!((world.width(1), world.last.instances), (BASE, 0), "AS-2");
}

#[test]
fn a_shard_that_runs_in_order_is_not_made_wider() {
    let mut world = World::new(1, 8, Duration::from_millis(1));
    world.function.shards.get_mut(&ShardId(1)).unwrap().most = 1;
    world.rates.insert(ShardId(1), 5_000.0);
    world.last.widths.insert(ShardId(1), 2);
    world.looks(8);
    assert_eq!((world.width(1), world.last.instances), (1, 1), "AS-1");
}

/// AS-1 to AS-5 with drawn loads, which need not make sense.
#[test]
fn any_load_keeps_the_invariants() {
    for seed in 1..=300_u64 {
        let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |below: u64| {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            rng % below
        };
        let mut scaling = Scaling::default();
        let mut functions: BTreeMap<String, FunctionLoad> = BTreeMap::new();
        let room = draw(20) as u32;
        let mut at = Duration::ZERO;
        for _look in 0..40 {
            at += Duration::from_millis(draw(400));
            let number = draw(3);
            let function = functions.entry(format!("f{number}")).or_default();
            (function.max, function.warm) = (1 + draw(10) as u32, draw(3) as u32);
            let id = ShardId(100 * number + draw(4));
            if draw(12) == 0 {
                function.shards.remove(&id);
            } else {
                let it = function.shards.entry(id).or_default();
                it.most = 1 + draw(u64::from(WIDEST)) as u32;
                let ran = draw(500);
                let load = ShardLoad {
                    lag: draw(5_000),
                    settled: it.load.settled + draw(ran + 1),
                    ran: it.load.ran + ran,
                    busy: it.load.busy + Duration::from_micros(ran * draw(4_000)),
                };
                it.load = if draw(20) == 0 { ShardLoad::default() } else { load };
            }
            let wanted = scaling.look(at, &functions, room);
            let (mut all, mut starved, mut richest) = (0, 0.0_f64, f64::INFINITY);
            for (name, function) in &functions {
                let got = &wanted[name];
                let most = function.max.max(1);
                assert!(got.instances <= most, "seed {seed}: AS-5");
                assert!(got.needed <= got.instances, "seed {seed}: AS-5");
                assert!(function.warm.min(most) <= got.instances, "seed {seed}: AS-5");
                let mut extra = 0;
                for (id, shard) in &function.shards {
                    let width = got.widths[id];
                    assert!(width <= shard.most, "seed {seed}: AS-1");
                    assert!(BASE.min(shard.most) <= width, "seed {seed}: AS-1");
                    let (more, held) = (width.saturating_sub(BASE), scaling.tracks[id].held);
                    assert!(scaling.tracks[id].need <= held, "seed {seed}: AS-2");
                    extra += more;
                    let lacks = width < wanted_width(held).min(shard.most);
                    let has_room = extra < (function.max + 1).saturating_sub(BASE);
                    if lacks && has_room {
                        starved = starved.max(held / f64::from(width));
                    }
                    if 0 < more {
                        richest = richest.min(held / f64::from(width - 1));
                    }
                }
                assert!(extra <= (function.max + 1).saturating_sub(BASE), "seed {seed}: AS-3");
                all += extra;
            }
            assert!(all <= room, "seed {seed}: AS-3");
            if all < room {
                continue;
            }
            let of_one = functions.values().filter(|it| !it.shards.is_empty()).count() == 1;
            assert!(!of_one || starved <= richest + 1e-9, "seed {seed}: AS-4");
        }
    }
}
