//! A pure core: whether bad records were found and cost what they may, judged by what a reader of its
//! own found in the topics and by what the functions wrote down.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::app::{ATTEMPTS, BATCH, Function, Ran, TIMEOUT};
use super::plan::{Kind, Stretch, key};

/// Invocations that one bad record may cost beyond its first: two for each halving, one, and its
/// retries.
const EXTRA_MAX: u64 = 2 * (BATCH.next_power_of_two().ilog2() as u64) + 1 + (ATTEMPTS - 1);
/// What a process may take to start.
const COLD_START: Duration = Duration::from_millis(500);
/// How long a record may take that was in a batch with a bad one.
const TOGETHER_MAX_S: f64 = 8.0 * (TIMEOUT.as_secs_f64() + COLD_START.as_secs_f64()) + 1.0;
/// How much more p99 of the others may be, and what is as good as nothing, so that a machine's own
/// noise breaks no promise.
const P99_FACTOR: f64 = 1.5;
const P99_FLOOR_S: f64 = 0.2;

/// How the finding begins that others were slow.
pub(super) const OTHERS: &str = "OTHERS";

/// An output: of which record, and how long after that was sent it was in its topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Out {
    pub(super) number: u64,
    pub(super) took_s: f64,
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dead {
    pub(super) number: u64,
    pub(super) cause: String,
    pub(super) error_type: String,
    pub(super) attempts: u64,
}

/// What became of the records of one function.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) function: Function,
    pub(super) outputs: Vec<Out>,
    pub(super) dead: Vec<Dead>,
    pub(super) ran: Vec<Ran>,
}

/// What it cost, when nothing is wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cost {
    /// p99 of those that share neither batch nor key with a bad one, by stretch, in milliseconds.
    pub(super) p99_ms: BTreeMap<&'static str, f64>,
    /// The slowest of those that share a batch with one.
    pub(super) together_s: f64,
    /// The most invocations that one cost.
    pub(super) extra: u64,
    pub(super) dead: u64,
}

fn ends_as(function: Function, kind: Kind) -> (&'static str, &'static str, u64) {
    let exhausted = "RetryAttemptsExhausted";
    match (kind, function) {
        (Kind::Exception, _) => (exhausted, "ValueError", ATTEMPTS),
        (Kind::Crash, _) => (exhausted, "Runtime.ExitError", ATTEMPTS),
        (Kind::Timeout, _) => (exhausted, "Sandbox.Timedout", ATTEMPTS),
        (Kind::Undecodable, Function::Each) => ("Undecodable", "Millrace.Decode", 0),
        // With AWS's event the handler decodes, and fails.
        (Kind::Undecodable, Function::Whole) => (exhausted, "JSONDecodeError", ATTEMPTS),
    }
}

/// What it cost, or what is wrong.
pub(super) fn judge(plan: &[Stretch], seen: &Seen) -> Result<Cost, String> {
    let end = plan.last().map_or(0, |it| it.to);
    let bad: BTreeMap<u64, Kind> = plan.iter().flat_map(|it| it.bad.clone()).collect();
    each_has_one_end(end, &bad, seen)?;
    let mut cost = Cost { dead: seen.dead.len() as u64, ..Cost::default() };
    let together = found(&bad, seen, &mut cost)?;
    let mut took = vec![0.0; end as usize];
    seen.outputs.iter().for_each(|it| took[it.number as usize] = it.took_s);
    for number in together.iter().filter(|it| !bad.contains_key(it)) {
        cost.together_s = cost.together_s.max(took[*number as usize]);
    }
    if TOGETHER_MAX_S < cost.together_s {
        let took = cost.together_s;
        return Err(format!("TOGETHER: a record beside a bad one took {took:.2} s"));
    }
    let keys: BTreeSet<Option<String>> =
        bad.keys().map(|it| key(*it)).filter(Option::is_some).collect();
    for stretch in plan.iter().filter(|it| it.name != "warm") {
        let others = (stretch.from..stretch.to)
            .filter(|it| !together.contains(it) && !bad.contains_key(it))
            .filter(|it| !keys.contains(&key(*it)));
        let mut others: Vec<f64> = others.map(|it| took[it as usize]).collect();
        others.sort_by(f64::total_cmp);
        let p99 = others.get(others.len() * 99 / 100).copied().unwrap_or_default();
        cost.p99_ms.insert(stretch.name, 1_000.0 * p99);
    }
    let usual = cost.p99_ms["before"].max(cost.p99_ms["after"]).max(1_000.0 * P99_FLOOR_S);
    for (name, p99_ms) in &cost.p99_ms {
        if P99_FACTOR * usual < *p99_ms {
            return Err(format!(
                "{OTHERS}: p99 {p99_ms:.0} ms with {name}, and {:.0} and {:.0} ms without",
                cost.p99_ms["before"], cost.p99_ms["after"]
            ));
        }
    }
    Ok(cost)
}

