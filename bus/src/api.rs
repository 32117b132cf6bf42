//! The traits of a bus, and the words of their calls. One conformance suite holds for every
//! implementation: `conformance`, with the feature `testing`.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Epoch, Error, Handed, Offset, Position, PositionKey, RecordBatch, ShardId, Timestamp,
    TopicPartition,
};

/// How long records stay. `None` = no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Records older than this may go (by the newest timestamp of their batch).
    pub age: Option<Duration>,
    /// Oldest records may go while a partition holds more than this many bytes.
    pub bytes: Option<u64>,
}

/// What becomes of a topic's older records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cleanup {
    /// They go by [`Retention`].
    #[default]
    Delete,
    /// The newest record of each key stays, for ever; one without a value is a tombstone, which
    /// goes with its key some time later. Offsets stay what they were, and so have gaps. Retention
    /// means nothing here.
    Compact,
}

/// What a topic is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// The name, by Kafka's rules.
    pub name: Arc<str>,
    /// How many partitions, at least 1.
    pub partitions: i32,
    /// How long records stay.
    pub retention: Retention,
    /// What becomes of older records.
    pub cleanup: Cleanup,
    /// The largest record, key and value and headers together. 1 MiB as on Kafka by default.
    pub record_bytes_max: usize,
}

impl TopicSpec {
    /// A topic with the default limits.
    pub fn new(name: impl Into<Arc<str>>, partitions: i32) -> Self {
        let retention = Retention::default();
        let cleanup = Cleanup::Delete;
        Self { name: name.into(), partitions, retention, cleanup, record_bytes_max: 1 << 20 }
    }

    /// The same, compacted.
    #[must_use]
    pub fn compacted(self) -> Self {
        Self { cleanup: Cleanup::Compact, ..self }
    }
}

/// A topic that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// What it was made with.
    pub spec: TopicSpec,
    /// Never reused: a topic deleted and made again has another.
    pub id: u64,
}

/// Where a partition starts and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// The first offset that is there.
    pub start: Offset,
    /// One past the last durable record: the high watermark.
    pub end: Offset,
    /// Bytes of the batches held.
    pub bytes: u64,
}

/// Where a trigger starts in a partition it has no position in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first record there is.
    Earliest,
    /// What is appended from now on.
    Latest,
    /// The first record stamped at or after this time.
    At(Timestamp),
}

/// A batch for one partition. The batch's own base offset is ignored: the bus assigns it.
#[derive(Clone, Debug)]
pub struct Append {
    /// Where to.
    pub to: TopicPartition,
    /// What.
    pub batch: RecordBatch,
}

/// Where an appended batch landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of its first record; the others follow without gaps.
    pub base: Offset,
}

/// A position to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PositionMove {
    /// The input partition.
    pub partition: TopicPartition,
    /// Its new position. The epoch inside is that of the commit.
    pub position: Position,
}

/// What a batch of work led to: all of it becomes durable and visible, or none.
#[derive(Clone, Debug)]
pub struct Commit {
    /// On whose behalf.
    pub shard: ShardId,
    /// The assignment that did the work.
    pub epoch: Epoch,
    /// Outputs, dead letters, parked records and state changes. In order per partition.
    pub appends: Vec<Append>,
    /// Tombstones of what the appends settle: never durable without them, and behind them.
    pub settles: Vec<Append>,
    /// Positions by input partition.
    pub positions: Vec<PositionMove>,
}

/// What [`Bus::recover`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Every position the shard ever committed, by partition.
    pub positions: Vec<(TopicPartition, Position)>,
}

/// A batch as it was read. Its first record is at or after the offset asked for.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Where it lies.
    pub partition: TopicPartition,
    /// The records, in offset order.
    pub batch: RecordBatch,
}

