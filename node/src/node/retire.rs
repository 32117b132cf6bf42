//! How a member of several comes and goes: it gets shards when it can run them, and the others have
//! them before its process is gone.

use std::time::Duration;

use cluster::Command;
use tokio::time::Instant;

use super::Node;

/// How long a node that ends waits until its shards are others'.
const RETIRE_PATIENCE: Duration = Duration::from_secs(10);

/// How long a node has run before it asks for shards: until then a producer on Kafka has no id, and
/// the first outputs of a shard that moves here would wait for one. Who has the shard goes on
/// meanwhile.
const WARM_AFTER: Duration = Duration::from_millis(700);

/// How often a node that starts looks whether the cluster knows.
const TELL_AGAIN: Duration = Duration::from_millis(50);

impl Node {
    /// Tells the cluster that this node can run shards, until it knows. It may not have heard yet
    /// that the node has started.
    pub(super) async fn tell_ready(self) {
        let (member, starts) = (self.inner.cluster.me(), self.inner.cluster.incarnation());
        if self.inner.kafka.is_some() && self.has_others() {
            let warm_at = Instant::from_std(self.inner.started_at + WARM_AFTER);
            tokio::select! {
                () = self.inner.shutdown.cancelled() => return,
                () = tokio::time::sleep_until(warm_at) => {}
            }
        }
        loop {
            let (has_started, is_starting) = self.state(|state| {
                let known = state.roster().members().get(&member);
                let has_started = known.is_none_or(|it| starts <= it.incarnation);
                (has_started, state.is_starting(member))
            });
            if has_started && !is_starting {
                return;
            }
            if has_started && self.append(Command::Ready { member }).await.is_ok() {
                return;
            }
            tokio::select! {
                () = self.inner.shutdown.cancelled() => return,
                () = tokio::time::sleep(TELL_AGAIN) => {}
            }
        }
    }

    /// Has the leader move everything off this node, and waits for it. What is not moved in time is
    /// found by the others as that of any node that is gone.
    pub(super) async fn retire(&self) {
        if !self.inner.ownership().has_begun() || !self.has_others() {
            return;
        }
        let until = Instant::now() + RETIRE_PATIENCE;
        let member = self.inner.cluster.me();
        let mut changes = self.inner.cluster.changes();
        let asked = tokio::time::timeout_at(until, self.append(Command::Stop { member })).await;
        if !matches!(asked, Ok(Ok(()))) {
            tracing::warn!("could not say that this node ends: its shards move when it is missed");
            return;
        }
        loop {
            changes.borrow_and_update();
            let left = self.state(|state| {
                state.shards().values().filter(|it| it.owner == Some(member)).count()
            });
            if left == 0 {
                tracing::info!("every shard is another node's");
                return;
            }
            let changed = tokio::time::timeout_at(until, changes.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                tracing::warn!(left, "shards were not taken over in time");
                return;
            }
        }
    }
}
