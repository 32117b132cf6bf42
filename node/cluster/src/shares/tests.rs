//! Shares are worked out by hand for small clusters, and of any state against the invariants.

use super::*;
use crate::state::{App, Command, Function, MemberChange, Placing, Trigger};

const FUNCTION: &str = "a/f";

fn state(members: u64, partitions: u32) -> State {
    let mut state = State::default();
    let function = Function { revision: "1".into(), package: "1".into(), spec: "{}".into() };
    let trigger = |name: &str| Trigger {
        function: name.into(),
        topics: [("in".into(), partitions.max(1))].into(),
    };
    let mut triggers = BTreeMap::from([("a/g/t".to_owned(), trigger("g"))]);
    if 0 < partitions {
        triggers.insert("a/f/t".to_owned(), trigger("f"));
    }
    let functions = [("f".to_owned(), function.clone()), ("g".to_owned(), function)].into();
    let app = App { functions, triggers, ..App::default() };
    let deploy = Command::Deploy { name: "a".into(), app, expects: None, at: bus::Timestamp(0) };
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

/// Gives each shard to one of these, in turns.
fn assign(state: &mut State, trigger: &str, owners: &[u64]) {
    let of = state.shards().iter().filter(|(_, it)| it.trigger == trigger);
    let moves = of.zip(owners.iter().cycle()).map(|((id, it), to)| Placing {
        shard: *id,
        ends: it.epoch,
        to: *to,
    });
    let moves = moves.collect();
    state.apply(&Command::Assign { moves }).unwrap();
}

fn of(state: &State, warm: u32, max: u32) -> Vec<(u64, u32, u32)> {
    let limits = Limits { warm, max: Some(max), each: 8 };
    let shares = shares(state, 1, FUNCTION, limits);
    shares.into_iter().map(|(id, it)| (id, it.warm, it.max)).collect()
}

#[test]
fn a_maximum_follows_the_shards_and_leaves_one_for_everybody() {
    let mut state = state(3, 6);
    assign(&mut state, "a/f/t", &[1, 2, 3]);
    assert_eq!(of(&state, 3, 9), [(1, 1, 3), (2, 1, 3), (3, 1, 3)]);
    assign(&mut state, "a/f/t", &[2]);
    assert_eq!(of(&state, 0, 9), [(1, 0, 1), (2, 0, 7), (3, 0, 1)]);
    assert_eq!(of(&state, 0, 12), [(1, 0, 2), (2, 0, 8), (3, 0, 2)], "one has its own most");
    assert_eq!(of(&state, 0, 1), [(1, 0, 0), (2, 0, 1), (3, 0, 0)], "SH-2");
}

#[test]
fn what_is_kept_ready_leaves_who_drains_and_who_is_gone() {
    let mut state = state(3, 3);
    assign(&mut state, "a/f/t", &[1, 2, 3]);
    assign(&mut state, "a/g/t", &[1]);
    assert_eq!(of(&state, 4, 9).iter().map(|it| it.1).sum::<u32>(), 4);
    state.apply(&Command::Member { member: 3, change: MemberChange::Drain }).unwrap();
    assert_eq!(of(&state, 4, 9)[2].1, 0, "it drains");
    assign(&mut state, "a/f/t", &[1, 2]);
    assert_eq!(of(&state, 4, 9), [(1, 2, 6), (2, 2, 3)]);
    let (function, revision) = (FUNCTION.to_owned(), Some("1".to_owned()));
    assign(&mut state, "a/f/t", &[1]);
    state.apply(&Command::Unfit { member: 2, function, revision }).unwrap();
    assert_eq!(of(&state, 4, 9), [(1, 4, 8)], "it cannot run there");
    let alone = State::default();
    assert_eq!(of(&alone, 2, 5), [(1, 2, 5)]);
}

#[test]
fn few_members_are_eligible_and_owners_stay_it() {
    let mut state = state(4, 4);
    assert_eq!(eligible(&state, FUNCTION, 4, &[1, 2, 3, 4]), None);
    for owner in 1..=4 {
        assign(&mut state, "a/f/t", &[owner]);
        let found = eligible(&state, FUNCTION, 2, &[1, 2, 3, 4]).unwrap();
        assert_eq!((found.len(), found[0]), (2, owner));
    }
}

#[test]
fn a_share_shrinks_at_once_and_grows_later() {
    let share = |warm, max| Share { warm, max };
    let ms = Duration::from_millis;
    let mut taken = Taken::new(share(1, 4));
    assert_eq!(taken.follow(ms(0), share(1, 2)), share(1, 2), "SH-5");
    assert_eq!(taken.follow(ms(10), share(2, 4)), share(1, 2), "SH-5");
    assert_eq!(taken.follow(ms(900), share(2, 1)), share(1, 1), "SH-5: one grows, one shrinks");
    assert_eq!(taken.follow(ms(1_009), share(2, 4)), share(1, 1), "SH-5");
    assert_eq!(taken.follow(ms(1_010), share(2, 4)), share(2, 4));
    assert_eq!(taken.follow(ms(1_020), share(3, 5)), share(2, 4), "SH-5: each time");
}

#[test]
fn any_state_keeps_the_invariants() {
    for seed in 1..=3_000_u64 {
        let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |below: u64| {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            rng % below
        };
        let members = 1 + draw(6);
        let mut state = state(members, draw(9) as u32);
        for trigger in ["a/f/t", "a/g/t"] {
            let owners: Vec<u64> = (0..6).map(|_| 1 + draw(members)).collect();
            assign(&mut state, trigger, &owners);
        }
        for member in 1..=members {
            if draw(5) == 0 {
                let _all_drain =
                    state.apply(&Command::Member { member, change: MemberChange::Drain });
            }
        }
        let (warm, max, each) = (draw(9) as u32, 1 + draw(20) as u32, 1 + draw(9) as u32);
        let limits = Limits { warm, max: Some(max), each };
        let found = shares(&state, 1, FUNCTION, limits);
        assert_eq!(found, shares(&state.clone(), 1, FUNCTION, limits), "seed {seed}: SH-4");
        let sum: u32 = found.values().map(|it| it.max).sum();
        assert!(sum <= max && found.values().all(|it| it.max <= each), "seed {seed}: SH-1");
        let owners = owned(&state, FUNCTION);
        let without = owners.keys().filter(|id| found[id].max == 0).count();
        let others: u32 =
            found.iter().filter(|(id, _)| !owners.contains_key(id)).map(|(_, it)| it.max).sum();
        assert!(without == 0 || others == 0, "seed {seed}: SH-2");
        assert!(owners.len() as u32 > max || without == 0, "seed {seed}: SH-2");
        assert!(found.values().all(|it| it.warm <= it.max), "seed {seed}: SH-3");
        let goes = |id: &u64| state.roster().members()[id].is_draining;
        let open: Vec<&Share> = found
            .iter()
            .filter(|(id, it)| !goes(id) && it.warm < it.max)
            .map(|(_, it)| it)
            .collect();
        let ready: u32 = found.values().map(|it| it.warm).sum();
        let most = found.values().map(|it| it.warm).max().unwrap_or(0);
        // Who owns nothing at all may be gone.
        let there: Vec<u64> = state.shards().values().filter_map(|it| it.owner).collect();
        let is_there = |it: &&Share| {
            found.iter().any(|(id, share)| std::ptr::eq(share, *it) && there.contains(id))
        };
        let open: Vec<&Share> = open.into_iter().filter(is_there).collect();
        assert!(open.is_empty() || ready == warm, "seed {seed}: SH-3");
        assert!(open.iter().all(|it| most <= it.warm + 1), "seed {seed}: SH-3");
    }
}
