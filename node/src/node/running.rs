//! What runs on this node: functions with their pools, and shards with their drivers.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use bus::{Epoch, ShardId, TopicPartition};
use dispatch::{
    BatchLimits, CircuitPolicy, DispatchConfig, HandedStart, Order, ParkLimits, RetryPolicy,
    ShardConfig, ShardHandle, State, StopReason, WindowLimits, scaling,
};
use function::{FunctionSpec, TriggerSpec};
use runtime::{Calling, Pool};

use super::deploy::Refusal;
use super::prepare::Ready;
use super::{DRAIN_PATIENCE, Inner, Node, growth, topics};

/// What runs, by application.
pub(super) type Apps = BTreeMap<String, RunningApp>;

#[derive(Debug, Default)]
pub(super) struct RunningApp {
    pub(super) functions: BTreeMap<String, RunningFunction>,
    /// What could not be brought up here of late, with its settings.
    pub(super) refused: BTreeMap<String, (Refusal, FunctionSpec)>,
}

#[derive(Debug)]
pub(super) struct RunningFunction {
    pub(super) spec: FunctionSpec,
    pub(super) revision: Arc<str>,
    pub(super) since: bus::Timestamp,
    pub(super) pool: Arc<Pool>,
    /// What its shards run: one for all, which share its room for frames.
    pub(super) runs: dispatch::Revision,
    pub(super) shards: Vec<RunningShard>,
}

#[derive(Debug)]
pub(super) struct RunningShard {
    pub(super) id: ShardId,
    pub(super) handle: Arc<ShardHandle>,
    pub(super) status: gateway::api::ShardStatus,
}

impl RunningShard {
    pub(super) const fn epoch(&self) -> Epoch {
        Epoch(self.status.epoch)
    }

    /// Why it stopped, if it has.
    pub(super) fn stopped(&self) -> Option<StopReason> {
        match self.handle.stats().state {
            State::Stopped(reason) => Some(reason),
            _ => None,
        }
    }

    pub(super) async fn drain(self, patience: Duration) {
        self.handle.drain(patience).await;
    }
}

impl RunningFunction {
    /// A revision that is ready, without shards yet.
    pub(super) fn new(ready: Ready, since: bus::Timestamp) -> Self {
        let Ready { spec, revision, pool, .. } = ready;
        let instances_max = spec.instances.max as usize;
        let runs = dispatch::Revision::new(Arc::clone(&revision), pool.clone(), instances_max);
        Self { spec, revision, since, pool, runs, shards: Vec::new() }
    }

    /// Lets what is in flight end, and takes nothing new; the shards that it had.
    pub(super) async fn drain(self) -> Vec<ShardId> {
        let ids = self.shards.iter().map(|it| it.id).collect();
        let drains = self.shards.into_iter().map(|shard| shard.drain(DRAIN_PATIENCE));
        futures::future::join_all(drains).await;
        drop(tokio::spawn(async move { self.pool.drain().await }));
        ids
    }

    /// Whether shards that run by one go on as they are by the other.
    pub(super) fn has_settings_of(&self, spec: &FunctionSpec) -> bool {
        self.spec.triggers == spec.triggers
            && self.spec.timeout == spec.timeout
            && self.spec.allow_produce == spec.allow_produce
            && self.spec.instances == spec.instances
    }

    /// The trigger of this id, app/function/name.
    pub(super) fn trigger(&self, id: &str) -> Option<&TriggerSpec> {
        let name = id.rsplit('/').next().unwrap_or_default();
        self.spec.triggers.iter().find(|it| it.name.as_str() == name)
    }
}

impl Node {
    /// Starts a shard that was assigned. One that cannot start has stopped, and is shown; the
    /// others are not held up. `siblings` are those of its function that were started before.
    /// `None`: the function has no such trigger.
    pub(super) async fn start_shard(
        &self,
        id: ShardId,
        shard: cluster::Shard,
        function: &RunningFunction,
        siblings: &[RunningShard],
        handed: Option<HandedStart>,
    ) -> Option<RunningShard> {
        let trigger = function.trigger(&shard.trigger)?;
        let (spec, revision) = (&function.spec, function.runs.clone());
        let paused = self.state(|state| state.paused().contains_key(&shard.trigger));
        let config = shard_config(&self.inner, id, &shard, spec, trigger, paused);
        let handle = match growth::must_not_start(&shard, siblings) {
            Some(reason) => dispatch::stopped(config, revision, reason),
            None => dispatch::start_or_wait(self.bus(), config, revision, handed).await,
        };
        let (app, _) = shard.trigger.split_once('/').unwrap_or_default();
        let status = gateway::api::ShardStatus {
            shard: id.0,
            epoch: shard.epoch.0,
            function: format!("{app}/{}", spec.name),
            trigger: shard.trigger,
            topic: shard.topic,
            partition: shard.partition.cast_signed(),
            ..Default::default()
        };
        Some(RunningShard { id, handle: Arc::new(handle), status })
    }
}