/// Each record has one output or one dead letter: the bad ones alone are dead, of what they did.
fn each_has_one_end(end: u64, bad: &BTreeMap<u64, Kind>, seen: &Seen) -> Result<(), String> {
    let mut outputs = vec![0_u32; end as usize];
    for it in &seen.outputs {
        let count = outputs.get_mut(it.number as usize);
        *count.ok_or_else(|| format!("END: an output of {}, which was not sent", it.number))? += 1;
    }
    let mut dead: BTreeMap<u64, &Dead> = BTreeMap::new();
    for it in &seen.dead {
        if dead.insert(it.number, it).is_some() {
            return Err(format!("END: {} is dead twice", it.number));
        }
    }
    for (number, count) in (0..).zip(outputs) {
        match (bad.get(&number), dead.remove(&number)) {
            (None, None) if count == 1 => {}
            (Some(kind), Some(it)) if count == 0 => {
                let is = (&*it.cause, &*it.error_type, it.attempts);
                let should = ends_as(seen.function, *kind);
                if is != should {
                    return Err(format!("CAUSE: {number} is dead of {is:?}, not {should:?}"));
                }
            }
            (kind, dead) => {
                return Err(format!("END: {number} ({kind:?}): {count} outputs, {dead:?}"));
            }
        }
    }
    dead.keys().next().map_or(Ok(()), |it| Err(format!("END: {it} was never sent, and is dead")))
}

/// How many invocations the bad records cost; the records that shared a batch with one.
fn found(bad: &BTreeMap<u64, Kind>, seen: &Seen, cost: &mut Cost) -> Result<BTreeSet<u64>, String> {
    let mut together = BTreeSet::new();
    for (&number, &kind) in bad {
        let with: Vec<&Ran> = seen.ran.iter().filter(|it| it.records.contains(&number)).collect();
        if kind == Kind::Undecodable && seen.function == Function::Each {
            if !with.is_empty() {
                return Err(format!("UNDECODABLE: {number} was given to the handler"));
            }
            continue;
        }
        let Some(first) = with.first() else {
            return Err(format!("COST: {number} is dead and never ran"));
        };
        let batch: BTreeSet<u64> = first.records.iter().copied().collect();
        let bad_ones = batch.iter().filter(|it| bad.contains_key(it)).count() as u64;
        let of_it = |it: &&Ran| it.records.iter().any(|number| batch.contains(number));
        let ran = seen.ran.iter().filter(of_it).count() as u64;
        let extra = (ran - 1).div_ceil(bad_ones);
        if EXTRA_MAX < extra {
            let kind = kind.name();
            return Err(format!("COST: {number} ({kind}) cost {extra} invocations"));
        }
        cost.extra = cost.extra.max(extra);
        together.extend(with.iter().flat_map(|it| it.records.iter().copied()));
    }
    // Where nothing failed, nothing runs twice.
    let mut ran: BTreeMap<u64, u32> = BTreeMap::new();
    let alone = seen.ran.iter().flat_map(|it| &it.records).filter(|it| !together.contains(it));
    alone.for_each(|it| *ran.entry(*it).or_default() += 1);
    let bad_keys: BTreeSet<Option<String>> = bad.keys().map(|it| key(*it)).collect();
    let twice = ran.iter().find(|(it, count)| 1 < **count && !bad_keys.contains(&key(**it)));
    match twice {
        Some((number, count)) => Err(format!("COST: {number} ran {count} times for nothing")),
        None => Ok(together),
    }
}

/// Mistakes that have to be noticed, each by its name.
pub(super) fn mistakes(plan: &[Stretch], seen: &Seen) -> Vec<(&'static str, Seen)> {
    let mut mistakes = Vec::new();
    let mut plant = |name, change: &dyn Fn(&mut Seen)| {
        let mut changed = seen.clone();
        change(&mut changed);
        mistakes.push((name, changed));
    };
    let stretch = |name| plan.iter().find(|it| it.name == name).cloned();
    let (Some(crash), Some(mixed)) = (stretch("crash"), stretch("mixed")) else { return mistakes };
    let crashed = crash.bad[0].0;
    plant("END", &|it| it.outputs.truncate(it.outputs.len() - 1));
    plant("END", &|it| it.outputs.push(it.outputs[0]));
    plant("END", &|it| it.dead[0].number += 1);
    plant("CAUSE", &|it| it.dead[0].cause = "RecordAgeExceeded".to_owned());
    plant("CAUSE", &|it| it.dead.iter_mut().for_each(|dead| dead.error_type = "Error".to_owned()));
    plant("COST", &|it| {
        let with = it.ran.iter().find(|ran| ran.records.contains(&crashed)).cloned();
        it.ran.extend(with.into_iter().cycle().take(EXTRA_MAX as usize));
    });
    plant("TOGETHER", &|it| {
        let first = it.ran.iter().find(|ran| ran.records.contains(&crashed));
        let beside = first.and_then(|ran| ran.records.iter().find(|it| **it != crashed)).copied();
        let out = it.outputs.iter_mut().find(|out| Some(out.number) == beside);
        out.into_iter().for_each(|out| out.took_s += TOGETHER_MAX_S);
    });
    let bad: BTreeSet<u64> = plan.iter().flat_map(|it| &it.bad).map(|it| it.0).collect();
    let of_bad = |it: &&Ran| it.records.iter().any(|number| bad.contains(number));
    let beside: BTreeSet<u64> =
        seen.ran.iter().filter(of_bad).flat_map(|it| it.records.iter().copied()).collect();
    plant(OTHERS, &|it| {
        let slow = |out: &&mut Out| {
            (mixed.from..mixed.to).contains(&out.number) && !beside.contains(&out.number)
        };
        let every = it.outputs.iter_mut().filter(slow).step_by(50);
        every.for_each(|out| out.took_s += 5.0);
    });
    if seen.function == Function::Each {
        let number = stretch("undecodable").map_or(0, |it| it.bad[0].0);
        plant("UNDECODABLE", &|it| it.ran[0].records.push(number));
    }
    mistakes
}
