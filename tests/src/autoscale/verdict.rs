//! A pure core: judges what was seen of a load that stepped up and down, and plants the mistakes that
//! a node could make.

use std::time::Duration;

use crate::demand;
use crate::promise::{Figures, NotShown, broken};

/// Instances are there this long after a step.
const UP_WITHIN: Duration = Duration::from_secs(2);
/// Within this after the idle expiry, what waits for work has gone: a share is kept for a while before
/// an instance has nothing to do, and idle ones are looked for now and then.
pub(super) const DOWN_GRACE: Duration = Duration::from_secs(12);
/// Instances more than at first that a low load may keep warm: how records meet is chance.
const LEFT_MAX: u64 = 3;
/// What a hot partition may owe at the end of its phase, of what came in a second.
const OWED_S_MAX: f64 = 1.5;
/// How much longer a quiet function may take (p99) while another is busy.
const QUIET_FACTOR: u64 = 3;
const QUIET_MS: u64 = 250;

/// So many instances, so long after the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) after: Duration,
    pub(super) instances: u64,
}

/// A time at one rate.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    pub(super) samples: Vec<Sample>,
    pub(super) sent: u64,
    pub(super) took: Duration,
    /// Records of the partition that is furthest behind, at the end.
    pub(super) owed_worst: u64,
}

impl Phase {
    fn rate(&self) -> f64 {
        self.sent as f64 / self.took.as_secs_f64()
    }

    fn most(&self) -> u64 {
        self.samples.iter().map(|it| it.instances).max().unwrap_or_default()
    }

    fn last(&self) -> u64 {
        self.samples.last().map_or(0, |it| it.instances)
    }

    /// When how many there were changed, and to what: seconds, instances.
    fn course(&self) -> Vec<(u64, u64)> {
        let mut course: Vec<(u64, u64)> = Vec::new();
        for it in &self.samples {
            if course.last().is_none_or(|(_, instances)| *instances != it.instances) {
                course.push((it.after.as_secs(), it.instances));
            }
        }
        course
    }

    /// When there were so many for the first time.
    fn reached(&self, instances: u64) -> Option<Duration> {
        self.samples.iter().find(|it| instances <= it.instances).map(|it| it.after)
    }
}

/// How long records of quiet functions took, in milliseconds, sorted.
#[derive(Clone, Debug)]
pub(super) struct Waits(Vec<u64>);

impl Waits {
    pub(super) fn of(mut ms: Vec<u64>) -> Self {
        ms.sort_unstable();
        Self(ms)
    }

    fn at(&self, percent: usize) -> u64 {
        let index = (self.0.len().max(1) - 1) * percent / 100;
        self.0.get(index).copied().unwrap_or_default()
    }
}

/// All that was seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) low: Phase,
    pub(super) up: Phase,
    pub(super) hot: Phase,
    /// Shards of the node with the hot partition, before and after.
    pub(super) hot_shares: (u64, u64),
    pub(super) down: Phase,
    /// Of quiet functions: before, during the high load, during the hot partition, after.
    pub(super) quiet: [Waits; 4],
    pub(super) quiet_owed: u64,
    pub(super) needed: u64,
    pub(super) needed_hot: u64,
    pub(super) idle_expiry: Duration,
}

impl Seen {
    /// For whoever looks for the cause of a verdict.
    pub(super) fn summary(&self) -> String {
        let Self { low, up, hot, down, .. } = self;
        let quiet = [0, 1, 2, 3].map(|at| self.quiet[at].at(99));
        format!(
            "instances {} low, {} at most high, {} needed after {:?}, {} at most hot, {} at the end; \
             the hot partition owes {}, shards of its node {:?}; quiet ones took {quiet:?} ms (p99), {} \
             are late; instances after the load went, by second: {:?}",
            low.last(),
            up.most(),
            self.needed,
            up.reached(self.needed),
            hot.most(),
            down.last(),
            hot.owed_worst,
            self.hot_shares,
            self.quiet_owed,
            down.course()
        )
    }
}

