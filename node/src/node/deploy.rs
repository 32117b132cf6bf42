//! Brings an application up, or a running one to what its manifest says now: what did not change
//! is left alone, what changed runs on until the new revision is ready, positions stay.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;

use bus::{ShardId, TopicPartition};
use cluster::{App, Command, Function, Trigger};
use dispatch::{
    BatchLimits, DispatchConfig, Order, RetryPolicy, ShardConfig, ShardHandle, State, StopReason,
    WindowLimits,
};
use function::{FunctionSpec, Manifest, TriggerSpec};
use runtime::{Calling, Pool};

use super::prepare::{Ready, prepare};
use super::{DRAIN_PATIENCE, Inner, Node, chain, growth};
use crate::commands::error::{CommandError, exit};

/// Headers that a dead letter carries beyond its record.
const DEAD_LETTER_BYTES: usize = 16 << 10;

/// What a deploy did.
#[derive(Debug, Default)]
pub struct Deployed {
    /// Functions that run a new revision now, with its name.
    pub changed: Vec<(String, String)>,
    /// Functions whose new revision was refused; an older one runs on where there is one.
    pub refused: Vec<Refusal>,
}

/// A function that could not be brought up.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Its name.
    pub function: String,
    /// For `millrace explain`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Whether an older revision runs on.
    pub older_runs: bool,
}

#[derive(Debug)]
pub(super) struct RunningApp {
    pub(super) functions: BTreeMap<String, RunningFunction>,
}

#[derive(Debug)]
pub(super) struct RunningFunction {
    pub(super) spec: FunctionSpec,
    pub(super) revision: Arc<str>,
    pub(super) since: bus::Timestamp,
    pub(super) pool: Arc<Pool>,
    pub(super) shards: Vec<RunningShard>,
}

#[derive(Debug)]
pub(super) struct RunningShard {
    pub(super) id: ShardId,
    pub(super) handle: Arc<ShardHandle>,
    pub(super) status: gateway::api::ShardStatus,
}

impl RunningShard {
    /// Why it stopped, if it has.
    pub(super) fn stopped(&self) -> Option<StopReason> {
        match self.handle.stats().state {
            State::Stopped(reason) => Some(reason),
            _ => None,
        }
    }

    pub(super) async fn drain(self, patience: std::time::Duration) {
        self.handle.drain(patience).await;
    }
}

impl Node {
    /// Makes the topics of an application, and its functions run. Functions that cannot start are
    /// refused by name, the others run.
    ///
    /// # Errors
    ///
    /// When topics or the deploy itself are refused: then nothing changed.
    pub async fn deploy(&self, dir: &Path, manifest: &Manifest) -> Result<Deployed, CommandError> {
        let inner = &self.inner;
        let mut apps = inner.apps.lock().await;
        self.make_topics(manifest).await?;
        let app_name = manifest.app.to_string();
        let mut deployed = Deployed::default();
        let mut running = apps.remove(&app_name).map(|app| app.functions).unwrap_or_default();
        let mut ready: BTreeMap<String, Ready> = BTreeMap::new();
        // Side by side: an interpreter that is slow to start holds up no other function.
        let prepared = manifest
            .functions
            .iter()
            .map(|spec| prepare(inner, dir, spec, running.get(spec.name.as_str())));
        let prepared = futures::future::join_all(prepared).await;
        for (spec, prepared) in manifest.functions.iter().zip(prepared) {
            match prepared {
                Ok(it) => drop(ready.insert(spec.name.to_string(), it)),
                Err((code, message)) => {
                    let function = spec.name.to_string();
                    let older_runs = running.contains_key(&function);
                    deployed.refused.push(Refusal { function, code, message, older_runs });
                }
            }
        }
        // A function that was refused stays as it is, if it is.
        running.retain(|name, _| {
            ready.contains_key(name)
                || deployed.refused.iter().any(|refusal| refusal.function == *name)
        });
        let command = self.command(&app_name, &ready, &running);
        for shard in self.append_deploy(&command)? {
            inner.bus.forget_shard(shard).await.map_err(|error| refused(&error))?;
        }
        let mut functions = BTreeMap::new();
        for (name, ready) in ready {
            let before = running.remove(&name);
            let is_new = before.as_ref().is_none_or(|it| it.revision != ready.revision);
            if is_new {
                deployed.changed.push((name.clone(), ready.revision.to_string()));
            }
            let function = self.bring_up(&app_name, ready, before).await?;
            functions.insert(name, function);
        }
        functions.extend(running);
        apps.insert(app_name, RunningApp { functions });
        self.show(&apps, &deployed);
        Ok(deployed)
    }

