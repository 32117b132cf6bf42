//! Brings an application up, or a running one to what its manifest says now: what did not change
//! is left alone, what changed runs on until the new revision is ready, positions stay.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;

use bus::{ShardId, TopicPartition};
use cluster::{App, Command, Function, Trigger};
use dispatch::{
    BatchLimits, CircuitPolicy, DispatchConfig, Order, ParkLimits, RetryPolicy, ShardConfig,
    ShardHandle, State, StopReason, WindowLimits,
};
use function::{FunctionSpec, Manifest, Topic, TriggerSpec};
use runtime::{Calling, Pool};

use super::prepare::{Ready, Source, prepare};
use super::restore::as_kept;
use super::{DRAIN_PATIENCE, Inner, Node, chain, growth, topics};
use crate::commands::error::{CommandError, exit};

/// What a deploy did.
#[derive(Clone, Debug, Default)]
pub struct Deployed {
    /// Functions that run a new revision now, with its name.
    pub changed: Vec<(String, String)>,
    /// Functions that were what they are before, with the revision's name.
    pub unchanged: Vec<(String, String)>,
    /// Functions that are no more.
    pub removed: Vec<String>,
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
    /// What is wrong, and what was tried.
    pub message: String,
    /// Whether an older revision runs on.
    pub older_runs: bool,
}

#[derive(Debug, Default)]
pub(super) struct RunningApp {
    pub(super) functions: BTreeMap<String, RunningFunction>,
    /// What the last deploy or start refused, with its settings.
    pub(super) refused: BTreeMap<String, (Refusal, FunctionSpec)>,
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

fn as_revision(spec: &FunctionSpec, name: &Arc<str>, pool: &Arc<Pool>) -> dispatch::Revision {
    dispatch::Revision::new(Arc::clone(name), pool.clone(), spec.instances.max as usize)
}

/// What runs, by application.
pub(super) type Apps<'a> = tokio::sync::MutexGuard<'a, BTreeMap<String, RunningApp>>;

impl RunningFunction {
    /// What its shards run.
    pub(super) fn as_revision(&self) -> dispatch::Revision {
        as_revision(&self.spec, &self.revision, &self.pool)
    }

    /// Lets what is in flight end, and takes nothing new.
    async fn drain(self) {
        let drains = self.shards.into_iter().map(|shard| shard.drain(DRAIN_PATIENCE));
        futures::future::join_all(drains).await;
        drop(tokio::spawn(async move { self.pool.drain().await }));
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
        self.deploy_from(Source::Folder(dir), manifest, None).await
    }

    /// The same with packages from anywhere, and only if the application is at the version that is
    /// expected. What is acknowledged is durable, packages and all.
    pub(super) async fn deploy_from(
        &self,
        source: Source<'_>,
        manifest: &Manifest,
        expects: Option<u64>,
    ) -> Result<Deployed, CommandError> {
        let mut apps = self.changing().await?;
        let name = manifest.app.to_string();
        self.check_version(&name, expects)?;
        let topics = topics::needed(manifest);
        self.make_topics(&name, &topics).await?;
        self.make_park_topics(&name, &manifest.functions).await?;
        self.make_history_topics(&name, &manifest.functions).await?;
        let none = RunningApp::default();
        let before = apps.get(&name).unwrap_or(&none);
        // Side by side: an interpreter that is slow to start holds up no other function.
        let prepared = manifest.functions.iter().map(|spec| {
            prepare(&self.inner, source, spec, before.functions.get(spec.name.as_str()))
        });
        let prepared = futures::future::join_all(prepared).await;
        let (mut deployed, mut ready) = (Deployed::default(), BTreeMap::new());
        let mut refused = BTreeMap::new();
        for (spec, prepared) in manifest.functions.iter().zip(prepared) {
            let function = spec.name.to_string();
            match prepared {
                Ok(it) => {
                    let ran = before.functions.get(&function).map(|it| &it.revision);
                    let is_new = ran != Some(&it.revision);
                    let list = if is_new { &mut deployed.changed } else { &mut deployed.unchanged };
                    list.push((function.clone(), it.revision.to_string()));
                    ready.insert(function, it);
                }
                Err((code, message)) => {
                    let mut older_runs = before.functions.contains_key(&function);
                    if !older_runs && let Some(older) = self.older(&name, &function).await {
                        ready.insert(function.clone(), older);
                        older_runs = true;
                    }
                    let refusal = Refusal { function, code, message, older_runs };
                    deployed.refused.push(refusal.clone());
                    refused.insert(refusal.function.clone(), (refusal, spec.clone()));
                }
            }
        }
        let app = self.next_app(&name, &ready, |it| refused.contains_key(it), &topics);
        let at = bus::Timestamp::now();
        deployed.removed = self.functions_of(&name);
        deployed.removed.retain(|function| !app.functions.contains_key(function));
        let command = Command::Deploy { name: name.clone(), app, expects, at };
        let removed = self.append(&command)?;
        // From here on it holds, whatever becomes of this process.
        let mut app = apps.remove(&name).unwrap_or_default();
        app.refused = refused;
        let outcome = self.become_app(&name, &mut app, ready, removed).await;
        apps.insert(name, app);
        self.show(&apps);
        outcome?;
        if let Source::Store(packages) = source {
            self.inner.packages.expect_no_more(packages.values());
        }
        self.sweep().await;
        Ok(deployed)
    }

