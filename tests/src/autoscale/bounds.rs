//! A pure core: judges what was seen of a function that has a minimum and a maximum of instances in
//! the whole cluster, and plants the mistakes that nodes could make.

use crate::demand;
use crate::promise::{Figures, NotShown};

use super::NODES;

/// Instances of each node, at one time.
pub(super) type Each = [u64; NODES];

/// What there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) warm: u64,
    pub(super) max: u64,
}

/// All that was seen.
#[derive(Clone, Debug)]
pub(super) struct Bounded {
    /// With no load at all.
    pub(super) rest: Each,
    /// With more of it than the maximum can do, first on all nodes, then while the last is drained.
    pub(super) loaded: Vec<Each>,
    /// What had no output yet at the end of that.
    pub(super) owed: u64,
    /// Without load again, on all nodes but the last.
    pub(super) drained: Each,
}

fn is_spread(each: &[u64]) -> bool {
    let (most, least) = (each.iter().max(), each.iter().min());
    most.zip(least).is_some_and(|(most, least)| *most <= *least + 1)
}

/// Judges it.
pub(super) fn judge(seen: &Bounded, bounds: Bounds) -> Result<Figures, NotShown> {
    let Bounds { warm, max } = bounds;
    let rest = seen.rest;
    demand!(warm <= rest.iter().sum(), "{rest:?} instances at rest, {warm} are to be kept ready");
    demand!(is_spread(&rest), "{rest:?} instances at rest: not spread");
    let sums = || seen.loaded.iter().map(|it| it.iter().sum::<u64>());
    let most = sums().max().unwrap_or(0);
    demand!(most <= max, "{most} instances at the same time, {max} is the maximum");
    demand!(most == max, "{most} instances at most, {max} would have had work");
    demand!(0 < seen.owed, "nothing was owed: the load asked for no more than the maximum");
    let (last, others) = seen.drained.split_last().expect("there are nodes");
    demand!(*last == 0, "{last} instances at a node that was drained");
    let left = others.iter().sum::<u64>();
    demand!((warm..=max).contains(&left), "{others:?} instances after a node was drained");
    // What had work stays for the idle expiry.
    let least = warm / others.len() as u64;
    let is_kept = others.iter().all(|it| least <= *it);
    demand!(is_kept, "{others:?} instances after a node was drained, {least} each are to be ready");
    Ok(Figures::default()
        .with("bounded_samples", seen.loaded.len())
        .with("bounded_most", most)
        .with("bounded_max", max)
        .with("bounded_at_rest", rest.map(|it| it.to_string()).join("+"))
        .with("bounded_after_a_drain", seen.drained.map(|it| it.to_string()).join("+")))
}

/// What nodes could get wrong, in what was seen: each has to be noticed. How many there are.
pub(super) fn plants(seen: &Bounded, bounds: Bounds) -> Result<u64, NotShown> {
    let mut over = seen.clone();
    over.loaded.iter_mut().take(1).for_each(|it| it[0] += bounds.max);
    let mut unspread = seen.clone();
    unspread.rest = [bounds.warm, 0, 0];
    let mut cold = seen.clone();
    cold.rest[0] = 0;
    let mut stays = seen.clone();
    stays.drained[NODES - 1] = 1;
    let mut lost = seen.clone();
    lost.drained = [bounds.max, 0, 0];
    let mut short = seen.clone();
    short.loaded.iter_mut().for_each(|it| it[0] = 0);
    let all = [
        ("a maximum that does not hold", over),
        ("a minimum at one node", unspread),
        ("a node that keeps nothing ready", cold),
        ("instances at a node that was drained", stays),
        ("a minimum that a drain moves to one node", lost),
        ("a maximum that is not used", short),
    ];
    let count = all.len() as u64;
    for (what, planted) in all {
        demand!(judge(&planted, bounds).is_err(), "nobody noticed {what}");
    }
    Ok(count)
}
