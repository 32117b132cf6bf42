//! A pure core: what several nodes answer becomes one answer.
//!
//! - **WH-1** what a node that did not answer knows is unknown, and never counts as zero.
//! - **WH-2** a shard that two nodes tell of, because it moves, counts once: as who has the higher
//!   epoch tells it.

use std::collections::BTreeMap;

use crate::api::{
    API, Examination, Finding, FunctionState, FunctionStatus, Health, InstanceList, Lag, LastError,
    NodeStatus, PartitionLag, RecordAccount, RecordState, ShardCounts, ShardState, Status,
    TriggerAccount, TriggerLag, TriggerList, Unheard, Verdict,
};
use crate::codes;
use crate::others::Owned;

/// What was answered, by node, and who did not.
#[derive(Debug)]
pub(crate) struct Heard<T> {
    pub(crate) answers: Vec<(String, T)>,
    pub(crate) unheard: Vec<Unheard>,
}

/// Every partition of every trigger, as its owner knows it.
pub(crate) fn lag(heard: Heard<Lag>, owned: &[Owned]) -> Lag {
    let mut told: BTreeMap<u64, (String, String, PartitionLag)> = BTreeMap::new();
    let names: Vec<String> = heard.answers.iter().map(|(name, _)| name.clone()).collect();
    for (node, answer) in heard.answers {
        for trigger in answer.triggers {
            for mut partition in trigger.partitions {
                partition.node = Some(node.clone());
                let before = told.get(&partition.shard).map(|it| it.2.epoch);
                if before.is_none_or(|before| before < partition.epoch) {
                    let id = (trigger.trigger.clone(), trigger.function.clone());
                    told.insert(partition.shard, (id.0, id.1, partition));
                }
            }
        }
    }
    let is_heard = |owner: &Option<String>| owner.as_ref().is_none_or(|it| names.contains(it));
    for it in owned {
        let known = told.get(&it.shard);
        // A former owner does not know what a silent one has done since.
        if known.is_some_and(|known| it.epoch <= known.2.epoch || is_heard(&it.owner)) {
            continue;
        }
        let partition = PartitionLag {
            topic: it.topic.clone(),
            partition: it.partition,
            shard: it.shard,
            node: it.owner.clone(),
            epoch: it.epoch,
            state: ShardState::Unknown,
            ..PartitionLag::default()
        };
        told.insert(it.shard, (it.trigger.clone(), it.function.clone(), partition));
    }
    let mut triggers: BTreeMap<String, TriggerLag> = BTreeMap::new();
    for (trigger, function, partition) in told.into_values() {
        let all = triggers.entry(trigger.clone()).or_insert_with(|| TriggerLag {
            trigger,
            function,
            ..TriggerLag::default()
        });
        all.partitions.push(partition);
    }
    let mut triggers: Vec<TriggerLag> = triggers.into_values().collect();
    for trigger in &mut triggers {
        trigger.partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        trigger.lag = trigger.partitions.iter().map(|it| it.lag).sum();
    }
    let total = triggers.iter().map(|it| it.lag).sum();
    Lag { api: API, total, triggers, unheard: heard.unheard }
}

/// What the nodes do together.
pub(crate) fn status(heard: Heard<Status>, own: &str, cluster: String, lag: &Lag) -> Status {
    let Heard { answers, unheard } = heard;
    let mut whole = Status { api: API, cluster: Some(cluster), ..Status::default() };
    let mut functions: BTreeMap<(String, String), Vec<(String, FunctionStatus)>> = BTreeMap::new();
    for (node, mut it) in answers {
        whole.nodes.push(of_node(&node, &it));
        whole.apps.append(&mut it.apps);
        whole.warnings.extend(it.warnings.drain(..).map(|text| format!("{node}: {text}")));
        for mut held_up in it.held_up.drain(..) {
            held_up.node = Some(node.clone());
            whole.held_up.push(held_up);
        }
        for function in it.functions.drain(..) {
            let id = (function.app.clone(), function.name.clone());
            functions.entry(id).or_default().push((node.clone(), function));
        }
        if node == own {
            (whole.node, whole.feed, whole.paused) = (it.node, it.feed, it.paused);
        }
    }
    whole.apps.sort();
    whole.apps.dedup();
    for of_all in functions.into_values() {
        whole.warnings.extend(of_all.iter().filter_map(does_not_start));
        let mut function = function(of_all);
        function.lag = lag.of_function(&format!("{}/{}", function.app, function.name));
        whole.functions.push(function);
    }
    whole.shards = counts(&whole.nodes, lag);
    let is_degraded = !unheard.is_empty()
        || whole.shards.unheard != 0
        || whole.nodes.iter().any(|it| it.health == Health::Degraded);
    let is_healthy = whole.nodes.iter().any(|it| it.health == Health::Healthy);
    whole.health = match (is_degraded, is_healthy, whole.nodes.first()) {
        (true, _, _) => Health::Degraded,
        (false, true, _) | (false, false, None) => Health::Healthy,
        (false, false, Some(first)) => first.health,
    };
    whole.unheard = unheard;
    whole
}

