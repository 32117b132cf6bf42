//! A pure core: from the cluster's state, and from what the leader has heard of its members, which
//! shards are assigned and which are to be handed over now.
//!
//! [`placement`](crate::placement) says who should own what. Here is added who is there to own
//! anything, and how a shard gets from one to the other:
//!
//! - **PL-1** a shard whose owner is there and can run it is never assigned to another over its
//!   head, unless it was to be handed over for [`HAND_MAX`]: it is handed over.
//! - **PL-2** who was not heard of for [`GONE_AFTER`] is gone. Before it led, the leader has heard of
//!   nobody but of who led then: for the others its time begins with its own lead.
//! - **PL-3** who was gone has to be heard of for a while before it gets anything, each time within
//!   a minute for twice as long.
//! - **PL-4** a plan that was carried out leads to no other.
//! - **PL-6** while it is not known what shards weigh, none moves for balance alone; and of those that
//!   move because their weights differ, few do at once.
//! - **PL-7** no more members are given shards of a function than it may have instances in the whole
//!   cluster.
//! - **PL-5** who has started and is not ready yet keeps what it has and gets nothing, for at most
//!   [`STARTING_MAX`]: a shard that is handed to it would wait until its functions are ready.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bus::{Epoch, ShardId};

use crate::placement::{self, Cause, Host, Load, Standing};
use crate::shares;
use crate::state::{self, Placing, Role, State};
use crate::weighing::{IDLE, Weighing};

/// A member that was not heard of for this long is gone. Heartbeats come every 50 ms.
pub const GONE_AFTER: Duration = Duration::from_secs(1);
/// A member that was heard of within this is there.
const HEARD_WITHIN: Duration = Duration::from_millis(500);
/// How long one that was gone has to be heard of, at first; and at most.
const BACK_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Who was gone within this has to be heard of for longer.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How long an owner may take to hand a shard over.
pub const HAND_MAX: Duration = Duration::from_secs(5);

/// How long a member may take to become ready before it counts as gone.
pub const STARTING_MAX: Duration = Duration::from_secs(30);

/// What a host takes for each of its cores: no more than can be. Loads are compared by the share of it
/// that they are; no shard is left without an owner because all members are busy.
const CAPACITY: u64 = 1 << 32;

/// As many shards are handed over at once only to balance what members measured: this, or a part of
/// all of them.
const BALANCED_AT_ONCE: (usize, usize) = (8, 32);

/// What the planner hears and remembers while its node leads. Times are since it began to.
#[derive(Debug, Default)]
pub struct Planner {
    members: BTreeMap<u64, Health>,
    /// Since when a member starts.
    starting: BTreeMap<u64, Duration>,
    /// Since when a shard is to be handed over, at which epoch.
    handing: BTreeMap<ShardId, (Epoch, Duration)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    /// Since when it is gone, or is heard of again without having been counted in yet.
    gone: Option<Duration>,
    heard_again: Option<Duration>,
    /// When it was gone last, and how long it has to be heard of then.
    was_gone: Option<Duration>,
    back_after: Duration,
}

/// What the leader sees.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// Itself.
    pub me: u64,
    /// What is agreed on.
    pub state: &'a State,
    /// Of other members, since each was heard of, or could have been.
    pub unheard: &'a BTreeMap<u64, Duration>,
    /// How long this node has led.
    pub led_for: Duration,
    /// What shards weigh; without it all weigh the same.
    pub weighing: Option<&'a Weighing>,
    /// Functions that may have so many instances in the whole cluster: no more members own shards of
    /// one.
    pub limits: &'a BTreeMap<String, u32>,
}

/// What should be proposed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposals {
    /// At once.
    pub assign: Vec<Placing>,
    /// By their owners.
    pub hand: Vec<Placing>,
}

impl Proposals {
    /// Whether all is where it should be.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.assign.is_empty() && self.hand.is_empty()
    }
}

