//! How a shard leaves this node in order: what is in flight ends, its position is where the next
//! owner finds it, the next owner is told of it, and only then it is the next owner's.
//!
//! ```text
//! drained ─┬▶ the bus is told (another owner after a kill starts there) ─┬▶ assigned
//!          └▶ the next owner is told, compares, and begins to read       ─┘
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use bus::{Epoch, ShardId};
use cluster::{Command, Placing};
use dispatch::Legacy;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;

use super::handed::{self, Told};
use super::running::RunningShard;
use super::{DRAIN_PATIENCE, Node};

/// Shards that have ended within this are given away together.
const TOGETHER: Duration = Duration::from_millis(5);

/// How long the bus may take to say where the next owner goes on. Then that is what is there.
const RELEASE_PATIENCE: Duration = Duration::from_secs(1);

/// How long the next owner may take to hear of it. Then it asks the bus.
const TELL_PATIENCE: Duration = Duration::from_millis(500);

/// How soon what could not be proposed is proposed again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// A shard that has ended here.
struct Ended {
    id: ShardId,
    ends: Epoch,
    legacy: Option<Legacy>,
}

impl Node {
    /// Gives shards away, each ending an epoch. Those that did not run here go at once.
    pub(super) async fn hand_over(self, leaving: Vec<(ShardId, Epoch, Option<RunningShard>)>) {
        let drains = leaving.into_iter().map(|(id, ends, shard)| async move {
            let mut legacy = None;
            if let Some(shard) = shard {
                shard.handle.drain(DRAIN_PATIENCE).await;
                legacy = shard.handle.legacy();
            }
            Ended { id, ends, legacy }
        });
        let mut drains: FuturesUnordered<_> = drains.collect();
        let mut given = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(first) = drains.next() => {
                    let mut ended = vec![first];
                    let together = tokio::time::Instant::now() + TOGETHER;
                    while let Ok(Some(next)) = tokio::time::timeout_at(together, drains.next()).await {
                        ended.push(next);
                    }
                    given.push(self.give_away(ended));
                }
                Some(()) = given.next() => {}
                else => return,
            }
        }
    }

    async fn give_away(&self, ended: Vec<Ended>) {
        let all: Vec<(ShardId, Epoch)> = ended.iter().map(|it| (it.id, it.ends)).collect();
        let ids: Vec<ShardId> = all.iter().map(|it| it.0).collect();
        let ended_at = tokio::time::Instant::now();
        let released = tokio::time::timeout(RELEASE_PATIENCE, self.inner.bus.release(&ids));
        let told = tokio::time::timeout(TELL_PATIENCE, self.tell(ended));
        let (released, told) = tokio::join!(released, told);
        if !matches!(released, Ok(Ok(()))) {
            tracing::warn!(
                shards = ids.len(),
                "the bus has an older position of what is given away"
            );
        }
        if told.is_err() {
            tracing::debug!(shards = ids.len(), "the next owners may not have heard of it");
        }
        let told_after = ended_at.elapsed();
        for (id, ends) in &all {
            // What was cut off may still be on its way to the bus.
            self.inner.bus.fence(*id, Epoch(ends.0 + 1));
        }
        while !self.inner.over.is_cancelled() {
            let (state, me) = (self.inner.cluster.state(), self.inner.cluster.me());
            let still = all.iter().filter_map(|(shard, ends)| {
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
        let assigned_after = ended_at.elapsed();
        tracing::debug!(?ids, ?told_after, ?assigned_after, "shards were given away");
        self.inner.ownership().has_left(&ids);
        self.inner.wake.notify_one();
    }

    /// Tells the next owners where these shards have ended.
    async fn tell(&self, ended: Vec<Ended>) {
        let Some(peers) = self.peers() else { return };
        let state = self.inner.cluster.state();
        let mut by_heir: BTreeMap<u64, Vec<Told>> = BTreeMap::new();
        for Ended { id: shard, ends, legacy } in ended {
            let target = state.shards().get(&shard).and_then(|it| it.target);
            let (Some(to), Some(handed)) = (target, self.inner.bus.handed(shard, ends)) else {
                continue;
            };
            by_heir.entry(to).or_default().push(Told { shard, handed, legacy });
        }
        let tells = by_heir.into_iter().flat_map(|(to, told)| {
            let messages = handed::encode(told).into_iter();
            messages.map(move |message| (to, message))
        });
        let peers = &peers;
        let tells = tells.map(|(to, message)| async move {
            if let Err(error) = peers.hand_over(to, message, TELL_PATIENCE).await {
                tracing::debug!(to, %error, "the next owner has not heard of it");
            }
        });
        join_all(tells).await;
    }
}
