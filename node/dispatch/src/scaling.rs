//! A pure core: how many invocations each shard of a node may run at once, and how many instances
//! its functions want. Pools start instances for what waits; this says how much may wait.
//!
//! ```text
//! need of a shard = records that come in a second x time of one      what keeps up
//!                 + records that it is behind x time of one / 1 s    what catches up
//! ```
//!
//! What comes is what is settled and how the lag grows, so that the slope of a lag counts as much as
//! the lag. A shard is judged by its own lag: one hot partition is seen however idle the others are.
//!
//! Invariants, checked by the model test:
//!
//! - **AS-1** a shard may run [`BASE`] invocations at once, or as many as it can use if that is less,
//!   and never more than it can use.
//! - **AS-2** a shard gets what it needs at the first look that shows it; it keeps the most that it
//!   has needed within [`HOLD`], and for at most twice that.
//! - **AS-3** what shards get beyond [`BASE`] is at most the node's room, and in a function at most
//!   what one shard needs to use all of its instances.
//! - **AS-4** where there is not enough for all, the next one goes to who needs the most for each that
//!   it has: none gets less for its siblings' needing nothing.
//! - **AS-5** a function wants no more instances than it may have, and no fewer than it keeps warm.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::ShardId;

/// What every shard may run at once: one runs, and one is ready when it ends.
pub const BASE: u32 = 2;
/// The most that one shard may be given: it has strands for so many.
pub const WIDEST: u32 = 16;
/// What a shard is behind is to be worked off in this time.
const HORIZON: Duration = Duration::from_secs(1);
/// How long a shard keeps what it does not need: an instance that was started is not worth a shorter
/// time, and a burst is often followed by another.
pub const HOLD: Duration = Duration::from_secs(5);
/// How much of a rate is the newest look's.
const RATE_SHARE: f64 = 0.5;
/// How much of a record's time is.
const TIME_SHARE: f64 = 0.3;
/// Over how many seconds it is told how busy a shard was.
const BUSY_OVER_S: f64 = 10.0;

/// What is known of a shard: sums since it started, but for the lag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardLoad {
    /// Records that are there and not settled.
    pub lag: u64,
    /// Records that were settled.
    pub settled: u64,
    /// Records that ran to the end of their invocation, each time, in instances that had run before,
    /// if any had.
    pub ran: u64,
    /// How long those invocations took together.
    pub busy: Duration,
}

/// A shard as it is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scaled {
    /// What is known of it.
    pub load: ShardLoad,
    /// As many invocations as it can use at once.
    pub most: u32,
}

/// A function of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionLoad {
    /// Instances that it keeps ready.
    pub warm: u32,
    /// Instances that it may have.
    pub max: u32,
    /// Its shards here.
    pub shards: BTreeMap<ShardId, Scaled>,
}

/// What a function gets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Instances that it has work for.
    pub instances: u32,
    /// Instances that what comes at this moment keeps busy: no more than these, and fewer at once when
    /// a load goes.
    pub needed: u32,
    /// Invocations that each shard may run at once.
    pub widths: BTreeMap<ShardId, u32>,
    /// Thousandths of an instance that each shard kept busy of late: what it weighs.
    pub busy: BTreeMap<ShardId, u64>,
}

/// What is remembered of a shard.
#[derive(Clone, Copy, Debug)]
struct Track {
    load: ShardLoad,
    /// Records a second that come.
    arrivals: f64,
    /// Seconds that one takes, once one has run.
    each_s: Option<f64>,
    /// Instances that it keeps busy, over some ten seconds.
    busy: f64,
    need: f64,
    /// What it is given by, and until when at least.
    held: f64,
    held_until: Duration,
    /// The most that it has needed since that was said.
    since: f64,
}

/// See the [module documentation](self).
#[derive(Clone, Debug, Default)]
pub struct Scaling {
    tracks: BTreeMap<ShardId, Track>,
    looked_at: Option<Duration>,
}

impl Scaling {
    /// Looks at every function of the node, by name, at this time since some beginning. `room` is
    /// what shards may be given beyond [`BASE`], all together.
    pub fn look(
        &mut self,
        at: Duration,
        functions: &BTreeMap<String, FunctionLoad>,
        room: u32,
    ) -> BTreeMap<String, Wanted> {
        let before = self.looked_at.replace(at);
        let elapsed_s = before.map_or(0.0, |it| at.saturating_sub(it).as_secs_f64());
        let before = std::mem::take(&mut self.tracks);
        for function in functions.values() {
            for (id, shard) in &function.shards {
                let track = follow(before.get(id), shard.load, elapsed_s);
                self.tracks.insert(*id, track);
            }
            self.judge(function, at);
        }
        let given = self.share(functions, room);
        functions.iter().map(|(name, it)| (name.clone(), self.wanted(it, &given))).collect()
    }