/// Reads assigned partitions from explicit offsets; made by [`Bus::reader`].
#[async_trait]
pub trait Reader: Send + Debug {
    /// Waits until an assigned partition has records, then returns up to about `bytes_max` of
    /// them, at least one batch, each partition's in offset order. Cancel safe: a dropped call
    /// loses nothing. Only durable records are seen.
    ///
    /// # Errors
    ///
    /// [`Error::OffsetOutOfRange`] when retention passed the reader or the offset lies beyond
    /// the end, [`Error::UnknownTopic`] when the topic was deleted, [`Error::Closed`].
    async fn fetch(&mut self, bytes_max: usize) -> Result<Vec<Fetched>, Error>;

    /// How many records of its partitions are there that it has not given, as far as it knows
    /// without asking anybody. A full prefetch asks for no more: then it is what was true when that
    /// filled.
    fn behind(&self) -> u64;
}

/// A bus: topics of partitioned records, and commits that tie appends to positions.
///
/// Rules, checked by `conformance` (feature `testing`) for every implementation:
///
/// - what was acknowledged is durable, and is read back byte for byte, in order, once;
/// - a commit is atomic: readers and [`recover`](Self::recover) see all of it or nothing;
/// - a commit of an epoch below the newest that recovered or committed is refused and writes
///   nothing;
/// - within an epoch a position's `next` never decreases, and it never passes the end.
#[async_trait]
pub trait Bus: Send + Sync + Debug {
    /// Makes a topic. Making one that exists with the same number of partitions returns it.
    ///
    /// # Errors
    ///
    /// [`Error::TopicExists`], [`Error::TopicName`], [`Error::DiskFull`].
    async fn create_topic(&self, spec: TopicSpec) -> Result<TopicInfo, Error>;

    /// Makes topics, as [`Bus::create_topic`] does each. Many at once can be much quicker.
    ///
    /// # Errors
    ///
    /// The name of one that could not be made, and why. Others may have been made.
    async fn create_topics(&self, specs: Vec<TopicSpec>) -> Result<(), (Arc<str>, Error)> {
        for spec in specs {
            let name = Arc::clone(&spec.name);
            self.create_topic(spec).await.map_err(|error| (name, error))?;
        }
        Ok(())
    }

    /// Deletes a topic and its records.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`].
    async fn delete_topic(&self, name: &str) -> Result<(), Error>;

    /// Every topic, by name.
    ///
    /// # Errors
    ///
    /// When the bus cannot be reached.
    async fn topics(&self) -> Result<Vec<TopicInfo>, Error>;

    /// The topic of this name, from memory: cheap enough to ask once per batch.
    fn topic(&self, name: &str) -> Option<TopicInfo>;

    /// Where a partition starts and ends.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    async fn watermarks(&self, partition: &TopicPartition) -> Result<Watermarks, Error>;

    /// The offset at which `start` lies now.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    async fn offset_for(&self, partition: &TopicPartition, start: Start) -> Result<Offset, Error>;

    /// Appends as a source does: durable when it returns, each call atomic.
    ///
    /// # Errors
    ///
    /// [`Error::DiskFull`] below the reserve, [`Error::TooLarge`], [`Error::UnknownTopic`],
    /// [`Error::UnknownPartition`], [`Error::Busy`], [`Error::Closed`].
    async fn append(&self, appends: Vec<Append>) -> Result<Vec<Appended>, Error>;

    /// The one commit: appends and positions as one. Where it can be durable in parts only, the
    /// appends come first, then what they settle, then the positions. Says where the appends lie.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`], [`Error::Position`], and those of [`append`](Self::append), though the
    /// reserve is open to it.
    async fn commit(&self, commit: Commit) -> Result<Vec<Appended>, Error>;

    /// Starts an assignment: from here on older epochs are fenced. Says where to go on, and hides
    /// which copy is the truth.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`] when a newer epoch was seen.
    async fn recover(&self, shard: ShardId, epoch: Epoch) -> Result<Recovered, Error>;

    /// Committed positions of every shard, for lag and retention; no assignment needed.
    ///
    /// # Errors
    ///
    /// When the bus cannot be reached.
    async fn positions(&self) -> Result<Vec<(PositionKey, Position)>, Error>;