fn of_node(name: &str, status: &Status) -> NodeStatus {
    NodeStatus {
        node: name.to_owned(),
        version: status.node.version.clone(),
        pid: status.node.pid,
        started: status.node.started.clone(),
        uptime_ms: status.node.uptime_ms,
        health: status.health,
        shards: status.shards,
    }
}

fn counts(nodes: &[NodeStatus], lag: &Lag) -> ShardCounts {
    let sum = |of: fn(&ShardCounts) -> u32| nodes.iter().map(|it| of(&it.shards)).sum::<u32>();
    let all = || lag.triggers.iter().flat_map(|it| &it.partitions);
    let unheard = all().filter(|it| it.state == ShardState::Unknown).count();
    ShardCounts {
        total: u32::try_from(all().count()).unwrap_or(u32::MAX),
        running: sum(|it| it.running),
        starting: sum(|it| it.starting),
        stopped: sum(|it| it.stopped),
        unheard: u32::try_from(unheard).unwrap_or(u32::MAX),
    }
}

/// A node on which a function cannot start leaves it to the others.
fn does_not_start((node, it): &(String, FunctionStatus)) -> Option<String> {
    let error = it.last_error.as_ref()?;
    let is_refused =
        it.shards == 0 && matches!(it.state, FunctionState::Stopped | FunctionState::Stale);
    is_refused.then(|| {
        let LastError { code, message, .. } = error;
        format!("{node}: {}/{} does not start there: {code}: {message}", it.app, it.name)
    })
}

/// One function on all nodes. Times are those of the slowest; what it is and what its errors are
/// is told by those that have partitions of it, where any has.
fn function(of_all: Vec<(String, FunctionStatus)>) -> FunctionStatus {
    let mut all: Vec<FunctionStatus> = of_all.into_iter().map(|(_, it)| it).collect();
    let sum = |of: fn(&FunctionStatus) -> u64| all.iter().map(of).sum::<u64>();
    let most =
        |of: fn(&FunctionStatus) -> Option<f64>| all.iter().filter_map(of).max_by(f64::total_cmp);
    let (attempts, failed) = (sum(|it| it.attempts), sum(|it| it.failed));
    let mut whole = FunctionStatus {
        rate_per_s: all.iter().map(|it| it.rate_per_s).sum(),
        p50_ms: most(|it| it.p50_ms),
        p99_ms: most(|it| it.p99_ms),
        error_ratio: (attempts != 0).then(|| failed as f64 / attempts as f64),
        in_flight: sum(|it| it.in_flight),
        settled: sum(|it| it.settled),
        filtered: sum(|it| it.filtered),
        attempts,
        failed,
        dead_lettered: sum(|it| it.dead_lettered),
        shards: all.iter().map(|it| it.shards).sum(),
        parked: sum(|it| it.parked),
        ..FunctionStatus::default()
    };
    for it in &all {
        whole.instances.busy += it.instances.busy;
        whole.instances.warm += it.instances.warm;
        whole.instances.max += it.instances.max;
        whole.instances.queued += it.instances.queued;
        whole.instances.wanted += it.instances.wanted;
    }
    if all.iter().any(|it| it.shards != 0) {
        all.retain(|it| it.shards != 0);
    }
    whole.state = state(&all);
    let errors = all.iter().filter_map(|it| it.last_error.clone());
    whole.last_error = errors.max_by(|a, b| a.at.cmp(&b.at)).map(|error| {
        let recent = |of: fn(&LastError) -> u64| {
            all.iter().filter_map(|it| it.last_error.as_ref()).map(of).sum()
        };
        LastError { recent: recent(|it| it.recent), recent_of: recent(|it| it.recent_of), ..error }
    });
    // While a deploy goes round, the newest.
    all.sort_by(|a, b| a.revision_since.cmp(&b.revision_since));
    if let Some(newest) = all.pop() {
        FunctionStatus {
            app: newest.app,
            name: newest.name,
            runtime: newest.runtime,
            revision: newest.revision,
            revision_since: newest.revision_since,
            reads: newest.reads,
            writes: newest.writes,
            ..whole
        }
    } else {
        whole
    }
}

fn state(all: &[FunctionStatus]) -> FunctionState {
    use FunctionState as S;
    let is = |state| all.iter().any(|it| it.state == state);
    if all.iter().all(|it| it.state == S::Stopped) {
        return S::Stopped;
    }
    if is(S::Stopped) {
        // Some of its records are run, and others are not.
        return S::Failing;
    }
    let order = [S::Failing, S::Stale, S::Starting, S::Draining, S::Running];
    order.into_iter().find(|state| is(*state)).unwrap_or(S::Paused)
}

