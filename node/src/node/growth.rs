//! What others do to topics: nobody reports it, so the node looks. A partition that was added to a
//! topic of Kafka gets a shard that reads it from its start: what was written there before the look
//! is not skipped, whatever the trigger's `start` says. A topic that comes back has its shards look
//! again: they go on in it, or say that it is another one (E0417).

use std::time::Duration;

use cluster::{App, Command};
use dispatch::StopReason;

use super::running::{Apps, RunningShard};
use super::{DRAIN_PATIENCE, Node, converge};
use crate::commands::error::CommandError;

/// How often the node looks; the bus has its own pace, of a few seconds too.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Node {
    /// Looks for partitions that were added and topics that came back, until the node ends.
    pub(super) async fn watch_topics(self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = self.inner.shutdown.cancelled() => return,
                _tick = ticks.tick() => {}
            }
            self.revive().await;
            if self.inner.kafka.is_none() {
                continue;
            }
            if let Err(error) = self.grow().await {
                tracing::warn!(error = error.message, "could not read partitions that were added");
            }
        }
    }

    /// Has shards that stopped because their topic was gone begin anew where it is there.
    async fn revive(&self) {
        let mut apps = self.inner.apps.lock().await;
        let shards = self.back(&apps);
        let taken: Vec<RunningShard> =
            shards.into_iter().filter_map(|id| converge::take(&mut apps, id)).collect();
        if taken.is_empty() {
            return;
        }
        for shard in taken {
            tracing::info!(shard = %shard.id, topic = shard.status.topic, "the topic is there again");
            shard.drain(DRAIN_PATIENCE).await;
        }
        self.converge(&mut apps).await;
    }

    /// The shards that stopped because their partition was gone, and have it again.
    fn back(&self, apps: &Apps) -> Vec<bus::ShardId> {
        let stopped = converge::running_shards(apps)
            .filter(|it| matches!(it.stopped(), Some(StopReason::TopicGone(_))));
        let is_there = |it: &&RunningShard| {
            let topic = self.inner.bus.topic(&it.status.topic);
            topic.is_some_and(|topic| it.status.partition < topic.spec.partitions)
        };
        stopped.filter(is_there).map(|it| it.id).collect()
    }

    /// Has partitions that are new read. Of several nodes the leader does it.
    async fn grow(&self) -> Result<(), CommandError> {
        let cluster = &self.inner.cluster;
        if cluster.leadership().leader != Some(cluster.me()) || !self.inner.ownership().has_begun()
        {
            return Ok(());
        }
        let _one = self.inner.changes.lock().await;
        let state = cluster.state();
        for (name, app) in state.apps() {
            let grown = self.grown(app);
            if grown == *app {
                continue;
            }
            let (name, at) = (name.clone(), bus::Timestamp::now());
            let expects = Some(state.version(&name));
            let command = Command::Deploy { name: name.clone(), app: grown, expects, at };
            let mut apps = self.inner.apps.lock().await;
            self.append(command).await?;
            tracing::info!(app = name, "partitions were added");
            self.settle(&mut apps, &name, Vec::new()).await;
        }
        Ok(())
    }

    /// The application with the partitions that its topics have now.
    fn grown(&self, app: &App) -> App {
        let mut grown = app.clone();
        for trigger in grown.triggers.values_mut() {
            for (topic, read) in &mut trigger.topics {
                let there = self.inner.bus.topic(topic).map_or(0, |info| info.spec.partitions);
                if 0 < *read {
                    *read = there.cast_unsigned().max(*read);
                }
            }
        }
        grown
    }

    /// How many shards a trigger has for a topic: one for each partition, and never fewer than it
    /// had. One whose partition is gone stops, by name.
    pub(super) fn partitions_of(&self, trigger: &str, topic: &str) -> u32 {
        let there = self.inner.bus.topic(topic).map_or(0, |info| info.spec.partitions);
        let state = self.inner.cluster.state();
        let shards = state.shards().values();
        let mine = shards.filter(|it| it.trigger == trigger && it.topic == topic);
        there.cast_unsigned().max(mine.map(|it| it.partition + 1).max().unwrap_or(0))
    }

    /// Whether an application was ever deployed here, and not taken away since.
    pub(super) fn was_deployed(&self, app: &str) -> bool {
        self.inner.cluster.state().apps().contains_key(app)
    }
}

/// Why a shard must not start, although it could: it would read a partition from its start that was
/// not added to the topic of its trigger, but belongs to another topic that was made under the
/// same name. `started` are those that come before it.
pub(super) fn must_not_start(
    shard: &cluster::Shard,
    started: &[RunningShard],
) -> Option<StopReason> {
    let is_sibling =
        |it: &&RunningShard| it.status.trigger == shard.trigger && it.status.topic == shard.topic;
    let mut reasons = started.iter().filter(is_sibling).filter_map(RunningShard::stopped);
    reasons.find(|it| shard.grown && matches!(it, StopReason::TopicRecreated(_)))
}