    /// Where these shards would go on with their next owners, whoever owns them now: what is durable
    /// for anybody. No assignment needed.
    ///
    /// # Errors
    ///
    /// When the bus cannot be reached.
    async fn settled(&self, shards: &[ShardId]) -> Result<Vec<(PositionKey, Position)>, Error> {
        let mut all = self.positions().await?;
        all.retain(|(key, _)| shards.contains(&key.shard));
        Ok(all)
    }

    /// Forgets a shard: its positions and its epoch. For triggers that were removed.
    ///
    /// # Errors
    ///
    /// When the bus cannot be written.
    async fn forget_shard(&self, shard: ShardId) -> Result<(), Error>;

    /// Somebody else owns a shard at this epoch, or is about to: what older ones still have on their
    /// way is refused. Of a shard that was never recovered here nothing is on its way.
    fn fence(&self, _shard: ShardId, _epoch: Epoch) {}

    /// Whether the bus answers this node within so long. One that is a part of it always does.
    async fn answers(&self, _within: Duration) -> bool {
        true
    }

    /// Whether others may own shards of this bus too: then what they say there is looked at again
    /// and again, and after every pause of this process before anything is committed.
    fn share(&self, _is_shared: bool) {}

    /// Shards that have ended here are about to be owned by other nodes: makes durable for them
    /// what was committed, at once. A bus that is one node's alone has nothing to do.
    ///
    /// # Errors
    ///
    /// When the bus cannot be written: the next owners repeat what it does not know.
    async fn release(&self, _shards: &[ShardId]) -> Result<(), Error> {
        Ok(())
    }

    /// Where a shard stands that has ended here in order, for its next owner; `None` where only the
    /// bus can tell.
    fn handed(&self, _shard: ShardId, _ends: Epoch) -> Option<Handed> {
        None
    }

    /// Whether what an owner handed over is as far as what is durable for anybody, and nobody has
    /// owned the shard since.
    ///
    /// # Errors
    ///
    /// When the bus cannot be reached.
    async fn agrees(&self, _shard: ShardId, _handed: &Handed) -> Result<bool, Error> {
        Ok(false)
    }

    /// As [`recover`](Self::recover), from what the owner before handed over: nothing is asked for.
    /// Others learn of the assignment before anything is committed by it.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`], also when it is not the epoch right behind the one that was handed over.
    async fn take_over(
        &self,
        shard: ShardId,
        epoch: Epoch,
        _handed: &Handed,
    ) -> Result<Recovered, Error> {
        self.recover(shard, epoch).await
    }

    /// A reader of these partitions from these offsets.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::UnknownPartition`].
    async fn reader(
        &self,
        assigned: Vec<(TopicPartition, Offset)>,
    ) -> Result<Box<dyn Reader>, Error>;

    /// What keeps the whole bus from working at the moment, from memory: [`Error::Unreachable`] or
    /// [`Error::Authentication`]. What was asked for waits meanwhile.
    fn trouble(&self) -> Option<Error> {
        None
    }

    /// Stops admitting, finishes what was admitted and lets go of the files.
    async fn close(&self);
}

/// The node's own view of positions, quick to read and rebuilt from the bus if it is damaged.
/// storage/ implements it on sled; the binary hands it to the bus, which never knows storage/.
pub trait PositionLog: Send + Sync + Debug {
    /// Writes these positions as one atomic batch, durable when it returns. Blocks on the disk.
    /// A row that would move back within its epoch stays.
    ///
    /// # Errors
    ///
    /// The store's own.
    fn record(
        &self,
        moves: &[(PositionKey, Position)],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;

    /// Every row.
    ///
    /// # Errors
    ///
    /// The store's own.
    fn load(
        &self,
    ) -> Result<Vec<(PositionKey, Position)>, Box<dyn std::error::Error + Send + Sync>>;

    /// Drops every row, for a rebuild from the bus.
    ///
    /// # Errors
    ///
    /// The store's own.
    fn clear(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}