/// Judges it.
pub(super) fn judge(seen: &Seen, is_full: bool) -> Result<Figures, NotShown> {
    let Seen { low, up, hot, down, .. } = seen;
    let at_first = low.last();
    demand!(at_first < seen.needed, "{at_first} instances at a low load: nothing can be seen");
    let reached = up.reached(seen.needed).ok_or_else(|| {
        broken(format!("{} instances at most, {} are needed", up.most(), seen.needed))
    })?;
    demand!(reached <= UP_WITHIN, "{} instances only after {reached:?}", seen.needed);
    // So many wait at once if the load keeps its pace, and fewer if it does not.
    let owed_s = hot.owed_worst as f64 / hot.rate();
    let is_behind = OWED_S_MAX < owed_s;
    demand!(
        !is_behind,
        "the hot partition owes {} records, {owed_s:.1} s of what came, after {:?}",
        hot.owed_worst,
        hot.took
    );
    let (had, has) = seen.hot_shares;
    demand!(2 * has <= had, "the node with the hot partition had {had} shards, and has {has}");
    let kept = down.samples.iter().filter(|it| it.after < seen.idle_expiry / 2);
    let kept = kept.map(|it| it.instances).min().unwrap_or_default();
    demand!(seen.needed_hot <= kept, "{kept} instances in half of the idle expiry: not kept warm");
    let left = down.last();
    let most = at_first + LEFT_MAX;
    demand!(
        left <= most,
        "{left} instances {:?} after the load went, {at_first} before",
        down.took
    );
    demand!(seen.quiet_owed <= QUIET_OWED_MAX, "{} quiet records are late", seen.quiet_owed);
    let before = seen.quiet[0].at(99);
    // CI's ten seconds have fewer records than a few late ones take a hundredth of.
    let allowed = (QUIET_FACTOR * before + QUIET_MS) * if is_full { 1 } else { 2 };
    for (when, waits) in
        ["a high load", "a hot partition", "the step down"].iter().zip(&seen.quiet[1..])
    {
        let found = waits.at(99);
        demand!(
            found <= allowed,
            "during {when} quiet ones took {found} ms (p99), {before} before"
        );
    }
    let gone = down.samples.iter().find(|it| it.instances <= most).map_or(down.took, |it| it.after);
    Ok(Figures::default()
        .with("rate_high_sent", up.rate() as u64)
        .with("instances_low", at_first)
        .with("instances_needed", seen.needed)
        .with("instances_most", up.most())
        .with("up_ms", reached.as_millis() as u64)
        .with("hot_rate_sent", hot.rate() as u64)
        .with("hot_needed", seen.needed_hot)
        .with("hot_owed", hot.owed_worst)
        .with("hot_node_had", had)
        .with("hot_node_has", has)
        .with("down_s", gone.as_secs())
        .with("instances_after", left)
        .with("quiet_ms_p50_before", seen.quiet[0].at(50))
        .with("quiet_ms_p99_before", before)
        .with("quiet_ms_p50_high", seen.quiet[1].at(50))
        .with("quiet_ms_p99_high", seen.quiet[1].at(99))
        .with("quiet_ms_p50_hot", seen.quiet[2].at(50))
        .with("quiet_ms_p99_hot", seen.quiet[2].at(99)))
}

/// Quiet records that may be on their way when it is looked: half a second of them.
const QUIET_OWED_MAX: u64 = 49;

/// What a node could get wrong, in what was seen: each has to be noticed. How many there are.
pub(super) fn plants(seen: &Seen, is_full: bool) -> Result<u64, NotShown> {
    let mut late = seen.clone();
    late.up.samples.iter_mut().for_each(|it| it.after += UP_WITHIN + LOOK);
    let mut short = seen.clone();
    short.up.samples.iter_mut().for_each(|it| it.instances = it.instances.min(seen.needed - 1));
    let mut stays = seen.clone();
    stays.down.samples.iter_mut().for_each(|it| it.instances = seen.up.most());
    let mut drops = seen.clone();
    let few = seen.needed_hot - 1;
    drops.down.samples.iter_mut().for_each(|it| it.instances = it.instances.min(few));
    let mut unseen = seen.clone();
    // Two invocations at a time, which is what the mean of six partitions asks for.
    let can = 2.0 / seen.needed_hot as f64;
    unseen.hot.owed_worst = (seen.hot.sent as f64 * (1.0 - can)) as u64;
    let mut burdened = seen.clone();
    burdened.hot_shares.1 = burdened.hot_shares.0;
    let mut slow = seen.clone();
    slow.quiet[1].0.iter_mut().for_each(|it| *it += 5_000);
    let mut lost = seen.clone();
    lost.quiet_owed += QUIET_OWED_MAX + 1;
    let all = [
        ("instances that come late", late),
        ("too few instances", short),
        ("instances that stay", stays),
        ("instances that go at once", drops),
        ("a hot partition that is not seen", unseen),
        ("a hot node that keeps its shards", burdened),
        ("quiet functions that are slow", slow),
        ("quiet records that are lost", lost),
    ];
    let count = all.len() as u64;
    for (what, planted) in all {
        demand!(judge(&planted, is_full).is_err(), "nobody noticed {what}");
    }
    Ok(count)
}

/// A little more than what is allowed.
const LOOK: Duration = Duration::from_millis(1);
