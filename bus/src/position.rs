//! How far a partition has been settled by one shard: the position and its completion map.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Epoch, Offset, ShardId, TopicPartition};

/// One row: a partition, as one shard reads it. Two triggers on a topic have two rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PositionKey {
    /// Who reads.
    pub shard: ShardId,
    /// What is read.
    pub partition: TopicPartition,
}

impl fmt::Display for PositionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of shard {}", self.partition, self.shard)
    }
}

/// Where to go on, to the exact record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The assignment that committed last.
    pub epoch: Epoch,
    /// The next record to read: everything before it is settled. Kafka's committed offset.
    pub next: Offset,
    /// What was settled out of order, beyond `next`.
    pub completions: Completions,
    /// Records that may have ended the node of an assignment before, and run again.
    pub suspects: Option<Suspects>,
}

/// Records of which one may end the node that runs it. Committed before they run, so that whoever
/// owns the shard next knows what may have run when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspects {
    /// The first offset of them.
    pub from: Offset,
    /// One past the last.
    pub until: Offset,
    /// The number of the attempt that they run as, from 2.
    pub attempt: u32,
}

/// The completion map: settled offsets beyond a position, as ascending, disjoint, half-open
/// ranges `start..end`, none empty and none containing the position's `next`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completions(Vec<(Offset, Offset)>);

impl Completions {
    /// Takes ranges that are ascending and disjoint; empty ones are dropped, touching ones
    /// joined.
    ///
    /// # Panics
    ///
    /// When a range starts before the one before it ends.
    #[must_use]
    pub fn from_ranges(ranges: impl IntoIterator<Item = (Offset, Offset)>) -> Self {
        let mut joined: Vec<(Offset, Offset)> = Vec::new();
        for (start, end) in ranges {
            if end <= start {
                continue;
            }
            match joined.last_mut() {
                Some((_, last)) if *last == start => *last = end,
                Some((_, last)) => {
                    assert!(*last < start, "completion ranges ascend");
                    joined.push((start, end));
                }
                None => joined.push((start, end)),
            }
        }
        Self(joined)
    }

    /// The ranges, ascending.
    #[must_use]
    pub fn ranges(&self) -> &[(Offset, Offset)] {
        &self.0
    }

    /// Whether nothing was settled out of order.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many offsets the ranges span (gaps of the partition inside a range count too).
    #[must_use]
    pub fn span(&self) -> u64 {
        self.0.iter().map(|(start, end)| end.0.abs_diff(start.0)).sum()
    }

    /// Whether `offset` was settled.
    #[must_use]
    pub fn contains(&self, offset: Offset) -> bool {
        let after = self.0.partition_point(|(start, _)| *start <= offset);
        after > 0 && offset < self.0[after - 1].1
    }
}
