//! A shard that its owner hands over in order: its next owner begins at what it was told, and the
//! group learns of it while the first records are fetched and run. Nothing is produced or committed
//! before the group knows (KL-1): the shard's turn to commit is held until then.

use std::sync::Arc;

use super::Inner;
use super::ledger;
use super::offsets::Mark;
use crate::{Epoch, Error, Handed, HandedRow, Recovered, ShardId};

impl Inner {
    /// Whether the group is no farther than what was handed over, and nobody has owned the shard
    /// since.
    pub(super) async fn agrees(&self, shard: ShardId, handed: &Handed) -> Result<bool, Error> {
        let group = (self.brokers.config.group)(shard);
        let committed = self.committed_together(&group).await?;
        Ok(ledger::agrees(shard, handed, &committed))
    }

    /// Begins an assignment where the one before has ended, without asking the brokers.
    pub(super) async fn take_over(
        self: &Arc<Self>,
        shard: ShardId,
        epoch: Epoch,
        handed: &Handed,
    ) -> Result<Recovered, Error> {
        let turn = self.gate(shard).lock_owned().await;
        let mut marks = Vec::with_capacity(handed.rows.len());
        for HandedRow { partition, topic_id, position } in &handed.rows {
            if self.brokers.topics.find(partition).await?.id() != *topic_id {
                let topic = partition.topic.to_string();
                return Err(Error::TopicRecreated { topic, shard });
            }
            let (partition, position) = (partition.clone(), position.clone());
            marks.push(Mark { partition, topic_id: *topic_id, position });
        }
        let taken = self.ledger().take_over(shard, epoch, handed); // KL-6
        taken?;
        let inner = Arc::clone(self);
        drop(tokio::spawn(async move {
            let _turn = turn;
            // A commit does it again, and says why it cannot.
            if let Err(error) = inner.own(shard, epoch, marks).await {
                tracing::debug!(%shard, %epoch, %error, "the group does not know the owner yet");
            }
        }));
        let rows = handed.rows.iter();
        let positions = rows.map(|it| (it.partition.clone(), it.position.clone())).collect();
        Ok(Recovered { positions })
    }
}