/// The instances of all nodes.
pub(crate) fn instances(heard: Heard<InstanceList>) -> InstanceList {
    let mut instances = Vec::new();
    for (node, answer) in heard.answers {
        instances.extend(answer.instances.into_iter().map(|mut it| {
            it.node = Some(node.clone());
            it
        }));
    }
    // Those of a node stay in its order.
    instances.sort_by(|a, b| (&a.function, &a.node).cmp(&(&b.function, &b.node)));
    InstanceList { api: API, instances, unheard: heard.unheard }
}

/// What every node finds; that one says nothing is a finding, too.
pub(crate) fn examinations(heard: Heard<Examination>) -> Examination {
    let mut findings = Vec::new();
    for (node, answer) in heard.answers {
        findings.extend(
            answer.findings.into_iter().map(|it| Finding { node: Some(node.clone()), ..it }),
        );
    }
    findings.extend(heard.unheard.into_iter().map(|it| Finding {
        node: Some(it.node),
        verdict: Verdict::Fail,
        subject: "node".to_owned(),
        found: format!("it does not answer: {}", it.why),
        remedy: Some("look whether it runs and is reached: millrace node list".to_owned()),
        code: Some(codes::UNHEARD.to_owned()),
    }));
    findings.sort_by(|a, b| a.node.cmp(&b.node));
    Examination { api: API, findings }
}

/// Every trigger, as its partitions are.
pub(crate) fn triggers(heard: Heard<TriggerList>, own: &str, lag: &Lag) -> TriggerList {
    let Heard { answers, unheard } = heard;
    let mut list = TriggerList { api: API, triggers: Vec::new(), unheard };
    let mut held_up = BTreeMap::<String, Vec<_>>::new();
    for (node, answer) in answers {
        for it in &answer.triggers {
            let found = it.held_up.iter().cloned().map(|mut it| {
                it.node = Some(node.clone());
                it
            });
            held_up.entry(it.trigger.clone()).or_default().extend(found);
        }
        if node == own {
            list.triggers = answer.triggers;
        }
    }
    for it in &mut list.triggers {
        it.held_up = held_up.remove(&it.trigger).unwrap_or_default();
        let known = lag.triggers.iter().find(|known| known.trigger == it.trigger);
        it.lag = known.and_then(|known| known.lag);
        if let Some(state) = known.and_then(|known| worst(&known.partitions)) {
            it.state = state;
        }
    }
    list
}

fn worst(partitions: &[PartitionLag]) -> Option<ShardState> {
    use ShardState::{Draining, Paused, Running, Starting, Stopped, Unknown, Waiting};
    let order = [Stopped, Waiting, Unknown, Starting, Draining, Paused, Running];
    order.into_iter().find(|it| partitions.iter().any(|partition| partition.state == *it))
}

/// What became of a record, at each trigger as the owner of its partition tells it: what runs or
/// waits is in its memory alone.
pub(crate) fn record(
    own: RecordAccount,
    me: &str,
    answers: &[(String, Result<RecordAccount, String>)],
    owned: &[Owned],
) -> RecordAccount {
    let triggers = own.triggers.into_iter().map(|mine| {
        let shard = owned.iter().find(|it| it.trigger == mine.trigger);
        let Some(owner) = shard.and_then(|it| it.owner.clone()) else { return mine };
        if owner == me {
            return TriggerAccount { node: Some(owner), ..mine };
        }
        match answers.iter().find(|(node, _)| *node == owner).map(|(_, told)| told) {
            Some(Ok(told)) => match told.triggers.iter().find(|it| it.trigger == mine.trigger) {
                Some(told) => TriggerAccount { node: Some(owner), ..told.clone() },
                None => unless_ended(mine, owner, "it knows of no such trigger yet"),
            },
            Some(Err(why)) => unless_ended(mine, owner, why),
            None => unless_ended(mine, owner, "it was not asked"),
        }
    });
    RecordAccount { triggers: triggers.collect(), ..own }
}

/// Histories can be read by any node; whether something goes on, only the owner knows.
fn unless_ended(mine: TriggerAccount, owner: String, why: &str) -> TriggerAccount {
    use RecordState::{DeadLettered, Filtered, Succeeded};
    if matches!(mine.state, Succeeded | Filtered | DeadLettered) {
        return TriggerAccount { node: Some(owner), ..mine };
    }
    let note = format!("{owner} runs its partition and does not answer: {why}");
    TriggerAccount {
        node: Some(owner),
        state: RecordState::Unknown,
        note: Some(note),
        next_try_at: None,
        ..mine
    }
}

#[cfg(test)]
mod tests;