    async fn make_topics(&self, manifest: &Manifest) -> Result<(), CommandError> {
        let topics = manifest.all_topics();
        if self.inner.kafka.is_some() {
            // What others made there since the last look.
            self.inner.bus.topics().await.map_err(|error| refused(&error))?;
        }
        for topic in &topics {
            if let Some(kafka) = &self.inner.kafka {
                if self.inner.bus.topic(&topic.name).is_some() {
                    // It is not ours: its partitions and limits are what they are.
                    continue;
                }
                if kafka.create_topics != Some(true) {
                    if self.was_deployed(manifest.app.as_ref()) {
                        // It was there once: what needs it stops, by name, and the rest runs.
                        continue;
                    }
                    let message = format!("there is no topic {} on Kafka", topic.name);
                    return Err(CommandError::new(exit::NOT_FOUND, "E0404", message).help(
                        "make it there, or let the node: `create-topics = true` in [kafka]",
                    ));
                }
            }
            let mut spec = topic.to_bus();
            let dead: Vec<_> =
                manifest.triggers().filter(|(_, it)| it.dead_letter == topic.name).collect();
            for source in dead.iter().flat_map(|(_, trigger)| &trigger.topics) {
                let source = topics.iter().find(|it| it.name == *source);
                let limit = source.map_or(1 << 20, |it| it.to_bus().record_bytes_max);
                spec.record_bytes_max = spec.record_bytes_max.max(limit + DEAD_LETTER_BYTES);
            }
            self.inner.bus.create_topic(spec).await.map_err(|error| {
                let code = match &error {
                    bus::Error::DiskFull { .. } => "E0401",
                    bus::Error::TopicExists { .. } => "E0408",
                    _ => "E0412",
                };
                let message = format!("cannot make topic {}: {}", topic.name, chain(&error));
                let failed = CommandError::new(exit::FAILED, code, message);
                if code == "E0408" {
                    let text = "a topic keeps its partitions: name that many in the manifest, or \
                                delete the topic first";
                    return failed.help(text);
                }
                failed
            })?;
        }
        Ok(())
    }

    /// Appends a deploy to the cluster's log; the shards that are no more.
    pub(super) fn append_deploy(&self, command: &Command) -> Result<Vec<ShardId>, CommandError> {
        let mut cluster = self.inner.cluster.lock().expect("nothing panics while holding it");
        Ok(cluster.append(command).map_err(|error| refused(&error))?.removed)
    }

    /// The application as it will be, functions that were refused at their old revision.
    pub(super) fn command(
        &self,
        name: &str,
        ready: &BTreeMap<String, Ready>,
        running: &BTreeMap<String, RunningFunction>,
    ) -> Command {
        let mut app = App::default();
        {
            let cluster = self.inner.cluster.lock().expect("nothing panics while holding it");
            if let Some(before) = cluster.state().apps().get(name) {
                for (function, it) in &before.functions {
                    if running.contains_key(function) && !ready.contains_key(function) {
                        app.functions.insert(function.clone(), it.clone());
                    }
                }
                for (id, trigger) in &before.triggers {
                    if app.functions.contains_key(&trigger.function) {
                        app.triggers.insert(id.clone(), trigger.clone());
                    }
                }
            }
        }
        for (function, it) in ready {
            let spec = serde_json::to_string(&it.spec).expect("a spec is plain data");
            let (revision, package) = (it.revision.to_string(), it.package.clone());
            app.functions.insert(function.clone(), Function { revision, package, spec });
            for trigger in &it.spec.triggers {
                let id = format!("{name}/{function}/{}", trigger.name);
                let topics = trigger.topics.iter();
                let topics = topics.map(|topic| (topic.clone(), self.partitions_of(&id, topic)));
                let trigger = Trigger { function: function.clone(), topics: topics.collect() };
                app.triggers.insert(id, trigger);
            }
        }
        Command::Deploy { name: name.to_owned(), app }
    }