impl Planner {
    /// What should be proposed now.
    pub fn plan(&mut self, sight: Sight<'_>) -> Proposals {
        let mut hosts = self.hosts(sight);
        let shards = sight.state.shards();
        self.handing.retain(|id, (epoch, _)| {
            shards.get(id).is_some_and(|it| it.epoch == *epoch && it.target.is_some())
        });
        let limited = limited(sight, &hosts);
        for (function, members) in &limited {
            for (id, host) in &mut hosts {
                if members.contains(id) {
                    host.labels.insert(room_for(function));
                }
            }
        }
        let mut loads = loads(sight, &limited);
        // What a member has that is about to be ready is not to be placed.
        loads.retain(|_, it| {
            it.owner.is_none_or(|id| hosts.contains_key(&id) || !self.starting.contains_key(&id))
        });
        let is_known = sight.weighing.is_none_or(|it| it.weights().is_some());
        let plan = if is_known { placement::plan } else { placement::place };
        let mut moves = plan(&hosts, &loads).moves;
        if loads.values().any(|it| it.weight != IDLE) {
            let underway = shards.values().filter(|it| it.target.is_some()).count();
            let (least, part) = BALANCED_AT_ONCE;
            let mut room = least.max(loads.len() / part).saturating_sub(underway);
            moves.retain(|it| {
                let (is_free, has_room) = (it.cause != Cause::Balance, 0 < room);
                room = room.saturating_sub(usize::from(!is_free));
                is_free || has_room
            });
        }
        let wanted: BTreeMap<ShardId, u64> = moves.iter().map(|it| (it.shard, it.to)).collect();
        let mut proposals = Proposals::default();
        let is_there = |id: u64| {
            let standing = hosts.get(&id).map(|it| it.standing);
            standing.is_some_and(|it| it != Standing::Gone)
        };
        for (id, shard) in shards {
            let wanted = wanted.get(id).copied();
            let place = |to| Placing { shard: *id, ends: shard.epoch, to };
            match (shard.owner, shard.target, wanted) {
                (Some(owner), _, Some(to)) if is_there(owner) => {
                    proposals.hand.push(place(to));
                }
                (_, _, Some(to)) => proposals.assign.push(place(to)),
                (Some(owner), Some(target), None) => {
                    let since = self.handing.entry(*id).or_insert((shard.epoch, sight.led_for)).1;
                    let is_late = HAND_MAX <= sight.led_for.saturating_sub(since);
                    if is_there(target) && (is_late || !is_there(owner)) {
                        proposals.assign.push(place(target));
                    }
                }
                _ => {}
            }
        }
        proposals
    }

    /// Who can own shards. A node alone has no roster.
    fn hosts(&mut self, sight: Sight<'_>) -> BTreeMap<u64, Host> {
        let Sight { me, state, .. } = sight;
        let members = state.roster().members();
        let mut standings: BTreeMap<u64, Standing> = BTreeMap::new();
        // Who leads votes, whatever the roster says yet.
        let voters = members.iter().filter(|(id, it)| it.role == Role::Voter || **id == me);
        self.starting.retain(|id, _| state.is_starting(*id));
        for (id, member) in voters {
            let mut is_gone = *id != me && self.is_gone(*id, sight);
            if state.is_starting(*id) {
                let since = *self.starting.entry(*id).or_insert(sight.led_for);
                is_gone |= STARTING_MAX <= sight.led_for.saturating_sub(since);
                if !is_gone {
                    continue;
                }
            }
            let drains = member.is_draining || state.is_stopping(*id);
            standings.insert(
                *id,
                match (is_gone, drains) {
                    (true, _) => Standing::Gone,
                    (false, true) => Standing::Draining,
                    (false, false) => Standing::Live,
                },
            );
        }
        if members.is_empty() {
            standings.insert(me, Standing::Live);
        }
        let all: BTreeSet<&str> = state.unfit().map(|(_, function)| function).collect();
        let ids: Vec<u64> = standings.keys().copied().collect();
        let cores = sight.weighing.and_then(|it| it.cores(&ids)).unwrap_or_default();
        let host = |(id, standing)| {
            let able = all.iter().filter(|function| !state.is_unfit(id, function));
            let labels = able.map(|it| (*it).to_owned()).collect();
            let cores = cores.get(&id).copied().unwrap_or(1);
            (id, Host { capacity: CAPACITY * u64::from(cores), labels, standing })
        };
        standings.into_iter().map(host).collect()
    }

    /// PL-2, PL-3.
    fn is_gone(&mut self, id: u64, sight: Sight<'_>) -> bool {
        let now = sight.led_for;
        let unheard = sight.unheard.get(&id).copied().unwrap_or(now);
        let health = self.members.entry(id).or_default();
        if GONE_AFTER <= unheard {
            if health.gone.is_none() {
                let is_again = health.was_gone.is_some_and(|it| now < it + REMEMBERED);
                let longer = (2 * health.back_after).min(BACK_AFTER.1);
                health.back_after = if is_again { longer } else { BACK_AFTER.0 };
                health.gone = Some(now);
            }
            (health.was_gone, health.heard_again) = (Some(now), None);
            return true;
        }
        if health.gone.is_some() {
            if HEARD_WITHIN < unheard {
                health.heard_again = None;
            } else {
                let since = *health.heard_again.get_or_insert(now);
                if health.back_after <= now - since {
                    (health.gone, health.heard_again) = (None, None);
                }
            }
        }
        health.gone.is_some()
    }
}