    /// What runs, for whoever changes it. A node that ends takes no more changes.
    pub(super) async fn changing(&self) -> Result<Apps<'_>, CommandError> {
        let apps = self.inner.apps.lock().await;
        if self.inner.shutdown.is_cancelled() {
            let failed = CommandError::new(exit::UNREACHABLE, "E0512", "the node is draining");
            return Err(failed.help("send it again when the node is back"));
        }
        Ok(apps)
    }

    /// What the cluster's state says a function is, ready to run: where it does not run yet and what
    /// was to take its place is refused.
    async fn older(&self, app: &str, function: &str) -> Option<Ready> {
        let known = self.state(|state| state.apps().get(app)?.functions.get(function).cloned())?;
        let (spec, kept) = as_kept(&known).ok()?;
        prepare(&self.inner, Source::Kept(&kept), &spec, None).await.ok()
    }

    /// Refuses early what the command would be refused for: before anything is made or started.
    pub(super) fn check_version(
        &self,
        app: &str,
        expects: Option<u64>,
    ) -> Result<(), CommandError> {
        let found = self.state(|state| state.version(app));
        match expects {
            Some(expected) if expected != found => {
                Err(refused(&cluster::Refused::Version { expected, found }.into()))
            }
            _ => Ok(()),
        }
    }

    /// Looks at the cluster's state.
    pub(super) fn state<T>(&self, look: impl FnOnce(&cluster::State) -> T) -> T {
        let cluster = self.inner.cluster.lock().expect("nothing panics while holding it");
        look(&cluster.state())
    }

    pub(super) fn functions_of(&self, app: &str) -> Vec<String> {
        self.state(|state| {
            state
                .apps()
                .get(app)
                .into_iter()
                .flat_map(|app| app.functions.keys().cloned())
                .collect()
        })
    }

    /// Appends a change of applications to the cluster's log; the shards that are no more.
    pub(super) fn append(&self, command: &Command) -> Result<Vec<ShardId>, CommandError> {
        let mut cluster = self.inner.cluster.lock().expect("nothing panics while holding it");
        Ok(cluster.append(command).map_err(|error| refused(&error))?.removed)
    }

    /// The application as it will be: what is ready, and of the rest what is to `stay` as it is.
    pub(super) fn next_app(
        &self,
        name: &str,
        ready: &BTreeMap<String, Ready>,
        stay: impl Fn(&str) -> bool,
        topics: &[Topic],
    ) -> App {
        let mut app = App { topics: topics::stored(topics), ..App::default() };
        self.state(|state| {
            let Some(before) = state.apps().get(name) else { return };
            for (function, it) in &before.functions {
                if stay(function) && !ready.contains_key(function) {
                    app.functions.insert(function.clone(), it.clone());
                }
            }
            for (id, trigger) in &before.triggers {
                if app.functions.contains_key(&trigger.function) {
                    app.triggers.insert(id.clone(), trigger.clone());
                }
            }
        });
        for (function, it) in ready {
            // A revision that is there stays as it was written, perhaps by another version.
            let known = self.state(|state| {
                let known = state.history(name, function)?.find(&it.revision)?;
                Some(known.function.clone())
            });
            let made = || {
                let spec = serde_json::to_string(&it.spec).expect("a spec is plain data");
                let (revision, package) = (it.revision.to_string(), it.package.clone());
                Function { revision, package, spec }
            };
            app.functions.insert(function.clone(), known.unwrap_or_else(made));
            app.triggers.extend(self.triggers(name, &it.spec));
        }
        app
    }

    /// The triggers of a function by id, with the partitions there are now.
    pub(super) fn triggers(&self, app: &str, spec: &FunctionSpec) -> BTreeMap<String, Trigger> {
        let trigger = |trigger: &TriggerSpec| {
            let id = format!("{app}/{}/{}", spec.name, trigger.name);
            let topics = trigger.topics.iter();
            let topics = topics.map(|topic| (topic.clone(), self.partitions_of(&id, topic)));
            let topics = topics.collect();
            (id, Trigger { function: spec.name.to_string(), topics })
        };
        spec.triggers.iter().map(trigger).collect()
    }

