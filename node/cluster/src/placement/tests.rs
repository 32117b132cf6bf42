//! Plans for exact cases, and a slow checker that every seeded plan has to pass, itself proven by
//! plans that were spoiled.

use super::*;

type Hosts = BTreeMap<u64, Host>;
type Shards = BTreeMap<ShardId, Load>;

fn labels(of: &str) -> BTreeSet<String> {
    of.chars().map(String::from).collect()
}

fn host(capacity: u64, of: &str, standing: Standing) -> Host {
    Host { capacity, labels: labels(of), standing }
}

fn hosts(ids: impl IntoIterator<Item = u64>) -> Hosts {
    ids.into_iter().map(|id| (id, host(100_000, "", Standing::Live))).collect()
}

fn shards(count: u64) -> Shards {
    let one = Load { weight: 1, requires: BTreeSet::new(), owner: None };
    (1..=count).map(|id| (ShardId(id), one.clone())).collect()
}

fn carry_out(shards: &mut Shards, plan: &Plan) {
    for it in &plan.moves {
        shards.get_mut(&it.shard).unwrap().owner = Some(it.to);
    }
}

/// How much each host has.
fn loads(hosts: &Hosts, shards: &Shards) -> BTreeMap<u64, u64> {
    let mut loads: BTreeMap<u64, u64> = hosts.keys().map(|id| (*id, 0)).collect();
    for load in shards.values() {
        if let Some(has) = load.owner.and_then(|owner| loads.get_mut(&owner)) {
            *has += load.weight.max(1);
        }
    }
    loads
}

fn may_own(host: &Host, load: &Load) -> bool {
    host.standing == Standing::Live && load.requires.iter().all(|it| host.labels.contains(it))
}

/// Those whose owner may have them.
fn rightly(hosts: &Hosts, shards: &Shards) -> Shards {
    let is_right =
        |it: &Load| it.owner.and_then(|id| hosts.get(&id)).is_some_and(|of| may_own(of, it));
    let right = shards.iter().filter(|(_, it)| is_right(it));
    right.map(|(id, it)| (*id, it.clone())).collect()
}

/// Whether some live host is further than a tenth from the mean, or over its capacity.
fn is_uneven(hosts: &Hosts, loads: &BTreeMap<u64, u64>, all: &Shards) -> bool {
    let first = all.values().next().map(|it| it.weight.max(1));
    let is_measured = all.values().any(|it| Some(it.weight.max(1)) != first);
    let tolerance = if is_measured { 0.3 } else { 0.1 };
    let live: Vec<(f64, f64)> = hosts
        .iter()
        .filter(|(_, it)| it.standing == Standing::Live)
        .map(|(id, it)| (loads[id] as f64, it.capacity as f64))
        .collect();
    let mean = live.iter().map(|it| it.0).sum::<f64>() / live.iter().map(|it| it.1).sum::<f64>();
    live.iter().any(|(load, capacity)| {
        load > capacity || (load / capacity - mean).abs() > mean * tolerance * (1.0 + 1e-9)
    })
}

