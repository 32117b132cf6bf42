//! A pure core: what shards weigh when they are placed, from what members say that they measured.
//!
//! Members measure all the time, and what they measure is never twice the same. A plan needs weights
//! that stay as they are until there is a reason:
//!
//! - **WG-1** weights are used from when every member that owns something was heard of, or the leader
//!   has waited for [`WAIT_MAX`]. Before that shards are placed, and none is moved to balance.
//! - **WG-2** after that weights change only when by the newest ones a member had more than
//!   [`HOT_PERCENT`] of the mean for [`HOT_FOR`], and not within [`COOLDOWN`] of the last change.
//! - **WG-3** weights are coarse: a shard that keeps less than a twentieth of an instance busy weighs as
//!   much as an idle one, and above that each step is twice the one before.
//! - **WG-4** a shard that nobody has measured weighs as much as an idle one.
//! - **WG-5** a member's capacity is its cores, once all members have said theirs; before that they are
//!   equal.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::ShardId;

/// What a member may have, as a percentage of the mean, before its weights are looked at anew.
pub const HOT_PERCENT: u64 = 130;
/// For how long it has to have it.
pub const HOT_FOR: Duration = Duration::from_secs(10);
/// How long weights stay at least.
pub const COOLDOWN: Duration = Duration::from_secs(30);
/// How long a new leader waits for members that do not say what they measured.
pub const WAIT_MAX: Duration = Duration::from_secs(10);
/// What an idle shard weighs: it is fetched for, and may be busy at any time.
pub const IDLE: u64 = 100;
/// Thousandths of an instance that a busy shard keeps busy at least.
const BUSY: u64 = 50;

/// What a member says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// How many cores it has.
    pub cores: u32,
    /// Thousandths of an instance that each of its shards keeps busy.
    pub busy: BTreeMap<ShardId, u64>,
}

/// What a leader has heard, and what it goes by. Times are since it began to lead.
#[derive(Clone, Debug, Default)]
pub struct Weighing {
    told: BTreeMap<u64, Told>,
    used: Option<BTreeMap<ShardId, u64>>,
    used_since: Duration,
    hot_since: Option<Duration>,
}

/// Who owns what now: each shard, and the members that can own shards.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// When.
    pub now: Duration,
    /// Owners of shards that have one.
    pub owners: &'a BTreeMap<ShardId, u64>,
    /// Who can own shards.
    pub members: &'a [u64],
}

impl Weighing {
    /// A member has said what it measured.
    pub fn on_told(&mut self, member: u64, told: Told) {
        self.told.insert(member, told);
    }

    /// Looks whether there is a reason for other weights.
    pub fn look(&mut self, scales: Scales<'_>) {
        let Scales { now, owners, members } = scales;
        self.told.retain(|member, _| members.contains(member));
        if self.used.is_none() {
            let mut owning = members.iter().filter(|it| owners.values().any(|owner| owner == *it));
            let is_heard = owning.all(|it| self.told.contains_key(it));
            if is_heard || WAIT_MAX <= now {
                self.change(now, owners);
            }
            return;
        }
        if !self.is_hot(owners, members) {
            self.hot_since = None;
            return;
        }
        let since = *self.hot_since.get_or_insert(now);
        if since + HOT_FOR <= now && self.used_since + COOLDOWN <= now {
            self.change(now, owners);
        }
    }

    /// What a shard weighs; `None` until shards may be moved to balance.
    #[must_use]
    pub fn weights(&self) -> Option<&BTreeMap<ShardId, u64>> {
        self.used.as_ref()
    }

    /// A member's cores, if all of these have said theirs.
    #[must_use]
    pub fn cores(&self, members: &[u64]) -> Option<BTreeMap<u64, u32>> {
        let cores = |id: &u64| Some((*id, self.told.get(id)?.cores.max(1)));
        members.iter().map(cores).collect()
    }

    /// What a shard weighs by what its owner said last.
    #[must_use]
    pub fn newest(&self, shard: ShardId, owner: u64) -> u64 {
        let told = self.told.get(&owner).and_then(|it| it.busy.get(&shard));
        IDLE + told.map_or(0, |busy| coarse(*busy))
    }

    fn change(&mut self, now: Duration, owners: &BTreeMap<ShardId, u64>) {
        let weigh = |(shard, owner): (&ShardId, &u64)| (*shard, self.newest(*shard, *owner));
        self.used = Some(owners.iter().map(weigh).collect());
        (self.used_since, self.hot_since) = (now, None);
    }

