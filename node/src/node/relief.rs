//! A node that does not reach the bus while others may is relieved: it has its shards moved to them,
//! and takes part again once it reaches it.

use std::time::Duration;

use cluster::Command;
use tokio::time::Instant;

use super::Node;

/// How often the bus is asked, and how long it has for an answer.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A bus that has not answered for so long is not reached. A broker that is started again is back
/// sooner.
const CUT_OFF_AFTER: Duration = Duration::from_secs(5);

impl Node {
    /// Asks the bus until the node ends. Where no member reaches it, all say so, and every shard
    /// stays where it is.
    pub(super) async fn watch_bus(self) {
        let member = self.inner.cluster.me();
        let (mut reached_at, mut is_relieved) = (Instant::now(), false);
        loop {
            tokio::select! {
                () = self.inner.shutdown.cancelled() => return,
                () = self.inner.over.cancelled() => return,
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
            let may_move = self.has_others() && self.inner.ownership().has_begun();
            if !may_move || self.bus().answers(ASK_EVERY).await {
                reached_at = Instant::now();
            }
            let is_cut_off = CUT_OFF_AFTER <= reached_at.elapsed();
            if is_cut_off == is_relieved {
                continue;
            }
            let told =
                if is_cut_off { Command::Stop { member } } else { Command::Ready { member } };
            match self.append(told).await {
                Ok(()) if is_cut_off => {
                    tracing::warn!("the bus does not answer this node: its shards move to others");
                }
                Ok(()) => tracing::info!("the bus answers this node again: it takes shards"),
                Err(error) => {
                    let error = error.message;
                    tracing::warn!(error, "could not say whether this node reaches the bus");
                    continue;
                }
            }
            is_relieved = is_cut_off;
        }
    }
}
