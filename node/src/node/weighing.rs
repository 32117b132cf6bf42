//! Asks members what their shards weigh while this node leads: how busy each was of late, which
//! every node measures for its own. Nothing of it is kept: a new leader asks anew.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::ShardId;
use cluster::Role;
use cluster::weighing::{Scales, Told};
use gateway::api::Weights;
use gateway::{Others as _, Question, Verb};

use super::Node;

/// How often members are asked.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// The same until all were heard of for the first time.
const ASK_FIRST: Duration = Duration::from_millis(500);
/// How long one may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

impl Node {
    /// Asks until the node ends.
    pub(super) async fn weigh_shards(self) {
        let mut pause = ASK_FIRST;
        loop {
            tokio::select! {
                () = self.inner.over.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let is_weighed = self.has_others() && self.weigh().await;
            pause = if is_weighed { ASK_EVERY } else { ASK_FIRST };
        }
    }

    /// Asks everybody once, if this node leads; whether what shards weigh is known.
    async fn weigh(&self) -> bool {
        let (me, leadership) = (self.inner.cluster.me(), self.inner.cluster.leadership());
        if leadership.leader != Some(me) {
            return false;
        }
        let state = self.inner.cluster.state();
        let voters = state.roster().members().iter().filter(|(_, it)| it.role == Role::Voter);
        let members: BTreeMap<u64, String> =
            voters.map(|(id, it)| (*id, it.name.clone())).collect();
        let asked = members.iter().map(async |(id, name)| (*id, self.weights_of(*id, name).await));
        let heard = futures::future::join_all(asked).await;
        let owned = state.shards().iter().filter_map(|(id, it)| Some((*id, it.owner?)));
        let owners: BTreeMap<ShardId, u64> = owned.collect();
        let members: Vec<u64> = members.into_keys().collect();
        let mut seat = self.inner.seat.lock().await;
        let Some((weighing, now)) = seat.weighing(leadership.term) else { return false };
        for (member, told) in heard {
            told.into_iter().for_each(|told| weighing.on_told(member, told));
        }
        weighing.look(Scales { now, owners: &owners, members: &members });
        weighing.weights().is_some()
    }

    /// What a member says of its shards.
    async fn weights_of(&self, id: u64, name: &str) -> Option<Told> {
        let weights = if id == self.inner.cluster.me() {
            Weights::of(&gateway::NodeView::shards(self))
        } else {
            let target = "/v1/weights".to_owned();
            let question = Question { verb: Verb::Get, target, body: String::new() };
            let reply = self.inner.peers.as_ref()?.ask(name, question, PATIENCE).await.ok()?;
            serde_json::from_slice(&reply.body).ok()?
        };
        let busy = weights.shards.iter().map(|it| (ShardId(it.shard), it.busy_permille)).collect();
        Some(Told { cores: weights.cores, busy })
    }
}
