//! Partitions that others add to a topic of Kafka: nobody reports them, so the node looks, and
//! gives each a shard that reads it from its start. What was written there before the look is not
//! skipped, whatever the trigger's `start` says.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::Command;
use dispatch::StopReason;

use super::Node;
use super::deploy::{RunningApp, RunningFunction, RunningShard};
use super::prepare::Ready;
use crate::commands::error::CommandError;

/// How often the node looks; the bus has its own pace, of a few seconds too.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Node {
    /// Looks for partitions that were added, until the node ends.
    pub(super) async fn watch_growth(self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = self.inner.shutdown.cancelled() => return,
                _tick = ticks.tick() => {}
            }
            if let Err(error) = self.grow().await {
                tracing::warn!(error = error.message, "could not read partitions that were added");
            }
        }
    }

    /// Starts shards for partitions that are new.
    async fn grow(&self) -> Result<(), CommandError> {
        let mut apps = self.inner.apps.lock().await;
        let grown: Vec<String> = apps
            .iter()
            .filter(|(_, app)| self.has_grown(app))
            .map(|(name, _)| name.clone())
            .collect();
        if grown.is_empty() {
            // Nothing to show: before the first deploy that would say that the node is ready.
            return Ok(());
        }
        for name in grown {
            let Some(app) = apps.remove(&name) else { continue };
            let refused = app.refused;
            let (functions, outcome) = self.grow_app(&name, app.functions).await;
            apps.insert(name, RunningApp { functions, refused });
            outcome?;
        }
        self.show(&apps);
        Ok(())
    }

    fn has_grown(&self, app: &RunningApp) -> bool {
        app.functions.values().any(|function| {
            function.spec.triggers.iter().flat_map(|trigger| &trigger.topics).any(|topic| {
                let there = self.inner.bus.topic(topic).map_or(0, |info| info.spec.partitions);
                let read = function.shards.iter().filter(|it| it.status.topic == *topic);
                let read = read.map(|it| it.status.partition + 1).max().unwrap_or(0);
                0 < read && read < there
            })
        })
    }

    /// The functions as they run afterwards, also when something went wrong on the way.
    async fn grow_app(
        &self,
        name: &str,
        mut running: BTreeMap<String, RunningFunction>,
    ) -> (BTreeMap<String, RunningFunction>, Result<(), CommandError>) {
        let ready = self.as_ready(name, &running);
        let mut app = self.next_app(name, &ready, |_| true, &[]);
        app.topics = self.state(|state| state.apps()[name].topics.clone());
        let at = bus::Timestamp::now();
        let command = Command::Deploy { name: name.to_owned(), app, expects: None, at };
        if let Err(error) = self.append(&command) {
            return (running, Err(error));
        }
        tracing::info!(app = name, "partitions were added");
        for (function, ready) in ready {
            let Some(before) = running.remove(&function) else { continue };
            match self.bring_up(name, ready, Some(before)).await {
                Ok(after) => drop(running.insert(function, after)),
                // Its shards ended with the attempt: the next deploy brings it up again.
                Err(error) => {
                    tracing::error!(function, error = error.message, "the function stopped");
                    return (running, Err(error));
                }
            }
        }
        (running, Ok(()))
    }

    /// How many shards a trigger has for a topic: one for each partition, and never fewer than it
    /// had. One whose partition is gone stops, by name.
    pub(super) fn partitions_of(&self, trigger: &str, topic: &str) -> u32 {
        let there = self.inner.bus.topic(topic).map_or(0, |info| info.spec.partitions);
        let state = self.inner.cluster.lock().expect("nothing panics while holding it").state();
        let shards = state.shards().values();
        let mine = shards.filter(|it| it.trigger == trigger && it.topic == topic);
        there.cast_unsigned().max(mine.map(|it| it.partition + 1).max().unwrap_or(0))
    }

    /// Whether an application was ever deployed here, and not taken away since.
    pub(super) fn was_deployed(&self, app: &str) -> bool {
        let cluster = self.inner.cluster.lock().expect("nothing panics while holding it");
        cluster.state().apps().contains_key(app)
    }

    /// What runs, as something that could be brought up.
    fn as_ready(
        &self,
        app: &str,
        running: &BTreeMap<String, RunningFunction>,
    ) -> BTreeMap<String, Ready> {
        let state = self.inner.cluster.lock().expect("nothing panics while holding it").state();
        let known = state.apps().get(app);
        let ready = running.iter().filter_map(|(name, function)| {
            let package = known?.functions.get(name)?.package.clone();
            let (spec, pool) = (function.spec.clone(), function.pool.clone());
            let revision = function.revision.clone();
            Some((name.clone(), Ready { spec, revision, package, pool }))
        });
        ready.collect()
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