    /// Whether some member has much more than the mean, for its cores.
    fn is_hot(&self, owners: &BTreeMap<ShardId, u64>, members: &[u64]) -> bool {
        let equal = || members.iter().map(|it| (*it, 1)).collect();
        let cores = self.cores(members).unwrap_or_else(equal);
        let mut loads: BTreeMap<u64, u64> = members.iter().map(|it| (*it, 0)).collect();
        for (shard, owner) in owners {
            let weight = self.newest(*shard, *owner);
            loads.entry(*owner).and_modify(|it| *it += weight);
        }
        let (total, all) = (loads.values().sum::<u64>(), cores.values().map(|it| u64::from(*it)));
        let all: u64 = all.sum();
        let is_hot = |(id, load): (&u64, &u64)| {
            let own = u64::from(cores.get(id).copied().unwrap_or(1));
            HOT_PERCENT * total * own < 100 * load * all
        };
        loads.iter().any(is_hot)
    }
}

/// WG-3.
fn coarse(busy: u64) -> u64 {
    if busy < BUSY {
        return 0;
    }
    let steps = (busy / BUSY).ilog2();
    BUSY << steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(shards: &[(u64, u64)]) -> Told {
        Told { cores: 2, busy: shards.iter().map(|(id, busy)| (ShardId(*id), *busy)).collect() }
    }

    struct World {
        weighing: Weighing,
        owners: BTreeMap<ShardId, u64>,
        now: Duration,
    }

    impl World {
        fn new() -> Self {
            let owners = (0..6).map(|id| (ShardId(id), 1 + id % 3)).collect();
            Self { weighing: Weighing::default(), owners, now: Duration::ZERO }
        }

        fn look(&mut self, after_s: u64) -> Option<BTreeMap<ShardId, u64>> {
            self.now += Duration::from_secs(after_s);
            let scales = Scales { now: self.now, owners: &self.owners, members: &[1, 2, 3] };
            self.weighing.look(scales);
            self.weighing.weights().cloned()
        }
    }

    #[test]
    fn nothing_is_weighed_before_all_owners_were_heard_of_or_waited_for() {
        let mut world = World::new();
        world.weighing.on_told(1, told(&[(0, 400)]));
        world.weighing.on_told(2, told(&[]));
        assert_eq!(world.look(1), None, "WG-1");
        world.weighing.on_told(3, told(&[]));
        let weights = world.look(1).unwrap();
        assert_eq!((weights[&ShardId(0)], weights[&ShardId(1)]), (500, IDLE), "WG-3, WG-4");
        assert_eq!(World::new().look(9), None, "WG-1");
        assert!(World::new().look(10).is_some(), "WG-1: it does not wait for ever");
    }

    #[test]
    fn weights_stay_until_a_member_was_hot_for_a_while() {
        let mut world = World::new();
        (1..=3).for_each(|member| world.weighing.on_told(member, told(&[])));
        let equal = world.look(1).unwrap();
        world.weighing.on_told(1, told(&[(0, 45), (3, 49)]));
        assert_eq!(world.look(100).unwrap(), equal, "WG-3: next to nothing is nothing");
        world.weighing.on_told(1, told(&[(0, 2_000), (3, 900)]));
        assert_eq!(world.look(1).unwrap(), equal, "WG-2");
        assert_eq!(world.look(9).unwrap(), equal, "WG-2");
        world.weighing.on_told(1, told(&[]));
        assert_eq!(world.look(0).unwrap(), equal, "a burst that is over");
        world.weighing.on_told(1, told(&[(0, 2_000), (3, 900)]));
        assert_eq!(world.look(1).unwrap(), equal, "WG-2: it begins anew");
        let hot = world.look(10).unwrap();
        assert_eq!((hot[&ShardId(0)], hot[&ShardId(3)]), (1_700, 900), "WG-2, WG-3");
        world.weighing.on_told(1, told(&[(0, 9_000)]));
        assert_eq!(world.look(1).unwrap(), hot);
        assert_eq!(world.look(15).unwrap(), hot, "WG-2: cooldown");
        assert_ne!(world.look(15).unwrap(), hot);
    }

    #[test]
    fn cores_count_once_all_have_said_theirs() {
        let mut world = World::new();
        world.weighing.on_told(1, Told { cores: 8, ..Told::default() });
        world.weighing.on_told(2, Told { cores: 4, ..Told::default() });
        assert_eq!(world.weighing.cores(&[1, 2, 3]), None, "WG-5");
        let cores = world.weighing.cores(&[1, 2]).unwrap();
        assert_eq!((cores[&1], cores[&2]), (8, 4), "WG-5");
    }
}
