//! Replays: a range of what a trigger has read runs again, on the revision that the function has,
//! and what comes of it goes into a topic that nothing reads. The trigger's own shards know nothing of
//! it: a replay is a shard of its own, whose positions are forgotten when it ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bus::{Bus, Commit, Offset, Position, PositionMove, TopicPartition, TopicSpec};
use cluster::Command;
use dispatch::{ShardConfig, ShardHandle, State};
use gateway::Begin;
use gateway::api::{
    API, FunctionError, Replay, ReplayState, ReplayStatus, ReplayedPartition, Seek,
};
use tokio_util::sync::CancellationToken;

use super::running::shard_config;
use super::status::rfc3339;
use super::triggers::of_bus;
use super::{DRAIN_PATIENCE, Node};
use crate::commands::error::{CommandError, exit};

/// How often a replay looks how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The replays of a node since it started, by trigger: the last of each.
#[derive(Debug, Default)]
pub(super) struct Replays(BTreeMap<String, (Progress, CancellationToken)>);

/// How far a replay is, for whoever asks.
#[derive(Clone, Debug)]
struct Progress(Arc<Mutex<ReplayStatus>>);

impl Progress {
    fn now(&self) -> ReplayStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut ReplayStatus)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The pseudo trigger under which a replay is known at the bus.
fn replayer_name(trigger: &str) -> String {
    format!("replay/{trigger}")
}

/// What a replay is made of.
struct Job {
    node: Node,
    trigger: String,
    config: ShardConfig,
    revision: dispatch::Revision,
    /// By partition of the shard.
    from: Vec<Offset>,
    progress: Progress,
    cancel: CancellationToken,
}

impl Node {
    pub(super) async fn begin_replay(
        &self,
        id: &str,
        (from, to): (Begin, Begin),
        asked: &Replay,
    ) -> Result<ReplayStatus, CommandError> {
        let _one = self.changing().await?;
        let meant = |to: &str| Seek {
            to: to.to_owned(),
            topic: asked.topic.clone(),
            partition: asked.partition,
            dry_run: true,
            own: false,
        };
        let begins = self.targets(id, from, &meant(&asked.from)).await?;
        let ends = self.targets(id, to, &meant(&asked.to)).await?;
        let (app, function) = super::triggers::owner(id);
        let apps = self.inner.apps.lock().await;
        let running = apps.get(app).and_then(|app| app.functions.get(function));
        let running = running.ok_or_else(|| {
            let message = format!("{app}/{function} does not run");
            CommandError::new(exit::CONFLICT, "E0560", message)
        })?;
        let name = id.rsplit('/').next().unwrap_or_default();
        let trigger = running.spec.triggers.iter().find(|it| it.name.as_str() == name);
        let trigger = trigger.ok_or_else(|| {
            let message = format!("{id} does not run");
            CommandError::new(exit::CONFLICT, "E0560", message)
        })?;
        let ranges: Vec<_> = begins
            .iter()
            .zip(&ends)
            .map(|(begin, end)| (begin.place.clone(), begin.to, end.to.max(begin.to)))
            .filter(|(_, from, to)| from < to)
            .collect();
        let into = match &asked.into {
            Some(name) => name.clone(),
            None => self.free_name(id),
        };
        let status = ReplayStatus {
            api: API,
            trigger: id.to_owned(),
            state: ReplayState::Preview,
            revision: running.revision.to_string(),
            into: into.clone(),
            records: ranges.iter().map(|(_, from, to)| to.0.abs_diff(from.0)).sum(),
            partitions: ranges.iter().map(partition_of).collect(),
            started: rfc3339(bus::Timestamp::now()),
            ..ReplayStatus::default()
        };
        self.check_isolated(&into)?;
        self.check_none_replays(id)?;
        if asked.dry_run {
            return Ok(status);
        }
        if ranges.is_empty() {
            return Ok(ReplayStatus { state: ReplayState::Done, ..status });
        }
        self.make_topic(&into, trigger).await?;
        let name = replayer_name(id);
        self.append(Command::Redrive { topic: name.clone() }).await?;
        let replayer = self.state(|state| state.redrivers()[&name]);
        self.inner.groups.learn(replayer.shard, &name);
        let shard = cluster::Shard {
            trigger: name,
            topic: ranges[0].0.topic.to_string(),
            epoch: replayer.epoch,
            ..self.state(|state| state.shards()[&begins[0].shard].clone())
        };
        let mut config =
            shard_config(&self.inner, replayer.shard, &shard, &running.spec, trigger, false);
        config.partitions = ranges.iter().map(|it| it.0.clone()).collect();
        config.dead_letter = into.as_str().into();
        config.destinations = dispatch::Destinations::default();
        config.park_topic = None;
        config.history_topic = None;
        config.dispatch.park = None;
        config.replay = Some(dispatch::Replay {
            into: into.as_str().into(),
            until: ranges.iter().map(|it| it.2).collect(),
        });
        let running_status = ReplayStatus { state: ReplayState::Running, ..status };
        let progress = Progress(Arc::new(Mutex::new(running_status.clone())));
        let cancel = self.inner.shutdown.child_token();
        let mut replays = self.inner.replays.lock().expect("nothing panics while holding it");
        replays.0.insert(id.to_owned(), (progress.clone(), cancel.clone()));
        drop(replays);
        let job = Job {
            node: self.clone(),
            trigger: id.to_owned(),
            config,
            revision: running.runs.clone(),
            from: ranges.iter().map(|it| it.1).collect(),
            progress,
            cancel,
        };
        tracing::info!(trigger = id, into, records = running_status.records, "a replay begins");
        drop(tokio::spawn(job.run()));
        Ok(running_status)
    }

