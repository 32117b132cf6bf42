//! What can go wrong between a caller and a bus.

use crate::{Epoch, Offset, ShardId, TopicPartition};

/// A bus operation that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No topic of this name.
    #[error("unknown topic {topic}")]
    UnknownTopic {
        /// The name asked for.
        topic: String,
    },
    /// The topic has no such partition.
    #[error("unknown partition {0}")]
    UnknownPartition(TopicPartition),
    /// A topic of this name exists, with other settings.
    #[error("topic {topic} exists with {partitions} partitions")]
    TopicExists {
        /// The name.
        topic: String,
        /// How many partitions it has.
        partitions: i32,
    },
    /// A topic cannot have so many partitions, or so few.
    #[error("{partitions} partitions, where 1 to {max} are possible")]
    Partitions {
        /// How many were asked for.
        partitions: i32,
        /// How many are possible.
        max: i32,
    },
    /// The name is not one that Kafka would take: 1 to 249 of `[a-zA-Z0-9._-]`, not `.` or `..`.
    #[error("topic name {topic:?} is not 1 to 249 characters of a-z, A-Z, 0-9, '.', '_', '-'")]
    TopicName {
        /// The name asked for.
        topic: String,
    },
    /// The record or batch is over the topic's limit.
    #[error("{bytes} bytes for {partition}, whose limit is {limit_bytes}")]
    TooLarge {
        /// Where it was to go.
        partition: TopicPartition,
        /// How large it is.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// A record without a key for a topic that keeps the newest record of each key.
    #[error("a record without a key for {0}, which is compacted by key")]
    NoKey(TopicPartition),
    /// The offset is below the partition's start (expired) or beyond its end.
    #[error("offset {offset} of {partition} is outside {start}..{end}")]
    OffsetOutOfRange {
        /// Which partition.
        partition: TopicPartition,
        /// What was asked for.
        offset: Offset,
        /// The first offset that is there.
        start: Offset,
        /// One past the last.
        end: Offset,
    },
    /// A commit or recovery from an assignment that is over. The caller must stop working on
    /// the shard.
    #[error("shard {shard}: epoch {presented} presented, but epoch {current} owns it")]
    Fenced {
        /// Whose.
        shard: ShardId,
        /// What the caller presented.
        presented: Epoch,
        /// The newest epoch the bus has seen.
        current: Epoch,
    },
    /// A commit would move a position back within its epoch, or beyond the partition's end.
    #[error("position {next} of {partition} is not between {from} and {end}")]
    Position {
        /// Which partition.
        partition: TopicPartition,
        /// The position presented.
        next: Offset,
        /// The committed position.
        from: Offset,
        /// The partition's end.
        end: Offset,
    },
    /// The disk is full: nothing was written. It may be tried again when there is room.
    #[error("the disk is full ({available_bytes} bytes left, {reserve_bytes} kept in reserve)")]
    DiskFull {
        /// What the file system has left.
        available_bytes: u64,
        /// What is kept back for outputs and dead letters.
        reserve_bytes: u64,
    },
    /// Too much is waiting to be written. It may be tried again.
    #[error("busy")]
    Busy,
    /// The bus is closed, or closing.
    #[error("the bus is closed")]
    Closed,
    /// Another process has the data directory.
    #[error("{dir} is in use by process {pid}")]
    InUse {
        /// The directory.
        dir: String,
        /// Who holds it, or "unknown".
        pid: String,
    },
    /// What is on disk is not what was written. Nothing is read from a damaged journal.
    #[error("the journal is damaged: {0}")]
    Corrupt(String),
    /// The operating system refused.
    #[error("{action}")]
    Io {
        /// What was tried.
        action: String,
        /// The system's account.
        #[source]
        source: std::io::Error,
    },
    /// The topic that a position belongs to was deleted, and another of its name was made. Nothing
    /// is read of the new one until somebody decides where from.
    #[error("topic {topic} was deleted and made again since shard {shard} read it")]
    TopicRecreated {
        /// The name.
        topic: String,
        /// Who read the one before.
        shard: ShardId,
    },
    /// The topic that a reader reads was deleted, and another of its name was made.
    #[error("topic {topic} was deleted and made again while it was read")]
    TopicReplaced {
        /// The name.
        topic: String,
    },
    /// The brokers do not answer. What was asked for may have happened; it may be tried again.
    #[error("{action}: the brokers do not answer ({reason})")]
    Unreachable {
        /// What was tried.
        action: &'static str,
        /// The client's account.
        reason: String,
    },
    /// The brokers refuse who we are. It may be tried again once they do not.
    #[error("{action}: the brokers refuse the credentials ({reason})")]
    Authentication {
        /// What was tried.
        action: &'static str,
        /// The client's account.
        reason: String,
    },
    /// A setting of the Kafka client that cannot be used.
    #[error("setting {key}: {reason}")]
    Setting {
        /// Which.
        key: String,
        /// Why not, and what to do instead.
        reason: String,
    },
    /// The brokers refused.
    #[error("{action}: {reason}")]
    Kafka {
        /// What was tried.
        action: &'static str,
        /// The brokers' account.
        reason: String,
    },
    /// The store of the positions refused.
    #[error("write the positions: {reason}")]
    PositionLog {
        /// The store's account.
        reason: String,
    },
    /// The journal's store refused.
    #[error("{action}: {reason}")]
    Journal {
        /// What was tried.
        action: &'static str,
        /// The store's account.
        reason: String,
    },
}

impl Error {
    /// Whether the same call may succeed later without anyone acting on the caller's side.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::DiskFull { .. }
                | Self::Busy
                | Self::Unreachable { .. }
                | Self::Authentication { .. }
                | Self::PositionLog { .. }
        )
    }

    /// Whether the caller's assignment is over.
    #[must_use]
    pub const fn is_fenced(&self) -> bool {
        matches!(self, Self::Fenced { .. })
    }
}
