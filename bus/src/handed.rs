//! What the owner of a shard tells the next one when it has ended in order, so that the next one
//! need not ask the bus where to go on.

use serde::{Deserialize, Serialize};

use crate::{Epoch, Position, TopicPartition};

/// Where a shard stands that has ended in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// The assignment that has ended: it counts for the one right behind it.
    pub ends: Epoch,
    /// Of every partition that it read.
    pub rows: Vec<HandedRow>,
}

/// Where one partition stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedRow {
    /// Which.
    pub partition: TopicPartition,
    /// The topic's id: one made again under its name has another.
    pub topic_id: u64,
    /// Where its next owner goes on.
    pub position: Position,
}