    pub(super) fn replay_of(&self, id: &str) -> Option<ReplayStatus> {
        let replays = self.inner.replays.lock().expect("nothing panics while holding it");
        replays.0.get(id).map(|(progress, _)| progress.now())
    }

    pub(super) fn end_replay(&self, id: &str) {
        let replays = self.inner.replays.lock().expect("nothing panics while holding it");
        if let Some((_, cancel)) = replays.0.get(id) {
            cancel.cancel();
        }
    }

    fn check_none_replays(&self, id: &str) -> Result<(), CommandError> {
        if self.replay_of(id).is_none_or(|it| it.state != ReplayState::Running) {
            return Ok(());
        }
        let message = format!("a replay of {id} runs");
        Err(CommandError::new(exit::CONFLICT, "E0561", message)
            .help("wait for it, or stop it: `millrace replay TRIGGER --stop`"))
    }

    /// Whether nothing of a replay gets back into any function.
    fn check_isolated(&self, into: &str) -> Result<(), CommandError> {
        let readers = self.trigger_list().triggers;
        let reader = readers.iter().find(|it| it.topics.iter().any(|topic| topic == into));
        let writer = readers.iter().find(|it| {
            let written = [&it.output, &it.dead_letter, &it.on_success, &it.on_failure];
            written.contains(&&Some(into.into()))
        });
        let Some(other) = reader.or(writer) else { return Ok(()) };
        let message = format!("{into} is a topic of {}", other.trigger);
        Err(CommandError::new(exit::CONFLICT, "E0562", message)
            .help("name a topic that no trigger reads or writes, or none"))
    }

    /// A name for outputs that no topic has.
    fn free_name(&self, id: &str) -> String {
        let (app, function) = super::triggers::owner(id);
        let name = |number: u32| format!("{app}.{function}.replay-{number}");
        (1..).map(name).find(|it| self.inner.bus.topic(it).is_none()).expect("names are endless")
    }

    /// The topic for outputs, with room for whatever the function may write elsewhere.
    async fn make_topic(
        &self,
        into: &str,
        trigger: &function::TriggerSpec,
    ) -> Result<(), CommandError> {
        if self.inner.bus.topic(into).is_some() {
            return Ok(());
        }
        if self.inner.kafka.as_ref().is_some_and(|kafka| kafka.create_topics != Some(true)) {
            let message = format!("there is no topic {into} on Kafka");
            return Err(CommandError::new(exit::NOT_FOUND, "E0404", message)
                .help("make it, and name it with --into"));
        }
        let inputs = trigger.topics.iter().map(String::as_str);
        let outputs = trigger.output_topic.as_deref();
        let known: Vec<_> =
            inputs.chain(outputs).filter_map(|it| self.inner.bus.topic(it)).collect();
        let most = |of: fn(&TopicSpec) -> usize| known.iter().map(|it| of(&it.spec)).max();
        let partitions = most(|it| it.partitions.unsigned_abs() as usize).unwrap_or(1);
        let mut spec = TopicSpec::new(into, i32::try_from(partitions).unwrap_or(1));
        let record_bytes_max = most(|it| it.record_bytes_max).unwrap_or_default();
        spec.record_bytes_max = spec.record_bytes_max.max(record_bytes_max);
        self.inner.bus.create_topic(spec).await.map_err(|error| of_bus(&error))?;
        Ok(())
    }

