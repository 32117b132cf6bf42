//! What a node says of itself, from memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::ShardId;
use cluster::shares::{Limits, Share, Taken, shares};
use dispatch::scaling::{FunctionLoad, Wanted};
use dispatch::{ShardHandle, ShardStats, State, StopReason};
use function::FunctionSpec;
use gateway::api::{
    API, FeedStatus, FunctionState, FunctionStatus, Health, HeldUp, InstanceCounts, InstanceInfo,
    InstanceList, InstanceState, LastError, NodeInfo, PausedTrigger, ShardCounts, ShardState,
    ShardStatus, Status,
};
use gateway::{NodeView, ProcessFigures, Readiness};
use runtime::{Invoke as _, Pool};

use super::deploy::Refusal;
use super::running::Apps;
use super::shares::limits_of;
use super::{FeedProgress, Node};

/// Over how long rates are taken at least.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// What status needs of every function.
#[derive(Debug, Default)]
pub(super) struct Shown {
    functions: Vec<ShownFunction>,
    /// Shares of limits for the whole cluster, by function.
    taken: BTreeMap<String, Taken>,
    is_up: bool,
}

#[derive(Debug)]
struct ShownFunction {
    status: FunctionStatus,
    /// `None`: no revision of it runs.
    pool: Option<Arc<Pool>>,
    /// Instances that it keeps ready.
    warm: u32,
    /// The same for each node, without a share of what the cluster keeps ready.
    warm_each: u32,
    limits: Option<Limits>,
    shards: Vec<(Arc<ShardHandle>, ShardStatus)>,
    dead_letter: String,
    refused: Option<Refusal>,
    sampled_at: Instant,
    sampled: u64,
    rate: f64,
}

impl Node {
    /// Takes over what changed.
    pub(super) fn show(&self, apps: &Apps) {
        self.inner.calls.take_over(apps);
        let mut functions = Vec::new();
        for (app, running) in apps {
            let stopped = running.refused.iter();
            let stopped = stopped.filter(|(name, _)| !running.functions.contains_key(*name));
            functions.extend(stopped.map(|(_, (refusal, spec))| ShownFunction {
                refused: Some(refusal.clone()),
                ..ShownFunction::of(FunctionStatus::default(), app, spec)
            }));
            for (name, function) in &running.functions {
                let shards = function.shards.iter();
                let status = FunctionStatus {
                    revision: function.revision.to_string(),
                    revision_since: rfc3339(function.since),
                    ..Default::default()
                };
                functions.push(ShownFunction {
                    pool: Some(Arc::clone(&function.pool)),
                    shards: shards
                        .map(|shard| (Arc::clone(&shard.handle), shard.status.clone()))
                        .collect(),
                    refused: running.refused.get(name).map(|(refusal, _)| refusal.clone()),
                    ..ShownFunction::of(status, app, &function.spec)
                });
            }
        }
        functions
            .sort_by(|a, b| (&a.status.app, &a.status.name).cmp(&(&b.status.app, &b.status.name)));
        let mut shown = self.inner.shown.lock().expect("nothing panics while holding it");
        for function in &mut functions {
            function.sampled = function.stats().map(|it| it.counters.settled).sum();
        }
        shown.functions = functions;
    }

    /// Everything that the node was started with is up, as far as it can be: others may hand it
    /// shards.
    pub(crate) fn mark_up(&self) {
        self.inner.shown.lock().expect("nothing panics while holding it").is_up = true;
        drop(tokio::spawn(self.clone().tell_ready()));
    }

    /// What the feed does, if there is one.
    pub(crate) fn feed_progress(&self) -> Option<FeedProgress> {
        self.inner.feed.lock().expect("nothing panics while holding it").clone()
    }
}

impl Node {
    /// A shard that runs here.
    pub(super) fn handle_of(&self, shard: ShardId) -> Option<Arc<ShardHandle>> {
        let shown = self.inner.shown.lock().expect("nothing panics while holding it");
        let mut all = shown.functions.iter().flat_map(|function| &function.shards);
        all.find(|(_, status)| status.shard == shard.0).map(|(handle, _)| Arc::clone(handle))
    }

    /// Triggers that do not go on, by reason.
    pub(super) fn held_up(&self) -> Vec<HeldUp> {
        self.inner.shown.lock().expect("nothing panics while holding it").held_up()
    }
}

impl Node {
    /// Every instance of its functions that there is now.
    pub(super) async fn list_instances(&self) -> InstanceList {
        let pools: Vec<(FunctionStatus, Arc<Pool>)> = {
            let shown = self.inner.shown.lock().expect("nothing panics while holding it");
            let functions = shown.functions.iter();
            functions.filter_map(|it| Some((it.status.clone(), it.pool.clone()?))).collect()
        };
        // What processes have in memory is read from /proc.
        let look = move || pools.iter().flat_map(|(it, pool)| instances(it, pool)).collect();
        let instances = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        InstanceList { api: API, instances, unheard: Vec::new() }
    }
}

