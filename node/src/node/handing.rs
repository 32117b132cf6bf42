//! How a shard leaves this node in order: what is in flight ends, its position is where the next
//! owner finds it, and only then it is the next owner's.

use std::time::Duration;

use bus::{Epoch, ShardId};
use cluster::{Command, Placing};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::running::RunningShard;
use super::{DRAIN_PATIENCE, Node};

/// Shards that have ended within this are given away together.
const TOGETHER: Duration = Duration::from_millis(5);

/// How long the bus may take to say where the next owner goes on. Then that is what is there.
const RELEASE_PATIENCE: Duration = Duration::from_secs(1);

/// How soon what could not be proposed is proposed again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

impl Node {
    /// Gives shards away, each ending an epoch. Those that did not run here go at once.
    pub(super) async fn hand_over(self, leaving: Vec<(ShardId, Epoch, Option<RunningShard>)>) {
        let drains = leaving.into_iter().map(|(id, ends, shard)| async move {
            if let Some(shard) = shard {
                shard.drain(DRAIN_PATIENCE).await;
            }
            (id, ends)
        });
        let mut drains: FuturesUnordered<_> = drains.collect();
        while let Some(first) = drains.next().await {
            let mut ended = vec![first];
            let together = tokio::time::Instant::now() + TOGETHER;
            while let Ok(Some(next)) = tokio::time::timeout_at(together, drains.next()).await {
                ended.push(next);
            }
            self.give_away(&ended).await;
        }
    }

    async fn give_away(&self, ended: &[(ShardId, Epoch)]) {
        let ids: Vec<ShardId> = ended.iter().map(|(id, _)| *id).collect();
        let released = tokio::time::timeout(RELEASE_PATIENCE, self.inner.bus.release(&ids)).await;
        if !matches!(released, Ok(Ok(()))) {
            tracing::warn!(shards = ids.len(), "their next owner goes on from an older position");
        }
        for (id, ends) in ended {
            // What was cut off may still be on its way to the bus.
            self.inner.bus.fence(*id, Epoch(ends.0 + 1));
        }
        while !self.inner.over.is_cancelled() {
            let (state, me) = (self.inner.cluster.state(), self.inner.cluster.me());
            let still = ended.iter().filter_map(|(shard, ends)| {
                let known = state.shards().get(shard)?;
                let is_mine = known.owner == Some(me) && known.epoch == *ends;
                // Whoever was to get it may have gone meanwhile.
                let to = known.target.unwrap_or(me);
                is_mine.then_some(Placing { shard: *shard, ends: *ends, to })
            });
            let moves: Vec<Placing> = still.collect();
            if moves.is_empty() {
                break;
            }
            if let Err(error) = self.append(Command::Assign { moves }).await {
                tracing::debug!(error = error.message, "could not give shards away yet");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
        self.inner.ownership().has_left(&ids);
        self.inner.wake.notify_one();
    }
}