/// The members that may own shards of a function, where not all may.
type Limited = BTreeMap<String, Vec<u64>>;

fn limited(sight: Sight<'_>, hosts: &BTreeMap<u64, Host>) -> Limited {
    let live = hosts.iter().filter(|(_, it)| it.standing == Standing::Live);
    let live: Vec<u64> = live.map(|(id, _)| *id).collect();
    let eligible = |(function, max): (&String, &u32)| {
        let able = |id: &&u64| !sight.state.is_unfit(**id, function);
        let able: Vec<u64> = live.iter().filter(able).copied().collect();
        let members = shares::eligible(sight.state, function, *max, &able)?;
        Some((function.clone(), members))
    };
    sight.limits.iter().filter_map(eligible).collect()
}

/// The label of who has a share of a function's instances.
fn room_for(function: &str) -> String {
    format!("room for {function}")
}

/// A shard that is on its way counts as where it goes.
fn loads(sight: Sight<'_>, limited: &Limited) -> BTreeMap<ShardId, Load> {
    let Sight { state, weighing, .. } = sight;
    let weights = weighing.and_then(Weighing::weights);
    let unfit: BTreeSet<&str> = state.unfit().map(|(_, function)| function).collect();
    let load = |(id, shard): (&ShardId, &state::Shard)| {
        let function = shard.trigger.rsplit_once('/').map_or("", |(function, _)| function);
        let room = limited.contains_key(function).then(|| room_for(function));
        let requires = unfit.get(function).map(|it| (*it).to_owned()).into_iter();
        let requires = requires.chain(room).collect();
        let weight = weights.and_then(|it| it.get(id)).copied().unwrap_or(IDLE);
        (*id, Load { weight, requires, owner: shard.target.or(shard.owner) })
    };
    state.shards().iter().map(load).collect()
}

#[cfg(test)]
mod tests {
    use crate::state::{App, Command, Function, MemberChange, Trigger};
    use crate::weighing::{Scales, Told};

    use super::*;

