//! How a member of several ends: the others have its shards before its process is gone.

use std::time::Duration;

use cluster::Command;
use tokio::time::Instant;

use super::Node;

/// How long a node that ends waits until its shards are others'.
const RETIRE_PATIENCE: Duration = Duration::from_secs(10);

impl Node {
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