/// What is wrong with a plan, by the invariant.
fn check(hosts: &Hosts, shards: &Shards, plan: &Plan) -> Result<(), String> {
    let kept = rightly(hosts, shards);
    let mut after = shards.clone();
    let mut seen = BTreeSet::new();
    for it in &plan.moves {
        let load = &shards[&it.shard];
        if !seen.insert(it.shard) || load.owner == Some(it.to) {
            return Err(format!("PP-2: {it:?} is no move, or the second"));
        }
        if !hosts.get(&it.to).is_some_and(|to| may_own(to, load)) {
            let drains = hosts.get(&it.to).is_some_and(|to| to.standing == Standing::Draining);
            return Err(format!("{}: {it:?}", if drains { "PP-3" } else { "PP-1" }));
        }
        let had = load.owner.and_then(|id| hosts.get(&id));
        let cause = match (load.owner, had.map(|it| it.standing)) {
            (None, _) => Cause::New,
            (_, None | Some(Standing::Gone)) => Cause::Gone,
            (_, Some(Standing::Draining)) => Cause::Draining,
            _ if !kept.contains_key(&it.shard) => Cause::Labels,
            _ if it.cause == Cause::Capacity => Cause::Capacity,
            _ => Cause::Balance,
        };
        if cause != it.cause {
            return Err(format!("PP-2: {it:?}, and the cause is {cause:?}"));
        }
        carry_out(&mut after, &Plan { moves: vec![*it], unplaced: Vec::new() });
    }
    let (was, now) = (loads(hosts, &kept), loads(hosts, &rightly(hosts, &after)));
    for (id, host) in hosts {
        if host.capacity < now[id] && was[id] < now[id] {
            return Err(format!("PP-1: {id} has {} of {}", now[id], host.capacity));
        }
    }
    let chosen = plan.moves.iter().filter(|it| kept.contains_key(&it.shard)).count();
    if 0 < chosen && plan.moves.len() == chosen && !is_uneven(hosts, &was, shards) {
        return Err(format!("PP-2: {chosen} moves, and all was even"));
    }
    for (id, load) in &after {
        let is_placed =
            load.owner.and_then(|it| hosts.get(&it)).is_some_and(|of| may_own(of, load));
        if is_placed == plan.unplaced.contains(id) {
            return Err(format!("PP-1: {id} is listed as placed, and is not, or the reverse"));
        }
        let fits = |(host, of): (&u64, &Host)| {
            may_own(of, load) && now[host] + load.weight.max(1) <= of.capacity
        };
        if !is_placed && hosts.iter().any(fits) {
            let drains = load.owner.and_then(|it| hosts.get(&it)).map(|it| it.standing);
            let rule = if drains == Some(Standing::Draining) { "PP-3" } else { "PP-1" };
            return Err(format!("{rule}: {id} would fit somewhere"));
        }
    }
    if is_uneven(hosts, &now, &after) {
        for (id, load) in &after {
            let Some(from) = load.owner.filter(|it| hosts.contains_key(it)) else { continue };
            let weight = load.weight.max(1) as f64;
            let share =
                |host: &u64, more: f64| (now[host] as f64 + more) / hosts[host].capacity as f64;
            let is_worth = |(to, of): (&u64, &Host)| {
                may_own(of, load)
                    && now[to] + load.weight.max(1) <= of.capacity
                    && share(to, 1.5 * weight) < share(&from, 0.0) * (1.0 - 1e-9)
            };
            if hosts[&from].standing == Standing::Live && hosts.iter().any(is_worth) {
                return Err(format!("PP-4: {id} should have left {from}"));
            }
        }
    }
    match super::plan(hosts, &after).moves.is_empty() {
        true => Ok(()),
        false => Err("PP-5: carried out, it leads to more moves".to_owned()),
    }
}

/// Carries out a checked plan; how many moves it had.
fn settle(hosts: &Hosts, shards: &mut Shards) -> usize {
    let plan = plan(hosts, shards);
    assert_eq!(check(hosts, shards, &plan), Ok(()));
    carry_out(shards, &plan);
    plan.moves.len()
}

#[test]
fn a_fourth_member_gets_a_quarter_and_nothing_else_moves() {
    let (mut members, mut all) = (hosts(1..=3), shards(1_000));
    assert_eq!(settle(&members, &mut all), 1_000);
    assert_eq!(settle(&members, &mut all), 0);
    members.extend(hosts([4]));
    let plan = plan(&members, &all);
    assert!(plan.moves.len() <= 1_000_usize.div_ceil(4) + 1, "{}", plan.moves.len());
    assert!(plan.moves.iter().all(|it| it.to == 4 && it.cause == Cause::Balance));
    settle(&members, &mut all);
    assert_eq!(loads(&members, &all), (1..=4).map(|id| (id, 250)).collect());
    // It leaves again: what it had moves, and nothing else.
    members.remove(&4);
    assert_eq!(settle(&members, &mut all), 250);
}

#[test]
fn ten_joins_and_leaves_in_a_row_end_balanced() {
    let (mut members, mut all) = (hosts(1..=3), shards(1_000));
    settle(&members, &mut all);
    for next in 4..=13 {
        let (gone, new) = (next - 3, next);
        members.extend(hosts([new]));
        assert!(settle(&members, &mut all) <= 251);
        members.get_mut(&gone).unwrap().standing = Standing::Draining;
        assert_eq!(settle(&members, &mut all), 250, "what it had, and nothing else");
        assert_eq!(loads(&members, &all)[&gone], 0, "PP-3");
        members.remove(&gone);
    }
    let loads = loads(&members, &all);
    assert!(loads.values().all(|it| (333..=334).contains(it)), "{loads:?}");
}

#[test]
fn heavy_shards_whose_weights_take_turns_stay() {
    let (members, mut all) = (hosts([1, 2]), shards(3));
    for (id, owner) in [(1, 1), (2, 1), (3, 2)] {
        all.get_mut(&ShardId(id)).unwrap().owner = Some(owner);
    }
    for weights in [[100, 99, 98], [98, 100, 103], [120, 90, 100]] {
        for (load, weight) in all.values_mut().zip(weights) {
            load.weight = weight;
        }
        assert_eq!(settle(&members, &mut all), 0);
    }
}