fn instances(function: &FunctionStatus, pool: &Pool) -> Vec<InstanceInfo> {
    let info = |it: runtime::InstanceFigures| InstanceInfo {
        node: None,
        function: format!("{}/{}", function.app, function.name),
        revision: function.revision.clone(),
        runtime: function.runtime.clone(),
        instance: it.name(),
        pid: it.pid,
        state: match it.state {
            runtime::InstanceState::Starting => InstanceState::Starting,
            runtime::InstanceState::Warm => InstanceState::Warm,
            runtime::InstanceState::Busy => InstanceState::Busy,
        },
        age_ms: it.age.as_millis() as u64,
        invocations: it.invocations,
        memory_bytes: it.memory_bytes,
    };
    pool.instances().into_iter().map(info).collect()
}

impl Shown {
    /// What changes when a shard does something, or is given something to do or to another.
    pub(super) fn moved(&self) -> (usize, u64) {
        let shards = self.functions.iter().flat_map(|it| &it.shards);
        let moved = |(handle, at): &(Arc<ShardHandle>, ShardStatus)| {
            let load = handle.scaled().load;
            let moved = load.settled.wrapping_mul(3).wrapping_add(load.lag).wrapping_add(load.ran);
            moved.wrapping_add(at.shard)
        };
        shards.fold((0, 0), |(count, sum), it| (count + 1, moved(it).wrapping_add(sum)))
    }

    /// What scaling looks at: every function that runs, by name.
    pub(super) fn loads(&self) -> BTreeMap<String, FunctionLoad> {
        let running = self.functions.iter().filter(|it| it.pool.is_some());
        let load = |it: &ShownFunction| {
            let shards = it.shards.iter();
            let shards = shards.map(|(handle, at)| (ShardId(at.shard), handle.scaled()));
            let (warm, max) = (it.warm, it.status.instances.max);
            (it.name(), FunctionLoad { warm, max, shards: shards.collect() })
        };
        running.map(load).collect()
    }

    /// Has pools keep to the node's shares of limits for the whole cluster.
    pub(super) fn take_shares(&mut self, now: Duration, state: &cluster::State, me: u64) {
        let mut before = std::mem::take(&mut self.taken);
        for function in &mut self.functions {
            let Some(limits) = function.limits else { continue };
            let name = function.name();
            let share = shares(state, me, &name, limits).remove(&me).unwrap_or_default();
            let mut taken = before.remove(&name).unwrap_or_else(|| Taken::new(share));
            let Share { warm, max } = taken.follow(now, share);
            let warm = warm.max(function.warm_each).min(max);
            (function.warm, function.status.instances.max) = (warm, max);
            function.pool.iter().for_each(|pool| pool.limit(warm, max));
            self.taken.insert(name, taken);
        }
    }

    /// Tells every shard how wide it may be, and remembers what its function wants.
    pub(super) fn scale(&mut self, wanted: &BTreeMap<String, Wanted>) {
        for function in &mut self.functions {
            let Some(wanted) = wanted.get(&function.name()) else { continue };
            let before = std::mem::replace(&mut function.status.instances.wanted, wanted.instances);
            if 0 < before.max(wanted.instances) {
                function.pool.iter().for_each(|pool| pool.want(wanted.instances, wanted.needed));
            }
            for (handle, at) in &mut function.shards {
                let id = ShardId(at.shard);
                wanted.widths.get(&id).into_iter().for_each(|width| handle.set_width(*width));
                at.busy_permille = wanted.busy.get(&id).copied().unwrap_or_default();
            }
        }
    }

    /// The triggers that do not go on, by reason. A pause for want of an instance is no reason.
    fn held_up(&self) -> Vec<HeldUp> {
        let mut found: Vec<HeldUp> = Vec::new();
        for (handle, shard) in self.functions.iter().flat_map(|function| &function.shards) {
            let (state, code, message) = match handle.stats().state {
                State::Stopped(reason) => {
                    (ShardState::Stopped, reason.code().to_owned(), reason.to_string())
                }
                State::Waiting(wait) if function::explain(&wait.code).is_some() => {
                    (ShardState::Waiting, wait.code, wait.message)
                }
                _ => continue,
            };
            let is_it = |it: &&mut HeldUp| {
                it.trigger == shard.trigger
                    && it.topic == shard.topic
                    && (it.state, &it.code) == (state, &code)
            };
            let it = match found.iter_mut().find(is_it) {
                Some(known) => known,
                None => {
                    let (trigger, function) = (shard.trigger.clone(), shard.function.clone());
                    let (topic, partitions) = (shard.topic.clone(), Vec::new());
                    let it = HeldUp {
                        trigger,
                        function,
                        topic,
                        partitions,
                        node: None,
                        state,
                        code,
                        message,
                    };
                    found.push(it);
                    found.last_mut().expect("it was pushed")
                }
            };
            it.partitions.push(shard.partition);
        }
        found.iter_mut().for_each(|it| it.partitions.sort_unstable());
        found
    }
}