    /// Makes what runs of an application what was agreed on. What was refused stays as it is, and
    /// what is neither ready nor refused goes.
    ///
    /// # Errors
    ///
    /// The first of a function that did not come up; the others did.
    pub(super) async fn become_app(
        &self,
        name: &str,
        app: &mut RunningApp,
        ready: BTreeMap<String, Ready>,
        removed: Vec<ShardId>,
    ) -> Result<(), CommandError> {
        let is_gone = |function: &String| {
            !ready.contains_key(function) && !app.refused.contains_key(function)
        };
        let gone: Vec<String> = app.functions.keys().filter(|it| is_gone(it)).cloned().collect();
        let gone = gone.iter().filter_map(|function| app.functions.remove(function));
        futures::future::join_all(gone.map(RunningFunction::drain)).await;
        self.bring_up_all(name, app, ready, removed).await
    }

    /// Brings up what is ready, and forgets shards that are no more.
    ///
    /// # Errors
    ///
    /// The first of a function that did not come up; the others did.
    pub(super) async fn bring_up_all(
        &self,
        name: &str,
        app: &mut RunningApp,
        ready: BTreeMap<String, Ready>,
        removed: Vec<ShardId>,
    ) -> Result<(), CommandError> {
        let mut outcome = Ok(());
        for (function, ready) in ready {
            let before = app.functions.remove(&function);
            match self.bring_up(name, ready, before).await {
                Ok(running) => drop(app.functions.insert(function, running)),
                Err(error) => {
                    tracing::error!(function, error = error.message, "the function stopped");
                    outcome = outcome.and(Err(error));
                }
            }
        }
        for shard in removed {
            if let Err(error) = self.inner.bus.forget_shard(shard).await {
                outcome = outcome.and_then(|()| Err(failed(&error)));
            }
        }
        outcome
    }

    /// Takes away packages that nothing names any more.
    pub(super) async fn sweep(&self) {
        let named = self.state(cluster::State::packages);
        let inner = Arc::clone(&self.inner);
        let swept = tokio::task::spawn_blocking(move || inner.packages.sweep(&named)).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(%error, "could not take away packages that nothing needs any more");
        }
    }

    /// Runs a revision: shards that go on as they are get it handed, others are started anew.
    pub(super) async fn bring_up(
        &self,
        app: &str,
        ready: Ready,
        before: Option<RunningFunction>,
    ) -> Result<RunningFunction, CommandError> {
        let revision = as_revision(&ready.spec, &ready.revision, &ready.pool);
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
            let revision = revision.clone();
            let started =
                self.start_shard(id, shard, &ready.spec, trigger, revision, &shards).await;
            shards.push(started);
        }
        for gone in kept.into_values() {
            gone.drain(DRAIN_PATIENCE).await;
        }
        let Ready { spec, revision, pool, .. } = ready;
        Ok(RunningFunction { spec, revision, since, pool, shards })
    }

    /// Starts a shard that was assigned. One that cannot start has stopped, and is shown; the
    /// others are not held up. `siblings` are those of its function that were started before.
    pub(super) async fn start_shard(
        &self,
        id: ShardId,
        shard: cluster::Shard,
        spec: &FunctionSpec,
        trigger: &TriggerSpec,
        revision: dispatch::Revision,
        siblings: &[RunningShard],
    ) -> RunningShard {
        let paused = self.state(|state| state.paused().contains_key(&shard.trigger));
        let config = shard_config(&self.inner, id, &shard, spec, trigger, paused);
        let handle = match growth::must_not_start(&shard, siblings) {
            Some(reason) => dispatch::stopped(config, revision, reason),
            None => dispatch::start_or_wait(self.bus(), config, revision).await,
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
        RunningShard { id, handle: Arc::new(handle), status }
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
        let before = cluster.state();
        let mine: Vec<(ShardId, &TriggerSpec)> = before
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

/// What the cluster's log refused.
pub(super) fn refused(error: &cluster::Error) -> CommandError {
    use cluster::Refused as R;
    let cluster::Error::Refused(refused) = error else { return failed(error) };
    let (exit, code, help) = match refused {
        R::Version { .. } => (
            exit::CONFLICT,
            "E0520",
            "somebody else deployed it, rolled it back or removed it: look at `millrace plan` again",
        ),
        R::UnknownApp(_) | R::UnknownFunction(_) => {
            (exit::NOT_FOUND, "E0506", "`millrace functions` lists those there are")
        }
        R::UnknownTrigger(_) => {
            (exit::NOT_FOUND, "E0506", "`millrace trigger list` lists those there are")
        }
        R::UnknownRevision { .. } | R::UnknownAlias { .. } => {
            (exit::NOT_FOUND, "E0522", "`millrace functions APP/FUNCTION` lists those there are")
        }
        R::Shrunk { .. } => (
            exit::CONFLICT,
            "E0408",
            "a topic keeps its partitions: name that many in the manifest, or delete the topic first",
        ),
        // No deploy leads to another one.
        _ => return failed(error),
    };
    CommandError::new(exit, code, chain(error)).help(help)
}

/// What no deploy should lead to.
pub(super) fn failed(error: &dyn std::error::Error) -> CommandError {
    CommandError::new(exit::FAILED, "E0511", chain(error))
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
            // One runs, and one is ready when it ends.
            invocations_max: defaults.invocations_max,
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