    /// Whether no shard has needed anything of late: another look would say the same, unless
    /// something happens.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.tracks.values().all(|it| whole(it.held) == 0 && it.busy < 1e-3)
    }

    /// Nothing has happened since the last look, which found all [at rest](Self::is_at_rest).
    pub fn rest(&mut self, at: Duration) {
        self.looked_at = Some(at);
    }

    /// What the shards of a function need. One that has not run anything yet is judged by the others.
    fn judge(&mut self, function: &FunctionLoad, at: Duration) {
        let known = function.shards.keys().filter_map(|id| self.tracks[id].each_s);
        let (count, sum) = known.fold((0_u32, 0.0), |(count, sum), it| (count + 1, sum + it));
        let usual_s = if count == 0 { 0.0 } else { sum / f64::from(count) };
        for id in function.shards.keys() {
            let it = self.tracks.get_mut(id).expect("it was just followed");
            let each_s = it.each_s.unwrap_or(usual_s);
            let waiting = it.load.lag as f64 / HORIZON.as_secs_f64();
            it.need = (it.arrivals + waiting) * each_s;
            it.since = it.since.max(it.need);
            if it.held <= it.need || it.held_until <= at {
                (it.held, it.held_until, it.since) = (it.since, at + HOLD, it.need);
            }
        }
    }

    /// What shards get beyond [`BASE`].
    fn share(
        &self,
        functions: &BTreeMap<String, FunctionLoad>,
        room: u32,
    ) -> BTreeMap<ShardId, u32> {
        let mut given = BTreeMap::new();
        let mut left: Vec<u32> =
            functions.values().map(|it| (it.max + 1).saturating_sub(BASE)).collect();
        // (function, shard, what it needs, how many more it wants)
        let mut asking: Vec<(usize, ShardId, f64, u32)> = Vec::new();
        for (at, function) in functions.values().enumerate() {
            for (id, shard) in &function.shards {
                let held = self.tracks[id].held;
                let more = wanted_width(held).min(shard.most).saturating_sub(BASE);
                if 0 < more {
                    asking.push((at, *id, held, more));
                }
            }
        }
        for _one in 0..room {
            let has = |id: &ShardId| given.get(id).copied().unwrap_or(0);
            let may = asking.iter().filter(|(at, id, _, more)| 0 < left[*at] && has(id) < *more);
            let each =
                |(_, id, held, _): &(usize, ShardId, f64, u32)| held / f64::from(BASE + has(id));
            // Of equal ones the first.
            let worst = may.max_by(|a, b| each(a).total_cmp(&each(b)).then(b.1.cmp(&a.1)));
            let Some((at, id, _, _)) = worst.copied() else { break };
            left[at] -= 1;
            *given.entry(id).or_default() += 1;
        }
        given
    }

    fn wanted(&self, function: &FunctionLoad, given: &BTreeMap<ShardId, u32>) -> Wanted {
        let mut wanted = Wanted::default();
        let (mut held, mut need) = (0.0, 0.0);
        for (id, shard) in &function.shards {
            let more = given.get(id).copied().unwrap_or(0);
            wanted.widths.insert(*id, (BASE + more).min(shard.most.max(1)));
            wanted.busy.insert(*id, (1_000.0 * self.tracks[id].busy) as u64);
            held += self.tracks[id].held.min(f64::from(shard.most));
            need += self.tracks[id].need.min(f64::from(shard.most));
        }
        let (warm, max) = (function.warm.min(function.max), function.max);
        wanted.instances = whole(held).clamp(warm, max);
        wanted.needed = whole(need).min(wanted.instances);
        wanted
    }
}

/// What is known of a shard now.
fn follow(before: Option<&Track>, load: ShardLoad, elapsed_s: f64) -> Track {
    let fresh = Track {
        load,
        arrivals: 0.0,
        each_s: None,
        busy: 0.0,
        need: 0.0,
        held: 0.0,
        held_until: Duration::ZERO,
        since: 0.0,
    };
    // A shard whose sums are smaller was started anew.
    let Some(before) = before.filter(|it| it.load.ran <= load.ran && it.load.busy <= load.busy)
    else {
        return fresh;
    };
    let mut track = Track { load, ..*before };
    if 0.0 < elapsed_s {
        let came =
            (load.settled + load.lag) as f64 - (before.load.settled + before.load.lag) as f64;
        let now = came.max(0.0) / elapsed_s;
        track.arrivals += RATE_SHARE * (now - before.arrivals);
        let worked = (load.busy - before.load.busy).as_secs_f64() / elapsed_s;
        track.busy += (elapsed_s / BUSY_OVER_S).min(1.0) * (worked - before.busy);
    }
    let ran = load.ran - before.load.ran;
    if 0 < ran {
        let now = (load.busy - before.load.busy).as_secs_f64() / ran as f64;
        track.each_s = Some(before.each_s.map_or(now, |it| it + TIME_SHARE * (now - it)));
    }
    track
}

/// What is needed, and one that is ready when another ends.
fn wanted_width(need: f64) -> u32 {
    whole(need).saturating_add(1).max(BASE)
}

/// So many that it is enough. What is next to nothing is nothing: a record in a minute keeps no
/// instance busy.
fn whole(need: f64) -> u32 {
    const NOTHING: f64 = 1e-4;
    if need < NOTHING { 0 } else { need.ceil().min(f64::from(u32::MAX)) as u32 }
}

#[cfg(test)]
mod tests;
