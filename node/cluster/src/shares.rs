//! A pure core: how many instances of a function each member may have, and keeps ready, when the
//! function has limits for the whole cluster.
//!
//! Every member computes it from the replicated state, and takes its own share. Who has shards of the
//! function comes first, then who is there at all (it owns shards of something), then a hash of the
//! function and the member: so shares stay where they are while owners do. Who cannot run it has none.
//!
//! ```text
//! most    one each, in that order; the rest by shards owned, as far as a member may have more
//! ready   one each, in turns, where there is room
//! ```
//!
//! Invariants, checked by the model test:
//!
//! - **SH-1** shares of a maximum are together never more than it, nor is one more than a member may
//!   have of its own.
//! - **SH-2** while there is enough for all owners, each has a share of it; where there is not, owners
//!   have all of it.
//! - **SH-3** what is kept ready spreads: no member has two more than another that could have one more,
//!   and all of it is placed where there is room.
//! - **SH-4** equal states give equal shares.
//! - **SH-5** a share that shrinks is given back at once, one that grows is taken after
//!   [`GROW_AFTER`]: who had it before has seen the same state by then, or was cut off and is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::state::{Role, State};

/// How long a larger share is not taken yet.
pub const GROW_AFTER: Duration = Duration::from_secs(1);

/// What a function may have in the whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Instances kept ready.
    pub warm: u32,
    /// Instances at the same time; `None` = as many as its members may have.
    pub max: Option<u32>,
    /// The most that one member may have.
    pub each: u32,
}

/// A member's share of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Instances that it keeps ready.
    pub warm: u32,
    /// Instances that it may have.
    pub max: u32,
}

/// What counts of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    id: u64,
    /// Shards of the function that it owns.
    shards: u32,
    /// Whether it owns any shard.
    is_there: bool,
    /// Whether it may be given more.
    is_able: bool,
}

/// Every member's share, of who may have one. A node alone, which has no roster, is `me`.
#[must_use]
pub fn shares(state: &State, me: u64, function: &str, limits: Limits) -> BTreeMap<u64, Share> {
    let mut candidates = candidates(state, me, function);
    candidates.sort_by_key(|it| (it.shards == 0, !it.is_there, precedence(function, it.id), it.id));
    let most = maxima(&candidates, limits);
    let warm = spread(&candidates, &most, limits.warm);
    let ids = candidates.iter().map(|it| it.id);
    ids.zip(most.into_iter().zip(warm)).map(|(id, (max, warm))| (id, Share { warm, max })).collect()
}

/// Which of these members may own shards of a function that may have `max` instances: no more
/// members than that. Who has some comes first. `None` = all of them may.
#[must_use]
pub fn eligible(state: &State, function: &str, max: u32, members: &[u64]) -> Option<Vec<u64>> {
    let max = max as usize;
    if members.len() <= max {
        return None;
    }
    let owned = owned(state, function);
    let mut members = members.to_vec();
    members.sort_by_key(|id| (!owned.contains_key(id), precedence(function, *id), *id));
    members.truncate(max);
    Some(members)
}

fn candidates(state: &State, me: u64, function: &str) -> Vec<Candidate> {
    let owned = owned(state, function);
    let there: std::collections::BTreeSet<u64> =
        state.shards().values().filter_map(|it| it.owner).collect();
    let members = state.roster().members();
    let candidate = |id: u64, is_able: bool| Candidate {
        id,
        shards: owned.get(&id).copied().unwrap_or(0),
        is_there: there.contains(&id),
        is_able,
    };
    if members.is_empty() {
        return vec![candidate(me, true)];
    }
    let voters = members.iter().filter(|(id, it)| it.role == Role::Voter || owned.contains_key(id));
    voters
        .map(|(id, it)| {
            let goes = it.is_draining || state.is_stopping(*id) || it.role != Role::Voter;
            candidate(*id, !goes && !state.is_unfit(*id, function))
        })
        .filter(|it| it.is_able || 0 < it.shards)
        .collect()
}

/// Shards of a function, by owner.
fn owned(state: &State, function: &str) -> BTreeMap<u64, u32> {
    let mut owned = BTreeMap::new();
    for shard in state.shards().values() {
        let of = shard.trigger.rsplit_once('/').map_or("", |(function, _)| function);
        if let Some(owner) = shard.owner.filter(|_| of == function) {
            *owned.entry(owner).or_default() += 1;
        }
    }
    owned
}

/// FNV-1a: the same in every build.
fn precedence(function: &str, member: u64) -> u64 {
    let bytes = function.bytes().chain(member.to_be_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// SH-1, SH-2.
fn maxima(candidates: &[Candidate], limits: Limits) -> Vec<u32> {
    let Some(max) = limits.max else { return vec![limits.each; candidates.len()] };
    let mut left = max;
    let mut most: Vec<u32> = Vec::with_capacity(candidates.len());
    for _candidate in candidates {
        let one = left.min(1).min(limits.each);
        left -= one;
        most.push(one);
    }
    let owners = candidates.iter().any(|it| 0 < it.shards);
    let weight = |it: &Candidate| if owners { it.shards } else { 1 };
    while 0 < left {
        let open = (0..candidates.len()).filter(|at| most[*at] < limits.each);
        // Whose share for each shard is smallest; who has no shards, when nobody else can have more.
        let next = open.min_by(|a, b| {
            let key = |at: usize| (weight(&candidates[at]), most[at]);
            let ((wa, ma), (wb, mb)) = (key(*a), key(*b));
            let has_shards = (wa == 0).cmp(&(wb == 0));
            let each = (u64::from(ma) * u64::from(wb)).cmp(&(u64::from(mb) * u64::from(wa)));
            has_shards.then(each).then(ma.cmp(&mb)).then(a.cmp(b))
        });
        let Some(next) = next else { break };
        most[next] += 1;
        left -= 1;
    }
    most
}

/// SH-3.
fn spread(candidates: &[Candidate], most: &[u32], warm: u32) -> Vec<u32> {
    let mut ready = vec![0; candidates.len()];
    // Where nobody owns anything, nobody is known to be there.
    let any = candidates.iter().any(|it| it.is_there && it.is_able);
    let may = |at: usize| candidates[at].is_able && (candidates[at].is_there || !any);
    for _one in 0..warm {
        let open = (0..candidates.len()).filter(|at| may(*at) && ready[*at] < most[*at]);
        let Some(next) = open.min_by_key(|at| (ready[*at], *at)) else { break };
        ready[next] += 1;
    }
    ready
}

/// The share that a member has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    share: Share,
    /// Since when a larger one could be taken.
    more_since: Option<Duration>,
}

impl Taken {
    /// The first share that is known is taken at once.
    #[must_use]
    pub const fn new(share: Share) -> Self {
        Self { share, more_since: None }
    }

    /// The share that counts now that it should be this one; times are since some beginning.
    pub fn follow(&mut self, now: Duration, share: Share) -> Share {
        let shrunk =
            Share { warm: self.share.warm.min(share.warm), max: self.share.max.min(share.max) };
        if shrunk == share {
            (self.share, self.more_since) = (share, None);
            return share;
        }
        let since = *self.more_since.get_or_insert(now);
        self.share = shrunk;
        if GROW_AFTER <= now.saturating_sub(since) {
            (self.share, self.more_since) = (share, None);
        }
        self.share
    }
}

#[cfg(test)]
mod tests;