#[test]
fn capacity_labels_and_draining_are_respected() {
    let mut members: Hosts = [
        (1, host(2, "", Standing::Live)),
        (2, host(9, "a", Standing::Draining)),
        (3, host(9, "a", Standing::Gone)),
    ]
    .into();
    let mut all = shards(4);
    for (load, (owner, requires)) in all.values_mut().zip([(2, "a"), (2, ""), (3, ""), (3, "a")]) {
        (load.owner, load.requires) = (Some(owner), labels(requires));
    }
    let first = plan(&members, &all);
    assert_eq!(first.unplaced, [ShardId(1), ShardId(4)], "nobody has their label");
    let causes: Vec<Cause> = first.moves.iter().map(|it| it.cause).collect();
    assert_eq!(causes, [Cause::Draining, Cause::Gone]);
    settle(&members, &mut all);
    members.insert(4, host(1, "ab", Standing::Live));
    assert_eq!(plan(&members, &all).unplaced, [ShardId(4)], "room for one");
}

/// PP-1 to PP-5 over seeded clusters that change again and again, and each spoiled plan is noticed.
#[test]
fn any_plan_keeps_the_invariants_and_a_spoiled_one_does_not() {
    let mut noticed: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 1..=150_u64 {
        let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |below: u64| {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            rng % below
        };
        let mut members = Hosts::new();
        let mut all = Shards::new();
        for _round in 0..12 {
            let id = 1 + draw(7);
            let standing = [Standing::Live, Standing::Live, Standing::Draining, Standing::Gone];
            let capacity = [draw(40), 20 + draw(200), 1_000][draw(3) as usize];
            let of = ["", "a", "ab", "b"][draw(4) as usize];
            match draw(4) {
                0 => drop(members.remove(&id)),
                _ => drop(members.insert(id, host(capacity, of, standing[draw(4) as usize]))),
            }
            for _change in 0..draw(20) {
                let requires = labels(["", "", "", "a", "b"][draw(5) as usize]);
                let shard = ShardId(1 + draw(60));
                let owner = all.get(&shard).and_then(|it: &Load| it.owner);
                let weight = [draw(3), draw(10), draw(50)][draw(3) as usize];
                match draw(6) {
                    0 => drop(all.remove(&shard)),
                    _ => drop(all.insert(shard, Load { weight, requires, owner })),
                }
            }
            let good = plan(&members, &all);
            assert_eq!(check(&members, &all, &good), Ok(()), "seed {seed}");
            assert_eq!(plan(&members, &all), good);
            let mut spoil = |fault: &'static str, bad: &Plan| {
                let found = check(&members, &all, bad);
                assert!(found.is_err(), "seed {seed}: {fault} was not noticed: {bad:?}");
                *noticed.entry(fault).or_default() += 1;
            };
            if let Some(last) = good.moves.last() {
                let mut bad = good.clone();
                bad.moves.pop();
                if last.cause < Cause::Capacity {
                    spoil("a move left out", &bad);
                }
                bad.moves.push(Move { to: 99, ..*last });
                spoil("to nobody", &bad);
                let drains = members.iter().find(|(_, it)| it.standing == Standing::Draining);
                if let Some((to, _)) = drains {
                    bad.moves.pop();
                    bad.moves.push(Move { to: *to, ..*last });
                    spoil("to one that drains", &bad);
                }
                let mut bad = good.clone();
                bad.moves.push(*last);
                spoil("the same move twice", &bad);
            }
            let still = all.iter().find(|(id, it)| {
                let owner = it.owner.and_then(|owner| members.get(&owner));
                owner.is_some_and(|of| may_own(of, it))
                    && good.moves.iter().all(|made| made.shard != **id)
            });
            if let Some((shard, load)) = still {
                let mut bad = good.clone();
                let to = members.iter().find(|(to, of)| {
                    may_own(of, load) && Some(**to) != load.owner && load.owner.is_some()
                });
                if let Some((to, _)) = to
                    && good.moves.is_empty()
                    && !is_uneven(&members, &loads(&members, &rightly(&members, &all)), &all)
                {
                    let (from, cause) = (load.owner, Cause::Balance);
                    bad.moves.push(Move { shard: *shard, from, to: *to, cause });
                    spoil("a move without a cause", &bad);
                }
            }
            carry_out(&mut all, &good);
        }
    }
    for fault in ["a move left out", "to nobody", "to one that drains", "the same move twice"] {
        assert!(20 < noticed[fault], "{noticed:?}");
    }
    assert!(3 < noticed["a move without a cause"], "{noticed:?}");
}