impl ShownFunction {
    /// What its settings say of a function.
    fn of(status: FunctionStatus, app: &str, spec: &FunctionSpec) -> Self {
        let triggers = &spec.triggers;
        let mut reads: Vec<String> = triggers.iter().flat_map(|it| it.topics.clone()).collect();
        reads.sort();
        reads.dedup();
        let mut writes: Vec<String> =
            triggers.iter().filter_map(|it| it.output_topic.clone()).collect();
        writes.extend(spec.allow_produce.iter().cloned());
        writes.extend(triggers.iter().map(|it| it.dead_letter.clone()));
        writes.extend(triggers.iter().flat_map(|it| it.destinations()).map(|it| it.1.to_owned()));
        let mut seen = std::collections::BTreeSet::new();
        writes.retain(|topic| seen.insert(topic.clone()));
        let status = FunctionStatus {
            app: app.to_owned(),
            name: spec.name.to_string(),
            runtime: spec.runtime.to_string(),
            reads,
            writes,
            instances: InstanceCounts { max: spec.instances.max, ..Default::default() },
            ..status
        };
        Self {
            status,
            pool: None,
            warm: spec.instances.warm,
            warm_each: spec.instances.warm,
            limits: limits_of(spec),
            shards: Vec::new(),
            dead_letter: triggers.first().map(|it| it.dead_letter.clone()).unwrap_or_default(),
            refused: None,
            sampled_at: Instant::now(),
            sampled: 0,
            rate: 0.0,
        }
    }

    /// `app/name`.
    fn name(&self) -> String {
        format!("{}/{}", self.status.app, self.status.name)
    }

    fn stats(&self) -> impl Iterator<Item = ShardStats> {
        self.shards.iter().map(|(handle, _)| handle.stats())
    }

    fn status(&mut self) -> FunctionStatus {
        let stats: Vec<ShardStats> = self.stats().collect();
        let sum = |count: fn(&ShardStats) -> u64| stats.iter().map(count).sum::<u64>();
        let settled = sum(|it| it.counters.settled);
        let elapsed = self.sampled_at.elapsed();
        if RATE_WINDOW <= elapsed {
            self.rate = settled.saturating_sub(self.sampled) as f64 / elapsed.as_secs_f64();
            (self.sampled, self.sampled_at) = (settled, Instant::now());
        }
        let mut runs: Vec<Duration> = stats.iter().flat_map(|it| it.recent_runs.clone()).collect();
        runs.sort();
        let at = |share: f64| {
            let index = ((runs.len().max(1) - 1) as f64 * share).round() as usize;
            runs.get(index).map(|run| run.as_secs_f64() * 1e3)
        };
        let (attempts, failed) = (sum(|it| it.counters.attempts), sum(|it| it.counters.failed));
        let last = stats.iter().filter_map(|it| it.last_error.clone()).max_by_key(|it| it.2);
        let stopped = stats.iter().filter(|it| matches!(it.state, State::Stopped(_))).count();
        let pool = self.pool.as_ref().map(|pool| pool.stats());
        let pool = pool.map_or(self.status.instances, |it| InstanceCounts {
            busy: it.busy,
            warm: it.idle,
            queued: it.queued,
            ..self.status.instances
        });
        let state = if self.pool.is_none() {
            FunctionState::Stopped
        } else if self.refused.is_some() {
            FunctionState::Stale
        } else if stopped == stats.len() && !stats.is_empty() {
            FunctionState::Stopped
        } else if !stats.is_empty() && stats.iter().all(|it| it.state == State::Paused) {
            FunctionState::Paused
        } else if 0 < stopped
            || last.as_ref().is_some_and(|it| bus::Timestamp::now().0 - it.2.0 < 60_000)
        {
            FunctionState::Failing
        } else {
            FunctionState::Running
        };
        let refused = self.refused.as_ref().map(|refusal| LastError {
            code: refusal.code.to_owned(),
            message: refusal.message.clone(),
            at: rfc3339(bus::Timestamp::now()),
            ..Default::default()
        });
        FunctionStatus {
            state,
            rate_per_s: self.rate,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            error_ratio: (attempts != 0).then(|| failed as f64 / attempts as f64),
            in_flight: sum(|it| it.running_records as u64),
            settled,
            filtered: sum(|it| it.counters.filtered),
            attempts,
            failed,
            shards: stats.len() as u32,
            dead_lettered: sum(|it| it.counters.dead_lettered),
            parked: sum(|it| it.parked_records as u64),
            instances: pool,
            last_error: refused.or_else(|| {
                last.map(|(code, message, at)| LastError {
                    code,
                    message,
                    at: rfc3339(at),
                    record: None,
                    recent: failed,
                    recent_of: attempts,
                    dead_letter: Some(self.dead_letter.clone()),
                })
            }),
            ..self.status.clone()
        }
    }
}