    /// Runs a revision: shards that go on as they are get it handed, others are started anew.
    pub(super) async fn bring_up(
        &self,
        app: &str,
        ready: Ready,
        before: Option<RunningFunction>,
    ) -> Result<RunningFunction, CommandError> {
        let revision = dispatch::Revision::new(
            Arc::clone(&ready.revision),
            ready.pool.clone(),
            ready.spec.instances.max as usize,
        );
        let since = match &before {
            Some(it) if it.revision == ready.revision => it.since,
            _ => bus::Timestamp::now(),
        };
        let mut kept: BTreeMap<ShardId, RunningShard> = BTreeMap::new();
        if let Some(before) = before {
            let same = before.spec.triggers == ready.spec.triggers
                && before.spec.timeout == ready.spec.timeout
                && before.spec.allow_produce == ready.spec.allow_produce
                && before.spec.instances == ready.spec.instances;
            for shard in before.shards {
                // One that has stopped is tried anew.
                if same && shard.stopped().is_none() {
                    shard.handle.set_revision(revision.clone());
                    kept.insert(shard.id, shard);
                } else {
                    shard.drain(DRAIN_PATIENCE).await;
                }
            }
            if before.revision != ready.revision {
                // What runs on the old revision ends there.
                drop(tokio::spawn(async move { before.pool.drain().await }));
            }
        }
        let mut shards = Vec::new();
        let wanted = self.assign(app, &ready.spec, &kept)?;
        for (id, shard, trigger) in wanted {
            if let Some(running) = kept.remove(&id) {
                shards.push(running);
                continue;
            }
            let config = shard_config(&self.inner, id, &shard, &ready.spec, trigger);
            // One that cannot start has stopped, and is shown; the others are not held up.
            let handle = match growth::must_not_start(&shard, &shards) {
                Some(reason) => dispatch::stopped(config, revision.clone(), reason),
                None => dispatch::start_or_wait(self.bus(), config, revision.clone()).await,
            };
            let status = gateway::api::ShardStatus {
                shard: id.0,
                epoch: shard.epoch.0,
                trigger: shard.trigger,
                function: format!("{app}/{}", ready.spec.name),
                topic: shard.topic,
                partition: shard.partition.cast_signed(),
                ..Default::default()
            };
            shards.push(RunningShard { id, handle: Arc::new(handle), status });
        }
        for gone in kept.into_values() {
            gone.drain(DRAIN_PATIENCE).await;
        }
        let Ready { spec, revision, pool, .. } = ready;
        Ok(RunningFunction { spec, revision, since, pool, shards })
    }

    /// Assigns the shards of a function that do not run here yet to this node, each at a new
    /// epoch, and names all of them.
    fn assign<'a>(
        &self,
        app: &str,
        spec: &'a FunctionSpec,
        kept: &BTreeMap<ShardId, RunningShard>,
    ) -> Result<Vec<(ShardId, cluster::Shard, &'a TriggerSpec)>, CommandError> {
        let mut cluster = self.inner.cluster.lock().expect("nothing panics while holding it");
        let trigger_of = |shard: &cluster::Shard| {
            let id = |trigger: &TriggerSpec| format!("{app}/{}/{}", spec.name, trigger.name);
            spec.triggers.iter().find(|trigger| id(trigger) == shard.trigger)
        };
        let mine: Vec<(ShardId, &TriggerSpec)> = cluster
            .state()
            .shards()
            .iter()
            .filter_map(|(id, shard)| Some((*id, trigger_of(shard)?)))
            .collect();
        let shards = mine.iter().map(|(id, _)| *id).filter(|id| !kept.contains_key(id)).collect();
        let command = Command::Assign { shards, owner: self.inner.name.clone() };
        cluster.append(&command).map_err(|error| refused(&error))?;
        let state = cluster.state();
        for (id, _) in &mine {
            self.inner.groups.learn(*id, &state.shards()[id].trigger);
        }
        Ok(mine.into_iter().map(|(id, it)| (id, state.shards()[&id].clone(), it)).collect())
    }
}

fn refused(error: &dyn std::error::Error) -> CommandError {
    CommandError::new(exit::FAILED, "E0511", chain(error))
}

fn shard_config(
    node: &Inner,
    id: ShardId,
    shard: &cluster::Shard,
    spec: &FunctionSpec,
    trigger: &TriggerSpec,
) -> ShardConfig {
    let at_least_1 = |value: usize| NonZeroUsize::new(value).unwrap_or(NonZeroUsize::MIN);
    let bytes = usize::try_from(trigger.batch.bytes).unwrap_or(usize::MAX);
    let records = at_least_1(trigger.batch.records as usize);
    let instances = at_least_1(spec.instances.max as usize);
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
        age_max: trigger.retry.age_max,
        bisect: trigger.retry.bisect,
    };
    ShardConfig {
        shard: id,
        epoch: shard.epoch,
        cluster: node.name.as_str().into(),
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
            invocations_max: at_least_1(instances.get().min(defaults.invocations_max.get())),
            retry,
            window,
        },
        output_topic: trigger.output_topic.as_deref().map(Into::into),
        allow_produce: spec.allow_produce.iter().map(|topic| topic.as_str().into()).collect(),
        dead_letter: trigger.dead_letter.as_str().into(),
        timeout: spec.timeout,
        read_ahead: Arc::clone(&node.read_ahead),
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
    }
}
