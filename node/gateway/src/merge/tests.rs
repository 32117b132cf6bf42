//! What three nodes say, one of which may be silent, becomes one answer.

use super::*;
use crate::api::{HeldUp, InstanceInfo, TriggerInfo};

fn partition(shard: u64, epoch: u64, lag: u64) -> PartitionLag {
    PartitionLag {
        topic: "in".to_owned(),
        partition: i32::try_from(shard).unwrap(),
        shard,
        epoch,
        state: ShardState::Running,
        lag: Some(lag),
        ..PartitionLag::default()
    }
}

fn told(partitions: &[PartitionLag]) -> Lag {
    let trigger = TriggerLag {
        trigger: "a/f/t".to_owned(),
        function: "a/f".to_owned(),
        partitions: partitions.to_vec(),
        ..TriggerLag::default()
    };
    Lag { triggers: vec![trigger], ..Lag::default() }
}

fn owned(shard: u64, epoch: u64, owner: &str) -> Owned {
    Owned {
        shard,
        epoch,
        trigger: "a/f/t".to_owned(),
        function: "a/f".to_owned(),
        topic: "in".to_owned(),
        partition: i32::try_from(shard).unwrap(),
        owner: Some(owner.to_owned()).filter(|it| !it.is_empty()),
    }
}

fn heard<T>(answers: Vec<(&str, T)>, unheard: &[&str]) -> Heard<T> {
    let silent = |it: &&str| Unheard { node: (*it).to_owned(), why: "late".to_owned() };
    Heard {
        answers: answers.into_iter().map(|(node, it)| (node.to_owned(), it)).collect(),
        unheard: unheard.iter().map(silent).collect(),
    }
}

#[test]
fn what_a_silent_node_owns_is_unknown_and_not_zero() {
    let state = [owned(0, 1, "x"), owned(1, 1, "y"), owned(2, 1, "z"), owned(3, 1, "")];
    let answers = vec![("x", told(&[partition(0, 1, 3)])), ("y", told(&[partition(1, 1, 4)]))];
    let lag = lag(heard(answers, &["z"]), &state);
    assert_eq!((lag.total, lag.triggers[0].lag), (None, None), "WH-1");
    let each = lag.triggers[0].partitions.iter();
    let each: Vec<_> = each.map(|it| (it.lag, it.node.as_deref(), it.state)).collect();
    let (running, unknown) = (ShardState::Running, ShardState::Unknown);
    let expected = [
        (Some(3), Some("x"), running),
        (Some(4), Some("y"), running),
        (None, Some("z"), unknown),
        (None, None, unknown),
    ];
    assert_eq!(each, expected);
    assert_eq!(lag.unheard[0].node, "z");
}

#[test]
fn a_shard_that_moves_counts_once_as_its_newest_owner_tells_it() {
    let state = [owned(0, 2, "y")];
    let both = || vec![("x", told(&[partition(0, 1, 9)])), ("y", told(&[partition(0, 2, 5)]))];
    let merged = lag(heard(both(), &[]), &state);
    assert_eq!((merged.total, merged.triggers[0].partitions.len()), (Some(5), 1), "WH-2");
    let mut turned = both();
    turned.reverse();
    assert_eq!(lag(heard(turned, &[]), &state).total, Some(5), "WH-2");
    // What a former owner remembers is no answer for one that is silent.
    let stale = vec![("x", told(&[partition(0, 1, 9)]))];
    assert_eq!(lag(heard(stale, &["y"]), &state).total, None, "WH-1");
}

fn function(state: FunctionState, shards: u32) -> FunctionStatus {
    FunctionStatus {
        app: "a".to_owned(),
        name: "f".to_owned(),
        state,
        shards,
        rate_per_s: 10.0,
        p99_ms: Some(f64::from(shards)),
        attempts: 100,
        failed: 5 * u64::from(shards),
        settled: 100,
        ..FunctionStatus::default()
    }
}

fn of(functions: Vec<FunctionStatus>) -> Status {
    Status { apps: vec!["a".to_owned()], health: Health::Healthy, functions, ..Status::default() }
}