impl NodeView for Node {
    fn status(&self) -> Status {
        let inner = &self.inner;
        let shards = self.shards();
        let count = |state: ShardState| shards.iter().filter(|it| it.state == state).count() as u32;
        let counts = ShardCounts {
            total: shards.len() as u32,
            running: count(ShardState::Running)
                + count(ShardState::Waiting)
                + count(ShardState::Paused),
            starting: count(ShardState::Starting),
            stopped: count(ShardState::Stopped),
            unheard: 0,
        };
        let mut shown = inner.shown.lock().expect("nothing panics while holding it");
        let functions: Vec<FunctionStatus> =
            shown.functions.iter_mut().map(ShownFunction::status).collect();
        let held_up = shown.held_up();
        let paused = self.state(|state| {
            let paused = state.paused().iter();
            let told = |(trigger, since): (&String, &bus::Timestamp)| PausedTrigger {
                trigger: trigger.clone(),
                since: rfc3339(*since),
            };
            paused.map(told).collect()
        });
        let mut apps: Vec<String> = functions.iter().map(|it| it.app.clone()).collect();
        apps.dedup();
        let trouble = inner.bus.trouble();
        let mut warnings = inner.warnings.clone();
        warnings.extend(trouble.iter().map(|it| format!("{}: {it}", StopReason::of(it).code())));
        let is_bad =
            |it: &FunctionStatus| matches!(it.state, FunctionState::Stale | FunctionState::Stopped);
        let health = if inner.shutdown.is_cancelled() {
            Health::Draining
        } else if !shown.is_up {
            Health::Starting
        } else if trouble.is_some() || !held_up.is_empty() || functions.iter().any(is_bad) {
            Health::Degraded
        } else {
            Health::Healthy
        };
        let node = NodeInfo {
            name: inner.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            data_dir: inner.data_dir.display().to_string(),
            started: rfc3339(inner.started),
            uptime_ms: inner.started_at.elapsed().as_millis() as u64,
        };
        let feed = self.feed_progress().map(|feed| FeedStatus {
            file: feed.file,
            topic: feed.topic,
            rate_per_s: f64::from(feed.rate),
            rows: feed.rows,
            next_row: feed.next_row,
            rounds: feed.rounds,
            appended: feed.appended,
            state: feed.state,
        });
        let shards = counts;
        Status {
            api: API,
            node,
            apps,
            health,
            functions,
            shards,
            feed,
            held_up,
            paused,
            warnings,
            ..Status::default()
        }
    }

    fn shards(&self) -> Vec<ShardStatus> {
        let shown = self.inner.shown.lock().expect("nothing panics while holding it");
        let is_draining = self.inner.shutdown.is_cancelled();
        let all = shown.functions.iter().flat_map(|function| &function.shards);
        all.map(|(handle, status)| {
            let stats = handle.stats();
            let state = match stats.state {
                State::Running | State::Paused if is_draining => ShardState::Draining,
                State::Running => ShardState::Running,
                State::Paused => ShardState::Paused,
                State::Waiting(_) => ShardState::Waiting,
                State::Draining => ShardState::Draining,
                State::Stopped(_) => ShardState::Stopped,
            };
            let next = stats.positions.first().map(|(_, position)| position.next.0);
            ShardStatus { state, next, ..status.clone() }
        })
        .collect()
    }

    fn process(&self) -> ProcessFigures {
        super::figures::of_process(self.inner.started, &self.inner.data_dir)
    }

    fn readiness(&self) -> Readiness {
        if self.inner.shutdown.is_cancelled() {
            return Readiness::NotReady("draining".to_owned());
        }
        let shown = self.inner.shown.lock().expect("nothing panics while holding it");
        if shown.is_up { Readiness::Ready } else { Readiness::NotReady("starting".to_owned()) }
    }

    fn request_shutdown(&self) {
        self.inner.shutdown.cancel();
    }
}

pub(super) fn rfc3339(time: bus::Timestamp) -> String {
    let time = jiff::Timestamp::from_millisecond(time.0).unwrap_or_default();
    format!("{time:.3}")
}