    /// Whether the function still runs as this revision.
    async fn still_runs(&self, id: &str, revision: &str) -> bool {
        let (app, function) = super::triggers::owner(id);
        let Ok(apps) = self.inner.apps.try_lock() else { return true };
        let running = apps.get(app).and_then(|app| app.functions.get(function));
        running.is_some_and(|it| &*it.revision == revision)
    }
}

fn partition_of((place, from, to): &(TopicPartition, Offset, Offset)) -> ReplayedPartition {
    let topic = place.topic.to_string();
    ReplayedPartition { topic, partition: place.partition, from: from.0, to: to.0 }
}

impl Job {
    /// Works to the end, says how it was, and leaves nothing but outputs.
    async fn run(self) {
        let (bus, shard) = (self.node.bus(), self.config.shard);
        let (progress, trigger) = (self.progress.clone(), self.trigger.clone());
        let outcome = self.work(&*bus).await;
        if let Err(error) = bus.forget_shard(shard).await {
            tracing::warn!(trigger, %error, "the positions of a replay stay");
        }
        progress.change(|status| match &outcome {
            Ok(state) => status.state = *state,
            Err(error) => {
                status.state = ReplayState::Failed;
                let code = error.code.unwrap_or("E0511").to_owned();
                status.error = Some(FunctionError { code, message: error.message.clone() });
            }
        });
        let ReplayStatus { state, done, outputs, dead_letters, .. } = progress.now();
        tracing::info!(trigger, ?state, done, outputs, dead_letters, "a replay is over");
    }

    async fn work(self, bus: &dyn Bus) -> Result<ReplayState, CommandError> {
        let of_bus = |error| of_bus(&error);
        let ShardConfig { shard, epoch, .. } = self.config;
        // Of one that a kill cut short.
        bus.forget_shard(shard).await.map_err(of_bus)?;
        bus.recover(shard, epoch).await.map_err(of_bus)?;
        let moves = self.config.partitions.iter().zip(&self.from).map(|(place, &next)| {
            let position = Position { epoch, next, ..Position::default() };
            PositionMove { partition: place.clone(), position }
        });
        let (appends, settles, positions) = (Vec::new(), Vec::new(), moves.collect());
        bus.commit(Commit { shard, epoch, appends, settles, positions }).await.map_err(of_bus)?;
        let until = self.config.replay.as_ref().map(|it| it.until.clone()).unwrap_or_default();
        let (node, revision) = (self.node.clone(), self.revision.clone());
        let handle = dispatch::start_or_wait(node.bus(), self.config.clone(), revision, None).await;
        let state = self.watch(&handle, &until).await;
        handle.drain(DRAIN_PATIENCE).await;
        self.note(&handle, &until);
        state
    }

    async fn watch(
        &self,
        handle: &ShardHandle,
        until: &[Offset],
    ) -> Result<ReplayState, CommandError> {
        let revision = self.progress.now().revision;
        loop {
            if self.note(handle, until) {
                return Ok(ReplayState::Done);
            }
            if let State::Stopped(reason) = handle.stats().state {
                let (code, message) = (reason.code(), reason.to_string());
                return Err(CommandError::new(exit::FAILED, code, message));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.cancel.cancelled() => return Ok(ReplayState::Stopped),
            }
            if !self.node.still_runs(&self.trigger, &revision).await {
                return Ok(ReplayState::Stopped);
            }
        }
    }

    /// Says how far it is; `true` when every partition is at its end.
    fn note(&self, handle: &ShardHandle, until: &[Offset]) -> bool {
        let stats = handle.stats();
        let (mut done, mut is_over) = (0, !stats.positions.is_empty());
        for (((_, position), from), until) in stats.positions.iter().zip(&self.from).zip(until) {
            let next = position.next.min(*until);
            let beyond = position.completions.ranges().iter();
            let beyond = beyond.map(|it| it.1.min(*until).0.abs_diff(it.0.min(*until).0));
            done += next.0.abs_diff(from.0) + beyond.sum::<u64>();
            is_over &= *until <= position.next;
        }
        self.progress.change(|status| {
            status.done = done;
            status.outputs = stats.outputs;
            status.dead_letters = stats.counters.dead_lettered;
            status.error = match &stats.state {
                State::Waiting(wait) => {
                    let (code, message) = (wait.code.clone(), wait.message.clone());
                    Some(FunctionError { code, message })
                }
                _ => None,
            };
        });
        is_over
    }
}