#[test]
fn functions_are_summed_and_those_who_run_them_say_how_they_are() {
    use FunctionState::{Failing, Running, Stopped};
    let refused = FunctionStatus {
        last_error: Some(LastError { code: "E0316".to_owned(), ..LastError::default() }),
        ..function(Stopped, 0)
    };
    let answers = || {
        let z = of(vec![refused.clone()]);
        vec![("x", of(vec![function(Running, 2)])), ("y", of(vec![function(Failing, 1)])), ("z", z)]
    };
    let known = lag(
        heard(vec![("x", told(&[partition(0, 1, 3)]))], &[]),
        &[owned(0, 1, "x"), owned(1, 1, "y")],
    );
    let whole = status(heard(answers(), &[]), "x", "mill".to_owned(), &known);
    let it = &whole.functions[0];
    assert_eq!((it.state, it.shards, it.settled), (Failing, 3, 300));
    assert_eq!((it.p99_ms, it.error_ratio), (Some(2.0), Some(0.05)), "exact, not a mean of means");
    assert_eq!(it.lag, None, "WH-1");
    assert_eq!(whole.warnings, ["z: a/f does not start there: E0316: "]);
    assert_eq!((whole.shards.total, whole.shards.unheard), (2, 1));
    assert_eq!((whole.apps.len(), whole.nodes.len()), (1, 3));

    let all = lag(heard(vec![("x", told(&[partition(0, 1, 3)]))], &[]), &[owned(0, 1, "x")]);
    let whole = status(heard(answers(), &[]), "x", "mill".to_owned(), &all);
    assert_eq!((whole.functions[0].lag, whole.health), (Some(3), Health::Healthy));
    let whole = status(heard(answers(), &["w"]), "x", "mill".to_owned(), &all);
    assert_eq!(whole.health, Health::Degraded, "somebody is missing");
}

#[test]
fn who_is_silent_is_a_finding_and_everything_has_its_node() {
    let found = |subject: &str| Examination {
        findings: vec![Finding { subject: subject.to_owned(), ..Finding::default() }],
        ..Examination::default()
    };
    let all = examinations(heard(vec![("x", found("disk")), ("z", found("disk"))], &["y"]));
    let each = all.findings.iter().map(|it| (it.node.as_deref().unwrap(), it.verdict));
    let expected = [("x", Verdict::Ok), ("y", Verdict::Fail), ("z", Verdict::Ok)];
    assert_eq!(each.collect::<Vec<_>>(), expected);
    let one = || InstanceList {
        instances: vec![InstanceInfo { function: "a/f".to_owned(), ..InstanceInfo::default() }],
        ..InstanceList::default()
    };
    let all = instances(heard(vec![("x", one()), ("y", one())], &["z"]));
    let nodes = all.instances.iter().map(|it| it.node.as_deref().unwrap());
    assert_eq!((nodes.collect::<Vec<_>>(), all.unheard.len()), (vec!["x", "y"], 1));
}

#[test]
fn a_trigger_is_as_the_worst_of_its_partitions_on_any_node() {
    let info = |held_up: &[&str]| TriggerInfo {
        trigger: "a/f/t".to_owned(),
        state: ShardState::Running,
        held_up: held_up.iter().map(|it| held(it)).collect(),
        ..TriggerInfo::default()
    };
    let list = |it| TriggerList { triggers: vec![it], ..TriggerList::default() };
    let answers = vec![("x", list(info(&[]))), ("y", list(info(&["E0415"])))];
    let stopped = PartitionLag { state: ShardState::Stopped, ..partition(1, 1, 4) };
    let told = vec![("x", told(&[partition(0, 1, 3)])), ("y", told(&[stopped]))];
    let known = lag(heard(told, &[]), &[owned(0, 1, "x"), owned(1, 1, "y")]);
    let merged = triggers(heard(answers, &[]), "x", &known);
    let it = &merged.triggers[0];
    assert_eq!((it.state, it.lag), (ShardState::Stopped, Some(7)));
    assert_eq!(it.held_up[0].node.as_deref(), Some("y"));
}

fn held(code: &str) -> HeldUp {
    HeldUp { trigger: "a/f/t".to_owned(), code: code.to_owned(), ..HeldUp::default() }
}

#[test]
fn what_goes_on_with_a_record_only_its_owner_says() {
    let account = |state, attempts| RecordAccount {
        triggers: vec![TriggerAccount {
            trigger: "a/f/t".to_owned(),
            state,
            attempts,
            ..TriggerAccount::default()
        }],
        ..RecordAccount::default()
    };
    let state = [owned(0, 1, "y")];
    let said = vec![("y".to_owned(), Ok(account(RecordState::Retrying, 2)))];
    let mine = account(RecordState::Waiting, 0);
    let merged = record(mine.clone(), "x", &said, &state);
    let it = &merged.triggers[0];
    assert_eq!((it.state, it.attempts, it.node.as_deref()), (RecordState::Retrying, 2, Some("y")));
    let silent = [("y".to_owned(), Err("late".to_owned()))];
    let merged = record(mine, "x", &silent, &state);
    let it = &merged.triggers[0];
    assert_eq!((it.state, it.note.is_some()), (RecordState::Unknown, true), "WH-1");
    // What the history tells of an end is so, whoever is silent.
    let merged = record(account(RecordState::Succeeded, 1), "x", &silent, &state);
    assert_eq!(merged.triggers[0].state, RecordState::Succeeded);
}