fn circuit_of(circuit: &function::Circuit) -> CircuitPolicy {
    CircuitPolicy {
        failures_percent: circuit.failures_percent,
        attempts_min: NonZeroU32::new(circuit.attempts).unwrap_or(NonZeroU32::MIN),
        window: circuit.window,
        pause_min: circuit.pause_min,
        pause_max: circuit.pause_max,
    }
}

/// A trigger's filter, compiled, where it has one.
fn filter_of(trigger: &TriggerSpec) -> Option<Arc<filter::Filter>> {
    if trigger.filter.is_empty() {
        return None;
    }
    let filter = filter::Filter::compile(&trigger.filter);
    Some(Arc::new(filter.expect("what is prepared has filters that compile")))
}

pub(super) fn shard_config(
    node: &Inner,
    id: ShardId,
    shard: &cluster::Shard,
    spec: &FunctionSpec,
    trigger: &TriggerSpec,
    paused: bool,
) -> ShardConfig {
    let at_least_1 = |value: usize| NonZeroUsize::new(value).unwrap_or(NonZeroUsize::MIN);
    let bytes = usize::try_from(trigger.batch.bytes).unwrap_or(usize::MAX);
    let records = at_least_1(trigger.batch.records as usize);
    let defaults = DispatchConfig::default();
    let window = WindowLimits {
        // Room for what runs and as much again behind it.
        records: at_least_1(defaults.window.records.get().max(4 * records.get())),
        bytes: at_least_1(defaults.window.bytes.get().max(bytes.saturating_mul(4))),
        ..defaults.window
    };
    let retry = RetryPolicy {
        attempts_max: NonZeroU32::new(trigger.retry.attempts).unwrap_or(NonZeroU32::MIN),
        backoff_min: trigger.retry.backoff_min,
        backoff_max: trigger.retry.backoff_max,
        pauses: trigger.retry.pauses.clone(),
        age_max: trigger.retry.age_max,
        bisect: trigger.retry.bisect,
        no_retry: trigger.retry.no_retry.clone(),
    };
    ShardConfig {
        shard: id,
        epoch: shard.epoch,
        cluster: node.whole.as_str().into(),
        function: spec.name.as_str().into(),
        trigger: shard.trigger.as_str().into(),
        partitions: vec![TopicPartition::new(&*shard.topic, shard.partition.cast_signed())],
        // Of a partition that was added nothing may be skipped.
        start: if shard.grown { bus::Start::Earliest } else { trigger.start.into() },
        dispatch: DispatchConfig {
            order: match trigger.order {
                function::Order::None => Order::None,
                function::Order::Key => Order::Key,
                function::Order::Partition => Order::Partition,
            },
            batch: BatchLimits { records, bytes, window: trigger.batch.window },
            // One alone may use all instances, and have one more ready when one ends.
            invocations_max: at_least_1(
                (spec.instances.max + 1).clamp(scaling::BASE, scaling::WIDEST) as usize,
            ),
            circuit: trigger.circuit.as_ref().map(circuit_of),
            retry,
            window,
            park: Some(ParkLimits::default()),
        },
        filter: filter_of(trigger),
        output_topic: trigger.output_topic.as_deref().map(Into::into),
        allow_produce: spec.allow_produce.iter().map(|topic| topic.as_str().into()).collect(),
        dead_letter: trigger.dead_letter.as_str().into(),
        destinations: dispatch::Destinations {
            on_success: trigger.on_success.as_deref().map(Into::into),
            on_failure: trigger.on_failure.as_deref().map(Into::into),
            brokers: super::brokers_of(node.kafka.as_ref()).into(),
        },
        park_topic: topics::park_of(node, &shard.trigger, trigger),
        history_topic: topics::history_of(node, &shard.trigger),
        timeout: spec.timeout,
        read_ahead: Arc::clone(&node.read_ahead),
        turns: Arc::clone(&node.turns),
        calling: Calling {
            event: match trigger.event {
                function::Event::Record => runtime::Event::Record,
                function::Event::Lambda => runtime::Event::Lambda,
            },
            decode: match trigger.decode {
                function::Decode::None => runtime::Decode::None,
                function::Decode::Json => runtime::Decode::Json,
            },
            has_output: trigger.output_topic.is_some(),
        },
        paused,
        replay: None,
        traces: node.traces.clone(),
    }
}