    fn state(members: u64, partitions: u32) -> State {
        let mut state = State::default();
        let function = Function { revision: "1".into(), package: "1".into(), spec: "{}".into() };
        let trigger = Trigger { function: "f".into(), topics: [("in".into(), partitions)].into() };
        let app = App {
            functions: [("f".to_owned(), function)].into(),
            triggers: [("a/f/t".to_owned(), trigger)].into(),
            ..App::default()
        };
        let deploy =
            Command::Deploy { name: "a".into(), app, expects: None, at: bus::Timestamp(0) };
        state.apply(&deploy).unwrap();
        for member in 1..=members {
            let (name, address) = (format!("n{member}"), "a:1".to_owned());
            let join = MemberChange::Join { name, address, key: [0; 32], token: None };
            for change in [join, MemberChange::Promote] {
                state.apply(&Command::Member { member, change }).unwrap();
            }
        }
        state
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A leader, member 1, and a state that its proposals change.
    struct World {
        planner: Planner,
        state: State,
        now: u64,
        unheard: BTreeMap<u64, Duration>,
        weighing: Option<Weighing>,
        limits: BTreeMap<String, u32>,
    }

    impl World {
        fn new(members: u64, partitions: u32) -> Self {
            let state = state(members, partitions);
            let unheard = (2..=members).map(|id| (id, ms(30))).collect();
            let planner = Planner::default();
            let limits = BTreeMap::new();
            Self { planner, state, now: 10_000, unheard, weighing: None, limits }
        }

        fn plan(&mut self) -> Proposals {
            let (state, unheard) = (&self.state, &self.unheard);
            let weighing = self.weighing.as_ref();
            let (limits, led_for) = (&self.limits, ms(self.now));
            self.planner.plan(Sight { me: 1, state, unheard, led_for, weighing, limits })
        }

        fn carry_out(&mut self) -> Proposals {
            let proposals = self.plan();
            let Proposals { assign, hand } = proposals.clone();
            self.state.apply(&Command::Assign { moves: assign }).unwrap();
            self.state.apply(&Command::Hand { moves: hand }).unwrap();
            proposals
        }

        fn hand_over(&mut self, from: u64) {
            let going = self.state.shards().iter().filter(|(_, it)| it.owner == Some(from));
            let moves = going.filter_map(|(shard, it)| {
                Some(Placing { shard: *shard, ends: it.epoch, to: it.target? })
            });
            let moves = moves.collect();
            self.state.apply(&Command::Assign { moves }).unwrap();
        }

        fn owned(&self) -> Vec<usize> {
            let count = |id| self.state.shards().values().filter(|it| it.owner == Some(id)).count();
            (1..=3).map(count).collect()
        }

        fn silence(&mut self, id: u64, for_ms: u64) {
            self.now += for_ms;
            self.unheard.insert(id, ms(for_ms));
        }
    }

    #[test]
    fn a_node_alone_gets_everything_at_once() {
        let mut world = World { now: 0, ..World::new(0, 3) };
        assert_eq!(world.carry_out().assign.len(), 3);
        assert_eq!(world.owned(), [3, 0, 0]);
        assert!(world.carry_out().is_empty(), "PL-4");
    }

    #[test]
    fn who_is_not_heard_of_is_gone_but_not_for_a_leader_that_had_no_chance_to_hear() {
        let mut world = World::new(3, 9);
        world.carry_out();
        assert_eq!(world.owned(), [3, 3, 3]);
        world.silence(2, 990);
        assert!(world.carry_out().is_empty(), "PL-2");
        world.silence(2, 1_000);
        world.carry_out();
        assert_eq!((world.owned()[1], world.owned()[0] + world.owned()[2]), (0, 9));
        assert!(world.carry_out().is_empty(), "PL-4");

        let mut fresh = World { now: 990, ..World::new(3, 9) };
        fresh.unheard.clear();
        fresh.carry_out();
        assert_eq!(fresh.owned(), [3, 3, 3], "PL-2");
        // Who led before it was silent for all that time.
        fresh.now = 500;
        fresh.unheard.insert(2, GONE_AFTER);
        fresh.carry_out();
        assert_eq!(fresh.owned()[1], 0, "PL-2");
    }

    #[test]
    fn who_was_gone_has_to_be_heard_of_for_longer_each_time() {
        let mut world = World::new(2, 8);
        world.carry_out();
        for back_after in [500, 1_000, 2_000] {
            world.silence(2, 1_000);
            world.carry_out();
            assert_eq!(world.owned(), [8, 0, 0]);
            world.silence(2, 10);
            assert!(world.carry_out().is_empty(), "PL-3");
            world.now += back_after - 1;
            assert!(world.carry_out().is_empty(), "PL-3: {back_after}");
            world.now += 1;
            assert_eq!(world.carry_out().hand.len(), 4, "{back_after}");
            world.hand_over(1);
            assert_eq!(world.owned(), [4, 4, 0]);
        }
    }

    #[test]
    fn what_drains_hands_over_and_who_does_not_get_done_or_goes_is_not_waited_for() {
        for stuck in [false, true] {
            let mut world = World::new(3, 9);
            world.carry_out();
            world.state.apply(&Command::Stop { member: 3 }).unwrap();
            let proposals = world.carry_out();
            assert_eq!((proposals.assign.len(), proposals.hand.len()), (0, 3), "PL-1");
            assert_eq!(world.owned(), [3, 3, 3]);
            world.now += 4_999;
            assert!(world.carry_out().is_empty(), "PL-1, PL-4");
            if stuck {
                // The planner saw them on their way at the second look.
                world.now += 5_000;
            } else {
                world.unheard.insert(3, GONE_AFTER);
            }
            assert_eq!(world.carry_out().assign.len(), 3);
            assert_eq!(world.owned()[2], 0);
            assert!(world.carry_out().is_empty(), "PL-4");
        }
    }

    #[test]
    fn a_shard_whose_new_owner_went_meanwhile_goes_to_another() {
        let mut world = World::new(3, 9);
        world.carry_out();
        let change = MemberChange::Drain;
        world.state.apply(&Command::Member { member: 3, change }).unwrap();
        world.carry_out();
        world.silence(2, 1_000);
        world.carry_out();
        world.hand_over(3);
        assert_eq!(world.owned(), [9, 0, 0]);
    }

    impl World {
        /// Has the members say how busy the shards are that each has, and looks.
        fn weigh(&mut self, busy: impl Fn(ShardId) -> u64) {
            let owned = self.state.shards().iter().filter_map(|(id, it)| Some((*id, it.owner?)));
            let owners: BTreeMap<ShardId, u64> = owned.collect();
            let weighing = self.weighing.get_or_insert_default();
            for member in 1..=3 {
                let mine = owners.iter().filter(|(_, owner)| **owner == member);
                let busy = mine.map(|(id, _)| (*id, busy(*id))).collect();
                weighing.on_told(member, Told { cores: 2, busy });
            }
            let now = ms(self.now);
            weighing.look(Scales { now, owners: &owners, members: &[1, 2, 3] });
        }
    }

    #[test]
    fn a_hot_member_gives_shards_away_once_it_was_hot_for_a_while() {
        let mut world = World::new(3, 9);
        world.weighing = Some(Weighing::default());
        world.carry_out();
        assert_eq!(world.owned(), [3, 3, 3], "PL-6: what has no owner is placed");
        let of_first = |state: &State| {
            let shards = state.shards().iter().filter(|(_, it)| it.owner == Some(1));
            shards.map(|(id, _)| *id).collect::<Vec<_>>()
        };
        let hot = of_first(&world.state);
        let busy = |id: ShardId| if hot.contains(&id) { 900 } else { 0 };
        world.weigh(|_| 0);
        assert!(world.carry_out().is_empty(), "PL-4");
        for _look in 0..8 {
            world.weigh(busy);
            assert!(world.carry_out().is_empty(), "PL-6");
            world.now += 4_000;
        }
        world.weigh(busy);
        // Two hot ones leave, and as many idle ones come in their place.
        assert_eq!(world.carry_out().hand.len(), 4);
        (1..=3).for_each(|member| world.hand_over(member));
        let hot_of = |member| {
            let shards = world.state.shards().iter();
            shards.filter(|(id, it)| it.owner == Some(member) && hot.contains(id)).count()
        };
        assert_eq!([hot_of(1), hot_of(2), hot_of(3)], [1, 1, 1]);
        world.weigh(busy);
        assert!(world.carry_out().is_empty(), "PL-4");
    }

    #[test]
    fn a_new_leader_moves_nothing_for_balance_before_it_knows_what_shards_weigh() {
        let mut world = World::new(3, 9);
        world.carry_out();
        let first = ShardId(1);
        let others: Vec<Placing> = {
            let shards = world.state.shards().iter().filter(|(id, _)| **id != first);
            shards.map(|(id, it)| Placing { shard: *id, ends: it.epoch, to: 2 }).collect()
        };
        world.state.apply(&Command::Assign { moves: others }).unwrap();
        world.weighing = Some(Weighing::default());
        assert!(world.carry_out().is_empty(), "PL-6");
        world.weigh(|_| 0);
        assert!(!world.carry_out().is_empty());
    }

    #[test]
    fn a_function_that_cannot_run_on_a_member_goes_to_the_others() {
        let mut world = World::new(3, 9);
        world.carry_out();
        let (function, revision) = ("a/f".to_owned(), Some("1".to_owned()));
        world.state.apply(&Command::Unfit { member: 1, function, revision }).unwrap();
        world.carry_out();
        world.hand_over(1);
        let owned = world.owned();
        assert_eq!((owned[0], owned[1] + owned[2]), (0, 9));
    }

    #[test]
    fn a_function_with_few_instances_is_owned_by_as_few_members() {
        let mut world = World::new(3, 9);
        world.limits.insert("a/f".to_owned(), 2);
        world.carry_out();
        let owners = |world: &World| {
            let owned = world.owned();
            (0..3).filter(|at| 0 < owned[*at]).collect::<Vec<_>>()
        };
        let before = owners(&world);
        assert_eq!(before.len(), 2, "PL-7");
        assert!(world.carry_out().is_empty(), "PL-4");
        let drained = 1 + *before.last().unwrap() as u64;
        let change = MemberChange::Drain;
        world.state.apply(&Command::Member { member: drained, change }).unwrap();
        world.carry_out();
        world.hand_over(drained);
        let after = owners(&world);
        assert_eq!(after.len(), 2, "PL-7");
        assert!(after.contains(&before[0]), "who owned some goes on");
        assert!(world.carry_out().is_empty(), "PL-4");
    }

    #[test]
    fn who_starts_keeps_what_it_has_and_gets_nothing_until_it_is_ready() {
        let mut world = World::new(3, 9);
        world.carry_out();
        let mut incarnation = 0;
        let mut start = |state: &mut State| {
            incarnation += 1;
            let (address, version) = ("a:1".to_owned(), String::new());
            let change = MemberChange::Start { address, incarnation, version };
            state.apply(&Command::Member { member: 3, change }).unwrap();
        };
        start(&mut world.state);
        assert!(world.carry_out().is_empty(), "PL-5: it keeps what it had");
        world.now += 29_999;
        assert!(world.carry_out().is_empty(), "PL-5");
        world.now += 1;
        assert_eq!(world.carry_out().assign.len(), 3, "PL-5: as if it were gone");
        start(&mut world.state);
        assert!(world.carry_out().is_empty(), "PL-5: it gets nothing");
        world.state.apply(&Command::Ready { member: 3 }).unwrap();
        assert_eq!(world.carry_out().hand.len(), 3);
    }
}
